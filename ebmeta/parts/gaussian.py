r"""Gaussian families over a task's latent $w_t$, with one vector of $P$ weights for each of $C$ outputs.

A classifier has one output per class, a regression model has one output; both are the same object
here. Every family is stored by location $m$ and precision $\Lambda$, and offers the few operations
that inference needs, batched over tasks:

=======================  ==================================================================================
in code                  on paper
=======================  ==================================================================================
`marginal(x)`            $\eta_{ic} = x_i^\top w_c \sim \mathcal N(x_i^\top m_c,\; x_i^\top \Lambda_c^{-1} x_i)$
`gram(x, h)`             $\sum_i h_{ic}\, x_i x_i^\top$, in the family's own form
`times(v)`, `solve(v)`   $\Lambda v$ and $\Lambda^{-1} v$
`covariance_times(u)`    $\Lambda^{-1} U$
`retract(G)`             $\Lambda + G + \tfrac12 G \Lambda^{-1} G$
`kl(p)`                  $\mathrm{KL}(q \,\Vert\, p)$ in nats, summed over outputs
=======================  ==================================================================================
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from ebmeta.foundation.checks import at_least, checked
from ebmeta.foundation.lazy import lazy

__all__ = ["DiagonalGaussian", "FullGaussian", "Gaussian"]


@dataclass(frozen=True, eq=False)
class Gaussian(ABC):
    r"""A Gaussian over weights, independent over outputs.

    Args:
        loc: location $m$, shape `(T, C, P)`.
        precision: precision $\Lambda$, shape `(T, C, P)` (diagonal) or `(T, C, P, P)` (full).
    """

    loc: Tensor
    precision: Tensor
    exponent: ClassVar[int] = 1  # how many axes of weights a precision has

    def __post_init__(self) -> None:
        wanted = (*self.loc.shape[:-1], *self._sizes * self.exponent)
        if self.loc.dim() < 1 or tuple(self.precision.shape) != wanted:
            raise ValueError(f"precision: expected shape {wanted} to match loc, got {tuple(self.precision.shape)}")

    @property
    def _sizes(self) -> tuple[int, ...]:
        """How many weights vary, as a shape: all."""
        return tuple(self.loc.shape[-1:])

    def with_(self, loc: Tensor, precision: Tensor) -> Gaussian:
        """Return a member of the same family with other parameters."""
        return replace(self, loc=loc, precision=precision)

    def varying_part(self, x: Tensor) -> Tensor:
        """Return features, shape `(..., P)`, with 0 for those of weights that have no spread."""
        return x

    @checked(num_tasks=at_least(1), num_ways=at_least(1))
    def expand(self, num_tasks: int, num_ways: int) -> Gaussian:
        """Repeat parameters of shape `(P,)` or `(P, P)` over tasks and outputs, without copying."""
        shape = (num_tasks, num_ways)
        return self.with_(
            self.loc.expand(*shape, *self.loc.shape), self.precision.expand(*shape, *self.precision.shape)
        )

    def __getitem__(self, index: slice | Tensor) -> Gaussian:
        """Choose tasks by slice or indices."""
        return self.with_(self.loc[index], self.precision[index])

    def joined(self, others: Sequence[Gaussian]) -> Gaussian:
        """Return these tasks and those of others, one after the other."""
        parts = (self, *others)
        return self.with_(torch.cat([q.loc for q in parts]), torch.cat([q.precision for q in parts]))

    def double(self) -> Gaussian:
        """Return the same in 64 bits."""
        return self.with_(self.loc.double(), self.precision.double())

    @property
    def means(self) -> Gaussian:
        """The Gaussian of class means alone, or of all weights."""
        return self

    @checked()
    def marginal(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return location and variance of the linear predictor, both of shape `(T, Q, C)`, for `x` `(T, Q, P)`."""
        return (self.loc @ x.mT).mT, self._variance(x)  # in this order the gradient needs no slow product

    @abstractmethod
    def _variance(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def gram(self, x: Tensor, h: Tensor) -> Tensor:
        r"""Return $\sum_i h_{ic} x_i x_i^\top$ in the shape of the precision; `x` `(T, Q, P)`, `h` `(T, Q, C)`."""

    @abstractmethod
    def times(self, v: Tensor) -> Tensor:
        r"""Return $\Lambda v$ for `v` of shape `(T, C, P)`."""

    @abstractmethod
    def solve(self, v: Tensor) -> Tensor:
        r"""Return $\Lambda^{-1} v$ for `v` of shape `(T, C, P)`."""

    @abstractmethod
    def covariance_times(self, u: Tensor) -> Tensor:
        r"""Return $\Lambda^{-1} U$, shape `(T, C, P, R)`, for `u` $U$ of shape `(T, P, R)`."""

    @abstractmethod
    def retract(self, step: Tensor) -> Tensor:
        r"""Return $\Lambda + G + \tfrac12 G \Lambda^{-1} G$, positive definite for every symmetric `step` $G$."""

    def slope(self, x: Tensor, g: Tensor) -> Tensor:
        r"""Return the gradient of a loss with respect to the location, shape `(T, C, P)`.

        Args:
            x: features of rows, shape `(T, Q, P)`.
            g: its gradient with respect to their linear predictors, shape `(T, Q, C)`.
        """
        return g.mT @ x

    @abstractmethod
    def kl(self, other: Gaussian) -> Tensor:
        r"""Return $\mathrm{KL}(q \Vert p)$ in nats, summed over outputs, shape `(T,)`."""

    def kls(self, others: Sequence[Gaussian]) -> Tensor:
        """Return the divergences of others from this one in nats, shape `(len(others), T)`."""
        return torch.stack([q.kl(self) for q in others])

    @abstractmethod
    def color(self, noise: Tensor) -> Tensor:
        r"""Return $\Lambda^{-1/2} \varepsilon$ for standard normal `noise` of shape `(..., T, C, P)`."""

    @abstractmethod
    def distribution(self) -> TorchDistributionMixin:
        """Return the Pyro distribution of batch shape `(T,)` and event shape `(C, P)`."""

    @property
    @abstractmethod
    def scale(self) -> Tensor:
        """Marginal standard deviations, shape `(T, C, P)`."""

    def log_odds(self, x: Tensor, distance: Tensor | None = None) -> tuple[Tensor, Tensor] | None:
        r"""Return what it says of the classes of inputs by itself; None for weights, which need a likelihood.

        Args:
            x: features of inputs, shape `(T, N, P)`.
            distance: `distances` of these without their constant, where they are known.

        Returns:
            $\log p(y_i = c, x_i \mid \text{the other rows})$ up to a constant of the row, in nats, and the predictive
            variance of a feature; both of shape `(T, N, C)`.
        """
        return None

    def distances(self, x: Tensor, square: Tensor) -> Tensor | None:
        """Return squared distances of rows from the means of classes, shape `(T, N, C)`; None for weights.

        Args:
            x: features without their constant, shape `(T, N, D)`.
            square: their squared lengths, shape `(T, N)`.
        """
        return None

    def input_evidence(self, before: Gaussian, x: Tensor) -> Tensor:
        """Return what unlabelled rows are worth as evidence, in nats, shape `(T,)`; 0 where inputs are given."""
        return self.loc.new_zeros(len(self.loc))

    def sites(self) -> dict[str, TorchDistributionMixin]:
        """Return the Pyro distribution of every latent variable by its name, each of batch shape `(T,)`."""
        return {"w": self.distribution()}

    def weights(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return the weights of the head's features, from values of the latent variables of `sites`."""
        return values["w"]

    def latents(self, w: Tensor) -> dict[str, Tensor]:
        """Return the values of the latent variables that `weights` makes weights of."""
        return {"w": w}

    def draw(self, num_draws: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw values of the latent variables of `sites`, each of shape `(num_draws, T, ...)`.

        Args:
            num_draws: how many.
            generator: source of the draws, on the CPU.
        """
        noise = torch.randn(num_draws, *self.loc.shape, generator=generator, dtype=self.loc.dtype)
        return {"w": self.loc + self.color(noise.to(self.loc.device))}

    def log_prob(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return the log density of values of the latent variables of `sites` in nats, shape `(..., T)`."""
        first, *others = (law.log_prob(values[name]) for name, law in self.sites().items())
        out: Tensor = sum(others, start=first)
        return out

    def inputs(self, values: Mapping[str, Tensor], mask: Tensor, y: Tensor | None) -> TorchDistributionMixin | None:
        """Return the Pyro distribution of inputs, or None where the model takes inputs as given.

        Args:
            values: values of the latent variables of `sites`.
            mask: True where a row is real, shape `(T, N)`.
            y: classes of the rows, shape `(T, N)`, or None where they are summed out.
        """
        return None


@checked()
@dataclass(frozen=True, eq=False)
class DiagonalGaussian(Gaussian):
    r"""Independent weights: $w_{cp} \sim \mathcal N(m_{cp}, 1/\Lambda_{cp})$.

    Examples:
        >>> q = DiagonalGaussian(torch.ones(1, 1, 2), torch.full((1, 1, 2), 4.0))
        >>> [v.item() for v in q.marginal(torch.ones(1, 1, 2))]
        [2.0, 0.5]
    """

    def _variance(self, x: Tensor) -> Tensor:
        return (self.precision.reciprocal() @ x.square().mT).mT

    def gram(self, x: Tensor, h: Tensor) -> Tensor:
        return h.mT @ x.square()

    def times(self, v: Tensor) -> Tensor:
        return self.precision * v

    def solve(self, v: Tensor) -> Tensor:
        return v / self.precision

    def covariance_times(self, u: Tensor) -> Tensor:
        return u.unsqueeze(1) / self.precision.unsqueeze(-1)

    def retract(self, step: Tensor) -> Tensor:
        ratio = step / self.precision
        return self.precision * (1 + ratio + ratio.square() / 2)

    @checked()
    def kl(self, other: Gaussian) -> Tensor:
        ratio = other.precision / self.precision
        distance = other.precision * (self.loc - other.loc).square()
        return ((ratio - 1 - ratio.log() + distance) / 2).sum((-2, -1))

    def color(self, noise: Tensor) -> Tensor:
        return noise * self.scale

    def distribution(self) -> TorchDistributionMixin:
        out: TorchDistributionMixin = dist.Normal(self.loc, self.scale, validate_args=False).to_event(2)
        return out

    @property
    def scale(self) -> Tensor:
        return self.precision.rsqrt()


@checked()
@dataclass(frozen=True, eq=False)
class FullGaussian(Gaussian):
    r"""Correlated weights: $w_c \sim \mathcal N(m_c, \Lambda_c^{-1})$.

    Examples:
        >>> q = FullGaussian(torch.zeros(1, 1, 2), 2 * torch.eye(2).expand(1, 1, 2, 2))
        >>> round(q.kl(FullGaussian(torch.ones(1, 1, 2), q.precision)).item(), 4)
        2.0
    """

    exponent = 2

    @lazy
    def _factor(self) -> Tensor:
        return _cholesky(self.precision)

    def _variance(self, x: Tensor) -> Tensor:
        half: Tensor = torch.linalg.solve_triangular(self._factor, x.mT.unsqueeze(1), upper=False)
        return half.square().sum(-2).mT

    def gram(self, x: Tensor, h: Tensor) -> Tensor:
        return (x.mT.unsqueeze(1) * h.mT.unsqueeze(2)) @ x.unsqueeze(1)  # an einsum seeks its order anew each time

    def times(self, v: Tensor) -> Tensor:
        return (self.precision @ v.unsqueeze(-1)).squeeze(-1)

    def solve(self, v: Tensor) -> Tensor:
        return torch.cholesky_solve(v.unsqueeze(-1), self._factor).squeeze(-1)

    def covariance_times(self, u: Tensor) -> Tensor:
        return self.covariance() @ u.unsqueeze(1)

    def retract(self, step: Tensor) -> Tensor:
        half: Tensor = torch.linalg.solve_triangular(self._factor, step, upper=False)
        return self.precision + step + half.mT @ half / 2

    @checked()
    def kl(self, other: Gaussian) -> Tensor:
        mine, theirs = self._factor, _cholesky(other.precision)
        trace: Tensor = torch.linalg.solve_triangular(mine, theirs, upper=False).square().sum((-2, -1))
        distance: Tensor = (theirs.mT @ (self.loc - other.loc).unsqueeze(-1)).square().sum((-2, -1))
        log_det = 2 * (_log_diag(mine) - _log_diag(theirs))
        out: Tensor = ((trace - self.loc.shape[-1] + distance + log_det) / 2).sum(-1)
        return out

    def covariance(self) -> Tensor:
        r"""Return $\Lambda^{-1}$, shape `(T, C, P, P)`."""
        out: Tensor = torch.cholesky_inverse(self._factor)
        return out

    def color(self, noise: Tensor) -> Tensor:
        columns = noise.expand(*noise.shape[:-3], *self.loc.shape).reshape(-1, *self.loc.shape).permute(1, 2, 3, 0)
        out: Tensor = torch.linalg.solve_triangular(self._factor.mT, columns, upper=True)  # a factor serves all draws
        return out.permute(3, 0, 1, 2).reshape(*noise.shape[:-3], *self.loc.shape)

    def distribution(self) -> TorchDistributionMixin:
        scale_tril = _cholesky(self.covariance())
        out: TorchDistributionMixin = dist.MultivariateNormal(self.loc, scale_tril=scale_tril, validate_args=False)
        return out.to_event(1)

    @property
    def scale(self) -> Tensor:
        return self.covariance().diagonal(dim1=-2, dim2=-1).sqrt()


def _cholesky(matrix: Tensor) -> Tensor:
    try:
        factor: Tensor = torch.linalg.cholesky(matrix)
    except RuntimeError:  # torch.linalg.LinAlgError, which is not exported to type checkers
        if not bool(matrix.isfinite().all()):
            raise ValueError(
                "expected finite precisions, got NaN or infinity (of the likelihood, or a step or synthetic gradient "
                "of the refiner)"
            ) from None
        raise ValueError(
            "expected positive definite precisions, got one that is not (in this arithmetic): bring inputs and "
            "labels to unit scale, remove collinear features, lower the learning rate, or use model.double()"
        ) from None
    return factor


def _log_diag(factor: Tensor) -> Tensor:
    return factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
