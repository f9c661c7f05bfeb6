"""Layers for tables of classes and queries that do not depend on the order of either."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ebmeta.foundation.seeding import linear, stream

__all__ = ["ExchangeableLinear", "Table", "Weights", "mean_weights"]


def mean_weights(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return 1/n for the n real entries of each row of a mask and 0 elsewhere."""
    weights = mask.to(dtype)
    return weights / weights.sum(1, keepdim=True)


class Table(NamedTuple):
    """Features of each class and query; what does not vary along an axis stands without it.

    Args:
        cells: shape `(T, C, Q, A)`; queries of a class lie together, so that steps run along them.
        of_class: shape `(T, C, B)`.
        of_task: shape `(T, E)`.
    """

    cells: Tensor
    of_class: Tensor
    of_task: Tensor

    @staticmethod
    def of_cells(cells: Tensor) -> Table:
        """Return a table of cells alone."""
        return Table(cells, cells.new_zeros(*cells.shape[:2], 0), cells.new_zeros(len(cells), 0))

    def over_queries(self, query_weight: Tensor) -> Tensor:
        """Return the means of cells over queries, shape `(T, C, A)`, with weights of shape `(T, Q)`."""
        tasks, ways, queries, width = self.cells.shape
        rows = query_weight.unsqueeze(1).expand(tasks, ways, queries).reshape(tasks * ways, 1, queries)
        return torch.bmm(rows, self.cells.view(tasks * ways, queries, width)).view(tasks, ways, width)

    def means(self, over_queries: Tensor, way_weight: Tensor) -> Tensor:
        """Return the means of all features over classes and queries, shape `(T, A + B + E)`."""
        of_class = torch.bmm(way_weight.unsqueeze(1), torch.cat([over_queries, self.of_class], -1))
        return torch.cat([of_class.squeeze(1), self.of_task], -1)


class Weights(NamedTuple):
    """The weights of a layer, for means that are multiplied once.

    Args:
        cell: shape `(outputs, A)`.
        of_class: of means over queries and of features of classes, shape `(outputs, A + B)`.
        of_query: of means over classes, shape `(outputs, A)`.
        of_task: of means over both, shape `(outputs, A + B + E)`.
    """

    cell: Tensor
    of_class: Tensor
    of_query: Tensor
    of_task: Tensor


class ExchangeableLinear(nn.Module):
    r"""A linear layer on a (class, query) table that commutes with permuting either axis.

    $$ u_{ic} = W_1 h_{ic} + W_2 \bar h_{\cdot c} + W_3 \bar h_{i \cdot} + W_4 \bar h_{\cdot\cdot} + b $$

    Means run over real entries only. A feature of a class or of a task is its own mean along the axes that it does not
    have, and is multiplied once. Source: Hartford, Graham, Leyton-Brown and Ravanbakhsh 2018, Deep models of
    interactions across sets.

    Args:
        inputs: features of a table, $A + B + E$.
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

    def weights(self, cells: int, of_class: int = 0, of_task: int = 0) -> Weights:
        """Return the weights for tables of so many features of each kind."""
        parts = (self.cell, self.by_class, self.by_query, self.overall)
        cell, by_class, by_query, overall = (torch.split(p.weight, [cells, of_class, of_task], 1) for p in parts)
        if not of_class + of_task:
            return Weights(cell[0], by_class[0], by_query[0], overall[0])
        return Weights(
            cell[0],
            torch.cat([by_class[0], cell[1] + by_class[1]], 1),
            by_query[0],
            torch.cat([overall[0], by_query[1] + overall[1], cell[2] + by_class[2] + by_query[2] + overall[2]], 1),
        )

    def forward(
        self, table: Table, query_weight: Tensor, way_weight: Tensor, weights: Weights | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return cells, shape `(T, C, Q, outputs)`, and the means of the table over classes and queries, `(T, inputs)`.

        Args:
            table: the features.
            query_weight: 1/Q for real queries and 0 else, shape `(T, Q)`.
            way_weight: 1/C for real classes and 0 else, shape `(T, C)`.
            weights: `weights` of this layer, where they are known.
        """
        own = weights or self.weights(*(values.shape[-1] for values in table))
        over_queries = table.over_queries(query_weight)
        means = table.means(over_queries, way_weight)
        of_class = functional.linear(torch.cat([over_queries, table.of_class], -1), own.of_class)
        of_task = functional.linear(means, own.of_task, self.cell.bias)
        of_query = functional.linear((table.cells * way_weight[:, :, None, None]).sum(1), own.of_query)
        out: Tensor = functional.linear(table.cells, own.cell) + of_query.unsqueeze(1)
        return out + (of_class + of_task.unsqueeze(1)).unsqueeze(2), means
