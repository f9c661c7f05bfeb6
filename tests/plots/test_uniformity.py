"""Figures of numbers that ought to be uniform draw those that are given."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from ebmeta.diagnostics import SimulationCalibration
from ebmeta.plots import ecdf_difference, expected_coverage, pit_histogram


def test_histograms_count_tenths_over_tasks():
    u = np.array([[0.05, 0.15, 0.15, np.nan], [0.05, 1.0, np.nan, np.nan]])
    ax = pit_histogram(u)
    heights = np.array([bar.get_height() for bar in ax.patches])
    np.testing.assert_allclose(heights, [0.4, 0.4, *[0] * 7, 0.2], atol=1e-12)
    (bars,) = ax.collections
    widths = np.array([np.ptp(segment[:, 1]) for segment in bars.get_segments()])
    share = np.zeros((2, 10))
    share[0, :2], share[1, 0], share[1, 9] = (1, 2), 1, 1
    error = (share - heights * np.array([[3], [2]])).std(0, ddof=1) * np.sqrt(2) / 5
    np.testing.assert_allclose(widths, 2 * 1.959964 * error, rtol=1e-6)
    with pytest.raises(ValueError, match="u: expected numbers from 0 to 1, or NaN for padding, got others"):
        pit_histogram(u + 1)


def test_figures_draw_the_numbers():
    u = np.stack([np.linspace(0.005, 0.995, 100), np.linspace(0, 1, 100) ** 2])
    coords = {"quantity": ["weight 0", "region"], "kind": ("quantity", ["weight", "region"]), "task": np.arange(100)}
    found = SimulationCalibration(xr.DataArray(u, coords, ("quantity", "task")))
    ax = ecdf_difference(found)
    lines = {line.get_label(): line for line in ax.lines}
    x, y = lines["region"].get_data()
    np.testing.assert_allclose(y, np.searchsorted(u[1], x, side="right") / 100 - x)
    assert ecdf_difference(found, ["region"], ax=ax) is ax
    x, y = expected_coverage(found).lines[1].get_data()
    np.testing.assert_allclose(y, found.coverage(x))
    with pytest.raises(ValueError, match="quantities: expected some of .*, got 'weight 7'"):
        ecdf_difference(found, ["weight 7"])
    with pytest.raises(ValueError, match="found: expected a SimulationCalibration, got Dataset"):
        expected_coverage(found.table)
