r"""A Gaussian over weights of which some have no spread at all: they are common to all tasks.

$$ w_c = m_c + E\, v_c, \qquad v_c \sim \mathcal N(0, \Lambda_c^{-1}), $$

with the columns of $E$ the unit vectors of the weights that vary. The covariance $E \Lambda_c^{-1} E^\top$ is singular,
and stays so in every posterior: what labels say of a task moves its varying weights alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.nn import functional

from ebmeta.foundation.checks import checked
from ebmeta.foundation.lazy import lazy
from ebmeta.parts.gaussian import FullGaussian, Gaussian

__all__ = ["DegenerateGaussian"]


@checked()
@dataclass(frozen=True, eq=False)
class DegenerateGaussian(Gaussian):
    r"""Correlated weights beside others that are common to all tasks.

    The latent variable of the Pyro programs is "varying", the weights that vary.

    Args:
        loc: location $m$ of all weights, shape `(T, C, P)`.
        precision: precision $\Lambda$ of those that vary, shape `(T, C, R, R)`.
        varying: their numbers, rising.

    Examples:
        >>> q = DegenerateGaussian(torch.ones(1, 1, 3), 4 * torch.eye(2).expand(1, 1, 2, 2), (0, 2))
        >>> [v.item() for v in q.marginal(torch.ones(1, 1, 3))]
        [3.0, 0.5]
        >>> q.scale
        tensor([[[0.5000, 0.0000, 0.5000]]])
    """

    exponent = 2

    varying: tuple[int, ...]

    @property
    def _sizes(self) -> tuple[int, ...]:
        return (len(self.varying),)

    @lazy
    def _own(self) -> FullGaussian:
        """The law of the weights that vary."""
        return FullGaussian(self._take(self.loc), self.precision)

    def _take(self, v: Tensor) -> Tensor:
        """Return what belongs to the weights that vary, along the last axis."""
        return v[..., list(self.varying)]

    def _put(self, v: Tensor, axis: int = -1) -> Tensor:
        """Return a tensor of all weights along an axis, given one of those that vary: 0 for the others."""
        place = [len(self.varying)] * self.loc.shape[-1]
        for number, weight in enumerate(self.varying):
            place[weight] = number
        moved = functional.pad(v.movedim(axis, -1), (0, 1))[..., place]
        return moved.movedim(-1, axis)

    def varying_part(self, x: Tensor) -> Tensor:
        return self._put(self._take(x))

    def _variance(self, x: Tensor) -> Tensor:
        return self._own._variance(self._take(x))

    def gram(self, x: Tensor, h: Tensor) -> Tensor:
        return self._own.gram(self._take(x), h)

    def times(self, v: Tensor) -> Tensor:
        return self._put(self._own.times(self._take(v)))

    def solve(self, v: Tensor) -> Tensor:
        return self._put(self._own.solve(self._take(v)))

    def covariance_times(self, u: Tensor) -> Tensor:
        return self._put(self._own.covariance_times(self._take(u.mT).mT), -2)

    def retract(self, step: Tensor) -> Tensor:
        return self._own.retract(step)

    def kl(self, other: Gaussian) -> Tensor:
        """Return the divergence in nats, shape `(T,)`, from one that has the same common weights."""
        return self._own.kl(FullGaussian(self._take(other.loc), other.precision))

    def color(self, noise: Tensor) -> Tensor:
        return self._put(self._own.color(self._take(noise)))

    def distribution(self) -> TorchDistributionMixin:
        """Return the Pyro distribution of the weights that vary, of event shape `(C, R)`."""
        return self._own.distribution()

    @property
    def scale(self) -> Tensor:
        return self._put(self._own.scale)

    def sites(self) -> dict[str, TorchDistributionMixin]:
        return {"varying": self.distribution()}

    def weights(self, values: Mapping[str, Tensor]) -> Tensor:
        return self._put(values["varying"]) + (self.loc - self.varying_part(self.loc))

    def latents(self, w: Tensor) -> dict[str, Tensor]:
        return {"varying": self._take(w)}

    def draw(self, num_draws: int, generator: torch.Generator) -> dict[str, Tensor]:
        noise = torch.randn(num_draws, *self._own.loc.shape, generator=generator, dtype=self.loc.dtype)
        return {"varying": self._own.loc + self._own.color(noise.to(self.loc.device))}
