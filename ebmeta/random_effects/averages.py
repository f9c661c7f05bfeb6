r"""Averages over the nodes of each group: the evidence of its labels, and its slope and curvature in the parameters.

With the weights $w_{gs}$ of the nodes and the score $s_{gs}$ of labels and effects at each,

$$ \nabla \log p(y_g) = \mathbb E_w[s_g], \qquad
   \nabla^2 \log p(y_g) = \mathbb E_w[\nabla^2 \log p(y_g, u)] + \mathrm{Cov}_w[s_g] . $$

How nodes move with the parameters changes an exact average by nothing. Sources: Fisher 1925, Theory of statistical
estimation; Louis 1982, Finding the observed information matrix when using the EM algorithm.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from ebmeta.foundation.guarding import unvalidated
from ebmeta.likelihood.base import Given
from ebmeta.random_effects.batched import solve_upper
from ebmeta.random_effects.covariance import Factor
from ebmeta.random_effects.modes import Labels
from ebmeta.random_effects.nodes import Nodes, log_heavy

__all__ = ["Average", "Block", "average", "blocks_of", "constants_of", "derivatives", "rest_of"]

Array = NDArray[np.float64]
CELLS = 60_000  # rows times nodes looked at together: they fit a processor's cache
STEP = 1e-4  # of the differences in the parameters of the likelihood


class Block(NamedTuple):
    """Some groups that are looked at together.

    Args:
        groups: which.
        rows: their rows.
        codes: number of the group of each row, from 0, shape `(n,)`.
        total: sums of rows over groups, shape `(g, n)`.
        terms: random terms, then common terms, shape `(K + P, n)`.
        scores: sums times each of these, shape `((K + P) g, n)`.
    """

    groups: slice
    rows: slice
    codes: NDArray[np.int64]
    total: sparse.csr_matrix
    terms: Array
    scores: sparse.csr_matrix


class Average(NamedTuple):
    """Nodes of some groups, and what there is at them.

    Args:
        u: nodes, shape `(K, g, S)`.
        own: those of the group of each row, shape `(K, n, S)`.
        eta: linear predictor, shape `(n, S)`.
        log_evidence: of the labels of each group up to terms without effects, shape `(g,)`.
        weight: of the nodes, in all 1, shape `(g, S)`.
        slopes: slope and curvature of the log density of the labels in the linear predictor, shape `(n, S)`, or None.
    """

    u: Array
    own: Array
    eta: Array
    log_evidence: Array
    weight: Array
    slopes: tuple[Array, Array] | None

    def moments(self, spread: Array) -> tuple[Array, Array, Array]:
        """Return mean, covariance and third central moments of effects, `(g, K)`, `(g, K, K)` and `(g, K, K, K)`.

        Args:
            spread: effects of the formula's terms for those of the nodes, shape `(K, K)`.
        """
        u = np.tensordot(spread, self.u, 1)
        mean = np.einsum("gs,kgs->gk", self.weight, u)
        gap = u - mean.T[..., None]
        square = np.einsum("gs,kgs,lgs->gkl", self.weight, gap, gap, optimize=True)
        return mean, square, np.einsum("gs,kgs,lgs,mgs->gklm", self.weight, gap, gap, gap, optimize=True)

    def mean_slope(self, block: Block, spread: Array) -> Array:
        r"""Return the change of the means of effects with the coefficients of common terms, shape `(g, K, P)`.

        $$ \partial\, \mathbb E_w[b] / \partial \beta = \mathrm{Cov}_w\Big[b,
           \sum_i x_i\, \partial \log p(y_i \mid \eta_i) / \partial \eta_i\Big] $$

        Args:
            block: the groups.
            spread: as for `moments`.
        """
        assert self.slopes is not None  # for the type checker
        u = np.tensordot(spread, self.u, 1)
        scores = (block.scores @ self.slopes[0]).reshape(-1, *self.weight.shape)[len(u) :]
        gap = u - np.einsum("gs,kgs->kg", self.weight, u)[..., None]
        out: Array = np.einsum("gs,kgs,pgs->gkp", self.weight, gap, scores, optimize=True)
        return out

    def silent(self, data: Labels, block: Block) -> Array:
        """Return the probability that all labels of a group tell nothing of it, shape `(g,)`; see `Effects`."""
        out: Array = (self.weight * np.exp(block.total @ data.log_silent(self.eta, block.rows))).sum(1)
        return out


def blocks_of(data: Labels, num_nodes: int) -> list[Block]:
    """Return all groups, some at a time."""
    counts = data.segments.counts
    starts = np.append(data.segments.starts, len(data.y))
    marks = np.arange(0, len(data.y), max(CELLS // num_nodes, 1))[1:]
    cuts = np.unique([0, *np.searchsorted(starts, marks), len(counts)])
    columns, out = [*data.z, *data.x.T], []
    for a, b in itertools.pairwise(int(c) for c in cuts):
        rows, ends = slice(int(starts[a]), int(starts[b])), (starts[a : b + 1] - starts[a]).astype(np.int32)
        size, many = int(ends[-1]), len(columns)
        each = np.arange(size, dtype=np.int32)
        total = sparse.csr_matrix((np.ones(size), each, ends), shape=(b - a, size))
        ends = np.append((np.arange(many)[:, None] * size + ends[:-1]).ravel(), many * size).astype(np.int32)
        terms = np.stack([c[rows] for c in columns])
        scores = sparse.csr_matrix((terms.ravel(), np.tile(each, many), ends), shape=(many * (b - a), size))
        out.append(Block(slice(a, b), rows, np.repeat(np.arange(b - a), counts[a:b]), total, terms, scores))
    return out


def average(
    data: Labels,
    block: Block,
    nodes: Nodes,
    linear: tuple[Array, Array],
    found: Sequence[tuple[Array, Array]],
    slopes: bool,
) -> Average:
    r"""Return the nodes of the groups of a block with their weights.

    Around several places, nodes are those of a mixture of distributions $q_k$ of equal shares: nodes of each have
    the weights of an average over it of $p(y_g, u) / \sum_k q_k(u)$.

    Args:
        data: the rows.
        block: which groups.
        nodes: of a standard normal distribution.
        linear: random terms times the relative factor, shape `(K, N)`, and the linear predictor of the others, `(N,)`.
        found: modes and factors of the curvatures of all groups, one pair or several.
        slopes: whether they are asked for.
    """
    some = [(modes[:, block.groups, None], chol[:, :, block.groups, None]) for modes, chol in found]
    points = nodes.points.T[:, None]
    shape = (len(linear[0]), some[0][0].shape[1], len(nodes.points))
    u = np.concatenate([modes + solve_upper(chol, np.broadcast_to(points, shape)) for modes, chol in some], 2)
    own = u.take(block.codes, 1)
    eta, *lz = (row[block.rows].repeat(u.shape[2]).reshape(own[0].shape) for row in (linear[1], *linear[0]))
    for a, b in zip(lz, own, strict=True):
        eta += np.multiply(a, b, out=a)
    value, *both = data.expansion(eta, block.rows) if slopes else (data.log_density(eta, block.rows),)
    if nodes.heavy:  # of one effect
        log_q = np.logaddexp.reduce(
            [log_heavy(root[0, 0] * (u[0] - place[0])) + np.log(root[0, 0]) for place, root in some]
        )
        joint = block.total @ value + (np.tile(nodes.log_weights, len(some)) - (u**2).sum(0) / 2 - log_q)
    else:
        chol = some[0][1]
        joint = block.total @ value + (nodes.log_weights + ((points**2).sum(0) - (u**2).sum(0)) / 2)
        joint -= sum(np.log(chol[k, k]) for k in range(len(chol)))
    top = joint.max(1, keepdims=True)
    weight = np.exp(joint - top)
    total = weight.sum(1, keepdims=True)
    return Average(u, own, eta, (top + np.log(total))[:, 0], weight / total, (both[0], both[1]) if slopes else None)


def derivatives(
    data: Labels, block: Block, found: Average, factor: Factor, extra: Sequence[Tensor]
) -> tuple[Array, Array]:
    """Return gradient and Hessian of the log evidence of all groups of a block.

    Args:
        data: the rows.
        block: which groups.
        found: their averages, with slopes.
        factor: the covariance of effects, whose parameters come first, and then the coefficients.
        extra: parameters of the likelihood, which come last.
    """
    assert found.slopes is not None  # for the type checker
    slope, bend = found.slopes
    one, num_terms, weight = np.ones(found.weight.shape[1]), len(data.z), found.weight.take(block.codes, 0)
    parts = (block.scores @ slope).reshape(-1, *found.weight.shape)
    moved = [_moved(data, block, found.eta, p) for p in extra]
    common = [parts[num_terms:], *((block.total @ change.value)[None] for change in moved)]
    scores = np.concatenate([parts[:num_terms][factor.rows] * found.u[factor.columns], *common])
    weighted = scores * found.weight
    mean = weighted @ one
    hessian: Array = weighted.reshape(len(mean), -1) @ scores.reshape(len(mean), -1).T - mean @ mean.T
    # Of the rows: terms times terms, of common terms times effects, of random terms times both.
    bent, size, linear = weight * bend, factor.size, factor.size + len(parts) - num_terms
    hessian[size:linear, size:linear] += _products(block.terms, bent @ one, block.terms)[num_terms:, num_terms:]
    for k, u in enumerate(found.own):
        by_u = bent * u
        here = np.flatnonzero(factor.columns == k)
        lean = _products(block.terms, by_u @ one, block.terms)[factor.rows[here], num_terms:]
        hessian[here, size:linear] += lean
        hessian[size:linear, here] += lean.T
        for m, other in enumerate(found.own[: k + 1]):
            there = np.flatnonzero(factor.columns == m)
            both = _products(block.terms[:num_terms], (by_u * other) @ one, block.terms[:num_terms])
            both = both[np.ix_(factor.rows[here], factor.rows[there])]
            hessian[np.ix_(here, there)] += both
            if m < k:
                hessian[np.ix_(there, here)] += both.T
    for i, change in enumerate(moved):
        cross = weight * change.slope
        of_effects = np.stack([block.terms[:num_terms] @ ((cross * u) @ one) for u in found.own], 1)
        lean = np.concatenate([factor.read(of_effects), block.terms[num_terms:] @ (cross @ one)])
        hessian[:linear, linear + i] += lean
        hessian[linear + i, :linear] += lean
        hessian[linear + i, linear + i] += float((weight * change.bend).sum())
        for j in range(i):
            mixed = float((weight * _mixed(data, block, found.eta, extra[i], extra[j])).sum())
            hessian[linear + i, linear + j] += mixed
            hessian[linear + j, linear + i] += mixed
    return mean.sum(1), hessian


def _products(left: Array, weight: Array, right: Array) -> Array:
    """Return the sums over rows of products of terms, shapes `(M, n)`, `(n,)` and `(L, n)` to `(M, L)`."""
    out: Array = (left * weight) @ right.T
    return out


class _Moved(NamedTuple):
    value: Array  # slope of the log density in a parameter of the likelihood, (n, S)
    bend: Array  # its curvature
    slope: Array  # slope of that in the linear predictor


def _moved(data: Labels, block: Block, eta: Array, parameter: Tensor) -> _Moved:
    middle, kept, ends = data.log_density(eta, block.rows), parameter.data, []
    for step in (STEP, -STEP):
        parameter.data = kept + step
        ends.append(data.expansion(eta, block.rows))
    parameter.data = kept
    (high, rise, _), (low, fall, _) = ends
    return _Moved((high - low) / (2 * STEP), (high + low - 2 * middle) / STEP**2, (rise - fall) / (2 * STEP))


def _mixed(data: Labels, block: Block, eta: Array, one: Tensor, other: Tensor) -> Array:
    """Return the curvature of the log density in two parameters of the likelihood, shape `(n, S)`."""
    out, kept = np.zeros_like(eta), (one.data, other.data)
    for a, b in itertools.product((STEP, -STEP), repeat=2):
        one.data, other.data = kept[0] + a, kept[1] + b
        out += math.copysign(1.0, a * b) * data.log_density(eta, block.rows)
    one.data, other.data = kept
    return out / (4 * STEP**2)


def constants_of(data: Labels) -> Tensor:
    """Return the terms of the log density of each row without the linear predictor, shape `(N,)`."""
    y, at, ways = torch.from_numpy(data.y), torch.zeros(len(data.y)).double(), torch.ones(1, 1, dtype=torch.bool)
    given = Given(None if data.size is None else torch.from_numpy(data.size))
    if given.size is not None and data.family.discrete:
        at = -given.size.log()  # of the many at 0, the difference would be rounding
    with torch.enable_grad(), unvalidated():
        rest = data.family.log_prob(y, at.unsqueeze(-1), ways, given) - data.family.kernel(y, at, given)
        return rest if data.weight is None else rest * torch.from_numpy(data.weight)


def rest_of(data: Labels, extra: Sequence[Tensor]) -> tuple[float, Array, Array]:
    """Return the terms of the log density of all rows without the linear predictor, their gradient and their Hessian.

    Args:
        data: the rows.
        extra: parameters of the likelihood.
    """
    total = constants_of(data).sum()
    gradient, hessian = np.zeros(len(extra)), np.zeros((len(extra), len(extra)))
    if extra and total.requires_grad:
        slopes = torch.autograd.grad(total, extra, create_graph=True, materialize_grads=True)
        gradient = np.array([float(v.detach()) for v in slopes])
        for i, slope in enumerate(slopes):
            if slope.requires_grad:
                bends = torch.autograd.grad(slope, extra, retain_graph=True, materialize_grads=True)
                hessian[i] = [float(v) for v in bends]
    return float(total.detach()), gradient, hessian
