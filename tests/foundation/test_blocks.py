"""Blocks of rows give what all rows give."""

from __future__ import annotations

import pytest
import torch

from ebmeta.foundation import blocks


@pytest.mark.parametrize("shape", [(3, 5, 4), (7, 4), (0, 4), (2, 0, 4), (2, 3, 1)])
@pytest.mark.parametrize("numbers", [1, 8, 13, 1000])
def test_blocks_of_rows_are_the_rows(monkeypatch, shape, numbers):
    monkeypatch.setattr(blocks, "CACHE", numbers)
    x, seen = torch.arange(float(torch.Size(shape).numel())).view(shape), []

    def function(rows):
        seen.append(len(rows))
        return (rows + 1).double()

    out = blocks.by_blocks(function, x, 0.25)
    assert out.dtype == torch.float64
    assert out.shape == (*shape[:-1], shape[-1] + 1)
    assert torch.equal(out[..., :-1], (x + 1).double())
    assert bool((out[..., -1] == 0.25).all())
    assert max(seen) <= max(1, numbers // shape[-1])
    assert sum(seen) == x[..., 0].numel()
