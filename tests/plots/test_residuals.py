"""Figures of residuals: what is drawn is what the table says, and the band holds what it says."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import special

from ebmeta.mixed.fit import mixed_model
from ebmeta.plots.residuals import _band, observed_against_fitted, residual_quantiles
from tests.mixed.worlds import frame


@pytest.fixture(scope="module")
def fit():
    return mixed_model("y ~ x + (1 + x | g)", frame(num_groups=20))


def test_labels_stand_against_their_means(fit):
    ax = observed_against_fitted(fit)
    points, line = ax.lines
    np.testing.assert_array_equal(points.get_xdata(), fit.residuals["fitted"])
    np.testing.assert_array_equal(points.get_ydata(), fit.residuals["label"])
    assert list(line.get_xdata()) == list(line.get_ydata())
    assert ax.get_ylabel() == "y"


def test_quantiles_are_sorted_against_normal_ones(fit):
    ax = residual_quantiles(fit)
    line, points = ax.lines
    values = np.sort(fit.residuals["quantile"])
    np.testing.assert_array_equal(points.get_ydata(), values)
    assert points.get_xdata()[0] == pytest.approx(special.ndtri(0.5 / len(values)))
    assert list(line.get_xdata()) == list(line.get_ydata())


def outside(y: np.ndarray) -> bool:
    """Return whether a point of the figure lies outside the band."""
    group = np.repeat(np.arange(30), 4)
    fit = mixed_model("y ~ 1 + (1 | g)", pd.DataFrame({"y": y, "g": group}))
    ax = residual_quantiles(fit)
    corners = ax.collections[0].get_paths()[0].vertices
    normal, values = (np.asarray(v) for v in ax.lines[1].get_data())
    low, high = (np.array([end(corners[corners[:, 0] == x, 1]) for x in normal]) for end in (np.min, np.max))
    return bool(((values < low) | (values > high)).any())


def test_the_band_is_left_by_five_sets_in_a_hundred_anywhere_along_it():
    """Of 2,000 sets of even numbers 60 to 140 leave it: so many that fewer or more do in 1 of 20,000 runs."""
    low, high = (special.ndtr(end) for end in _band(40))
    sets = np.sort(np.random.default_rng(1).random((2000, 40)), 1)
    left = (sets < low) | (sets > high)
    assert 60 <= left.any(1).sum() <= 140
    assert left[:, 0].any()
    assert left[:, -1].any()


def test_the_band_holds_normal_labels_and_not_skewed_ones():
    """Of 40 right models at most 6 leave the band: a band of 95% is left by more in 1 of 250 runs."""
    rng = np.random.default_rng(0)
    effects = rng.normal(size=30)[np.repeat(np.arange(30), 4)]
    assert sum(outside(effects + rng.normal(size=120)) for _ in range(40)) <= 6
    assert outside(effects + rng.exponential(size=120) ** 2)


def test_of_many_rows_some_are_drawn():
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"y": rng.normal(size=1500), "g": np.arange(1500) % 100})
    fit = mixed_model("y ~ 1 + (1 | g)", rows)
    assert len(residual_quantiles(fit).lines[1].get_ydata()) == 1000
    assert len(observed_against_fitted(fit).lines[0].get_ydata()) == 1000
