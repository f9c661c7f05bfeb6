"""Questions of a file: a table of columns whose names do not collide, shared among processes or not."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from commands import refused, run

import ebmeta
from ebmeta.app.questions import OfClasses
from ebmeta.app.tables import Roles


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
