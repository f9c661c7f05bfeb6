"""Estimates of parameters, and what is known of the effects of groups: of the formula's terms, and in another basis."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Effects", "Estimate"]

Array = NDArray[np.float64]


class Estimate(NamedTuple):
    r"""The parameters in the units of the labels.

    Args:
        beta: coefficients of the common terms, shape `(P,)`.
        theta: entries of the relative factors of all grouping factors, one after the other.
        sigma: unit of the relative factors, the noise of a row of typical size; 1 for likelihoods without noise.
        learned: other parameters of the likelihood by name.
        log_likelihood: in nats; of the residuals for REML.
    """

    beta: Array
    theta: Array
    sigma: float
    learned: dict[str, float]
    log_likelihood: float


class Effects(NamedTuple):
    r"""What is known of the effects of groups, in the units of the labels.

    Args:
        mean: shape `(G, K)`.
        covariance: shape `(G, K, K)`, the parameters known.
        slope: change of the mean with the coefficients of the common terms, shape `(G, K, P)`.
        mode: most probable effects, shape `(G, K)`, where they are known and not the means: labels that are not normal.
        third: third central moments, shape `(G, K, K, K)`, where they are not 0: labels that are not normal.
        silent: probability that the labels of a group tell nothing of it, being zeros whatever its rate, shape `(G,)`;
            None where all labels tell something. The effects are then those of any group.
        inner: the same effects of the terms in the basis of `Factor.whiten`, where columns far from 0 cancel nothing.
    """

    mean: Array
    covariance: Array
    slope: Array
    mode: Array | None = None
    third: Array | None = None
    silent: Array | None = None
    inner: Effects | None = None

    def turned(self, basis: NDArray[np.floating[Any]]) -> Effects:
        """Return effects of the terms of a basis as the formula's terms have them, and these as `inner`.

        Args:
            basis: of shape `(K, K)`, as of `Factor.inverse`.
        """
        mode, third = self.mode, self.third
        return Effects(
            self.mean @ basis.T,
            np.einsum("ij,gjk,lk->gil", basis, self.covariance, basis, optimize=True),
            np.einsum("ij,gjp->gip", basis, self.slope),
            None if mode is None else mode @ basis.T,
            None if third is None else np.einsum("ia,jb,kc,gabc->gijk", basis, basis, basis, third, optimize=True),
            self.silent,
            self,
        )
