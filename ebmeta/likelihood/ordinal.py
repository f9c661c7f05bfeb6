"""The likelihood of ordered categories."""

from __future__ import annotations

import math

import numpy as np
import pyro.distributions as dist
import torch
from numpy.typing import NDArray
from pyro.distributions.torch_distribution import TorchDistributionMixin
from scipy import special
from torch import Tensor, nn
from torch.nn import functional

from ebmeta.foundation.checks import at_least, checked
from ebmeta.likelihood.base import Given
from ebmeta.likelihood.scalar import ScalarLikelihood
from ebmeta.tasks.training_rows import TrainingRows

__all__ = ["Ordinal"]

Array = NDArray[np.float64]
LEAST_GAP, LARGEST_LOG = -20.0, 20.0  # log of the distance of two thresholds
FARTHEST = 300.0  # linear predictor, beyond which nothing changes but the range of numbers


@checked(num_categories=at_least(2))
class Ordinal(ScalarLikelihood):
    r"""Ordered categories $0, \dots, C - 1$ by cumulative log odds.

    $$ P(y \ge c \mid \eta) = \frac{1}{1 + e^{\tau_c - \eta}}, \qquad 0 = \tau_1 < \tau_2 < \dots < \tau_{C - 1} $$

    The first threshold is 0, because an intercept of $\eta$ would move all thresholds together: it takes the place of
    minus the first one. The distances of the others are learned, so that they are ordered. With the probabilities $u$
    of more and $d$ of less than a label, its log probability has the slope $d - u$ and the curvature
    $-u (1 - u) - d (1 - d)$: it is log-concave. Source: McCullagh 1980, Regression models for ordinal data.

    Args:
        num_categories: $C$.

    Raises:
        ValueError: if `num_categories` is below 2.
    """

    name = "ordinal"
    smooth = True
    no_size = "ordered categories without sizes"
    discrete = True
    anchored = True
    bounded = True
    num_labels: int

    def __init__(self, num_categories: int = 3) -> None:
        super().__init__()
        self.num_labels = num_categories
        self.log_gaps = nn.ParameterList(nn.Parameter(torch.zeros(())) for _ in range(num_categories - 2))

    @classmethod
    def of(cls, y: Array) -> Ordinal:
        """Return the likelihood of as many categories as there are labels, thresholds where these say.

        Raises:
            ValueError: if labels are no whole numbers from 0 on, or leave one out.
        """
        bad = (y < 0) | (y != np.round(y))
        if bad.any():
            row = int(np.argmax(bad))
            raise ValueError(
                f"labels: expected categories 0, 1, 2, ... for an ordinal likelihood, got {y[row]:g} at row {row}"
            )
        counts = np.bincount(y.astype(np.int64))
        if len(counts) < 2 or not counts.all():
            what = f"no row of {int(np.argmin(counts))}" if len(counts) > 1 else "0 in every row"
            raise ValueError(
                f"labels: expected rows of each of the categories 0, ..., {max(len(counts) - 1, 1)} for an ordinal "
                f"likelihood, got {what} (number them from 0 without gaps, or give ordered categories)"
            )
        out = cls(len(counts))
        out._take(counts)
        return out

    @torch.no_grad()
    def _take(self, counts: NDArray[np.int64]) -> None:
        """Start the thresholds at the log odds of all rows together."""
        below = np.cumsum(counts + 0.5)[:-1] / (counts + 0.5).sum()
        for gap, distance in zip(self.log_gaps, np.diff(special.logit(below)), strict=True):
            gap.fill_(math.log(float(distance)))

    @property
    def thresholds(self) -> Tensor:
        r"""$\tau_1, \dots, \tau_{C - 1}$, shape `(C - 1,)`."""
        first = torch.zeros((), dtype=torch.float64, device=self.center.device)
        gaps = [gap.double().clamp(LEAST_GAP, LARGEST_LOG).exp() for gap in self.log_gaps]
        return torch.stack([first, *gaps]).cumsum(0)

    def learned(self) -> dict[str, Tensor]:
        return {"gaps": self.thresholds.diff()}

    def numbers(self) -> dict[str, float]:
        values = self.thresholds[1:].detach().tolist()
        return {f"threshold({c}|{c + 1})": value for c, value in enumerate(values, 1)}

    def check(self, name: str, y: Tensor, mask: Tensor, size: Tensor | None) -> None:
        self.check_size(name, mask, size)
        bad = ((y < 0) | (y != y.round()) | (y >= self.num_labels)) & mask
        if bool(bad.any()):
            t, i = (int(v) for v in bad.nonzero()[0])
            raise ValueError(
                f"{name}: expected categories 0, ..., {self.num_labels - 1} for an ordinal likelihood of "
                f"{self.num_labels} (num_categories), got {float(y[t, i]):g} at task {t}, row {i}"
            )

    def extreme(self, y: NDArray[np.float64], size: NDArray[np.float64]) -> bool:
        return bool((y == 0).all() or (y == self.num_labels - 1).all())

    def alone(self, size: NDArray[np.float64]) -> bool:
        return True  # thresholds take a spread of rows in

    @torch.no_grad()
    def measure(self, rows: TrainingRows) -> TrainingRows:
        """Start the thresholds at the log odds of the training labels."""
        if rows.standardize:
            self._take(np.bincount(rows.y.cpu().numpy().astype(np.int64), minlength=self.num_labels))
        return super().measure(rows)

    def intercept(self, y: Tensor, size: Tensor | None) -> float:
        p = (float((y > 0).sum()) + 0.5) / (len(y) + 1)
        return math.log(p / (1 - p))

    def mean(self, eta: Tensor, given: Given | None = None) -> Tensor:
        return torch.sigmoid(eta.double().unsqueeze(-1) - self.thresholds).sum(-1)

    def variance(self, eta: Tensor, given: Given | None = None) -> Tensor:
        above = torch.sigmoid(eta.double().unsqueeze(-1) - self.thresholds)
        odd = 2 * torch.arange(1, self.num_labels, dtype=above.dtype, device=above.device) - 1
        return (above * odd).sum(-1) - above.sum(-1).square()

    def information(self, eta: Tensor, given: Given | None = None) -> Tensor:
        above = torch.sigmoid(eta.double().unsqueeze(-1) - self.thresholds)
        whole, none = torch.ones_like(above[..., :1]), torch.zeros_like(above[..., :1])
        low, high = torch.cat([whole, above], -1), torch.cat([above, none], -1)
        return ((low - high) * (low * (1 - low) + high * (1 - high))).sum(-1)

    def cdf(self, y: Tensor, eta: Tensor, given: Given | None = None) -> Tensor:
        place = y.double().floor()
        reached = torch.sigmoid(self.thresholds[place.clamp(0, self.num_labels - 2).long()] - eta.double())
        out: Tensor = torch.where(place >= self.num_labels - 1, 1.0, reached) * (place >= 0)
        return out

    def distribution(self, eta: Tensor, way_mask: Tensor, given: Given | None = None) -> TorchDistributionMixin:
        at, every = eta.double().clamp(-FARTHEST, FARTHEST), torch.arange(self.num_labels, device=eta.device)
        return _Ordered(logits=_log_prob(every, at, self.thresholds), validate_args=False)

    def log_prob(self, y: Tensor, eta: Tensor, way_mask: Tensor, given: Given | None = None) -> Tensor:
        return self.kernel(y, eta.squeeze(-1))  # of one category, where a distribution has all

    def kernel(self, y: Tensor, eta: Tensor, given: Given | None = None) -> Tensor:
        return _log_prob(y, eta.double().clamp(-FARTHEST, FARTHEST), self.thresholds)

    def expansion(self, y: Array, eta: Array, size: Array | float = 1.0) -> tuple[Array, Array, Array]:
        tau, c, at = self.thresholds.detach().numpy(), y.astype(np.int64), np.clip(eta, -FARTHEST, FARTHEST)
        first, last = c == 0, c == self.num_labels - 1
        lower, upper = tau[np.maximum(c - 1, 0)], tau[np.minimum(c, len(tau) - 1)]
        gap = np.where(first | last, np.inf, upper - lower)
        low, high = np.where(first, np.inf, at - lower), np.where(last, -np.inf, at - upper)
        up, down = special.expit(high), special.expit(-low)  # of more and of less than the label
        value = special.log_expit(low) + special.log_expit(-high) + np.log(-np.expm1(-gap))
        return value, down - up, -up * (1 - up) - down * (1 - down)


class _Ordered(dist.Categorical):  # type: ignore[misc]  # Pyro ships no types
    """Categories as real numbers, like all labels that are numbers."""

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        out: Tensor = super().sample(sample_shape).double()
        return out


def _log_prob(y: Tensor, eta: Tensor, thresholds: Tensor) -> Tensor:
    """Return the log probability of categories: that of no less, times that of no more given this."""
    c = y.long().clamp(0, len(thresholds))
    first, last = c == 0, c == len(thresholds)
    lower, upper = thresholds[(c - 1).clamp(min=0)], thresholds[c.clamp(max=len(thresholds) - 1)]
    gap = torch.where(first | last, 1.0, upper - lower)
    no_less = torch.where(first, 0.0, functional.logsigmoid(eta - lower))
    no_more = torch.where(last, 0.0, functional.logsigmoid(upper - eta))
    return no_less + no_more + torch.where(first | last, 0.0, torch.log(-torch.expm1(-gap)))
