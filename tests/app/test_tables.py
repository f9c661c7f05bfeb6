"""Files of rows: what goes in comes out, and every malformed one is named."""

import os
import warnings

import numpy as np
import pandas as pd
import pytest

from ebmeta.app.tables import read_table, write_table

FRAME = pd.DataFrame({"a": [1.0, 2.0, 3.0], "y": ["u", "v", "u"], "b": [4, 5, 6], "school": [7, 7, 8]})


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_columns(tmp_path, suffix):
    path = tmp_path / f"rows.{suffix}"
    FRAME.to_csv(path, index=False) if suffix == "csv" else FRAME.to_parquet(path, index=False)
    table = read_table(path, groups="school")
    assert table.X.tolist() == [[1, 4], [2, 5], [3, 6]]
    assert table.y.tolist() == ["u", "v", "u"]
    schools = ["7", "7", "8"] if suffix == "csv" else [7, 7, 8]  # ids as they are written
    assert table.groups.tolist() == schools
    assert table.features == ["a", "b"]
    assert read_table(path, label="school", groups="y").y.tolist() == schools


def test_npz(tmp_path):
    path = tmp_path / "rows.npz"
    np.savez(path, X=np.eye(3), y=[0, 1, 0], g=["p", "q", "p"])
    table = read_table(path, groups="g")
    assert table.X.tolist() == np.eye(3).tolist()
    assert (table.y.tolist(), table.groups.tolist()) == ([0, 1, 0], ["p", "q", "p"])
    np.savez(path, features=np.arange(12.0).reshape(2, 3, 2), classes=["cat", "dog"])
    stacked = read_table(path)
    assert stacked.X[4].tolist() == [8, 9]
    assert stacked.y.tolist() == ["cat"] * 3 + ["dog"] * 3


def test_unlabelled_rows(tmp_path):
    path = tmp_path / "rows.csv"
    FRAME[["a", "b"]].to_csv(path, index=False)
    table = read_table(path, labelled=False)
    assert table.y is None
    assert table.X.shape == (3, 2)
    FRAME.drop(columns="school").to_csv(path, index=False)
    assert read_table(path, labelled=False).features == ["a", "b"]


@pytest.mark.parametrize("suffix", ["csv", "parquet", "npz"])
def test_written_columns_come_back(tmp_path, suffix):
    path = tmp_path / f"out.{suffix}"
    write_table(path, {"prediction": np.array(["u", "v"]), "p_u": np.array([0.75, 0.25])})
    if suffix == "npz":
        with np.load(path) as file:
            got = {k: file[k].tolist() for k in file.files}
    else:
        got = (pd.read_csv(path) if suffix == "csv" else pd.read_parquet(path)).to_dict("list")
    assert got == {"prediction": ["u", "v"], "p_u": [0.75, 0.25]}


