"""Likelihoods of numbers above 0: log-normal and gamma."""

from __future__ import annotations

import math

import numpy as np
import pyro.distributions as dist
import torch
from numpy.typing import NDArray
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from ebmeta.foundation.checks import above, checked
from ebmeta.foundation.standardization import Exact, summary
from ebmeta.likelihood.base import Given
from ebmeta.likelihood.log_gamma import log_poisson
from ebmeta.likelihood.real import Normal
from ebmeta.likelihood.scalar import ScalarLikelihood, size_of
from ebmeta.tasks.training_rows import TrainingRows

__all__ = ["Gamma", "LogNormal"]

Array = NDArray[np.float64]
TINY = 1e-300  # keeps logarithms of padding finite
LARGEST_LOG = 600.0  # of a mean, whose square is a number still
LARGEST_SHAPE = 60.0  # log of a shape: beyond it nothing changes but the range of numbers


class LogNormal(Normal):
    r"""Numbers above 0 whose logarithm is normal: $\log y = a + b (\eta + \sigma \varepsilon)$.

    $a$ and $b$ are centre and unit of the logarithms of the labels, $\varphi = \sigma^2$ over the size of the row. The
    linear predictor is that of the median; the mean is $e^{b^2 \sigma^2 / 2}$ times as large.

    Args:
        noise: initial noise standard deviation $\sigma$, in units of `eta`.

    Raises:
        ValueError: if `noise` is not positive.
    """

    name = "log_normal"
    smooth = True
    ends = (0.0, math.inf)
    canonical = conjugate = True  # in the logarithm of a label
    expected_log_prob = Normal.expected_log_prob

    def __init__(self, noise: float = 1.0) -> None:
        super().__init__(noise)

    def check(self, name: str, y: Tensor, mask: Tensor, size: Tensor | None) -> None:
        super().check(name, y, mask, size)
        check_positive(name, y, mask, self.name)

    def transformed(self, y: Tensor) -> Tensor:
        return y.double().clamp(min=TINY).log()

    def log_jacobian(self, y: Tensor) -> Tensor:
        return -self.transformed(y)

    def mean(self, eta: Tensor, given: Given | None = None) -> Tensor:
        return self._moments(eta, self.noise(given).square())["mean"].expand_as(eta)

    def variance(self, eta: Tensor, given: Given | None = None) -> Tensor:
        return self._moments(eta, self.noise(given).square())["std"].square().expand_as(eta)

    def cdf(self, y: Tensor, eta: Tensor, given: Given | None = None) -> Tensor:
        return self._cdf(y, eta, self.noise(given).square())

    def predictive_cdf(self, y: Tensor, loc: Tensor, var: Tensor, given: Given | None = None) -> Tensor:
        return self._cdf(y, loc.squeeze(-1), var.squeeze(-1) + self.noise(given).square())

    def distribution(self, eta: Tensor, way_mask: Tensor, given: Given | None = None) -> TorchDistributionMixin:
        loc = self.center + self.unit * eta.squeeze(-1).double()
        return _LogNormal(loc, self.unit * self.noise(given), validate_args=False)

    def log_prob(self, y: Tensor, eta: Tensor, way_mask: Tensor, given: Given | None = None) -> Tensor:
        return self._log_prob(y, eta, self.noise(given).square())

    def predict(self, loc: Tensor, var: Tensor, way_mask: Tensor, given: Given | None = None) -> dict[str, Tensor]:
        """Return `mean` and `std` of a new label, shape `(T, Q)`, noise included."""
        return self._moments(loc.squeeze(-1), var.squeeze(-1) + self.noise(given).square())

    def predictive_log_prob(
        self, y: Tensor, loc: Tensor, var: Tensor, way_mask: Tensor, noise: Tensor, given: Given | None = None
    ) -> Tensor:
        return self._log_prob(y, loc, var.squeeze(-1) + self.noise(given).square())

    def _moments(self, loc: Tensor, var: Tensor) -> dict[str, Tensor]:
        """Return mean and standard deviation of a label whose logarithm has these moments, in units of `eta`."""
        total = self.unit.square() * var.double()
        mean = (self.center + self.unit * loc.double() + total / 2).clamp(max=LARGEST_LOG / 2).exp()
        return {"mean": mean, "std": mean * torch.expm1(total.clamp(max=LARGEST_LOG)).sqrt()}

    def _cdf(self, y: Tensor, loc: Tensor, var: Tensor) -> Tensor:
        z = (self.transformed(y) - self.center - self.unit * loc.double()) / (self.unit * var.double().sqrt())
        out: Tensor = torch.special.ndtr(z) * (y > 0)
        return out

    def _log_prob(self, y: Tensor, loc: Tensor, var: Tensor) -> Tensor:
        gap = (self.statistic(y, 1) - loc).squeeze(-1).square()
        log_unit = self.unit.log() + math.log(2 * math.pi) / 2
        return self.log_jacobian(y) - log_unit - (gap / var + var.log()) / 2


