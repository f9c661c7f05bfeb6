"""Columns of files: found by name, ids as they are written, nothing shifted or lost, and what was used is said."""

import json

import numpy as np
import pandas as pd
import pytest
from commands import refused, run

import ebmeta


def predicted(sites, tmp_path, known, query, *flags, suffix="csv"):
    """Write both files, predict, and return the table."""
    paths = []
    for name, rows in (("known", known), ("query", query)):
        paths.append(tmp_path / f"{name}.{suffix}")
        rows.to_csv(paths[-1], index=False) if suffix == "csv" else rows.to_parquet(paths[-1])
    assert run("predict", sites, *paths, "--output", tmp_path / "out.csv", "--overwrite", *flags) == 0
    return pd.read_csv(tmp_path / "out.csv", dtype={"site": str})


@pytest.mark.filterwarnings("ignore:tasks. training or validation has used:UserWarning")  # the same file
def test_columns_are_found_by_name_for_classes_as_for_groups(sites, classes, tmp_path, capsys):
    model, known, query = sites
    expected = predicted(model, tmp_path, known, query)
    swapped = predicted(model, tmp_path, known[["z", "y", "x", "site"]], query[["site", "z", "x"]])
    np.testing.assert_array_equal(swapped["mean"], expected["mean"])
    folder, frame = classes
    assert ebmeta.load(folder / "model").feature_names == ["a", "b", "c"]
    support = frame.groupby("y").head(2)
    rows = frame.drop(support.index)
    same = predicted(folder / "model", tmp_path, support, rows.drop(columns="y"))
    other = predicted(folder / "model", tmp_path, support[["c", "y", "a", "b"]], rows[["b", "c", "a"]].assign(note="n"))
    pd.testing.assert_frame_equal(same, other)
    clf = ebmeta.FewShotClassifier(ebmeta.load(folder / "model")).fit(support[["a", "b", "c"]], support["y"])
    np.testing.assert_allclose(same["p_01"], clf.predict_proba(rows[["a", "b", "c"]])[:, 0], atol=1e-6)
    support.rename(columns={"b": "beta"}).to_csv(tmp_path / "s.csv", index=False)
    task = (folder / "model", tmp_path / "s.csv", tmp_path / "query.csv")
    wanted = "s.csv: expected a column 'b', got ['a', 'beta', 'c', 'y']"
    assert wanted in refused(capsys, "predict", *task, "--output", tmp_path / "o.csv")
    frame.to_csv(tmp_path / "new.csv", index=False)
    frame[["y", "c", "b", "a"]].to_csv(tmp_path / "swapped.csv", index=False)
    scores = []
    for name in ("new", "swapped"):
        run(
            "evaluate",
            folder / "model",
            tmp_path / f"{name}.csv",
            "--n-way",
            3,
            "--n-query",
            5,
            "--num-tasks",
            4,
            "--json",
            tmp_path / f"{name}.json",
        )
        scores.append(json.loads((tmp_path / f"{name}.json").read_text())["nll"])
    assert scores[0] == scores[1]


PITFALLS = {
    "a comma at the end of every line": (
        "site,x,z,y,\n031,1,2,3,\n",
        "expected a name for every column, got none for column 5",
    ),
    "a comma at the end of lines": (
        "site,x,z,y\n031,1,2,3\n031,1,2,3,\n",
        "got 5 in line 3 (a comma at the end of the line?)",
    ),
    "thousands": (
        "site,x,z,y\n031,1,2,1,234\n",
        "expected a complete csv file, 4 values in every line as in its header, got 5",
    ),
    "too few values": ("site,x,z,y\n031,1,2\n", "got 3 in line 2"),
    "a line break in a text": ('site,x,z,y\n"03\n1",1,2,3\n031,1,2\n', "got 3 in line 4"),
    "semicolons": (
        "site;x;z;y\n031;1,5;2;3\n",
        "expected columns separated by commas, and decimal points, got a header with ';'",
    ),
    "tabs": ("site\tx\tz\ty\n031\t1\t2\t3\n", "expected columns separated by commas"),
    "a name twice": ("site,x,x,y\n031,1,2,3\n", "expected columns of distinct names, got 'x' twice"),
    "decimal commas": (
        'site,x,z,y\n031,"1,5",2,3\n031,"2,5",2,3\n',
        "column 'x': expected numbers, got string values, such as '1,5' in row 0",
    ),
    "one bad cell": (
        "site,x,z,y\n031,1,2,3\n031,abc,2,3\n",
        "column 'x': expected numbers, got string values, such as 'abc' in row 1",
    ),
    "a label that is a text": (
        "site,x,z,y\n031,1,2,no\n031,1,2,yes\n",
        "such as 'no' in row 0 (code an outcome of two kinds as 0 and 1)",
    ),
    "no value": ("site,x,z,y\n031,1,2,3\n031,,2,3\n", "column 'x': expected a value in every row, got none in row 1"),
    "no group": ("site,x,z,y\n031,1,2,3\n,1,2,3\n", "column 'site': expected a value in every row, got none in row 1"),
    "no header": ("\n\n", "expected a complete csv file, got one without a line of names"),
}


