"""Equal numbers of queries of every class: sums that are exact, and moments where there are too many."""

from __future__ import annotations

import itertools

import torch
from builders import close, generator
from torch import Tensor
from torch.nn.functional import one_hot

import ebmeta.refine.equal_counts as module
from ebmeta.refine.equal_counts import by_moments, exact, with_equal_counts
from ebmeta.refine.equal_shares import equal_shares


def equal_counts(odds: Tensor, query_mask: Tensor, way_mask: Tensor) -> Tensor:
    """Return log probabilities where all tasks have as many queries of every class."""
    return with_equal_counts(odds, torch.ones(len(odds), dtype=torch.bool), query_mask, way_mask)


def arranged(odds: Tensor) -> Tensor:
    """Return the probabilities of classes by all arrangements of the queries of one task, shape `(Q, C)`."""
    queries, ways = odds.shape
    every = torch.tensor(list(itertools.product(range(ways), repeat=queries)))
    every = every[(one_hot(every, ways).sum(1) == queries // ways).all(1)]
    weight = odds[torch.arange(queries), every].sum(1).softmax(0)
    return torch.einsum("n,nic->ic", weight, one_hot(every, ways).double())


def odds_of(*shape: int, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(*shape, generator=generator(0), dtype=torch.float64)


def masks(number: int, queries: int, ways: int) -> tuple[Tensor, Tensor]:
    return torch.ones(number, queries, dtype=torch.bool), torch.ones(number, ways, dtype=torch.bool)


def test_tasks_of_other_sizes_are_summed_together():
    """Padding of queries and of classes, the first and the last one, changes nothing."""
    odds, (real, ways) = odds_of(3, 6, 3), masks(3, 6, 3)
    real[1, 4:], ways[1, 0], ways[2, 2] = False, False, False
    p = equal_counts(odds, real, ways).exp()
    close(p[0], arranged(odds[0]), 1e-12)
    close(p[1, :4, 1:], arranged(odds[1, :4, 1:]), 1e-12)
    close(p[2, :, :2], arranged(odds[2, :, :2]), 1e-12)
    assert p[1, :4, 0].max() == 0


def test_moments_come_much_nearer_to_the_sums_than_potentials():
    for ways, each, scale in ((5, 2, 1.0), (5, 3, 3.0), (3, 10, 3.0), (2, 20, 6.0)):
        queries = ways * each
        real, own = masks(20, queries, ways)
        odds = odds_of(20, queries, ways, scale=0.6 * scale) + scale * one_hot(torch.arange(queries) % ways, ways)
        p = exact(odds).exp()
        first = equal_shares(odds, real, own)

        def missed(q: Tensor, p: Tensor = p) -> float:
            return float((p * (p.clamp(min=1e-300).log() - q.log_softmax(-1))).sum(-1).mean())

        second = equal_shares(by_moments(first), real, own)
        assert missed(second) < missed(first) / 5


def test_many_queries_are_shared_by_moments(monkeypatch):
    real, ways = masks(2, 60, 4)
    real[1, 40:] = False
    odds = odds_of(2, 60, 4)
    p = equal_counts(odds, real, ways).exp()
    close(p[0].sum(0), torch.full((4,), 15.0, dtype=torch.float64), 1e-2)
    close(p[1, :40], equal_counts(odds[1:, :40], real[1:, :40], ways[1:]).exp()[0], 1e-9)
    monkeypatch.setattr(module, "AT_ONCE", 2 * 16 * 7)
    close(equal_counts(odds, real, ways).exp(), p, 1e-12)


def test_what_is_said_of_a_task_depends_on_no_other_one():
    """Alone, the first is summed exactly; beside the second it would not fit."""
    real, ways = masks(2, 60, 5)
    real[0, 5:] = False
    odds = odds_of(2, 60, 5)
    both = equal_counts(odds, real, ways)
    close(both[0, :5], equal_counts(odds[:1, :5], real[:1, :5], ways[:1])[0], 0.0)
    close(both[0, :5].exp(), arranged(odds[0, :5]), 1e-12)
    close(both[1], equal_counts(odds[1:], real[1:], ways[1:])[0], 1e-12)


def test_no_query_and_one_class_are_trivial():
    real, ways = masks(2, 4, 2)
    real[0], ways[1, 1] = False, False
    odds = odds_of(2, 4, 2)
    p = equal_counts(odds, real, ways).exp()
    close(p[0], odds[0].softmax(-1), 1e-12)
    close(p[1], torch.tensor([[1.0, 0.0]] * 4, dtype=torch.float64), 1e-12)
    assert equal_counts(odds[:, :0], real[:, :0], ways).shape == (2, 0, 2)


def test_certain_rows_of_many_leave_the_places_of_others():
    """Two rows are unsure, all others certain: the two are of different classes, so that one says what the other is."""
    odds = torch.full((1, 100, 2), -30.0, dtype=torch.float64)
    odds[0, torch.arange(100), torch.arange(100) % 2] = 0.0
    odds[0, 0], odds[0, 1] = torch.tensor([0.6, 0.0]), torch.tensor([0.4, 0.0])
    p = equal_counts(odds, *masks(1, 100, 2))
    close((p[0, :2, 0] - p[0, :2, 1]), torch.tensor([0.2, -0.2], dtype=torch.float64), 1e-6)


def test_the_gradient_passes_through_sums_and_moments():
    real, ways = masks(2, 6, 3)
    real[1, 3:] = False
    odds = odds_of(2, 6, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: equal_counts(v, real, ways)[real], (odds,))
    shared = equal_shares(odds.detach()[:1], real[:1], ways[:1]).requires_grad_()
    assert torch.autograd.gradcheck(by_moments, (shared,))


def test_tasks_without_equal_counts_stay():
    odds, (real, ways) = odds_of(3, 6, 3), masks(3, 6, 3)
    equal = torch.tensor([True, False, True])
    some = with_equal_counts(odds, equal, real, ways)
    close(some[equal], equal_counts(odds[equal], real[equal], ways[equal]), 0.0)
    close(some[1], odds[1].log_softmax(-1), 1e-12)
    for none in (None, ~(equal | True)):
        close(with_equal_counts(odds, none, real, ways), odds.log_softmax(-1), 1e-12)
    close(with_equal_counts(odds, equal | True, real, ways), equal_counts(odds, real, ways), 0.0)


def test_where_counts_are_many_the_given_probabilities_stay():
    odds, many = odds_of(3, 20, 5), odds_of(3, 20, 5).exp().log_softmax(-1)
    real, ways = masks(3, 20, 5)
    real[0, 5:] = False  # five queries of five classes: few
    equal = torch.tensor([True, True, False])
    got = with_equal_counts(odds, equal, real, ways, many)
    close(got[0, :5], equal_counts(odds, real, ways)[0, :5], 0.0)
    close(got[0, 5:], many[0, 5:], 0.0)
    close(got[1:], many[1:], 0.0)
    close(with_equal_counts(odds, None, real, ways, many), many, 0.0)
