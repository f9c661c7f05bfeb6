r"""Normal labels of several grouping factors, crossed or nested.

The groups of the factor with most effects are independent given the others, so that these are taken out block by block,
and one dense matrix is left, of all effects $u_2$ of the other factors. With $V = L_1^{-1} \Lambda_1^\top Z_1^\top Z_2
\Lambda_2$ sparse and $M_1$ block diagonal,

$$ M_1 = I + \Lambda_1^\top Z_1^\top Z_1 \Lambda_1 = L_1 L_1^\top, \qquad
   S = I + \Lambda_2^\top Z_2^\top Z_2 \Lambda_2 - V^\top V = L_2 L_2^\top, $$

$$ \log |I + \Lambda^\top Z^\top Z \Lambda| = \log |M_1| + \log |S| , $$

and coefficients and squares follow from the same factors. Products of columns are computed once, so that a step costs
nothing that grows with the rows but for the pairs of groups that meet. Labelled rows of new groups are added to the
products, the parameters being those of the fit. Source: Bates, Maechler, Bolker and Walker 2015.
"""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse

from ebmeta.random_effects.batched import cholesky, solve_lower, solve_upper
from ebmeta.random_effects.effects import Effects
from ebmeta.random_effects.engine import Numbers
from ebmeta.random_effects.rows import Rows
from ebmeta.random_effects.scaled import ScaledEngine, Solved, solved_of

__all__ = ["CrossedEngine"]

Array = NDArray[np.float64]
STEP, BEND = 1e-3, 3e-3  # of the differences of the criterion that give its slope and its curvature
MOST = 12_000  # effects of all factors but the largest: their matrix is dense
CELLS = 5_000_000  # of a dense matrix of rows and effects that are looked at together


class _Parts(NamedTuple):
    chol: Array  # L_1, (K, K, G)
    v: sparse.csr_matrix  # (G K, Q)
    chol_rest: Array  # L_2, (Q, Q)
    f: Array  # L_1^-1 of common terms and labels, (G K, P + 1)
    h: Array  # L_2^-1 of the same, (Q, P + 1)


