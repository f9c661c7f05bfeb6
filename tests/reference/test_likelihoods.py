"""The NumPyro likelihoods against SciPy and those of the library."""

import jax
import numpy as np
import numpyro
import pytest
from numpyro.infer.util import log_density
from scipy import stats

from ebmeta.reference import LIKELIHOODS, Rows, hierarchical_model


@pytest.mark.parametrize(
    ("name", "parameters", "y", "exact"),
    [
        ("normal", {"noise": 0.7}, 1.3, lambda e, n: stats.norm.logpdf(1.3, e, 0.7 / n**0.5)),
        (
            "normal",
            {"noise": 0.7, "center": 5.0, "unit": 2.0},
            1.3,
            lambda e, n: stats.norm.logpdf(1.3, 5 + 2 * e, 1.4 / n**0.5),
        ),
        (
            "student_t",
            {"noise": 0.7, "freedom": 4.0},
            1.3,
            lambda e, n: stats.t.logpdf(1.3, 4, e, 0.7 / n**0.5),
        ),
        ("bernoulli", {}, 1, lambda e, n: stats.bernoulli.logpmf(1, 1 / (1 + np.exp(-e)))),
        ("binomial", {}, 2, lambda e, n: stats.binom.logpmf(2, n, 1 / (1 + np.exp(-e)))),
        ("poisson", {}, 2, lambda e, n: stats.poisson.logpmf(2, n * np.exp(e))),
        ("negative_binomial", {"shape": 1.5}, 2, lambda e, n: stats.nbinom.logpmf(2, 1.5, 1.5 / (1.5 + n * np.exp(e)))),
    ],
)
def test_likelihoods(name, parameters, y, exact):
    eta, size = np.array([-0.4, 0.9, 0.2]), np.array([4.0, 2.0, 7.0])
    with jax.enable_x64(True):
        got = LIKELIHOODS[name].distribution(eta[:, None], size, **parameters).log_prob(y)
    np.testing.assert_allclose(got, exact(eta, size), rtol=1e-7)


def test_a_binomial_can_be_compiled():
    rows = Rows([0, 1, 1, 0], [0, 0, 1, 1], size=[2, 3, 4, 5])
    program = numpyro.handlers.seed(hierarchical_model(rows, "binomial"), 0)
    value = jax.jit(lambda mu: log_density(program, (), {}, {"w_loc": mu})[0])
    assert np.isfinite(value(np.full(1, 0.3, np.float32)))
