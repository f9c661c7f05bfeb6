"""A mixture of sources takes turns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ebmeta import EpisodeSampler, MixedSampler


def test_a_mixture_takes_turns():
    X, y = np.arange(120.0).reshape(60, 2), np.repeat(np.arange(6), 10)
    parts = [EpisodeSampler(X, y, 2, shots, 3, seed=7) for shots in (1, 2, 5)]
    tasks = MixedSampler(parts)
    for index in range(6):
        expected = parts[index % 3].sample(2, index)
        got = tasks.sample(2, index)
        assert torch.equal(got.support_x, expected.support_x)
        assert torch.equal(got.query_x, expected.query_x)
        hard = tasks.harder(1.0).sample(2, index)
        assert torch.equal(hard.query_x, parts[index % 3].harder(1.0).sample(2, index).query_x)
        other = parts[index % 3].with_random_sizes().sample(2, index)
        assert torch.equal(tasks.with_random_sizes().sample(2, index).query_x, other.query_x)
        unknown, part = tasks.with_unknown_proportions(), parts[index % 3].with_unknown_proportions()
        for name in ("query_x", "query_y", "concentration"):
            same = zip(*(getattr(source.sample(2, index), name) for source in (unknown, part)), strict=True)
            assert all(torch.equal(a.nan_to_num(9), b.nan_to_num(9)) for a, b in same)
    assert len({s.fingerprint() for s in (tasks, tasks.harder(1.0), tasks.with_unknown_proportions())}) == 3
    with pytest.raises(ValueError, match="samplers: expected at least one, got none"):
        MixedSampler([])


def test_what_a_mixture_knows_is_of_its_samplers():
    rng = np.random.default_rng(0)
    X, other, y = rng.normal(size=(60, 2)), rng.normal(size=(60, 2)), np.repeat(np.arange(6), 10)
    first = EpisodeSampler(X, y, 2, 1, 3)
    tasks = MixedSampler([first, EpisodeSampler(first.X, y, 3, 2, 3), EpisodeSampler(other, y, 2, 1, 3)])
    assert tasks.difficulty == first.difficulty
    assert [rows.X is x for rows, x in zip(tasks.class_rows, (first.X, tasks.samplers[2].X), strict=True)] == [True] * 2
    assert torch.equal(tasks.rows(12)[0], first.rows(12)[0])
    assert tasks.groups is tasks.labels() is None


def test_classes_have_the_numbers_of_the_first_sampler():
    rng = np.random.default_rng(0)
    X, other, y = rng.normal(size=(60, 2)), rng.normal(size=(60, 2)), np.repeat(np.arange(6), 10)
    samplers = [
        EpisodeSampler(X, y, 2, 1, 3),
        EpisodeSampler(X.copy(), y, 3, 2, 3),
        EpisodeSampler(X, y[::-1], 2, 1, 3),
    ]
    tasks = MixedSampler([*samplers, EpisodeSampler(other, y, 2, 1, 3), samplers[0].harder(0.5)])
    assert len(tasks.class_rows) == 3  # equal rows with equal classes are one
    for index, known in enumerate((True, True, False, False, True)):
        expected = tasks.samplers[index].sample(4, index).way_class
        got = tasks.sample(4, index).way_class
        assert torch.equal(got, expected) if known else got is None


def test_a_subclass_stays_what_it_is():
    """Harder or with unknown proportions, its own way to draw is asked."""

    class Counted(MixedSampler):
        drawn = 0

        def sample(self, num_tasks, index=0):
            Counted.drawn += 1
            return super().sample(num_tasks, index)

    X, y = np.arange(120.0).reshape(60, 2), np.repeat(np.arange(6), 10)
    tasks = Counted([EpisodeSampler(X, y, 2, 1, 3)]).harder(1.0).with_unknown_proportions()
    tasks.sample(2)
    assert Counted.drawn == 1
