"""A group is known by all of its rows, in any order and under any name, and others are not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import ebmeta
from ebmeta.prediction.conformal_intervals import ConformalIntervals
from ebmeta.tasks.group_marks import BLOCK, group_marks
from ebmeta.tasks.marks import MOST, Marks


def world(seed: int, groups: int, rows: int = 4, width: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features, labels and groups."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(groups * rows, width)), rng.normal(size=groups * rows), np.repeat(np.arange(groups), rows)


def sampler(X: np.ndarray, y: np.ndarray, group: np.ndarray) -> ebmeta.GroupSampler:
    return ebmeta.GroupSampler(X, y, group, n_support=1)


def split(groups: np.ndarray) -> list[np.ndarray]:
    return [np.flatnonzero(groups == g) for g in np.unique(groups)]


@pytest.mark.filterwarnings("ignore::UserWarning")  # of a fit of more features than rows
def test_promises_for_new_groups_refuse_those_of_training(tmp_path) -> None:
    X, y, group = world(0, 16)
    model = ebmeta.EmpiricalBayes.regressor(40, random=[], num_steps=0)
    ebmeta.fit_evidence(model, sampler(X, y, group), boundary=False)
    ebmeta.save(model, tmp_path)
    order = np.random.default_rng(1).permutation(len(y))
    same = sampler(X, y, group), sampler(X[order], y[order], (40 - group)[order])
    few = sampler(X[:20], y[:20], group[:20])
    new, other = sampler(*world(2, 40)), sampler(X + 1e-3, y, group)
    for kept in (model, ebmeta.load(tmp_path)):
        for tasks in (*same, few, same[0].everything()):
            with pytest.raises(ValueError, match="^tasks: expected groups that training never used, got those of it"):
                ConformalIntervals(kept, 0.8).calibrate(tasks)
            with pytest.raises(ValueError, match="^tasks: expected groups that training never used, got those of it"):
                ebmeta.certify(kept, tasks)
        assert ConformalIntervals(kept, 0.8).calibrate(new).num_groups == 40
        assert ConformalIntervals(kept, 0.8).calibrate(other).num_groups == 16


def test_training_in_steps_is_remembered_too() -> None:
    X, y, group = world(4, 12, width=2)
    train, validation = sampler(*world(3, 12, width=2)), sampler(X, y, group + 12)
    model = ebmeta.EmpiricalBayes.regressor(2)
    ebmeta.fit(model, train, 2, 4, validation=validation, progress=False)
    for tasks in (train, validation):
        with pytest.raises(ValueError, match="groups that training never used"):
            ConformalIntervals(model, 0.8).calibrate(tasks)


def test_marks_are_those_of_sets_of_rows_in_32_bits() -> None:
    X, y, group = world(5, 3, rows=BLOCK // 2, width=1)  # several blocks of rows
    own = split(group)
    marks = group_marks(X, y, None, own)
    assert len(set(marks.tolist())) == 3
    assert marks.max() < 1 << 48
    shuffled = [np.random.default_rng(6).permutation(rows) for rows in own]
    np.testing.assert_array_equal(group_marks(X, y, np.ones(len(y)), shuffled), marks)
    np.testing.assert_array_equal(group_marks(X.astype(np.float32), y.astype(np.float32), None, own), marks)
    np.testing.assert_array_equal(group_marks(X, y, None, [own[1], own[0], own[2]]), marks[[1, 0, 2]])
    assert not np.isin(group_marks(X, y, None, [rows[1:] for rows in own]), marks).any()
    assert not np.isin(group_marks(X, -y, None, own), marks).any()
    assert not np.isin(group_marks(X, y, 2 * np.ones(len(y)), own), marks).any()


def test_zero_has_one_sign() -> None:
    X, y = np.array([[0.0], [1.0]]), np.array([1.0, 0.0])
    rows = [np.array([0, 1])]
    np.testing.assert_array_equal(group_marks(X, y, None, rows), group_marks(-X * [[1], [-1]], y, None, rows))


def test_groups_of_few_possible_rows_are_not_marked() -> None:
    """Groups of yes and no without features are alike by chance."""
    rng = np.random.default_rng(7)
    y, group = rng.integers(0, 2, 200).astype(float), np.repeat(np.arange(20), 10)
    tasks = ebmeta.GroupSampler(np.ones((200, 1)), y, group, n_support=1)
    assert tasks.group_marks() is None
    assert Marks.of(tasks) is None


def test_of_many_groups_so_many_marks_are_kept_that_most_of_them_are_known() -> None:
    X, y, group = world(8, 3 * MOST, rows=2, width=1)
    tasks = sampler(X, y, group)
    kept = Marks.of(tasks)
    assert len(kept.rows) == MOST
    assert kept.known_group(*tasks.group_marks()) is not None
    assert kept.known_group(*sampler(*world(9, 3 * MOST, rows=2, width=1)).group_marks()) is None
    half = group < 600
    assert kept.known_group(*sampler(X[half], y[half], group[half]).group_marks()) is not None


def test_tasks_of_classes_have_no_marks_of_groups() -> None:
    y = torch.tensor([[0, 1]])
    assert (
        ebmeta.tasks.source.as_source(ebmeta.TaskBatch(torch.randn(1, 2, 3), y, torch.randn(1, 2, 3), y)).group_marks()
        is None
    )
