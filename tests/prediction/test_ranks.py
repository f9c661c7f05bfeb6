"""P-values of tasks: exact ranks, what new classes add, and rates of false alarms over worlds of odd classes."""

from __future__ import annotations

import numpy as np
import pytest

from ebmeta.prediction.ranks import Ranks

Array = np.ndarray


def tasks(rng: np.random.Generator, effects: Array, number: int, share: float) -> tuple[Array, Array]:
    """The largest score of five classes, each of which has a share that is its own."""
    classes = np.stack([rng.permutation(len(effects))[:5] for _ in range(number)])
    score = share * effects[classes] + np.sqrt(1 - share**2) * rng.normal(size=classes.shape)
    return score.max(1), classes


def rates(share: float, known: int, worlds: int = 80) -> tuple[float, float]:
    """Share of tasks of new classes that are warned of at 5%, with and without regard to classes."""
    found = []
    for seed in range(worlds):
        rng = np.random.default_rng(seed)
        score, classes = tasks(rng, rng.normal(size=known), 300, share)
        new, _ = tasks(rng, rng.normal(size=200), 100, share)
        found.append([(Ranks.of(score, of).p_value(new) <= 0.05).mean() for of in (classes, None)])
    with_classes, without = np.mean(found, 0)
    return float(with_classes), float(without)


def test_by_hand() -> None:
    rng = np.random.default_rng(0)
    score, classes = tasks(rng, rng.normal(size=8), 40, 0.7)
    score[:3] = score[3]  # ties
    added = np.zeros(41)
    for number in range(8):
        has = [number in of for of in classes]
        own, other = score[has], score[~np.array(has)]
        rank = np.array([(1 + (other >= s).sum()) / (1 + len(other)) for s in own])
        added += [((rank <= k / 41 + 1e-9).mean() - k / 41) / 8 for k in range(1, 42)]
    wanted = np.minimum(np.maximum.accumulate(np.arange(1, 42) / 41 + 5 * np.maximum(added, 0)), 1)
    asked = np.sort(rng.normal(size=20) + 1)
    above = np.array([(score >= s).sum() for s in asked])
    np.testing.assert_allclose(Ranks.of(score, classes).p_value(asked), wanted[above])
    np.testing.assert_allclose(Ranks.of(score).p_value(asked), (1 + above) / 41)


def test_classes_alike_change_little() -> None:
    """False-alarm rate: a mean over 80 worlds has a standard error of .003; the bounds are five of them."""
    with_classes, without = rates(0.0, 18)
    assert abs(with_classes - 0.05) < 0.015
    assert abs(without - 0.05) < 0.015


@pytest.mark.parametrize(("share", "known"), [(0.5, 18), (0.7, 40), (0.9, 100)])
def test_classes_that_are_odd_raise_few_more_alarms(share: float, known: int) -> None:
    """False-alarm rate: standard errors of .004 to .007 over 80 worlds."""
    with_classes, without = rates(share, known)
    assert with_classes < without
    assert with_classes < 0.075


def test_padding_is_no_class() -> None:
    rng = np.random.default_rng(1)
    score, classes = tasks(rng, rng.normal(size=9), 50, 0.8)
    padded = np.pad(classes, ((0, 0), (0, 2)), constant_values=-1)
    np.testing.assert_array_equal(Ranks.of(score, padded).p_values, Ranks.of(score, classes).p_values)


def test_one_class_that_is_odd_is_no_alarm_but_what_is_odder_than_all_is() -> None:
    """Of 50 classes a task each, one is far off: a task as far is one in 50 or so, one beyond all is as rare."""
    score = np.r_[np.linspace(0, 1, 49), 9.0]
    found = Ranks.of(score, np.arange(50)[:, None]).p_value(np.array([0.5, 8.0, 10.0]))
    np.testing.assert_allclose(found[1:], [2 / 51 + 1 / 50 - 1 / 51, 1 / 50], atol=0.02)
    assert found[0] == pytest.approx(0.5, abs=0.03)


def test_tasks_that_all_have_all_classes_are_told_of() -> None:
    with pytest.warns(UserWarning, match="every calibration task has all classes"):
        found = Ranks.of(np.array([1.0, 2.0]), np.array([[0, 1], [1, 0]]))
    np.testing.assert_allclose(found.p_value(np.array([3.0, 1.5, 0.0])), [1 / 3, 2 / 3, 1])
