"""Questions of a file: a table of columns whose names do not collide, shared among processes or not."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from builders import regressor
from commands import refused, run

import ebmeta
from ebmeta.app.questions import OfClasses
from ebmeta.app.tables import Roles
from ebmeta.scoring.frame import Scorer
from ebmeta.scoring.roles import Roles as Columns


def test_a_column_whose_name_is_taken_is_called_predicted():
    clf = ebmeta.FewShotClassifier().fit(np.eye(2), ["a", "b"])
    question = OfClasses(clf, np.eye(2), {"prediction": np.array([7, 8])}, Roles("y", None, ["0", "1"]), {})
    table = question.table(question.columns())
    assert list(table) == ["prediction", "predicted_prediction", "p_a", "p_b"]
    assert table["prediction"].tolist() == [7, 8]


@pytest.mark.parametrize("engine", ["joblib", "dask"])
def test_processes_predict_what_one_process_does_to_the_bit(files, tmp_path, monkeypatch, engine):
    monkeypatch.setattr("ebmeta.scoring.chunks.GROUPS", 6)
    call = ("predict", files / "groups", files / "schools.csv", files / "schools.csv", "--groups", "school")
    call += ("--label", "score", "--output")
    assert run(*call, tmp_path / "one.npz") == 0
    assert run(*call, tmp_path / "two.npz", "--engine", engine, "--workers", 2) == 0
    one, two = (dict(np.load(tmp_path / name)) for name in ("one.npz", "two.npz"))
    assert list(one) == list(two)
    assert all(np.array_equal(one[name], two[name]) for name in one)
    reg = ebmeta.FewShotRegressor(ebmeta.load(files / "groups"))
    frame = pd.read_csv(files / "schools.csv")
    reg.fit(frame[["x"]], frame["score"], groups=frame["school"])
    np.testing.assert_allclose(one["mean"], reg.predict(frame[["x"]], groups=frame["school"]), rtol=1e-5)


def test_what_cannot_be_shared_is_refused(files, tmp_path, capsys):
    groups = ("predict", files / "groups", files / "schools.csv", files / "schools.csv", "--label", "score")
    classes = ("predict", files / "model", files / "support.csv", files / "query.parquet")
    tree, table = tmp_path / "out.nc", tmp_path / "out.csv"
    for call, said in {
        (*groups, "--output", tree, "--engine", "joblib"): "--engine: expected a model of groups and a table for an",
        (*classes, "--output", table, "--engine", "joblib"): "for an output, got one of classes",
        (*groups, "--output", table, "--workers", 2): "--workers: expected 1 or more, beside --engine, got 2 and None",
        (
            *groups,
            "--output",
            table,
            "--engine",
            "dask",
            "--workers",
            0,
        ): "expected 1 or more, beside --engine, got 0",
    }.items():
        assert said in refused(capsys, *call)


@pytest.mark.filterwarnings("ignore:model")  # not trained
def test_ordered_categories_come_with_their_probabilities(tmp_path):
    model = regressor(2, likelihood="ordinal").float()
    ebmeta.save(model, tmp_path / "model")
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"x": rng.normal(size=12), "z": rng.normal(size=12), "y": np.tile([0, 1, 2], 4)})
    rows.assign(shop=["a", "b"] * 6).to_csv(tmp_path / "rows.csv", index=False)
    files = tmp_path / "model", tmp_path / "rows.csv", tmp_path / "rows.csv"
    assert run("predict", *files, "--groups", "shop", "--output", tmp_path / "out.csv") == 0
    table = pd.read_csv(tmp_path / "out.csv")
    assert list(table)[2:] == ["mean", "std", "q05", "q50", "q95", "p_0", "p_1", "p_2"]
    reg = ebmeta.FewShotRegressor(model).fit(rows[["x", "z"]], rows["y"], groups=["a", "b"] * 6)
    probs = reg.probabilities(rows[["x", "z"]], groups=["a", "b"] * 6)
    np.testing.assert_allclose(table[["p_0", "p_1", "p_2"]], probs, rtol=1e-4, atol=1e-9)
    blank = rows.assign(shop=["a", "b"] * 6, y=rows["y"].where(rows["x"] > 0))
    scored = Scorer(model, None, Columns("y", "shop", (), None)).columns(blank, blank["shop"].tolist())
    seen = blank["y"].notna().to_numpy()
    reg.fit(rows[["x", "z"]][seen], rows["y"][seen], groups=blank["shop"][seen])
    some = reg.probabilities(rows[["x", "z"]][~seen], groups=blank["shop"][~seen])
    np.testing.assert_allclose(np.stack([scored[f"p_{c}"] for c in range(3)], 1), some, rtol=1e-6)


@pytest.mark.parametrize("named", [False, True])
def test_a_tree_counts_labelled_rows_and_copies_as_a_table_does(named):
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    X = rng.normal(size=(2, 6))[y] + rng.normal(size=(40, 6))
    rows = np.concatenate([X[5:9], X, X[20:30]])  # four are labelled, and given twice; ten of the others, too
    names = list("pqrstu")
    known, new = (pd.DataFrame(v, columns=names) if named else v for v in (X[:9], rows))
    clf = ebmeta.FewShotClassifier().fit(known, y[:9])
    question = OfClasses(clf, new, {}, Roles(names), {})
    tree, table = question.tree(), question.columns()
    probs = tree["predictive/probs"].isel(step=-1, task=0)
    np.testing.assert_allclose(probs, np.stack([table["p_0"], table["p_1"]], 1), atol=1e-6)
    assert tree["predictive/row"].values.tolist() == [list(range(54))]
    assert tree["predictive/probs"].dims == ("step", "task", "query", "way")
    assert tree["posterior_predictive/query_y"].dims == ("chain", "draw", "task", "query")
    draws = tree["posterior_predictive/query_y"].values[0, :, 0]
    np.testing.assert_array_equal(draws[:, 24:34], draws[:, 44:])  # a copy is the same row
    assert tree["constant_data/query_mask"].shape == (1, 54)
    pure = ebmeta.predict(clf.model_, clf.tasks(new.iloc[13:44] if named else new[13:44]))
    np.testing.assert_array_equal(tree["posterior/w"], pure["posterior/w"])  # of the rows that are new, each once


def test_a_tree_of_labelled_rows_alone_has_them_all():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(6, 5))
    clf = ebmeta.FewShotClassifier().fit(X, list("ababab"))
    question = OfClasses(clf, X[[0, 3, 0]], {}, Roles(["X"]), {})
    tree, table = question.tree(), question.columns()
    np.testing.assert_allclose(tree["predictive/probs"].values[-1, 0, :, 0], table["p_a"], atol=1e-6)