def test_names_of_rows_that_repeat_are_a_feature_and_told_of(tmp_path):
    path = tmp_path / "rows.csv"
    pd.DataFrame({"id": [7, 8, 7], "a": [1.0, 2.0, 3.0], "y": ["u", "v", "u"]}).to_csv(path, index=False)
    with pytest.warns(UserWarning, match=r"rows.csv: column 'id' names no rows, since it has 7 twice, and counts as a"):
        table = read_table(path)
    assert (table.features, table.X.tolist()) == (["id", "a"], [[7.0, 1.0], [8.0, 2.0], [7.0, 3.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_table(path, exclude=["id"]).features == read_table(path, ids="id").features == ["a"]
        assert read_table(path, features=["id"]).features == ["id"]


@pytest.mark.parametrize(
    ("frame", "arguments", "message"),
    [
        (FRAME, {"label": "z"}, r"\['z'\], got \['a', 'y', 'b', 'school'\] \(--label names the labels, --groups names"),
        (FRAME, {"label": "b"}, "expected numbers in feature column 'y'"),
        (FRAME.assign(a=[1.0, None, 3.0]), {"groups": "school"}, "expected a number in column 'a', row 1, got none"),
        (
            FRAME.assign(y=["u", None, "v"]),
            {"groups": "school"},
            "expected a value of 'y' in every row, got none in row 1",
        ),
        (FRAME[["y"]], {}, r"expected feature columns beside \['y'\], got none"),
    ],
)
def test_malformed_columns(tmp_path, frame, arguments, message):
    path = tmp_path / "rows.parquet"
    frame.to_parquet(path, index=False)
    with pytest.raises(ValueError, match=message):
        read_table(path, **arguments)


def test_malformed_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a file, found none"):
        read_table(tmp_path / "absent.csv")
    with pytest.raises(ValueError, match=r"expected a file of type .npz, .csv, .parquet, got .txt"):
        read_table(tmp_path / "rows.txt")
    path = tmp_path / "rows.npz"
    np.savez(path, Z=np.eye(2))
    with pytest.raises(ValueError, match=r"expected arrays \['X', 'y'\], got \['Z'\]"):
        read_table(path)
    np.savez(path, features=np.eye(2), labels=["cat", "dog"])
    with pytest.raises(ValueError, match=r"expected arrays \['X', 'y'\], got \['features', 'labels'\]; np.savez"):
        read_table(path)
    np.savez(path, features=np.zeros((5, 2, 2)), labels=list("aabbc"))  # images and their labels: five rows
    with pytest.raises(ValueError, match=r"expected arrays \['X', 'y'\], got \['features', 'labels'\]; np.savez"):
        read_table(path)
    np.savez(path, features=np.zeros((5, 2, 2)), classes=["cat", "dog"])
    with pytest.raises(ValueError, match=r"expected 5 classes, as features has, got shape \(2,\)"):
        read_table(path)
    for name, content in (("rows.npz", b"PK\x03\x04 no zip"), ("rows.parquet", b"no parquet"), ("rows.csv", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match="expected a complete"):
            read_table(tmp_path / name)


def test_where_tables_cannot_be_written(tmp_path):
    with pytest.raises(ValueError, match=r"expected a file of type .*, got .xlsx"):
        write_table(tmp_path / "out.xlsx", {})
    with pytest.raises(FileNotFoundError, match="expected an existing folder"):
        write_table(tmp_path / "absent" / "out.csv", {})


def test_what_is_no_table_is_refused_by_name(tmp_path):
    for suffix, content, message in (
        ("csv", "a,y\n1,u\n".encode("utf-16"), "expected a complete csv file, got: bytes that are no text in UTF-8"),
        ("csv", b"\x80\x04\xff,y\n1,2\n", "expected a complete csv file"),
        ("csv", b"a,y\n1,u\n1,2,3,4\n", "expected a complete csv file"),
        ("csv", b"a,y\n", "expected rows, got none"),
        ("parquet", b"", "expected a complete parquet file"),
        ("parquet", b"PAR1" + b"\xff" * 40 + b"PAR1", "expected a complete parquet file"),
        ("npz", b"", "expected a complete npz file"),
    ):
        path = tmp_path / f"rows.{suffix}"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message) as caught:
            read_table(path)
        assert str(caught.value).startswith(f"{path}: ")
    np.savez(tmp_path / "rows.npz", X=np.zeros((0, 2)), y=[])
    with pytest.raises(ValueError, match=r"expected rows in X, got an array of shape \(0, 2\)"):
        read_table(tmp_path / "rows.npz")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(IsADirectoryError, match="expected a file, got a folder"):
        read_table(tmp_path / "folder.csv")
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(FileNotFoundError, match="got a pipe or device"):
        read_table(tmp_path / "pipe.csv")


@pytest.mark.parametrize("word", ["NA", "None", "null", "nan"])
def test_a_class_whose_name_stands_for_none_is_told_how_to_be_called(tmp_path, word):
    (tmp_path / "rows.csv").write_text(f"a,y\n1,u\n2,{word}\n")
    said = "got none in row 1; in a CSV file NA, None, null and nan stand for none: give such a category another"
    with pytest.raises(ValueError, match=said):
        read_table(tmp_path / "rows.csv")
