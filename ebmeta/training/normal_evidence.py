r"""The log evidence of normal labels in closed form, from a few numbers of each group.

With $w_t = \beta c_t + L z_t$, $z_t \sim \mathcal N(0, I)$, and $c_t$ a 1 and the covariates of the group, the labels
of a group are normal with covariance $\sigma^2 I + X_t L L^\top X_t^\top$. A triangular factor $R_t$ of $(X_t, y_t)$
has at most $P + 1$ rows and says all that the rows do. With $A_t = R_t L / \sigma$ and
$e_t = (r_t - R_t \beta c_t) / \sigma$,

$$ -2 \log p(y_t) = n_t \log 2 \pi \sigma^2 + \log |I + A_t^\top A_t|
   + \min_z \big( \lVert e_t - A_t z \rVert^2 + \lVert z \rVert^2 \big) , $$

in which nothing cancels, and nothing is inverted that is singular where $L$ is: a spread of 0 is a point like any
other. $\beta$ is the generalised least-squares solution given $L$ and $\sigma$, so that the maximum is sought over
these two alone. Of weights that are common to all groups $X_t$ has no columns beside $L$, and $\beta$ has all.
Source: Bates, Maechler, Bolker and Walker 2015, Fitting linear mixed-effects models using lme4.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from scipy import optimize
from torch import Tensor
from torch.nn import functional

from ebmeta.foundation.maximum import climb
from ebmeta.foundation.standardization import standard
from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.parts.prior import Prior
from ebmeta.tasks.batch import TaskBatch

__all__ = ["NormalEvidence", "design_of", "fits_prior_alone", "log_gamma", "write_prior"]

FLAT = 1e-12  # of the largest curvature: a direction of the means that no label speaks of
SPREAD, NOISE = 0.3, 0.7  # where the ascent starts, in standard deviations of the labels
LEAST_NOISE, SMALL_NOISE = 1e-7, 2e-7  # of the same: less is none
NO_NOISE = "the noise goes to 0, and the evidence has no maximum: the weights of groups explain every label"
SMALLEST = 1e-6  # scale below which a fitted one stands for 0 itself
ALIKE = 2e-3  # least standard deviation of a weight given the others, of its own: 32 bits have to hold the precision
RATE = 0.1  # of the hyperprior: its mean is 20 standard deviations of the labels


class Point(NamedTuple):
    r"""Where an ascent is.

    Args:
        factor: $L$, shape `(R, R)` of $R$ weights that vary.
        log_noise: $\log \sigma$ of a row of typical size.
        left: nats still to be gained.
    """

    factor: Tensor
    log_noise: Tensor
    left: float


class NormalEvidence:
    r"""The log evidence of all groups as a function of the factor $L$ and the noise, with the means at their best.

    Args:
        model: a model in 64 bits, of which `of` has found that it has the form.
        lower: `Prior.correlations` of its prior.
        log_sigma: `Likelihood.log_sigma` of its likelihood.
        parts: labelled groups; every row counts.
        hyperprior: add the log hyperprior of the spreads; see `ebmeta.training.evidence`.
    """

    @classmethod
    def of(cls, model: EmpiricalBayes, parts: list[TaskBatch], hyperprior: bool) -> NormalEvidence | None:
        """Return the evidence where it has this form and only parameters of the form are fitted, else None.

        Args:
            model: a model in 64 bits.
            parts: labelled groups; every row counts.
            hyperprior: add the log hyperprior of the spreads; see `ebmeta.training.evidence`.
        """
        likelihood, prior = model.likelihood, model.prior
        log_sigma, lower = likelihood.log_sigma, prior.correlations
        if not likelihood.conjugate or likelihood.has_level or log_sigma is None or lower is None:
            return None
        if not fits_prior_alone(model):
            return None
        return cls(model, lower, log_sigma, parts, hyperprior)

    def __init__(
        self, model: EmpiricalBayes, lower: Tensor, log_sigma: Tensor, parts: list[TaskBatch], hyperprior: bool
    ) -> None:
        prior, likelihood = model.prior, model.likelihood
        self.prior, self.likelihood, self.hyperprior = prior, likelihood, hyperprior
        self.lower, self.log_sigma = lower, log_sigma
        pooled = [part.pooled() for part in parts]
        log_size = torch.cat([_size(part)[part.query_mask].log() for part in pooled])
        self.typical, self.num_rows = log_size.mean(), len(log_size)  # sizes may be very large or small
        with torch.no_grad():
            factor = torch.cat([self._factor(model, part) for part in pooled])
            rows, self.y = factor[..., :-1], factor[..., -1]
            self.x = rows[..., list(prior.varying)]  # of the weights that vary
            self.design = design_of(prior, rows, pooled)
        per_row = (log_size - self.typical).mean() / 2 - likelihood.unit.log() - math.log(2 * math.pi) / 2
        slopes = [likelihood.log_jacobian(_labels(part))[part.query_mask].sum() for part in pooled]
        self.constant = self.num_rows * float(per_row) + float(sum(slopes))

    def _factor(self, model: EmpiricalBayes, part: TaskBatch) -> Tensor:
        """Return the triangular factor of each group's rows, shape `(T, P + 1, P + 1)`."""
        y, mask = _labels(part), part.query_mask
        rows = torch.cat([model.predictor.features(part.query_x, mask), self.likelihood.statistic(y, 1)], -1)
        weight = torch.where(mask, _size(part) / self.typical.exp(), 0.0).sqrt().unsqueeze(-1)
        found = torch.linalg.qr(torch.where(mask.unsqueeze(-1), rows, 0.0) * weight, mode="r").R
        return functional.pad(found, (0, 0, 0, found.shape[-1] - found.shape[-2]))

    def log_evidence(self, factor: Tensor, log_noise: Tensor) -> tuple[Tensor, Tensor]:
        r"""Return the log evidence in nats at its best means, and these.

        Args:
            factor: $L$, lower triangular, shape `(R, R)`.
            log_noise: $\log \sigma$ of a row of typical size, in units of the linear predictor.

        Returns:
            The log evidence, and $\beta$ of shape `(P, 1 + G)`.
        """
        sigma = log_noise.exp()
        a = self.x @ factor / sigma
        m = torch.linalg.cholesky(torch.eye(a.shape[-1], dtype=a.dtype) + a.mT @ a)
        with torch.no_grad():
            b, y = self.design / sigma, (self.y / sigma).unsqueeze(-1)
            b_left = b - a @ torch.cholesky_solve(a.mT @ b, m)
            normal, right = (b.mT @ b_left).sum(0), (b_left.mT @ y).sum(0)
            values, vectors = torch.linalg.eigh((normal + normal.T) / 2)
            inverse = torch.where(values > FLAT * values[-1], 1 / values, 0.0)
            beta = vectors @ (inverse.unsqueeze(-1) * (vectors.T @ right))
        e = (self.y.unsqueeze(-1) - self.design @ beta) / sigma
        z = torch.cholesky_solve(a.mT @ e, m)
        square = (e - a @ z).square().sum() + z.square().sum()
        log_det = 2 * m.diagonal(dim1=-2, dim2=-1).log().sum()
        out = self.constant - self.num_rows * log_noise - (square + log_det) / 2
        return out, beta.view(len(self.prior.loc), -1)

    def fit(self, max_iterations: int) -> float:
        """Go to the maximum and write it to the model; return the nats that are still left to gain, at least."""
        found = self.top = self._climb(self._start(), max_iterations, self.hyperprior)
        with torch.no_grad():
            beta = self.log_evidence(found.factor, found.log_noise)[1]
            write_prior(self.prior, self.lower, found.factor, beta)
            if not self.likelihood.known:
                self.log_sigma.copy_(found.log_noise + self.typical / 2)
        return found.left

    def reached(self) -> float:
        """Return the log evidence at the maximum in nats."""
        return self._value(self.top)

    def notes(self) -> list[str]:
        """Return notes on the maximum."""
        if self.saturated:
            return [
                f"{self.num_parameters} parameters for {self.num_rows} rows: the evidence has no maximum, so weights "
                "are taken for uncorrelated over groups; fit fewer features, or more rows"
            ]
        if not self.likelihood.known and self.top.log_noise <= math.log(SMALL_NOISE):
            return [NO_NOISE]
        return []

    def boundary(self, max_iterations: int) -> tuple[float, list[float], list[float]]:
        """Return the largest log evidence, those without the spread of each weight, and what each of these left.

        None has the hyperprior, so that they can be compared. Changes nothing.
        """
        top = self._climb(self.top, max_iterations, hyperprior=False) if self.hyperprior else self.top
        value, without = self._value(top), [self._climb(top, max_iterations, False, p) for p in range(len(top.factor))]
        for p, found in enumerate(without):
            if value - self._value(found) > 1:  # a large loss is checked by a second ascent
                second = self._climb(self._start(), max_iterations, False, p)
                without[p] = max(found, second, key=self._value)
        return value, [self._value(point) for point in without], [point.left for point in without]

    @torch.no_grad()
    def _value(self, point: Point) -> float:
        return float(self.log_evidence(point.factor, point.log_noise)[0])

    @property
    def num_parameters(self) -> int:
        """Numbers to be fitted: those of the spreads, the means and the noise of features that vary."""
        rank = int(torch.linalg.matrix_rank(self.x.flatten(0, 1), rtol=1e-10))
        of_means = int(torch.linalg.matrix_rank(self.design.flatten(0, 1), rtol=1e-10))
        return rank * (rank + 1) // 2 + of_means + (not self.likelihood.known)

    @property
    def saturated(self) -> bool:
        """Whether there are as many numbers to fit as rows."""
        return self.num_parameters >= self.num_rows

    def _start(self) -> Point:
        factor = SPREAD * torch.eye(self.x.shape[-1], dtype=torch.float64)
        known = self.log_sigma.detach() - self.typical / 2
        return Point(factor, known if self.likelihood.known else factor.new_tensor(math.log(NOISE)), math.inf)

    def _climb(self, start: Point, max_iterations: int, hyperprior: bool, zero: int | None = None) -> Point:
        size = len(start.factor)
        rows, columns = torch.tril_indices(size, size)
        free = torch.ones_like(rows, dtype=torch.bool) if zero is None else rows != zero
        if self.saturated:
            free &= rows == columns
        rows, columns = rows[free], columns[free]
        fixed = [start.log_noise] if self.likelihood.known else []

        def unpack(at: Tensor) -> tuple[Tensor, Tensor]:
            factor = at.new_zeros(size, size).index_put((rows, columns), at[: len(rows)])
            return factor, [*fixed, *at[len(rows) :]][0]

        def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
            at = torch.from_numpy(values.copy()).requires_grad_()
            factor, log_noise = unpack(at)
            try:
                out = -self.log_evidence(factor, log_noise)[0]
            except RuntimeError:  # too far from anything that labels could say
                return math.inf, np.zeros_like(values)
            if hyperprior:
                out = out - log_gamma(factor.norm(dim=1))
            (gradient,) = torch.autograd.grad(out, at)
            return out.item(), gradient.numpy()

        begin = torch.cat([start.factor[rows, columns], *([] if fixed else [start.log_noise.view(1)])])
        least = np.full(len(begin), -np.inf)
        least[len(rows) :] = math.log(LEAST_NOISE)
        found = climb(loss, begin.numpy(), max_iterations, optimize.Bounds(least, np.inf))
        factor, log_noise = unpack(torch.from_numpy(found.at))
        return Point(factor, log_noise, found.left)


