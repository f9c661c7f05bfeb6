"""What refinement knows: the facts of a batch, and a state that is read once."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from builders import class_tasks, classifier, close

from ebmeta.likelihood import Normal
from ebmeta.parts.gaussian import DiagonalGaussian
from ebmeta.refine.state import QueryState, Setting


def test_strength_is_the_mean_log_ratio_of_precisions_over_real_classes():
    prior = DiagonalGaussian(torch.zeros(1, 3, 2).double(), torch.ones(1, 3, 2).double())
    q0 = DiagonalGaussian(prior.loc, torch.tensor([[[4.0, 16.0], [1.0, 2.0], [99.0, 99.0]]]).double())
    ways = torch.tensor([[True, True, False]])
    setting = Setting(q0, prior, Normal(), torch.zeros(1, 1, 2).double(), torch.ones(1, 1, dtype=torch.bool), ways, 1.0)
    close(setting.strength, torch.tensor([math.log(4 * 16 * 1 * 2) / 4], dtype=torch.float64))


def test_shares_are_equal_where_that_is_known_and_possible():
    """Three classes: six queries can have equal shares, five cannot; a concentration of 2 says nothing of the kind."""
    queries = torch.arange(6) < torch.tensor([[6], [5], [6]])
    known = torch.tensor([math.inf, math.inf, 2.0])
    q0 = DiagonalGaussian(torch.zeros(3, 3, 2), torch.ones(3, 3, 2))
    ways = torch.ones(3, 3, dtype=torch.bool)
    setting = Setting(q0, q0, Normal(), torch.zeros(3, 6, 2), queries, ways, 1.0, concentration=known)
    assert setting.equal is not None
    assert setting.equal.tolist() == [True, False, False]
    close(setting.design, torch.tensor([[1, 1 / 6, 0], [0, 1 / 5, 0], [0, 1 / 6, 0]]))
    untold = replace(setting, concentration=None)
    assert untold.equal is None
    close(untold.design, setting.design * torch.tensor([0.0, 1.0, 1.0]))


def test_a_pile_of_queries_counts_by_its_logarithm_between_a_hundred_and_fifteen_hundred():
    q0 = DiagonalGaussian(torch.zeros(4, 3, 2), torch.ones(4, 3, 2))
    queries = torch.arange(3000) < torch.tensor([[100], [300], [1500], [3000]])
    setting = Setting(q0, q0, Normal(), torch.zeros(4, 3000, 2), queries, torch.ones(4, 3, dtype=torch.bool), 1.0)
    close(setting.design[:, 2], torch.tensor([1.0, 3.0, 15.0, 15.0]).log())


def test_a_state_is_read_once():
    model, batch = classifier(), class_tasks()
    setting, calls = model.infer(batch).setting, []

    def read(state: QueryState) -> int:
        calls.append(state)
        return len(calls)

    state = QueryState(setting, setting.q0)
    assert [state.once(read), state.once(read)] == [1, 1]
    assert calls == [state]
