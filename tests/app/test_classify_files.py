"""Files of a few labelled rows: every form of them says the same, and what was used is said."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from commands import refused, run

from ebmeta import FewShotClassifier
from ebmeta.app.classify_files import classify_files, share
from ebmeta.foundation.writing import kind_of

FEATURES = list("pqrstu")


@pytest.fixture(scope="module")
def rows():
    """Rows of three classes, every fifth of them with a label."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 60)
    X = 1.5 * rng.normal(size=(3, 6))[y] + rng.normal(size=(60, 6))
    return X, y, np.arange(60) % 5 == 0


@pytest.fixture(scope="module")
def expected(rows):
    X, y, known = rows
    return FewShotClassifier().fit(X[known], y[known]).predict_proba(X[~known])


def write(path, X, labels):
    """Write rows whose label is None where it is unknown."""
    if path.suffix == ".npz":
        numbers = all(isinstance(v, int | None) for v in labels)
        np.savez(path, X=X, y=np.array(labels, dtype=float) if numbers else ["" if v is None else v for v in labels])
        return
    frame = pd.DataFrame(X, columns=FEATURES).assign(y=labels)
    frame.to_csv(path, index=False) if path.suffix == ".csv" else frame.to_parquet(path, index=False)


@pytest.mark.parametrize("suffix", ["csv", "parquet", "npz"])
@pytest.mark.parametrize("names", [(0, 1, 2), ("ash", "elm", "fir")])
def test_rows_without_a_label_are_classified_from_those_with_one(tmp_path, rows, expected, suffix, names):
    X, y, known = rows
    path = tmp_path / f"rows.{suffix}"
    write(path, X, [names[c] if k else None for c, k in zip(y, known, strict=True)])
    assert run("classify", path, "--output", tmp_path / "out.csv") == 0
    table = pd.read_csv(tmp_path / "out.csv")
    assert table.columns.tolist() == ["row", "prediction", *(f"p_{c}" for c in names)]
    assert table["row"].tolist() == np.flatnonzero(~known).tolist()
    np.testing.assert_allclose(table[[f"p_{c}" for c in names]], expected, atol=1e-6)
    assert table["prediction"].tolist() == [names[c] for c in expected.argmax(1)]


def test_two_files_say_what_one_says_and_ids_are_kept(tmp_path, rows, expected):
    X, y, known = rows
    frame = pd.DataFrame(X, columns=FEATURES).assign(id=np.arange(100, 160), y=np.array(["a", "b", "c"])[y])
    frame.assign(y=frame["y"].where(known)).to_csv(tmp_path / "one.csv", index=False)
    frame[known].to_csv(tmp_path / "few.csv", index=False)
    frame[~known].drop(columns="y").to_csv(tmp_path / "rest.csv", index=False)
    assert run("classify", tmp_path / "one.csv", "--output", tmp_path / "a.csv") == 0
    assert run("classify", tmp_path / "few.csv", tmp_path / "rest.csv", "--output", tmp_path / "b.csv") == 0
    assert (tmp_path / "a.csv").read_text() == (tmp_path / "b.csv").read_text()
    table = pd.read_csv(tmp_path / "a.csv")
    assert table["id"].tolist() == frame["id"][~known].tolist()
    np.testing.assert_allclose(table[["p_a", "p_b", "p_c"]], expected, atol=1e-6)


def test_what_was_used_is_said(tmp_path, rows, expected, capsys):
    X, y, known = rows
    write(tmp_path / "rows.npz", X, [str(c) if k else None for c, k in zip(y, known, strict=True)])
    call = ("classify", tmp_path / "rows.npz", "--output", tmp_path / "out.csv", "--json", tmp_path / "out.json")
    assert run(*call) == 0
    out = capsys.readouterr().out
    counts = np.bincount(y[known])
    named = ", ".join(f"{c} {n}" for c, n in enumerate(counts))
    assert f"used: 12 labelled rows of 3 classes ({named}), 48 rows to classify, 6 features; general classifier" in out
    assert f"out.csv: 48 rows of 3 classes, {share(expected.max(1).mean())} probably right" in out
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["labelled"] == {str(c): n for c, n in enumerate(counts)}
    np.testing.assert_allclose(list(found["expected"].values()), expected.sum(0), atol=0.01)
    assert found["probably_right"] == pytest.approx(expected.max(1).mean(), abs=1e-5)
    assert (found["features"], found["outliers"]) == (6, None)


