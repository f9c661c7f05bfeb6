r"""The Gaussian over class means, with a Dirichlet distribution over class proportions beside it.

It is the prior and every posterior of the joint model of inputs and labels,

$$ m_c \sim \mathcal N(\mu_c, \Lambda_c^{-1} I), \qquad \pi \sim \mathrm{Dir}(a), \qquad
   x \mid y = c \sim \mathcal N(m_c, s I), $$

in the space of the head's features without their constant. The family is conjugate: rows $x_i$ that belong to class
$c$ with probability $r_{ic}$ turn it into

$$ \Lambda_c' = \Lambda_c + \frac{N_c}{s}, \qquad
   \Lambda_c' \mu_c' = \Lambda_c \mu_c + \frac1s \sum_i r_{ic} x_i, \qquad a_c' = a_c + N_c, \qquad
   N_c = \sum_i r_{ic} . $$

What it says of the class of one of these rows leaves that row out, and is again a Gaussian in closed form,

$$ \log r^*_{ic} = \log \big( a_c' - r_{ic} \big) - \frac{D}{2} \log v_{ic}
   - \frac{\lVert x_i - \mu_c^{-i} \rVert^2}{2 v_{ic}} + \text{const}, \qquad v_{ic} = s + \frac{1}{\Lambda_c^{-i}} . $$

Two matrix products give it: no tensor has an axis of rows, one of classes and one of features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from ebmeta.foundation.checks import checked
from ebmeta.foundation.lazy import lazy
from ebmeta.foundation.seeding import Drawing
from ebmeta.likelihood import NEVER
from ebmeta.parts.class_inputs import ClassInputs, ClassProportions, dirichlet_kl, isotropic_kl
from ebmeta.parts.gaussian import DiagonalGaussian, Gaussian

__all__ = ["ClassGaussian"]


@checked()
@dataclass(frozen=True, eq=False)
class ClassGaussian(Gaussian):
    r"""Class means $m_c \sim \mathcal N(\mu_c, I / \Lambda_c)$ and class proportions $\pi \sim \mathrm{Dir}(a)$.

    Args:
        loc: $\mu$, shape `(T, C, D)`.
        precision: $\Lambda$, the same for every feature, shape `(T, C, D)`.
        shares: $a$, 0 for classes that do not exist, shape `(T, C)`.
        spread: $s$, variance of a feature about its class mean, a scalar, or `(T, 1, 1)` where each task has its own.
        constant: the last feature of the head.
        counted: $w r$ of the rows that it was given last, shape `(T, N, C)`; None where it was given none.
        unlabelled: whether these rows are unlabelled; each is then left out by `log_odds` for itself.
        unknown: how many of the last classes are unknown ones, for rows of none of the others.
        volume: share of the volume of a predictive density that `log_odds` leaves out, where each task has its own,
            shape `(T, 1, 1)`; None for none.
        trust: $w$, what an unlabelled row counts, where each task has its own, shape `(T, 1, 1)`; None for 1.

    Examples:
        >>> one = torch.ones(1, 2, 1)
        >>> prior = ClassGaussian(0 * one, one, torch.ones(1, 2), torch.tensor(1.0), 1.0)
        >>> rows, classes = torch.tensor([[[-3.0], [3.0]]]), torch.eye(2)[None]
        >>> q = prior.given(rows, classes)
        >>> q.loc.flatten().tolist(), q.precision.flatten().tolist()
        ([-1.5, 1.5], [2.0, 2.0])
        >>> odds, _ = q.log_odds(torch.tensor([[[3.0, 1.0]]]))
        >>> [round(v, 3) for v in odds.softmax(-1).flatten().tolist()]
        [0.002, 0.998]
    """

    shares: Tensor
    spread: Tensor
    constant: float
    counted: Tensor | None = None
    unlabelled: bool = False
    unknown: int = 0
    volume: Tensor | None = None
    trust: Tensor | None = None

    def __getitem__(self, index: slice | Tensor) -> ClassGaussian:
        parts: dict[str, Any] = {name: value[index] for name, value in self._by_task().items()}
        return replace(self, loc=self.loc[index], precision=self.precision[index], **parts)

    def with_(self, loc: Tensor, precision: Tensor) -> ClassGaussian:
        return replace(self, loc=loc, precision=precision)

    def joined(self, others: Sequence[Gaussian]) -> ClassGaussian:
        parts = [replace(cast(ClassGaussian, q), counted=None) for q in (self, *others)]
        loc, precision = torch.cat([q.loc for q in parts]), torch.cat([q.precision for q in parts])
        each = [q._by_task() for q in parts]
        joined: dict[str, Any] = {name: torch.cat([values[name] for values in each]) for name in each[0]}
        return replace(parts[0], loc=loc, precision=precision, unlabelled=False, **joined)

    def double(self) -> ClassGaussian:
        parts = self._by_task() | {"loc": self.loc, "precision": self.precision, "spread": self.spread}
        return replace(self, **{name: value.double() for name, value in parts.items()})

    def _by_task(self) -> dict[str, Any]:
        """Return what there is for every task, besides the Gaussian of the means."""
        names = ["shares", "counted", "volume", "trust", *(["spread"] if self.spread.dim() else [])]
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    @lazy
    def means(self) -> DiagonalGaussian:
        """The Gaussian of the class means alone."""
        return DiagonalGaussian(self.loc, self.precision)

    @property
    def real(self) -> Tensor:
        """True where a class exists, shape `(T, C)`."""
        return self.shares > 0

    @lazy
    def _isotropic(self) -> Tensor:
        return self.precision[..., 0]

    @lazy
    def _belief(self) -> Tensor:
        assert self.counted is not None  # for the type checker
        return self.counted / self.trust if self.unlabelled and self.trust is not None else self.counted

    @lazy
    def _of_class(self) -> Tensor:
        """The spread for values of shape `(T, C)`."""
        return self.spread[..., 0] if self.spread.dim() else self.spread

    def given(self, x: Tensor, r: Tensor) -> ClassGaussian:
        r"""Return the posterior of the class means given labelled rows; that of the proportions stays.

        Args:
            x: their features without the constant, zero for padding, shape `(T, N, D)`.
            r: 1 for the class of each row, zero for padding, shape `(T, N, C)`.
        """
        precision = self._isotropic + r.sum(1) / self._of_class
        before, of_rows = self._isotropic / precision, 1 / (precision * self._of_class)
        loc = torch.baddbmm(before.unsqueeze(-1) * self.loc, r.mT * of_rows.unsqueeze(-1), x)
        return replace(self, loc=loc, precision=precision.unsqueeze(-1).expand_as(loc), counted=r)

    def anchored(self, x: Tensor, size: Tensor) -> ClassGaussian:
        r"""Return the prior of classes for each of which an input stands, as if it were so many labelled rows.

        Args:
            x: features of these inputs without the constant, shape `(T, C, D)`.
            size: how many rows each is worth, shape `(T, C)`.
        """
        return replace(self.given(torch.where((size > 0).unsqueeze(-1), x, 0.0), torch.diag_embed(size)), counted=None)

    def with_unknown(self, outliers: Tensor, number: int, share: Tensor | None = None) -> ClassGaussian:
        r"""Return the prior of like classes with more of them: these have unlabelled rows alone, which count in full.

        Args:
            outliers: in which tasks there may be such rows, shape `(T,)`.
            number: of unknown classes, $U$.
            share: how much each of many rows counts where there is a weight of rows, shape `(T,)`; 1 where None.
        """
        loc, precision = (torch.cat([v, v[:, :1].repeat(1, number, 1)], 1) for v in (self.loc, self.precision))
        full = self.loc.new_ones(1, 1, 1) if share is None else share.to(loc.dtype)[:, None, None]
        shares = torch.where(outliers.unsqueeze(1), self.shares[:, :1], 0.0).repeat(1, number)
        return replace(
            self.with_(loc, precision),
            shares=torch.cat([self.shares, shares], 1),
            unknown=number,
            trust=None if self.trust is None else torch.where(outliers[:, None, None], full, self.trust),
        )

    def given_beliefs(self, x: Tensor, r: Tensor) -> ClassGaussian:
        r"""Return the posterior given unlabelled rows that belong to classes with some probability.

        Args:
            x: as of `given`.
            r: probability of each class for each row, zero for padding, shape `(T, N, C)`.
        """
        counted = r if self.trust is None else self.trust * r
        return replace(self.given(x, counted), shares=self.shares + counted.sum(1), unlabelled=True)

    def with_doubt(self, before: Gaussian, x: Tensor, distance: Tensor | None = None) -> ClassGaussian:
        r"""Return this posterior given beliefs with the widths that unsure beliefs leave.

        $$ \Lambda_c' = \max \Big( \Lambda_c,\; \Lambda_c + \frac1s \sum_i r_{ic}
           - \sum_i r_{ic} (1 - r_{ic})\, \frac{d_{ic}}{s\, \hat s} \Big), \qquad
           d_{ic} = \frac1D\, \mathbb E \lVert x_i - m_c \rVert^2, \qquad
           \hat s = \min \Big( s,\; \frac1N \sum_{i, c} r_{ic} d_{ic} \Big), $$

        $$ \sum_c a_c' = \sum_c a_c + \Big[ N - \frac{\sum_{i, c} r_{ic} (1 - r_{ic})}{1 - \sum_c p_c^2} \Big]_+,
           \qquad p = \mathbb E[\pi], $$

        with $\Lambda$ and $a$ of the posterior before the $N$ rows, and expectations under this one. Means and expected
        proportions stay. The information in inputs is that of inputs and labels, less what labels would add: a label
        says most where the row is far from the class mean. Rows that lie nearer to their classes than $s$ says fill
        fewer than $D$ coordinates independently, and distances are averaged over as many. None takes any away.

        Args:
            before: the posterior before these rows.
            x: features of the rows without the constant, shape `(T, N, D)`.
            distance: `distances` of these, where known.

        Source: Louis 1982, Finding the observed information matrix when using the EM algorithm.
        """
        if self.counted is None:
            return self
        known, r, least = cast(ClassGaussian, before), self.counted, torch.finfo(x.dtype).tiny
        unsure, number = r * (1 - self._belief), r.sum((1, 2)).unsqueeze(1)
        off = self.distances(x, x.square().sum(-1)) if distance is None else distance
        each = off / x.shape[-1] + 1 / self._isotropic.unsqueeze(1)
        usual = torch.minimum((r * each).sum((1, 2)).unsqueeze(1) / number.clamp(min=least), self._of_class)
        missing = (unsure * each).sum(1) / usual.clamp(min=least)
        precision = torch.maximum(self._isotropic - missing / self._of_class, known._isotropic)
        before_rows, total = known.shares.sum(1, keepdim=True), self.shares.sum(1, keepdim=True)
        several = (1 - (self.shares / total).square().sum(1, keepdim=True)).clamp(min=least)
        told = (number - unsure.sum((1, 2)).unsqueeze(1) / several).clamp(min=0)
        return replace(
            self,
            precision=precision.unsqueeze(-1).expand_as(self.loc),
            shares=self.shares * (before_rows + told) / total,
            counted=None,
            unlabelled=False,
        )

    def log_odds(self, x: Tensor, distance: Tensor | None = None) -> tuple[Tensor, Tensor]:
        left = self.counted if self.counted is not None and self.unlabelled else x.new_zeros(1, 1, 1)
        before = self._isotropic.unsqueeze(1)
        known = 1 / (before - left / self.spread)  # variance of the mean without the row itself
        off = self.distances(x[..., :-1], x[..., :-1].square().sum(-1)) if distance is None else distance
        off, v = off * (before * known).square(), self.spread + known
        shares = (self.shares.unsqueeze(1) - left).clamp(min=torch.finfo(x.dtype).tiny)
        counted = (x.shape[-1] - 1) * (1 if self.volume is None else 1 - self.volume)
        odds = shares.log() - (off / v + counted * v.log()) / 2
        return odds.masked_fill(~self.real.unsqueeze(1), NEVER), v.expand_as(odds)

    def distances(self, x: Tensor, square: Tensor) -> Tensor:
        apart = square.unsqueeze(1) + self.loc.square().sum(-1, keepdim=True)
        return torch.baddbmm(apart, self.loc, x.mT, alpha=-2).clamp(min=0).mT

    def input_evidence(self, before: Gaussian, x: Tensor) -> Tensor:
        r"""Return a bound of the evidence of the rows that it was given last in nats, exact for labels, shape `(T,)`.

        $$ L(r) = A' - A - \sum_{i, c} r_{ic} \Big( \frac{\lVert x_i \rVert^2}{2s} + \frac D2 \log 2 \pi s
           + \log r_{ic} \Big) \le \log p(x \mid \text{before}) $$

        with $A$ of `log_normalizer`, for this posterior and for the one before the rows.

        Args:
            before: the posterior before these rows.
            x: features of the rows, zero for padding, shape `(T, N, P)`.
        """
        gained = self.log_normalizer() - cast(ClassGaussian, before).log_normalizer()
        if self.counted is None:
            return gained
        rows, r, belief = x[..., :-1].double(), self.counted.double(), self._belief.double()
        missed = rows.square().sum(-1, keepdim=True) / (2 * self.spread)
        each = missed + rows.shape[-1] / 2 * (2 * math.pi * self.spread).log()
        return gained - (r * (each + belief.clamp(min=1e-300).log())).sum((1, 2))

    def log_normalizer(self) -> Tensor:
        r"""Return what the evidence of rows is a difference of, in nats, shape `(T,)`.

        $$ A = \sum_c \Big( \frac{\Lambda_c \lVert \mu_c \rVert^2}{2} - \frac D2 \log \Lambda_c + \log \Gamma(a_c) \Big)
           - \log \Gamma \Big( \sum_c a_c \Big) $$
        """
        precision, shares = self._isotropic.double(), self.shares.double()
        gauss = precision * self.loc.double().square().sum(-1) / 2 - self.loc.shape[-1] / 2 * precision.log()
        each = gauss + torch.where(self.real, shares, 1.0).lgamma()
        return torch.where(self.real, each, 0.0).sum(1) - shares.sum(1).lgamma()

    @checked()
    def marginal(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r"""Return mean and variance of the linear predictor, both of shape `(T, Q, C)`, for features `x` `(T, Q, P)`.

        $$ \eta_{ic} = \log \pi_c + \frac{x_i^\top m_c - \lVert m_c \rVert^2 / 2}{s} $$
        """
        rows, size = x[..., :-1], self.loc.shape[-1]
        own = (1 / self._isotropic).unsqueeze(1)
        square = self.loc.square().sum(-1).unsqueeze(1)
        dot = rows @ self.loc.mT
        shares = torch.where(self.real, self.shares, 1.0)
        of_share, total = torch.digamma(shares), torch.digamma(self.shares.sum(1, keepdim=True))
        loc = (dot - square / 2 - size * own / 2) / self.spread + (of_share - total).unsqueeze(1)
        off = (rows.square().sum(-1, keepdim=True) - 2 * dot + square).clamp(min=0)
        var = (own * off + size * own.square() / 2) / self.spread.square()
        of_all = torch.polygamma(1, self.shares.sum(1, keepdim=True))
        return loc, var + (torch.polygamma(1, shares) - of_all).unsqueeze(1)

    @checked()
    def kl(self, other: Gaussian) -> Tensor:
        return other.kls([self])[0]

    def kls(self, others: Sequence[Gaussian]) -> Tensor:
        each = [(q.loc, q._isotropic, q.shares) for q in cast(Sequence[ClassGaussian], others)]
        loc, precision, shares = map(torch.stack, zip(*each, strict=True))
        return isotropic_kl(loc, precision, self.loc, self._isotropic) + dirichlet_kl(shares, self.shares)

    def draw(self, num_draws: int, generator: torch.Generator) -> dict[str, Tensor]:
        noise = torch.randn(num_draws, *self.loc.shape, generator=generator, dtype=self.loc.dtype)
        with Drawing(generator):
            shares = self.sites()["pi"].sample((num_draws,))
        return {"m": self.loc + self.color(noise.to(self.loc.device)), "pi": shares}

    def sites(self) -> dict[str, TorchDistributionMixin]:
        return {"m": self.distribution(), "pi": ClassProportions(self.shares)}

    def weights(self, values: Mapping[str, Tensor]) -> Tensor:
        r"""Return $w_c = \big( m_c / s,\; (\log \pi_c - \lVert m_c \rVert^2 / 2s) / \text{constant} \big)$."""
        m = values["m"]
        log_share = torch.where(self.real, values["pi"].clamp(min=torch.finfo(m.dtype).tiny), 1.0).log()
        bias = (log_share - m.square().sum(-1) / (2 * self._of_class)) / self.constant
        return torch.cat([m / self.spread, bias.unsqueeze(-1)], -1)

    def latents(self, w: Tensor) -> dict[str, Tensor]:
        m = w[..., :-1] * self.spread
        log_share = w[..., -1] * self.constant + m.square().sum(-1) / (2 * self._of_class)
        return {"m": m, "pi": torch.where(self.real, log_share.exp(), 0.0)}

    def inputs(self, values: Mapping[str, Tensor], mask: Tensor, y: Tensor | None) -> TorchDistributionMixin:
        if self.unknown:
            raise ValueError("outliers: expected a Pyro program of tasks without any, got some")
        return ClassInputs(values["m"], values["pi"], self.spread, mask, y)

    def _variance(self, x: Tensor) -> Tensor:
        return self.marginal(x)[1]

    def slope(self, x: Tensor, g: Tensor) -> Tensor:
        return (g.mT @ x[..., :-1] - g.sum(1).unsqueeze(-1) * self.loc) / self.spread

    def gram(self, x: Tensor, h: Tensor) -> Tensor:
        return self.means.gram(x, h)

    def times(self, v: Tensor) -> Tensor:
        return self.means.times(v)

    def solve(self, v: Tensor) -> Tensor:
        return self.means.solve(v)

    def covariance_times(self, u: Tensor) -> Tensor:
        return self.means.covariance_times(u)

    def retract(self, step: Tensor) -> Tensor:
        return self.means.retract(step)

    def color(self, noise: Tensor) -> Tensor:
        return self.means.color(noise)

    def distribution(self) -> TorchDistributionMixin:
        return self.means.distribution()

    @property
    def scale(self) -> Tensor:
        return self.means.scale
