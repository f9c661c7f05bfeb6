r"""The log evidence by the engines of mixed models.

The labels of a group with weights $w_t = \beta c_t + (L u_t, 0)$ are those of a mixed model whose common terms are all
features, each by every covariate of $c_t$, and whose random terms are the features whose weights vary. Its engine goes
to the maximum by Newton's steps: of normal labels in closed form (`ebmeta.random_effects.normal`), of others by
quadrature (`ebmeta.random_effects.quadrature`), whose rule is made finer until that changes nothing. Features are in
the units of the model, so that a hyperprior is of the same spreads. What the engine does not take, or finds no maximum
of, is left to `ebmeta.training.evidence`.
"""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import linalg
from torch import Tensor

from ebmeta.foundation.standardization import standard
from ebmeta.likelihood.base import Likelihood
from ebmeta.likelihood.real import Normal
from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.parts.prior import Prior
from ebmeta.random_effects.ascent import Optimum
from ebmeta.random_effects.boundary import without_spread
from ebmeta.random_effects.covariance import Factor
from ebmeta.random_effects.engine import Engine
from ebmeta.random_effects.normal import NormalEngine
from ebmeta.random_effects.quadrature import QuadratureEngine
from ebmeta.random_effects.rows import Grouping, Rows
from ebmeta.random_effects.tall import parts_of, triangle
from ebmeta.tasks.batch import TaskBatch
from ebmeta.training.evidence import SMALLEST

__all__ = ["MixedEvidence"]

Array = NDArray[np.float64]
MOST = 5  # weights that vary: of more, a rule has too many nodes
MOST_OF_HEAVY = 1  # of labels with heavy tails, of which a group may have several maxima
UNSURE = 0.1  # nats that a finer rule may change
SAME = 1e-6  # relative difference of two units
RANK = 1e-10  # of the largest singular value of features
ALIKE = 2e-3  # least standard deviation of a weight given the others, of its own: curvatures have to be found with less


class MixedEvidence:
    """The maximum of the log evidence of all groups.

    Args:
        model: a model in 64 bits, of which `of` has found that it has the form.
        lower: `Prior.correlations` of its prior.
        engine: the criterion.
        top: its maximum.
        back: the means of all weights for those of the features that the engine has, shape `(P (1 + G), Q)`.
        constant: nats that the log evidence is above the criterion's.
    """

    @classmethod
    def of(cls, model: EmpiricalBayes, parts: list[TaskBatch], hyperprior: bool) -> MixedEvidence | None:
        """Return the maximum where the engine finds one and only parameters of the form are fitted, else None.

        Args:
            model: a model in 64 bits.
            parts: labelled groups; every row counts.
            hyperprior: add the log hyperprior of the spreads; see `ebmeta.training.evidence`.
        """
        likelihood, prior = model.likelihood, model.prior
        lower, varying = prior.correlations, len(prior.varying)
        most = math.inf if likelihood.conjugate else MOST_OF_HEAVY if likelihood.located else MOST
        if likelihood.has_level or lower is None or not 0 < varying <= most:
            return None
        if not fits_prior_alone(model):
            return None
        try:
            pooled = [part.pooled() for part in parts]
            rows = _rows(model, pooled)
            x, back = _independent(rows.x) if likelihood.conjugate else (rows.x, np.eye(rows.x.shape[1]))
            engine = _engine(model, replace(rows, x=x), hyperprior)
            top = engine.maximise()
            engine.check(top.at)
        except (ValueError, np.linalg.LinAlgError):  # terms that determine others, labels that bound nothing
            return None
        if not top.converged or engine.error > UNSURE:
            return None
        return cls(model, lower, engine, top, back, _constant(model, rows, pooled))

    def __init__(
        self,
        model: EmpiricalBayes,
        lower: Tensor,
        engine: NormalEngine | QuadratureEngine,
        top: Optimum,
        back: Array,
        constant: float,
    ) -> None:
        self.model, self.lower, self.engine, self.top, self.written = model, lower, engine, top, top.at
        self.back, self.constant = back, constant

    def fit(self, max_iterations: int) -> float:
        """Write the maximum to the model; return the nats that are still left to gain, at least."""
        engine, prior, size, factor = self.engine, self.model.prior, self.engine.num_theta, self.engine.factors[0]
        unit = engine.scales(self.top.at)[0]
        root = apart(torch.from_numpy(unit * factor.lower(self.top.at[:size])))
        self.written = at = np.append(factor.read(root.numpy() / unit), self.top.at[size:])
        beta = torch.from_numpy(self.back @ engine.coefficients(at)).view(len(prior.loc), -1)
        write_prior(prior, self.lower, root, beta)
        with torch.no_grad():
            for own, found in zip(self.model.likelihood.parameters(), engine.likelihood(at).parameters(), strict=True):
                own.copy_(found)
        return engine.left(self.top.at)

    def reached(self) -> tuple[float, float]:
        """Return the log evidence of what was written and its standard error, none, both in nats."""
        return self.constant + self.engine.log_likelihood(self.written), 0.0

    def notes(self) -> list[str]:
        """Return notes on the maximum."""
        rows, likelihood = self.engine.rows, self.model.likelihood
        if not (likelihood.conjugate and _saturated(rows, likelihood)):
            return []
        return [
            f"{_num_parameters(rows, likelihood)} parameters for {len(rows)} rows: the evidence has no maximum, so "
            "weights are taken for uncorrelated over groups; fit fewer features, or more rows"
        ]

    def boundary(self, max_iterations: int) -> tuple[float, list[float], list[float]]:
        """Return the largest log evidence, those without the spread of each weight, and what each of these left.

        None has the hyperprior, so that they can be compared. Changes nothing.
        """
        engine: Engine = self.engine
        top = self.top
        if engine.hyperprior:
            engine = engine.rebuild(engine.rows, engine.factors)
            top = engine.maximise(top.at)
        found = [without_spread(engine, top, 0, p) for p in range(len(self.model.prior.varying))]
        lefts = [0.0 if each.converged else math.inf for each in found]
        return self.constant - top.value, [self.constant - each.value for each in found], lefts


