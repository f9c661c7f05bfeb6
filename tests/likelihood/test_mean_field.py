"""Many classes and many queries: the same numbers in passes, and no tensor of queries x classes x classes."""

from __future__ import annotations

import importlib
import math

import numpy as np
import pytest
import torch
from builders import close

import ebmeta
from ebmeta import EmpiricalBayes, FewShotClassifier, Objective
from ebmeta.likelihood import Categorical, gaussian_softmax
from ebmeta.likelihood.mean_field import mean_field_softmax
from tests.foundation.test_buckets import Largest
from tests.likelihood.test_base import logits as class_logits

MEAN_FIELD, INFERENCE = (
    importlib.import_module(f"ebmeta.{name}") for name in ("likelihood.mean_field", "model.posterior")
)


def logits(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Location and variance of five queries of each of two tasks, of 7 and of 4 classes."""
    rng = np.random.default_rng(seed)
    loc, var = torch.from_numpy(rng.normal(size=(2, 5, 7))), torch.from_numpy(rng.exponential(size=(2, 5, 7)))
    return loc, var, torch.arange(7) < torch.tensor([[7], [4]])


def by_definition(loc: torch.Tensor, var: torch.Tensor, way_mask: torch.Tensor) -> torch.Tensor:
    out = torch.zeros_like(loc)
    for t, ways in enumerate(way_mask.sum(1).tolist()):
        m, v = loc[t, :, :ways], var[t, :, :ways]
        gap = (m[:, None] - m[:, :, None]) / (1 + np.pi / 8 * (v[:, None] + v[:, :, None])).sqrt()
        p = 1 / gap.exp().sum(-1)
        out[t, :, :ways] = p / p.sum(-1, keepdim=True)
    return out


@pytest.mark.parametrize("pairs", [1, 20, 60, 10**6])
def test_mean_field_is_its_definition_in_any_passes(pairs, monkeypatch):
    loc, var, ways = logits()
    monkeypatch.setattr(MEAN_FIELD, "CACHE", pairs)
    monkeypatch.setattr(MEAN_FIELD, "MOST", pairs)
    expected = by_definition(loc, var, ways)
    torch.testing.assert_close(mean_field_softmax(loc, var, ways), expected, rtol=1e-12, atol=1e-14)
    inputs = [v.clone().requires_grad_() for v in (loc, var)]
    found = mean_field_softmax(*inputs, ways)
    torch.testing.assert_close(found.detach(), expected, rtol=1e-12, atol=1e-14)
    direction = torch.from_numpy(np.random.default_rng(1).normal(size=loc.shape))
    gradients = torch.autograd.grad((found * direction).sum(), inputs)
    others = [v.clone().requires_grad_() for v in (loc, var)]
    wanted = torch.autograd.grad((by_definition(*others, ways) * direction).sum(), others)
    for a, b in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def many(ways: int, features: int = 8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(ways, features))
    return centers, centers + 0.3 * rng.normal(size=centers.shape)


def test_memory_of_many_ways_is_that_of_queries_times_ways():
    ways = 200
    X, queries = many(ways)
    model = EmpiricalBayes.classifier(8)
    clf = FewShotClassifier(model).fit(X, np.arange(ways))
    with Largest() as seen:
        assert (clf.predict(queries) == np.arange(ways)).mean() > 0.5
    cells = ways * ways
    features, row = 32, ways * 384 * 32  # of a cell in the network; of a query in the softmax integral
    assert cells < seen.numel <= max(features * cells, row)
    assert seen.numel < ways * cells / 3  # queries x ways^2 would be 8 million


def test_training_on_many_ways_keeps_no_pairs_of_classes(monkeypatch):
    ways = 100
    X, queries = (torch.from_numpy(v).float()[None] for v in many(ways))
    y = torch.arange(ways)[None]
    batch, found = ebmeta.TaskBatch(X, y, queries, y), []
    for pairs in (10**8, 4 * ways**2):
        monkeypatch.setattr(MEAN_FIELD, "MOST", pairs)
        model = EmpiricalBayes.classifier(8, num_steps=1, synthetic_gradient="mixture")
        kept: list[int] = []

        def keep(tensor: torch.Tensor, kept: list[int] = kept) -> torch.Tensor:
            kept.append(tensor.numel())
            return tensor

        objective = Objective(num_draws=1)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = objective.total(objective.terms(model, batch))
        gradient = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True)
        found.append(torch.cat([g.flatten() for g in gradient]))
        assert (max(kept) >= ways**3) == (pairs == 10**8)
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cells", [160, 10**6])
def test_draws_come_in_passes(cells, monkeypatch):
    """Frequencies of 4,000 labels within 6 standard errors (2e-9 each) of the probabilities."""
    monkeypatch.setattr(INFERENCE, "CELLS", cells)
    X, queries = (torch.from_numpy(v)[None] for v in many(4, 3))
    model = EmpiricalBayes.classifier(3).double()
    batch = ebmeta.TaskBatch(X, torch.arange(4)[None], queries, torch.arange(4)[None])
    with Largest() as seen:
        tree = ebmeta.predict(model, batch, num_draws=4000)
    labels, p = tree["posterior_predictive/query_y"].values[0, :, 0], tree["predictive/probs"].values[-1, 0]
    frequency = np.stack([(labels == c).mean(0) for c in range(4)], -1)
    assert (np.abs(frequency - p) < 6 * np.sqrt(p * (1 - p) / 4000) + 1e-3).all()
    w = torch.from_numpy(tree["posterior/w"].values[0])
    eta = model.predictor(model.predictor.features(queries), w)
    score = Categorical().log_prob(batch.query_y, eta, batch.way_mask)
    np.testing.assert_allclose(tree["log_likelihood/query_y"].values[0], score, atol=1e-9)
    assert seen.numel <= max(4000 * 4 * 4, 2**19)


@pytest.mark.parametrize(("ways", "most"), [(2, 2.0), (5, 0.5), (20, 0.2)])
def test_the_mean_field_moments_approximate_the_integral(ways, most):
    loc, var, mask = class_logits(ways, queries=50)
    p, curvature = Categorical().moments(loc, var.clamp(max=most), mask)
    close(p.sum(-1), torch.ones(2, 50, dtype=torch.float64), 1e-12)
    close(curvature, p * (1 - p), 1e-12)
    assert (p - gaussian_softmax(loc, var.clamp(max=most), mask)).abs().max() < 0.03


def test_the_mean_field_moments_follow_their_formula():
    loc, var, mask = class_logits(4)
    mask[0, 3] = False
    p, _ = Categorical().moments(loc, var, mask)
    for t, ways in ((0, 3), (1, 4)):
        for i in range(5):
            m, v = loc[t, i], var[t, i]
            score = [
                1 / sum(math.exp((m[j] - m[c]) / math.sqrt(1 + math.pi * (v[j] + v[c]) / 8)) for j in range(ways))
                for c in range(ways)
            ]
            close(p[t, i], torch.tensor([s / sum(score) for s in score] + [0.0] * (4 - ways), dtype=torch.float64))
