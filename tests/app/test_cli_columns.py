"""Columns of files: found by name, ids as they are written, nothing shifted or lost, and what was used is said."""

import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import ebmeta
from ebmeta.app.cli import main
from ebmeta.tasks.frame_files import as_ids, read_frame, row_ids


def run(*arguments) -> int:
    return main([str(a) for a in arguments])


def refused(capsys, *arguments) -> str:
    """Run and return the one line of the error."""
    capsys.readouterr()
    assert run(*arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("ebmeta: error: ")
    assert err.count("\n") == 1
    return err


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    """Forty sites with ids such as 031 that differ in their level, and a model of thirty of them."""
    folder = tmp_path_factory.mktemp("sites")
    rng = np.random.default_rng(3)
    g = np.repeat(np.arange(40), 6)
    frame = pd.DataFrame({"site": [f"{k + 1:03d}" for k in g], "x": rng.normal(size=240), "z": rng.normal(size=240)})
    frame["y"] = 1 + 3 * rng.normal(size=40)[g] + frame["x"] - 2 * frame["z"] + 0.3 * rng.normal(size=240)
    tasks = ebmeta.GroupSampler.from_frame(frame[:180], y="y", groups="site", n_support=3)
    model = ebmeta.EmpiricalBayes.regressor(2, num_steps=0)
    ebmeta.fit_evidence(model, tasks, boundary=False)
    ebmeta.save(model, folder / "model", encoder=tasks.encoder)
    known = frame[180:].groupby("site").head(3)
    return folder / "model", known, frame[180:].drop(known.index)


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """Six classes of named columns, and a model of them."""
    folder = tmp_path_factory.mktemp("classes")
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(6), 10)
    frame = pd.DataFrame(2 * rng.normal(size=(6, 3))[y] + rng.normal(size=(60, 3)), columns=["a", "b", "c"])
    frame["y"] = np.array(["01", "02", "03", "04", "05", "06"])[y]
    frame.to_csv(folder / "train.csv", index=False)
    common = ["--n-way", 3, "--n-query", 5, "--num-iterations", 3, "--device", "cpu", "--no-progress"]
    assert run("train", folder / "train.csv", "--output", folder / "model", *common) == 0
    return folder, frame


def predicted(sites, tmp_path, known, query, *flags, suffix="csv"):
    """Write both files, predict, and return the table."""
    paths = []
    for name, rows in (("known", known), ("query", query)):
        paths.append(tmp_path / f"{name}.{suffix}")
        rows.to_csv(paths[-1], index=False) if suffix == "csv" else rows.to_parquet(paths[-1])
    assert run("predict", sites, *paths, "--output", tmp_path / "out.csv", "--overwrite", *flags) == 0
    return pd.read_csv(tmp_path / "out.csv", dtype={"site": str})


def error(table, query):
    return float(np.sqrt(np.mean((table["mean"][: len(query)].to_numpy() - query["y"].to_numpy()) ** 2)))


def test_ids_are_compared_as_they_are_written(sites, tmp_path):
    """Noise of .3 and three labels per site: an error near .3; from the prior alone it would be near 3."""
    model, known, query = sites
    expected = predicted(model, tmp_path, known, query)
    assert expected["site"].tolist() == query["site"].tolist()  # leading zeros and all
    assert error(expected, query) < 0.5
    stranger = pd.DataFrame({"site": ["A01"], "x": [0.0], "z": [0.0], "y": [0.0]})
    more = predicted(model, tmp_path, known, pd.concat([query, stranger]))
    np.testing.assert_array_equal(more["mean"][:-1], expected["mean"])
    assert more["site"].iloc[-1] == "A01"
    numbered = [frame.assign(site=frame["site"].astype(int)) for frame in (known, query)]
    floats = numbered[1].assign(site=numbered[1]["site"].astype(float))
    for first, second, suffix in (
        (numbered[0], numbered[1], "csv"),
        (numbered[0], floats, "csv"),  # a column that had gaps elsewhere: 31.0
        (numbered[0], floats, "parquet"),
        (numbered[0], numbered[1].astype({"site": str}), "parquet"),
    ):
        np.testing.assert_allclose(predicted(model, tmp_path, first, second, suffix=suffix)["mean"], expected["mean"])


