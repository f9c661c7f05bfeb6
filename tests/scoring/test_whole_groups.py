"""A group in two frames is found among any number of groups, and a stated size that is not that of the group."""

from __future__ import annotations

import numpy as np
import pytest

from ebmeta.scoring.whole_groups import WholeGroups, check_sizes, hashes


def test_a_group_is_found_in_whichever_frame_it_was_before():
    known = WholeGroups()
    for frame in range(40):
        known.add([f"g{frame}-{n}" for n in range(1 + frame % 7)])
    for frame in (0, 3, 17, 39):
        with pytest.raises(
            ValueError, match=f"^group 'g{frame}-0': expected all its rows in one frame, got some in an"
        ):
            known.add(["new", f"g{frame}-0"])


def test_memory_is_eight_bytes_a_group_in_few_arrays():
    known = WholeGroups()
    for frame in range(300):
        known.add(np.arange(100 * frame, 100 * (frame + 1)).tolist())
    assert sum(len(part) for part in known._sorted) == 30_000
    assert len(known._sorted) <= 15
    assert {part.dtype for part in known._sorted} == {np.dtype("uint64")}


def test_no_two_of_many_names_have_one_number():
    """Two of 10^5 names share 64 bits by chance once in 3.7e9 sets of names."""
    assert len(set(hashes([f"shop {n}" for n in range(100_000)]).tolist())) == 100_000


def test_names_are_compared_as_files_compare_them():
    known = WholeGroups()
    known.add([31, "031"])
    with pytest.raises(ValueError, match=r"^group 31.0: expected all its rows"):
        known.add([31.0])


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ([3, 3, 1], "group 'a': expected 3 rows, as column 'n' states, got 2; divide the rows by whole groups"),
        ([2, 1, 1], "group 'a': expected 1 rows, as column 'n' states, got 2; divide the rows by whole groups"),
        ([2, 2, np.nan], "column 'n': expected finite numbers, got NaN or infinity at row 2"),
        ([2, 2, "one"], "column 'n': expected numbers, got the text 'one' in row 2"),
    ],
)
def test_a_group_of_another_size_than_stated_is_refused(stated, said):
    check_sizes(["a", "a", "b"], [2, 2, 1], "n")
    with pytest.raises(ValueError, match=f"^{said}$"):
        check_sizes(["a", "a", "b"], stated, "n")
