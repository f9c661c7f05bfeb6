"""Tables of coefficients, spreads and group effects."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ebmeta.mixed.fit import mixed_model
from ebmeta.mixed.tables import common_table, components, draws_table, effect_table, spread_table
from tests.mixed.worlds import engine_of, frame

SPREADS = pd.MultiIndex.from_tuples([("g", "sd(a)"), ("g", "sd(b)"), ("g", "cor(a, b)")], names=["factor", "component"])


def test_intervals_of_spreads_are_positive_and_those_of_correlations_below_1():
    """Components that are the parameters themselves have the errors of these."""
    at, errors = np.array([2.0, 0.1, 0.9]), np.array([0.5, 0.2, 0.3])
    found = spread_table(lambda a: pd.Series(a, index=SPREADS), at, np.diag(errors**2), 0.95)
    np.testing.assert_allclose(found["std_error"], errors, rtol=1e-6)
    z = 1.959963984540054
    np.testing.assert_allclose(found.iloc[0, 2:].astype(float), 2 * np.exp([-z * 0.25, z * 0.25]), rtol=1e-6)
    np.testing.assert_allclose(found.iloc[1, 2:].astype(float), [0.0, 0.1 + z * 0.2], rtol=1e-6)
    width = z * 0.3 / (1 - 0.81)
    np.testing.assert_allclose(
        found.iloc[2, 2:].astype(float), np.tanh(np.arctanh(0.9) + np.array([-width, width])), rtol=1e-6
    )


def test_components_are_named_by_factor_and_term():
    engine = engine_of("y ~ x + (1 + x | g)", frame())
    at = engine.start()
    found = components(engine.factors, engine.thetas(at), 2.0, {"sd": 2.0})
    covariance = engine.factors[0].covariance(at[:-1], 2.0)
    assert found[("g", "sd(x)")] == pytest.approx(np.sqrt(covariance[1, 1]))
    assert found[("g", "cor(Intercept, x)")] == pytest.approx(
        covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
    )
    assert found[("residual", "sd")] == 2.0


def test_tables_of_terms_and_groups():
    engine = engine_of("y ~ x + (1 + x | g)", frame())
    at = engine.start()
    estimate, effects = engine.estimate(at), engine.effects(at)
    covariance = engine.common_covariance(at)
    table = common_table(["Intercept", "x"], estimate.beta, covariance, 0.9)
    assert table.loc["x", "estimate"] == estimate.beta[1]
    reach = 1.6448536269514722 * np.sqrt(covariance[1, 1])
    np.testing.assert_allclose(
        table.loc["x", ["lower", "upper"]].astype(float), estimate.beta[1] + np.array([-reach, reach])
    )
    student = common_table(["Intercept", "x"], estimate.beta, covariance, 0.9, np.array([3.0, 4.0])).loc["x"]
    assert student["df"] == 4.0
    reach *= 2.131846786326649 / 1.6448536269514722
    np.testing.assert_allclose(student[["lower", "upper"]].astype(float), estimate.beta[1] + np.array([-reach, reach]))
    groups = effect_table(engine, effects, effects, 0.9)
    assert groups.index.names == ["factor", "group", "term"]
    place = engine.rows.groupings[0].labels.tolist().index("g03")
    assert groups.loc[("g", "g03", "x"), "mean"] == effects[0].mean[place, 1]
    assert groups.loc[("g", "g03", "x"), "sd"] == pytest.approx(np.sqrt(effects[0].covariance[place, 1, 1]))


def test_components_of_weighted_draws_have_their_moments_and_quantiles():
    rng = np.random.default_rng(0)
    values, weight = rng.normal(3.0, 0.5, 20_000), rng.uniform(size=20_000)
    series = [pd.Series([v], index=SPREADS[:1]) for v in values]
    found = draws_table(series, weight / weight.sum(), 0.9).iloc[0]
    np.testing.assert_allclose(found, [3.0, 0.5, 3 - 0.822, 3 + 0.822], atol=0.03)


def test_few_draws_have_quantiles_that_do_not_depend_on_their_direction():
    """Each draw stands in the middle of its weight, so that an interval of mirrored draws is mirrored."""
    values, weight = np.array([1.0, 2.0, 4.0, 8.0]), np.array([0.4, 0.2, 0.2, 0.2])
    found, mirrored = (
        draws_table([pd.Series([s * v], index=SPREADS[:1]) for v in values], weight, 0.5).iloc[0] for s in (1, -1)
    )
    np.testing.assert_allclose(found[["lower", "upper"]], [1 + 0.05 / 0.3, 4 + 0.05 / 0.2 * 4], rtol=1e-12)
    np.testing.assert_allclose(mirrored[["upper", "lower"]], -found[["lower", "upper"]], rtol=1e-12)


def test_a_spread_of_0_has_an_upper_end():
    found = spread_table(
        lambda a: pd.Series(np.abs(a), index=SPREADS[:2]), np.array([0.0, 2.0]), np.diag([0.04, 0.01]), 0.95
    )
    np.testing.assert_allclose(found.iloc[0].astype(float), [0.0, 0.2, 0.0, 1.96 * 0.2], rtol=1e-3)


def test_a_spread_next_to_one_of_a_far_larger_unit_has_an_error():
    """An intercept a hundred million from the data varies by as much, and the slope beside it by what it does."""
    rng = np.random.default_rng(0)
    group, x = np.repeat(np.arange(40), 8), rng.normal(size=320)
    own = rng.normal(size=(40, 2)) * [1.0, 0.5]
    y = 1 + x + own[group, 0] + own[group, 1] * x + rng.normal(size=320)
    near, far = (
        mixed_model("y ~ x + (1 + x | g)", pd.DataFrame({"y": y, "x": x + shift, "g": group})).variance_components
        for shift in (0.0, 1e8)
    )
    np.testing.assert_allclose(far.loc[("g", "sd(x)")], near.loc[("g", "sd(x)")], rtol=1e-4)
