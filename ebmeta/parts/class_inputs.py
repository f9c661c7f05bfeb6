r"""Distributions of the joint model that Pyro has no efficient form of: class proportions, and inputs of classes.

$$ \pi \sim \mathrm{Dir}(a) \text{ over the classes that exist}, \qquad
   p(x \mid m, \pi) = \prod_i \sum_c \pi_c\, \mathcal N(x_i; m_c, s I), \qquad
   p(x \mid y, m) = \prod_i \mathcal N(x_i; m_{y_i}, s I) . $$

The class of an input is summed out where it is unknown, by one matrix product.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import Transform, biject_to, transform_to

from ebmeta.likelihood import NEVER

__all__ = ["ClassInputs", "ClassProportions", "dirichlet_kl", "isotropic_kl"]

ROUNDING = 1e-3  # by which proportions of many classes, or of a table, may miss a sum of 1


class _Shares(constraints.Constraint):  # type: ignore[misc]
    """Proportions, 0 for classes that do not exist.

    Args:
        real: True where a class exists, the first one always, shape `(T, C)`.
    """

    event_dim = 1

    def __init__(self, real: Tensor) -> None:
        self.real = real

    def check(self, value: Tensor) -> Tensor:
        """Return where values are such proportions, shape `(..., T)`."""
        simplex: Tensor = constraints.simplex.check(value)
        return simplex & ((value == 0) | self.real).all(-1)


class _LogRatios(Transform):
    r"""The map from free numbers to proportions, $\pi_c \propto e^{u_c}$ with $u_0 = 0$, for samplers of Pyro.

    Numbers of classes that do not exist have a standard normal law of their own, which nothing depends on.

    Args:
        real: True where a class exists, shape `(T, C)`.
    """

    domain = constraints.real_vector
    bijective = True

    def __init__(self, real: Tensor) -> None:
        super().__init__()
        self.real = real
        self.codomain = _Shares(real)

    def _call(self, u: Tensor) -> Tensor:
        free = torch.where(self.real[..., 1:], u, -math.inf)
        return torch.softmax(torch.cat([u.new_zeros(*free.shape[:-1], 1), free], -1), -1)

    def _inverse(self, pi: Tensor) -> Tensor:
        log = pi.clamp(min=torch.finfo(pi.dtype).tiny).log()
        return torch.where(self.real[..., 1:], log[..., 1:] - log[..., :1], 0.0)

    def log_abs_det_jacobian(self, u: Tensor, pi: Tensor) -> Tensor:
        """Return the log volume in nats, shape `(..., T)`, with the log density of the numbers that stand for none."""
        of_real = torch.where(self.real, pi.clamp(min=torch.finfo(pi.dtype).tiny), 1.0).log().sum(-1)
        none = (u.square() + math.log(2 * math.pi)) / 2
        return of_real - torch.where(self.real[..., 1:], 0.0, none).sum(-1)

    def forward_shape(self, shape: tuple[int, ...]) -> torch.Size:
        return torch.Size([*shape[:-1], shape[-1] + 1])

    def inverse_shape(self, shape: tuple[int, ...]) -> torch.Size:
        return torch.Size([*shape[:-1], shape[-1] - 1])


for _table in (transform_to, biject_to):
    _table.register(_Shares, lambda shares: _LogRatios(shares.real))  # type: ignore[no-untyped-call]


class ClassProportions(TorchDistribution):  # type: ignore[misc]  # Pyro ships no types
    r"""The Dirichlet distribution over the classes that exist; the others have no share.

    Args:
        concentration: $a$, 0 for classes that do not exist, shape `(T, C)`.

    Examples:
        >>> law = ClassProportions(torch.tensor([[1.0, 1.0, 0.0]]))
        >>> law.log_prob(torch.tensor([[0.5, 0.5, 0.0]])).tolist()
        [0.0]
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"concentration": constraints.independent(constraints.nonnegative, 1)}
    has_rsample = True

    def __init__(self, concentration: Tensor) -> None:
        self.concentration = concentration
        super().__init__(concentration.shape[:-1], concentration.shape[-1:], validate_args=False)

    @property
    def support(self) -> _Shares:
        """Proportions of the classes that exist, and 0 of the others."""
        return _Shares(self.concentration > 0)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw proportions, shape `(*sample_shape, T, C)`, with gradients."""
        a = self.concentration.expand(*sample_shape, *self.concentration.shape)
        drawn = torch._standard_gamma(torch.where(a > 0, a, torch.finfo(a.dtype).tiny).double())
        drawn = torch.where(a > 0, drawn.clamp(min=1e-300), 0.0)
        return (drawn / drawn.sum(-1, keepdim=True)).to(a.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density in nats, shape `(..., T)`.

        It is -inf where values are no proportions, or a class that does not exist has a share.
        """
        real, a = self.concentration > 0, self.concentration.double()
        share = torch.where(real, value.clamp(min=torch.finfo(value.dtype).tiny), 1.0).double()
        each = (a - 1) * share.log() - torch.where(real, a, 1.0).lgamma()
        of_real = torch.where(real, each, 0.0).sum(-1) + a.sum(-1).lgamma()
        outside = (value < 0) | ((value > 0) & ~real)
        off = (value.sum(-1) - 1).abs() > ROUNDING
        return of_real.masked_fill(outside.any(-1) | off, -math.inf).to(value.dtype)

    def expand(self, batch_shape: Any, _instance: Any = None) -> ClassProportions:
        """Return the same law for more tasks."""
        return ClassProportions(self.concentration.expand(*batch_shape, *self.event_shape))


