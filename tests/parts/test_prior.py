"""Prior, predictor and initializer: each against its formula, written out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from builders import class_tasks, close, generator, perturb
from torch import nn

from ebmeta.likelihood import Categorical
from ebmeta.parts.basis import SplineBasis
from ebmeta.parts.heads import CosineHead, Head, LinearHead
from ebmeta.parts.initializer import PrototypeInitializer
from ebmeta.parts.prior import DiagonalPrior, FullPrior
from ebmeta.tasks.training_rows import TrainingRows


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def rows(x, cluster):
    return TrainingRows(x, cluster.double(), cluster)


def moved(module):
    perturb(module.double(), scale=0.5)
    return module


def test_the_full_prior_has_the_covariance_of_its_factor():
    prior = moved(FullPrior(3, scale=2.0))
    factor = prior.scale_tril()
    assert bool((factor.triu(1) == 0).all())
    close(factor.diagonal(), prior.log_scale.exp())  # no other parameter moves the sizes
    close(torch.linalg.inv(prior(2, 1).precision[1, 0]), factor @ factor.T)
    close(prior(2, 1).loc[1, 0], prior.loc)


def test_the_diagonal_prior_has_the_variance_of_its_scale():
    prior = moved(DiagonalPrior(3, scale=2.0))
    close(prior(2, 4).precision[1, 3], prior.log_scale.exp() ** -2)
    close(prior(2, 4).loc[1, 3], prior.loc)


@pytest.mark.parametrize("kind", [DiagonalPrior, FullPrior])
def test_covariates_move_the_location_in_units_of_the_training_tasks(kind):
    prior, seen = moved(kind(3, num_covariates=2)), 5.0 + 3.0 * normal(6, 2)
    tasks, center = replace(rows(normal(6, 1), torch.arange(6)), task_x=seen), prior.center.clone()
    prior.measure(tasks)
    assert torch.equal(prior.center, center)  # where the head takes numbers as they are
    prior.measure(replace(tasks, standardize=True))
    unit = (seen - seen.mean(0)) / seen.std(0, correction=0)
    p, plain = prior(6, 2, seen), prior.gaussian()
    close(p.loc, (prior.loc + unit @ prior.slope.T).unsqueeze(1).expand(-1, 2, -1))
    close(p.precision, plain.precision.expand_as(p.precision))


@pytest.mark.parametrize("kind", [DiagonalPrior, FullPrior])
def test_priors_start_at_their_scale_and_refuse_none(kind):
    close(kind(2, scale=3.0)(1, 1).scale, torch.full((1, 1, 2), 3.0), 1e-6)
    for bad, message in (
        ((0, 1.0), "num_weights: expected at least 1, got 0"),
        ((2, 0.0), "scale: expected .* 0, got 0"),
        ((2, -1.0), "scale: expected .* 0, got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            kind(*bad)


def test_the_cosine_head_looks_at_directions_in_its_metric():
    predictor, x = moved(CosineHead(3)), normal(2, 4, 3)
    z = torch.einsum("tnd,de->tne", x - predictor.center, predictor.metric)
    expected = z / z.square().sum(-1, keepdim=True).sqrt()
    close(predictor.features(x), torch.cat([expected, torch.full((2, 4, 1), 0.3, dtype=torch.float64)], -1))
    assert predictor.num_weights == 4


def test_the_metric_is_a_power_of_the_covariance_within_classes():
    predictor = CosineHead(3).double()
    assert not predictor.measured
    x, cluster = normal(40, 3) @ normal(3, 3, seed=1), torch.arange(40) // 4 * 7
    cluster[36:] = torch.arange(900, 904)  # classes seen once say nothing
    predictor.measure(rows(x, cluster))
    close(predictor.center, x.mean(0))
    within = sum(torch.cov(x[cluster == c].T, correction=0) * 4 for c in range(0, 63, 7)) / (9 * 3)
    shrunk = 0.7 * within + 0.3 * within.trace() / 3 * torch.eye(3, dtype=torch.float64)
    close(torch.linalg.matrix_power(predictor.metric, 4) @ shrunk, within.trace() / 3 * torch.eye(3).double(), 1e-8)
    assert predictor.measured
    single = CosineHead(3).double()
    single.measure(rows(x, torch.arange(40)))
    assert torch.equal(single.metric, torch.eye(3, dtype=torch.float64))


def test_a_linear_head_takes_the_units_of_its_training_rows():
    x = 5 + 3 * normal(50, 2)
    x = torch.cat([x, torch.full((50, 1), 7.0, dtype=torch.float64)], 1)  # a feature that never changes
    predictor = LinearHead(3).double()
    predictor.measure(rows(x, torch.zeros(50)))
    phi = predictor.features(x[None])[0]
    close(phi[:, :2], (x[:, :2] - x[:, :2].mean(0)) / x[:, :2].std(0, correction=0))
    close(phi[:, 2:], torch.tensor([0.0, 1.0], dtype=torch.float64).expand(50, 2))
    assert predictor.measured


def test_the_linear_head_has_an_intercept():
    predictor, x, w = LinearHead(3).double(), normal(2, 4, 3), normal(5, 2, 6, 4, seed=1)
    close(predictor(predictor.features(x), w)[3, 1, 2, 5], x[1, 2] @ w[3, 1, 5, :3] + w[3, 1, 5, 3])
    assert predictor.num_weights == 4


def test_a_frozen_embedder_stays_in_evaluation_mode():
    frozen = LinearHead(3, nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)), freeze_embedder=True)
    free = LinearHead(3, nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)))
    for predictor in (frozen, free):
        predictor.train()
    assert [m.training for m in frozen.embedder.modules()] == [False] * 3
    assert [m.training for m in free.embedder.modules()] == [True] * 3


def test_bad_predictors_are_refused():
    with pytest.raises(ValueError, match="num_features: expected at least 1, got 0"):
        CosineHead(0)
    for arguments in ({"embedder": nn.Identity()}, {"basis": SplineBasis()}):
        with pytest.raises(ValueError, match="num_features: expected at least 1, got 0"):
            LinearHead(0, **arguments)
    with pytest.raises(TypeError, match="abstract"):
        Head(2, None, False)
    with pytest.raises(ValueError, match=r"x: expected 3 features per input, got shape \(2, 2\)"):
        LinearHead(3).features(torch.zeros(1, 4, 2, 2))


def test_prototypes_are_the_posterior_of_noisy_looks_at_each_weight():
    """Weight by weight: the conditional of a joint Gaussian of one weight and its class's examples."""
    prior, init = moved(DiagonalPrior(4)), moved(PrototypeInitializer(4, amplitude=2.0))
    batch = class_tasks()
    q = init(prior(4, 5), Categorical(), batch.support_x, batch.support_y, batch.support_mask)
    look = 1 / init.log_precision.exp()
    sigma = (2 * prior.log_scale).exp()
    for t in range(4):
        for c in range(int(batch.way_mask[t].sum())):
            x = init.log_amplitude.exp() * batch.support_x[t][batch.support_mask[t] & (batch.support_y[t] == c)]
            for p in range(4):
                joint = sigma[p] + look[p] * torch.eye(len(x), dtype=torch.float64)
                gain = torch.linalg.solve(joint, sigma[p].expand(len(x)))
                close(q.loc[t, c, p], prior.loc[p] + gain @ (x[:, p] - prior.loc[p]))
                close(1 / q.precision[t, c, p], sigma[p] - gain.sum() * sigma[p])
