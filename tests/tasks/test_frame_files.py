"""Rows of files: ids as they are written, and columns that number the rows."""

import pandas as pd
import pyarrow.parquet
import pytest

from ebmeta.tasks.frame_files import as_ids, note_on_ids, read_frame, row_ids


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path):
    (tmp_path / "rows.csv").write_bytes(b"\xef\xbb\xbfa,y\n1,u\n")
    assert read_frame(tmp_path / "rows.csv").columns.tolist() == ["a", "y"]


def test_ids_and_row_numbers():
    assert as_ids(["031", "31.0", 31, 31.0, "1.10", "-2.00", True]) == ["031", "31", "31", "31", "1.10", "-2", "True"]
    frame = pd.DataFrame({"id": [1, 1], "Index": [0, 1], "rownames": ["b", "a"], "x": [0, 1]})
    assert row_ids(frame) == ["Index", "rownames"]
    assert row_ids(frame, ["Index"]) == ["rownames"]
    said = "column 'id' names no rows, since it has 1 twice, and counts as a feature; leave it out (--exclude), or take"
    assert note_on_ids(frame, ["id", "x"]).startswith(said)
    assert note_on_ids(frame.assign(id=[0.5, 0.5]), frame.columns) == note_on_ids(frame, ["Index", "x"]) == ""


@pytest.mark.parametrize("name", ["id", "", "Row_Names"])
def test_names_of_rows_stay_as_they_are_written(tmp_path, name):
    for first, expected in (("007", ["007", "8"]), ("7", [7, 8])):
        (tmp_path / "a.csv").write_text(f"{name},x\n{first},1\n8,2\n")
        frame = read_frame(tmp_path / "a.csv")
        assert (frame[name].tolist(), frame["x"].tolist(), row_ids(frame)) == (expected, [1, 2], [name])


def test_a_raw_column_keeps_what_others_take_for_missing(tmp_path):
    (tmp_path / "rows.csv").write_text('x,y,z\n1,NA,NA\n2,,\n3,"None",null\n4, 01,b\n')
    frame = read_frame(tmp_path / "rows.csv", texts=("y", "z"), raw=("y",))
    assert frame["y"].tolist() == ["NA", "", "None", " 01"]
    assert frame["z"].isna().tolist() == [True, True, True, False]
    assert frame["x"].tolist() == [1, 2, 3, 4]


def test_ids_in_parquet_files_stay_whole_beside_gaps(tmp_path):
    first, second = 10**17 + 1, 10**17 + 2
    columns = {"y": [first, None, second], "g": [first, second, None], "x": [1, None, 2], "f": [0.5, None, 1.5]}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "rows.parquet")
    frame = read_frame(tmp_path / "rows.parquet", texts=("g", "f"), raw=("y",))
    assert (frame["y"].dropna().tolist(), frame["g"].dropna().tolist()) == ([first, second], [first, second])
    assert as_ids(frame["g"]) == [str(first), str(second), None]
    assert frame["x"].dtype == frame["f"].dtype == float
