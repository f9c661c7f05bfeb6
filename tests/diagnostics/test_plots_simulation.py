"""Figures of simulation-based calibration draw its numbers."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from ebmeta.diagnostics import (
    SimulationCalibration,
    ecdf_difference,
    expected_coverage,
)

# figures ----------------------------------------------------------------------------------------------


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