def fits_prior_alone(model: EmpiricalBayes) -> bool:
    """Return whether all of the prior and the likelihood is fitted, and none of the features."""
    free = [*model.prior.parameters(), *([] if model.likelihood.known else model.likelihood.parameters())]
    return all(p.requires_grad for p in free) and not any(p.requires_grad for p in model.predictor.parameters())


@torch.no_grad()
def write_prior(prior: Prior, lower: Tensor, factor: Tensor, beta: Tensor) -> None:
    r"""Set a prior's parameters, a spread of 0 by the least one that 32 bits hold.

    Args:
        prior: the prior.
        lower: `Prior.correlations` of it.
        factor: $L$, lower triangular, shape `(R, R)`.
        beta: means of the weights and their slopes by covariates of groups, shape `(P, 1 + G)`.
    """
    factor = torch.where(factor.diagonal() < 0, -factor, factor)  # the sign of a column is free
    least = (ALIKE * factor.norm(dim=1)).clamp(min=SMALLEST)
    scale = torch.maximum(factor.diagonal(), least)
    prior.log_scale.copy_(scale.log())
    lower.copy_(torch.tril(factor, -1) / scale.unsqueeze(1))
    prior.loc.copy_(beta[:, 0])
    if beta.shape[1] > 1:
        prior.slope.copy_(beta[:, 1:])


