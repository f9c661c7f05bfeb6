"""What an evidence fit found, in numbers and in words."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

from scipy import optimize, stats
from torch import Tensor

from ebmeta.foundation.checks import at_least, checked
from ebmeta.foundation.maximum import ENOUGH
from ebmeta.model.empirical_bayes import EmpiricalBayes

__all__ = ["EvidenceFit", "boundary_threshold", "weight_names"]

LEVEL = 0.05  # of the test by which a scale is told from 0


def weight_names(model: EmpiricalBayes) -> list[str]:
    """Return what to call the weights of a model of numbers: columns where they have names, else numbers.

    Examples:
        >>> weight_names(EmpiricalBayes.regressor(2))
        ['weight 0', 'weight 1', 'intercept']
    """
    known = model.weight_columns
    return [*(known or [f"weight {p}" for p in range(model.predictor.num_weights - 1)]), "intercept"]


@checked(left=at_least(0, finite=False))
@dataclass(frozen=True, eq=False)
class EvidenceFit:
    r"""What `fit_evidence` found.

    Args:
        model: the fitted model.
        log_evidence: $\sum_t \log p_\psi(y_t)$ in nats, without the hyperprior.
        scales: standard deviation $s_p$ of every weight over groups, shape `(P,)`, in units of the model.
        gain: log evidence lost in nats, where $s_p$ is held at 0 and all else is fitted anew, shape `(P,)`; None where
            that was not asked for. Both sides are maxima without the hyperprior.
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
        return [int(p) for p in (self.gain < boundary_threshold(len(self.gain))).nonzero().flatten()]

    def __str__(self) -> str:
        """Return the finding in words."""
        return "; ".join([f"log evidence {self.log_evidence:.2f} nats", *self._boundary(), *self.notes])

    def _boundary(self) -> list[str]:
        if self.gain is None:
            return []
        found, names = self.at_boundary, weight_names(self.model)
        if not found:
            return ["every weight differs between groups beyond doubt"]
        listed, gains = ", ".join(names[p] for p in found), ", ".join(f"{float(self.gain[p]):.2f}" for p in found)
        advice = "intervals that take it for 0 would be too narrow, so fit with hyperprior=True"
        if self.hyperprior:
            advice = "the hyperprior keeps it above 0; ebmeta.propagate averages over what is left open"
        return [
            f"the data cannot tell the spread over groups from 0 for: {listed} (holding it at 0 costs {gains} nats)",
            advice,
        ]


def unsettled(left: float, max_iterations: int) -> list[str]:
    """Return what to say where an ascent has not converged, or nothing."""
    if left < ENOUGH:
        return []
    rest = f"{left:.2g} nats or more are left to gain" if left < float("inf") else "the evidence still rises"
    return [
        f"not converged after max_iterations={max_iterations}: {rest}, so allow more, or fit fewer features, or with "
        "hyperprior=True"
    ]


@cache
def boundary_threshold(num_weights: int) -> float:
    r"""Return the nats that the spread of one weight among $P$ has to gain to be told from 0 at the 5% level.

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
