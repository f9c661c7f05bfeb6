r"""The synthetic gradient for classes, a belief from a network that commutes with relabelling the classes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ebmeta.foundation.checks import at_least, check
from ebmeta.foundation.seeding import linear, stream
from ebmeta.foundation.softmax import softmax
from ebmeta.likelihood import NEVER
from ebmeta.refine.base import SyntheticGradient
from ebmeta.refine.exchangeable import ExchangeableLinear, Table, Weights, mean_weights
from ebmeta.refine.state import QueryState
from ebmeta.tasks.sizes import MOST_QUERIES

__all__ = ["INPUTS", "LOG_QUERIES", "ClassSyntheticGradient", "Reading"]

CELL, CLASS, TASK = 4, 3, 8  # inputs of the network: of each cell, of each class, and of the task
INPUTS = CELL + CLASS + TASK
LOG_QUERIES = CELL + CLASS + 4  # the place among them of the logarithm of the queries of a class
LEAST = math.log(1e-12)  # of a log probability


@dataclass(frozen=True, eq=False)
class Reading:
    r"""The readings of a state by the network of classes.

    Args:
        cells: the last layer, shape `(T, C, Q, width)`.
        by_class: its mean over queries, shape `(T, C, width)`.
        by_task: means over queries and classes of what the network sees and of its last layer, shape `(T, F)`.
    """

    cells: Tensor
    by_class: Tensor
    by_task: Tensor

    @property
    def with_products(self) -> Tensor:
        """`by_task` and the products of what the network sees of the task, two by two, shape `(T, F')`.

        They are what a temperature is fitted to, on tasks of up to 40 queries a class. More count as so many: beyond,
        nothing was seen that would say how confidence goes on.
        """
        most = self.by_task.new_full(self.by_task.shape[1:], math.inf)
        most[LOG_QUERIES] = math.log(MOST_QUERIES)
        by_task = torch.minimum(self.by_task, most)
        own = by_task[:, CELL + CLASS : INPUTS]
        i, j = torch.triu_indices(TASK, TASK, device=own.device)
        return torch.cat([by_task, own[:, i] * own[:, j]], -1)


@dataclass(frozen=True, eq=False)
class _Facts:
    """What all states of a path share.

    Args:
        ways: 1 where a class exists, shape `(T, C)`.
        queries: 1 where a query is real, shape `(T, Q)`.
        num_ways: shape `(T, 1)`.
        num_queries: shape `(T, 1)`.
        task: inputs of the task that no belief changes, shape `(T, 5)`.
    """

    ways: Tensor
    queries: Tensor
    num_ways: Tensor
    num_queries: Tensor
    task: Tensor

    @staticmethod
    def of(state: QueryState) -> _Facts:
        """Return them for a path, of a state on it."""
        setting, dtype = state.setting, state.x.dtype
        ways, queries = setting.way_mask.to(dtype), setting.query_mask.to(dtype)
        num_ways, num_queries = ways.sum(1, keepdim=True), queries.sum(1, keepdim=True)
        sizes = [num_ways.log(), (num_queries / num_ways).log()]
        known = [v.to(dtype) for v in (setting.strength.unsqueeze(1), *setting.balance)]
        return _Facts(ways, queries, num_ways, num_queries, torch.cat(sizes + known, -1))


class ClassSyntheticGradient(SyntheticGradient):
    r"""$\xi_i = p_i - r_i$ with $r_i = \mathrm{softmax}(\log p_i + g_i)$ and $g$ an exchangeable network.

    $g$ sees, for each (query, class) cell: $\log p$, $p$, the logit centred over classes, the log variance of
    the logit; for each class: the log of its share of the queries, how tightly they lie together (length of
    their mean, weighted by $p$), and how near the other classes are (mean cosine between those means); and of
    the task: how unequal the shares are, the mean entropy of $p$, how many classes and queries per class there
    are, the information in the support set, and what is known of the class proportions. The means over queries and
    classes inside each layer carry the context.

    Args:
        width: hidden features per cell.
        depth: exchangeable layers.
        generator: source of the initial weights; that of seed 0 by default.
    """

    def __init__(self, width: int = 16, depth: int = 2, generator: torch.Generator | None = None) -> None:
        super().__init__()
        for name, size in {"width": width, "depth": depth}.items():
            check(name, size, int, at_least(1))
        source = generator or stream(0)
        inputs = [INPUTS, *[width] * (depth - 1)]
        self.layers = nn.ModuleList(ExchangeableLinear(number, width, source) for number in inputs)
        self.readout = linear(width, 1, source)
        nn.init.zeros_(self.readout.weight)
        nn.init.zeros_(self.readout.bias)

    @staticmethod
    def features(state: QueryState) -> Table:
        """Return the inputs of the network."""
        facts = state.once_a_path(_Facts.of)
        real, num_ways, num_queries = facts.ways, facts.num_ways, facts.num_queries
        p, log_p, loc = state.mean.mT, state.log_mean.mT.clamp(min=LEAST), state.loc.mT * real.unsqueeze(-1)
        counted = p * facts.queries.unsqueeze(1)
        claimed = counted.sum(2)
        share = (claimed + 1) * (num_ways / (num_queries + num_ways))
        spread = ((share - 1).square() * real).sum(1, keepdim=True) / num_ways
        entropy = (counted * log_p).sum((1, 2)).unsqueeze(1) / -(num_queries * num_ways.log().clamp(min=1e-6))
        resultant = counted @ state.x
        gram = resultant @ resultant.mT
        length = gram.diagonal(dim1=1, dim2=2).clamp(min=1e-12).sqrt()
        each = real / length
        near = (each * (gram @ each.unsqueeze(-1)).squeeze(-1) - real) / (num_ways - 1).clamp(min=1)
        center = loc.sum(1, keepdim=True) / num_ways.unsqueeze(1)
        cell = [log_p / 3, p, (loc - center) / 5, state.log_var.mT]
        of_class = [share.log(), 3 * length / claimed.clamp(min=1e-6), 3 * near]
        task = torch.cat([spread, (spread + 1e-3).log(), entropy, facts.task], -1)
        return Table(torch.stack(cell, -1), torch.stack(of_class, -1), task)

    @property
    def num_readings(self) -> int:
        """Readings of a task, $F$."""
        return INPUTS + self.readout.in_features

    @property
    def num_with_products(self) -> int:
        """Readings of a task and products of them, $F'$."""
        return self.num_readings + TASK * (TASK + 1) // 2

    def read(self, state: QueryState) -> Reading:
        """Return the readings of a state."""
        query_weight, way_weight, weights = state.once_a_path(self._weights)
        table, means = self.features(state), []
        for layer, own in zip(self.layers, weights, strict=True):
            cells, mean = layer(table, query_weight, way_weight, own)
            table = Table.of_cells(nn.functional.silu(cells))
            means.append(mean)
        by_class = table.over_queries(query_weight)
        return Reading(table.cells, by_class, torch.cat([means[0], table.means(by_class, way_weight)], -1))

    def _weights(self, state: QueryState) -> tuple[Tensor, Tensor, list[Weights]]:
        """Return what all steps share: the weights of means, and those of the layers."""
        masks = (state.setting.query_mask, state.setting.way_mask)
        query_weight, way_weight = (mean_weights(m, state.x.dtype) for m in masks)
        kinds = [(CELL, CLASS, TASK), *[(self.readout.in_features,)] * (len(self.layers) - 1)]
        layers = [cast(ExchangeableLinear, layer) for layer in self.layers]
        return query_weight, way_weight, [layer.weights(*kind) for layer, kind in zip(layers, kinds, strict=True)]

    def correction(self, reading: Reading) -> Tensor:
        r"""Return $g$ of a reading in nats, shape `(T, Q, C)`."""
        out: Tensor = self.readout(reading.cells).squeeze(-1).mT
        return out

    def belief(self, state: QueryState) -> Tensor:
        r"""Return $r$, the inferred class distribution of each query, shape `(T, Q, C)`."""
        logits = state.log_mean.clamp(min=LEAST) + self.correction(state.once(self.read))
        return softmax(logits.masked_fill(~state.setting.way_mask.unsqueeze(1), NEVER))

    def forward(self, state: QueryState) -> Tensor:
        return state.mean - self.belief(state)