def design_of(prior: Prior, rows: Tensor, parts: list[TaskBatch]) -> Tensor:
    r"""Return what the means and slopes of the weights are multiplied by.

    Args:
        prior: the prior.
        rows: features of rows of each group, shape `(T, N, P)`.
        parts: the same groups; their covariates.

    Returns:
        Shape `(T, N, P (1 + G))`.
    """
    known = [standard(part.task_x, prior.center, prior.unit) for part in parts if part.task_x is not None]
    ones = [rows.new_ones(len(rows), 1)]
    out = torch.einsum("tkp,tg->tkpg", rows, torch.cat([*ones, *([torch.cat(known)] if known else [])], 1))
    return out.flatten(2)


def _size(batch: TaskBatch) -> Tensor:
    size = batch.query_size
    return torch.ones_like(batch.query_mask, dtype=torch.float64) if size is None else size.double()


def _labels(batch: TaskBatch) -> Tensor:
    assert batch.query_y is not None  # for the type checker: pooling asks for labels
    return batch.query_y


def log_gamma(scales: Tensor) -> Tensor:
    r"""Return $\sum_p (\log s_p - 0.1 s_p)$, the log of a Gamma(2, 0.1) density of each scale up to a constant."""
    return (scales.log() - RATE * scales).sum()
