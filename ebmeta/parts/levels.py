r"""The posterior of a task's noise level $z_t$, by quadrature around its mode.

$$ p(z_t \mid y^s_t) \propto \mathcal N(z_t; 0, 1)\, p(y^s_t \mid z_t), \qquad
   \int f(z)\, dz \approx \sum_j c_j f(\hat z_t + s_t \epsilon_j), \quad
   c_j = w_j\, s_t / \mathcal N(\epsilon_j; 0, 1), $$

with $\hat z_t$ the mode, $s_t$ the width there, and $(\epsilon_j, w_j)$ a Gauss-Hermite rule. The evidence
$p(y^s_t \mid z)$ comes from the initializer, which is exact given the level where the likelihood is conjugate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["Levels", "place_levels"]

NODES = 9
NEWTON_STEPS = 8
STEP = 0.05  # of the finite differences
FARTHEST = 8.0  # standard deviations of the prior


@dataclass(frozen=True, eq=False)
class Levels:
    r"""Nodes in $z$ of every task.

    Args:
        z: coordinates, shape `(T, J)`.
        log_mass: $\log (c_j \mathcal N(z_j; 0, 1))$, shape `(T, J)`.
        loc: mode $\hat z_t$, shape `(T,)`.
        scale: width $s_t$, shape `(T,)`.
    """

    z: Tensor
    log_mass: Tensor
    loc: Tensor
    scale: Tensor


def place_levels(log_evidence: Callable[[Tensor], Tensor], num_tasks: int, like: Tensor) -> Levels:
    r"""Place the nodes by Newton steps on the log posterior of $z_t$, whose derivatives are finite differences.

    Gradients flow through the last step alone, which at the mode is all of them, and through the width there.

    Args:
        log_evidence: map from levels, shape `(T, 3)`, to $\log p(y^s_t \mid z)$ in nats of the same shape.
        num_tasks: $T$.
        like: a tensor on the device wanted; levels come in 64 bits.
    """
    z = like.new_zeros(num_tasks, dtype=torch.float64)
    with torch.no_grad():
        for _ in range(NEWTON_STEPS):
            z, _ = _newton(log_evidence, z)
    z, _ = _newton(log_evidence, z)
    _, information = _newton(log_evidence, z)
    rule = np.polynomial.hermite_e.hermegauss(NODES)
    nodes, weights = (torch.as_tensor(v, dtype=z.dtype, device=z.device) for v in rule)
    scale = information.rsqrt()
    points = z.unsqueeze(1) + scale.unsqueeze(1) * nodes
    log_rule = (weights / weights.sum()).log() + nodes.square() / 2 + math.log(2 * math.pi) / 2
    log_prior = -points.square() / 2 - math.log(2 * math.pi) / 2
    return Levels(points, log_rule + scale.log().unsqueeze(1) + log_prior, z, scale)


def _newton(log_evidence: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
    """Return the levels after one step, and the negative second derivative before it."""
    points = z.unsqueeze(1) + torch.tensor([-STEP, 0.0, STEP], dtype=z.dtype, device=z.device)
    below, here, above = (log_evidence(points) - points.square() / 2).unbind(1)
    slope, curvature = (above - below) / (2 * STEP), (2 * here - above - below) / STEP**2
    information = curvature.clamp(min=0.5)
    return (z + (slope / information).clamp(-2, 2)).clamp(-FARTHEST, FARTHEST), information
