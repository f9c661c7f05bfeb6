r"""The learned prior $p_\psi(w)$: what all tasks have in common.

The prior is exchangeable over outputs: every class weight (or the one regression weight vector) is
drawn from the same Gaussian, so it is defined for any number of classes,

$$ w_{tc} \sim \mathcal N(\mu, \Sigma), \qquad \psi = (\mu, \Sigma), $$

with $\Sigma$ diagonal for class weights and full for regression weights. Learning $\psi$ over many
tasks is empirical Bayes (theory: "Empirical Bayes across tasks").
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ebmeta.gaussian import DiagonalGaussian, FullGaussian, Gaussian

__all__ = ["DiagonalPrior", "FullPrior", "Prior"]


class Prior(nn.Module):
    """A learned Gaussian over one output's weights; `forward` repeats it over tasks and outputs.

    Args:
        num_weights: number of weights per output, $P$.
        scale: initial standard deviation of every weight.

    Raises:
        ValueError: if `num_weights` or `scale` is not positive.
    """

    loc: nn.Parameter
    log_scale: nn.Parameter

    def __init__(self, num_weights: int, scale: float = 1.0) -> None:
        super().__init__()
        if num_weights < 1 or not scale > 0:
            raise ValueError(f"expected num_weights >= 1 and scale > 0, got {num_weights} and {scale}")
        self.loc = nn.Parameter(torch.zeros(num_weights))
        self.log_scale = nn.Parameter(torch.full((num_weights,), math.log(scale)))

    def gaussian(self) -> Gaussian:
        r"""Return $p_\psi$ of a single output, with parameters of shape `(P,)` and `(P,)` or `(P, P)`."""
        raise NotImplementedError

    def forward(self, num_tasks: int, num_ways: int) -> Gaussian:
        r"""Return $p_\psi(w_t)$ for every task and output.

        Args:
            num_tasks: $T$.
            num_ways: $C$.

        Returns:
            A Gaussian of shape `(T, C, P)`.
        """
        return self.gaussian().expand(num_tasks, num_ways)


class DiagonalPrior(Prior):
    r"""$w_{cp} \sim \mathcal N(\mu_p, \sigma_p^2)$, independent over weights."""

    def gaussian(self) -> DiagonalGaussian:
        return DiagonalGaussian(self.loc, torch.exp(-2 * self.log_scale))


class FullPrior(Prior):
    r"""$w_c \sim \mathcal N(\mu, L L^\top)$ with $L$ lower triangular.

    The factor is `diag(exp(log_scale)) @ (unit lower triangle)`, so every value of the parameters is
    a covariance and `log_scale` alone sets the size.
    """

    def __init__(self, num_weights: int, scale: float = 1.0) -> None:
        super().__init__(num_weights, scale)
        self.lower = nn.Parameter(torch.zeros(num_weights, num_weights))

    def scale_tril(self) -> Tensor:
        """Return $L$, shape `(P, P)`."""
        unit = torch.tril(self.lower, -1) + torch.eye(len(self.lower), dtype=self.lower.dtype, device=self.lower.device)
        return self.log_scale.exp().unsqueeze(-1) * unit

    def gaussian(self) -> FullGaussian:
        return FullGaussian(self.loc, torch.cholesky_inverse(self.scale_tril()))
