r"""The log evidence of labels that are not normal, by the quadrature of mixed models.

The labels of a group with weights $w_t = \beta c_t + (L u_t, 0)$ are those of a mixed model whose common terms are all
features, each by every covariate of $c_t$, and whose random terms are the features whose weights vary. Its engine
(`ebmeta.mixed.quadrature`) goes to the maximum by Newton's steps, and makes its rule finer until that changes nothing.
Features are in the units of the model, so that a hyperprior is of the same spreads. What the engine does not take, or
finds no maximum of, is left to draws (`ebmeta.training.evidence`).
"""

from __future__ import annotations

import copy
import math
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebmeta.mixed.ascent import Optimum
from ebmeta.mixed.boundary import without_spread
from ebmeta.mixed.covariance import Factor
from ebmeta.mixed.engine import Engine
from ebmeta.mixed.quadrature import QuadratureEngine
from ebmeta.mixed.rows import Grouping, Rows
from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.tasks.batch import TaskBatch
from ebmeta.training.normal_evidence import design_of, fits_prior_alone, write_prior

__all__ = ["QuadratureEvidence"]

Array = NDArray[np.float64]
MOST = 3  # weights that vary: of more, a rule has too many nodes
MOST_OF_HEAVY = 1  # of labels with heavy tails, of which a group may have several maxima
UNSURE = 0.1  # nats that a finer rule may change
SAME = 1e-6  # relative difference of two units


class QuadratureEvidence:
    """The maximum of the log evidence of all groups.

    Args:
        model: a model in 64 bits, of which `of` has found that it has the form.
        lower: `Prior.correlations` of its prior.
        engine: the criterion.
        top: its maximum.
        constant: nats that the log evidence is above the criterion's.
    """

    @classmethod
    def of(cls, model: EmpiricalBayes, parts: list[TaskBatch], hyperprior: bool) -> QuadratureEvidence | None:
        """Return the maximum where the engine finds one and only parameters of the form are fitted, else None.

        Args:
            model: a model in 64 bits.
            parts: labelled groups; every row counts.
            hyperprior: add the log hyperprior of the spreads; see `ebmeta.training.evidence`.
        """
        likelihood, prior = model.likelihood, model.prior
        lower, varying = prior.correlations, list(prior.varying)
        if likelihood.conjugate or likelihood.has_level or lower is None or not fits_prior_alone(model):
            return None
        if not 0 < len(varying) <= (MOST_OF_HEAVY if likelihood.located else MOST):
            return None
        try:
            engine = _engine(model, varying, [part.pooled() for part in parts], hyperprior)
            top = engine.maximise()
            engine.check(top.at)
        except (ValueError, np.linalg.LinAlgError):  # terms that determine others, labels that bound nothing
            return None
        if not top.converged or engine.error > UNSURE:
            return None
        rows = len(engine.rows)
        return cls(model, lower, engine, top, -rows * math.log(float(likelihood.unit)) if likelihood.located else 0.0)

    def __init__(
        self, model: EmpiricalBayes, lower: Tensor, engine: QuadratureEngine, top: Optimum, constant: float
    ) -> None:
        self.model, self.lower, self.engine, self.top, self.constant = model, lower, engine, top, constant

    def fit(self, max_iterations: int) -> float:
        """Write the maximum to the model; return the nats that are still left to gain, at least."""
        engine, at, prior = self.engine, self.top.at, self.model.prior
        factor = torch.from_numpy(engine.unit * engine.factors[0].lower(at[: engine.num_theta]))
        beta = torch.from_numpy(engine.coefficients(at)).view(len(prior.loc), -1)
        write_prior(prior, self.lower, factor, beta)
        with torch.no_grad():
            for own, found in zip(self.model.likelihood.parameters(), engine.likelihood(at).parameters(), strict=True):
                own.copy_(found)
        return engine.left(at)

    def reached(self) -> float:
        """Return the log evidence at the maximum in nats."""
        return self.constant + self.engine.log_likelihood(self.top.at)

    def notes(self) -> list[str]:
        """Return notes on the maximum."""
        return []

    def boundary(self, max_iterations: int) -> tuple[float, list[float], list[float]]:
        """Return the largest log evidence, those without the spread of each weight, and what each of these left.

        None has the hyperprior, so that they can be compared. Changes nothing.
        """
        engine, top = cast(Engine, self.engine), self.top
        if engine.hyperprior:
            engine = engine.rebuild(engine.rows, engine.factors)
            top = engine.maximise(top.at)
        found = [without_spread(engine, top, 0, p) for p in range(len(self.model.prior.varying))]
        lefts = [0.0 if each.converged else math.inf for each in found]
        return self.constant - top.value, [self.constant - each.value for each in found], lefts


def _engine(model: EmpiricalBayes, varying: list[int], parts: list[TaskBatch], hyperprior: bool) -> QuadratureEngine:
    """Return the criterion of all rows of groups.

    Raises:
        ValueError: if the engine does not take them.
    """
    likelihood = copy.deepcopy(model.likelihood)
    found: list[list[Tensor]] = []
    begin = 0
    for part in parts:
        mask, y, size = part.query_mask, part.query_y, part.query_size
        assert y is not None  # for the type checker: pooling asks for labels
        rows = model.predictor.features(part.query_x, mask)
        label = likelihood.statistic(y, 1)[..., 0] if likelihood.located else y
        group = (begin + torch.arange(len(part)).unsqueeze(1)).expand(mask.shape)
        each = rows, design_of(model.prior, rows, [part]), label, torch.ones_like(y) if size is None else size, group
        found.append([values[mask].detach() for values in each])
        begin += len(part)
    if likelihood.located:
        likelihood.center.zero_()
        likelihood.unit.fill_(1.0)
    x, design, labels, sizes, codes = (torch.cat(values).numpy() for values in zip(*found, strict=True))
    if np.bincount(codes).max() == 1:
        raise ValueError("groups: expected some with several rows, got one in each")
    z = x[:, varying]
    names = [str(p) for p in varying]
    factor = Factor("group", names, [len(names)], z)
    factor.basis = factor.inverse = np.eye(len(names))  # features are in units already, which a hyperprior asks for
    grouping = Grouping(codes, np.arange(begin).astype(object), z)
    counted = None if (sizes == 1).all() else sizes.astype(np.float64)
    data = Rows(labels.astype(np.float64), design, (grouping,), np.zeros(len(labels)), counted)
    columns = [str(p) for p in range(design.shape[1])]
    engine = QuadratureEngine(data, [factor], columns, likelihood, hyperprior)
    if hyperprior and abs(engine.unit - 1) > SAME:
        raise ValueError("hyperprior: expected labels in their own standard deviations")
    return engine
