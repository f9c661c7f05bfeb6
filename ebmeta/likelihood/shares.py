"""The likelihood of shares, numbers between 0 and 1."""

from __future__ import annotations

import math

import numpy as np
import pyro.distributions as dist
import torch
from numpy.typing import NDArray
from pyro.distributions.torch_distribution import TorchDistributionMixin
from scipy import special
from torch import Tensor, nn

from ebmeta.foundation.checks import above, checked
from ebmeta.likelihood.base import Given
from ebmeta.likelihood.scalar import ScalarLikelihood

__all__ = ["Beta"]

Array = NDArray[np.float64]
TINY = 1e-300  # keeps logarithms of padding finite
NEXT = 1 - 2.0**-53  # to 1
FARTHEST = 300.0  # log odds of a mean, beyond which nothing changes but the range of numbers
LARGEST_LOG = 60.0  # of a precision, the same
STEPS = 40  # of Newton to a peak, each of at most 2


@checked(precision=above(0))
class Beta(ScalarLikelihood):
    r"""Shares between 0 and 1: mean $\mu = 1 / (1 + e^{-\eta})$, variance $\mu (1 - \mu) / (1 + \phi)$, learned $\phi$.

    With $a = \mu \phi$, $b = (1 - \mu) \phi$ and the log odds $l$ of a label, the slope of $\log p(y \mid \eta)$ is
    $\phi \mu (1 - \mu) (l - \psi(a) + \psi(b))$. Source: Ferrari and Cribari-Neto 2004, Beta regression for modelling
    rates and proportions.

    Args:
        precision: initial $\phi$; at 2 and a mean of one half all shares are alike.

    Raises:
        ValueError: if `precision` is not positive.
    """

    name = "beta"
    smooth = True
    bounded = True
    ends = (0.0, 1.0)
    no_size = "shares without sizes (successes of trials want 'binomial')"

    def __init__(self, precision: float = 5.0) -> None:
        super().__init__()
        self.log_precision = nn.Parameter(torch.tensor(math.log(precision)))

    @property
    def precision(self) -> Tensor:
        r"""The precision $\phi$."""
        return self.log_precision.double().clamp(max=LARGEST_LOG).exp()

    def learned(self) -> dict[str, Tensor]:
        return {"precision": self.log_precision.exp()}

    def check(self, name: str, y: Tensor, mask: Tensor, size: Tensor | None) -> None:
        self.check_size(name, mask, size)
        bad = ((y <= 0) | (y >= 1)) & mask
        if bool(bad.any()):
            t, i = (int(v) for v in bad.nonzero()[0])
            raise ValueError(
                f"{name}: expected shares between 0 and 1, neither of them, for a beta likelihood, got "
                f"{float(y[t, i]):g} at task {t}, row {i} (successes of trials want likelihood='binomial')"
            )

    def extreme(self, y: NDArray[np.float64], size: NDArray[np.float64]) -> bool:
        return bool((y == y[0]).all())

    def alone(self, size: NDArray[np.float64]) -> bool:
        return True  # a spread of means in either form

    def intercept(self, y: Tensor, size: Tensor | None) -> float:
        mean = float(y.double().mean())
        return math.log(mean / (1 - mean))

    def mean(self, eta: Tensor, given: Given | None = None) -> Tensor:
        return torch.sigmoid(eta.double())

    def variance(self, eta: Tensor, given: Given | None = None) -> Tensor:
        eta = eta.double()
        return torch.sigmoid(eta) * torch.sigmoid(-eta) / (1 + self.precision)

    def information(self, eta: Tensor, given: Given | None = None) -> Tensor:
        a, b = self._shapes(eta)
        out: Tensor = (a * b / self.precision).square() * (torch.polygamma(1, a) + torch.polygamma(1, b))
        return out

    def peak(self, y: Tensor) -> Tensor:
        log_odds = _log_odds(y)
        eta = log_odds
        for _ in range(STEPS):
            a, b = self._shapes(eta)
            bend = a * b / self.precision * (torch.polygamma(1, a) + torch.polygamma(1, b))
            eta = eta + ((log_odds - torch.digamma(a) + torch.digamma(b)) / bend).clamp(-2, 2)
        return eta

    def cdf(self, y: Tensor, eta: Tensor, given: Given | None = None) -> Tensor:
        a, b = (v.detach().cpu().numpy() for v in self._shapes(eta))
        out = special.betainc(a, b, y.detach().cpu().double().clamp(0, 1).numpy())
        return torch.as_tensor(out, device=eta.device)

    def distribution(self, eta: Tensor, way_mask: Tensor, given: Given | None = None) -> TorchDistributionMixin:
        return _Beta(*self._shapes(eta.squeeze(-1)), validate_args=False)

    def kernel(self, y: Tensor, eta: Tensor, given: Given | None = None) -> Tensor:
        a, b = self._shapes(eta)
        return a * _log_odds(y) - torch.lgamma(a) - torch.lgamma(b)

    def expansion(self, y: Array, eta: Array, size: Array | float = 1.0) -> tuple[Array, Array, Array]:
        phi, at = math.exp(min(float(self.log_precision.detach()), LARGEST_LOG)), np.clip(eta, -FARTHEST, FARTHEST)
        mu, rest = special.expit(at), special.expit(-at)
        a, b, log_odds = phi * mu, phi * rest, np.log(np.maximum(y, TINY)) - np.log1p(-np.minimum(y, NEXT))
        slope = phi * mu * rest  # of the shapes
        gap = log_odds - special.digamma(a) + special.digamma(b)
        bend = slope * (rest - mu) * gap - slope**2 * (special.polygamma(1, a) + special.polygamma(1, b))
        return a * log_odds - special.gammaln(a) - special.gammaln(b), slope * gap, bend

    def _shapes(self, eta: Tensor) -> tuple[Tensor, Tensor]:
        eta = eta.double().clamp(-FARTHEST, FARTHEST)
        return self.precision * torch.sigmoid(eta), self.precision * torch.sigmoid(-eta)


class _Beta(dist.Beta):  # type: ignore[misc]  # Pyro ships no types
    def log_prob(self, value: Tensor) -> Tensor:
        out: Tensor = super().log_prob(value.double().clamp(TINY, NEXT))
        return out


def _log_odds(y: Tensor) -> Tensor:
    y = y.double().clamp(TINY, NEXT)
    return y.log() - torch.log1p(-y)
