"""Random class proportions, drawn or left by thinning."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import class_tasks, classifier, close, real_tasks
from scipy import stats

from ebmeta import TaskBatch
from ebmeta.tasks.proportions import LEAST, MOST, hidden, random_counts, random_shots, thinned

INF = math.inf


def test_every_second_task_hides_in_turns():
    assert hidden(4, 0).tolist() == hidden(4, 2**62).tolist() == [False, True, False, True]
    assert hidden(3, 1).tolist() == hidden(3, 2**63 - 1).tolist() == [True, False, True]


@pytest.mark.parametrize("ways", [2, 5])
def test_proportions_are_dirichlet_of_a_log_uniform_concentration(ways):
    total, draws, rng = 30, 4000, np.random.default_rng(0)
    counts = np.stack([random_counts(total, np.full(ways, 1000), rng) for _ in range(draws)])
    assert (counts.sum(1) == total).all()
    a = np.exp((np.arange(1000) + 0.5) / 1000 * math.log(MOST / LEAST)) * LEAST
    second = np.mean((a + 1) / (ways * a + 1)) / ways  # of a share
    for value, expected in ((counts[:, 0], total / ways), (counts[:, -1] * (counts[:, -1] - 1), 870 * second)):
        assert abs(value.mean() - expected) < 5 * value.std() / draws**0.5  # 5 sigma: false alarms at 6e-7


def test_few_rows_make_fewer_queries_and_no_other_proportions():
    draws, rng, room = 2000, np.random.default_rng(0), np.array([15, 15, 15, 15, 15])
    counts = np.stack([random_counts(75, room, rng) for _ in range(draws)])
    wide = np.stack([random_counts(75, 100 * room, rng) for _ in range(draws)])
    assert (counts <= room).all()
    assert counts.sum(1).min() >= 1
    tops = [(c.max(1) / c.sum(1)) for c in (counts, wide)]
    # A class of the largest share is full or nearly so: what is cut of it is within a few queries of some 35.
    assert tops[1].mean() - 0.06 < tops[0].mean() < tops[1].mean() + 0.01


def test_rows_of_one_class_alone_are_all_that_a_task_can_have():
    rng = np.random.default_rng(0)
    for n in range(1, 100):
        assert random_counts(50, np.array([0, n, 0]), rng).tolist() == [0, min(n, 50), 0]
    assert {random_counts(3, np.array([1, 1, 1]), rng).sum() for _ in range(100)} <= {1, 2, 3}


def test_numbers_of_labelled_rows_are_log_uniform_in_half_of_the_tasks():
    draws, rng, shots, most = 8000, np.random.default_rng(0), np.array([2, 2]), np.array([8, 3])
    drawn = np.stack([random_shots(shots, most, rng) for _ in range(draws)])
    for c, top in enumerate(most):
        n = np.arange(1, top + 1)
        share = np.log((n + 1) / n) / math.log(top + 1) / 2 + (n == 2) / 2
        counts = np.bincount(drawn[:, c], minlength=top + 1)[1:]
        assert stats.chisquare(counts, share * draws).pvalue > 1e-6  # the rate of false alarms
    assert random_shots(np.zeros(3, int), np.zeros(3, int), rng).tolist() == [0, 0, 0]


def test_thinning_leaves_labelled_rows_out_of_every_fourth_task_and_none_of_a_class_out():
    y = torch.arange(2).repeat(400, 5)  # five rows of each class
    batch = TaskBatch(torch.zeros(400, 10, 1), y, torch.zeros(400, 6, 1))
    seen = thinned(batch, 0)
    counts = (torch.nn.functional.one_hot(y, 2) * seen.support_mask.unsqueeze(-1)).sum(1)
    assert bool((counts[::2] == 5).all())
    assert (counts.min(), counts.max()) == (1, 5)
    uneven = (counts[1::2] != 5).any(1).double().mean()
    chance = (1 - (math.log(6 / 5) / math.log(6)) ** 2) / 2
    assert abs(uneven - chance) < 5 * (chance * (1 - chance) / 200) ** 0.5  # 5 sigma: false alarms at 6e-7


def told() -> TaskBatch:
    return replace(class_tasks(queries=(40, 40, 40, 40)), concentration=torch.tensor([INF, INF, 2.0, 2.0]).double())


@pytest.mark.parametrize("index", [0, 1])
def test_thinning_leaves_queries_out_of_every_second_task(index):
    batch = told()
    seen = thinned(batch, index)
    hide = torch.tensor([False, True, False, True]) ^ bool(index)
    assert torch.equal(seen.concentration.isnan(), hide)
    assert torch.equal(seen.concentration[~hide], batch.concentration[~hide])
    assert torch.equal(seen.query_mask[~hide], batch.query_mask[~hide])
    assert bool((seen.query_mask <= batch.query_mask).all())
    assert bool((seen.num_queries[hide] < 40).all())
    assert bool((seen.num_queries[hide] >= 1).all())
    assert torch.equal(seen.support_mask[~hide], batch.support_mask[~hide])
    assert bool((seen.support_mask <= batch.support_mask).all())
    assert torch.equal(seen.support_x, batch.support_x * seen.support_mask.unsqueeze(-1))
    assert torch.equal(seen.way_mask, batch.way_mask)
    assert torch.equal(seen.query_x, batch.query_x * seen.query_mask.unsqueeze(-1))
    assert torch.equal(seen.query_mask, thinned(batch, index).query_mask)
    assert not torch.equal(seen.query_mask, thinned(batch, index + 2).query_mask)


def test_what_is_left_by_thinning_is_random_within_each_class():
    y = torch.arange(2).repeat(1, 20)
    batch = TaskBatch(torch.zeros(1, 2, 1), torch.arange(2)[None], torch.zeros(1, 40, 1), y)
    kept = torch.stack([thinned(batch, index).query_mask[0] for index in range(1, 2001, 2)]).double()
    assert bool((kept.sum(1) >= 20).all())  # all of the larger class, or nearly
    rate = kept.mean(0)
    error = (rate * (1 - rate) / 1000).sqrt()
    assert bool(((rate - rate[y[0] == 0].mean()).abs() < 5.5 * error).all())  # 40 rows: false alarms at 2e-6


def test_tasks_without_labels_or_without_classes():
    batch = told()
    unlabelled = thinned(batch.unlabelled(), 0)
    assert torch.equal(unlabelled.query_mask, batch.query_mask)
    assert unlabelled.concentration.isnan().tolist() == [False, True, False, True]
    untold = thinned(replace(batch, concentration=None), 0)
    assert untold.concentration is None
    assert torch.equal(untold.query_mask, thinned(batch, 0).query_mask)
    numbers = real_tasks()
    assert thinned(numbers, 1) is numbers


def test_a_model_sees_what_is_left_as_tasks_of_fewer_queries():
    model, seen = classifier(), thinned(told(), 0)
    whole = model.infer(seen).marginal(-1)[0]
    for t in range(4):
        mask, ways = seen.query_mask[t], int(seen.way_mask[t].sum())
        alone = TaskBatch.from_tasks(
            [seen.support_x[t][seen.support_mask[t]]],
            [seen.support_y[t][seen.support_mask[t]]],
            [seen.query_x[t][mask]],
            num_ways=[ways],
            concentration=seen.concentration[t : t + 1],
        )
        close(model.infer(alone).marginal(-1)[0][0], whole[t][mask][:, :ways])
