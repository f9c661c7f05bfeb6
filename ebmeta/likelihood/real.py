"""Likelihoods of real labels with normal noise, normal noise of a level of each task's own, and Student-t noise."""

from __future__ import annotations

import math

import numpy as np
import pyro.distributions as dist
import torch
from numpy.typing import NDArray
from pyro.distributions.torch_distribution import TorchDistributionMixin
from scipy import stats
from torch import Tensor, nn

from ebmeta.foundation.checks import above, checked
from ebmeta.foundation.standardization import Exact, standard, summary
from ebmeta.likelihood.base import Given
from ebmeta.likelihood.scalar import ScalarLikelihood
from ebmeta.tasks.training_rows import TrainingRows

__all__ = ["Normal", "NormalPerTask", "StudentT"]

Array = NDArray[np.float64]

FARTHEST = 8.0  # log factor between a task's noise and the typical one: beyond it nothing can be distinguished

LOG_PRECISIONS = (-18.0, 4.0, 96)  # grid of log u over which a Student-t is a mixture of normals
BROAD = 30.0  # degrees of freedom from which on the grid is too coarse for log u, whose spread is sqrt(2 / freedom)
FINEST = 0.003  # times as fine as the grid: beyond it a Student-t is normal


@checked(noise=above(0))
class _Located(Exact, ScalarLikelihood):
    r"""Labels $y = a + b (\eta + \text{noise})$, with centre $a$ and scale $b$ of the training labels."""

    located = True
    exact = ("center", "unit")

    def __init__(self, noise: float = 1.0) -> None:
        super().__init__()
        self.log_noise = nn.Parameter(torch.tensor(math.log(noise)))
        self.register_buffer("center", self.center)  # saved with the model: training measures them
        self.register_buffer("unit", self.unit)

    @property
    def log_sigma(self) -> nn.Parameter:
        return self.log_noise

    def learned(self) -> dict[str, Tensor]:
        return {"noise": self.log_noise.exp(), "center": self.center, "unit": self.unit}

    def dispersion(self, given: Given | None = None) -> Tensor:
        log = 2 * self.log_noise
        if given is not None and given.size is not None:  # sizes in units of labels may be very large or small
            log = log - given.size.double().log().unsqueeze(-1)
        return log.exp()

    def noise(self, given: Given | None = None) -> Tensor:
        r"""Return $\sigma$ of each row, in units of `eta`: a scalar or shape `(T, Q)`."""
        phi = self.dispersion(given)
        return phi.squeeze(-1).sqrt() if phi.dim() else phi.sqrt()

    def check(self, name: str, y: Tensor, mask: Tensor, size: Tensor | None) -> None:
        self.check_size(name, mask, size)

    def extreme(self, y: NDArray[np.float64], size: NDArray[np.float64]) -> bool:
        return not self.known and bool((y == y[0]).all())

    def alone(self, size: NDArray[np.float64]) -> bool:
        return not self.known and bool((size == size[0]).all())

    @torch.no_grad()
    def measure(self, rows: TrainingRows) -> TrainingRows:
        """Take mean and standard deviation of training labels as centre and unit; their intercept is then 0.

        The noise starts at what it is, where known, and otherwise in proportion to the typical size of a row.
        """
        if rows.standardize:
            center, unit = summary(self.transformed(rows.y).unsqueeze(1), "labels", ["y"])
            self.center.copy_(center[0])
            self.unit.copy_(unit[0])
            if self.known:
                self.log_noise.copy_(-self.unit.log())
            elif rows.size is not None:
                self.log_noise.add_(rows.size.double().log().mean() / 2)
        return super().measure(rows)

    def mean(self, eta: Tensor, given: Given | None = None) -> Tensor:
        return self.center + self.unit * eta.double()

    def statistic(self, y: Tensor, num_ways: int) -> Tensor:
        return standard(self.transformed(y), self.center, self.unit).unsqueeze(-1)

    def moments(self, loc: Tensor, var: Tensor, way_mask: Tensor, given: Given | None = None) -> tuple[Tensor, Tensor]:
        return loc, torch.ones_like(loc)


