"""Harder tasks, and how hard tasks are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ebmeta import EpisodeSampler
from ebmeta.tasks.hardness import Hardening


def test_harder_tasks_spread_a_class_about_its_mean_by_one_factor_per_task():
    rng = np.random.default_rng(0)
    off = rng.standard_normal((6, 10, 3))
    X = (5 + off - off.mean(1, keepdims=True)).reshape(60, 3)  # all classes have one mean: none is split
    plain = EpisodeSampler(X, np.repeat(np.arange(6), 10), 3, 2, 4, seed=1)
    assert np.array_equal(plain.harder(0.0).sample(2).query_x, plain.sample(2).query_x)
    factors = []
    for index in range(50):
        before, after = plain.sample(1, index), plain.harder(0.8).sample(1, index)
        ratio = torch.cat(
            [(after.support_x - 5) / (before.support_x - 5), (after.query_x - 5) / (before.query_x - 5)], 1
        )
        torch.testing.assert_close(ratio, ratio[0, 0, 0].expand_as(ratio), atol=1e-3, rtol=1e-3)
        factors.append(float(ratio.median()))
    assert min(factors) >= 1 - 1e-4
    assert 1.4 < max(factors) <= 1.48 + 1e-4


def test_harder_tasks_split_a_class_towards_another():
    means = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
    X, y = np.repeat(means, 40, 0), np.repeat(np.arange(6), 40)  # classes without any spread
    tasks = EpisodeSampler(X, y, 3, 2, 30, seed=1)
    before, after = tasks.sample(8), tasks.harder(0.8).sample(8)
    for t in range(8):
        for c in range(3):
            row = before.query_x[t][before.query_y[t] == c][0]
            moves = (after.query_x[t][before.query_y[t] == c] - row).numpy()
            line = moves[0]
            assert np.abs(np.abs(moves @ line) - line @ line).max() < 1e-4  # both ways along one line, equally far
            assert len(np.unique(np.sign(moves @ line))) == 2 or np.abs(line).max() < 1e-5
            share = [line @ towards / max(towards @ towards, 1e-9) for towards in means - row.numpy()]
            ends = [np.abs(line - s * towards).max() for s, towards in zip(share, means - row.numpy(), strict=True)]
            best = int(np.argmin(ends))
            assert ends[best] < 1e-4
            assert abs(share[best]) <= 0.8 + 1e-4
    with pytest.raises(ValueError, match="strength: expected a number from 0 to 1e.06, got -1"):
        tasks.harder(-1)


def test_difficulty_is_the_ratio_of_spreads():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((5, 1, 4)) * 3 + rng.standard_normal((5, 20, 4))
    tasks = EpisodeSampler(X.reshape(100, 4), np.repeat(np.arange(5), 20), 2, 1, 2)
    within, between = X.var(1, ddof=1).mean(0).sum(), X.mean(1).var(0, ddof=1).sum()
    assert tasks.difficulty == pytest.approx((within / between) ** 0.5, rel=1e-5)


def test_harder_tasks_know_their_source():
    X = np.random.default_rng(0).standard_normal((40, 3))
    plain = EpisodeSampler(X, np.repeat(np.arange(4), 10), 2, 1, 3, seed=5)
    hard = plain.harder(0.8)
    assert hard.difficulty == plain.difficulty
    assert hard.class_rows[0] is plain.class_rows[0]
    assert hard.harder(0.3).fingerprint() == plain.harder(0.3).fingerprint()  # in place of the strength, not on top
    assert torch.equal(hard.harder(0.3).sample(2).query_x, plain.harder(0.3).sample(2).query_x)
    assert hard.harder(0.0).fingerprint() == plain.fingerprint() != hard.fingerprint()
    assert torch.equal(hard.rows(20)[0], plain.rows(20)[0])  # rows are those of the data


def test_a_class_at_the_mean_of_the_others_stays_there():
    X, y = np.zeros((20, 2), dtype=np.float32), np.repeat(np.arange(4), 5)
    rows = EpisodeSampler(X, y, 2, 1, 2).class_rows[0]
    change = Hardening(rows, 1e3)
    got = change(X[:6], np.arange(6), np.random.default_rng(0))
    assert got.dtype == np.float32
    assert not got.any()