def _rows(model: EmpiricalBayes, parts: list[TaskBatch]) -> Rows:
    """Return all rows of groups.

    Raises:
        ValueError: if no group has two.
    """
    likelihood, found, begin = model.likelihood, list[list[Tensor]](), 0
    for part in parts:
        mask, y, size = part.query_mask, part.query_y, part.query_size
        assert y is not None  # for the type checker: pooling asks for labels
        rows = model.predictor.features(part.query_x, mask)
        label = likelihood.statistic(y, 1)[..., 0] if likelihood.located else y
        group = (begin + torch.arange(len(part)).unsqueeze(1)).expand(mask.shape)
        each = rows, _design(model.prior, rows, part), label, torch.ones_like(y) if size is None else size, group
        found.append([values[mask].detach() for values in each])
        begin += len(part)
    x, design, labels, sizes, codes = (torch.cat(values).numpy() for values in zip(*found, strict=True))
    if np.bincount(codes).max() == 1 and not likelihood.known:
        raise ValueError("groups: expected some with several rows, got one row in each")
    grouping = Grouping(codes, np.arange(begin).astype(object), x[:, list(model.prior.varying)])
    counted = None if (sizes == 1).all() else sizes.astype(np.float64)
    return Rows(labels.astype(np.float64), design, (grouping,), np.zeros(len(labels)), counted)


def _engine(model: EmpiricalBayes, rows: Rows, hyperprior: bool) -> NormalEngine | QuadratureEngine:
    """Return the criterion of all rows of groups.

    Raises:
        ValueError: if the engine does not take them.
    """
    likelihood, z = copy.deepcopy(model.likelihood), rows.groupings[0].z
    terms, columns = ([str(p) for p in range(width)] for width in (z.shape[1], rows.x.shape[1]))
    if likelihood.located:
        if hyperprior and abs(np.std(rows.y) - 1) > SAME:
            raise ValueError("hyperprior: expected labels in their own standard deviations")
        likelihood.center.zero_()
        likelihood.unit.fill_(1.0)
    if not likelihood.conjugate:
        Factor("group", terms, [len(terms)], z)  # refuses weights that others determine
        return QuadratureEngine(rows, [Factor("group", terms, [len(terms)], None)], columns, likelihood, hyperprior)
    family = Normal(known=likelihood.known)
    family.load_state_dict(likelihood.state_dict() if likelihood.known else family.state_dict())
    blocks = [1] * len(terms) if _saturated(rows, family) else [len(terms)]
    factors = [Factor("group", terms, blocks, None)]
    return NormalEngine(rows, factors, columns, False, hyperprior, family, few_rows=True)


