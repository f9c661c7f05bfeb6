"""Softmax over classes, whatever way memory runs."""

from __future__ import annotations

import torch
from builders import close, generator

from ebmeta.foundation.softmax import log_softmax, softmax


def test_it_is_the_softmax_of_the_last_axis():
    odds = torch.randn(2, 7, 3, generator=generator(0), dtype=torch.float64)
    for table in (odds, odds.mT.contiguous().mT):
        close(softmax(table), torch.softmax(odds, -1))
        close(log_softmax(table), torch.log_softmax(odds, -1))


def test_memory_runs_along_rows():
    assert softmax(torch.zeros(2, 7, 3)).mT.is_contiguous()
