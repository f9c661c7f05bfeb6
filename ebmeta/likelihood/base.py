r"""The abstract likelihood $p(y \mid \eta)$, which states all that the rest of the library uses of one.

An exponential family in the linear predictor,

$$ -\log p(y \mid \eta) = \frac{A(\eta) - T(y)^\top \eta}{\varphi} + \text{terms without } \eta, $$

has a log-partition $A$, a sufficient statistic $T$ and a dispersion $\varphi$. Refinement needs only
$\mathbb E[A'(\eta)]$ and $\mathbb E[A''(\eta)]$ under a Gaussian $\eta$ (`moments`), which do not ask for labels;
the initializer needs the gradient at the support labels (`gradients`), and the objective the expected and
the predictive log likelihood. Where a likelihood of one number per row is not of this kind
(`ScalarLikelihood.canonical`), its gradients come from its log density.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from ebmeta.foundation.seeding import Drawing
from ebmeta.tasks.training_rows import TrainingRows

__all__ = ["Given", "Likelihood", "named"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Given:
    r"""What is known of rows in addition to their features.

    Args:
        size: how much each row counts: trials of a binomial, exposure of counts, number of
            readings averaged in a normal, Student-t or gamma label, or in the logarithm of a log-normal one (the
            variance is divided by it), shape `(T, N)`; 1 where None.
        level: noise level $z$ of each task, for likelihoods that have one, shape `(T,)`; 0 where None.
    """

    size: Tensor | None = None
    level: Tensor | None = None


class Likelihood(nn.Module):
    """The abstract likelihood, which states what the rest of the library uses and what each likelihood can do."""

    name: ClassVar[str]
    #: True where labels are class numbers and outputs are classes.
    categorical: ClassVar[bool] = False
    #: True where a Gaussian prior gives a Gaussian posterior, so that one step of the initializer is exact.
    conjugate: ClassVar[bool] = False
    #: True where every task has a noise level $z_t \sim \mathcal N(0, 1)$ of its own (`Given.level`).
    has_level: ClassVar[bool] = False
    #: True where a label has a probability and not a density: for counts and classes.
    discrete: ClassVar[bool] = False
    #: True where labels, once `transformed`, are the linear predictor plus noise; elsewhere a link stands between.
    located: ClassVar[bool] = False
    #: True where there is a `cdf`, which quantiles and intervals need.
    has_cdf: ClassVar[bool] = False

    #: True where an intercept stands for a parameter of the likelihood, so that the linear predictor has to have one.
    anchored: ClassVar[bool] = False

    #: True where a label may tell nothing of the linear predictor, as a 0 of rows that are 0 whatever their rate.
    inflated: ClassVar[bool] = False

    #: Number of labels, which are then 0, 1, ...; None where there is no end of them.
    num_labels: int | None = None

    #: True where the mean levels off at both ends of the linear predictor, as a step does.
    bounded: ClassVar[bool] = False

    #: Ends of labels that are no counts; quantiles are looked for on a scale without those at 0 and 1.
    ends: ClassVar[tuple[float, float]] = (-math.inf, math.inf)

    #: What rows of labels without sizes are, where the likelihood takes none.
    no_size: ClassVar[str] = ""

    #: True where sizes are inverse variances of the labels, so that no noise is left to learn.
    known: bool = False

    #: Centre $a$ and unit $b$ of $a + b$ times the linear predictor, on the scale of labels or of their logarithms.
    center: Tensor
    unit: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros((), dtype=torch.float64), persistent=False)
        self.register_buffer("unit", torch.ones((), dtype=torch.float64), persistent=False)

    @classmethod
    def of(cls, y: Array) -> Likelihood:
        """Return a likelihood with as many parameters as labels of shape `(N,)` ask for."""
        return cls()

    @property
    def categories(self) -> int | None:
        """Number of categories, which `predictive_probs` tells of; None where labels are numbers."""
        return self.num_labels

    @property
    def log_sigma(self) -> nn.Parameter | None:
        r"""$\log \sigma$ of the noise of real labels, in units of the linear predictor; None where there is none."""
        return None

    def learned(self) -> dict[str, Tensor]:
        """Return the learned parameters, if any, by the names of the formulas: scalars, or vectors of any length."""
        return {}

    def numbers(self) -> dict[str, float]:
        """Return the learned parameters one by one, by names for a reader."""
        return {name: float(value.detach()) for name, value in self.learned().items()}

    def dispersion(self, given: Given | None = None) -> Tensor | float:
        r"""Return $\varphi$, a scalar or of a shape that broadcasts with `(T, Q, C)`."""
        return 1.0

    def check(self, name: str, y: Tensor, mask: Tensor, size: Tensor | None) -> None:
        """Raise `ValueError` where a label is impossible; `name` is the argument that holds the labels."""

    def check_size(self, name: str, mask: Tensor, size: Tensor | None) -> None:
        """Raise `ValueError` where rows have sizes and can have none, or one is impossible; `name` as of `check`."""
        if size is None:
            return
        if self.no_size:
            raise ValueError(f"{name}: expected {self.no_size}, got sizes")
        if bool(((size <= 0) & mask).any()):
            t, i = (int(v) for v in ((size <= 0) & mask).nonzero()[0])
            side = "size" if name == "y" else name.replace("_y", "_size")
            raise ValueError(f"{side}: expected numbers above 0, got {float(size[t, i]):g} at task {t}, row {i}")

    def check_precision(self, name: str, y: Tensor, dtype: torch.dtype) -> None:
        """Raise `ValueError` where a linear predictor of this type is too coarse for a label."""

    def measure(self, rows: TrainingRows) -> TrainingRows:
        """Take the scale of training labels, where `rows.standardize`; return the rows with their intercept.

        Args:
            rows: training rows.
        """
        return replace(rows, intercept=self.intercept(rows.y, rows.size)) if rows.standardize else rows

    def intercept(self, y: Tensor, size: Tensor | None) -> float:
        """Return the linear predictor of the mean of labels of shape `(N,)` and sizes of that shape, if any."""
        return 0.0

    def extreme(self, y: NDArray[np.float64], size: NDArray[np.float64]) -> bool:
        """Whether the likelihood of labels, shape `(N,)`, grows without bound or has no maximum."""
        return False

    def alone(self, size: NDArray[np.float64]) -> bool:
        """Whether groups of one row with sizes `(N,)` cannot separate the spread of groups from noise."""
        return False

    def mean(self, eta: Tensor, given: Given | None = None) -> Tensor:
        r"""Return $\mathbb E[y \mid \eta]$ of numbers, shape `(..., T, Q)` as `eta`."""
        raise self._no_number("mean")

    def variance(self, eta: Tensor, given: Given | None = None) -> Tensor:
        r"""Return $\mathrm{Var}[y \mid \eta]$ of numbers, shape `(..., T, Q)` as `eta`."""
        raise self._no_number("variance")

    def cdf(self, y: Tensor, eta: Tensor, given: Given | None = None) -> Tensor:
        r"""Return $P(Y \le y \mid \eta)$ of numbers, shape `(..., T, Q)` as `eta`; quantiles and intervals need it."""
        raise self._no_number("cdf")

    def predictive_cdf(self, y: Tensor, loc: Tensor, var: Tensor, given: Given | None = None) -> Tensor:
        """Return the probability of a number up to `y`, shape `(T, Q)`; `loc` and `var` of shape `(T, Q, 1)`."""
        raise self._no_number("cdf")

    def predictive_probs(self, loc: Tensor, var: Tensor, given: Given | None = None) -> Tensor:
        """Return the probability of each category, shape `(T, Q, C)`; `loc` and `var` of shape `(T, Q, 1)`.

        Raises:
            ValueError: if labels are no ordered categories.
        """
        raise ValueError(
            f"probabilities: expected labels that are categories, as of a bernoulli or an ordinal likelihood, got a "
            f"{self.name} one (log_density tells of one label, quantiles and sample of all)"
        )

    def _no_number(self, what: str) -> ValueError:
        return ValueError(f"{what}: expected labels that are numbers, got a {self.name} likelihood")

    def transformed(self, y: Tensor) -> Tensor:
        """Return labels on the scale where they are the linear predictor plus noise, of their shape."""
        return y

    def log_jacobian(self, y: Tensor) -> Tensor:
        """Return the log of the slope of `transformed`, of the shape of the labels."""
        return torch.zeros_like(y, dtype=torch.float64)

    def peak(self, y: Tensor) -> Tensor:
        """Return the linear predictor under which a label that has a density is likeliest, of the shape of `y`."""
        return self.statistic(y, 1).squeeze(-1)

    def statistic(self, y: Tensor, num_ways: int) -> Tensor:
        """Return $T(y)$, shape `(T, Q, C)`, for labels of shape `(T, Q)`."""
        raise NotImplementedError

    def moments(self, loc: Tensor, var: Tensor, way_mask: Tensor, given: Given | None = None) -> tuple[Tensor, Tensor]:
        r"""Return $\mathbb E[A'(\eta)]$ and the diagonal of $\mathbb E[A''(\eta)]$, zero for padded ways.

        Args:
            loc: location of $\eta$, shape `(T, Q, C)`.
            var: variance of $\eta$, shape `(T, Q, C)`.
            way_mask: True where a class exists, shape `(T, C)`.
            given: what else is known of the rows.
        """
        raise NotImplementedError

    def gradients(
        self, y: Tensor, loc: Tensor, var: Tensor, way_mask: Tensor, given: Given | None = None
    ) -> tuple[Tensor, Tensor]:
        r"""Return the mean gradient and curvature of $-\log p(y \mid \eta)$ with respect to $\eta$.

        $$ g = \frac{\mathbb E[A'(\eta)] - T(y)}{\varphi}, \qquad h = \frac{\mathbb E[A''(\eta)]}{\varphi} \ge 0 $$

        Args:
            y: labels, shape `(T, Q)`.
            loc: location of $\eta$, shape `(T, Q, C)`.
            var: variance of $\eta$, shape `(T, Q, C)`.
            way_mask: True where a class exists, shape `(T, C)`.
            given: what else is known of the rows.
        """
        mean, curvature = self.moments(loc, var, way_mask, given)
        phi = self.dispersion(given)
        return (mean - self.statistic(y, loc.shape[-1]).to(loc.dtype)) / phi, curvature / phi

    def distribution(self, eta: Tensor, way_mask: Tensor, given: Given | None = None) -> TorchDistributionMixin:
        """Return the Pyro distribution of labels, batch shape `(..., T, Q)`, for `eta` `(..., T, Q, C)`."""
        raise NotImplementedError

    @torch.no_grad()
    def sample(
        self, eta: Tensor, way_mask: Tensor, given: Given | None = None, *, generator: torch.Generator
    ) -> Tensor:
        """Draw labels, shape `(..., T, Q)`, for `eta` `(..., T, Q, C)`, from a generator on the CPU."""
        with Drawing(generator):
            out: Tensor = self.distribution(eta, way_mask, given).sample()
        return out

    def predict(self, loc: Tensor, var: Tensor, way_mask: Tensor, given: Given | None = None) -> dict[str, Tensor]:
        r"""Return summaries of the predictive distribution $\int p(y \mid \eta)\, q(\eta)\, d\eta$."""
        raise NotImplementedError

    def log_prob(self, y: Tensor, eta: Tensor, way_mask: Tensor, given: Given | None = None) -> Tensor:
        """Return the log likelihood in nats, shape `(..., T, Q)`."""
        out: Tensor = self.distribution(eta, way_mask, given).log_prob(y)
        return out

    def kernel(self, y: Tensor, eta: Tensor, given: Given | None = None) -> Tensor:
        r"""Return $\log p(y \mid \eta)$ of numbers up to terms without $\eta$, shape `(..., T, Q)` as `eta`."""
        raise self._no_number("kernel")

    def expansion(self, y: Array, eta: Array, size: Array | float = 1.0) -> tuple[Array, Array, Array]:
        r"""Return the kernel of numbers, its slope and its curvature in $\eta$, all of the shape of `eta`.

        Args:
            y: labels, of a shape that broadcasts with `eta`.
            eta: linear predictor.
            size: of the rows, of a shape that broadcasts with `eta`.
        """
        raise self._no_number("expansion")

    def log_silent(self, y: Array, eta: Array, size: Array | float = 1.0) -> Array:
        """Return the log probability that a label tells nothing of its linear predictor, given both.

        Args:
            y: as of `expansion`.
            eta: the same.
            size: the same.
        """
        return np.full(np.shape(eta), -np.inf)

    def expected_log_prob(
        self, y: Tensor, loc: Tensor, var: Tensor, way_mask: Tensor, noise: Tensor, given: Given | None = None
    ) -> Tensor:
        r"""Return $\mathbb E_{q(\eta)}[\log p(y \mid \eta)]$ in nats, shape `(T, Q)` (Gibbs objective).

        Args:
            y: labels, shape `(T, Q)`.
            loc: location of $\eta$, shape `(T, Q, C)`.
            var: variance of $\eta$, shape `(T, Q, C)`.
            way_mask: True where a class exists, shape `(T, C)`.
            noise: standard normal draws, shape `(draws, T, Q, C)`; unused by likelihoods of real labels.
            given: what else is known of the rows.
        """
        return self.log_prob(y, loc + _scale(var) * noise, way_mask, given).mean(0)

    def predictive_log_prob(
        self, y: Tensor, loc: Tensor, var: Tensor, way_mask: Tensor, noise: Tensor, given: Given | None = None
    ) -> Tensor:
        r"""Return $\log \mathbb E_{q(\eta)}[p(y \mid \eta)]$ in nats, shape `(T, Q)`; arguments as above.

        The average over draws is biased low for few draws: each finite number of draws scores a
        slightly harder game than the exact mixture.
        """
        logp = self.log_prob(y, loc + _scale(var) * noise, way_mask, given)
        return torch.logsumexp(logp, 0) - math.log(len(logp))


def named(base: type[Likelihood]) -> Iterator[type[Likelihood]]:
    """Iterate over the classes below another that have a name of their own."""
    for kind in base.__subclasses__():
        if "name" in vars(kind):
            yield kind
        yield from named(kind)


def _scale(var: Tensor) -> Tensor:
    """Return the standard deviation, with a finite gradient where the variance is zero (padded rows)."""
    return var.clamp(min=1e-20).sqrt()
