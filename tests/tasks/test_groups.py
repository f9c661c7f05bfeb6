"""Groups: drawn without replacement, divided, and checked."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ebmeta import GroupSampler
from tests.tasks.test_episodes import CODES, ROWS, X, equal, groups, real


def test_groups_are_drawn_without_replacement_and_divided():
    batch = groups().sample(6)
    seen, supports = [], []
    for t in range(6):
        (s_rows, s_groups, s_y), (q_rows, q_groups, q_y) = real(batch, t, "support"), real(batch, t, "query")
        group = s_groups[0]
        assert sorted([*s_rows, *q_rows]) == np.flatnonzero(group == CODES).tolist()  # all rows, none twice
        assert set(s_groups) | set(q_groups) == {group}
        assert np.array_equal(s_y, s_rows / 8)
        assert np.array_equal(q_y, q_rows / 8)
        seen.append(int(group))
        supports.append(len(s_rows))
    assert sorted(seen) == list(range(6))
    assert set(supports) <= {1, 2, 3}
    assert {int(n) for n in groups().sample(6, 1).support_mask.sum(1)} == {1, 2, 3}
    assert batch.way_mask.shape == (6, 1)


def test_more_tasks_than_groups_repeat_groups():
    batch = groups(n_support=2, n_query=4).sample(600)
    assert batch.num_queries.tolist() == [4] * 600
    assert batch.support_mask.sum(1).tolist() == [2] * 600
    counts = np.bincount(batch.support_x[:, 0, 1].int().numpy(), minlength=6)
    assert stats.chisquare(counts).pvalue > 1e-6  # the rate of false alarms


def test_string_groups_equal_integer_groups():
    named = GroupSampler(X, ROWS / 8, np.array(list("abcdef"))[CODES], (1, 3))
    assert named.groups.tolist() == list("abcdef")
    assert equal(named.sample(4), groups().sample(4))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"X": X[:, 0]}, r"X: expected a numeric array .*, got shape \(65,\)"),
        ({"y": ROWS[:, None]}, r"y: expected one column of numbers, got shape \(65, 1\)"),
        (
            {"y": CODES.astype(str)},
            r"y: expected numbers, got the text '1' in row 0 \(class labels go",
        ),
        ({"y": [None] * 65}, r"y: expected numbers, got no value in row 0"),
        ({"y": np.where(ROWS == 4, np.nan, 0.0)}, "y: expected finite numbers, got NaN or infinity at row 4"),
        ({"y": np.where(ROWS == 9, -np.inf, 0.0)}, "y: expected finite numbers, got NaN or infinity at row 9"),
        ({"y": ROWS[:64]}, "expected X, y and groups of equal length, got 65, 64 and 65"),
        ({"groups": CODES[:63]}, "expected X, y and groups of equal length, got 65, 65 and 63"),
        ({"groups": CODES[:, None]}, "groups: expected .* got"),
        ({"X": X[:0], "y": ROWS[:0], "groups": CODES[:0]}, "expected .* got"),
        ({"n_support": 8}, "groups: expected at least n_support .* = 9 rows in every group, got 8 in group .*5"),
        ({"n_support": (3, 1)}, r"n_support: expected 0 <= low <= high, got \(3, 1\)"),
        ({"n_support": -2}, "n_support: expected 0 <= low <= high, got -2"),
        ({"n_query": 0}, "n_query: expected at least 1, got 0"),
        ({"seed": -3}, "seed: expected a non-negative integer of at most 63 bits, got -3"),
    ],
)
def test_bad_groups_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        GroupSampler(**{"X": X, "y": ROWS, "groups": CODES} | kwargs)


def test_groups_may_be_any_hashable_labels():
    pairs = [(int(c), "left" if c % 2 else "right") for c in CODES]
    assert equal(GroupSampler(X, ROWS / 8, pairs, (1, 3)).sample(4), groups().sample(4))


def test_disjoint_tasks_are_every_group_once() -> None:
    y = np.arange(12.0)
    tasks = GroupSampler(y[:, None], y, np.repeat([3, 1, 2], 4), n_support=1)
    first, second = tasks.disjoint(0), tasks.disjoint(1)
    for batch in (first, second):
        assert batch.query_y is not None
        rows = np.c_[batch.support_y.numpy(), batch.query_y.numpy()]
        assert np.sort(rows).tolist() == [[4, 5, 6, 7], [8, 9, 10, 11], [0, 1, 2, 3]]
    assert (first.support_y != second.support_y).any()


def test_groups_whose_names_differ_in_white_space_alone_are_told_of():
    names = np.array(["north", "south", "north "])[np.arange(12) % 3]
    with pytest.warns(UserWarning, match="^groups: 'north' and 'north ' differ in white space, the case of letters"):
        assert len(GroupSampler(np.ones((12, 1)), np.arange(12.0), names, n_support=1).groups) == 3
