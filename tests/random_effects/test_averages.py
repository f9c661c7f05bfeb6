"""Averages over nodes, and their derivatives, compared with sums over a fine grid."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special, stats

from ebmeta.likelihood import LIKELIHOODS
from ebmeta.random_effects.averages import average, blocks_of, derivatives
from ebmeta.random_effects.batched import Segments
from ebmeta.random_effects.covariance import Factor
from ebmeta.random_effects.modes import Labels
from ebmeta.random_effects.nodes import nodes_of

U = np.linspace(-9, 9, 6001)
LOG_PRIOR = stats.norm.logpdf(U) + np.log(U[1] - U[0])


def labels(kind: str) -> Labels:
    rng = np.random.default_rng(0)
    codes = np.repeat(np.arange(5), [1, 2, 4, 3, 2])
    x = np.column_stack([np.ones(12), rng.normal(size=12)])
    y = {"poisson": rng.poisson(2.0, 12), "student_t": rng.standard_t(4, 12)}.get(kind, rng.integers(0, 2, 12))
    z, weight = rng.normal(size=(1, 12)), rng.uniform(0.5, 2, 12)
    family = LIKELIHOODS[kind]().double()
    return Labels(family, y.astype(float), x, z, rng.normal(size=12), None, weight, Segments(codes, 5))


def on_a_grid(data: Labels, at: np.ndarray) -> np.ndarray:
    """Return the log evidence of each group."""
    for p, value in zip(data.family.parameters(), at[3:], strict=True):
        p.data.fill_(value)
    eta = data.fixed(at[1:3])[:, None] + at[0] * data.z[0][:, None] * U
    value = np.add.reduceat(data.log_density(eta), data.segments.starts)
    return special.logsumexp(value + LOG_PRIOR, 1)


@pytest.mark.parametrize("kind", ["poisson", "bernoulli", "negative_binomial", "student_t"])
def test_evidence_and_its_derivatives_are_those_of_a_fine_grid(kind, monkeypatch):
    monkeypatch.setattr("ebmeta.random_effects.averages.CELLS", 300)  # several blocks
    data = labels(kind)
    extra = list(data.family.parameters())
    at = np.array([0.8, 0.2, -0.3, *(float(p.detach()) for p in extra)])
    factor, rule = Factor("g", ["1"], [1], np.ones((12, 1))), nodes_of(1, 2)
    lower, fixed = np.array([[at[0]]]), data.fixed(at[1:3])
    found = data.modes(lower, fixed, np.zeros((1, 5)))
    blocks = blocks_of(data, len(rule.points))
    assert len(blocks) > 1
    evidence, gradient, hessian = [], np.zeros(len(at)), np.zeros((len(at), len(at)))
    for block in blocks:
        each = average(data, block, rule, (lower.T @ data.z, fixed), [found], slopes=True)
        slope, bend = derivatives(data, block, each, factor, extra)
        evidence += each.log_evidence.tolist()
        gradient, hessian = gradient + slope, hessian + bend
    h = 1e-3 * np.eye(len(at))
    exact = np.array([[on_a_grid(data, at + a + b).sum() for b in (*h, *-h)] for a in (*h, *-h)])
    n = len(at)
    corners = exact[:n, :n] - exact[:n, n:] - exact[n:, :n] + exact[n:, n:]
    np.testing.assert_allclose(evidence, on_a_grid(data, at), atol=1e-7)
    ends = [on_a_grid(data, at + step).sum() - on_a_grid(data, at - step).sum() for step in h]
    np.testing.assert_allclose(gradient, np.array(ends) / 2e-3, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(hessian, corners / 4e-6, rtol=1e-4, atol=1e-4)


def test_blocks_hold_every_group_once_and_sum_its_rows():
    data = labels("poisson")
    for block in blocks_of(data, 1_000_000):
        rows = slice(data.segments.starts[block.groups.start], block.rows.stop)
        assert rows.start == block.rows.start
        assert block.groups.stop - block.groups.start == 1
        np.testing.assert_allclose(block.total @ data.y[block.rows], data.segments.sum(data.y)[block.groups])
        expected = np.concatenate([data.z, data.x.T])[:, block.rows] @ data.y[block.rows]
        np.testing.assert_allclose(block.scores @ data.y[block.rows], expected)


def test_means_of_effects_move_with_the_coefficients_as_those_of_a_fine_grid():
    data, lower, beta, spread = labels("poisson"), np.array([[0.8]]), np.array([0.2, -0.3]), np.array([[1.7]])
    rule = nodes_of(1, 2)
    (block,) = blocks_of(data, len(rule.points))
    fixed = data.fixed(beta)
    found = data.modes(lower, fixed, np.zeros((1, 5)))
    each = average(data, block, rule, (lower.T @ data.z, fixed), [found], slopes=True)

    def means(at: np.ndarray) -> np.ndarray:
        eta = data.fixed(at)[:, None] + 0.8 * data.z[0][:, None] * U
        joint = np.add.reduceat(data.log_density(eta), data.segments.starts) + LOG_PRIOR
        return 1.7 * (special.softmax(joint, 1) @ U)

    np.testing.assert_allclose(each.moments(spread)[0][:, 0], means(beta), atol=1e-6)
    expected = np.stack([(means(beta + h) - means(beta - h)) / 2e-5 for h in 1e-5 * np.eye(2)], 1)
    np.testing.assert_allclose(each.mean_slope(block, spread)[:, 0], expected, atol=1e-5)
