"""Effects in another basis, and of columns far from 0: a shift of a column next to an intercept changes nothing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import special

from ebmeta.mixed.fit import mixed_model
from ebmeta.mixed.tables import PREDICTED
from ebmeta.random_effects.effects import Effects

SHIFTS = (1e6, 2.0**27)


def test_moments_of_turned_effects_are_those_of_turned_draws():
    rng = np.random.default_rng(0)
    draws = rng.gamma(2.0, size=(1, 500, 2)) @ np.array([[1.0, 0.5], [0.0, 2.0]])
    basis = np.array([[2.0, -3.0], [0.0, 0.25]])

    def moments(values: np.ndarray) -> Effects:
        mean = values.mean(1)
        gap = values - mean[:, None]
        square, third = (np.einsum(s, *[gap] * n) / 500 for s, n in (("gsi,gsj->gij", 2), ("gsi,gsj,gsk->gijk", 3)))
        return Effects(mean, square, mean[..., None], mean + 1, third, np.array([0.25]))

    inner, wanted = moments(draws), moments(draws @ basis.T)
    found = inner.turned(basis)
    assert found.inner is inner
    assert found.silent is inner.silent
    for name in ("mean", "covariance", "third"):
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), rtol=1e-10)
    np.testing.assert_allclose(found.slope[..., 0], wanted.mean, rtol=1e-10)
    np.testing.assert_allclose(found.mode, (draws.mean(1) + 1) @ basis.T, rtol=1e-10)


@pytest.fixture(scope="module")
def data() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    g, x = np.repeat(np.arange(25), 8), rng.integers(-64, 64, 200) / 32  # which a shift leaves exact
    own = rng.normal(size=(25, 2)) * [0.6, 0.3]
    eta = 0.3 + 0.4 * x + own[g, 0] + own[g, 1] * x
    return pd.DataFrame(
        {
            "normal": eta + rng.normal(size=200),
            "poisson": rng.poisson(np.exp(eta)),
            "bernoulli": rng.binomial(1, special.expit(eta)),
            "zero_inflated_poisson": rng.poisson(np.exp(eta)) * (rng.random(200) < 0.7),
            "x": x,
            "g": g,
            "h": rng.integers(0, 6, 200),
        }
    )


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("likelihood", ["normal", "poisson", "bernoulli", "zero_inflated_poisson"])
def test_a_shift_of_a_column_changes_no_prediction(data, likelihood, shift):
    known = data["g"] < 23
    near, far = (data.assign(x=data["x"] + s) for s in (0.0, shift))
    fits = [mixed_model(f"{likelihood} ~ x + (x | g)", rows[known], likelihood) for rows in (near, far)]
    for groups in ("known", "typical", "new"):  # two groups are new, with labels
        ours, wanted = (
            fit.predict(rows, groups=groups)[list(PREDICTED)] for fit, rows in zip(fits[::-1], (far, near), strict=True)
        )
        np.testing.assert_allclose(ours, wanted, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(*(fit.residuals[["fitted", "pit"]] for fit in fits), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shift", SHIFTS)
def test_nor_of_crossed_factors_and_of_draws(data, shift):
    near, far = (data.assign(x=data["x"] + s) for s in (0.0, shift))
    ours, wanted = (mixed_model("normal ~ x + (x | g) + (1 | h)", rows).predict(rows) for rows in (far, near))
    np.testing.assert_allclose(ours, wanted, rtol=2e-5, atol=2e-5)
    alone = [mixed_model("normal ~ x + (1 | g)", rows).propagate(8) for rows in (far, near)]
    ours, wanted = (fit.predict(rows) for fit, rows in zip(alone, (far, near), strict=True))
    np.testing.assert_allclose(ours, wanted, rtol=2e-5, atol=2e-5)
