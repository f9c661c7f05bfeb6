"""Warnings of rows and tasks whose features are damaged."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import ebmeta
from ebmeta import EpisodeSampler, GroupSampler, ShiftWarning
from ebmeta.prediction.ranks import Ranks
from ebmeta.prediction.scores import classes_of
from ebmeta.prediction.shift import _numbers, _Rows


def data(seed: int, classes: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """Rows of eight dimensions that hang together: all lie near a subspace of four."""
    mix = np.random.default_rng(7).normal(size=(4, 8))
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(classes), 20)
    X = (rng.normal(size=(classes, 4))[y] + rng.normal(size=(len(y), 4))) @ mix + 0.2 * rng.normal(size=(len(y), 8))
    return X, y


@pytest.fixture(scope="module")
def warning() -> ShiftWarning:
    model = ebmeta.EmpiricalBayes.classifier(8, width=4)
    train, held_out = (EpisodeSampler(*data(seed), 3, 2, 5) for seed in (0, 1))
    return ShiftWarning(model).fit(train, 100).calibrate(held_out, 199)


def damaged(batch: ebmeta.TaskBatch, rows: int) -> ebmeta.TaskBatch:
    """Return tasks whose first support rows have their columns in reverse."""
    x = batch.support_x.clone()
    x[:, :rows] = x[:, :rows].flip(-1)
    return ebmeta.TaskBatch(x, batch.support_y, batch.query_x, batch.query_y)


def test_false_alarms_on_new_classes_are_as_stated(warning: ShiftWarning) -> None:
    """False-alarm rate: of 300 new classes, more than 9% of tasks at a level of 5% in one of 200 runs."""
    many = ShiftWarning(warning.model).fit(EpisodeSampler(*data(0), 3, 2, 5), 100)
    many.calibrate(EpisodeSampler(*data(1, 300), 3, 2, 5), 400)
    found = many.check(EpisodeSampler(*data(2, 300), 3, 2, 5).sample(400), 0.05)
    assert found["warned"].mean() < 0.09
    for side in ("support", "query"):
        p = found[f"{side}_p_value"].values
        assert 0.02 < (p <= 0.05).mean() < 0.09
        assert 0.4 < (p <= 0.5).mean() < 0.6
    known = found.attrs["num_classes"]
    assert 280 < known <= 300
    assert found.attrs["most"] == pytest.approx((0.05 * known + 1) / (known + 1))


def test_damage_of_one_class_is_seen_in_its_rows_and_in_its_task(warning: ShiftWarning) -> None:
    batch = EpisodeSampler(*data(3), 3, 2, 5).sample(200)
    found = warning.check(damaged(batch, 2))  # the first class
    assert found["warned"].mean() > 0.9
    rows = found["support_p_value"].values <= 0.05
    assert rows[:, :2].mean() > 0.9
    assert rows[:, 2:].mean() < 0.1
    np.testing.assert_array_equal(found["query_p_value"], warning.check(batch)["query_p_value"])
    assert (found["score"] >= warning.check(batch)["score"] - 1e-12).mean() > 0.9


def test_p_values_by_hand(warning: ShiftWarning) -> None:
    batch = EpisodeSampler(*data(4), 3, 2, 5).sample(2)
    scores, mask = warning._scores(batch)[1]
    assert mask.all()
    expected = [np.mean([(own >= s).mean() for own in warning._known]) for s in scores.ravel()]
    found = warning.check(batch)
    np.testing.assert_allclose(found["query_p_value"].values.ravel(), expected)
    held_out = EpisodeSampler(*data(1), 3, 2, 5).batches(199)
    known = np.concatenate([warning.check(tasks)["score"].values for tasks in held_out])
    ranks = Ranks.of(known, classes_of(held_out))
    np.testing.assert_allclose(found["p_value"], ranks.p_value(found["score"].values))
    assert found["warned"].values.tolist() == (found["p_value"].values <= 0.05).tolist()


def test_numbers_of_rows_by_hand() -> None:
    rng = np.random.default_rng(0)
    rows, location, whiten = rng.normal(size=(3, 4)), rng.normal(size=4), rng.normal(size=(4, 2))
    found = _numbers(rows, _Rows((torch.zeros(1), torch.ones(1)), location, whiten, np.zeros(4), np.eye(4)))
    for row, numbers in zip(rows, found, strict=True):
        off = row - location
        sizes = sum(off**2), sum(abs(off)), np.mean((whiten.T @ off) ** 2)
        np.testing.assert_allclose(numbers, [*np.log(sizes), row.mean()])


def test_rows_of_groups_are_looked_at_too() -> None:
    X, y = data(5)
    model = ebmeta.EmpiricalBayes.regressor(8)
    tasks = GroupSampler(X[:300], X[:300, 0], y[:300], 3)
    others = GroupSampler(X[300:], X[300:, 0], y[300:], 3)
    warning = ShiftWarning(model).fit(tasks, 15).calibrate(others.disjoint(0))
    assert warning.check(others.disjoint(1)).attrs["num_classes"] == 15
    again = ShiftWarning(model).fit(tasks, 15).calibrate(others, 300)  # each group is one task, however many are asked
    assert again.check(others.disjoint(1)).equals(warning.check(others.disjoint(1)))
    far = others.disjoint(1).with_rows(query=others.disjoint(1).query.map(lambda v: v.flip(-1) if v.dim() == 3 else v))
    assert (warning.check(far)["query_p_value"] <= 0.05).mean() > 0.7


@pytest.mark.parametrize("model", [ebmeta.general_classifier(), ebmeta.EmpiricalBayes.classifier(8, pretrained=True)])
def test_models_of_any_features_look_at_these_as_they_are(model: ebmeta.EmpiricalBayes) -> None:
    train, held_out, new = (EpisodeSampler(*data(seed), 3, 2, 5) for seed in (0, 1, 3))
    warning, batch = ShiftWarning(model).fit(train, 100).calibrate(held_out, 199), new.sample(100)
    assert warning.check(batch)["warned"].mean() < 0.15
    assert warning.check(damaged(batch, 2))["warned"].mean() > 0.9


def test_padding_has_no_value_and_labels_of_queries_are_not_looked_at(warning: ShiftWarning) -> None:
    batch = EpisodeSampler(*data(6), (2, 3), (1, 2), (2, 5)).sample(20)
    found = warning.check(batch)
    np.testing.assert_array_equal(np.isnan(found["query_p_value"]), ~batch.query_mask.numpy())
    np.testing.assert_array_equal(np.isnan(found["support_p_value"]), ~batch.support_mask.numpy())
    assert found.equals(warning.check(batch.unlabelled()))
    trimmed = torch.arange(1)
    np.testing.assert_allclose(warning.check(batch[trimmed])["score"], found["score"][:1])


def test_what_is_missing_is_said_in_one_line() -> None:
    model, tasks = ebmeta.EmpiricalBayes.classifier(8, width=4), EpisodeSampler(*data(0), 3, 2, 5)
    with pytest.raises(ValueError, match=r"^ShiftWarning: expected a call of fit first, got none"):
        ShiftWarning(model).calibrate(tasks)
    fitted = ShiftWarning(model).fit(tasks, 10)
    with pytest.raises(ValueError, match=r"^ShiftWarning: expected a call of calibrate first, got none"):
        fitted.check(tasks.sample(1))
    with pytest.raises(ValueError, match=r"^calibrate: expected query labels, got unlabelled tasks"):
        fitted.calibrate(tasks.sample(2).unlabelled())
