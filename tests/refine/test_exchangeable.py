"""The exchangeable layer against its formula, written out."""

from __future__ import annotations

import torch
from builders import close, generator, perturb

from ebmeta.refine.exchangeable import ExchangeableLinear, mean_weights


def test_the_exchangeable_layer_is_its_formula():
    layer = ExchangeableLinear(3, 2).double()
    perturb(layer, scale=0.5)
    h = torch.randn(1, 4, 5, 3, generator=generator(0), dtype=torch.float64)
    queries, ways = torch.tensor([[0.5, 0.5, 0.0, 0.0]]).double(), torch.tensor([[0.25] * 4 + [0.0]]).double()
    got = layer(h, queries, ways)
    block = h[0, :2, :4]
    for i in range(2):
        for c in range(4):
            expected = (
                layer.cell(block[i, c])
                + layer.by_class(block[:, c].mean(0))
                + layer.by_query(block[i].mean(0))
                + layer.overall(block.mean((0, 1)))
            )
            close(got[0, i, c], expected)


def test_means_run_over_real_entries():
    mask = torch.tensor([[True, True, False], [False, True, False]])
    assert mean_weights(mask, torch.float64).tolist() == [[0.5, 0.5, 0.0], [0.0, 1.0, 0.0]]
