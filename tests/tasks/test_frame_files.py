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


def test_a_date_is_the_same_id_in_a_csv_and_a_parquet_file(tmp_path):
    days = pd.DataFrame({"g": pd.date_range("2026-01-30", periods=3), "x": [1.0, 2.0, 3.0]})
    times = days.assign(g=[days["g"][0], *(days["g"][1:] + pd.Timedelta("9h"))])
    for frame in (days, times):
        frame.to_csv(tmp_path / "rows.csv", index=False)
        frame.to_parquet(tmp_path / "rows.parquet")
        ids = [as_ids(read_frame(tmp_path / f"rows.{end}", texts=("g",))["g"]) for end in ("csv", "parquet")]
        assert ids[0] == ids[1]
        assert ids[0][0] == "2026-01-30"
    assert ids[0][1:] == ["2026-01-31 09:00:00", "2026-02-01 09:00:00"]
    assert as_ids(days["g"].to_numpy()) == ["2026-01-30", "2026-01-31", "2026-02-01"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x1f\x8b\x08\x00\x9d", "a gzip file under this name"),
        (b"PK\x03\x04\x9d", "a zip file or an Excel sheet under this name"),
        (b"PAR1\x15\x9d", "a parquet file under this name"),
        (b"gr\xf6\xdfe,y\n", "bytes that are no text in UTF-8 .save the table as UTF-8."),
    ],
)
def test_a_file_that_is_no_text_is_called_what_it_is(tmp_path, content, said):
    (tmp_path / "rows.csv").write_bytes(content)
    with pytest.raises(ValueError, match=f"rows.csv: expected a complete csv file, got: {said}$"):
        read_frame(tmp_path / "rows.csv")
