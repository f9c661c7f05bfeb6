r"""The learned prior $p_\psi(w)$, which all tasks have in common.

The prior is exchangeable over outputs: every class weight (or the one regression weight vector) is
drawn from the same Gaussian, so it is defined for any number of classes,

$$ w_{tc} \sim \mathcal N(\mu + B \tilde g_t, \Sigma), \qquad \psi = (\mu, B, \Sigma), $$

with $\Sigma$ diagonal for class weights and full for regression weights, and $\tilde g_t$ covariates of the task as a
whole, in units of the training tasks, where there are any. Learning $\psi$ over many tasks is empirical Bayes
(theory: "Empirical Bayes across tasks").
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from ebmeta.foundation.checks import above, at_least, checked
from ebmeta.foundation.standardization import Exact, standard, summary
from ebmeta.foundation.telling import tell
from ebmeta.parts.degenerate_gaussian import DegenerateGaussian
from ebmeta.parts.gaussian import DiagonalGaussian, FullGaussian, Gaussian
from ebmeta.parts.task_features import Geometry
from ebmeta.parts.widths import Widths, class_widths
from ebmeta.tasks.training_rows import TrainingRows

__all__ = ["DiagonalPrior", "FullPrior", "Prior"]

COARSE = 7e-3  # standard deviation of a weight given the others, of its own, below which 32 bits are too few


@checked(num_weights=at_least(1), scale=above(0), num_covariates=at_least(0))
class Prior(Exact, ABC):
    """A learned Gaussian over one output's weights; `forward` repeats it over tasks and outputs.

    Args:
        num_weights: number of weights per output, $P$.
        scale: initial standard deviation of every weight.
        num_covariates: covariates per task, $G$.
        varying: numbers of the weights that vary over tasks, rising; all by default.

    Raises:
        ValueError: if `num_weights` or `scale` is not positive, `num_covariates` is negative, or `varying` are no
            numbers of weights.
    """

    exact: ClassVar[tuple[str, ...]] = ("center", "unit")

    #: Whether it is a part of a joint model of inputs and labels, whose latent variables are class means.
    joint: ClassVar[bool] = False

    #: Whether the prior of a task depends on how its rows lie, and `of_task` stands in for `forward`.
    reads_geometry: ClassVar[bool] = False

    loc: nn.Parameter
    log_scale: nn.Parameter
    center: Tensor
    unit: Tensor

    def __init__(
        self, num_weights: int, scale: float = 1.0, num_covariates: int = 0, varying: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        #: Numbers of the weights that vary over tasks, rising.
        self.varying: Sequence[int] = range(num_weights) if varying is None else tuple(varying)
        if varying is not None and (not varying or list(varying) != sorted(set(range(num_weights)) & set(varying))):
            raise ValueError(f"varying: expected rising numbers of {num_weights} weights, got {list(varying)}")
        self.num_covariates = num_covariates
        if num_covariates:
            self.slope = nn.Parameter(torch.zeros(num_weights, num_covariates))
            self.register_buffer("center", torch.zeros(num_covariates, dtype=torch.float64))
            self.register_buffer("unit", torch.ones(num_covariates, dtype=torch.float64))
        self.loc = nn.Parameter(torch.zeros(num_weights))
        self.log_scale = nn.Parameter(torch.full((len(self.varying),), math.log(scale)))

    @property
    def correlations(self) -> nn.Parameter | None:
        """Lower triangle of the factor of the covariance before scales, 0 for none; None without correlations."""
        return None

    @abstractmethod
    def gaussian(self) -> Gaussian:
        r"""Return $p_\psi$ of a single output, with parameters of shape `(P,)` and `(P,)` or `(P, P)`."""

    @torch.no_grad()
    def measure(self, rows: TrainingRows) -> TrainingRows:
        """Take centre and unit of the covariates of training tasks, and the mean of the intercept.

        Args:
            rows: training rows, as the likelihood has returned them.

        Raises:
            ValueError: if a covariate varies by too few roundings of its numbers.
        """
        if rows.standardize and rows.task_x is not None:
            center, unit = summary(rows.task_x, "covariate", rows.covariates)
            self.center.copy_(center)
            self.unit.copy_(unit)
        if rows.intercept is not None:
            self.loc[-1] = rows.intercept
        return rows

    def fast(self) -> Iterator[nn.Parameter]:
        """Iterate over the few numbers that training may move in larger steps than a network's weights; none here."""
        return iter(())

    def tell_of_rounding(self) -> None:
        """Warn where the numbers of the prior are too coarse for its precision; never here."""

    def of_task(
        self, geometry: Geometry, num_features: int, way_mask: Tensor, concentration: Tensor | None
    ) -> Gaussian:
        """Return the prior of every task by how its rows lie, where the prior `reads_geometry`."""
        raise NotImplementedError

    def forward(
        self,
        num_tasks: int,
        num_ways: int,
        task_x: Tensor | None = None,
        way_mask: Tensor | None = None,
        concentration: Tensor | None = None,
    ) -> Gaussian:
        r"""Return $p_\psi(w_t)$ for every task and output.

        Args:
            num_tasks: $T$.
            num_ways: $C$.
            task_x: covariates $g_t$, shape `(T, G)`, where the prior has been built for some.
            way_mask: True where a class exists, shape `(T, C)`; of use where the prior is `joint`, as is the next.
            concentration: what is known of class proportions, shape `(T,)` (see `TaskBatch`), or None.

        Returns:
            A Gaussian of shape `(T, C, P)`.

        Raises:
            ValueError: if there are not as many covariates as the prior was built for, or the prior `reads_geometry`.
        """
        if self.reads_geometry:
            raise ValueError("prior: expected the rows of tasks, on which a general classifier's depends, got none")
        got = 0 if task_x is None else task_x.shape[-1]
        if got != self.num_covariates:
            raise ValueError(f"task_x: expected {self.num_covariates} covariates per task, got {got}")
        p = self.gaussian().expand(num_tasks, num_ways)
        if task_x is None:
            return p
        shift = standard(task_x, self.center, self.unit).to(self.slope.dtype) @ self.slope.mT
        return p.with_(p.loc + shift.unsqueeze(1), p.precision)


