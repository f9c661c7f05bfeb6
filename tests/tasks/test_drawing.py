"""From rows of data to tensors of tasks."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from ebmeta.tasks.drawing import gather, generator


def test_every_seed_index_and_stream_has_numbers_of_its_own():
    first = generator(1, 2).random(3).tolist()
    assert generator(1, 2, 0).random(3).tolist() == first
    others = [generator(*key).random(3).tolist() for key in ((1, 2, 1), (1, 1), (2, 2), (2, 1), (0, 1, 2))]
    assert len({tuple(numbers) for numbers in (first, *others)}) == 6


@pytest.mark.parametrize("mapped", [False, True])
def test_arrays_that_cannot_be_written_to_are_copied(mapped, tmp_path):
    """In a process of its own: torch says but once that it would share such memory."""
    code = f"""
import itertools, warnings, numpy as np, ebmeta
warnings.filterwarnings("error", message="The given NumPy array is not writable")
name = map("{{}}.npy".format, itertools.count()).__next__
def fixed(values):
    values = np.array(values)
    if {mapped}:
        np.save(place := name(), values)
        return np.load(place, mmap_mode="r")
    values.flags.writeable = False
    return values
rng = np.random.default_rng(0)
X, group = fixed(rng.standard_normal((40, 2)).astype(np.float32)), fixed(np.repeat(np.arange(8), 5))
options = dict(transform=lambda x, rng: fixed(x))
tasks = ebmeta.GroupSampler(X, X[:, 0], group, n_support=2, size=fixed(np.ones(40)), group_X=X[:, 1:] * 0, **options)
tasks.sample(2).query_x.zero_()
ebmeta.EpisodeSampler(X, group, n_way=2, n_shot=1, n_query=2, **options).sample(2).support_x.zero_()
tasks = ebmeta.GroupSampler(X, X[:, 0], group, n_support=2, size=fixed(np.ones(40)))
model = ebmeta.EmpiricalBayes.regressor(2)
ebmeta.fit(model, tasks, num_iterations=1, progress=False)
ebmeta.fit_evidence(model, tasks, boundary=False)
ebmeta.FewShotRegressor(model).fit(X, X[:, 0], groups=group).predict(X, groups=group)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert run.returncode == 0, run.stderr


def test_a_change_sees_the_numbers_of_the_rows_and_comes_before_the_transform():
    X = np.arange(12.0).reshape(6, 2)
    rows = [(np.array([1, 4]), np.array([3])), (np.array([], dtype=int), np.array([0, 5]))]

    def change(task, numbers, rng):
        assert np.array_equal(task, X[numbers])
        return task + 100 * numbers[:, None]

    (first, query), (none, last) = gather(X, rows, lambda task, rng: 2 * task, np.random.default_rng(0), change)
    assert first.tolist() == [[2 * (2 + 100), 2 * (3 + 100)], [2 * (8 + 400), 2 * (9 + 400)]]
    assert query.tolist() == [[2 * (6 + 300), 2 * (7 + 300)]]
    assert none.shape == (0, 2)
    assert last.tolist() == [[0, 2], [2 * (10 + 500), 2 * (11 + 500)]]