def _num_parameters(rows: Rows, likelihood: Likelihood) -> int:
    """Return how many numbers normal labels are fitted by: those of the spreads, the means and the noise."""
    of_spreads, of_means = (int(np.linalg.matrix_rank(_triangle(x), rtol=RANK)) for x in (rows.groupings[0].z, rows.x))
    return of_spreads * (of_spreads + 1) // 2 + of_means + (not likelihood.known)


def _saturated(rows: Rows, likelihood: Likelihood) -> bool:
    """Return whether there are as many numbers to fit as rows."""
    return _num_parameters(rows, likelihood) >= len(rows)


def _triangle(x: Array) -> Array:
    return triangle((x[some] for some in parts_of(len(x), x.shape[1])), x.shape[1])


def _independent(x: Array) -> tuple[Array, Array]:
    """Return the columns that determine all, and the least coefficients of all for those of these, shape `(P, Q)`."""
    r, order = linalg.qr(_triangle(x), mode="r", pivoting=True)
    size = np.abs(np.diag(r))
    rank = int((size > RANK * size[0]).sum())
    if rank == x.shape[1]:
        return x, np.eye(rank)
    every = np.zeros((rank, x.shape[1]))
    every[:, order] = linalg.solve_triangular(r[:rank, :rank], r[:rank])
    return x[:, order[:rank]], np.asarray(np.linalg.pinv(every))


def _constant(model: EmpiricalBayes, rows: Rows, parts: list[TaskBatch]) -> float:
    """Return the nats that the log density of labels is above that of the numbers of `rows`."""
    likelihood = model.likelihood
    if not likelihood.located:
        return 0.0
    labels = [(part.query_y, part.query_mask) for part in parts]
    slopes = [likelihood.log_jacobian(y)[mask].sum() for y, mask in labels if y is not None]
    return float(sum(slopes)) - len(rows) * math.log(float(likelihood.unit))


def fits_prior_alone(model: EmpiricalBayes) -> bool:
    """Return whether all of the prior and the likelihood is fitted, and none of the features."""
    free = [*model.prior.parameters(), *([] if model.likelihood.known else model.likelihood.parameters())]
    return all(p.requires_grad for p in free) and not any(p.requires_grad for p in model.predictor.parameters())


def apart(factor: Tensor) -> Tensor:
    r"""Return $L$ with no less on its diagonal than what curvatures can be found with, shape `(R, R)`."""
    factor = torch.where(factor.diagonal() < 0, -factor, factor)  # the sign of a column is free
    least = (ALIKE * factor.norm(dim=1)).clamp(min=SMALLEST)
    return torch.tril(factor, -1) + torch.maximum(factor.diagonal(), least).diag()


@torch.no_grad()
def write_prior(prior: Prior, lower: Tensor, factor: Tensor, beta: Tensor) -> None:
    r"""Set a prior's parameters.

    Args:
        prior: the prior.
        lower: `Prior.correlations` of it.
        factor: $L$, lower triangular, as of `apart`, shape `(R, R)`.
        beta: means of the weights and their slopes by covariates of groups, shape `(P, 1 + G)`.
    """
    scale = factor.diagonal()
    prior.log_scale.copy_(scale.log())
    lower.copy_(torch.tril(factor, -1) / scale.unsqueeze(1))
    prior.loc.copy_(beta[:, 0])
    if beta.shape[1] > 1:
        prior.slope.copy_(beta[:, 1:])


def _design(prior: Prior, rows: Tensor, part: TaskBatch) -> Tensor:
    r"""Return what the means and slopes of the weights are multiplied by, shape `(T, N, P (1 + G))`.

    Args:
        prior: the prior.
        rows: features of rows of each group, shape `(T, N, P)`.
        part: the same groups; their covariates.
    """
    known = [] if part.task_x is None else [standard(part.task_x, prior.center, prior.unit)]
    out = torch.einsum("tkp,tg->tkpg", rows, torch.cat([rows.new_ones(len(rows), 1), *known], 1))
    return out.flatten(2)
