"""Names of groups: new rows find the groups of the fit, whatever type or order their columns have."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ebmeta.formula.group_names import coded, placed

ROWS = pd.DataFrame({"a": [3, 3, 4, 5], "b": ["u", "v", "u", "u"]})


def names_of(frame: pd.DataFrame, *factor: str) -> list:
    codes, names, _ = coded(factor or ("a",), frame, {})
    return names[codes].tolist()


def test_names_of_one_column_are_what_it_holds_and_those_of_several_are_joined():
    assert names_of(ROWS) == [3, 3, 4, 5]
    assert names_of(ROWS, "a", "b") == ["3:u", "3:v", "4:u", "5:u"]
    assert names_of(ROWS, "b", "a") == ["u:3", "v:3", "u:4", "u:5"]


@pytest.mark.parametrize("kind", ["float", "Int64", "category", "object", "uint8"])
def test_numbers_have_one_name_in_all_types_of_columns(kind):
    other = ROWS.assign(a=ROWS["a"].astype(kind))
    assert names_of(other, "a", "b") == names_of(ROWS, "a", "b")
    codes, names, known = coded(["a"], ROWS, {})
    codes, names = placed(codes, names, None)
    again, fresh, _ = coded(["a"], other[::-1], known)
    again, fresh = placed(again, fresh, names)
    assert fresh.tolist() == names.tolist()
    np.testing.assert_array_equal(again[::-1], codes)


def test_combinations_are_told_apart_whatever_their_names_hold():
    """Of all pairs of texts of up to three letters of two, no two have one name."""
    texts = [x + y + z for x in ("", ":", "\\") for y in ("", ":", "\\") for z in ("", ":", "\\")]
    pairs = pd.DataFrame([(a, b) for a in set(texts) - {""} for b in set(texts) - {""}], columns=["a", "b"])
    assert len(set(names_of(pairs, "a", "b"))) == len(pairs)


def test_known_groups_stand_first_and_sorted():
    codes, names, _ = coded(["b"], ROWS[::-1], {})
    codes, names = placed(codes, names, None)
    assert (names.tolist(), codes.tolist()) == (["u", "v"], [0, 0, 1, 0])
    codes, names = placed(*coded(["b"], pd.DataFrame({"b": ["w", "v", "t"]}), {})[:2], names)
    assert (names.tolist(), codes.tolist()) == (["u", "v", "w", "t"], [2, 1, 3])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([1, "1"], "expected group 1 to be a number, as in other rows, got the text '1'"),
        (
            ["x", " "],
            "expected a group in every row, got the text ' ' in row 1, which is what becomes of a missing value",
        ),
        (["x", [2]], "expected names of groups, got [2] in row 1"),
        (
            ["x", "nan"],
            "expected a group in every row, got the text 'nan' in row 1, which is what becomes of a missing",
        ),
    ],
)
def test_what_names_no_group_is_refused_in_one_line(values, said):
    with pytest.raises(ValueError) as error:
        names_of(pd.DataFrame({"a": pd.Series(values, dtype=object)}))
    assert str(error.value).startswith(f"column 'a': {said}")


@pytest.mark.parametrize(
    ("fitted", "new", "said"),
    [
        ([0, 1], [True], "expected group True to be a number, as in the fit, got the truth value True"),
        ([True, False], [1], "expected group 1 to be a truth value, as in the fit, got 1"),
        ([1.0, 2.0], ["2"], "expected group 2 to be a number, as in the fit, got the text '2'"),
        (["1", "2"], [2.0], "expected group 2 to be a text, as in the fit, got 2.0"),
    ],
)
def test_groups_of_another_type_are_refused(fitted, new, said):
    _, _, known = coded(["a"], pd.DataFrame({"a": fitted}), {})
    with pytest.raises(ValueError) as error:
        coded(["a"], pd.DataFrame({"a": new}), known)
    assert str(error.value) == f"column 'a': {said}"
    assert coded(["a"], pd.DataFrame({"a": ["other"]}), known)[1].tolist() == ["other"]
