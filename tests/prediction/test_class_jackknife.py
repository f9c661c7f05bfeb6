"""Intervals over classes."""

from __future__ import annotations

import numpy as np
import pytest

from ebmeta.prediction.class_jackknife import class_half_width


def drawn(rng: np.random.Generator, tasks: int, classes: int, ways: int) -> np.ndarray:
    return rng.permuted(np.tile(np.arange(classes), (tasks, 1)), axis=1)[:, :ways]


def test_half_width_by_hand() -> None:
    # Every task is of one class: the mean over tasks is the mean over classes, and the jackknife their variance over n.
    values, classes = np.array([0.2, 0.4, 0.9]), np.array([[0], [1], [2]])
    spread = 2 / 3 * sum((np.delete(values, c).mean() - values.mean()) ** 2 for c in range(3))
    noise = 2 / 3 * values.var(ddof=1) * 3 * (1 / 2 - 1 / 3)
    assert spread == pytest.approx(values.var(ddof=1) / 3)
    expected = 4.302652729911275 * np.sqrt(max(spread - noise, 0) + values.var(ddof=1) / 3)
    assert class_half_width(values, classes) == pytest.approx(expected)
    assert class_half_width(2 * values, classes, 0.95) == pytest.approx(2 * expected)


@pytest.mark.parametrize("ways", [2, 5])
def test_intervals_cover_other_classes(ways: int) -> None:
    """False-alarm rate: with 95% coverage, fewer than 274 of 300 are covered in one of 200 runs; the seed is fixed."""
    rng, covered, over_tasks = np.random.default_rng(0), 0, 0
    for _ in range(300):
        ability, classes = rng.beta(6, 2, 20), drawn(rng, 300, 20, ways)
        values = ability[classes].mean(1) + 0.05 * rng.normal(size=300)
        covered += abs(values.mean() - 0.75) < class_half_width(values, classes)
        over_tasks += abs(values.mean() - 0.75) < 1.96 * values.std() / 300**0.5
    assert 274 <= covered <= 297
    assert over_tasks < 150  # what an interval over tasks is worth for other classes


def test_differences_of_methods_have_their_own_interval() -> None:
    rng = np.random.default_rng(0)
    classes = drawn(rng, 500, 20, 5)
    hard = rng.normal(size=20)[classes].mean(1)
    one, other = 0.6 + 0.1 * hard, 0.65 + 0.1 * hard
    assert class_half_width(one - other, classes) == pytest.approx(0, abs=1e-12)
    assert class_half_width(one, classes) > 0.02


def test_padding_and_ragged_numbers_of_ways() -> None:
    rng = np.random.default_rng(0)
    classes, values = drawn(rng, 50, 8, 3), rng.uniform(size=50)
    padded = np.c_[classes, np.full(50, -1)]
    assert class_half_width(values, padded) == class_half_width(values, classes)
    assert class_half_width(values, 10 * classes + 7) == class_half_width(values, classes)  # names of classes
    assert np.isnan(class_half_width(values, np.tile([0, 1], (50, 1))))  # no task without them


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^classes: expected one row for each of 3 tasks, got \(2, 1\)"):
        class_half_width(np.zeros(3), np.zeros((2, 1)))
    with pytest.raises(ValueError, match=r"^classes: expected whole numbers, got others"):
        class_half_width(np.zeros(2), np.array([[0.5], [1.0]]))
