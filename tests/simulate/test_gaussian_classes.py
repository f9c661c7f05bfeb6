"""The simulated classes' exact answers, checked by the joint normal density and by draws."""

import math

import numpy as np
import pytest
import torch
from builders import close
from scipy import stats

from ebmeta.simulate.gaussian_classes import GaussianClasses


def test_draws_have_the_stated_moments():
    """20,000 tasks: means and variances within 5 standard errors, false alarms below 1e-5."""
    family = GaussianClasses(2, between=4.0, within=0.5, concentration=2.0, n_way=3, n_shot=2, n_query=3)
    batch, w = family.simulate(20_000)
    means, x = w[..., :-1] * 0.5, batch.support_x.double()
    assert w.shape == (20_000, 3, 3)
    close(means.square().mean(), torch.tensor(4.0).double(), 5 * 4 * (2 / means.numel()) ** 0.5)
    own = means.gather(1, batch.support_y.unsqueeze(-1).expand(-1, -1, 2))
    close((x - own).square().mean(), torch.tensor(0.5).double(), 5 * 0.5 * (2 / x.numel()) ** 0.5)
    shares = (w[..., -1] + means.square().sum(-1) / (2 * 0.5)).exp()
    close(shares.sum(1), torch.ones(20_000, dtype=torch.float64))
    drawn = torch.nn.functional.one_hot(batch.query_y, 3).double().mean(1)
    assert float((drawn - shares).mean(0).abs().max()) < 5 * (0.25 / 60_000) ** 0.5
    spread = shares.var(0).mean()  # of a Dirichlet: (1/3)(2/3) / 7
    close(spread, torch.tensor(2 / 63).double(), 0.05)
    assert batch.concentration.tolist() == [2.0] * 20_000


def test_infinite_concentration_gives_equal_numbers():
    batch = GaussianClasses(1, n_way=3, n_query=7).sample(50)
    counts = torch.nn.functional.one_hot(batch.query_y, 3).sum(1)
    assert bool(((counts == 2) | (counts == 3)).all())
    assert len(counts.unique(dim=0)) == 3
    assert bool(batch.concentration.isinf().all())


@pytest.mark.parametrize("concentration", [2.0, math.inf])
def test_the_sum_over_labellings_is_that_of_joint_normal_densities(concentration):
    family = GaussianClasses(2, 3.0, 0.7, concentration, n_way=2, n_shot=2, n_query=2)
    batch = family.sample(2)
    evidence, probs = family.exact(batch)
    for t in range(2):
        x = torch.cat([batch.support_x[t], batch.query_x[t]]).double().numpy()

        def density(labels, t=t, x=x):
            same = np.equal.outer(labels, labels)
            covariance = 3.0 * same + 0.7 * np.eye(len(labels))
            return math.prod(stats.multivariate_normal.pdf(x[: len(labels), d], cov=covariance) for d in range(2))

        support = batch.support_y[t].numpy()
        total = {}
        for first in range(2):
            for second in range(2):
                equal = (
                    0.5 * 3 / 5 if math.isfinite(concentration) else 0.0
                )  # a / (a + a) of the first, (a + 1) / (2a + 1)
                prior = equal if first == second else 0.5 - equal
                total[first, second] = prior * density(np.concatenate([support, [first, second]]))
        everything = sum(total.values())
        close(evidence[t], torch.tensor(math.log(everything / density(support)), dtype=torch.float64), 1e-9)
        want = (total[0, 0] + total[0, 1]) / everything
        close(probs[t, 0, 0], torch.tensor(want, dtype=torch.float64), 1e-9)
    close(probs.sum(-1), torch.ones(2, 2, dtype=torch.float64))


def test_exact_probabilities_are_calibrated():
    """Brier scores: the expected one is that of the probabilities themselves, within 4.5 sigma over tasks (7e-6)."""
    family = GaussianClasses(2, 2.0, 1.0, 2.0, n_way=3, n_query=4)
    batch = family.sample(2000)
    _, probs = family.exact(batch)
    truth = torch.nn.functional.one_hot(batch.query_y, 3).double()
    off = ((probs - truth).square().sum(-1) - (1 - probs.square().sum(-1))).mean(1)
    assert abs(float(off.mean())) < 4.5 * float(off.std()) / 2000**0.5
    assert float(probs.max(-1).values.mean()) < 0.95


@pytest.mark.parametrize(("ways", "queries"), [(4, 6), (5, 8), (6, 3), (3, 4)])
def test_any_classes_have_the_rest_of_equal_numbers(ways, queries):
    """They were neighbours, where the exact answers count every choice: chi-square, false alarms below 1e-6."""
    labels = GaussianClasses(1, n_way=ways, n_query=queries).sample(20000).query_y
    counts = torch.nn.functional.one_hot(labels, ways).sum(1)
    more = counts - queries // ways
    assert set(more.unique().tolist()) == {0, 1}
    choices, times = torch.unique(more, dim=0, return_counts=True)
    assert len(choices) == math.comb(ways, queries % ways)
    assert stats.chisquare(times.numpy()).pvalue > 1e-6


@pytest.mark.parametrize("infinity", [math.inf, np.inf, float("inf")])
def test_any_infinity_is_equal_numbers(infinity):
    """Another object than the default was refused."""
    known, drawn = (
        GaussianClasses(2, n_way=3, n_query=6, **each).sample(4) for each in ({}, {"concentration": infinity})
    )
    assert torch.equal(known.query_x, drawn.query_x)


def test_bad_input():
    with pytest.raises(ValueError, match="concentration: expected a number above 0, got 0"):
        GaussianClasses(2, concentration=0.0)
    family = GaussianClasses(2)
    with pytest.raises(ValueError, match=r"exact: expected at most 65536 labellings, got 5 \*\* 30"):
        family.exact(family.sample(1))
