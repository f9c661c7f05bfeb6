"""Softmax over classes, whatever way memory runs."""

from __future__ import annotations

import math

import pytest
import torch
from builders import close, generator

from ebmeta.foundation.softmax import LEAST, log_softmax, probabilities, reported, softmax


def test_it_is_the_softmax_of_the_last_axis():
    odds = torch.randn(2, 7, 3, generator=generator(0), dtype=torch.float64)
    for table in (odds, odds.mT.contiguous().mT):
        close(softmax(table), torch.softmax(odds, -1))
        close(log_softmax(table), torch.log_softmax(odds, -1))


def test_memory_runs_along_rows():
    assert softmax(torch.zeros(2, 7, 3)).mT.is_contiguous()


def test_probabilities_are_exponentials_but_for_those_that_no_sum_can_tell():
    log_p = torch.linspace(2 * LEAST, 0, 1001, dtype=torch.float64, requires_grad=True)
    p = probabilities(log_p)
    assert torch.equal(p, torch.where(log_p > LEAST, log_p.exp(), 0))
    assert 1 + math.exp(LEAST) == 1
    p.sum().backward()
    assert torch.equal(log_p.grad, p)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_reported_probabilities_are_exponentials_down_to_the_least_number_of_full_precision(dtype):
    tiny = torch.finfo(dtype).tiny
    log_p = torch.linspace(1.2 * math.log(tiny), 0, 1001, dtype=dtype)
    assert torch.equal(reported(log_p), torch.where(log_p.exp() > tiny, log_p.exp(), 0))
    assert reported(torch.tensor([-torch.inf, 0.0], dtype=dtype)).tolist() == [0, 1]
    assert bool(reported(torch.tensor([torch.nan], dtype=dtype)).isnan())
