"""Heads: features in the metric or the units of training rows, each against its formula."""

from __future__ import annotations

import pytest
import torch
from builders import close
from torch import nn

from ebmeta.parts.basis import SplineBasis
from ebmeta.parts.heads import CosineHead, Head, LinearHead
from tests.parts.test_prior import moved, normal, rows


def test_the_cosine_head_looks_at_directions_in_its_metric():
    predictor, x = moved(CosineHead(3)), normal(2, 4, 3)
    z = torch.einsum("tnd,de->tne", x - predictor.center, predictor.metric)
    expected = z / z.square().sum(-1, keepdim=True).sqrt()
    close(predictor.features(x), torch.cat([expected, torch.full((2, 4, 1), 0.3, dtype=torch.float64)], -1))
    assert predictor.num_weights == 4


def test_directions_from_a_far_centre_are_those_of_exact_differences():
    """A centre has more digits than rows of 32 bits, and its last ones count where rows vary by few roundings."""
    x = 1000 + 1e-3 * normal(2, 4, 3).float()
    head = CosineHead(3)
    head.center.copy_(x.double().mean((0, 1)) + 1e-5)
    off = x.double() - head.center
    close(head.direction(x).double(), off / off.norm(dim=-1, keepdim=True), 1e-6)


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


def test_blocks_of_rows_are_the_rows(monkeypatch):
    head, x = CosineHead(3), 3 + normal(4, 5, 3).float()
    head.measure(rows(x.flatten(0, 1).double(), torch.arange(20) % 4))
    whole = head.features(x)
    monkeypatch.setattr("ebmeta.foundation.blocks.CACHE", 3 * 7)  # seven rows
    close(head.features(x), whole, 1e-6)
    close(whole[..., :-1], head.direction(x), 1e-6)
    assert bool((whole[..., -1] == whole[0, 0, -1]).all())
    close(head.features(x.requires_grad_()).detach(), whole, 1e-6)


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