def test_no_group_found_is_said(sites, tmp_path, capsys):
    model, known, query = sites
    predicted(model, tmp_path, known, query)
    out, err = capsys.readouterr()
    assert "30 rows of 10 groups, 10 of them with labelled rows" in out
    assert err == ""
    other = query.assign(site=query["site"].astype(int))  # 31 is not 031
    predicted(model, tmp_path, known, other, "--json", tmp_path / "out.json")
    out, err = capsys.readouterr()
    assert "30 rows of 10 groups, 0 of them with labelled rows" in out
    assert err.startswith("ebmeta: warning: no group of ")
    assert json.loads((tmp_path / "out.json").read_text())["groups_with_labels"] == 0


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


def test_labels_of_classes_come_back_as_they_were_written(classes, tmp_path):
    folder, frame = classes
    support = frame.groupby("y").head(2)
    got = predicted(folder / "model", tmp_path, support, frame.drop(support.index).drop(columns="y"))
    assert got.columns.tolist() == ["row", "prediction", *(f"p_0{c}" for c in range(1, 7))]
    table = pd.read_csv(tmp_path / "out.csv", dtype={"prediction": str})
    assert set(table["prediction"]) <= set(frame["y"])
    assert table["row"].tolist() == list(range(len(table)))


def test_what_is_known_of_class_proportions_is_told(classes, sites, tmp_path, capsys):
    folder, frame = classes
    support = frame.groupby("y").head(2)
    rows = frame.drop(support.index).drop(columns="y")
    table = predicted(folder / "model", tmp_path, support, rows, "--concentration", "inf")
    model = ebmeta.load(folder / "model")
    clf = ebmeta.FewShotClassifier(model, concentration=np.inf).fit(support[["a", "b", "c"]], support["y"])
    np.testing.assert_allclose(table["p_02"], clf.predict_proba(rows)[:, 1], atol=1e-6)
    task = (sites[0], tmp_path / "known.csv", tmp_path / "query.csv", "--output", tmp_path / "o.csv")
    assert "--concentration: expected a model of classes" in refused(capsys, "predict", *task, "--concentration", 1)
    assert "--groups: expected a model of groups" in refused(
        capsys, "predict", folder / "model", *task[1:], "--groups", "a"
    )


def test_rows_keep_their_ids(sites, tmp_path, capsys):
    model, known, query = sites
    named = query.assign(id=[f"r{i}" for i in range(len(query))]).sample(frac=1, random_state=0)
    table = predicted(model, tmp_path, known, named)
    assert table.columns.tolist() == ["id", "site", "mean", "std", "q05", "q50", "q95"]
    assert table["id"].tolist() == named["id"].tolist()
    plain = predicted(model, tmp_path, known, query)
    assert plain["row"].tolist() == list(range(len(query)))
    order = [int(i[1:]) for i in table["id"]]
    np.testing.assert_allclose(table["mean"], plain["mean"].to_numpy()[order])
    query.to_csv(tmp_path / "indexed.csv")  # pandas writes a first column without a name
    task = (model, tmp_path / "known.csv", tmp_path / "indexed.csv")
    assert run("predict", *task, "--output", tmp_path / "p.parquet") == 0
    assert pd.read_parquet(tmp_path / "p.parquet")["row"].tolist() == query.index.tolist()
    query.set_index("site").to_parquet(tmp_path / "index.parquet")
    assert run("predict", *task[:2], tmp_path / "index.parquet", "--output", tmp_path / "p.npz") == 0
    with np.load(tmp_path / "p.npz") as file:
        assert file["site"].tolist() == query["site"].tolist()
        np.testing.assert_allclose(file["mean"], plain["mean"])
    shuffled = query.sample(frac=1, random_state=1)
    shuffled.to_csv(tmp_path / "shuffled.csv", index=False)
    assert run("predict", *task[:2], tmp_path / "shuffled.csv", "--output", tmp_path / "p.nc") == 0
    with xr.open_datatree(tmp_path / "p.nc", engine="h5netcdf") as tree:
        part = tree["predictive"].to_dataset().isel(step=-1)
        row, mean = part["row"].values, part["mean"].transpose("task", "query").values
    again = plain["mean"].to_numpy()[[query.index.get_loc(i) for i in shuffled.index]]
    np.testing.assert_allclose(mean[row >= 0], again[row[row >= 0]], rtol=1e-5)