def test_sets_and_outliers_stand_beside_the_probabilities(tmp_path, rows):
    X, y, known = rows
    names = np.array(["a", "b", "c,d"])
    write(tmp_path / "rows.csv", X, [names[c] if k else None for c, k in zip(y, known, strict=True)])
    call = ("classify", tmp_path / "rows.csv", "--output", tmp_path / "out.csv", "--sets", 0.8, "--outliers")
    assert run(*call) == 0
    table = pd.read_csv(tmp_path / "out.csv")
    assert table.columns.tolist() == ["row", "prediction", "p_a", "p_b", "p_c,d", "outlier", "set"]
    clf = FewShotClassifier(outliers=True).fit(X[known], names[y[known]])
    np.testing.assert_allclose(table["outlier"], clf.outlier_proba(X[~known]), atol=1e-6)
    assert table["set"].tolist() == ["|".join(names[row]) for row in clf.predict_sets(X[~known], 0.8)]
    assert kind_of(tmp_path / "out.csv") == "table"
    assert run(*call, "--json", tmp_path / "out.json") == 0  # it replaces what it wrote
    size = json.loads((tmp_path / "out.json").read_text())["sets"]["mean_size"]
    assert size == pytest.approx(clf.predict_sets(X[~known], 0.8).sum(1).mean(), abs=1e-4)


def test_a_name_that_a_set_would_part_is_refused(tmp_path, rows):
    X, y, known = rows
    write(tmp_path / "rows.npz", X, [["a", "b", "a|b"][c] if k else None for c, k in zip(y, known, strict=True)])
    classify_files(tmp_path / "rows.npz", None, tmp_path / "out.csv")
    with pytest.raises(ValueError, match=r"column 'y': expected names of classes without '\|', .* got 'a\|b'$"):
        classify_files(tmp_path / "rows.npz", None, tmp_path / "sets.csv", sets=0.6)


def test_the_tree_holds_the_same_probabilities(tmp_path, rows, expected):
    X, y, known = rows
    write(tmp_path / "rows.npz", X, [int(c) if k else None for c, k in zip(y, known, strict=True)])
    found = classify_files(tmp_path / "rows.npz", None, tmp_path / "out.nc", outliers=True)
    with xr.open_datatree(tmp_path / "out.nc", engine="h5netcdf") as tree:
        np.testing.assert_allclose(tree["predictive/probs"].isel(step=-1, task=0), found.probs)
    clf = FewShotClassifier(outliers=True).fit(X[known], y[known])
    np.testing.assert_allclose(found.outlier, clf.outlier_proba(X[~known]), atol=1e-6)
    np.testing.assert_allclose(found.expected.sum(), 48 - found.outlier.sum(), rtol=1e-5)
    weights = 1 - found.outlier
    assert found.right == pytest.approx((weights * found.probs.max(1)).sum() / weights.sum(), rel=1e-5)


