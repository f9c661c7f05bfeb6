"""Mixtures over noise levels, beside their parts one by one."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from builders import class_tasks, classifier, close, number_tasks, real_tasks, regressor
from pyro import distributions as dist

from ebmeta.likelihood import ScalarLikelihood
from ebmeta.model.conditional import Conditional, repeat
from ebmeta.model.posterior import choose


@pytest.fixture(scope="module")
def batch():
    return number_tasks("normal_per_task")


@pytest.fixture(scope="module")
def inferred(batch):
    with torch.no_grad():
        return regressor(likelihood="normal_per_task").infer(batch)


def test_parts_come_first_and_tasks_next(inferred, batch):
    tasks, levels = inferred.log_weight.shape
    assert (tasks, levels) == (len(batch), inferred.num_levels)
    loc = inferred.each(lambda part: part.path[-1].loc)
    for t in range(tasks):
        for j in range(levels):
            close(loc[j, t], inferred.path[-1].loc[t * levels + j], 0.0)
    close(inferred.by_level(repeat(batch.query_x, levels)), batch.query_x.expand(levels, -1, -1, -1), 0.0)


def test_levels_share_features_and_prior(inferred):
    close(inferred.setting.x, repeat(inferred.x, inferred.num_levels), 0.0)
    close(inferred.setting.prior.loc, repeat(inferred.prior.loc, inferred.num_levels), 0.0)


def test_predictions_are_weighted_means_of_those_given_the_level(inferred, batch):
    part, weight = Conditional(inferred.iterates, inferred.setting), inferred.weight.T.unsqueeze(-1)
    close(weight.sum(0).squeeze(-1), torch.ones(len(batch), dtype=torch.float64))
    none = torch.zeros(1, dtype=torch.float64)
    for k in range(inferred.num_steps + 1):
        mean, std = (inferred.by_level(part.predict(k)[name]) for name in ("mean", "std"))
        got = inferred.predict(k)
        close(got["mean"], (weight * mean).sum(0))
        second = (weight * (std.square() + mean.square())).sum(0)
        close(got["std"].square(), second - got["mean"].square(), 1e-8)
        close(inferred.cdf(k, batch.query_y), (weight * inferred.by_level(part.cdf(k, batch.query_y))).sum(0))
        for predictive in (False, True):
            each = inferred.by_level(part.log_prob(k, batch.query_y, none, predictive=predictive))
            wanted = (weight * each.exp()).sum(0).log() if predictive else (weight * each).sum(0)
            close(inferred.log_prob(k, batch.query_y, none, predictive=predictive), wanted)


def test_divergence_counts_weights_and_levels(inferred):
    each = torch.stack([inferred.by_level(q.kl(inferred.setting.prior)) for q in inferred.path])
    weight = inferred.weight.T
    of_levels = (weight * (inferred.log_weight - inferred.log_prior).T).sum(0)
    close(inferred.kl(), (weight * each).sum(1) + of_levels)
    assert (of_levels > 1e-6).all()


@pytest.mark.parametrize(("model", "batch"), [(classifier(), class_tasks()), (regressor(), real_tasks())])
def test_one_part_is_returned_as_it_is(model, batch):
    with torch.no_grad():
        inferred = model.infer(batch)
        part = Conditional(inferred.iterates, inferred.setting)
        assert torch.equal(inferred.kl(), part.kl())
        for name, value in part.predict(-1).items():
            assert torch.equal(inferred.predict(-1)[name], value)


def test_blending_follows_the_law_of_total_variance(inferred):
    loc, var = torch.tensor([[1.0], [3.0]]).double(), torch.tensor([[0.5], [1.5]]).double()
    two = inferred.__class__(
        torch.tensor([[0.25, 0.75]]).log(),
        torch.zeros(1, 2),
        inferred.iterates,
        inferred.setting,
        inferred.log_evidence,
    )
    mean, variance = two.blend(loc, var)
    close(mean, torch.tensor([2.5]).double(), 1e-6)
    close(variance, torch.tensor([0.25 * 0.5 + 0.75 * 1.5 + 0.25 * 2.25 + 0.75 * 0.25]).double(), 1e-6)


def test_a_part_whose_mean_has_no_end_leaves_no_nan(inferred):
    loc = torch.zeros(*inferred.log_weight.T.shape, 1, dtype=torch.float64)
    loc[0], var = math.inf, torch.ones_like(loc)
    mean, variance = inferred.blend(loc, var)
    assert bool((mean == math.inf).all() & (variance == math.inf).all())
    log_weight = inferred.log_weight.clone()
    log_weight[:, 0] = -math.inf
    mean, variance = replace(inferred, log_weight=log_weight).blend(loc, var)
    close(mean, torch.zeros_like(mean), 0.0)
    close(variance, torch.ones_like(variance), 1e-12)


def _lost(density=1.0, mean=1.0, cdf=1.0):
    class Lost(ScalarLikelihood):
        name, has_cdf = "lost", True

        def mean(self, eta, given=None):
            return mean * eta

        def variance(self, eta, given=None):
            return torch.ones_like(eta)

        def distribution(self, eta, way_mask, given=None):
            return dist.Normal(eta.squeeze(-1), 1.0)

        def log_prob(self, y, eta, way_mask, given=None):
            return torch.where(y > 0, density, 1.0) * super().log_prob(y, eta, way_mask, given)

        def cdf(self, y, eta, given=None):
            return cdf * torch.special.ndtr(y - eta)

    return Lost()


@pytest.mark.parametrize(
    ("part", "ask", "said"),
    [
        ({"mean": math.nan}, lambda found, y: found.predict(-1), "mean"),
        ({"density": math.nan}, lambda found, y: found.log_prob(-1, y, torch.zeros(1), predictive=True), "density"),
        ({"cdf": math.nan}, lambda found, y: found.quantile(-1, torch.tensor([0.5])), "cdf"),
    ],
    ids=["mean", "density", "cdf"],
)
def test_nan_of_a_likelihood_of_ones_own_is_refused_for_real_queries_alone(part, ask, said):
    batch = real_tasks()
    model = regressor(num_steps=0)
    y = torch.where(batch.query_mask, batch.query_y.abs() + 1, -1.0)
    with torch.no_grad():
        ask(model.infer(batch).with_likelihood(_lost()), y)
        with pytest.raises(ValueError, match=f"lost likelihood, {said}: expected a number for every query, got NaN"):
            ask(model.infer(batch).with_likelihood(_lost(**part)), y)
        if said == "density":
            real = model.infer(batch)
            padding = torch.where(batch.query_mask, -1.0, 1.0).double()
            got = ask(real.with_likelihood(_lost(**part)), padding)
            close(got[batch.query_mask], ask(real.with_likelihood(_lost()), padding)[batch.query_mask], 0.0)


def test_parts_are_drawn_by_their_weights():
    weight = torch.tensor([[0.2, 0.8], [1.0, 0.0]])
    drawn = choose(weight.log(), 4000, torch.Generator().manual_seed(0))
    assert drawn.shape == (4000, 2)
    assert abs(drawn[:, 0].double().mean() - 0.8) < 5 * (0.16 / 4000) ** 0.5  # 5 sigma: false alarms at 6e-7
    assert not drawn[:, 1].any()
