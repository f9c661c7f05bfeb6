"""Tests of spreads against 0."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ebmeta.mixed.fit import mixed_model
from ebmeta.random_effects.boundary import boundary_tests
from tests.mixed.worlds import engine_of, frame


def test_a_ratio_is_that_of_two_fits_and_its_p_value_that_of_the_mixture():
    data = frame(num_groups=8)
    spreads = pd.DataFrame(
        {"estimate": 1.0, "std_error": 1.0},
        index=pd.MultiIndex.from_tuples([("g", "sd(Intercept)"), ("g", "sd(x)")]),
    )
    full = engine_of("y ~ x + (1 + x | g)", data, hyperprior=True)
    found = boundary_tests(full, full.maximise(), spreads)[1]
    values = [engine_of(f"y ~ x + ({terms} | g)", data).maximise().value for terms in ("1", "1 + x")]
    assert found.gain == pytest.approx(values[0] - values[1], abs=1e-5)
    ratio = 2 * found.gain
    assert found.p_value == pytest.approx((stats.chi2.sf(ratio, 1) + stats.chi2.sf(ratio, 2)) / 2)
    alone = engine_of("y ~ x + (1 | g)", data)
    one = boundary_tests(alone, alone.maximise(), spreads[:1])[0]
    assert one.p_value == pytest.approx(stats.chi2.sf(2 * one.gain, 1) / 2)


def test_a_spread_far_from_0_needs_no_test():
    found = mixed_model("y ~ x + (1 | g)", frame(num_groups=200)).boundary
    assert [(t.term, t.gain, t.p_value) for t in found] == [("Intercept", np.inf, 0.0)]


def test_the_false_alarms_are_as_many_as_promised():
    """Of 200 fits without a spread, about 10 have p < .05: 2 to 21 but for one run in a thousand."""
    rng, alarms = np.random.default_rng(0), 0
    g = np.repeat(np.arange(20), 5)
    for _ in range(200):
        fit = mixed_model("y ~ 1 + (1 | g)", pd.DataFrame({"y": rng.normal(size=100), "g": g}))
        alarms += fit.boundary[0].p_value < 0.05
    assert stats.binom.ppf(0.0005, 200, 0.05) <= alarms <= stats.binom.ppf(0.9995, 200, 0.05)
