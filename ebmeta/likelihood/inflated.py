r"""Counts with more zeros than a Poisson or a negative binomial has: some rows are 0 whatever their rate.

With the probability $\pi$ of such a row and that of a count of the rest,

$$ p(y \mid \eta) = \pi [y = 0] + (1 - \pi)\, p_0(y \mid \eta) . $$

A row of 0 counts by the probability $w$ that it is one of the rest: with $a = \log p_0(0 \mid \eta)$, the slope of its
log probability is $w a'$ and the curvature $w a'' + w (1 - w) a'^2$, which may be above 0. Source: Lambert 1992,
Zero-inflated Poisson regression.
"""

from __future__ import annotations

import math

import numpy as np
import pyro.distributions as dist
import torch
from numpy.typing import NDArray
from pyro.distributions.torch_distribution import TorchDistributionMixin
from scipy import special
from torch import Tensor, nn

from ebmeta.foundation.checks import above, between, checked
from ebmeta.likelihood.base import Given
from ebmeta.likelihood.counts import NegativeBinomial, Poisson
from ebmeta.likelihood.scalar import ScalarLikelihood

__all__ = ["ZeroInflatedNegativeBinomial", "ZeroInflatedPoisson"]

Array = NDArray[np.float64]


class _Inflated(ScalarLikelihood):
    """Counts of another likelihood, some of which are replaced by 0; the linear predictor is that of the other."""

    discrete, inflated, smooth = True, True, True

    def __init__(self, rest: Poisson, inflation: float) -> None:
        super().__init__()
        self.rest = rest
        self.log_odds = nn.Parameter(torch.tensor(math.log(inflation / (1 - inflation))))

    def learned(self) -> dict[str, Tensor]:
        return {**self.rest.learned(), "inflation": torch.sigmoid(self.log_odds)}

    def check(self, name: str, y: Tensor, mask: Tensor, size: Tensor | None) -> None:
        self.rest.check(name, y, mask, size)

    def check_size(self, name: str, mask: Tensor, size: Tensor | None) -> None:
        self.rest.check_size(name, mask, size)

    def check_precision(self, name: str, y: Tensor, dtype: torch.dtype) -> None:
        self.rest.check_precision(name, y, dtype)

    def extreme(self, y: NDArray[np.float64], size: NDArray[np.float64]) -> bool:
        return self.rest.extreme(y, size)

    def alone(self, size: NDArray[np.float64]) -> bool:
        return self.rest.alone(size)

    def intercept(self, y: Tensor, size: Tensor | None) -> float:
        return self.rest.intercept(y, size) - math.log(float(self._kept.detach()))

    @property
    def _kept(self) -> Tensor:
        """The probability of a row that counts, one minus the inflation."""
        return torch.sigmoid(-self.log_odds.double())

    def mean(self, eta: Tensor, given: Given | None = None) -> Tensor:
        return self._kept * self.rest.mean(eta, given)

    def variance(self, eta: Tensor, given: Given | None = None) -> Tensor:
        square = self.rest.mean(eta, given).square()
        return self._kept * (self.rest.variance(eta, given) + (1 - self._kept) * square)

    def information(self, eta: Tensor, given: Given | None = None) -> Tensor:
        a, slope = self._at_zero(eta, given)
        doubt = torch.sigmoid(self.log_odds - a)  # the probability that a row of 0 is not one of the rest
        return self._kept * (-slope - slope.square() * a.exp() * doubt)

    def _at_zero(self, eta: Tensor, given: Given | None) -> tuple[Tensor, Tensor]:
        """Return the log probability of a 0 of the rest, and its slope, minus the information of the rest."""
        none = torch.zeros_like(eta)
        slope: Tensor = torch.func.grad(lambda e: self.rest.kernel(none, e, given).sum())(eta)
        return self.rest.kernel(none, eta, given), slope

    def gradients(
        self, y: Tensor, loc: Tensor, var: Tensor, way_mask: Tensor, given: Given | None = None
    ) -> tuple[Tensor, Tensor]:
        return ScalarLikelihood.gradients(self, y, loc, var, way_mask, given)

    def log_silent(self, y: Array, eta: Array, size: Array | float = 1.0) -> Array:
        odds = float(self.log_odds.detach())
        return np.where(y == 0, -np.logaddexp(0.0, self.rest.expansion(y, eta, size)[0] - odds), -np.inf)

    def cdf(self, y: Tensor, eta: Tensor, given: Given | None = None) -> Tensor:
        kept = self._kept.detach()
        return (1 - kept) * (y >= 0) + kept * self.rest.cdf(y, eta, given)

    def distribution(self, eta: Tensor, way_mask: Tensor, given: Given | None = None) -> TorchDistributionMixin:
        rest = self.rest.distribution(eta, way_mask, given)
        return dist.ZeroInflatedDistribution(rest, gate_logits=self.log_odds.double(), validate_args=False)

    def kernel(self, y: Tensor, eta: Tensor, given: Given | None = None) -> Tensor:
        value = self.rest.kernel(y, eta, given)  # of a 0 the log probability itself
        return torch.where(y == 0, torch.logaddexp(self.log_odds.to(value), value), value)

    def expansion(self, y: Array, eta: Array, size: Array | float = 1.0) -> tuple[Array, Array, Array]:
        value, slope, bend = self.rest.expansion(y, eta, size)
        odds = float(self.log_odds.detach())
        weight = np.where(y == 0, special.expit(value - odds), 1.0)
        value = np.where(y == 0, np.logaddexp(odds, value), value)
        return value, weight * slope, weight * (bend + (1 - weight) * slope**2)


@checked(inflation=between(0, 1))
class ZeroInflatedPoisson(_Inflated):
    r"""Counts of which a share $\pi$ is 0, and the others Poisson of mean $n e^\eta$.

    Args:
        inflation: initial $\pi$.

    Raises:
        ValueError: if `inflation` is not between 0 and 1.
    """

    name = "zero_inflated_poisson"

    def __init__(self, inflation: float = 0.2) -> None:
        super().__init__(Poisson(), inflation)


@checked(inflation=between(0, 1), shape=above(0))
class ZeroInflatedNegativeBinomial(_Inflated):
    r"""Counts of which a share $\pi$ is 0, and the others negative binomial of mean $n e^\eta$ and shape $r$.

    Args:
        inflation: initial $\pi$.
        shape: initial $r$.

    Raises:
        ValueError: if `inflation` is not between 0 and 1, or `shape` not positive.
    """

    name = "zero_inflated_negative_binomial"

    def __init__(self, inflation: float = 0.2, shape: float = 2.0) -> None:
        super().__init__(NegativeBinomial(shape), inflation)
