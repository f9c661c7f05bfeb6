r"""Slope and curvature of the criterion of normal labels in the entries of the relative factor.

With $\rho_a$ and $\alpha_a$ the columns of $R_g$ and of $A_g = R_g \Lambda$ that an entry joins, and
$\langle x, y \rangle = x^\top M_g^{-1} y$, the matrix moves by
$\dot M_a = \rho_a \alpha_a^\top + \alpha_a \rho_a^\top$, so that

$$ \operatorname{tr} M^{-1} \dot M_a M^{-1} \dot M_b = 2 \big( \langle \alpha_a, \rho_b \rangle
   \langle \alpha_b, \rho_a \rangle + \langle \alpha_a, \alpha_b \rangle \langle \rho_a, \rho_b \rangle \big) , $$

and quadratic forms follow from the same products. The best coefficients move with the entries.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ebmeta.random_effects.batched import solve_lower
from ebmeta.random_effects.covariance import Factor

__all__ = ["Turn", "slope_of", "turn_of"]

Array = NDArray[np.float64]


class Turn(NamedTuple):
    r"""How minus the log criterion turns, the noise being known.

    Args:
        slope: in the entries of the factor, shape `(T,)`.
        bend: second derivatives, shape `(T, T)`.
        pull: what the residuals give of the slope, shape `(T,)`.
    """

    slope: Array
    bend: Array
    pull: Array


def turn_of(factor: Factor, lower: Array, parts: Iterable[tuple[Array, Array, Array]], reml: bool) -> Turn:
    r"""Return slope and curvature, summed over groups.

    Args:
        factor: which entries are parameters.
        lower: $\Lambda$.
        parts: of some groups at a time $R_g$ and the factors of $M_g$, each of shape `(K, K, G)`, and with shape
            `(K, 1 + P, G)` first $M_g^{-1} (a_g - B_g \beta) / \sigma$, then $M_g^{-1} B_g$ times the root of the
            covariance of the coefficients over $\sigma$.
        reml: add the slope of half the log determinant of the information of the coefficients.
    """
    found = [_turn_of(factor, r, lower, chol, both, reml) for r, chol, both in parts]
    slope, pull, bend, lean, turned = (np.sum(each, axis=0) for each in zip(*found, strict=True))
    bend = bend - lean @ lean.T
    if reml:
        turned = (turned + turned.swapaxes(1, 2)).reshape(factor.size, -1)
        bend -= turned @ turned.T / 2
    return Turn(slope, bend, pull)


def slope_of(factor: Factor, lower: Array, parts: Iterable[tuple[Array, Array, Array]], reml: bool) -> Array:
    """Return the slope of `turn_of` alone, for a fraction of its time; arguments as there."""
    rows, columns, used = factor.rows, factor.columns, slice(None) if reml else slice(1)
    total = np.zeros(factor.size)
    for r, chol, both in parts:
        a = np.einsum("ijg,jk->ikg", r, lower)
        ra = np.einsum("kig,kjg->ij", solve_lower(chol, r), solve_lower(chol, a))
        rx, ax = (np.einsum("jig,jmg->img", m, both[:, used]) for m in (r, a))
        total += ra[rows, columns] - np.einsum("amg,amg->a", rx[rows], ax[columns])
    return total


def _turn_of(
    factor: Factor, r: Array, lower: Array, chol: Array, both: Array, reml: bool
) -> tuple[Array, Array, Array, Array, Array]:
    """Return the sums over some groups that slope and curvature are made of."""
    a = np.einsum("ijg,jk->ikg", r, lower)
    half_r, half_a = solve_lower(chol, r), solve_lower(chol, a)
    rr, ra, aa = (np.einsum("kig,kjg->ijg", x, y) for x, y in ((half_r, half_r), (half_r, half_a), (half_a, half_a)))
    rx, ax = (np.einsum("jig,jmg->img", m, both) for m in (r, a))
    rows, columns, used = factor.rows, factor.columns, slice(None) if reml else slice(1)
    pull = np.einsum("ag,ag->a", rx[rows, 0], ax[columns, 0])
    slope = ra[rows, columns].sum(-1) - np.einsum("amg,amg->a", rx[rows, used], ax[columns, used])
    lean = np.einsum("apg,ag->ap", rx[rows, 1:], ax[columns, 0]) + np.einsum("apg,ag->ap", ax[columns, 1:], rx[rows, 0])
    xx, xy, yy = (
        np.einsum("img,jmg->ijg", one[:, used], other[:, used], optimize=True)
        for one, other in ((ax, ax), (ax, rx), (rx, rx))
    )
    (k, m), (p, q) = (rows[:, None], columns[:, None]), (rows, columns)
    bend = _over_groups(rr, xx - aa)[k, p, m, q] + _over_groups(aa, yy)[m, q, k, p]
    bend += _over_groups(ra, xy - ra.swapaxes(0, 1))[k, q, m, p] + _over_groups(ra, xy)[p, m, q, k]
    bend += np.where(m == q, (rr - yy).sum(-1)[k, p], 0.0)
    turned = np.einsum("apg,aqg->apq", rx[rows, 1:], ax[columns, 1:]) if reml else np.zeros(0)
    return slope, pull, bend, lean, turned


def _over_groups(left: Array, right: Array) -> Array:
    """Return the sums over groups of products of entries, shapes `(K, K, G)` to `(K, K, K, K)`."""
    size, _, groups = left.shape
    out: Array = left.reshape(-1, groups) @ right.reshape(-1, groups).T
    return out.reshape(size, size, size, size)
