"""Rough clusters: the numbers that their definition says, whatever the order and padding, and near the truth."""

from __future__ import annotations

import math

import torch
from builders import close
from torch.nn.functional import normalize, pad

from ebmeta.parts.clusters import SHARP, STEPS, Clusters, find_clusters


def task(queries: int, features: int, noise: float, seed: int = 0, ways: int = 3):
    """Unit rows about class means at right angles, the first of each class labelled."""
    rng = torch.Generator().manual_seed(seed)
    y = torch.arange(queries) % ways
    means = torch.eye(features, dtype=torch.float64)[:ways]
    spread = noise * torch.randn(queries + ways, features, generator=rng, dtype=torch.float64) / math.sqrt(features)
    rows = normalize(means[torch.cat([torch.arange(ways), y])] + spread, dim=-1)
    one = torch.ones(1, ways, dtype=torch.float64)
    return rows[None, ways:], torch.ones(1, queries, dtype=torch.bool), rows[None, :ways], one, one.bool()


def numbers(found: Clusters) -> torch.Tensor:
    return torch.stack([found.within, found.coordinates])


def test_each_number_is_the_one_that_is_stated():
    u, mask, sums, counts, ways = task(6, 12, 1.0)
    rows, labelled, r = u[0], sums[0], torch.zeros(6, 3, dtype=torch.float64)
    for _ in range(STEPS):
        size = 1 + r.sum(0)
        m = (labelled + r.T @ rows) / (size + 1).unsqueeze(1)
        d = torch.cdist(rows, m) ** 2
        r = torch.softmax(-SHARP * (d + 0.5 / (size + 1)), -1)
    left = normalize(rows - r @ m, dim=-1)
    cosines = (left @ left.T)[~torch.eye(6, dtype=torch.bool)]
    wanted = torch.stack([(r * d).sum() / 6, 1 / cosines.square().mean()])
    close(numbers(find_clusters(u, mask, sums, counts, ways))[:, 0], wanted, 1e-9)


def test_separate_classes_are_found_with_their_spread_and_coordinates():
    u, mask, sums, counts, ways = task(300, 40, 0.6)
    found = find_clusters(u, mask, sums, counts, ways)
    truth = torch.arange(300) % 3
    centres = torch.stack([u[0, truth == c].mean(0) for c in range(3)])
    within = (u[0] - centres[truth]).square().sum(-1).mean()
    assert abs(float(found.within[0] / within) - 1) < 0.05
    assert 30 < float(found.coordinates[0]) < 40


def test_order_and_padding_change_nothing():
    u, mask, sums, counts, ways = task(7, 5, 1.0)
    alone = numbers(find_clusters(u, mask, sums, counts, ways))
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    close(numbers(find_clusters(u[:, order], mask, sums, counts, ways)), alone, 1e-9)
    padded = (pad(u, (0, 0, 0, 2)), pad(mask, (0, 2)), pad(sums, (0, 0, 0, 1)), pad(counts, (0, 1)), pad(ways, (0, 1)))
    close(numbers(find_clusters(*padded)), alone, 1e-9)


def test_one_query_has_as_many_coordinates_as_features():
    u, mask, sums, counts, ways = task(1, 5, 1.0)
    assert float(find_clusters(u, mask, sums, counts, ways).coordinates[0]) == 5
