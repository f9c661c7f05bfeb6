r"""The synthetic gradient as published, a network of one query's linear predictors, kept for comparison."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ebmeta.foundation.checks import at_least, check
from ebmeta.foundation.seeding import linear, stream
from ebmeta.refine.base import SyntheticGradient
from ebmeta.refine.state import QueryState

__all__ = ["MLPSyntheticGradient"]


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
        check("n_way", n_way, int, at_least(1))
        self.n_way, hidden, source = n_way, 8 * n_way, generator or stream(0)
        self.net = nn.Sequential(linear(n_way, hidden, source), nn.ReLU(), linear(hidden, hidden, source), nn.ReLU())
        self.readout = linear(hidden, n_way, source)
        nn.init.zeros_(self.readout.weight)
        nn.init.zeros_(self.readout.bias)

    def forward(self, state: QueryState) -> Tensor:
        if state.loc.shape[-1] != self.n_way or not bool(state.setting.way_mask.all()):
            raise ValueError(
                f"the per-query network was built for {self.n_way} classes in every task, "
                f"got {sorted(set(state.setting.way_mask.sum(1).tolist()))}"
            )
        out: Tensor = self.readout(self.net(state.loc))
        return out
