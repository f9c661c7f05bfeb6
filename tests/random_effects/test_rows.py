"""Rows of numbers, some of them, and with other groups."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ebmeta.random_effects.rows import Grouping, Rows


def test_rows_are_taken_with_all_that_belongs_to_them():
    z = np.arange(6.0).reshape(3, 2)
    names = np.array(["a", "b"], dtype=object)
    grouping = Grouping(np.array([0, 1, 0]), names, z)
    rows = Rows(np.arange(3.0), np.ones((3, 1)), (grouping,), np.zeros(3), size=np.array([4.0, 5.0, 6.0]))
    some = rows.take(np.array([True, False, True]))
    assert (len(some), some.weights) == (2, None)
    np.testing.assert_array_equal(some.size, [4.0, 6.0])
    np.testing.assert_array_equal(some.groupings[0].z, z[[0, 2]])
    np.testing.assert_array_equal(rows.with_terms(0, z[:, :1]).groupings[0].z, z[:, :1])
    other = rows.regrouped(0, np.array([1, 1, 0]), names).groupings[0]
    np.testing.assert_array_equal(other.codes, [1, 1, 0])
    np.testing.assert_array_equal(other.z, z)


def test_rows_are_joined_and_weigh_1_where_they_have_no_weight():
    z, names = np.arange(2.0)[:, None], np.array(["a", "b"], dtype=object)
    groupings = [(Grouping(np.array(codes), labels, z),) for codes, labels in (([0, 0], names[:1]), ([1, 0], names))]
    one, two = (Rows(np.arange(2.0), np.ones((2, 1)), own, np.zeros(2)) for own in groupings)
    both = one.joined(replace(two, weights=np.array([3.0, 4.0])))
    np.testing.assert_array_equal(both.weights, [1, 1, 3, 4])
    np.testing.assert_array_equal(both.groupings[0].codes, [0, 0, 1, 0])
    assert both.groupings[0].labels.tolist() == ["a", "b"]
    assert (len(both), both.size) == (4, None)
