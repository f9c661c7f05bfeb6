r"""The covariance of group effects as a lower triangular factor, block by block.

$$ b_g = \sigma \Lambda u_g, \qquad u_g \sim \mathcal N(0, I) $$

$\Lambda$ is block diagonal, and the terms of one bar of a formula are one block: `(x | g)` has one of two terms, and
`(x || g)` two of one. The entries on and below the diagonals are the parameters, in a basis of terms that are
orthonormal over all rows of a block, so that neither units nor the origin of a feature matter to an optimiser. The sign
of a column of $\Lambda$ says nothing. Source: Bates, Maechler, Bolker and Walker 2015.
"""

from __future__ import annotations

import copy
import math

import numpy as np
from numpy.typing import NDArray

from ebmeta.random_effects.tall import parts_of, triangle

__all__ = ["Factor", "correlations_of", "hyperprior_curvature", "log_hyperprior"]

Array = NDArray[np.float64]
RATE = 0.1  # of the hyperprior: its mean is 20 standard deviations of the labels
DEPENDENT = 1e-9  # of a term's length: less is left of one that is a combination of others


class Factor:
    r"""The parameters of $\Lambda$ for one grouping factor.

    Args:
        name: of the grouping factor.
        terms: names of the random terms, $K$ of them.
        blocks: number of terms of each block.
        z: values of the terms, shape `(N, K)`; None for parameters of the terms as they are, in place of the basis.

    Raises:
        ValueError: if a term is a combination of others of its block.
    """

    def __init__(self, name: str, terms: list[str], blocks: list[int], z: Array | None) -> None:
        self.name, self.terms, self.blocks, self.plain = name, terms, blocks, z is None
        ends = np.cumsum(blocks)
        self.slices = [slice(int(e) - b, int(e)) for e, b in zip(ends, blocks, strict=True)]
        self.basis = np.eye(len(terms))  # upper: z = q basis
        if z is not None:
            for part in self.slices:
                self.basis[part, part] = self._root(z, part)
        self.inverse = np.linalg.inv(self.basis)
        self._index([(i, j) for part in self.slices for j in _places(part) for i in range(j, part.stop)])

    def _index(self, cells: list[tuple[int, int]]) -> None:
        self.rows, self.columns = (np.array([c[k] for c in cells]) for k in (0, 1))
        self.diagonal = self.rows == self.columns

    def _root(self, z: Array, part: slice) -> Array:
        """Return what makes the terms of a block of orthonormal ones."""
        width = part.stop - part.start
        r = triangle((z[some, part] for some in parts_of(len(z), width)), width) / math.sqrt(max(len(z), 1))
        lengths = np.sqrt((r**2).sum(0))
        bad = np.abs(np.diag(r)) <= DEPENDENT * lengths
        if len(r) < r.shape[1] or bad.any():
            term = self.terms[part.start + (int(np.argmax(bad)) if len(bad) else 0)]
            raise ValueError(
                f"random term {term!r} of {self.name!r}: expected one that is no combination of the others, got values "
                "that the others determine (leave it out)"
            )
        return np.asarray(r * np.sign(np.diag(r))[:, None])

    @property
    def size(self) -> int:
        """Number of parameters."""
        return len(self.rows)

    def whiten(self, z: Array) -> Array:
        """Return the terms in the orthonormal basis, shape `(N, K)`."""
        return z @ self.inverse

    def lower(self, theta: Array) -> Array:
        r"""Return $\Lambda$ in that basis, shape `(K, K)`."""
        out = np.zeros((len(self.terms), len(self.terms)))
        out[self.rows, self.columns] = theta
        return out

    def read(self, matrix: Array) -> Array:
        """Return the entries of a matrix that are parameters."""
        out: Array = matrix[self.rows, self.columns]
        return out

    def start(self, scale: float = 1.0) -> Array:
        r"""Return the parameters of a multiple of the identity."""
        return np.where(self.diagonal, scale, 0.0)

    def square(self) -> Factor:
        r"""Return the same blocks with all their entries as parameters: $\Lambda$ is then any root, up to a rotation.

        Near a covariance of less than full rank there are others whose triangular factors are far off, so that an
        ascent in these may end where no covariance nearby is worse. Every root has roots of all these nearby.
        """
        out = copy.copy(self)
        out._index([(i, j) for part in self.slices for j in _places(part) for i in _places(part)])
        return out

    def triangular(self, matrix: Array) -> Array:
        r"""Return the parameters of the triangular factor of $A A^\top$.

        Args:
            matrix: $A$, whose rows of different blocks are orthogonal, shape `(K, M)` with `M >= K`.
        """
        out = np.zeros((len(matrix), len(matrix)))
        for part in self.slices:
            r = np.asarray(np.linalg.qr(matrix[part].T, mode="r"))
            out[part, part] = r.T * np.where(np.diag(r) < 0, -1.0, 1.0)
        return self.read(out)

    def without(self, term: int, z: Array) -> Factor:
        """Return the parameters without those of one term, `z` being the values of the others."""
        blocks = [part.stop - part.start - (part.start <= term < part.stop) for part in self.slices]
        terms = [t for k, t in enumerate(self.terms) if k != term]
        return Factor(self.name, terms, [b for b in blocks if b], None if self.plain else z)

    def in_units(self, theta: Array, sigma: float) -> Array:
        r"""Return $\sigma B^{-1} \Lambda$ with the terms as they stand in the formula, shape `(K, K)`."""
        return sigma * (self.inverse @ self.lower(theta))

    def covariance(self, theta: Array, sigma: float) -> Array:
        """Return the covariance of the effects of a group as the formula's terms have them, shape `(K, K)`."""
        lower = self.in_units(theta, sigma)
        return lower @ lower.T

    def pairs(self) -> list[tuple[int, int]]:
        """Return the pairs of terms that have a correlation."""
        return [(i, j) for part in self.slices for i in range(part.start, part.stop) for j in range(i + 1, part.stop)]


