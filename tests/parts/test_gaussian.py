"""Both Gaussian families against `torch.distributions` and dense linear algebra."""

from __future__ import annotations

import pytest
import torch
from builders import close, generator, random_precision
from torch.distributions import MultivariateNormal, kl_divergence

from ebmeta.parts.gaussian import DiagonalGaussian, FullGaussian

TASKS, WAYS, WEIGHTS, ROWS = 2, 3, 4, 5
FAMILIES = pytest.mark.parametrize("family", [DiagonalGaussian, FullGaussian])


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def draw(family, seed=0):
    precision = random_precision((TASKS, WAYS), WEIGHTS, generator(seed))
    precision = precision if family is FullGaussian else precision.diagonal(dim1=-2, dim2=-1)
    return family(normal(TASKS, WAYS, WEIGHTS, seed=seed + 50), precision)


def dense(q):
    """Return the precision matrices, shape `(T, C, P, P)`."""
    return q.precision if isinstance(q, FullGaussian) else torch.diag_embed(q.precision)


def reference(q):
    return MultivariateNormal(q.loc, precision_matrix=dense(q))


@FAMILIES
def test_kl(family):
    q, p = draw(family, 0), draw(family, 1)
    close(q.kl(p), kl_divergence(reference(q), reference(p)).sum(-1))
    close(q.kl(q), torch.zeros(TASKS, dtype=torch.float64), 1e-12)
    close(p.kls([q, p]), torch.stack([q.kl(p), p.kl(p)]), 1e-12)


@FAMILIES
def test_marginal(family):
    q, x = draw(family), normal(TASKS, ROWS, WEIGHTS)
    loc, var = q.marginal(x)
    covariance = reference(q).covariance_matrix
    for t in range(TASKS):
        for c in range(WAYS):
            close(loc[t, :, c], x[t] @ q.loc[t, c])
            close(var[t, :, c], (x[t] @ covariance[t, c] @ x[t].T).diagonal())


@FAMILIES
def test_colour(family):
    """Coloured unit vectors are the columns of a root of the covariance."""
    q = draw(family)
    unit = torch.eye(WEIGHTS, dtype=torch.float64)[:, None, None, :].expand(-1, TASKS, WAYS, -1)
    root = q.color(unit).permute(1, 2, 3, 0)
    close(root @ root.mT, reference(q).covariance_matrix)


@FAMILIES
def test_distribution(family):
    q, w = draw(family), normal(7, TASKS, WAYS, WEIGHTS)
    p = q.distribution()
    assert (p.batch_shape, p.event_shape) == ((TASKS,), (WAYS, WEIGHTS))
    close(p.log_prob(w), reference(q).log_prob(w).sum(-1))
    close(q.scale, reference(q).variance.sqrt())


@FAMILIES
def test_times_and_solve(family):
    q, v = draw(family), normal(TASKS, WAYS, WEIGHTS)
    close(q.times(v), (dense(q) @ v.unsqueeze(-1)).squeeze(-1))
    close(q.solve(q.times(v)), v)
    close(q.times(q.solve(v)), v)


@FAMILIES
def test_covariance_times_directions_of_a_task(family):
    q, u = draw(family), normal(TASKS, WEIGHTS, 2)
    close(q.covariance_times(u), reference(q).covariance_matrix @ u.unsqueeze(1))


def test_covariance():
    q = draw(FullGaussian)
    close(q.covariance(), reference(q).covariance_matrix)


@FAMILIES
def test_gram(family):
    q, x, h = draw(family), normal(TASKS, ROWS, WEIGHTS), normal(TASKS, ROWS, WAYS, seed=1)
    matrix = torch.stack([torch.stack([x[t].T @ torch.diag(h[t, :, c]) @ x[t] for c in range(WAYS)]) for t in (0, 1)])
    close(q.gram(x, h), matrix if family is FullGaussian else matrix.diagonal(dim1=-2, dim2=-1))


@FAMILIES
@pytest.mark.parametrize("size", [0.01, 1.0, 100.0])
def test_retraction_stays_positive_definite(family, size):
    for seed in range(20):
        q, a = draw(family, seed), size * normal(TASKS, WAYS, WEIGHTS, WEIGHTS, seed=seed + 9)
        step = a + a.mT if family is FullGaussian else (a + a.mT).diagonal(dim1=-2, dim2=-1)
        retracted = dense(q.with_(q.loc, q.retract(step)))
        g = step if family is FullGaussian else torch.diag_embed(step)
        torch.testing.assert_close(retracted, dense(q) + g + g @ torch.linalg.solve(dense(q), g) / 2)
        assert bool((torch.linalg.eigvalsh(retracted) > 0).all())


def test_a_diagonal_precision_makes_the_families_equal():
    q, p = draw(DiagonalGaussian, 0), draw(DiagonalGaussian, 1)
    q_full, p_full = (FullGaussian(v.loc, torch.diag_embed(v.precision)) for v in (q, p))
    x, v, step = normal(TASKS, ROWS, WEIGHTS), normal(TASKS, WAYS, WEIGHTS), normal(TASKS, WAYS, WEIGHTS, seed=1)
    close(q_full.kl(p_full), q.kl(p))
    for a, b in zip(q_full.marginal(x), q.marginal(x), strict=True):
        close(a, b)
    close(q_full.times(v), q.times(v))
    close(q_full.solve(v), q.solve(v))
    close(q_full.scale, q.scale)
    close(q_full.retract(torch.diag_embed(step)), torch.diag_embed(q.retract(step)))
    close(q_full.distribution().log_prob(v), q.distribution().log_prob(v))


@FAMILIES
def test_expansion_repeats_and_indexing_chooses(family):
    one = draw(family)
    single = family(one.loc[1, 2], one.precision[1, 2])
    many = single.expand(5, 6)
    assert bool((many.loc == one.loc[1, 2]).all())
    assert bool((many.precision == one.precision[1, 2]).all())
    assert many.loc.shape == (5, 6, WEIGHTS)
    assert torch.equal(one[1:].loc, one.loc[1:])
    assert torch.equal(one[1:].precision, one.precision[1:])