@checked(noise=above(0))
class Normal(_Located):
    r"""Real labels with learned noise: $y = \eta + \sigma\varepsilon$, after taking off centre and unit of the labels.

    $A(\eta) = \eta^2/2$, $T(y) = y$, $\varphi = \sigma^2$ over the size of the row.

    Args:
        noise: initial noise standard deviation $\sigma$, in units of `eta`.
        known: take the sizes of rows for inverse variances of their labels, and learn no noise.

    Raises:
        ValueError: if `noise` is not positive.
    """

    name = "normal"
    smooth = True
    canonical = True
    conjugate = True

    def __init__(self, noise: float = 1.0, *, known: bool = False) -> None:
        super().__init__(noise)
        self.known = known
        self.log_noise.requires_grad_(not known)

    def variance(self, eta: Tensor, given: Given | None = None) -> Tensor:
        return (self.unit * self.noise(given)).square().expand_as(eta)

    def cdf(self, y: Tensor, eta: Tensor, given: Given | None = None) -> Tensor:
        out: Tensor = torch.special.ndtr((y - self.mean(eta)) / (self.unit * self.noise(given)))
        return out

    def predictive_cdf(self, y: Tensor, loc: Tensor, var: Tensor, given: Given | None = None) -> Tensor:
        summary = self.predict(loc, var, loc, given)
        out: Tensor = torch.special.ndtr((y - summary["mean"]) / summary["std"])
        return out

    def distribution(self, eta: Tensor, way_mask: Tensor, given: Given | None = None) -> TorchDistributionMixin:
        return dist.Normal(self.mean(eta.squeeze(-1)), self.unit * self.noise(given), validate_args=False)

    def predict(self, loc: Tensor, var: Tensor, way_mask: Tensor, given: Given | None = None) -> dict[str, Tensor]:
        """Return `mean` and `std` of a new label, shape `(T, Q)`, noise included."""
        std = self.unit * (var.squeeze(-1) + self.noise(given).square()).sqrt()
        return {"mean": self.mean(loc.squeeze(-1)), "std": std}

    def expected_log_prob(
        self, y: Tensor, loc: Tensor, var: Tensor, way_mask: Tensor, noise: Tensor, given: Given | None = None
    ) -> Tensor:
        return self.log_prob(y, loc, way_mask, given) - var.squeeze(-1) / (2 * self.noise(given).square())

    def predictive_log_prob(
        self, y: Tensor, loc: Tensor, var: Tensor, way_mask: Tensor, noise: Tensor, given: Given | None = None
    ) -> Tensor:
        out = self.predict(loc, var, way_mask, given)
        total = out["std"].square()
        return -((y - out["mean"]).square() / total + torch.log(2 * math.pi * total)) / 2


@checked(noise=above(0), ratio=above(0))
class NormalPerTask(Normal):
    r"""Normal noise whose level is a second latent of each task.

    $$ z_t \sim \mathcal N(0, 1), \qquad \sigma_t = \sigma e^{\tau z_t} $$

    Given the level everything is conjugate, so the joint posterior of level and weights is a mixture of Gaussians over
    the level, integrated by quadrature (`ebmeta.parts.levels`).

    Args:
        noise: initial typical noise $\sigma$, in units of `eta`.
        ratio: initial standard deviation $\tau$ of the log noise over tasks.

    Raises:
        ValueError: if an argument is not positive.
    """

    name = "normal_per_task"
    has_level = True

    def __init__(self, noise: float = 1.0, ratio: float = 0.3) -> None:
        super().__init__(noise)
        self.log_ratio = nn.Parameter(torch.tensor(math.log(ratio)))

    def learned(self) -> dict[str, Tensor]:
        return super().learned() | {"ratio": self.log_ratio.exp()}

    def dispersion(self, given: Given | None = None) -> Tensor:
        out = super().dispersion(given)
        if given is None or given.level is None:
            return out
        return out * torch.exp(2 * (self.log_ratio.exp() * given.level).clamp(-FARTHEST, FARTHEST))[..., None, None]


