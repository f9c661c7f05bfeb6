"""Likelihoods of binary outcomes and counts, namely Bernoulli, binomial, Poisson and negative binomial."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import pyro.distributions as dist
import torch
from numpy.typing import NDArray
from pyro.distributions.torch_distribution import TorchDistributionMixin
from scipy import special
from torch import Tensor, nn
from torch.nn import functional

from ebmeta.foundation.checks import above, checked
from ebmeta.likelihood.base import Given
from ebmeta.likelihood.log_gamma import log_binomial, log_poisson
from ebmeta.likelihood.scalar import ScalarLikelihood, size_of, spread

__all__ = ["Bernoulli", "Binomial", "NegativeBinomial", "Poisson"]

Array = NDArray[np.float64]
LARGEST_LOG = 60.0  # of a rate or a shape: beyond it nothing changes but the range of numbers
TINY = 1e-300  # keeps logarithms of a rate finite


class _Binomial(dist.Binomial):  # type: ignore[misc]  # Pyro ships no types
    def log_prob(self, value: Tensor) -> Tensor:
        log_p, log_q = functional.logsigmoid(self.logits), functional.logsigmoid(-self.logits)
        value = value.double()
        return log_binomial(value, self.total_count - value, log_p, log_q)


class _Poisson(dist.Poisson):  # type: ignore[misc]
    def log_prob(self, value: Tensor) -> Tensor:
        return log_poisson(value.double(), self.rate.log())


class _NegativeBinomial(dist.NegativeBinomial):  # type: ignore[misc]
    def log_prob(self, value: Tensor) -> Tensor:
        y, shape = value.double(), self.total_count
        log_p, log_q = functional.logsigmoid(self.logits), functional.logsigmoid(-self.logits)
        return log_binomial(y, shape, log_p, log_q) - torch.log1p(y / shape)


class _Counts(ScalarLikelihood):
    """What likelihoods of whole numbers share."""

    discrete = True
    #: What to use for other labels.
    instead: ClassVar[str] = "measurements want likelihood='normal' or 'student_t', averages of counts a size"

    def check(self, name: str, y: Tensor, mask: Tensor, size: Tensor | None) -> None:
        self.check_size(name, mask, size)
        bad = ((y < 0) | (y != y.round())) & mask
        if bool(bad.any()):
            t, i = (int(v) for v in bad.nonzero()[0])
            raise ValueError(
                f"{name}: expected counts 0, 1, 2, ..., got {float(y[t, i]):g} at task {t}, row {i} ({self.instead})"
            )

    def check_precision(self, name: str, y: Tensor, dtype: torch.dtype) -> None:
        largest, eps = float(y.max()) if y.numel() else 0.0, torch.finfo(dtype).eps
        # The rounding of the log of a rate, compared with the noise of the log of a count.
        if largest > 1 and 10 * eps * math.log(largest) > largest**-0.5:
            advice = "use model.double()" if dtype == torch.float32 else "count in larger units"
            raise ValueError(
                f"{name}: expected counts that a model of {dtype} can tell apart, got one of {largest:.3g}; {advice}"
            )


class Binomial(_Counts):
    r"""Successes among $n$ trials, $n$ the size of the row: $A(\eta) = n \log(1 + e^\eta)$, $T(y) = y$."""

    name = "binomial"
    smooth = True
    canonical = True
    bounded = True

    def check(self, name: str, y: Tensor, mask: Tensor, size: Tensor | None) -> None:
        super().check(name, y, mask, size)
        trials = torch.ones_like(y) if size is None else size
        bad = (y > trials) & mask
        if bool(bad.any()):
            t, i = (int(v) for v in bad.nonzero()[0])
            got = f"got {float(y[t, i]):g} of {float(trials[t, i]):g} at task {t}, row {i}"
            raise ValueError(f"{name}: expected at most as many successes as trials, {got}")

    def check_size(self, name: str, mask: Tensor, size: Tensor | None) -> None:
        super().check_size(name, mask, size)
        if size is not None and bool(((size != size.round()) & mask).any()):
            t, i = (int(v) for v in ((size != size.round()) & mask).nonzero()[0])
            raise ValueError(
                f"{name}: expected whole numbers of trials, got {float(size[t, i]):g} at task {t}, row {i}"
            )

    def extreme(self, y: NDArray[np.float64], size: NDArray[np.float64]) -> bool:
        return bool((y == 0).all() or (y == size).all())

    def alone(self, size: NDArray[np.float64]) -> bool:
        return bool((size <= 1).all())

    def intercept(self, y: Tensor, size: Tensor | None) -> float:
        trials = float(len(y) if size is None else size.sum())
        p = (float(y.sum()) + 0.5) / (trials + 1)
        return math.log(p / (1 - p))

    def mean(self, eta: Tensor, given: Given | None = None) -> Tensor:
        return size_of(given) * torch.sigmoid(eta)

    def variance(self, eta: Tensor, given: Given | None = None) -> Tensor:
        p = torch.sigmoid(eta)
        return size_of(given) * p * (1 - p)

    def cdf(self, y: Tensor, eta: Tensor, given: Given | None = None) -> Tensor:
        trials = torch.as_tensor(size_of(given), device=eta.device).expand_as(eta)
        k, n, p = (v.detach().cpu().double().numpy() for v in (y.floor(), trials, torch.sigmoid(eta)))
        out = special.betaincc(k.clip(0) + 1, (n - k).clip(1), p)
        return torch.as_tensor(out, device=eta.device).masked_fill(y >= trials, 1.0) * (y >= 0)

    def distribution(self, eta: Tensor, way_mask: Tensor, given: Given | None = None) -> TorchDistributionMixin:
        eta = eta.squeeze(-1).double()
        trials = torch.as_tensor(size_of(given), dtype=eta.dtype, device=eta.device).expand_as(eta)
        return _Binomial(trials, logits=eta, validate_args=False)

    def kernel(self, y: Tensor, eta: Tensor, given: Given | None = None) -> Tensor:
        return y * eta + size_of(given) * functional.logsigmoid(-eta)  # softplus rounds beyond 20

    def expansion(self, y: Array, eta: Array, size: Array | float = 1.0) -> tuple[Array, Array, Array]:
        log_total, _, p, q = _log_odds(eta)
        return y * eta - size * log_total, y - size * p, -size * (p * q)


class Bernoulli(Binomial):
    r"""Yes or no, 1 or 0: $A(\eta) = \log(1 + e^\eta)$, $T(y) = y$."""

    name = "bernoulli"
    no_size = "rows of one trial each (use 'binomial' for more)"

    @property
    def categories(self) -> int:
        return 2

    def check(self, name: str, y: Tensor, mask: Tensor, size: Tensor | None) -> None:
        self.check_size(name, mask, size)
        bad = (y != 0) & (y != 1) & mask
        if bool(bad.any()):
            t, i = (int(v) for v in bad.nonzero()[0])
            raise ValueError(
                f"{name}: expected 0 or 1, got {float(y[t, i]):g} at task {t}, row {i} (successes of several trials "
                "want likelihood='binomial' and the trials as sizes)"
            )


class Poisson(_Counts):
    r"""Counts at rate $e^\eta$ per unit of exposure $n$, the size of the row: $A(\eta) = n e^\eta$, $T(y) = y$."""

    name = "poisson"
    smooth = True
    canonical = True

    def extreme(self, y: NDArray[np.float64], size: NDArray[np.float64]) -> bool:
        return bool((y == 0).all())

    def intercept(self, y: Tensor, size: Tensor | None) -> float:
        exposure = float(len(y) if size is None else size.sum())
        return math.log((float(y.sum()) + 0.5) / exposure)

    def mean(self, eta: Tensor, given: Given | None = None) -> Tensor:
        return size_of(given) * eta.clamp(max=LARGEST_LOG).exp()

    def variance(self, eta: Tensor, given: Given | None = None) -> Tensor:
        return self.mean(eta, given)

    def cdf(self, y: Tensor, eta: Tensor, given: Given | None = None) -> Tensor:
        mean = self.mean(eta.double(), given)
        out: Tensor = torch.special.gammaincc(y.double().floor().clamp(min=0) + 1, mean) * (y >= 0)
        return out

    def distribution(self, eta: Tensor, way_mask: Tensor, given: Given | None = None) -> TorchDistributionMixin:
        return _Poisson(self.mean(eta.squeeze(-1).double(), given).clamp(min=TINY), validate_args=False)

    def kernel(self, y: Tensor, eta: Tensor, given: Given | None = None) -> Tensor:
        return y * eta - Poisson.mean(self, eta, given)

    def expansion(self, y: Array, eta: Array, size: Array | float = 1.0) -> tuple[Array, Array, Array]:
        mean = np.minimum(eta, LARGEST_LOG)
        mean = np.exp(mean, out=mean)
        mean *= size
        value = y * eta
        value -= mean
        return value, y - mean, -mean


@checked(shape=above(0))
class NegativeBinomial(Poisson):
    r"""Counts more variable than Poisson: mean $\mu = n e^\eta$, variance $\mu + \mu^2 / r$, with learned shape $r$.

    Not exponential in $\eta$; with $p = \mu / (r + \mu)$ the gradient and curvature of $-\log p(y \mid \eta)$ are
    $(r + y) p - y$ and $(r + y) p (1 - p)$.

    Args:
        shape: initial $r$.

    Raises:
        ValueError: if `shape` is not positive.
    """

    name = "negative_binomial"
    smooth = True
    mean = Poisson.mean

    def __init__(self, shape: float = 2.0) -> None:
        super().__init__()
        self.log_shape = nn.Parameter(torch.tensor(math.log(shape)))

    @property
    def shape(self) -> Tensor:
        r"""The shape $r$; counts are Poisson where it is very large."""
        return self.log_shape.double().clamp(max=LARGEST_LOG).exp()

    def learned(self) -> dict[str, Tensor]:
        return {"shape": self.log_shape.exp()}

    def alone(self, size: NDArray[np.float64]) -> bool:
        return True  # a spread of rates in either form

    def _logit(self, eta: Tensor, given: Given | None) -> Tensor:
        size = size_of(given)
        log_size = math.log(size) if isinstance(size, float) else size.double().log()
        return eta.clamp(max=LARGEST_LOG) - self.log_shape.clamp(max=LARGEST_LOG) + log_size

    def variance(self, eta: Tensor, given: Given | None = None) -> Tensor:
        mu = self.mean(eta, given)
        return mu + mu.square() / self.shape

    def information(self, eta: Tensor, given: Given | None = None) -> Tensor:
        return self.shape * torch.sigmoid(self._logit(eta, given))

    def gradients(
        self, y: Tensor, loc: Tensor, var: Tensor, way_mask: Tensor, given: Given | None = None
    ) -> tuple[Tensor, Tensor]:
        eta, weight = spread(loc.squeeze(-1), var.squeeze(-1))
        logit = self._logit(eta, given)
        p, q = torch.sigmoid(logit), torch.sigmoid(-logit)
        bend = (weight * (self.shape + y) * p * q).sum(0)
        return (weight * (self.shape * p - y * q)).sum(0).unsqueeze(-1), bend.unsqueeze(-1)

    def cdf(self, y: Tensor, eta: Tensor, given: Given | None = None) -> Tensor:
        k, logit = (v.detach().cpu().double().numpy() for v in (y.floor(), self._logit(eta, given)))
        k, shape, p, q = k.clip(0) + 1, float(self.shape.detach()), special.expit(logit), special.expit(-logit)
        # the smaller of p and 1 - p has all its digits
        out = np.where(p < 0.5, special.betaincc(k, shape, p), special.betainc(shape, k, q))
        return torch.as_tensor(out, device=eta.device) * (y >= 0)

    def distribution(self, eta: Tensor, way_mask: Tensor, given: Given | None = None) -> TorchDistributionMixin:
        logits = self._logit(eta.squeeze(-1).double(), given)
        return _NegativeBinomial(self.shape, logits=logits, validate_args=False)

    def kernel(self, y: Tensor, eta: Tensor, given: Given | None = None) -> Tensor:
        logit = self._logit(eta, given)
        return y * functional.logsigmoid(logit) + self.shape * functional.logsigmoid(-logit)

    def expansion(self, y: Array, eta: Array, size: Array | float = 1.0) -> tuple[Array, Array, Array]:
        log_shape = min(float(self.log_shape.detach()), LARGEST_LOG)
        logit = np.minimum(eta, LARGEST_LOG) - log_shape + np.log(size)
        (no, yes, p, q), shape = _log_odds(logit), math.exp(log_shape)  # large counts leave no digits to y - y p
        return -y * yes - shape * no, y * q - shape * p, -(y + shape) * (p * q)


def _log_odds(eta: Array) -> tuple[Array, Array, Array, Array]:
    r"""Return $\log(1 + e^\eta)$, $\log(1 + e^{-\eta})$, and the probabilities of yes and of no at these log odds."""
    small = np.exp(-np.abs(eta))
    least, rest, high = small / (1 + small), np.log1p(small), np.maximum(eta, 0.0)
    yes = eta >= 0
    return high + rest, high - eta + rest, np.where(yes, 1 - least, least), np.where(yes, least, 1 - least)
