"""Predictions of files: those of the estimators, found by name and id, with nothing lost."""

import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from commands import refused, run

import ebmeta
from tests.app.test_sources import predicted


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
        frame.assign(x=frame["x"] + 1).to_csv(tmp_path / f"{name}.csv", index=False)
        task = ("evaluate", tmp_path / "m", tmp_path / f"{name}.csv", "--groups", "site", "--n-shot", 1)
        assert run(*task, "--num-tasks", 5, "--json", tmp_path / f"{name}.json") == 0
        scores.append(json.loads((tmp_path / f"{name}.json").read_text())["nll"])
    assert scores[0] == scores[1]
    assert "features x, z; ignored note\n" in capsys.readouterr().out


def test_predict_writes_the_probabilities_of_the_estimator(files, tmp_path):
    support, query = pd.read_csv(files / "support.csv"), pd.read_parquet(files / "query.parquet")
    model = ebmeta.load(files / "model").double()  # in 32 bits a small spread makes the order of sums show
    folder = ebmeta.save(model, tmp_path / "model")
    clf = ebmeta.FewShotClassifier(model).fit(support.drop(columns="y").to_numpy(np.float32), support["y"])
    probs = clf.predict_proba(query.drop(columns="y").to_numpy(np.float32))
    names = [f"p_class {c:02d}" for c in range(8, 12)]
    for suffix in ("csv", "parquet", "npz", "nc"):
        out = tmp_path / f"out.{suffix}"
        task = (folder, files / "support.csv", files / "query.parquet")
        assert run("predict", *task, "--output", out, "--json", tmp_path / "out.json") == 0
        if suffix == "nc":
            with xr.open_datatree(out, engine="h5netcdf") as tree:
                got = tree["predictive/probs"].isel(step=-1, task=0).values
        elif suffix == "npz":
            with np.load(out) as table:
                got = np.stack([table[n] for n in names], 1)
        else:
            table = pd.read_csv(out) if suffix == "csv" else pd.read_parquet(out)
            assert (table["prediction"] == clf.classes_[probs.argmax(1)]).all()
            got = table[names].to_numpy()
        np.testing.assert_allclose(got, probs, atol=1e-6)
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["classes"] == [n.removeprefix("p_") for n in names]
    assert written["mean_confidence"] == pytest.approx(probs.max(1).mean(), abs=1e-5)


def test_predict_for_a_group(files, tmp_path):
    frame = pd.read_csv(files / "schools.csv").query("school == 3")
    frame[:3].to_csv(tmp_path / "s.csv", index=False)
    frame[3:].drop(columns="score").to_csv(tmp_path / "q.csv", index=False)
    task = (files / "groups", tmp_path / "s.csv", tmp_path / "q.csv")
    named = ["--label", "score", "--groups", "school"]
    assert run("predict", *task, *named, "--output", tmp_path / "o.csv") == 0
    reg = ebmeta.FewShotRegressor(ebmeta.load(files / "groups")).fit(frame[["x"]][:3], frame["score"][:3])
    mean, std = reg.predict(frame[["x"]][3:], return_std=True)
    table = pd.read_csv(tmp_path / "o.csv")
    np.testing.assert_allclose(table["mean"], mean, rtol=1e-5)
    np.testing.assert_allclose(table["q95"], mean + 1.6448536 * std, rtol=1e-5)


def test_predict_without_labels_or_without_a_group_column(shops, tmp_path):
    new = pd.read_parquet(shops / "new.parquet")
    one = new[new["shop"] == new["shop"].iloc[0]]
    new[:0].to_csv(tmp_path / "none.csv", index=False)
    one.to_csv(tmp_path / "query.csv", index=False)
    model = shops / "model"
    assert run("predict", model, tmp_path / "none.csv", tmp_path / "query.csv", "--output", tmp_path / "a.csv") == 0
    for name in ("none", "query"):
        pd.read_csv(tmp_path / f"{name}.csv").drop(columns="shop").to_csv(tmp_path / f"{name}.csv", index=False)
    assert run("predict", model, tmp_path / "none.csv", tmp_path / "query.csv", "--output", tmp_path / "b.csv") == 0
    a, b = pd.read_csv(tmp_path / "a.csv"), pd.read_csv(tmp_path / "b.csv")
    assert list(b) == ["row", "mean", "std", "q05", "q50", "q95"]
    pd.testing.assert_frame_equal(a[list(b)], b)


def test_groups_that_numbers_cannot_tell_apart_are_refused_by_file_and_column(shops, tmp_path, capsys):
    new = pd.read_parquet(shops / "new.parquet")
    big = 10.0**17 + np.arange(len(new))
    call = ("predict", shops / "model", tmp_path / "s.parquet", tmp_path / "q.parquet", "--output", tmp_path / "o.csv")
    for name in ("s", "q"):
        new.to_parquet(tmp_path / "s.parquet")
        new.to_parquet(tmp_path / "q.parquet")
        new.assign(shop=big).to_parquet(tmp_path / f"{name}.parquet")
        said = refused(capsys, *call)
        assert f"{name}.parquet: column 'shop': expected names that are told apart, got the float 1000000000" in said


def test_a_csv_file_alone_is_told_what_stands_for_none(shops, tmp_path, capsys):
    new = pd.read_parquet(shops / "new.parquet")
    gone = new.assign(shop=new["shop"].astype(str).where(new.index != new.index[0]))
    new.to_csv(tmp_path / "q.csv", index=False)
    gone.to_csv(tmp_path / "s.csv", index=False)
    gone.to_parquet(tmp_path / "s.parquet", index=False)
    for name in ("s.csv", "s.parquet"):
        said = refused(
            capsys, "predict", shops / "model", tmp_path / name, tmp_path / "q.csv", "--output", tmp_path / "o.csv"
        )
        assert f"{name}: column 'shop': expected a value in every row, got none in row 0; fill the gaps" in said
        assert ("in a CSV file NA, None, null and nan stand for none" in said) == (name == "s.csv")


def test_one_group_and_many_are_counted(shops, tmp_path, capsys):
    new = pd.read_parquet(shops / "new.parquet")
    for frame, said in (
        (new, f" of {new['shop'].nunique()} groups, "),
        (new[:2], "predictions of 2 rows of 1 group, "),
    ):
        frame.to_csv(tmp_path / "q.csv", index=False)
        new.to_csv(tmp_path / "s.csv", index=False)
        call = ("predict", shops / "model", tmp_path / "s.csv", tmp_path / "q.csv", "--output", tmp_path / "o.csv")
        assert run(*call) == 0
        assert said in capsys.readouterr().out
