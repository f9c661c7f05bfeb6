r"""The synthetic gradient $\xi$: what the gradient of the query loss would be, were the labels known.

For an exponential family the true gradient with respect to the linear predictor is
$A'(\eta_i) - T(y_i)$ (over the dispersion). Its expectation given what is known is $A'(\eta_i) - r_i$
with $r_i = \mathbb E[T(y_i) \mid \text{what is known}]$, so the residual form learns the *belief* $r$:

- `ClassSyntheticGradient`: $r_i$ is a distribution over classes, from a network that commutes with
  relabelling the classes and permuting the queries;
- `ebmeta.refine.real_synthetic_gradient.RealSyntheticGradient`: $r_i$ is a predicted label, from the queries as a set;
- `MLPSyntheticGradient`: the published form, a network of one query's logits, kept for comparison.

Every one starts at $\xi = 0$, that is $r = A'(\eta)$: an untrained network changes nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ebmeta.foundation.seeding import linear, stream
from ebmeta.likelihood import NEVER
from ebmeta.parts.gaussian import Gaussian

__all__ = [
    "ClassSyntheticGradient",
    "ExchangeableLinear",
    "MLPSyntheticGradient",
    "QueryState",
    "Reading",
    "SyntheticGradient",
]

CELL, TASK = 7, 8  # inputs of the class network: per (query, class), and per task


@dataclass(frozen=True, eq=False)
class Reading:
    r"""What the network of classes makes of a state.

    Args:
        cells: the last layer, shape `(T, Q, C, width)`.
        by_class: its mean over queries, shape `(T, C, width)`.
        by_task: means over queries and classes of what the network sees and of its last layer, shape `(T, F)`.
    """

    cells: Tensor
    by_class: Tensor
    by_task: Tensor


@dataclass(frozen=True, eq=False)
class QueryState:
    r"""What is known of the queries at one step of refinement: no labels.

    Args:
        q: the posterior so far, shape `(T, C, P)`.
        x: query features $\phi(x^q)$, shape `(T, Q, P)`.
        loc: location of $\eta$, shape `(T, Q, C)`.
        var: variance of $\eta$, shape `(T, Q, C)`.
        mean: $\mathbb E[A'(\eta)]$, shape `(T, Q, C)`.
        query_mask: True where a query is real, shape `(T, Q)`.
        way_mask: True where a class exists, shape `(T, C)`.
        strength: how much the support set has said, mean log ratio of the precisions of $q_0$ and prior, shape `(T,)`.
        curvature: $\mathbb E[A''(\eta)]$, shape `(T, Q, C)`.
        concentration: what is known of the class proportions, shape `(T,)` (see `TaskBatch`), or None.
    """

    q: Gaussian
    x: Tensor
    loc: Tensor
    var: Tensor
    mean: Tensor
    query_mask: Tensor
    way_mask: Tensor
    strength: Tensor
    curvature: Tensor
    concentration: Tensor | None = None

    @property
    def balance(self) -> tuple[Tensor, Tensor]:
        r"""Whether the concentration $a$ of class proportions is known, and $a / (1 + a)$ or 0; shape `(T, 1, 1)`."""
        unknown = self.strength.new_full(self.strength.shape, math.nan)
        a = (unknown if self.concentration is None else self.concentration)[:, None, None]
        told = (~a.isnan()).to(self.strength.dtype)
        return told, torch.where(a.isnan(), 0.0, 1 - 1 / (1 + a))


class SyntheticGradient(nn.Module):
    r"""Base class: a map from the state of the queries to $\xi$."""

    def forward(self, state: QueryState) -> Tensor:
        r"""Return $\xi$, shape `(T, Q, C)`: the stand-in for $A'(\eta) - T(y)$."""
        raise NotImplementedError

    #: Whether `inputs` is defined.
    reads_inputs: ClassVar[bool] = False

    def inputs(self, state: QueryState) -> tuple[Tensor, Tensor]:
        r"""Return what the inputs themselves say about $w$, where `reads_inputs`.

        Returns:
            The score $\zeta \approx \sum_i \nabla_w \log p(x_i \mid w)$, shape `(T, C, P)`, and its
            information $J$, in the shape of the precision.
        """
        raise NotImplementedError


def _positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}: expected at least 1, got {size}")


def _mean_weights(mask: Tensor, dtype: torch.dtype) -> Tensor:
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


