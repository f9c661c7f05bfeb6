"""The prior of a general classifier is a function of how rows lie, and before training a constant."""

from __future__ import annotations

import math

import pytest
import torch
from builders import close, perturb

from ebmeta.parts.class_prior import EQUAL
from ebmeta.parts.clusters import Clusters
from ebmeta.parts.general_prior import BETWEEN, CONCENTRATION, COORDINATES, TRUST, WITHIN, GeneralPrior
from ebmeta.parts.task_features import DESIGN, Geometry

WAYS = torch.tensor([[True, True, True], [True, True, False]])


def numbers(tasks: int = 2, share: float = 1.0, features: float = 50.0) -> Geometry:
    """Geometries of two tasks, or the first, of whose rough clusters s = .6 and .3, and k = 30 and 10."""
    design = torch.randn(2, DESIGN, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = [[0.6, 0.3], [30.0, 10.0], [features, features], [1.0, share]]
    *found, shares = torch.tensor(values, dtype=torch.float64)[:, :tasks]
    return Geometry(design[:tasks], Clusters(*found), shares)


def test_before_training_a_prior_is_what_rough_clusters_say():
    q = GeneralPrior(4, 0.3).double().of_task(numbers(), 50, WAYS, None)
    one = torch.ones(2, 3, 50, dtype=torch.float64)
    s, k = WITHIN * torch.tensor([0.6, 0.3]).double(), COORDINATES * torch.tensor([30.0, 10.0]).double()
    b = BETWEEN * torch.tensor([0.4, 0.7]).double()
    close(q.loc, 0 * one)
    close(q.precision, (k / b)[:, None, None] * one, 1e-5)
    close(q.spread.flatten(), s / k, 1e-6)
    close(q.volume.flatten(), 1 - k / 50, 1e-6)
    close(q.trust.flatten(), torch.full((2,), TRUST).double(), 1e-6)
    close(q.shares, CONCENTRATION * WAYS.double(), 1e-6)


def test_there_are_no_more_coordinates_than_features_that_vary():
    q = GeneralPrior(4, 0.3).double().of_task(numbers(features=2.0), 8, WAYS, None)
    close(q.volume, torch.full((2, 1, 1), 0.75, dtype=torch.float64), 1e-6)
    close(q.precision[0, 0, :1], torch.tensor([2 / (0.4 * BETWEEN)], dtype=torch.float64), 1e-5)


def test_factors_of_what_is_found_are_bounded():
    prior = GeneralPrior(4, 0.3).double()
    before = prior.of_task(numbers(), 50, WAYS, None)
    with torch.no_grad():
        prior.readout.bias.copy_(torch.tensor([99.0, -99.0, -99.0, 0.0]))
    after = prior.of_task(numbers(), 50, WAYS, None)
    close(after.spread, before.spread, 1e-5)  # s and k both fell by e
    close(after.precision, before.precision / math.e**2, 1e-5)


def test_trained_it_follows_each_task_and_trusts_all_alike():
    prior = GeneralPrior(4, 0.3).double()
    perturb(prior, scale=0.5)
    both, alone = prior.of_task(numbers(), 50, WAYS, None), prior.of_task(numbers(1), 50, WAYS[:1], None)
    for name in ("precision", "spread", "volume", "shares"):
        value = getattr(both, name)
        close(value[:1], getattr(alone, name))
        assert not torch.allclose(value[0].flatten()[0], value[1].flatten()[0])
    close(both.trust.flatten(), prior.trust.sigmoid().detach().expand(2))


def test_what_is_known_of_proportions_comes_first():
    known = torch.tensor([math.nan, math.inf], dtype=torch.float64)
    q = GeneralPrior(4, 0.3).double().of_task(numbers(), 50, WAYS, known)
    close(q.shares, torch.tensor([[3.0, 3.0, 3.0], [EQUAL, EQUAL, 0.0]], dtype=torch.float64), 1e-3)


def test_without_rows_there_is_none():
    with pytest.raises(ValueError, match="prior: expected the rows of tasks"):
        GeneralPrior()(2, 3)


def test_queries_beyond_so_many_count_together_as_these():
    found = GeneralPrior(4, 0.3).double().of_task(numbers(share=0.2), 50, WAYS, None)
    close(found.trust.flatten(), torch.tensor([TRUST, 0.2 * TRUST]).double(), 1e-6)