@checked(num_weights=at_least(1), scale=above(0), num_covariates=at_least(0))
class DiagonalPrior(Prior):
    r"""$w_{cp} \sim \mathcal N(\mu_p, \sigma_p^2)$, independent over weights.

    Args:
        num_weights: number of weights per output, $P$.
        scale: initial standard deviation of every weight.
        num_covariates: covariates per task, $G$.
        widths: "trained", or "measured" on training classes and kept (`ebmeta.parts.widths`).

    Raises:
        ValueError: as of `Prior`.
    """

    def __init__(
        self, num_weights: int, scale: float = 1.0, num_covariates: int = 0, *, widths: Widths = "trained"
    ) -> None:
        super().__init__(num_weights, scale, num_covariates)
        self.widths = widths
        self.log_scale.requires_grad_(widths == "trained")

    @torch.no_grad()
    def measure(self, rows: TrainingRows) -> TrainingRows:
        rows = super().measure(rows)
        if self.widths == "measured":
            _, among = class_widths(rows)
            self.log_scale[:-1] = among.log() / 2
        return rows

    def gaussian(self) -> DiagonalGaussian:
        return DiagonalGaussian(self.loc, torch.exp(-2 * self.log_scale))


@checked(num_weights=at_least(1), scale=above(0), num_covariates=at_least(0))
class FullPrior(Prior):
    r"""$w_c \sim \mathcal N(\mu, L L^\top)$ with $L$ lower triangular.

    The factor is `diag(exp(log_scale)) @ (unit lower triangle)`, so every value of the parameters is
    a covariance and `log_scale` alone sets the size. Where some weights are common to all tasks, $L$ is that of the
    others, and theirs have a mean alone (`ebmeta.parts.degenerate_gaussian`).

    Args:
        num_weights: number of weights per output, $P$.
        scale: initial standard deviation of every weight that varies.
        num_covariates: covariates per task, $G$; they move the mean of every weight.
        varying: numbers of the weights that vary over tasks, rising; all by default.
    """

    def __init__(
        self, num_weights: int, scale: float = 1.0, num_covariates: int = 0, varying: Sequence[int] | None = None
    ) -> None:
        super().__init__(num_weights, scale, num_covariates, varying)
        self.lower = nn.Parameter(torch.zeros(len(self.varying), len(self.varying)))

    @property
    def correlations(self) -> nn.Parameter:
        return self.lower

    def scale_tril(self) -> Tensor:
        """Return $L$, shape `(R, R)` of $R$ weights that vary."""
        unit = torch.tril(self.lower, -1) + torch.eye(len(self.lower), dtype=self.lower.dtype, device=self.lower.device)
        return self.log_scale.exp().unsqueeze(-1) * unit

    @torch.no_grad()
    def tell_of_rounding(self) -> None:
        own = isinstance(self.log_scale, nn.Parameter)  # and not one of several values at once, of an ensemble
        if own and self.log_scale.dtype == torch.float32:
            factor = self.scale_tril()
            if bool((factor.diagonal() < COARSE * factor.norm(dim=1)).any()):
                tell(
                    "model: expected 64 bits where weights nearly determine each other, got 32, which leave "
                    "predictions inexact (model.double())"
                )

    def gaussian(self) -> FullGaussian | DegenerateGaussian:
        precision = torch.cholesky_inverse(self.scale_tril())
        if len(self.varying) == len(self.loc):
            return FullGaussian(self.loc, precision)
        return DegenerateGaussian(self.loc, precision, tuple(self.varying))
