"""Marks of training classes: which classes a model knows again, and which it cannot."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest

import ebmeta
from ebmeta.tasks.marks import END, MOST, Marks


def source(X, y, **options):
    return ebmeta.EpisodeSampler(X, y, n_way=2, n_shot=1, n_query=2, **options)


def rows(classes, each, seed=0, width=3):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(classes * each, width)), np.repeat(np.arange(classes), each)


def test_a_class_of_training_is_known_under_another_number_type_and_order():
    X, y = rows(6, 10)
    kept = Marks.of(source(X, y))
    again = X[y == 4][::-1]
    mixed = np.concatenate([rows(3, 10, seed=1)[0], again])
    assert kept.known(source(mixed, np.repeat([7, 8, 9, 1], 10)).class_rows) == 1
    for kind in (">f8", "f4"):
        assert kept.known(source(mixed.astype(kind), np.repeat([7, 8, 9, 1], 10)).class_rows) == 1
    assert kept.known(source(rows(4, 10, seed=1)[0], np.repeat(np.arange(4), 10)).class_rows) is None


def test_what_marks_cannot_tell_passes():
    """Other rows of the same classes, and rescaled ones: named in the docs as what escapes."""
    X, y = rows(6, 20)
    half = np.tile([True, False], 60)
    kept = Marks.of(source(X[half], y[half]))
    kept.check(source(X[~half], y[~half]).class_rows, "tasks")
    kept.check(source(2 * X[half], y[half]).class_rows, "tasks")


def test_names_that_are_texts_are_warned_of_and_numbers_are_not():
    X, y = rows(4, 10)
    other, _ = rows(4, 10, seed=1)
    names = np.array(["ant", "bee", "cat", "dog"])
    kept = Marks.of(source(X, names[y]))
    with pytest.warns(
        UserWarning, match="tasks: expected classes that training never used, got the name 'bee' .and 1 mo"
    ):
        kept.check(source(other, np.array(["bee", "dog", "eel", "fly"])[y]).class_rows, "tasks")
    kept.check(source(other, y).class_rows, "tasks")


def test_of_many_rows_those_of_least_marks_are_kept_whatever_the_order():
    X, y = rows(40, 300)
    kept = Marks.of(source(X, y))
    assert len(kept.rows) == MOST
    assert max(kept.rows) < kept.limit < END
    order = np.random.default_rng(2).permutation(len(X))
    assert Marks.of(source(X[order], y[order])) == kept
    # 12,000 rows, of which one class has 300: 26 of them are marked on average.
    assert kept.known(source(X[y < 2], y[y < 2]).class_rows) in (0, 1)
    one = np.concatenate([X[y == 5], rows(3, 300, seed=3)[0]])
    assert kept.known(source(one, np.repeat([0, 1, 2, 3], 300)).class_rows) == 0


def test_rows_that_several_classes_have_say_nothing():
    rng = np.random.default_rng(0)
    X, y = rng.integers(0, 2, (200, 3)).astype(float), np.repeat(np.arange(4), 50)  # eight rows in all
    assert Marks.of(source(X, y)).rows == frozenset()
    Marks.of(source(X, y)).check(source(X, y).class_rows, "tasks")


def test_a_model_trained_twice_knows_both():
    X, y = rows(60, 40)
    first, second = (source(X[s], y[s]) for s in (y < 30, y >= 30))
    both = Marks.of(first) | Marks.of(second)
    assert both == Marks.of(source(X, y))
    assert both.known(first.class_rows) is not None
    assert both.known(second.class_rows) is not None


def test_marks_are_read_as_they_are_written_and_damaged_ones_refused():
    X, y = rows(4, 10)
    kept = Marks.of(source(X, np.array(list("abcd"))[y]))
    entry = json.loads(json.dumps(kept.config()))
    assert Marks.from_config(entry) == kept
    assert Marks.from_config(None) is None
    for wrong, said in (
        ([], "expected rows, limit and names"),
        ({**entry, "limit": 1.5}, "expected a whole number up to"),
        ({**entry, "rows": "12"}, "expected marks of 12 hexadecimal digits"),
        ({**entry, "names": 3}, "expected marks of 12 hexadecimal digits"),
    ):
        with pytest.raises(ValueError, match=said):
            Marks.from_config(wrong)


def test_promises_for_new_classes_refuse_those_of_training_and_validation(tmp_path):
    X, y = rows(40, 10)
    train, val, new = (source(X[s], y[s]) for s in (y < 10, (y >= 10) & (y < 20), y >= 20))
    model = ebmeta.EmpiricalBayes.classifier(3, width=4, num_steps=1)
    ebmeta.fit(model, train, 2, 2, validation=val, validation_tasks=4, progress=False)
    ebmeta.save(model, tmp_path / "model")
    said = "tasks: expected classes that training never used, got rows of it in class"
    for each in (model, ebmeta.load(tmp_path / "model")):
        assert ebmeta.certify(each, new, num_partitions=2).num_used == 20
        calls = [
            partial(ebmeta.certify, each, num_partitions=2),
            ebmeta.ClassSwapSets(each).calibrate,
            partial(ebmeta.ConformalSets(each).calibrate, num_tasks=12),
            partial(ebmeta.Novelty(each).fit(train, 12).calibrate, num_tasks=12),
            partial(ebmeta.ShiftWarning(each).fit(train, 12).calibrate, num_tasks=12),
        ]
        for call in calls:
            call(new)
            for used in (train, val):
                with pytest.raises(ValueError, match=said):
                    call(used)
        ebmeta.evaluate(each, new, 2)
        for used in (train, val, train.sample(2), val.sample(2)):  # scores promise nothing
            with pytest.warns(UserWarning, match="tasks: training or validation has used classes of these, such as"):
                ebmeta.evaluate(each, used, 2)
        for call in calls[2:]:  # tasks that are given as such, whatever the numbers of their classes
            call(new.sample(12))
            for used in (train, val):
                with pytest.raises(ValueError, match=f"{said} 'number [01] of task \\d+'"):
                    call(used.sample(12))
                with pytest.raises(ValueError, match=said):
                    call(ebmeta.MixedSampler([new, used, used]))
    numbers = ebmeta.EmpiricalBayes.regressor(3, num_steps=0)
    assert numbers.marks is None
