r"""The posterior in the span of the labelled rows, the directions that labels depend on.

Labels depend on $w$ through the linear predictors of their rows alone. With the columns of $U_t$ an orthonormal basis
of the span of the features of task $t$'s labelled rows, and $u = U_t^\top w$,

$$ \frac{p_\psi(w)\, p(y \mid w)}{q(w)} = \frac{p_\psi(u)\, p(y \mid u)}{q(u)} \cdot
   \frac{p_\psi(w \mid u)}{q(w \mid u)} : $$

the second factor compares two Gaussians and is known in closed form; only the first has to be sampled. It has a few
dimensions per output where $w$ may have hundreds. A second set of columns spans the other rows, orthogonal to the
first; Gaussians are stored by a Cholesky factor, whose leading block is that of the first set.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from ebmeta.parts.gaussian import Gaussian

__all__ = ["Frame", "Projected", "frame", "project"]

RANK = 1e-6  # singular values below this share of the largest are rounding


@dataclass(frozen=True, eq=False)
class Frame:
    r"""Orthonormal directions of every task, those of labelled rows first.

    Args:
        basis: $U$, shape `(T, P, R)`; zero where a task has fewer directions.
        real: True where a direction exists, shape `(T, R)`.
        num_labelled: how many of the $R$ belong to the labelled rows.
    """

    basis: Tensor
    real: Tensor
    num_labelled: int

    def __len__(self) -> int:
        return self.basis.shape[-1]


def _directions(rows: Tensor) -> tuple[Tensor, Tensor]:
    if not rows.shape[1]:
        return rows.mT, rows.new_zeros(len(rows), 0, dtype=torch.bool)
    _, size, directions = torch.linalg.svd(rows, full_matrices=False)
    real = size > RANK * size[:, :1].clamp(min=RANK)
    return (directions * real.unsqueeze(-1)).mT, real


def frame(labelled: Tensor, others: Tensor) -> Frame:
    """Return the directions of labelled rows, and those that other rows add.

    Args:
        labelled: features of labelled rows, zero where padded, shape `(T, S, P)`.
        others: features of other rows, zero where padded, shape `(T, Q, P)`.
    """
    first, real = _directions(labelled)
    added, more = _directions(others - others @ first @ first.mT)
    return Frame(torch.cat([first, added], -1), torch.cat([real, more], -1), first.shape[-1])


@dataclass(frozen=True, eq=False)
class Projected:
    r"""A Gaussian of $u = U^\top w$; standard normal in directions that do not exist.

    Args:
        loc: shape `(..., C, R)`.
        scale_tril: lower triangular factor of the covariance, shape `(..., C, R, R)`.
    """

    loc: Tensor
    scale_tril: Tensor

    def repeat(self, times: int) -> Projected:
        """Return every task `times` times, one after the other."""
        return Projected(self.loc.repeat_interleave(times, 0), self.scale_tril.repeat_interleave(times, 0))

    def leading(self, size: int) -> Projected:
        """Return the marginal of the first `size` directions."""
        return Projected(self.loc[..., :size], self.scale_tril[..., :size, :size])

    def draw(self, noise: Tensor) -> Tensor:
        """Return draws of shape `(T, C, S, R)` from standard normal `noise` of the same shape."""
        return self.loc.unsqueeze(-2) + noise @ self.scale_tril.mT

    def log_prob(self, u: Tensor, *sizes: int) -> list[Tensor]:
        """Return log densities of draws of shape `(T, C, S, R)`, summed over outputs.

        Args:
            u: the draws.
            *sizes: numbers of leading directions.

        Returns:
            For each size, the log density of that many directions up to a constant, shape `(S, T)`.
        """
        off = (u - self.loc.unsqueeze(-2)).mT
        noise: Tensor = torch.linalg.solve_triangular(self.scale_tril, off, upper=False)
        each = -noise.square() / 2 - self.scale_tril.diagonal(dim1=-2, dim2=-1).log().unsqueeze(-1)
        return [each[..., :size, :].sum((1, 2)).T for size in sizes]

    def kl(self, other: Projected) -> Tensor:
        """Return the divergence in nats, summed over outputs, shape `(T,)`."""
        return kl_divergence(self._distribution(), other._distribution()).sum(-1)

    def _distribution(self) -> MultivariateNormal:
        return MultivariateNormal(self.loc, scale_tril=self.scale_tril, validate_args=False)


def project(q: Gaussian, of: Frame) -> Projected:
    """Return the marginal of a Gaussian of shape `(T, C, P)` in the directions of a frame."""
    covariance = of.basis.mT.unsqueeze(1) @ q.covariance_times(of.basis)
    covariance = covariance + torch.diag_embed((~of.real).to(covariance)).unsqueeze(1)
    return Projected(q.loc @ of.basis, torch.linalg.cholesky(covariance))