class ClassSyntheticGradient(SyntheticGradient):
    r"""$\xi_i = p_i - r_i$ with $r_i = \mathrm{softmax}(\log p_i + g_i)$ and $g$ an exchangeable network.

    $g$ sees, for each (query, class) cell: $\log p$, $p$, the logit centred over classes, the log variance of
    the logit; for each class: the log of its share of the queries, how tightly they lie together (length of
    their mean, weighted by $p$), and how near the other classes are (mean cosine between those means); and of
    the task: how unequal the shares are, the mean entropy of $p$, how many classes and queries per class there
    are, how much the support set has said, and what is known of the class proportions. The means over queries and
    classes inside each layer carry the context.

    Args:
        width: hidden features per cell.
        depth: exchangeable layers.
        generator: source of the initial weights; that of seed 0 by default.
    """

    def __init__(self, width: int = 16, depth: int = 2, generator: torch.Generator | None = None) -> None:
        super().__init__()
        _positive(width=width, depth=depth)
        source = generator or stream(0)
        inputs = [CELL + TASK, *[width] * (depth - 1)]
        self.layers = nn.ModuleList(ExchangeableLinear(number, width, source) for number in inputs)
        self.readout = linear(width, 1, source)
        nn.init.zeros_(self.readout.weight)
        nn.init.zeros_(self.readout.bias)

    @staticmethod
    def features(state: QueryState) -> Tensor:
        """Return what the network sees, shape `(T, Q, C, CELL + TASK)`."""
        p, ways = state.mean, state.way_mask.unsqueeze(1)
        real = ways.to(p.dtype)
        queries = state.query_mask.unsqueeze(-1).to(p.dtype)
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
        task += [state.strength[:, None, None], *state.balance]
        everything = [*cell, share.log(), 3 * tight, 3 * near, *task]
        return torch.stack([v.expand_as(p) for v in everything], -1).masked_fill(~ways.unsqueeze(-1), 0.0)

    @property
    def num_readings(self) -> int:
        """Readings of a task, $F$."""
        return CELL + TASK + self.readout.in_features

    def read(self, state: QueryState) -> Reading:
        """Return what the layers make of a state."""
        first = h = self.features(state)
        query_weight, way_weight = (_mean_weights(m, h.dtype) for m in (state.query_mask, state.way_mask))
        for layer in self.layers:
            h = nn.functional.silu(layer(h, query_weight, way_weight))
        seen, by_class = ((query_weight.unsqueeze(1) @ v.flatten(2)).view(len(v), *v.shape[2:]) for v in (first, h))
        by_task = (way_weight.unsqueeze(1) @ torch.cat([seen, by_class], -1)).squeeze(1)
        return Reading(h, by_class, by_task)

    def belief(self, state: QueryState, reading: Reading | None = None) -> Tensor:
        r"""Return $r$, the inferred class distribution of each query, shape `(T, Q, C)`.

        Args:
            state: what is known of the queries.
            reading: what the layers make of it, where that is known already.
        """
        h = (self.read(state) if reading is None else reading).cells
        logits = state.mean.clamp(min=1e-12).log() + self.readout(h).squeeze(-1)
        return torch.softmax(logits.masked_fill(~state.way_mask.unsqueeze(1), NEVER), -1)

    def forward(self, state: QueryState) -> Tensor:
        return state.mean - self.belief(state)


class MLPSyntheticGradient(SyntheticGradient):
    r"""The published form: $\xi_i = \mathrm{MLP}(\eta_i)$, one query at a time, for a fixed number of classes.

    Neither equivariant to relabelling nor defined for another number of classes.
    Source: Hu et al. 2020, Empirical Bayes transductive meta-learning with synthetic gradients.

    Args:
        n_way: the number of classes of every task.
        generator: source of the initial weights; that of seed 0 by default.
    """

    def __init__(self, n_way: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        _positive(n_way=n_way)
        self.n_way, hidden, source = n_way, 8 * n_way, generator or stream(0)
        self.net = nn.Sequential(linear(n_way, hidden, source), nn.ReLU(), linear(hidden, hidden, source), nn.ReLU())
        self.readout = linear(hidden, n_way, source)
        nn.init.zeros_(self.readout.weight)
        nn.init.zeros_(self.readout.bias)

    def forward(self, state: QueryState) -> Tensor:
        if state.loc.shape[-1] != self.n_way or not bool(state.way_mask.all()):
            raise ValueError(
                f"the per-query network was built for {self.n_way} classes in every task, "
                f"got {sorted(set(state.way_mask.sum(1).tolist()))}"
            )
        out: Tensor = self.readout(self.net(state.loc))
        return out
