"""Layers for tables of queries and classes that do not depend on the order of either."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ebmeta.foundation.seeding import linear, stream

__all__ = ["ExchangeableLinear", "mean_weights"]


def mean_weights(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return 1/n for the n real entries of each row of a mask and 0 elsewhere."""
    weights = mask.to(dtype)
    return weights / weights.sum(1, keepdim=True)


class ExchangeableLinear(nn.Module):
    r"""A linear layer on a (query, class) table that commutes with permuting either axis.

    $$ u_{ic} = W_1 h_{ic} + W_2 \bar h_{\cdot c} + W_3 \bar h_{i \cdot} + W_4 \bar h_{\cdot\cdot} + b $$

    Means run over real entries only. Source: Hartford, Graham, Leyton-Brown and Ravanbakhsh 2018,
    Deep models of interactions across sets.

    Args:
        inputs: features per cell.
        outputs: features per cell after the layer.
        generator: source of the initial weights; that of seed 0 by default.
    """

    def __init__(self, inputs: int, outputs: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        source = generator or stream(0)
        self.cell = linear(inputs, outputs, source)
        self.by_class = linear(inputs, outputs, source, bias=False)
        self.by_query = linear(inputs, outputs, source, bias=False)
        self.overall = linear(inputs, outputs, source, bias=False)

    def forward(self, h: Tensor, query_weight: Tensor, way_weight: Tensor) -> Tensor:
        """Return the table, shape `(T, Q, C, outputs)`.

        Args:
            h: the table, shape `(T, Q, C, inputs)`.
            query_weight: 1/Q for real queries and 0 else, shape `(T, Q)`.
            way_weight: 1/C for real classes and 0 else, shape `(T, C)`.
        """
        over_queries = (query_weight.unsqueeze(1) @ h.flatten(2)).view(len(h), *h.shape[2:])
        over_ways = (h * way_weight[:, None, :, None]).sum(2)
        over_both = way_weight.unsqueeze(1) @ over_queries
        out: Tensor = self.cell(h) + self.by_class(over_queries).unsqueeze(1)
        out = out + (self.by_query(over_ways) + self.overall(over_both)).unsqueeze(2)
        return out
