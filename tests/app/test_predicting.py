"""`ebmeta classify` is the classifier that ships with the package, on files."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from commands import refused, run

from ebmeta import FewShotClassifier
from ebmeta.app.classify_files import share


@pytest.fixture
def task(tmp_path):
    """Five labelled rows of three classes, and rows of these and of another one, in files."""
    rng = np.random.default_rng(0)
    means = 3 * rng.normal(size=(4, 6))
    X, y = (means[:, None] + rng.normal(size=(4, 20, 6))).reshape(-1, 6), np.repeat(["a", "b", "c", "d"], 20)
    frame = pd.DataFrame(X, columns=list("pqrstu")).assign(id=np.arange(100, 180), label=y)
    labelled = frame.iloc[[0, 1, 20, 21, 40]]
    rows = frame.drop(labelled.index)
    labelled.to_csv(tmp_path / "few.csv", index=False)
    rows.drop(columns="label").to_csv(tmp_path / "rows.csv", index=False)
    return tmp_path, labelled, rows


def test_rows_are_classified_without_a_model(task, capsys):
    folder, labelled, rows = task
    known = rows["label"] != "d"
    rows[known].to_csv(folder / "rows.csv", index=False)
    call = ("classify", folder / "few.csv", folder / "rows.csv", "--label", "label", "--output", folder / "out.csv")
    assert run(*call, "--concentration", "2", "--json", folder / "out.json") == 0
    table = pd.read_csv(folder / "out.csv")
    assert table.columns.tolist() == ["id", "prediction", "p_a", "p_b", "p_c"]
    assert table["id"].tolist() == rows["id"][known].tolist()
    assert (table["prediction"].to_numpy() == rows["label"][known].to_numpy()).mean() > 0.95
    features = list("pqrstu")
    clf = FewShotClassifier(concentration=2.0).fit(labelled[features].to_numpy(), labelled["label"])
    p = clf.predict_proba(rows[known][features].to_numpy())
    np.testing.assert_allclose(table[["p_a", "p_b", "p_c"]], p, atol=1e-5)
    assert f"55 rows of 3 classes, {share(p.max(1).mean())} probably right" in capsys.readouterr().out
    assert json.loads((folder / "out.json").read_text())["classes"] == ["a", "b", "c"]


def test_rows_of_other_classes_are_told(task):
    folder, _, rows = task
    call = ("classify", folder / "few.csv", folder / "rows.csv", "--label", "label", "--output", folder / "out.parquet")
    assert run(*call, "--outliers") == 0
    table = pd.read_parquet(folder / "out.parquet")
    other = rows["label"].to_numpy() == "d"
    assert table["outlier"][other].mean() > table["outlier"][~other].mean() + 0.4


def test_files_that_do_not_fit_are_refused_in_a_line(task, capsys):
    folder, _, rows = task
    rows[["id", "p", "q"]].to_csv(folder / "short.csv", index=False)
    call = ("classify", folder / "few.csv", folder / "short.csv", "--label", "label", "--output", folder / "out.csv")
    said = "short.csv: expected the features of {}, 6 columns, got none called 'r' (and 3 more)"
    assert said.format(folder / "few.csv") in refused(capsys, *call)
    rows.rename(columns={"p": "one", "r": "other"}).to_csv(folder / "short.csv", index=False)
    assert "6 columns, got 'one' too (and 1 more)" in refused(capsys, *call)
    assert not (folder / "out.csv").exists()
