r"""The synthetic gradient for classes, a belief from a network that commutes with relabelling the classes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ebmeta.foundation.checks import at_least, check
from ebmeta.foundation.seeding import linear, stream
from ebmeta.likelihood import NEVER
from ebmeta.refine.base import QueryState, SyntheticGradient
from ebmeta.refine.exchangeable import ExchangeableLinear, mean_weights

__all__ = ["ClassSyntheticGradient", "Reading"]

CELL, TASK = 7, 8  # inputs of the network: per (query, class), and per task


@dataclass(frozen=True, eq=False)
class Reading:
    r"""The readings of a state by the network of classes.

    Args:
        cells: the last layer, shape `(T, Q, C, width)`.
        by_class: its mean over queries, shape `(T, C, width)`.
        by_task: means over queries and classes of what the network sees and of its last layer, shape `(T, F)`.
    """

    cells: Tensor
    by_class: Tensor
    by_task: Tensor


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
        inputs = [CELL + TASK, *[width] * (depth - 1)]
        self.layers = nn.ModuleList(ExchangeableLinear(number, width, source) for number in inputs)
        self.readout = linear(width, 1, source)
        nn.init.zeros_(self.readout.weight)
        nn.init.zeros_(self.readout.bias)

    @staticmethod
    def features(state: QueryState) -> Tensor:
        """Return the inputs of the network, shape `(T, Q, C, CELL + TASK)`."""
        p, ways = state.mean, state.setting.way_mask.unsqueeze(1)
        real = ways.to(p.dtype)
        queries = state.setting.query_mask.unsqueeze(-1).to(p.dtype)
        num_ways, num_queries = real.sum(-1, keepdim=True), queries.sum(1, keepdim=True)
        log_p = p.clamp(min=1e-12).log()
        loc = state.loc.masked_fill(~ways, 0.0)
        claimed = (p * queries).sum(1, keepdim=True)
        share = (claimed + 1) / (num_queries + num_ways) * num_ways
        spread = ((share - 1).square() * real).sum(-1, keepdim=True) / num_ways
        entropy = -(p * log_p * queries).sum((1, 2), keepdim=True) / num_queries / num_ways.log().clamp(min=1e-6)
        resultant = (p * queries * real).mT @ state.x
        length = resultant.norm(dim=-1, keepdim=True).clamp(min=1e-6)
        tight = (length / claimed.mT.clamp(min=1e-6)).mT
        direction = resultant / length
        near = (direction @ direction.mT - torch.eye(p.shape[-1], dtype=p.dtype, device=p.device)) * real.mT
        near = near.sum(1, keepdim=True) / (num_ways - 1).clamp(min=1)
        cell = [log_p / 3, p, (loc - loc.sum(-1, keepdim=True) / num_ways) / 5, state.var.clamp(min=1e-12).log()]
        task = [spread, (spread + 1e-3).log(), entropy, num_ways.log(), (num_queries / num_ways).log()]
        task += [state.setting.strength[:, None, None], *state.setting.balance]
        everything = [*cell, share.log(), 3 * tight, 3 * near, *task]
        return torch.stack([v.expand_as(p) for v in everything], -1).masked_fill(~ways.unsqueeze(-1), 0.0)

    @property
    def num_readings(self) -> int:
        """Readings of a task, $F$."""
        return CELL + TASK + self.readout.in_features

    def read(self, state: QueryState) -> Reading:
        """Return the readings of a state."""
        first = h = self.features(state)
        query_weight, way_weight = (
            mean_weights(m, h.dtype) for m in (state.setting.query_mask, state.setting.way_mask)
        )
        for layer in self.layers:
            h = nn.functional.silu(layer(h, query_weight, way_weight))
        inputs, by_class = ((query_weight.unsqueeze(1) @ v.flatten(2)).view(len(v), *v.shape[2:]) for v in (first, h))
        by_task = (way_weight.unsqueeze(1) @ torch.cat([inputs, by_class], -1)).squeeze(1)
        return Reading(h, by_class, by_task)

    def correction(self, reading: Reading) -> Tensor:
        r"""Return $g$ of a reading in nats, shape `(T, Q, C)`."""
        out: Tensor = self.readout(reading.cells).squeeze(-1)
        return out

    def belief(self, state: QueryState) -> Tensor:
        r"""Return $r$, the inferred class distribution of each query, shape `(T, Q, C)`."""
        logits = state.mean.clamp(min=1e-12).log() + self.correction(state.once(self.read))
        return torch.softmax(logits.masked_fill(~state.setting.way_mask.unsqueeze(1), NEVER), -1)

    def forward(self, state: QueryState) -> Tensor:
        return state.mean - self.belief(state)
