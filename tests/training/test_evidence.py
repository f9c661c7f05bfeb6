"""The evidence as a function: every row counts once, and spreads near nothing and at nothing are sound."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from builders import close, number_tasks
from scipy import stats

import ebmeta
from ebmeta import EmpiricalBayes, GroupSampler
from ebmeta.foundation.maximum import ENOUGH
from ebmeta.training.evidence import Evidence


def one_way(groups: int = 12, rows: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), rows)
    X = rng.normal(size=(groups * rows, 1))
    y = (2 + 3 * rng.normal(size=groups))[group] + 1.5 * X[:, 0] + 0.5 * rng.normal(size=len(group))
    return X, 100 * y + 7, group  # far from unit scale on purpose


def test_every_row_counts_once():
    X, y, group = one_way(groups=3, rows=4)
    batch = GroupSampler(X, y, group, n_support=2).everything()
    assert batch.support_mask.sum() == 0
    assert batch.query_y.flatten().tolist() == y.tolist()


def test_a_hyperprior_of_your_own():
    X, y, group = one_way()
    tasks = GroupSampler(X, y, group, n_support=1)
    held = EmpiricalBayes.regressor(1, num_steps=0)
    ebmeta.fit_evidence(held, tasks, hyperprior=lambda model: -1e6 * (model.prior.loc - 0.25).square().sum())
    close(held.prior.loc.detach(), torch.full((2,), 0.25).double(), 1e-3)


def test_a_spread_of_nothing_leaves_digits_to_the_rest():
    rng = np.random.default_rng(1)
    tasks = GroupSampler(
        rng.normal(size=(48, 1)), (rng.random(48) < 0.5) * 1.0, np.repeat(np.arange(8), 6), n_support=1
    )
    model = EmpiricalBayes.regressor(1, likelihood="bernoulli", num_steps=0).double()
    evidence = Evidence(model, tasks, hyperprior=False)
    assert evidence.maximise(500) < ENOUGH
    expected = evidence.log_evidence().item()
    model.prior.log_scale.data[0] = -63.0  # where a line search may well go: its precision is 5e54
    model.prior.loc.data += 0.1
    assert evidence.maximise(500) < ENOUGH
    assert evidence.log_evidence().item() > expected - 0.3  # what a spread of 0 may cost here
    assert float(model.prior.log_scale.data[0]) >= math.log(1e-6)


@pytest.mark.parametrize("likelihood", ["normal_per_task", "student_t"])
def test_noise_that_vanishes_is_said_of_every_likelihood(likelihood):
    y, groups, size = np.repeat([0.0, 1.0, 4.0], 3), np.repeat([0, 1, 2], 3), np.full(9, 1e9)
    model = EmpiricalBayes.regressor(1, likelihood=likelihood, num_steps=0).double()
    evidence = Evidence(model, GroupSampler(np.arange(9.0)[:, None], y, groups, 1, size=size), hyperprior=False)
    assert evidence.notes() == []
    model.likelihood.log_noise.data -= 16.0  # 1e-7 of the labels' spread
    assert evidence.notes() == [
        "the noise goes to 0, and the evidence has no maximum: the weights of groups explain every label"
    ]


def test_the_spread_of_a_count_model_is_held_at_zero_while_all_else_is_fitted():
    """One Poisson law for all groups is the maximum without a spread: its log likelihood is known in closed form."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(12), 5)
    y = rng.poisson(np.exp(1 + 1.5 * rng.standard_normal(12))[groups]).astype(float)
    tasks = ebmeta.GroupSampler(np.zeros((60, 0)), y, groups, n_support=2)
    fit = ebmeta.fit_evidence(ebmeta.EmpiricalBayes.regressor(0, "poisson", num_steps=0), tasks, num_draws=64)
    alike = stats.poisson.logpmf(y, y.mean()).sum()
    assert float(fit.gain[0]) == pytest.approx(fit.log_evidence - alike, abs=0.1)
    assert float(fit.gain[0]) > 100


def test_a_spread_held_at_zero_stays_there(monkeypatch):
    """Its logarithm and its row of the factor are held, nothing else is; near 0 no slope would lead an ascent away."""
    model = EmpiricalBayes.regressor(3, "poisson", num_steps=0).double()
    evidence, seen = Evidence(model, number_tasks("poisson", sizes=False), hyperprior=False), []
    monkeypatch.setattr(evidence, "maximise", lambda _, held, *__, **___: seen.append(held) or 0.0)
    evidence.without(1, 5)
    expected = [torch.zeros_like(p, dtype=torch.bool) for p in evidence.parameters]
    for p, held in zip(evidence.parameters, expected, strict=True):
        if p is model.prior.log_scale or p is model.prior.lower:
            held[1] = True
    assert torch.equal(seen[0], torch.cat([held.flatten() for held in expected]))
