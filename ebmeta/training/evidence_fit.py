r"""Empirical Bayes in the statistician's sense, which maximises the evidence over the prior.

$$ \hat\psi = \arg\max_\psi \sum_t \log p_\psi(y_t) + \sum_p (\log s_p - 0.1 s_p), \qquad s_p = \sqrt{\Sigma_{pp}}, $$

over all groups at once; the second sum where a hyperprior is asked for (`ebmeta.training.evidence`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cache

import torch
from scipy import optimize, stats
from torch import Tensor

from ebmeta.foundation.checks import at_least, checked
from ebmeta.foundation.guarding import undisturbed
from ebmeta.foundation.maximum import ENOUGH, shortfall
from ebmeta.foundation.telling import tell
from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.groups import GroupSampler
from ebmeta.tasks.source import as_source
from ebmeta.training.evidence import ABOUT, MORE, Evidence, Hyperprior, scales_of
from ebmeta.training.identification import refuse_extreme_labels, weak_points
from ebmeta.training.mixed_evidence import MixedEvidence
from ebmeta.training.preparation import keep_marks
from ebmeta.training.undoing import unchanged_after_error

__all__ = ["EvidenceFit", "boundary_threshold", "fit_evidence", "weight_names"]

RUNAWAY = 15.0  # of a log rate or log odds, by a standard deviation of a feature or of groups: too far to be meant
UNSURE = 0.5  # nats of a standard error of the evidence
LEVEL = 0.05  # of the test whether a scale differs from 0


def weight_names(model: EmpiricalBayes) -> list[str]:
    """Return names of the weights of a model of numbers, those of their columns or else numbers.

    Examples:
        >>> weight_names(EmpiricalBayes.regressor(2))
        ['weight 0', 'weight 1', 'intercept']
    """
    known = model.weight_columns
    return [*(known or [f"weight {p}" for p in range(model.predictor.num_weights - 1)]), "intercept"]


@checked(left=at_least(0, finite=False))
@dataclass(frozen=True, eq=False)
class EvidenceFit:
    r"""The result of `fit_evidence`.

    Args:
        model: the fitted model.
        log_evidence: $\sum_t \log p_\psi(y_t)$ in nats, without the hyperprior; of one by draws, notes say where its
            standard error is above half a nat.
        scales: standard deviation $s_p$ of every weight over groups, shape `(P,)`, in units of the model; 0 of one that
            is common to all.
        gain: log evidence lost in nats, where $s_p$ is held at 0 and all else is fitted anew, shape `(P,)`, NaN for a
            common weight; None where that was not asked for. Both sides are maxima without the hyperprior.
        converged: whether less than a hundredth of a nat is left to gain.
        hyperprior: whether the fit had one.
        left: what Newton's step would still gain in nats, at least; infinite where there is no maximum.
        notes: what else there is to say of the fit, each a warning too.
    """

    model: EmpiricalBayes
    log_evidence: float
    scales: Tensor
    gain: Tensor | None
    converged: bool
    hyperprior: bool = False
    left: float = 0.0
    notes: tuple[str, ...] = field(default=())

    @property
    def at_boundary(self) -> list[int]:
        """Weights whose standard deviation over groups the data cannot tell from 0; see `boundary_threshold`.

        Raises:
            ValueError: if the fit was made with `boundary=False`.
        """
        if self.gain is None:
            raise ValueError("at_boundary: expected a fit with boundary=True, got one that did not look")
        least = boundary_threshold(len(self.model.prior.varying))
        return [int(p) for p in (self.gain < least).nonzero().flatten()]

    def __str__(self) -> str:
        """Return the finding in words."""
        return "; ".join([f"log evidence {self.log_evidence:.2f} nats", *self._boundary(), *self.notes])

    def _boundary(self) -> list[str]:
        if self.gain is None:
            return []
        found, names = self.at_boundary, weight_names(self.model)
        if not found:
            varies = "every weight" if bool(self.gain.isfinite().all()) else "every weight that may vary"
            return [f"{varies} differs between groups (test at the 5% level)"]
        listed, gains = ", ".join(names[p] for p in found), ", ".join(f"{float(self.gain[p]):.2f}" for p in found)
        advice = "intervals that take it for 0 are too narrow: fit with hyperprior=True, and use ebmeta.propagate"
        if self.hyperprior:
            advice = "the hyperprior keeps it above 0; ebmeta.propagate averages over what is left open"
        return [
            f"the data cannot tell the spread over groups from 0 for: {listed} (holding it at 0 costs {gains} nats)",
            advice,
        ]


@checked(num_draws=at_least(1), max_iterations=at_least(1))
@undisturbed()
@torch.inference_mode(False)
@torch.enable_grad()
def fit_evidence(
    model: EmpiricalBayes,
    tasks: GroupSampler | TaskBatch,
    *,
    hyperprior: bool | Hyperprior = False,
    boundary: bool = True,
    num_draws: int = 16,
    max_iterations: int = 2000,
    seed: int = 0,
) -> EvidenceFit:
    r"""Fit the prior and the likelihood's parameters to all labels of all groups, in place.

    The refiner is not trained: it needs unlabelled rows and `ebmeta.fit`. Computes on the CPU; the model comes back to
    its place in 64 bits, an embedder too, since 32 leave too few digits to weights that hardly differ. Normal labels,
    and others where up to five weights vary, take the engines of mixed models, in closed form or by quadrature, which
    start from the data (`ebmeta.training.mixed_evidence`). The rest takes the draws of
    `ebmeta.training.group_evidence` from the present parameters: more weights, Student-t labels with more than one,
    parts of the model that are kept as they are, a hyperprior of one's own. Where the maximum is not reached, or there
    is none, a `UserWarning` says so, as does the text of the fit.

    Args:
        model: a model for numbers, `EmpiricalBayes.regressor`.
        tasks: groups; every row counts as labelled.
        hyperprior: True to keep every standard deviation of the prior off 0 (see above), or a function of the model
            that returns a log density of its parameters as they are (scales and noise by their logarithm).
        boundary: find out which spreads the data cannot tell from 0, by another fit for each weight.
        num_draws: draws of the weights of each group in the fit, where it takes some; 32 to 256 times as many measure
            the result, until its standard error is a tenth of a nat.
        max_iterations: of the optimiser; the engines of mixed models take the steps of Newton that they need.
        seed: seed of those draws.

    Returns:
        The fit, with what it says of the boundary.

    Raises:
        ValueError: if the model is a classifier, or tasks are unlabelled or do not fit the model.

    Examples:
        >>> import numpy as np
        >>> X, groups = np.ones((6, 1)), np.repeat([0, 1, 2], 2)
        >>> tasks = GroupSampler(X, np.array([1.0, 1.2, 3.0, 3.1, 5.2, 5.0]), groups, n_support=1)
        >>> fit_evidence(EmpiricalBayes.regressor(1, num_steps=0), tasks, hyperprior=True).converged
        True
    """
    if model.likelihood.categorical:
        raise ValueError("fit_evidence: expected a model for numbers, got a classifier")
    home = next(model.parameters()).device
    with unchanged_after_error(model):
        try:
            evidence = Evidence(model.cpu().double(), tasks, hyperprior=hyperprior, num_draws=num_draws, seed=seed)
            if isinstance(hyperprior, bool):  # another may bound what labels do not
                refuse_extreme_labels(model, evidence.parts)
            found = _maximum(evidence, boundary, max_iterations)
            keep_marks(model, [as_source(tasks)])
        finally:
            model.to(home)
    for note in found.notes:
        tell(f"fit_evidence: {note}")
    return found


def _maximum(evidence: Evidence, boundary: bool, max_iterations: int) -> EvidenceFit:
    model, penalised = evidence.model, evidence.hyperprior is not False
    hyperprior, closed = evidence.hyperprior, None
    if isinstance(hyperprior, bool):
        given = model, evidence.parts, hyperprior
        closed = MixedEvidence.of(*given)
    source = closed or evidence
    left = source.fit(max_iterations)
    with torch.no_grad():
        (reached, error), scales = source.reached(), scales_of(model.prior)
    runaway = _runaway(model)
    notes = [*weak_points(model, evidence.parts), *source.notes(), *runaway, *_unsettled(left, max_iterations)]
    notes += _unsure(evidence, reached, error)
    gain = None
    if boundary:
        free, without, lefts = source.boundary(max_iterations)
        # What one of them has found is open to the free one too.
        varying, names = list(model.prior.varying), weight_names(model)
        gain = torch.full_like(scales, math.nan)
        gain[varying] = max(free, *without) - torch.tensor(without, dtype=scales.dtype)
        if left < ENOUGH and (slow := [names[p] for p, rest in zip(varying, lefts, strict=True) if rest >= ABOUT]):
            notes.append(
                f"the fit without the spread of {', '.join(slow)} has not converged after "
                f"max_iterations={max_iterations}, so what holding it at 0 costs is overstated"
            )
    converged = left < ENOUGH and not (source.notes() or runaway)
    return EvidenceFit(model, reached, scales, gain, converged, penalised, left, tuple(notes))


def _unsure(evidence: Evidence, reached: float, error: float) -> list[str]:
    """Return a note where other draws of the same number give another evidence."""
    if error < UNSURE:
        return []
    draws = evidence.rounds * MORE * evidence.num_draws
    return [
        f"the evidence is not reliable: {reached:.2f} nats by {draws} draws of each group, with a standard error of "
        f"{error:.1f}: give more num_draws, or a hyperprior that keeps spreads small"
    ]


def _runaway(model: EmpiricalBayes) -> list[str]:
    """Return a note on weights on the scale of logarithms or log odds that have no best value."""
    if model.likelihood.located:
        return []
    loc, scale, names = model.prior.loc.detach(), scales_of(model.prior).detach(), weight_names(model)
    far = torch.where(torch.arange(len(loc)) < len(loc) - 1, loc.abs(), 0.0) > RUNAWAY  # but a rate may be tiny
    alike = "labels are nearly alike within groups, so give more rows of a group, or the spreads a hyperprior"
    separated = "labels are separated by it, so leave it out, or give the spreads or means a hyperprior"
    return [
        f"{names[p]} runs off (mean {float(loc[p]):.3g} and spread {float(scale[p]):.3g} on the scale of the linear "
        f"predictor): {alike if p == len(loc) - 1 else separated}"
        for p in (far | (scale > RUNAWAY)).nonzero().flatten().tolist()
    ]


def _unsettled(left: float, max_iterations: int) -> list[str]:
    """Return a note where an ascent has not converged."""
    if left < ENOUGH:
        return []
    return [
        f"not converged after max_iterations={max_iterations}: {shortfall(left)}, so allow more, or fit fewer "
        "features, or with hyperprior=True"
    ]


@cache
def boundary_threshold(num_weights: int) -> float:
    r"""Return the nats that the spread of one weight among $P$ has to gain to differ from 0 at the 5% level.

    Without it there is one variance less, at its boundary, and $P - 1$ covariances: twice the gain is then distributed
    as an even mixture of $\chi^2_{P-1}$ and $\chi^2_P$ when groups are many.

    Source: Stram and Lee 1994, Variance components testing in the longitudinal mixed effects model.

    Args:
        num_weights: $P$.

    Examples:
        >>> round(boundary_threshold(1), 3), round(boundary_threshold(2), 3)
        (1.353, 2.569)
    """

    def excess(twice: float) -> float:
        below = stats.chi2.sf(twice, num_weights - 1) if num_weights > 1 else 0.0
        return float((below + stats.chi2.sf(twice, num_weights)) / 2 - LEVEL)

    return float(optimize.brentq(excess, 1e-9, 100.0 + 10 * num_weights)) / 2
