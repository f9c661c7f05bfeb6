"""Layers for tables of classes and queries that do not depend on the order of either."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
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
        bias: shape `(outputs,)`.
    """

    cell: Tensor
    of_class: Tensor
    of_query: Tensor
    of_task: Tensor
    bias: Tensor


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
            return Weights(cell[0], by_class[0], by_query[0], overall[0], self.cell.bias)
        return Weights(
            cell[0],
            torch.cat([by_class[0], cell[1] + by_class[1]], 1),
            by_query[0],
            torch.cat([overall[0], by_query[1] + overall[1], cell[2] + by_class[2] + by_query[2] + overall[2]], 1),
            self.cell.bias,
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
        given = (*table, query_weight, way_weight, *own)
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            out, means = _Layer.apply(*given)  # type: ignore[no-untyped-call]
            return out, means
        out, *_, means = _layer(*given)  # which may be mapped over models
        return out, means


def _layer(
    cells: Tensor, of_class: Tensor, of_task: Tensor, query_weight: Tensor, way_weight: Tensor, *weights: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return cells after the layer, and the means of the table over queries, over classes, and over both."""
    table, own = Table(cells, of_class, of_task), Weights(*weights)
    over_queries = table.over_queries(query_weight)
    by_class, by_task = torch.cat([over_queries, of_class], -1), table.means(over_queries, way_weight)
    by_query = torch.bmm(way_weight.unsqueeze(1), cells.flatten(2)).view(*cells.shape[::2], cells.shape[-1])
    out = functional.linear(cells, own.cell).add_(functional.linear(by_query, own.of_query).unsqueeze(1))
    of_both = functional.linear(by_task, own.of_task, own.bias).unsqueeze(1)
    out += (functional.linear(by_class, own.of_class) + of_both).unsqueeze(2)
    return out, by_class, by_query, by_task


class _Layer(torch.autograd.Function):
    """The layer. Its gradient is written out: that of each operation by itself takes twice as long."""

    @staticmethod
    def forward(ctx: Any, *given: Tensor) -> tuple[Tensor, Tensor]:
        out, *means = _layer(*given)
        ctx.save_for_backward(given[0], *means, *given[3:])
        return out, means[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients with respect to the table and to the weights."""
        out, means = gradients
        cells, by_class, by_query, by_task, query_weight, way_weight, *weights = ctx.saved_tensors
        own, width = Weights(*weights), cells.shape[-1]
        of_query, of_class = out.sum(1), out.sum(2)
        of_both = of_class.sum(1)
        to_task = torch.addmm(means, of_both, own.of_task)
        to_class = way_weight.unsqueeze(-1) * to_task[:, None, : by_class.shape[-1]] + of_class @ own.of_class
        to_cell = (out @ own.cell).addcmul_(way_weight[:, :, None, None], (of_query @ own.of_query).unsqueeze(1))
        to_cell.addcmul_(query_weight[:, None, :, None], to_class[..., :width].unsqueeze(2))
        to_table = to_cell, to_class[..., width:], to_task[:, by_class.shape[-1] :]
        sides = (out, cells), (of_class, by_class), (of_query, by_query), (of_both, by_task)
        to_weights = [left.flatten(0, -2).mT @ right.flatten(0, -2) for left, right in sides]
        return *to_table, None, None, *to_weights, of_both.sum(0)
