"""Proportions and inputs of the joint model have the densities and the draws of Pyro's own distributions."""

from __future__ import annotations

import torch
from builders import close, generator
from torch.distributions import Categorical, Dirichlet, Independent, MixtureSameFamily, Normal

from ebmeta.parts.class_inputs import ClassInputs, ClassProportions

SPREAD = torch.tensor(0.6, dtype=torch.float64)


def means(tasks=2, ways=3, size=4) -> torch.Tensor:
    return torch.randn(tasks, ways, size, generator=generator(0), dtype=torch.float64)


def shares() -> torch.Tensor:
    return torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.4, 0.0]], dtype=torch.float64)


def test_proportions_have_the_density_of_dirichlet():
    a = torch.tensor([[2.0, 0.7, 3.0], [1.0, 4.0, 0.0]], dtype=torch.float64)
    got = ClassProportions(a).log_prob(shares())
    close(got[0], Dirichlet(a[0]).log_prob(shares()[0]))
    close(got[1], Dirichlet(a[1, :2]).log_prob(shares()[1, :2]))
    swapped = ClassProportions(a).log_prob(shares().flip(0))  # a share of a class that does not exist
    close(swapped[0], Dirichlet(a[0]).log_prob(shares()[1].clamp(min=torch.finfo(a.dtype).tiny)))
    assert float(swapped[1]) == -torch.inf


def test_draws_of_proportions_have_the_moments_of_dirichlet():
    """Ten numbers within 5 standard errors: a false alarm in 1 of 170,000 runs."""
    a = torch.tensor([[2.0, 0.7, 3.0], [1.0, 4.0, 0.0]], dtype=torch.float64)
    torch.manual_seed(0)
    drawn = ClassProportions(a).sample((20_000,))
    assert torch.equal(drawn[:, 1, 2], torch.zeros(20_000, dtype=torch.float64))
    close(drawn.sum(-1), torch.ones(20_000, 2, dtype=torch.float64))
    for t, ways in enumerate((3, 2)):
        law = Dirichlet(a[t, :ways])
        off = drawn[:, t, :ways] - law.mean
        assert bool((off.mean(0).abs() < 5 * (law.variance / 20_000).sqrt()).all())
        error = (off.pow(4).mean(0) / 20_000).sqrt()
        assert bool(((off.square().mean(0) - law.variance).abs() < 5 * error).all())


def test_tiny_concentrations_draw_finite_proportions():
    torch.manual_seed(0)
    drawn = ClassProportions(torch.full((1, 4), 1e-3)).sample((1000,))
    assert bool(drawn.isfinite().all())
    close(drawn.sum(-1), torch.ones(1000, 1), 1e-6)


def test_inputs_of_unknown_classes_have_the_density_of_a_mixture():
    m, pi = means(), shares()
    x = torch.randn(2, 5, 4, generator=generator(1), dtype=torch.float64)
    mask = torch.tensor([[True] * 5, [True, True, True, False, False]])
    got = ClassInputs(m, pi, SPREAD, mask, None).log_prob(x)
    for t, ways in enumerate((3, 2)):
        parts = Independent(Normal(m[t, :ways], SPREAD.sqrt()), 1)
        each = MixtureSameFamily(Categorical(pi[t, :ways]), parts).log_prob(x[t])
        close(got[t], each[mask[t]].sum())


def test_inputs_of_known_classes_have_the_density_of_their_class():
    m, y = means(), torch.tensor([[0, 2, 1], [1, 0, 1]])
    x = torch.randn(2, 3, 4, generator=generator(1), dtype=torch.float64)
    got = ClassInputs(m, shares(), SPREAD, torch.ones(2, 3, dtype=torch.bool), y).log_prob(x)
    own = torch.stack([m[t, y[t]] for t in (0, 1)])
    close(got, Normal(own, SPREAD.sqrt()).log_prob(x).sum((1, 2)))


def test_draws_of_inputs_lie_about_the_means_of_their_classes():
    """Per task and feature, mean and variance within 5 standard errors: a false alarm in 1 of 100,000 runs."""
    m, number = means(), 20_000
    mask = torch.ones(2, number, dtype=torch.bool)
    torch.manual_seed(0)
    drawn = ClassInputs(m, shares(), SPREAD, mask, None).sample()
    mean = (shares().unsqueeze(-1) * m).sum(1)
    second = (shares().unsqueeze(-1) * (m - mean.unsqueeze(1)).square()).sum(1) + SPREAD
    off = drawn - mean.unsqueeze(1)
    assert bool((off.mean(1).abs() < 5 * (second / number).sqrt()).all())
    assert bool(((off.square().mean(1) - second).abs() < 5 * (off.pow(4).mean(1) / number).sqrt()).all())
    y = torch.ones(2, number, dtype=torch.long)
    close(ClassInputs(m, shares(), SPREAD, mask, y).sample().mean(1), m[:, 1], 5 * (0.6 / number) ** 0.5)


def test_draws_of_proportions_have_the_gradient_of_their_mean():
    """d E[pi_0] / d a = (1, 0, ...) / A - a_0 / A^2 of the classes that exist; 100,000 draws, 5 standard errors."""
    a = torch.tensor([[2.0, 0.7, 3.0], [1.0, 4.0, 0.0]], dtype=torch.float64, requires_grad=True)
    torch.manual_seed(0)
    drawn = ClassProportions(a.expand(100_000, 2, 3)).rsample()
    each = torch.autograd.grad(drawn[..., 0].sum(), a, retain_graph=True)[0] / 100_000
    total, value = a.detach().sum(-1, keepdim=True), a.detach()
    want = torch.where(value > 0, -value[:, :1] / total**2, 0.0)
    want[:, 0] += 1 / total[:, 0]
    assert torch.equal(each[1, 2], torch.zeros((), dtype=torch.float64))
    close(each, want, 0.005)


def test_the_support_is_of_classes_that_exist():
    law = ClassProportions(torch.tensor([[2.0, 0.7, 3.0], [1.0, 4.0, 0.0]], dtype=torch.float64))
    assert law.support.check(shares()).tolist() == [True, True]
    assert law.support.check(shares().flip(0)).tolist() == [True, False]