def _places(part: slice) -> range:
    return range(part.start, part.stop)


def correlations_of(covariance: Array) -> tuple[Array, Array]:
    """Return standard deviations `(K,)` and correlations `(K, K)`, NaN where a standard deviation is 0."""
    sd = np.sqrt(np.diag(covariance).clip(0))
    with np.errstate(invalid="ignore", divide="ignore"):
        return sd, covariance / np.outer(sd, sd)


def log_hyperprior(factor: Factor, theta: Array, log_sigma: float) -> tuple[float, Array]:
    r"""Return $\sum_p (\log s_p - 0.1 s_p)$ of the spreads $s_p$ in the orthonormal basis, and its gradient.

    The gradient is that of the parameters of the factor and of $\log \sigma$.
    """
    lower, sigma = factor.lower(theta), math.exp(log_sigma)
    length = np.sqrt((lower**2).sum(1)).clip(1e-150)
    value = float((np.log(sigma * length) - RATE * sigma * length).sum())
    slope = lower / length[:, None] ** 2 - RATE * sigma * lower / length[:, None]
    return value, np.append(factor.read(slope), float((1 - RATE * sigma * length).sum()))


def hyperprior_curvature(factor: Factor, theta: Array, log_sigma: float) -> Array:
    r"""Return the second derivatives of `log_hyperprior`, shape `(T + 1, T + 1)`.

    With $v$ the row of a spread in the factor and $s = \sigma \lVert v \rVert$ they are

    $$ \frac{I}{v^\top v} (1 - 0.1 s) - \frac{v v^\top}{(v^\top v)^2} (2 - 0.1 s), \qquad
       - 0.1 s \frac{v}{v^\top v}, \qquad - 0.1 s . $$
    """
    lower = factor.lower(theta)
    length = np.sqrt((lower**2).sum(1)).clip(1e-100)
    pull, unit = RATE * math.exp(log_sigma) * length, factor.read(lower / length[:, None])
    at, out = factor.rows, np.zeros((factor.size + 1, factor.size + 1))
    own = np.diag((1 - pull)[at]) - np.outer(unit, unit) * (2 - pull)[at]
    out[:-1, :-1] = np.where(at[:, None] == at, own / length[at] ** 2, 0.0)
    out[:-1, -1] = out[-1, :-1] = -(pull / length)[at] * unit
    out[-1, -1] = -pull.sum()
    return out