class CrossedEngine(ScaledEngine):
    r"""The criterion as a function of all $\Lambda$ and $\log \sigma$; arguments as of `ScaledEngine`.

    Raises:
        ValueError: if the smaller factors have too many effects together, or there are fewer rows than effects of one.
    """

    def _prepare(self, rows: Rows) -> None:
        factors = self.factors
        sizes = [len(g.labels) * len(f.terms) for g, f in zip(rows.groupings, factors, strict=True)]
        for factor, size in zip(factors, sizes, strict=True):
            if size >= len(rows) and not self.family.known:
                raise ValueError(
                    f"groups: expected more rows than effects of {factor.name!r}, got {len(rows)} rows for {size} "
                    "effects: the spread of groups and the noise cannot be told apart"
                )
        self.first = int(np.argmax(sizes))
        self.rest = [i for i in range(len(factors)) if i != self.first]
        self._add_up(rows)

    def _add_up(self, rows: Rows) -> None:
        """Keep the products of columns of the rows."""
        size = sum(len(rows.groupings[i].labels) * len(self.factors[i].terms) for i in self.rest)
        if size > MOST:
            raise ValueError(
                f"groups: expected at most {MOST} effects of all grouping factors but the largest, got {size}"
            )
        z, others = self._groups(rows)
        w = np.column_stack(self.columns(rows))
        num_terms = len(self.factors[self.first].terms)
        dense = (z.T @ z).tocsr()
        num_groups = len(rows.groupings[self.first].labels)
        blocks = sparse.bsr_matrix(dense, blocksize=(num_terms, num_terms))
        self.zz = np.zeros((num_terms, num_terms, num_groups))
        self.zz[...] = np.moveaxis(_diagonal(blocks), 0, -1)
        self.zo, self.oo = (z.T @ others).tocsr(), (others.T @ others).toarray()
        self.zw, self.ow, self.ww = z.T @ w, others.T @ w, w.T @ w

    def _groups(self, rows: Rows) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
        """Return the columns of the first factor, and of the others."""
        root = self.roots(rows)
        parts = [
            _spread_out(f.whiten(g.z) * root[:, None], g.codes, len(g.labels))
            for f, g in zip(self.factors, rows.groupings, strict=True)
        ]
        others = sparse.hstack([parts[i] for i in self.rest]).tocsr()
        return parts[self.first], others

    def _lowers(self, theta: Array) -> tuple[Array, sparse.csr_matrix]:
        """Return the relative factor of the first grouping factor, and that of all effects of the others."""
        parts = self.thetas(theta)
        blocks = [
            sparse.kron(sparse.eye(len(self.rows.groupings[i].labels)), self.factors[i].lower(parts[i]))
            for i in self.rest
        ]
        return self.factors[self.first].lower(parts[self.first]), sparse.block_diag(blocks).tocsr()

    def _parts(self, theta: Array) -> _Parts:
        lower, other = self._lowers(theta)
        num_terms = len(lower)
        m = np.einsum("ji,jkg,kl->ilg", lower, self.zz, lower)
        m[np.arange(num_terms), np.arange(num_terms)] += 1.0
        chol = cholesky(m)
        left = self._pull(chol, lower)
        v = (left @ self.zo @ other).tocsr()
        s = np.asarray(other.T @ self.oo @ other) - (v.T @ v).toarray()
        s[np.arange(len(s)), np.arange(len(s))] += 1.0
        chol_rest = linalg.cholesky(s, lower=True, check_finite=False)
        f = left @ self.zw
        h = linalg.solve_triangular(chol_rest, other.T @ self.ow - v.T @ f, lower=True, check_finite=False)
        return _Parts(chol, v, chol_rest, f, h)

    def _pull(self, chol: Array, lower: Array) -> sparse.csr_matrix:
        r"""Return $L_1^{-1} \Lambda_1^\top$ of all groups of the first factor."""
        pull = solve_lower(chol, np.broadcast_to(lower.T[..., None], chol.shape))
        groups = chol.shape[-1]
        blocks = np.ascontiguousarray(np.moveaxis(pull, -1, 0)), np.arange(groups), np.arange(groups + 1)
        return sparse.bsr_matrix(blocks).tocsr()

    def _told_of(self, rows: Rows) -> tuple[CrossedEngine, Rows] | None:
        """Return the engine that has seen the labelled rows of new groups too, and the rows as it numbers their groups.

        None where there are none. Labels of rows whose groups are all known may be those of the fit.
        """
        known = [len(g.labels) for g in self.rows.groupings]
        new = np.stack([g.codes >= number for g, number in zip(rows.groupings, known, strict=True)])
        told = np.isfinite(rows.y) & new.any(0)
        if not told.any():
            return None
        seen = rows
        for i, number in enumerate(known):
            codes, labels = rows.groupings[i].codes, rows.groupings[i].labels
            first = np.unique(np.concatenate([np.arange(number), codes[told]]))
            order = np.concatenate([first, np.setdiff1d(np.arange(len(labels)), first)])
            rows = rows.regrouped(i, np.argsort(order)[codes], labels[order])
            seen = seen.regrouped(i, rows.groupings[i].codes, labels[first])
        engine = copy.copy(self)
        engine.rows = self.rows.joined(seen.take(told))
        engine._add_up(engine.rows)
        return engine, rows

    def linear(self, at: Array, effects: list[Effects], rows: Rows, common: Array | None = None) -> Array:
        if (more := self._told_of(rows)) is not None:
            engine, rows = more
            engine._solved = at[:-1].copy(), self.solve(at[:-1])  # coefficients are those of the fit
            return engine.linear(at, engine.effects(at), rows, common)
        found = super().linear(at, effects, rows, common)
        var = found[1]
        p, (lower, other) = self._parts(at[:-1]), self._lowers(at[:-1])
        columns = []
        for i, factor in enumerate(self.factors):  # of known groups, whose effects depend on those of other factors
            grouping, num_groups = rows.groupings[i], len(self.rows.groupings[i].labels)
            known = grouping.codes < num_groups
            z, inner = factor.whiten(np.where(known[:, None], grouping.z, 0.0)), effects[i].inner
            assert inner is not None  # for the type checker: of an engine
            var -= np.einsum("nk,nkl,nl->n", z, inner.covariance[np.where(known, grouping.codes, 0)], z)
            columns.append(_spread_out(z, np.where(known, grouping.codes, 0), num_groups))
        own = (self._pull(p.chol, lower) @ columns[self.first].T).tocsr()
        rest = (other.T @ sparse.hstack([columns[i] for i in self.rest]).T - p.v.T @ own).T.tocsr()
        sigma, step = self.scales(at)[0], max(CELLS // len(p.chol_rest), 1)
        for begin in range(0, len(rows), step):
            part = slice(begin, begin + step)
            half = linalg.solve_triangular(p.chol_rest, rest[part].toarray().T, lower=True, check_finite=False)
            var[part] += sigma**2 * ((half**2).sum(0) + np.asarray(own[:, part].power(2).sum(0)).ravel())
        return found

    def draw_effects(self, at: Array, effects: list[Effects], shift: Array, rng: np.random.Generator) -> list[Array]:
        p = self._parts(at[:-1])
        drawn = linalg.solve_triangular(p.chol_rest, rng.standard_normal(len(p.chol_rest)), lower=True, trans=1)
        first = self._back(p, (rng.standard_normal(len(p.f)) - p.v @ drawn)[:, None])[:, 0]
        out = []
        for i, (factor, found) in enumerate(zip(self.factors, effects, strict=True)):
            u = first if i == self.first else drawn[self._place(i)]
            spread = factor.in_units(self.thetas(at)[i], self.scales(at)[0])
            out.append(found.mean + found.slope @ shift + u.reshape(found.mean.shape) @ spread.T)
        return out

    def _solve(self, theta: Array) -> Solved:
        p = self._parts(theta)
        log_det = 2 * sum(float(np.log(p.chol[k, k]).sum()) for k in range(len(p.chol)))
        log_det += 2 * float(np.log(np.diag(p.chol_rest)).sum())
        return solved_of(self.ww - p.f.T @ p.f - p.h.T @ p.h, log_det)

    def loss(self, at: Array) -> tuple[float, Array]:
        kept, self.hyperprior = self.hyperprior, False
        steps = [np.append(step, 0.0) for step in STEP * np.eye(self.num_theta)]
        slope = np.array([(self.value(at + step) - self.value(at - step)) / (2 * STEP) for step in steps])
        self.hyperprior = kept
        return self.finished(at, self.solve(at[:-1]), slope)

    def curvature(self, at: Array) -> Array:
        """Return the Hessian of the loss from differences of the criterion, cheaper than those of gradients."""
        if self._curved is not None and np.array_equal(self._curved[0], at):
            return self._curved[1]
        size, steps, precision = (
            self.num_theta,
            np.pad(BEND * np.eye(self.num_theta), ((0, 0), (0, 1))),
            math.exp(-2 * at[-1]),
        )

        def look(point: Array) -> tuple[float, float]:
            solved = self.solve(point[:-1])
            return self.finished(point, solved, np.zeros(size))[0], solved.square

        middle, ends = look(at), [[look(at + sign * step) for sign in (1, -1)] for step in steps]
        out = np.zeros((size + 1, size + 1))
        for i, (high, low) in enumerate(ends):
            out[i, i] = (high[0] + low[0] - 2 * middle[0]) / BEND**2
            out[i, size] = out[size, i] = -(high[1] - low[1]) / (2 * BEND) * precision
            for j in range(i):
                corners = [a * b * look(at + a * steps[i] + b * steps[j])[0] for a in (1, -1) for b in (1, -1)]
                out[i, j] = out[j, i] = sum(corners) / (4 * BEND**2)
        out[size, size] = 2 * middle[1] * precision
        if self.hyperprior:  # the slope of the spreads' log density in the noise
            own = BEND * np.eye(size + 1)[size]
            out[:, size] = out[size] = (self.loss(at + own)[1] - self.loss(at - own)[1]) / (2 * BEND)
        self._curved = at.copy(), out
        return out

    def each_group(self, at: Array, rng: np.random.Generator) -> Array:
        raise ValueError("each_group: expected one grouping factor, whose groups are independent, got several")

    def effects(self, at: Array, rows: Rows | None = None, groups: Numbers | None = None) -> list[Effects]:
        if rows is not None or groups is not None:
            raise ValueError("rows: expected none where there are several grouping factors")
        p, beta = self._parts(at[:-1]), self.solve(at[:-1]).beta
        u_rest = linalg.solve_triangular(p.chol_rest, p.h, lower=True, trans=1)
        u_first = self._back(p, p.f - p.v @ u_rest)
        inverse = linalg.cho_solve((p.chol_rest, True), np.eye(len(p.chol_rest)))
        sigma, out = self.unit * math.exp(at[-1]), []
        for i in range(len(self.factors)):
            grouping, num_terms = self.rows.groupings[i], len(self.factors[i].terms)
            if i == self.first:
                u, block = u_first, self._first_covariance(p, inverse)
            else:
                place = self._place(i)
                u, block = u_rest[place], _dense_blocks(inverse[place, place], num_terms)
            spread = self.factors[i].lower(self.thetas(at)[i])
            each = np.einsum("ij,gjp->gip", spread, u.reshape(len(grouping.labels), num_terms, -1))
            mean = self.unit * (each[..., -1] - each[..., :-1] @ beta)
            covariance = sigma**2 * np.einsum("ij,gjk,lk->gil", spread, block, spread, optimize=True)
            out.append(Effects(mean, covariance, -each[..., :-1] @ self.basis).turned(self.factors[i].inverse))
        return out

    def _back(self, p: _Parts, right: Array) -> Array:
        """Return $L_1^{-T}$ times columns of shape `(G K, M)`."""
        num_terms, _, groups = p.chol.shape
        laid = np.moveaxis(right.reshape(groups, num_terms, -1), 0, -1)
        return np.moveaxis(solve_upper(p.chol, np.ascontiguousarray(laid)), -1, 0).reshape(len(right), -1)

    def _first_covariance(self, p: _Parts, inverse: Array) -> Array:
        """Return the covariance of the effects of each group of the first factor, the noise being 1, `(G, K, K)`."""
        num_terms, _, groups = p.chol.shape
        out = np.zeros((groups, num_terms, num_terms))
        step = max(CELLS // max(len(inverse) * num_terms, 1), 1)
        for begin in range(0, groups, step):
            part = p.v[begin * num_terms : (begin + step) * num_terms]
            dense = part.toarray().reshape(-1, num_terms, len(inverse))
            out[begin : begin + step] = np.einsum("gkq,glq->gkl", dense @ inverse, dense)
        out += np.eye(num_terms)
        half = solve_upper(p.chol, np.ascontiguousarray(np.moveaxis(out, 0, -1)))
        return np.moveaxis(solve_upper(p.chol, np.ascontiguousarray(half.swapaxes(0, 1))), -1, 0)

    def _place(self, i: int) -> slice:
        sizes = [len(self.rows.groupings[j].labels) * len(self.factors[j].terms) for j in self.rest]
        k = self.rest.index(i)
        return slice(sum(sizes[:k]), sum(sizes[: k + 1]))


def _spread_out(z: Array, codes: NDArray[np.int64], num_groups: int) -> sparse.csr_matrix:
    """Return the columns of all groups, shape `(N, G K)`."""
    num_rows, num_terms = z.shape
    columns = codes[:, None] * num_terms + np.arange(num_terms)
    starts = np.arange(0, num_rows * num_terms + 1, num_terms)
    return sparse.csr_matrix((z.ravel(), columns.ravel(), starts), shape=(num_rows, num_groups * num_terms))


def _diagonal(blocks: sparse.bsr_matrix) -> Array:
    """Return the blocks on the diagonal, shape `(G, K, K)`."""
    size = blocks.blocksize[0]
    out = np.zeros((blocks.shape[0] // size, size, size))
    row = np.repeat(np.arange(len(out)), np.diff(blocks.indptr))
    here = row == blocks.indices
    out[row[here]] = blocks.data[here]
    return out


def _dense_blocks(matrix: Array, size: int) -> Array:
    """Return the blocks on the diagonal of a dense matrix, shape `(G, K, K)`."""
    groups = len(matrix) // size
    out: Array = matrix.reshape(groups, size, groups, size)[np.arange(groups), :, np.arange(groups)]
    return out
