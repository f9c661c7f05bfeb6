r"""The synthetic gradient for real labels, with a predicted label for each query and what the inputs say of $w$.

Where inputs carry information on $w$, it is in their distribution, so the queries of a task are read as a set.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ebmeta.foundation.checks import at_least, check
from ebmeta.foundation.seeding import linear, stream
from ebmeta.refine.base import SyntheticGradient
from ebmeta.refine.exchangeable import mean_weights
from ebmeta.refine.state import QueryState

__all__ = ["RealSyntheticGradient"]

SCALE = 0.3  # of the network's outputs: they act once for each query, so small changes of its weights move far


class RealSyntheticGradient(SyntheticGradient):
    r"""$\xi_i = \mathbb E[A'(\eta_i)] - r_i$ with a predicted label $r_i$, and score and information of the inputs.

    $$ r_i = \mathbb E[A'(\eta_i)] + \mathbb E[A''(\eta_i)]\, \phi(x_i)^\top g, \qquad
       \zeta = Q\,(M u + b + z), \quad J = Q\,(R + V)(R + V)^\top, \qquad
       (g, z, V) = \text{a network of } h $$

    $u = [\overline{\phi}; \overline{\phi^2}; m]$ holds means over the queries and the location of $q$; $h$ adds
    learned second moments $\overline{(A\phi) \odot (B\phi)}$, the log variance of $q$ along the rows of $A$, and
    $\log Q$. With $g = z = V = 0$ this is the exact update by the queries of a linear-Gaussian world, and the
    network starts there, with $M = b = 0$. $V$ lets the information depend on the queries: on the direction in which
    they lie, for one (theory: "Zero-shot tasks").

    Args:
        num_weights: weights per output, $P$.
        width: second moments, and hidden units of the network.
        generator: source of the initial weights; that of seed 0 by default.
    """

    reads_inputs = True

    def __init__(self, num_weights: int, width: int = 32, generator: torch.Generator | None = None) -> None:
        super().__init__()
        for name, size in {"num_weights": num_weights, "width": width}.items():
            check(name, size, int, at_least(1))
        source = generator or stream(0)
        self.score = linear(3 * num_weights, num_weights, source)
        self.factor = nn.Parameter(0.3 * torch.eye(num_weights))
        self.left = linear(num_weights, width, source, bias=False)
        self.right = linear(num_weights, width, source, bias=False)
        self.hidden = linear(3 * num_weights + 2 * width + 1, width, source)
        self.readout = linear(width, num_weights * (2 + num_weights), source)
        for layer in (self.score, self.readout):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def _context(self, state: QueryState) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return u, g, z, of shapes `(T, C, ...)`, and V, shape `(T, C, P, P)`."""
        weight = mean_weights(state.setting.query_mask, state.x.dtype).unsqueeze(1)
        sets = (state.x, state.x.square(), self.left(state.x) * self.right(state.x))
        means = [(weight @ x).expand(*state.q.loc.shape[:2], -1) for x in sets]
        u = torch.cat([*means[:2], state.q.loc], -1)
        count = state.setting.query_mask.sum(1)[:, None, None].to(u.dtype).log().expand_as(u[..., :1])
        _, spread = state.q.marginal(self.left.weight.expand(len(u), -1, -1))
        h = nn.functional.silu(self.hidden(torch.cat([u, means[2], spread.mT.log(), count], -1)))
        size = u.shape[-1] // 3
        shift, score, turn = (SCALE * self.readout(h)).split([size, size, size * size], -1)
        return u, shift, score, turn.unflatten(-1, (size, size))

    def forward(self, state: QueryState) -> Tensor:
        _, shift, _, _ = self._context(state)
        return -state.curvature * (state.x @ shift.mT)

    def inputs(self, state: QueryState) -> tuple[Tensor, Tensor]:
        u, _, score, turn = self._context(state)
        queries = state.setting.query_mask.sum(1)[:, None, None].to(u.dtype)
        columns = (self.factor + turn).mT.flatten(0, 1)  # an output's own, and `gram` shares them between outputs
        weight = queries.expand(*u.shape[:2], len(self.factor)).flatten(0, 1).unsqueeze(-1)
        return queries * (self.score(u) + score), state.q.gram(columns, weight).view_as(state.q.precision)
