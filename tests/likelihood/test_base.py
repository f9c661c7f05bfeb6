"""Likelihoods and the Gaussian-softmax integral against quadrature, integration and sampling."""

from __future__ import annotations

import pytest
import torch
from builders import close, generator

from ebmeta.likelihood import LIKELIHOODS, Categorical, Normal, ScalarLikelihood


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def logits(ways, tasks=2, queries=5, scale=1.5, seed=0):
    loc = scale * normal(tasks, queries, ways, seed=seed)
    var = normal(tasks, queries, ways, seed=seed + 1).square()
    return loc, var, torch.ones(tasks, ways, dtype=torch.bool)


def test_statistics():
    y = torch.tensor([[2, 0]])
    assert Categorical().statistic(y, 3).tolist() == [[[0, 0, 1], [1, 0, 0]]]
    assert Normal().statistic(torch.tensor([[2.5, -1.0]]), 1).tolist() == [[[2.5], [-1.0]]]


@pytest.mark.parametrize("name", ["categorical", "normal"])
def test_every_likelihood_is_an_exponential_family(name):
    """Check the gradient of the log likelihood against its definition: (T(y) - A'(eta)) / dispersion."""
    likelihood = LIKELIHOODS[name]().double()
    if name == "normal":
        likelihood.log_noise.data.fill_(-0.4)
    ways = 4 if likelihood.categorical else 1
    eta, _, mask = logits(ways)
    y = torch.randint(ways, (2, 5), generator=generator(3)) if likelihood.categorical else normal(2, 5, seed=3)
    eta.requires_grad_(True)
    (gradient,) = torch.autograd.grad(likelihood.log_prob(y, eta, mask).sum(), eta)
    mean, curvature = likelihood.moments(eta, torch.zeros_like(eta), mask)
    close(gradient, (likelihood.statistic(y, ways) - mean) / likelihood.dispersion())
    (second,) = torch.autograd.grad(mean.sum(), eta, create_graph=True)  # columns of A'' sum to d mean / d eta
    close(second, torch.zeros_like(second) if likelihood.categorical else curvature)


#: What each likelihood of the table can do: class labels, probabilities and no densities, a cdf, a noise.
CAPABILITIES = {
    "categorical": (True, True, False, False),
    "normal": (False, False, True, True),
    "normal_per_task": (False, False, True, True),
    "student_t": (False, False, True, True),
    "log_normal": (False, False, True, True),
    "gamma": (False, False, True, False),
    "beta": (False, False, True, False),
    "ordinal": (False, True, True, False),
    "zero_inflated_poisson": (False, True, True, False),
    "zero_inflated_negative_binomial": (False, True, True, False),
    "bernoulli": (False, True, True, False),
    "binomial": (False, True, True, False),
    "poisson": (False, True, True, False),
    "negative_binomial": (False, True, True, False),
}


def test_every_likelihood_states_what_it_can_do():
    assert CAPABILITIES.keys() == LIKELIHOODS.keys()
    for name, wanted in CAPABILITIES.items():
        made = LIKELIHOODS[name]()
        noise = made.log_sigma is not None
        assert (made.categorical, made.discrete, made.has_cdf, noise) == wanted, name
        assert made.located == noise, name
        assert (made.center.item(), made.unit.item()) == (0.0, 1.0)
        kept = {"center", "unit"} & set(made.state_dict())  # what training measures; one of means has no unit
        assert kept == ({"center", "unit"} if noise else {"center"} if name == "gamma" else set()), name


def test_a_cdf_of_your_own_is_a_capability():
    class Plain(ScalarLikelihood):
        name = "plain"

    class Reached(Plain):
        def cdf(self, y, eta, given=None):
            return torch.zeros_like(eta)

    class Hidden(Reached):
        has_cdf = False

        def cdf(self, y, eta, given=None):
            return super().cdf(y, eta, given)

    assert [c.has_cdf for c in (Plain, Reached, type("Below", (Reached,), {}), Hidden)] == [False, True, True, False]


def test_numbers_are_not_asked_of_classes():
    loc, ask = normal(2, 5, 3), Categorical()
    for what, call in (
        ("mean", lambda: ask.mean(loc)),
        ("variance", lambda: ask.variance(loc)),
        ("cdf", lambda: ask.predictive_cdf(loc, loc, loc)),
    ):
        with pytest.raises(ValueError, match=f"{what}: expected labels that are numbers, got a categorical likelihood"):
            call()


def test_known_noise_is_not_learned():
    likelihood = Normal()
    assert likelihood.log_sigma is likelihood.log_noise
    assert likelihood.log_noise.requires_grad
    assert not likelihood.known
    known = Normal(known=True)
    assert known.known
    assert not known.log_sigma.requires_grad