@checked(noise=above(0), freedom=above(2))
class StudentT(_Located):
    r"""Real labels with outliers: $y = \eta + \sigma t_\nu$, an infinite mixture of normals.

    $$ y \mid \eta, u \sim \mathcal N(\eta, \sigma^2 / u), \qquad u \sim \mathrm{Gamma}(\nu/2, \nu/2) $$

    `gradients` are those of the variational posterior over $w$ and every row's $u$, with
    $\mathbb E[u] = (\nu + 1) / (\nu + \mathbb E(y - \eta)^2 / \sigma^2)$; the predictive density is the integral over
    $u$.

    Args:
        noise: initial scale $\sigma$, in units of `eta`.
        freedom: initial degrees of freedom $\nu$; above 2, so that the variance exists.

    Raises:
        ValueError: if `noise` is not positive or `freedom` not above 2.
    """

    name = "student_t"
    smooth = True

    def __init__(self, noise: float = 1.0, freedom: float = 6.0) -> None:
        super().__init__(noise)
        if not freedom > 2:
            raise ValueError(f"freedom: expected degrees of freedom above 2, got {freedom}")
        self.log_freedom = nn.Parameter(torch.tensor(math.log(freedom - 2)))

    @property
    def freedom(self) -> Tensor:
        r"""Degrees of freedom $\nu$, above 2."""
        return 2 + self.log_freedom.exp()

    def learned(self) -> dict[str, Tensor]:
        return super().learned() | {"freedom": self.freedom}

    def dispersion(self, given: Given | None = None) -> Tensor:
        # The inverse of the Fisher information.
        return super().dispersion(given) * (self.freedom + 3) / (self.freedom + 1)

    def noise(self, given: Given | None = None) -> Tensor:
        phi = super().dispersion(given)
        return phi.squeeze(-1).sqrt() if phi.dim() else phi.sqrt()

    def gradients(
        self, y: Tensor, loc: Tensor, var: Tensor, way_mask: Tensor, given: Given | None = None
    ) -> tuple[Tensor, Tensor]:
        variance = super().dispersion(given)
        gap = loc - self.statistic(y, 1)
        weight = (self.freedom + 1) / (self.freedom + (gap.square() + var) / variance) / variance
        return gap * weight, weight

    def variance(self, eta: Tensor, given: Given | None = None) -> Tensor:
        out = (self.unit * self.noise(given)).square() * self.freedom / (self.freedom - 2)
        return out.expand_as(eta)

    def cdf(self, y: Tensor, eta: Tensor, given: Given | None = None) -> Tensor:
        z = (y - self.mean(eta)) / (self.unit * self.noise(given))
        return torch.as_tensor(stats.t.cdf(z.detach().cpu().numpy(), float(self.freedom.detach())), device=z.device)

    def distribution(self, eta: Tensor, way_mask: Tensor, given: Given | None = None) -> TorchDistributionMixin:
        scale = self.unit * self.noise(given)
        return dist.StudentT(self.freedom, self.mean(eta.squeeze(-1)), scale, validate_args=False)

    def kernel(self, y: Tensor, eta: Tensor, given: Given | None = None) -> Tensor:
        z = (self.statistic(y, 1).squeeze(-1) - eta) / self.noise(given)
        return -(self.freedom + 1) / 2 * torch.log1p(z.square() / self.freedom)

    def expansion(self, y: Array, eta: Array, size: Array | float = 1.0) -> tuple[Array, Array, Array]:
        freedom = float(self.freedom.detach())
        width = freedom * math.exp(2 * float(self.log_noise.detach())) / np.asarray(size)
        gap = self.statistic(torch.from_numpy(y), 1).squeeze(-1).numpy() - eta
        total = width + gap * gap
        pull = (freedom + 1) / total
        return -(freedom + 1) / 2 * np.log1p(gap * gap / width), pull * gap, pull * (2 * gap * gap / total - 1)

    def predict(self, loc: Tensor, var: Tensor, way_mask: Tensor, given: Given | None = None) -> dict[str, Tensor]:
        """Return `mean` and `std` of a new label, shape `(T, Q)`, noise included."""
        loc, var = loc.squeeze(-1), var.squeeze(-1)
        return {"mean": self.mean(loc), "std": (self.unit.square() * var + self.variance(loc, given)).sqrt()}

    def _mixture(self, var: Tensor, given: Given | None) -> tuple[Tensor, Tensor]:
        r"""Return log weights and variances of the normals in the predictive distribution, shape `(grid, T, Q)`.

        With $t$ on a grid from $l$ on, $\log u = k t + (1 - k)\, t^3 / l^2$: as fine as $u$ is narrow, and as wide.
        """
        low, high, number = LOG_PRECISIONS
        grid = torch.linspace(low, high, number, dtype=var.dtype, device=var.device)
        fine, cube = (BROAD / self.freedom).sqrt().clamp(FINEST, 1.0), grid.square() / low**2
        log_u, log_slope = grid * (fine + (1 - fine) * cube), (fine + 3 * (1 - fine) * cube).log()
        log_density = self.freedom / 2 * (log_u - torch.expm1(log_u))  # from its mode on, which keeps digits
        log_weight = torch.log_softmax(log_density + log_slope, 0).view(-1, 1, 1)
        total = var.squeeze(-1) + self.noise(given).square() / log_u.exp().view(-1, 1, 1)
        return log_weight, self.unit.square() * total

    def predictive_cdf(self, y: Tensor, loc: Tensor, var: Tensor, given: Given | None = None) -> Tensor:
        log_weight, total = self._mixture(var, given)
        z = (y - self.mean(loc.squeeze(-1))) / total.sqrt()
        out: Tensor = (log_weight.exp() * torch.special.ndtr(z)).sum(0)
        return out

    def predictive_log_prob(
        self, y: Tensor, loc: Tensor, var: Tensor, way_mask: Tensor, noise: Tensor, given: Given | None = None
    ) -> Tensor:
        log_weight, total = self._mixture(var, given)
        gap = (y - self.mean(loc.squeeze(-1))).square()
        return torch.logsumexp(log_weight - (gap / total + torch.log(2 * math.pi * total)) / 2, 0)
