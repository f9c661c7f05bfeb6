"""Equal shares of classes: what they are, their gradient, and classes far from every query."""

from __future__ import annotations

import torch
from builders import close, generator

from ebmeta.foundation.softmax import log_softmax
from ebmeta.refine.equal_shares import equal_shares, with_equal_shares


def test_equal_shares_are_those_of_balanced_labellings():
    """Potentials give the maximum entropy form; certain rows stay, and the rest share what is left."""
    odds = torch.tensor([[[9.0, 0.0], [9.0, 0.0], [0.0, 0.0], [0.0, 0.0]]], dtype=torch.float64)
    real = torch.ones(1, 4, dtype=torch.bool)
    probs = equal_shares(odds, real, real[:, :2], 500).softmax(-1)
    close(probs.sum(1), torch.full((1, 2), 2.0, dtype=torch.float64), 1e-6)
    assert float(probs[0, :2, 0].min()) > 0.98
    assert float(probs[0, 2:, 1].min()) > 0.98


def test_the_gradient_of_equal_shares_is_that_of_its_iterations():
    odds = 2 * torch.randn(2, 6, 3, generator=generator(0), dtype=torch.float64)
    real, ways = torch.ones(2, 6, dtype=torch.bool), torch.ones(2, 3, dtype=torch.bool)
    real[1, 4:], ways[1, 2] = False, False
    assert torch.autograd.gradcheck(
        lambda v: torch.softmax(equal_shares(v, real, ways, 4), -1) * real.unsqueeze(-1), (odds.requires_grad_(),)
    )


def test_equal_shares_hold_for_classes_that_no_query_is_near():
    odds = torch.tensor([[[0.0, -300.0], [0.0, -310.0], [0.0, -320.0], [0.0, -330.0]]])
    real = torch.ones(1, 4, dtype=torch.bool)
    probs = equal_shares(odds, real, real[:, :2], 10).softmax(-1)
    assert probs[0, :, 1].round().tolist() == [1.0, 1.0, 0.0, 0.0]


def test_tasks_of_unknown_shares_stay_as_they_are():
    odds = 2 * torch.randn(3, 6, 3, generator=generator(1), dtype=torch.float64)
    real, ways, equal = torch.ones(3, 6, dtype=torch.bool), torch.ones(3, 3, dtype=torch.bool), [True, False, True]
    got = with_equal_shares(odds, torch.tensor(equal), real, ways)
    close(
        got,
        torch.where(torch.tensor(equal)[:, None, None], log_softmax(equal_shares(odds, real, ways)), log_softmax(odds)),
    )