@checked(shape=above(0))
class Gamma(Exact, ScalarLikelihood):
    r"""Numbers above 0 of constant relative spread: mean $\mu = e^{a + \eta}$, variance $\mu^2 / (n k)$, learned $k$.

    $a$ is the logarithm of the mean of the training labels, and the size $n$ of a row is a number of readings that were
    averaged. Log-concave in $\eta$: the gradient and the curvature of $-\log p(y \mid \eta)$ are
    $n k (1 - y / \mu)$ and $n k\, y / \mu$.

    Args:
        shape: initial $k$; 1 for waiting times.

    Raises:
        ValueError: if `shape` is not positive.
    """

    name = "gamma"
    smooth = True
    ends = (0.0, math.inf)
    exact = ("center",)

    def __init__(self, shape: float = 2.0) -> None:
        super().__init__()
        self.log_shape = nn.Parameter(torch.tensor(math.log(shape)))
        self.register_buffer("center", self.center)  # saved with the model: training measures it

    def learned(self) -> dict[str, Tensor]:
        return {"shape": self.log_shape.exp(), "center": self.center}

    def shape(self, given: Given | None = None) -> Tensor:
        r"""Return $n k$ of each row: a scalar or shape `(T, Q)`."""
        out: Tensor = self.log_shape.double().clamp(max=LARGEST_SHAPE).exp() * size_of(given)
        return out

    def check(self, name: str, y: Tensor, mask: Tensor, size: Tensor | None) -> None:
        self.check_size(name, mask, size)
        check_positive(name, y, mask, self.name)

    def extreme(self, y: NDArray[np.float64], size: NDArray[np.float64]) -> bool:
        return bool((y == y[0]).all())

    def alone(self, size: NDArray[np.float64]) -> bool:
        return True  # a spread of means in either form

    @torch.no_grad()
    def measure(self, rows: TrainingRows) -> TrainingRows:
        """Take the logarithm of the mean of training labels as centre; their intercept is then 0."""
        if rows.standardize:
            mean, _ = summary(rows.y.unsqueeze(1), "labels", ["y"])
            self.center.copy_(mean[0].clamp(min=TINY).log())
        return super().measure(rows)

    def mean(self, eta: Tensor, given: Given | None = None) -> Tensor:
        return (self.center + eta.double()).clamp(max=LARGEST_LOG).exp()

    def variance(self, eta: Tensor, given: Given | None = None) -> Tensor:
        return self.mean(eta).square() / self.shape(given)

    def information(self, eta: Tensor, given: Given | None = None) -> Tensor:
        return self.shape(given).expand(eta.shape)

    def moments(self, loc: Tensor, var: Tensor, way_mask: Tensor, given: Given | None = None) -> tuple[Tensor, Tensor]:
        """Return the mean in units of $e^a$, and the information."""
        mean = (loc + var / 2).clamp(max=LARGEST_LOG).exp()
        return mean, self.information(loc.squeeze(-1), given).unsqueeze(-1)

    def gradients(
        self, y: Tensor, loc: Tensor, var: Tensor, way_mask: Tensor, given: Given | None = None
    ) -> tuple[Tensor, Tensor]:
        ratio = (self.peak(y) - loc.squeeze(-1) + var.squeeze(-1) / 2).clamp(max=LARGEST_LOG).exp()
        total = self.shape(given)
        return (total * (1 - ratio)).unsqueeze(-1), (total * ratio).unsqueeze(-1)

    def peak(self, y: Tensor) -> Tensor:
        return y.double().clamp(min=TINY).log() - self.center

    def cdf(self, y: Tensor, eta: Tensor, given: Given | None = None) -> Tensor:
        total = self.shape(given).detach().expand(eta.shape)
        out: Tensor = torch.special.gammainc(total, total * y.double().clamp(min=0) / self.mean(eta).clamp(min=TINY))
        return out

    def distribution(self, eta: Tensor, way_mask: Tensor, given: Given | None = None) -> TorchDistributionMixin:
        mean, total = self.mean(eta.squeeze(-1)).clamp(min=TINY), self.shape(given)
        return _Gamma(total.expand(mean.shape), total / mean, validate_args=False)

    def kernel(self, y: Tensor, eta: Tensor, given: Given | None = None) -> Tensor:
        gap = self.peak(y) - eta
        return self.shape(given) * (gap - gap.clamp(max=LARGEST_LOG).exp())

    def expansion(self, y: Array, eta: Array, size: Array | float = 1.0) -> tuple[Array, Array, Array]:
        total = math.exp(min(float(self.log_shape.detach()), LARGEST_SHAPE)) * size
        gap = np.log(np.maximum(y, TINY)) - float(self.center) - eta
        ratio = np.exp(np.minimum(gap, LARGEST_LOG))
        return total * (gap - ratio), total * (ratio - 1), -total * ratio


class _LogNormal(dist.LogNormal):  # type: ignore[misc]  # Pyro ships no types
    def log_prob(self, value: Tensor) -> Tensor:
        out: Tensor = super().log_prob(value.double().clamp(min=TINY))
        return out


class _Gamma(dist.Gamma):  # type: ignore[misc]
    def log_prob(self, value: Tensor) -> Tensor:
        log_y, shape = value.double().clamp(min=TINY).log(), self.concentration
        out: Tensor = log_poisson(shape, self.rate.log() + log_y) + shape.log() - log_y
        return out


def check_positive(name: str, y: Tensor, mask: Tensor, likelihood: str) -> None:
    """Raise `ValueError` where a label is not above 0."""
    bad = (y <= 0) & mask
    if bool(bad.any()):
        t, i = (int(v) for v in bad.nonzero()[0])
        raise ValueError(
            f"{name}: expected numbers above 0 for a {likelihood} likelihood, got {float(y[t, i]):g} at task {t}, "
            f"row {i} (labels with zeros want likelihood='normal' or 'student_t', or 'poisson' for counts)"
        )
