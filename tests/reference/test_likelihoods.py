"""The NumPyro likelihoods against SciPy, and against the table of likelihoods that they extend."""

import inspect

import jax
import numpy as np
import numpyro
import pytest
from builders import perturb
from numpyro.infer.util import log_density
from scipy import stats

from ebmeta.likelihood import LIKELIHOODS, Poisson
from ebmeta.reference import LIKELIHOODS as FORMS, Rows, hierarchical_model
from ebmeta.reference.likelihoods import learned_parameters


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
        (
            "log_normal",
            {"noise": 0.7, "center": 5.0, "unit": 2.0},
            1.3,
            lambda e, n: stats.lognorm.logpdf(1.3, 1.4 / n**0.5, scale=np.exp(5 + 2 * e)),
        ),
        (
            "gamma",
            {"shape": 1.5, "center": 0.5},
            1.3,
            lambda e, n: stats.gamma.logpdf(1.3, 1.5 * n, scale=np.exp(0.5 + e) / (1.5 * n)),
        ),
        (
            "zero_inflated_poisson",
            {"inflation": 0.3},
            0,
            lambda e, n: np.log(0.3 + 0.7 * stats.poisson.pmf(0, n * np.exp(e))),
        ),
        (
            "zero_inflated_negative_binomial",
            {"inflation": 0.3, "shape": 1.5},
            2,
            lambda e, n: np.log(0.7 * stats.nbinom.pmf(2, 1.5, 1.5 / (1.5 + n * np.exp(e)))),
        ),
        (
            "beta",
            {"precision": 4.0},
            0.3,
            lambda e, n: stats.beta.logpdf(0.3, 4 / (1 + np.exp(-e)), 4 / (1 + np.exp(e))),
        ),
        (
            "ordinal",
            {"gaps": np.array([1.5, 0.5])},
            1,
            lambda e, n: np.log(1 / (1 + np.exp(-e)) - 1 / (1 + np.exp(1.5 - e))),
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
        got = FORMS[name].distribution(eta[:, None], size, **parameters).log_prob(y)
    np.testing.assert_allclose(got, exact(eta, size), rtol=1e-7)


def test_a_binomial_can_be_compiled():
    rows = Rows([0, 1, 1, 0], [0, 0, 1, 1], size=[2, 3, 4, 5])
    program = numpyro.handlers.seed(hierarchical_model(rows, "binomial"), 0)
    value = jax.jit(lambda mu: log_density(program, (), {}, {"w_loc": mu})[0])
    assert np.isfinite(value(np.full(1, 0.3, np.float32)))


@pytest.mark.parametrize("bits", [False, True])
def test_successes_can_be_drawn_in_either_precision(bits):
    eta, size = np.array([-9.0, 0.0, 9.0]), np.array([4.0, 2.0, 7.0])
    with jax.enable_x64(bits):
        drawn = FORMS["binomial"].distribution(eta[:, None], size).sample(jax.random.PRNGKey(0), (50,))
        assert (drawn >= 0).all()
        assert drawn.max(0).tolist() == [0, 2, 7]  # false alarms: 50 * 11 chances of 1e-4


#: Likelihoods without a NumPyro form, and why.
WITHOUT = {"normal_per_task": "a latent level of each task, which the samplers do not have"}


def test_every_likelihood_has_a_form_or_a_reason():
    assert FORMS.keys() | WITHOUT.keys() == LIKELIHOODS.keys()
    assert not FORMS.keys() & WITHOUT.keys()


@pytest.mark.parametrize("name", FORMS)
def test_a_form_takes_what_the_likelihood_has_learned(name):
    likelihood, form = LIKELIHOODS[name](), FORMS[name]
    perturb(likelihood)
    assert form.categorical == likelihood.categorical
    learned = learned_parameters(likelihood)
    taken = set(inspect.signature(form.distribution).parameters) - {"eta", "size", "way_mask"}
    assert learned.keys() == taken
    assert form.hyperpriors([0, 1, 2]).keys() == taken - {"center", "unit"}
    assert all(isinstance(value, np.ndarray if name == "gaps" else float) for name, value in learned.items())


def test_learned_values_are_those_of_the_formulas():
    likelihood = LIKELIHOODS["student_t"](noise=0.5, freedom=4.0)
    likelihood.center.fill_(3.0)
    likelihood.unit.fill_(2.0)
    assert learned_parameters(likelihood) == pytest.approx({"noise": 0.5, "center": 3.0, "unit": 2.0, "freedom": 4.0})
    assert learned_parameters(LIKELIHOODS["negative_binomial"](shape=5.0)) == pytest.approx({"shape": 5.0})
    assert learned_parameters(LIKELIHOODS["poisson"]()) == {}
    with pytest.raises(ValueError, match="likelihood: expected one of"):
        learned_parameters(LIKELIHOODS["normal_per_task"]())


def test_a_density_goes_by_its_own_name():
    """NUTS drew under the density of the class above."""

    class Doubled(Poisson):
        def log_prob(self, y, eta, way_mask, given=None):
            return 2 * super().log_prob(y, eta, way_mask, given)

    class Named(Doubled):
        name = "doubled"

    class Stricter(Poisson):
        def check(self, name, y, mask, size):
            super().check(name, y, mask, size)

    assert learned_parameters(Stricter()) == {}
    said = (
        "likelihood: expected a name and a NumPyro form for the density of Doubled, got the name 'poisson' of Poisson"
    )
    with pytest.raises(ValueError, match=said):
        learned_parameters(Doubled())
    with pytest.raises(ValueError, match="likelihood: expected one of .*, got 'doubled'"):
        learned_parameters(Named())