@pytest.mark.parametrize("case", PITFALLS)
def test_pitfalls_of_csv(sites, tmp_path, capsys, case):
    text, message = PITFALLS[case]
    (tmp_path / "s.csv").write_text(text)
    sites[2].to_csv(tmp_path / "q.csv", index=False)
    task = (sites[0], tmp_path / "s.csv", tmp_path / "q.csv", "--output", tmp_path / "o.csv")
    line = refused(capsys, "predict", *task)
    assert f"s.csv: {message}" in line or message in line
    assert "s.csv: " in line


def test_features_that_are_texts_by_one_cell_are_refused_in_training(tmp_path, capsys):
    frame = pd.DataFrame({"x": ["1", "2", "abc", "4"] * 6, "shop": list("aabb") * 6, "y": range(24)})
    for values, message in (
        (["1", "2", "abc", "4"], "column 'x': expected numbers or texts, got both: 'abc' in row 2, and '1' in row 0"),
        (["1,5", "2,5", "3,5", "4"], "column 'x': expected numbers or texts, got both: '1,5' in row 0"),
        (
            ["1,5", "2,5", "3,5", "4,5"],
            "column 'x': expected numbers with a decimal point and no other marks, got '1,5'",
        ),
        (
            ["1,234", "2,500.5", "3,000", "4,000"],
            "column 'x': expected numbers with a decimal point and no other marks, got '1,2",
        ),
    ):
        frame.assign(x=values * 6).to_csv(tmp_path / "t.csv", index=False)
        task = ("train", tmp_path / "t.csv", "--output", tmp_path / "m", "--groups", "shop")
        assert f"t.csv: {message}" in refused(capsys, *task)
        with pytest.raises(ValueError, match="column 'x': expected numbers"):
            ebmeta.GroupSampler.from_frame(frame.assign(x=values * 6), "y", "shop")


def test_columns_that_number_the_rows_are_no_features(tmp_path, capsys):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=24), "shop": np.repeat(list("abcd"), 6), "y": rng.normal(size=24)})
    common = ["--groups", "shop", "--num-iterations", 1, "--device", "cpu", "--no-progress", "--num-steps", 0]
    numbers, names = range(24), [f"i{k}" for k in range(24)]
    for name, values in (
        ("", numbers),
        ("Unnamed: 0", numbers),
        ("rownames", range(1, 25)),
        ("index", numbers),
        ("id", names),
    ):
        numbered = frame.copy()
        numbered.insert(0, name, values)
        numbered.to_csv(tmp_path / "t.csv", index=False)
        assert run("train", tmp_path / "t.csv", "--output", tmp_path / "m", *common) == 0
        out = capsys.readouterr().out
        assert f"t.csv: label y; groups shop; features x; row ids {name or '(without a name)'}\n" in out
        assert ebmeta.load_encoder(tmp_path / "m").names == ["x"]
        with pytest.warns(UserWarning, match=f"frame: '{name}' numbers the rows and becomes no feature"):
            assert ebmeta.GroupSampler.from_frame(numbered, "y", "shop").feature_names == ["x"]
    assert run("train", tmp_path / "t.csv", "--output", tmp_path / "m", *common, "--exclude", "x") == 0
    assert "features none; row ids id; ignored x" in capsys.readouterr().out
    frame.assign(index=np.repeat([1.5, 2.5, 3.5], 8)).to_csv(tmp_path / "t.csv", index=False)
    assert run("train", tmp_path / "t.csv", "--output", tmp_path / "m", *common) == 0
    assert "features x, index\n" in capsys.readouterr().out  # it numbers nothing
    numbered.rename(columns={"id": ""}).assign(**{"": "a"}).to_csv(tmp_path / "t.csv", index=False)
    wanted = "t.csv: expected a name for every column, got none for one whose values do not number the rows"
    assert wanted in refused(capsys, "train", tmp_path / "t.csv", "--output", tmp_path / "m", *common)


