"""The evidence of labels that are not normal is that of quadrature, wherever the fit ends, and says where none ends."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import integrate, special, stats

import ebmeta
from ebmeta.training.evidence import Evidence
from ebmeta.training.group_evidence import even_noise, group_evidence
from ebmeta.training.objective import importance_bound

TRIALS = 6
RNG = np.random.default_rng(0)
SPREAD = RNG.normal(0, 1.5, 15).repeat(3)
SIZE = {"binomial": 10.0, "poisson": 2.0, "bernoulli": 1.0}


def of_groups(ones: list[int]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return labels of groups with so many ones among six, and the group of each."""
    y = np.concatenate([np.r_[np.ones(k), np.zeros(TRIALS - k)] for k in ones])
    return y, np.repeat(np.arange(len(ones)), TRIALS)


def of_rows(y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return labels, and groups of three rows each."""
    return y, np.repeat(np.arange(len(y) // 3), 3)


ORDINARY = {
    "bernoulli": of_groups([2, 3, 1, 4, 3, 2, 5, 1, 0] * 3),
    "binomial": of_rows(RNG.binomial(10, special.expit(SPREAD)).astype(float)),
    "poisson": of_rows(RNG.poisson(2 * np.exp(SPREAD)).astype(float)),
}
FAR = {
    "all or none": ("bernoulli", of_groups([0] * 10 + [TRIALS] * 20)),
    "nearly all or none": ("bernoulli", of_groups([0] * 6 + [3] + [TRIALS] * 6)),
    "all trials or none": ("binomial", of_rows(np.r_[np.zeros(18), np.full(18, 10.0)])),
    "nothing or much": ("poisson", of_rows(np.r_[np.zeros(30), RNG.poisson(40, 30).astype(float)])),
}


def fitted(
    likelihood: str, y: NDArray[np.float64], group: NDArray[np.int64], hyperprior: bool = False
) -> tuple[ebmeta.EvidenceFit, float]:
    """Return the fit of an intercept for each group, and its evidence by quadrature over the intercept."""
    size = np.full(len(y), SIZE[likelihood])
    given = None if likelihood == "bernoulli" else size
    tasks = ebmeta.GroupSampler(np.zeros((len(y), 0)), y, group, n_support=(0, 1), size=given)
    model = ebmeta.EmpiricalBayes.regressor(0, likelihood, num_steps=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = ebmeta.fit_evidence(model, tasks, hyperprior=hyperprior, boundary=False)
    loc, scale = float(model.prior.loc.detach()), float(fit.scales)
    return fit, sum(log_evidence(likelihood, y[group == g], size[group == g], loc, scale) for g in np.unique(group))


def log_evidence(likelihood: str, y: NDArray[np.float64], size: NDArray[np.float64], loc: float, scale: float) -> float:
    """Return the log evidence of a group in nats by adaptive quadrature between points around its peak."""

    def log_density(z: float) -> float:
        eta = loc + scale * z
        if likelihood == "poisson":
            found = stats.poisson.logpmf(y, size * np.exp(min(eta, 300.0)))
        else:
            found = y * special.log_expit(eta) + (size - y) * special.log_expit(-eta)
            found = found + (special.gammaln(size + 1) - special.gammaln(y + 1) - special.gammaln(size - y + 1))
        return float(found.sum() + stats.norm.logpdf(z))

    grid = np.linspace(-9, 9, 2001)
    values = np.array([log_density(z) for z in grid])
    peak = float(values.max())
    high = grid[values > peak - 40]
    area = integrate.quad(
        lambda z: np.exp(log_density(z) - peak),
        high[0] - 0.01,
        high[-1] + 0.01,
        points=[grid[values.argmax()]],
        limit=500,
    )[0]
    return peak + float(np.log(area))


@pytest.mark.parametrize("likelihood", list(ORDINARY))
def test_the_evidence_of_ordinary_groups_is_that_of_quadrature(likelihood) -> None:
    fit, exact = fitted(likelihood, *ORDINARY[likelihood])
    assert fit.log_evidence == pytest.approx(exact, abs=0.1)
    assert fit.notes == ()
    assert fit.converged


@pytest.mark.parametrize("hyperprior", [False, True])
@pytest.mark.parametrize("name", list(FAR))
def test_the_evidence_of_groups_far_apart_is_that_of_quadrature(name, hyperprior) -> None:
    likelihood, (y, group) = FAR[name]
    fit, exact = fitted(likelihood, y, group, hyperprior)
    assert fit.log_evidence == pytest.approx(exact, abs=0.25)
    assert not any("not reliable" in note for note in fit.notes)
    separated = name != "nothing or much"
    assert any(note.startswith("intercept runs off") for note in fit.notes) == separated
    assert fit.converged != separated


def test_labels_alike_within_every_group_are_said_to_be() -> None:
    cases = [("bernoulli", of_groups([0, 6, 0]), True), ("bernoulli", of_groups([0, 6, 5]), False)]
    cases += [("binomial", (np.array([0.0, 10.0]), np.arange(2)), True)]
    for likelihood, (y, group), expected in cases:
        fit, _ = fitted(likelihood, y, group)
        assert any(note.startswith("labels never vary within a group") for note in fit.notes) == expected
    y, group = of_groups([0, TRIALS] * 4)
    tasks = ebmeta.GroupSampler(np.zeros((len(y), 0)), y, group, n_support=1)
    model = ebmeta.EmpiricalBayes.regressor(0, "bernoulli", num_steps=0)
    with pytest.warns(UserWarning, match=r"fit: labels never vary within a group \(8 groups"):
        ebmeta.fit(model, tasks, num_iterations=1, progress=False)


def test_the_largest_evidence_is_not_missed() -> None:
    """Of groups of all or none it is half for each group, where the spread goes to infinity."""
    fit, _ = fitted("bernoulli", *of_groups([0, TRIALS] * 4))
    assert fit.log_evidence > 8 * np.log(0.5) - 2


def test_no_probability_of_counts_is_above_one() -> None:
    y, group = of_groups([TRIALS, 0] * 20)
    tasks = ebmeta.GroupSampler(np.zeros((len(y), 0)), y, group, n_support=1)
    model = ebmeta.EmpiricalBayes.regressor(0, "bernoulli", num_steps=0).double()
    model.prior.log_scale.data += 3.0
    (part,) = Evidence(model, tasks, hyperprior=False).parts
    shift = torch.from_numpy(np.random.default_rng(0).random((len(part), 2, 1)))
    noise = even_noise(1, shift)
    inferred, pooled = model.infer(part.pooled(), 0), part.pooled()
    assert bool((importance_bound(inferred, pooled, noise) > 0).any())
    assert bool((group_evidence(model, part, noise) <= 0).all())


def test_other_draws_find_the_same_evidence() -> None:
    """Draws of other seeds give the same evidence, that of quadrature."""
    y, group = ORDINARY["bernoulli"]
    tasks = ebmeta.GroupSampler(np.zeros((len(y), 0)), y, group, n_support=1)
    model = ebmeta.EmpiricalBayes.regressor(0, "bernoulli", num_steps=0).double()
    evidence = Evidence(model, tasks, hyperprior=False)
    exact = sum(log_evidence("bernoulli", y[group == g], np.ones(TRIALS), 0.0, 1.0) for g in np.unique(group))
    model.prior.loc.data.zero_()
    model.prior.log_scale.data.zero_()
    assert evidence.log_evidence().item() == pytest.approx(exact, abs=0.05)
    assert evidence.log_evidence(seed=5).item() == pytest.approx(exact, abs=0.05)
    assert evidence.log_evidence(seed=5).item() != evidence.log_evidence().item()


def test_even_draws_lie_evenly() -> None:
    shift = torch.from_numpy(np.random.default_rng(0).random((4, 2, 3)))
    noise = even_noise(33, shift)
    assert noise.shape == (33, 4, 1, 3)
    for half in (noise[:17], noise[17:]):
        probability = torch.special.ndtr(half).sort(0).values
        assert float((probability.mean(0) - 0.5).abs().max()) < 0.1
        assert float(probability.diff(dim=0).max()) < 0.2
