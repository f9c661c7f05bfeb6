"""Where ascents start again, and that no order of terms hides a maximum."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ebmeta import mixed_model
from ebmeta.random_effects.covariance import Factor
from ebmeta.random_effects.restarts import CLOSE, restarts


@pytest.mark.parametrize("seed", [12, 63, 69])
def test_the_order_of_terms_does_not_matter_where_a_spread_ends_at_0(seed):
    """Worlds without a spread of slopes, in which one order led to a lower maximum."""
    rng, group = np.random.default_rng(seed), np.repeat(np.arange(30), 8)
    x = rng.normal(size=240)
    y = rng.poisson(np.exp(0.4 + 0.5 * x + 0.6 * rng.normal(size=30)[group]))
    data = pd.DataFrame({"y": y, "x": x, "g": group})
    found = [
        mixed_model(f"y ~ x + ({terms} | g)", data, likelihood="poisson").log_likelihood
        for terms in ("1 + x", "0 + x + 1")
    ]
    assert found[0] == pytest.approx(found[1], abs=0.02)


def test_spreads_stay_and_correlations_are_those_named():
    z = np.random.default_rng(0).normal(size=(20, 3))
    factors = [Factor("g", ["a", "b", "c"], [3], z), Factor("h", ["d"], [1], z[:, :1])]
    at, little = np.array([0.6, 0.3, 0.5, 0.4, 0.0, 0.2, 0.0, 9.0]), np.zeros(8, dtype=bool)
    little[6] = True
    turned, *others = restarts(factors, at, little)
    np.testing.assert_array_equal(turned, [*at[:6], 0.1, 9.0])
    before = factors[0].lower(at[:6])
    for again, expected in zip(others, (0.0, CLOSE, -CLOSE), strict=True):
        lower = factors[0].lower(again[:6])
        covariance = lower @ lower.T
        spread = np.sqrt(np.diag(covariance))
        np.testing.assert_allclose(spread, np.linalg.norm(before, axis=1))
        least, largest = np.argsort(spread)[[0, -1]]
        assert covariance[least, largest] / spread[least] / spread[largest] == pytest.approx(expected)
        np.testing.assert_array_equal(again[6:], [0.1, 9.0])