def test_rows_are_named_by_a_column_or_an_array_and_other_texts_left_out(tmp_path, rows, expected):
    X, y, known = rows
    labels = np.array([str(c) if k else "" for c, k in zip(y, known, strict=True)])
    names = np.array([f"{n:03d}" for n in range(60)])
    frame = pd.DataFrame(X, columns=FEATURES).assign(path=names, note="n", y=labels)
    frame.to_csv(tmp_path / "rows.csv", index=False)
    np.savez(tmp_path / "rows.npz", X=X, y=labels, path=names)
    pd.DataFrame({"vector": list(X), "path": names, "note": "n", "y": labels}).to_parquet(tmp_path / "rows.parquet")
    for suffix, more in (("csv", ("--exclude", "note")), ("npz", ()), ("parquet", ("--exclude", "note"))):
        call = ("classify", tmp_path / f"rows.{suffix}", "--output", tmp_path / "out.csv", "--id", "path", *more)
        assert run(*call) == 0
        table = pd.read_csv(tmp_path / "out.csv", dtype={"path": str})
        assert table.columns.tolist() == ["path", "prediction", "p_0", "p_1", "p_2"]
        assert table["path"].tolist() == names[~known].tolist()
        np.testing.assert_allclose(table[["p_0", "p_1", "p_2"]], expected, atol=1e-6)
    frame[known].to_csv(tmp_path / "few.csv", index=False)
    frame[~known].to_csv(tmp_path / "rest.csv", index=False)
    two = ("classify", tmp_path / "few.csv", tmp_path / "rest.csv", "--id", "path", "--exclude", "note")
    assert run(*two, "--output", tmp_path / "two.csv") == 0
    assert pd.read_csv(tmp_path / "two.csv", dtype={"path": str})["path"].tolist() == names[~known].tolist()


def test_columns_that_are_not_there_are_refused_in_a_line(tmp_path, rows, capsys):
    X, y, known = rows
    labels = [str(c) if k else "" for c, k in zip(y, known, strict=True)]
    pd.DataFrame(X, columns=FEATURES).assign(file="f", y=labels).to_csv(tmp_path / "rows.csv", index=False)
    call = ("classify", tmp_path / "rows.csv", "--output", tmp_path / "out.csv")
    flags = "(--label names the labels, --id names the rows, --exclude leaves columns out)"
    assert f"in feature column 'file', got string values, such as 'f' in row 0 {flags}" in refused(capsys, *call)
    assert refused(capsys, *call, "--label", "kind").endswith("'file', 'y'] (--label names the labels)\n")
    two = (*call[:2], *call[1:], "--label", "p", "--exclude", "file,y")
    assert "to predict numbers of groups, use ebmeta mixed or ebmeta train --groups" in refused(capsys, *two)
    assert "rows.csv: expected a column 'name', got ['p', " in refused(capsys, *call, "--id", "name")
    assert "expected names of rows in a column of their own, got 'y'" in refused(capsys, *call, "--id", "y")
    np.savez(tmp_path / "rows.npz", X=X, y=labels, path=labels[:5])
    call = ("classify", tmp_path / "rows.npz", "--output", tmp_path / "out.csv")
    assert "expected an array 'path' with a name for each of 60 rows" in refused(capsys, *call, "--id", "path")
    assert "expected a file of named columns, .csv or .parquet, for --exclude" in refused(
        capsys, *call, "--exclude", "p"
    )
    pd.DataFrame({"v": [[1.0, 2.0], [1.0]], "y": ["a", None]}).to_parquet(tmp_path / "rows.parquet")
    call = ("classify", tmp_path / "rows.parquet", "--output", tmp_path / "out.csv")
    assert "expected as many numbers in every row of column 'v', got: " in refused(capsys, *call)


def test_features_of_different_units_are_scaled_on_request_and_told_of(tmp_path, rows, capsys):
    X, y, known = rows
    labels = [str(c) if k else None for c, k in zip(y, known, strict=True)]
    units = np.array([1e4, 1, 1, 1, 1, 1])
    for name, features in (("plain", X), ("mixed", X * units + 5)):
        write(tmp_path / f"{name}.npz", features, labels)
    call = ("--output", tmp_path / "out.csv")
    assert run("classify", tmp_path / "plain.npz", *call) == 0
    assert capsys.readouterr().err == ""
    with pytest.warns(UserWarning, match="1 feature of 6 has 100% of the variance and will decide alone; .* --scale"):
        classify_files(tmp_path / "mixed.npz", None, tmp_path / "out.csv")
    write(tmp_path / "mixed.csv", X * units + 5, labels)
    with pytest.warns(UserWarning, match=f"the largest is column '{FEATURES[0]}'; if features"):
        classify_files(tmp_path / "mixed.csv", None, tmp_path / "out.csv")
    assert run("classify", tmp_path / "mixed.npz", *call, "--scale") == 0
    assert capsys.readouterr().err == ""
    scaled = (X - X.mean(0)) / X.std(0)
    expected = FewShotClassifier().fit(scaled[known], y[known]).predict_proba(scaled[~known])
    np.testing.assert_allclose(pd.read_csv(tmp_path / "out.csv")[["p_0", "p_1", "p_2"]], expected, atol=1e-5)