class ClassInputs(TorchDistribution):  # type: ignore[misc]
    r"""The inputs of tasks given class means, with their classes known or summed out.

    Args:
        m: class means, shape `(..., T, C, D)`.
        pi: class proportions, 0 where a class does not exist, shape `(..., T, C)`.
        spread: $s$, a scalar, or of shape `(T, 1, 1)`.
        mask: True where a row is real, shape `(T, N)`.
        y: classes of the rows, shape `(T, N)`, or None where they are summed out.

    Examples:
        >>> m, pi, one = torch.tensor([[[0.0], [4.0]]]), torch.tensor([[0.5, 0.5]]), torch.tensor(1.0)
        >>> rows = ClassInputs(m, pi, one, torch.ones(1, 1, dtype=torch.bool), None)
        >>> round(rows.log_prob(torch.tensor([[[2.0]]])).item(), 4)  # as far from either
        -2.9189
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.independent(constraints.real, 2)
    has_rsample = False

    def __init__(self, m: Tensor, pi: Tensor, spread: Tensor, mask: Tensor, y: Tensor | None) -> None:
        self.m, self.pi, self.spread, self.rows, self.y = m, pi, spread, mask, y
        super().__init__(m.shape[:-2], (mask.shape[-1], m.shape[-1]), validate_args=False)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw inputs, shape `(*sample_shape, ..., T, N, D)`; classes are drawn first where they are unknown."""
        shape = (*sample_shape, *self.batch_shape, *self.event_shape)
        m = self.m.expand(*sample_shape, *self.m.shape)
        with torch.no_grad():
            if self.y is None:
                flat = self.pi.expand(*sample_shape, *self.pi.shape).reshape(-1, self.pi.shape[-1])
                y = torch.multinomial(flat, shape[-2], replacement=True).view(shape[:-1])
            else:
                y = self.y.expand(shape[:-1])
            own = m.gather(-2, y.unsqueeze(-1).expand(shape))
            return own + self.spread.sqrt() * torch.randn(shape, dtype=m.dtype, device=m.device)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density in nats, shape `(..., T)`."""
        m, size = self.m, self.m.shape[-1]
        square = value.square().sum(-1, keepdim=True) + m.square().sum(-1).unsqueeze(-2)
        each = -(square - 2 * value @ m.mT).clamp(min=0) / (2 * self.spread)
        if self.y is None:
            log_share = self.pi.clamp(min=torch.finfo(m.dtype).tiny).log().masked_fill(self.pi <= 0, NEVER)
            of_row = torch.logsumexp(each + log_share.unsqueeze(-2), -1)
        else:
            of_row = each.gather(-1, self.y.expand(each.shape[:-1]).unsqueeze(-1)).squeeze(-1)
        volume = size / 2 * torch.log(2 * math.pi * self.spread)
        of_row = of_row - (volume.squeeze(-1) if volume.dim() else volume)
        return torch.where(self.rows, of_row, 0.0).sum(-1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> ClassInputs:
        """Return the same law for more tasks."""
        size = self.m.shape[-2:]
        return ClassInputs(
            self.m.expand(*batch_shape, *size),
            self.pi.expand(*batch_shape, size[0]),
            self.spread,
            self.rows.expand(*batch_shape, self.rows.shape[-1]),
            None if self.y is None else self.y.expand(*batch_shape, self.y.shape[-1]),
        )


def dirichlet_kl(a: Tensor, b: Tensor) -> Tensor:
    """Return the divergence of Dirichlet distributions, `(..., T, C)`, in nats, `(..., T)`; a class with 0 is none."""
    mine, theirs = a.double(), b.double()
    one, other = torch.where(a > 0, mine, 1.0), torch.where(a > 0, theirs, 1.0)
    total = mine.sum(-1)
    each = other.lgamma() - one.lgamma() + (one - other) * (one.digamma() - total.digamma().unsqueeze(-1))
    return each.sum(-1) + total.lgamma() - theirs.sum(-1).lgamma()


def isotropic_kl(loc: Tensor, precision: Tensor, other_loc: Tensor, other_precision: Tensor) -> Tensor:
    """Return the divergence of normal class means `(..., T, C, D)`, precisions `(..., T, C)`, in nats, `(..., T)`."""
    ratio, distance = other_precision / precision, other_precision * (loc - other_loc).square().sum(-1)
    return ((loc.shape[-1] * (ratio - 1 - ratio.log()) + distance) / 2).sum(-1)
