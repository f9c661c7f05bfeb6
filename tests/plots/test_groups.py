"""Figures of mixed models: what is drawn is what the tables say."""

from __future__ import annotations

import numpy as np
import pytest

from ebmeta.mixed.fit import mixed_model
from ebmeta.plots.groups import caterpillar, group_lines, normal_quantiles, shrinkage
from tests.mixed.worlds import frame


@pytest.fixture(scope="module")
def data():
    return frame(num_groups=20).reset_index(drop=True)


@pytest.fixture(scope="module")
def fit(data):
    return mixed_model("y ~ x + (1 + x | g)", data)


def test_effects_are_drawn_in_order_with_their_intervals(fit):
    ax = caterpillar(fit, "x")
    found = fit.group_effects.xs("x", level="term").sort_values("mean")
    points, bars = ax.lines[0], ax.collections[0].get_segments()
    np.testing.assert_allclose(points.get_xdata(), found["mean"])
    np.testing.assert_allclose([[b[0][0], b[1][0]] for b in bars], found[["lower", "upper"]])
    assert [t.get_text() for t in ax.get_yticklabels()] == found.index.get_level_values("group").tolist()


def test_quantiles_of_effects(fit):
    points, line = normal_quantiles(fit).lines
    found = np.sort(fit.group_effects.xs("Intercept", level="term")["mean"])
    np.testing.assert_allclose(points.get_ydata(), found)
    np.testing.assert_allclose(line.get_ydata(), found.mean() + found.std() * points.get_xdata())
    assert points.get_xdata()[0] == pytest.approx(-1.9599640)


def test_open_circles_are_least_squares_and_filled_ones_the_model(data):
    fit = mixed_model("y ~ x + (1 + x | g)", data.assign(x=data["x"] - 2000))
    for k, term in enumerate(("Intercept", "x")):
        alone, pooled = shrinkage(fit, term).lines[:2]
        found = fit.group_effects.xs(term, level="term").sort_values("mean")["mean"].droplevel("factor")
        common = fit.fixed_effects.loc[term, "estimate"]
        np.testing.assert_allclose(pooled.get_xdata(), common + found)
        for group, value in zip(found.index, alone.get_xdata(), strict=True):
            own = data[data["g"] == group]
            X = np.column_stack([np.ones(len(own)), own["x"] - 2000])
            wanted = np.linalg.lstsq(X, own["y"], rcond=None)[0][k] if len(own) > 1 else np.nan
            assert value == pytest.approx(wanted, rel=1e-6, nan_ok=True)
    assert np.isnan(alone.get_xdata()).sum() == (data["g"].value_counts() == 1).sum() > 0


def test_shrinkage_is_of_one_factor(data):
    fit = mixed_model("y ~ 1 + (1 | g) + (1 | h)", data.assign(h=np.arange(len(data)) % 3))
    with pytest.raises(ValueError, match="fit: expected one grouping factor, got g, h"):
        shrinkage(fit)


def test_lines_of_groups_are_their_predictions(fit, data):
    ax = group_lines(fit, data, "x", num_groups=3)
    assert len(ax.lines) == 6
    first = data[data["g"] == data["g"][0]].sort_values("x")
    for values, lines in ((first["y"], ax.lines[::2]), (fit.predict(first)["mean"], ax.lines[1::2])):
        assert tuple(np.round(values, 6)) in {tuple(np.round(line.get_ydata(), 6)) for line in lines}
    nameless = data.assign(g=data["g"].where(data["g"] != data["g"][0]))
    assert len(group_lines(fit, nameless, "x", num_groups=100).lines) == 2 * nameless["g"].nunique()


def test_terms_factors_and_columns_are_checked(fit, data):
    with pytest.raises(ValueError, match="term: expected one of Intercept, x, got 'z'"):
        caterpillar(fit, "z")
    with pytest.raises(ValueError, match="factor: expected one of g, got 'h'"):
        normal_quantiles(fit, factor="h")
    with pytest.raises(ValueError, match="data: expected a column 'z', got y, x, w, g"):
        group_lines(fit, data, "z")
    with pytest.raises(ValueError, match="data: expected numbers in column 'y', got (object|str)"):
        group_lines(fit, data.assign(y="high"), "x")
    with pytest.raises(ValueError, match="fit: expected"):
        caterpillar(data)
