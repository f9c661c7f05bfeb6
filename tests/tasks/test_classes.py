"""Rows of classes: labels as codes, means, and how far classes spread."""

from __future__ import annotations

import decimal
import fractions
import math
import warnings

import numpy as np
import pandas as pd
import pytest

from ebmeta.tasks.classes import ClassRows, class_codes, members


class Recording(np.memmap):
    """A memory map that notes which rows are read."""

    def __array_finalize__(self, obj):
        super().__array_finalize__(obj)
        self.read = []

    def __getitem__(self, index):
        self.read.append(index)
        return np.asarray(self)[index]


def test_booleans_and_objects_are_labels():
    assert class_codes([True, False, True])[1].tolist() == [1, 0, 1]
    assert class_codes(np.array(["b", "a"], dtype=object))[0].tolist() == ["a", "b"]


def test_many_classes_of_one_row_raise_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert class_codes(np.arange(200))[1].tolist() == list(range(200))


def test_names_that_end_in_nul_are_refused():
    """Arrays of texts drop NULs at an end, and `a` would be the same class."""
    for labels in (["a", "a\0", "b"], np.array(["a", "a\0", "b"], dtype=object), pd.Series(["a", "a\0", "b"])):
        with pytest.raises(
            ValueError, match=r"^kind: expected names of classes that do not end in NUL, got 'a\\x00' in row 1"
        ):
            class_codes(labels, "kind")
    assert class_codes(["a\0b", "ab"])[0].tolist() == ["a\0b", "ab"]


def test_means_and_difficulty_of_classes_by_hand():
    codes = np.array([2, 0, 1, 0, 2, 1])
    X = np.array([[9.0, 1.0], [0.0, 0.0], [4.0, 2.0], [2.0, 0.0], [11.0, 1.0], [6.0, 2.0]])
    rows = ClassRows(X, np.array(["a", "b", "c"]), codes, members(codes))
    assert [m.tolist() for m in rows.members] == [[1, 3], [2, 5], [0, 4]]
    assert rows.means.tolist() == [[1.0, 0.0], [5.0, 2.0], [10.0, 1.0]]
    within = 6 / 3  # squared distances from the means, over 6 rows less 3 classes
    between = np.var([1, 5, 10], ddof=1) + np.var([0, 2, 1], ddof=1)
    assert rows.difficulty == pytest.approx((within / between) ** 0.5)


def test_of_many_rows_a_fixed_choice_of_each_class_is_read(tmp_path, monkeypatch):
    """Means within 6 standard errors of those of all rows (2e-9 each); the spread within 15%, 5 of them."""
    codes = np.repeat([0, 1, 2], [400, 50, 600])
    X = np.random.default_rng(0).normal(size=(len(codes), 4)) + 3.0 * codes[:, None]
    X.tofile(tmp_path / "x")
    mapped = Recording(tmp_path / "x", X.dtype, "r", shape=X.shape)
    every = ClassRows(X, np.arange(3), codes, members(codes))
    monkeypatch.setattr("ebmeta.tasks.classes.READ", 300 * 4 * 8)
    some = ClassRows(mapped, np.arange(3), codes, members(codes))
    assert np.abs(some.means - every.means).max() < 6 / 10
    assert some.difficulty == pytest.approx(every.difficulty, rel=0.15)
    assert [len(rows) for rows in mapped.read] == [100, 50, 100]
    again = ClassRows(X, np.arange(3), codes, members(codes))
    np.testing.assert_array_equal(again.means, some.means)
    np.testing.assert_array_equal(some.means[1], every.means[1])


def test_one_class_or_classes_of_one_mean_cannot_be_told_apart():
    for codes in (np.zeros(4, dtype=int), np.array([0, 0, 1, 1])):
        X = np.array([[0.0], [2.0], [0.0], [2.0]])
        assert ClassRows(X, np.unique(codes), codes, members(codes)).difficulty == math.inf


def test_rows_are_numbered_alike_where_rows_and_classes_are_equal():
    X, codes = np.arange(8.0).reshape(4, 2), np.array([0, 0, 1, 1])

    def rows(X, codes, names="ab"):
        return ClassRows(X, np.array(list(names)), codes, members(codes))

    one = rows(X, codes)
    assert one.numbered_as(rows(X, codes))
    assert one.numbered_as(rows(X.copy(), codes.copy(), "xy"))  # names may differ
    assert not one.numbered_as(rows(X + 1, codes))
    assert not one.numbered_as(rows(X, codes[::-1]))
    assert not one.numbered_as(rows(X[:3], codes[:3]))


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        ([2**70, -1], "huge or infinite"),
        ([2**63, -1], "huge or infinite"),
        ([decimal.Decimal(3), decimal.Decimal(4)], "Decimal"),
        ([fractions.Fraction(1, 2), fractions.Fraction(3, 2)], "Fraction"),
        ([b"a", b"b"], "bytes"),
        ([pd.Timestamp("2026-01-01")] * 2, "time"),
    ],
)
def test_labels_of_other_kinds_are_called_what_they_are(labels, kind):
    with pytest.raises(ValueError, match=rf"\(integers, strings or booleans\), got {kind} labels of shape \(2,\)"):
        class_codes(labels)
