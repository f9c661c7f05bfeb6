"""Names that are the same but for how they are written."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from ebmeta.tasks.classes import class_codes
from ebmeta.tasks.spellings import near, tell_of_near


@pytest.mark.parametrize(
    "names",
    [
        ("ant", "ant "),
        ("ANT ", "ant"),
        ("A", "A "),
        ("1", "1.0"),
        ("007", "7"),
        ("ant hill", "ant\u00a0 hill"),
        ("ame\u0301", "am\u00e9"),
    ],
)
def test_names_that_differ_in_writing_alone_are_told_of(names):
    alone = "differ in white space, the case of letters, zeros or the form of Unicode alone, and count as two classes$"
    with pytest.warns(UserWarning, match=f"^kind: '.*' and '.*' {alone}"):
        assert class_codes(["bee", *names], "kind")[0].tolist() == sorted([*names, "bee"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        class_codes(["A", "a", "a b", "ab", "1.1", "1.10", "2"])  # single letters of both cases are classes


@pytest.mark.parametrize(
    ("new", "old"),
    [
        (" g1", "g1"),
        ("g\uff11", "g1"),
        ("g1\u200b", "G1"),
        ("A", "a"),
        ("031", "31"),
        ("31.0", 31),
        (31.5, "31.5"),
        (float(np.float32(0.1)), 0.1),
    ],
)
def test_a_new_name_is_a_known_one_written_otherwise(new, old):
    assert near(["else", new], ["other", old]) == [(new, old)]


def test_names_that_are_others_are_left_alone():
    known = ["1.1", "g1", "12345678901234567890", "a b", "2026-01-10", 0.5, 10**17]
    assert near(["1.10", "g01", "12345678901234567891", "ab", 0.5001, 10**17 + 1], known) == []
    assert near(known, known) == []
    assert near(["2026-01-10 00:00"], known) == [("2026-01-10 00:00", "2026-01-10")]
    assert near(["2026-01-10 00:00", "g1"], known) == []  # some are known: dates are written as they were
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tell_of_near(["ab"], known, "rows", "groups")