@pytest.mark.parametrize("suffix", ["csv", "parquet", "npz"])
@pytest.mark.parametrize("word", ["", " ", "NA", "None", "nan", "N/A", "null"])
def test_a_missing_label_is_written_in_one_way(tmp_path, rows, expected, capsys, suffix, word):
    X, y, known = rows
    path = tmp_path / f"rows.{suffix}"
    names = np.array(["ash", "elm", "fir"])
    write(path, X, [names[c] if k else word for c, k in zip(y, known, strict=True)])
    found = classify_files(path, None, tmp_path / "out.csv")
    np.testing.assert_allclose(found.probs, expected, atol=1e-6)
    if word.strip():  # where others are empty, it may be a class
        write(path, X, [[word, "elm", "fir"][c] if k else None for c, k in zip(y, known, strict=True)])
        row = np.flatnonzero(known & (y == 0))[0]
        said = (
            r"'y': expected one way to write a missing label, got '.*' in row \d+ and '.*' in row \d+; if one of them"
        )
        with pytest.raises(ValueError, match=said) as error:
            classify_files(path, None, tmp_path / "other.csv")
        assert f"{word!r} in row {row}" in str(error.value)


WRONG = {
    "none": ([None] * 6, "rows.csv: expected a few rows with a label in 'y', got none"),
    "minus one": ([0, 1, -1, -1, -1, -1], "got a label in each of 6 rows (-1 is one)"),
    "all": (list("aabbcc"), "rows.csv: expected rows without a label, with an empty 'y'"),
    "one": (["a", "a", None, None, None, " "], "expected labels of at least two classes, got 'a' alone (--outliers"),
    "numbers": ([0.5, 1.5, None, None, None, None], "expected class labels, got continuous numbers such as 0.5"),
}