@pytest.mark.filterwarnings("ignore:tasks. training or validation has used:UserWarning")  # the same file
def test_features_of_classes_can_be_chosen(classes, tmp_path, capsys):
    _, frame = classes
    noted = frame.assign(note="n", id=range(60))
    noted.to_csv(tmp_path / "t.csv", index=False)
    common = ["--n-way", 3, "--n-query", 5, "--num-iterations", 1, "--device", "cpu", "--no-progress"]
    train = ["train", tmp_path / "t.csv", "--output", tmp_path / "m", *common]
    assert "expected numbers in feature column 'note', got string values, such as 'n' in row 0" in refused(
        capsys, *train
    )
    for flags, names, ignored in (
        (["--exclude", "note"], ["a", "b", "c"], "note"),
        (["--exclude", "note,b"], ["a", "c"], "b, note"),
        (["--features", "c,a"], ["c", "a"], "b, note"),
    ):
        assert run(*train, *flags) == 0
        assert f"label y; features {', '.join(names)}; row ids id; ignored {ignored}\n" in capsys.readouterr().out
        assert ebmeta.load(tmp_path / "m").feature_names == names
    moved = {c: noted[c] + 1 for c in "abc"}
    renamed = noted.assign(y=["new " + v for v in noted["y"]], **moved)  # other classes
    renamed[["y", "b", "a", "c"]].to_csv(tmp_path / "v.csv", index=False)
    assert run(*train, "--exclude", "note,b", "--validation", tmp_path / "v.csv") == 0
    assert "v.csv: label y; features a, c; ignored b\n" in capsys.readouterr().out
    assert run(*train, "--features", "c,a") == 0
    evaluate = ["evaluate", tmp_path / "m", tmp_path / "t.csv", "--n-way", 2, "--n-query", 3, "--num-tasks", 2]
    wanted = "--exclude: expected no column of training, got 'a'"
    assert wanted in refused(capsys, *evaluate, "--exclude", "a")
    assert run(*evaluate, "--features", "c,a") == 0
    wanted = "--features: expected the columns of training, ['c', 'a'], got ['a', 'c']"
    assert wanted in refused(capsys, *evaluate, "--features", "a,c")
    assert "expected a column 'd'" in refused(capsys, *train, "--features", "a,d")
    assert "for --features" in refused(
        capsys, "train", tmp_path / "t.npz", "--output", tmp_path / "m", "--features", "a"
    )


def test_messages_name_the_file_and_the_flag(classes, sites, tmp_path, capsys):
    folder, frame = classes
    train = ["train", folder / "train.csv", "--output", tmp_path / "m", "--no-progress"]
    assert "train.csv: --n-way: expected at most 6 (the classes in y), got 9" in refused(
        capsys, *train, "--n-way", 9, "--n-query", 1
    )
    frame[frame["y"] < "04"].to_csv(tmp_path / "few.csv", index=False)
    wanted = "few.csv: --n-way: expected at most 3 (the classes in y), got 5"
    assert wanted in refused(capsys, *train, "--validation", tmp_path / "few.csv", "--n-query", 5)
    sites[1].to_csv(tmp_path / "sites.csv", index=False)
    forgotten = refused(capsys, "train", tmp_path / "sites.csv", "--output", tmp_path / "m", "--exclude", "site")
    assert "column 'y': expected class labels, got continuous numbers" in forgotten
    assert "name the column of the groups with --groups" in forgotten
    small = refused(
        capsys, "train", tmp_path / "sites.csv", "--output", tmp_path / "m", "--groups", "site", "--n-shot", 3
    )
    assert "--n-shot 0:3 takes groups of any size" in small
    for flag, value, wanted in (("--n-shot", "3:1", "--n-shot: expected 0 <= low"), ("--seed", -1, "--seed: expected")):
        task = ("train", tmp_path / "sites.csv", "--output", tmp_path / "m", "--groups", "site", flag, value)
        assert f"sites.csv: {wanted}" in refused(capsys, *task)
    absent = sites[2].drop(columns="z")
    absent.to_csv(tmp_path / "q.csv", index=False)
    task = (sites[0], tmp_path / "sites.csv", tmp_path / "q.csv", "--output", tmp_path / "o.csv")
    assert "q.csv: expected a column 'z', got site, x, y" in refused(capsys, "predict", *task)
    absent[:0].assign(z=0).to_csv(tmp_path / "q.csv", index=False)
    assert "q.csv: expected at least one row to predict, got none" in refused(capsys, "predict", *task)


def test_a_column_called_like_a_level_of_another():
    frame = pd.DataFrame({"kind": list("abab"), "kind_b": [1.0, 2.0, 3.0, 4.0], "shop": [1, 1, 2, 2], "y": range(4)})
    wanted = "distinct names, got 'kind_b' from column 'kind' and its level 'b' and from column 'kind_b'; rename"
    with pytest.raises(ValueError, match=wanted):
        ebmeta.GroupSampler.from_frame(frame, "y", "shop", n_support=1)