@pytest.mark.parametrize("name", ["mean", "std", "q05", "row", "file", "predicted_mean"])
def test_no_column_of_the_output_vanishes(sites, tmp_path, name):
    """A column of groups may be called like a prediction: both are there, the prediction under a name of its own."""
    model, known, query = sites
    tasks = ebmeta.GroupSampler.from_frame(known.rename(columns={"site": name}), y="y", groups=name, n_support=1)
    ebmeta.save(ebmeta.load(model), tmp_path / "m", encoder=tasks.encoder)
    files = []
    for label, rows in (("s", known), ("q", query)):
        files.append(tmp_path / f"{label}.csv")
        rows.rename(columns={"site": name}).to_csv(files[-1], index=False)
    expected = predicted(model, tmp_path, known, query)
    assert run("predict", tmp_path / "m", *files, "--output", tmp_path / "p.npz") == 0
    numbers = ["mean", "std", "q05", "q50", "q95"]
    with np.load(tmp_path / "p.npz") as table:
        assert table[name].tolist() == query["site"].tolist()
        assert len(table.files) == 7
        for column in numbers:
            called = f"predicted_{column}" if column == name else column
            np.testing.assert_allclose(table[called], expected[column])


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


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path):
    (tmp_path / "rows.csv").write_bytes(b"\xef\xbb\xbfa,y\n1,u\n")
    assert read_frame(tmp_path / "rows.csv").columns.tolist() == ["a", "y"]


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


def test_a_model_of_named_columns_without_an_encoder_knows_them(sites, tmp_path, capsys):
    """Trained in Python on a frame of features: files of other orders and more columns do for it too."""
    _, known, query = sites
    model = ebmeta.EmpiricalBayes.regressor(2, num_steps=0)
    tasks = ebmeta.GroupSampler(known[["x", "z"]], known["y"], known["site"], n_support=1)
    ebmeta.fit_evidence(model, tasks, hyperprior=True, boundary=False)
    ebmeta.save(model, tmp_path / "m")
    support, rows = known[["z", "site", "y", "x"]], query[["z", "x", "site"]]
    table = predicted(tmp_path / "m", tmp_path, support, rows, "--groups", "site")
    reg = ebmeta.FewShotRegressor(model).fit(known[["x", "z"]], known["y"], groups=known["site"])
    np.testing.assert_allclose(table["mean"], reg.predict(query[["x", "z"]], groups=query["site"]), rtol=1e-5)
    scores = []
    for name, frame in (("a", known), ("b", support.assign(note=1.0))):
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
        task = ("evaluate", tmp_path / "m", tmp_path / f"{name}.csv", "--groups", "site", "--n-shot", 1)
        assert run(*task, "--num-tasks", 5, "--json", tmp_path / f"{name}.json") == 0
        scores.append(json.loads((tmp_path / f"{name}.json").read_text())["nll"])
    assert scores[0] == scores[1]
    assert "features x, z; ignored note\n" in capsys.readouterr().out


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
    assert "q.csv: frame: expected a column 'z', got site, x, y" in refused(capsys, "predict", *task)
    absent[:0].assign(z=0).to_csv(tmp_path / "q.csv", index=False)
    assert "q.csv: expected at least one row to predict, got none" in refused(capsys, "predict", *task)


def test_a_column_called_like_a_level_of_another():
    frame = pd.DataFrame({"kind": list("abab"), "kind_b": [1.0, 2.0, 3.0, 4.0], "shop": [1, 1, 2, 2], "y": range(4)})
    wanted = "distinct names, got 'kind_b' from column 'kind' and its level 'b' and from column 'kind_b'; rename"
    with pytest.raises(ValueError, match=wanted):
        ebmeta.GroupSampler.from_frame(frame, "y", "shop", n_support=1)


def test_ids_and_row_numbers():
    assert as_ids(["031", "31.0", 31, 31.0, "1.10", "-2.00", True]) == ["031", "31", "31", "31", "1.10", "-2", "True"]
    frame = pd.DataFrame({"id": [1, 1], "Index": [0, 1], "rownames": ["b", "a"], "x": [0, 1]})
    assert row_ids(frame) == ["Index", "rownames"]
    assert row_ids(frame, ["Index"]) == ["rownames"]