@pytest.mark.parametrize(("labels", "said"), WRONG.values(), ids=WRONG)
def test_labels_that_do_not_do_are_refused_in_a_line(tmp_path, capsys, labels, said):
    write(tmp_path / "rows.csv", np.random.default_rng(0).normal(size=(6, 6)), labels)
    assert said in refused(capsys, "classify", tmp_path / "rows.csv", "--output", tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_too_few_labels_for_sets_and_numbers_that_are_none_are_refused_in_a_line(tmp_path, rows, capsys):
    X, y, known = rows
    labels = [str(c) if k else None for c, k in zip(y, known, strict=True)]
    write(tmp_path / "rows.npz", X, labels)
    call = ("classify", tmp_path / "rows.npz", "--output", tmp_path / "out.csv")
    line = refused(capsys, *call, "--sets", 0.95)
    assert "rows.npz: --sets: expected at least 22 labelled rows for sets of level 0.95, 19 to calibrate and" in line
    holed = np.where(np.arange(60)[:, None] == 7, np.nan, X)
    write(tmp_path / "rows.npz", holed, labels)
    assert "rows.npz: X: expected finite numbers, got NaN or infinity at row 7, column 0" in refused(capsys, *call)
    np.savez(tmp_path / "rows.npz", X=X, y=y[:5])
    assert "rows.npz: expected 60 values of 'y', one per row of X, got shape (5,)" in refused(capsys, *call)
    np.savez(tmp_path / "few.npz", X=X[known], y=y[known])
    np.savez(tmp_path / "rest.npz", X=X[~known, :4])
    two = ("classify", tmp_path / "few.npz", tmp_path / "rest.npz", "--output", tmp_path / "out.csv")
    assert "rest.npz: X has 4 features, but FewShotClassifier is expecting 6 features" in refused(capsys, *two)


def test_whole_numbers_in_parquet_files_are_exact_beside_gaps(tmp_path, rows, expected, capsys):
    X, y, known = rows
    first = 10**17 + 1  # as floats, all three classes and all rows would be one
    frame = pd.DataFrame(X, columns=FEATURES).assign(
        file=pd.array([None, *range(first, first + 59)], dtype="Int64"),
        y=pd.array([first + c if k else None for c, k in zip(y, known, strict=True)], dtype="Int64"),
    )
    frame.to_parquet(tmp_path / "rows.parquet")
    call = ("classify", tmp_path / "rows.parquet", "--output", tmp_path / "out.csv", "--id", "file")
    assert run(*call) == 0
    table = pd.read_csv(tmp_path / "out.csv")
    assert table["file"].tolist() == (np.flatnonzero(~known) - 1 + first).tolist()
    np.testing.assert_allclose(table[[f"p_{first + c}" for c in range(3)]], expected, atol=1e-6)
    frame.assign(y=frame["y"].astype(float)).to_parquet(tmp_path / "rows.parquet")
    assert "rows.parquet: column 'y': expected names that are told apart, got the float 1" in refused(capsys, *call)


def test_columns_that_one_of_two_files_has_alone_are_left_out_or_name_its_rows(tmp_path, rows, expected, capsys):
    X, y, known = rows
    frame = pd.DataFrame(X, columns=FEATURES)
    frame[known].assign(y=y[known], who="me").to_csv(tmp_path / "few.csv", index=False)
    frame[~known].assign(path=np.flatnonzero(~known), note="n").to_csv(tmp_path / "rest.csv", index=False)
    call = ("classify", tmp_path / "few.csv", tmp_path / "rest.csv", "--output", tmp_path / "out.csv")
    assert run(*call, "--id", "path", "--exclude", "note,who") == 0
    table = pd.read_csv(tmp_path / "out.csv")
    assert table["path"].tolist() == np.flatnonzero(~known).tolist()
    np.testing.assert_allclose(table[["p_0", "p_1", "p_2"]], expected, atol=1e-6)
    assert "rest.csv: expected a column 'who', got" in refused(capsys, *call, "--id", "who", "--exclude", "note")
    assert "rest.csv: expected a column 'nobody', got" in refused(capsys, *call, "--exclude", "note,who,nobody")
    np.savez(tmp_path / "few.npz", X=X[known], y=y[known])
    np.savez(tmp_path / "rest.npz", X=X[~known], path=np.flatnonzero(~known))
    call = ("classify", tmp_path / "few.npz", tmp_path / "rest.npz", "--output", tmp_path / "two.csv", "--id", "path")
    assert run(*call) == 0
    assert pd.read_csv(tmp_path / "two.csv")["path"].tolist() == np.flatnonzero(~known).tolist()


@pytest.mark.parametrize("shape", [(), (12, 1), (3,)])
def test_labels_of_an_npz_file_are_one_for_each_row(tmp_path, rows, capsys, shape):
    X, _, known = rows
    np.savez(tmp_path / "few.npz", X=X[known], y=np.zeros(shape, dtype=int))
    np.savez(tmp_path / "rest.npz", X=X[~known])
    said = refused(capsys, "classify", tmp_path / "few.npz", tmp_path / "rest.npz", "--output", tmp_path / "out.csv")
    assert f"few.npz: expected 12 values of 'y', one per row of X, got shape {shape}" in said


def test_names_of_rows_are_written_as_they_were_read(tmp_path, rows):
    X, y, known = rows
    names = np.array(["NA", "None", "007", "7.0", "", "1e3"] * 10)
    frame = pd.DataFrame(X, columns=FEATURES).assign(
        land=names, y=[str(c) if k else "" for c, k in zip(y, known, strict=True)]
    )
    frame.to_csv(tmp_path / "rows.csv", index=False)
    assert run("classify", tmp_path / "rows.csv", "--output", tmp_path / "out.csv", "--id", "land") == 0
    table = pd.read_csv(tmp_path / "out.csv", dtype={"land": str}, keep_default_na=False)
    assert table["land"].tolist() == names[~known].tolist()
