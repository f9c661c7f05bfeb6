"""`ebmeta mixed`: tables of files are those of the same frames, and what is wrong is one line."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from commands import refused, run

import ebmeta
from ebmeta import mixed_model
from ebmeta.foundation.writing import kind_of
from ebmeta.mixed.tables import PREDICTED
from tests.mixed.worlds import frame

FORMULA = "y ~ x + (1 + x | g)"


@pytest.fixture
def rows(tmp_path) -> pd.DataFrame:
    data = frame(num_groups=20).reset_index(drop=True)
    data["g"] = data["g"].str[1:]  # names such as 07, which are no numbers
    data.to_csv(tmp_path / "rows.csv", index=False)
    return data


def test_tables_are_those_of_the_frame(tmp_path, rows, capsys):
    new = rows[:4].assign(y=[np.nan, np.nan, 3.0, np.nan], g=["07", "new", "other", "other"])
    new.to_csv(tmp_path / "new.csv", index=False)
    out = tmp_path / "out"
    command = ["mixed", tmp_path / "rows.csv", FORMULA, "--output", out, "--predict", tmp_path / "new.csv"]
    options = ["--weights", "w", "--reml", "--coverage", "0.8", "--json", tmp_path / "result.json"]
    assert run(*command, *options) == 0
    fit = mixed_model(FORMULA, rows, weights="w", reml=True)
    output = capsys.readouterr().out
    assert fit.summary() in output
    fixed = pd.read_csv(out / "fixed_effects.csv", index_col="term")
    pd.testing.assert_frame_equal(fixed, fit.fixed_effects, rtol=1e-6)
    spreads = pd.read_csv(out / "variance_components.csv", index_col=["factor", "component"])
    pd.testing.assert_frame_equal(spreads, fit.variance_components, rtol=1e-4)
    groups = pd.read_csv(out / "group_effects.csv", dtype={"group": str}, index_col=["factor", "group", "term"])
    pd.testing.assert_frame_equal(groups, fit.group_effects, rtol=1e-6)
    found = pd.read_csv(out / "predictions.csv", dtype={"g": str})
    assert found["g"].tolist() == ["07", "new", "other", "other"]
    np.testing.assert_allclose(found[list(PREDICTED)], fit.predict(new, 0.8), rtol=1e-6)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["log_likelihood"] == pytest.approx(fit.log_likelihood)
    assert result["fixed_effects"][1]["estimate"] == pytest.approx(fit.fixed_effects.loc["x", "estimate"])
    new.drop(columns="w").to_csv(tmp_path / "new.csv", index=False)  # a row then has weight 1
    assert run(*command, *options, "--overwrite") == 0
    found = pd.read_csv(out / "predictions.csv", dtype={"g": str})
    np.testing.assert_allclose(found[list(PREDICTED)], fit.predict(new.assign(w=1.0), 0.8), rtol=1e-6)
    rest = pd.read_csv(out / "residuals.csv", index_col="row")
    pd.testing.assert_frame_equal(rest, fit.residuals, rtol=1e-6, check_names=False)
    kinds = {path.name: kind_of(path) for path in out.iterdir() if path.is_file()}
    tables = ("fixed_effects", "variance_components", "group_effects", "residuals", "predictions")
    pictures = ("effects", "lines", "fitted", "residuals")
    wanted = {f"{name}.csv": "table" for name in tables} | {f"{name}.png": "picture" for name in pictures}
    assert kinds == wanted | {"page.html": "page"}
    assert "page.html, fixed_effects.csv" in output.splitlines()[-2]
    assert output.endswith("predictions.csv: predictions of 4 rows with 80% intervals\n")
    saved = ebmeta.load(out / "model")
    np.testing.assert_allclose(saved.predict(new, 0.8), fit.predict(new, 0.8), rtol=1e-6)
    assert run(*command, *options) == 0  # its own tables are replaced


def test_known_noise_is_a_column(tmp_path, rows, capsys):
    rows.assign(se=0.2 + 0.1 * rows["w"]).to_csv(tmp_path / "rows.csv", index=False)
    new = rows[:2].assign(g=["07", "new"], se=[0.5, 0.1]).drop(columns="y")
    new.to_csv(tmp_path / "new.csv", index=False)
    command = ["mixed", tmp_path / "rows.csv", FORMULA, "--known-noise", "se", "--output", tmp_path / "out"]
    assert run(*command, "--predict", tmp_path / "new.csv") == 0
    fit = mixed_model(FORMULA, rows.assign(se=0.2 + 0.1 * rows["w"]), known_noise="se")
    found = pd.read_csv(tmp_path / "out" / "predictions.csv", dtype={"g": str})
    np.testing.assert_allclose(found[list(PREDICTED)], fit.predict(new), rtol=1e-5)
    assert "normal of known noise" in capsys.readouterr().out
    output = tmp_path / "again.csv"
    assert run("predict", tmp_path / "out" / "model", tmp_path / "new.csv", "--output", output) == 0
    np.testing.assert_allclose(pd.read_csv(output)[list(PREDICTED)], fit.predict(new), rtol=1e-5)


def test_a_folder_holds_the_files_of_the_last_run_alone(tmp_path, rows):
    out, path = tmp_path / "out", tmp_path / "rows.csv"
    assert run("mixed", path, FORMULA, "--output", out, "--predict", path) == 0
    first = {file.name for file in out.iterdir()}
    (out / "notes.csv").write_text("mine\n")
    assert run("mixed", path, "y ~ 1 + (1 | g)", "--output", out) == 0  # without rows to predict or a column for lines
    assert first - {file.name for file in out.iterdir()} == {"predictions.csv", "lines.png"}
    assert (out / "notes.csv").read_text() == "mine\n"
    (out / "predictions.csv").write_text("mine\n")
    assert run("mixed", path, "y ~ 1 + (1 | g)", "--output", out, "--overwrite") == 0
    assert (out / "predictions.csv").read_text() == "mine\n"


def test_propagated_tables_are_wider(tmp_path, rows):
    assert run("mixed", tmp_path / "rows.csv", FORMULA, "--output", tmp_path / "a") == 0
    assert run("mixed", tmp_path / "rows.csv", FORMULA, "--output", tmp_path / "b", "--propagate") == 0
    few, wide = (pd.read_csv(tmp_path / part / "group_effects.csv") for part in "ab")
    assert (wide["sd"] > few["sd"]).mean() > 0.9


def test_tables_of_ordered_categories_are_replaced_too(tmp_path, rows):
    rows.assign(y=pd.qcut(rows["y"], 3, labels=False)).to_csv(tmp_path / "rows.csv", index=False)
    options = ["--likelihood", "ordinal", "--output", tmp_path / "out", "--predict", tmp_path / "rows.csv"]
    for _ in range(2):
        assert run("mixed", tmp_path / "rows.csv", "y ~ w + (1 | g)", *options) == 0
    found = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert list(found)[-3:] == ["p(0)", "p(1)", "p(2)"]
    assert kind_of(tmp_path / "out" / "predictions.csv") == "table"


def test_what_is_wrong_is_one_line(tmp_path, rows, capsys):
    path, out = tmp_path / "rows.csv", ["--output", tmp_path / "out"]
    assert "expected names of columns, got 'z'" in refused(capsys, "mixed", path, "y ~ z + (1 | g)", *out)
    assert "formula: expected terms of groups" in refused(capsys, "mixed", path, "y ~ x", *out)
    assert "likelihood: expected one of" in refused(capsys, "mixed", path, FORMULA, *out, "--likelihood", "gumbel")
    sure = ("mixed", path, "y ~ z + (1 | g)", *out, "--predict", path, "--coverage", "95")  # before the formula is read
    assert "error: --coverage: expected a number between 0 and 1, got 95.0" in refused(capsys, *sure)
    said = "--coverage: expected --predict with it, got 0.5 alone (the intervals of the tables are of 95%)"
    assert said in refused(capsys, "mixed", path, FORMULA, *out, "--coverage", "0.5")
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "fixed_effects.csv").write_text("my,own\n1,2\n")
    assert "fixed_effects.csv" in refused(capsys, "mixed", path, FORMULA, *out)
    assert run("mixed", path, FORMULA, *out, "--overwrite") == 0


def test_a_saved_fit_predicts_the_rows_of_a_file(tmp_path, rows, capsys):
    new = rows[:4].assign(y=[np.nan, np.nan, 3.0, np.nan], g=["07", "new", "other", "other"])
    new.to_csv(tmp_path / "new.csv", index=False)
    fit = mixed_model(FORMULA, rows, weights="w")
    fit.save(tmp_path / "model")
    command = ["predict", tmp_path / "model", tmp_path / "new.csv", "--output", tmp_path / "p.csv"]
    assert run(*command, "--json", tmp_path / "p.json") == 0
    assert f"predictions of 4 rows with 90% intervals, by {FORMULA}" in capsys.readouterr().out
    found = pd.read_csv(tmp_path / "p.csv", dtype={"g": str})
    assert found["g"].tolist() == ["07", "new", "other", "other"]
    np.testing.assert_allclose(found[list(PREDICTED)], fit.predict(new, 0.9), rtol=1e-6)
    assert json.loads((tmp_path / "p.json").read_text())["coverage"] == 0.9
    new.assign(x=[np.nan, *new["x"][1:]]).to_csv(tmp_path / "new.csv", index=False)
    assert run(*command, "--coverage", "0.5") == 0
    said = "predictions of 4 rows with 50% intervals, 1 of them empty, as it lacks a value of a term, by"
    assert said in capsys.readouterr().out
    found = pd.read_csv(tmp_path / "p.csv")
    assert found["mean"].isna().tolist() == [True, False, False, False]
    np.testing.assert_allclose(found["upper"][1:], fit.predict(new, 0.5)["upper"][1:], rtol=1e-6)
    assert "QUERY: expected none for a mixed model" in refused(capsys, *command, "--query", tmp_path / "new.csv")
    assert "--groups: expected none for a mixed model" in refused(capsys, *command, "--groups", "g")
    new.drop(columns="x").to_csv(tmp_path / "new.csv", index=False)
    assert "new.csv: expected a column 'x'" in refused(capsys, *command)


def test_new_rows_that_lack_a_column_are_refused_before_the_fit(tmp_path, rows, capsys, monkeypatch):
    monkeypatch.setattr("ebmeta.mixed.fit.mixed_model", lambda *_, **__: pytest.fail("fitted"))
    rows.drop(columns="x").to_csv(tmp_path / "new.csv", index=False)
    call = ("mixed", tmp_path / "rows.csv", FORMULA, "--output", tmp_path / "out", "--predict", tmp_path / "new.csv")
    assert "new.csv: expected a column 'x', which the formula names, got " in refused(capsys, *call)
    rows.drop(columns="w").to_csv(tmp_path / "new.csv", index=False)
    said = refused(capsys, *call, "--known-noise", "w")
    assert "new.csv: expected a column 'w', which --known-noise names, got " in said


@pytest.mark.parametrize("word", ["NA", "None", "null"])
def test_names_that_stand_for_none_are_told_of(tmp_path, rows, capsys, word):
    named = rows.assign(g=[f"site {v}" if v != rows["g"].iloc[0] else word for v in rows["g"]])
    number = int((named["g"] == word).sum())
    named.to_csv(tmp_path / "words.csv", index=False)
    call = ("mixed", tmp_path / "words.csv", FORMULA, "--output", tmp_path / "out", "--predict", tmp_path / "words.csv")
    assert run(*call) == 0
    out = capsys.readouterr().out
    said = f"words.csv: column 'g': {word!r} counts as no value, and {number} rows as incomplete; where it is a name"
    assert out.count(said) == 2  # in the fit, and in the new rows
    named.assign(g=named["g"].replace(word, "")).to_csv(tmp_path / "words.csv", index=False)
    assert run(*call) == 0
    assert "counts as no value" not in capsys.readouterr().out


def test_groups_that_are_numbers_stay_numbers(tmp_path, rows):
    fit = mixed_model(FORMULA, rows.assign(g=rows["g"].astype(int)))
    fit.save(tmp_path / "model")
    new = rows[:3].assign(g=[7, 99, 3])
    new.to_csv(tmp_path / "new.csv", index=False)
    assert run("predict", tmp_path / "model", tmp_path / "new.csv", "--output", tmp_path / "p.csv") == 0
    found = pd.read_csv(tmp_path / "p.csv")
    np.testing.assert_allclose(found[list(PREDICTED)], fit.predict(new), rtol=1e-6)


@pytest.mark.filterwarnings("default")
def test_groups_of_two_files_are_compared_as_their_texts(tmp_path, rows, capsys):
    names = rows["g"].astype(int)
    rows.assign(g=names.astype(float)).to_csv(tmp_path / "rows.csv", index=False)  # 7.0, which is 7 and not 07
    wanted = mixed_model(FORMULA, rows.assign(g=names)).predict(rows.assign(g=names))["mean"]
    command = ["mixed", tmp_path / "rows.csv", FORMULA, "--output", tmp_path / "out", "--predict", tmp_path / "new.csv"]
    rows.assign(g=names).to_csv(tmp_path / "new.csv", index=False)
    assert run(*command) == 0
    assert "warning" not in capsys.readouterr().err
    found = pd.read_csv(tmp_path / "out" / "predictions.csv")
    np.testing.assert_allclose(found["mean"], wanted, rtol=1e-6)
    rows.assign(g=names.map("{:03d}".format)).to_csv(tmp_path / "new.csv", index=False)
    saved = ["predict", tmp_path / "out" / "model", tmp_path / "new.csv", "--output", tmp_path / "p.csv"]
    assert run(*saved) == 0
    assert "no 'g' of" in capsys.readouterr().err
    first = names.astype(str).where(names.index != names.index[0], names.map("{:03d}".format))
    rows.assign(g=first).to_csv(tmp_path / "some.csv", index=False)
    assert run(*saved[:2], tmp_path / "some.csv", "--output", tmp_path / "q.csv") == 0
    told = capsys.readouterr().err
    assert f"some.csv: column 'g': '{first.iloc[0]}' counts as new, and differs from '{names.iloc[0]}' of the" in told
    assert pd.read_csv(tmp_path / "p.csv", dtype=str)["g"].tolist() == names.map("{:03d}".format).tolist()


def test_a_column_of_groups_that_is_a_term_too_keeps_its_numbers(tmp_path, rows):
    rows = rows.assign(g=rows["g"].astype(int))
    rows.to_csv(tmp_path / "rows.csv", index=False)
    command = ["mixed", tmp_path / "rows.csv", "y ~ g + (1 | g)", "--output", tmp_path / "out"]
    assert run(*command, "--predict", tmp_path / "rows.csv") == 0
    fit = mixed_model("y ~ g + (1 | g)", rows)
    found = pd.read_csv(tmp_path / "out" / "fixed_effects.csv", index_col="term")
    pd.testing.assert_frame_equal(found, fit.fixed_effects, rtol=1e-5)
    means = pd.read_csv(tmp_path / "out" / "predictions.csv")["mean"]
    np.testing.assert_allclose(means, fit.predict(rows)["mean"], rtol=1e-5)


def test_groups_named_as_a_prediction_stay(tmp_path, rows):
    rows = rows.rename(columns={"g": "mean"})
    fit = mixed_model("y ~ x + (1 | mean)", rows)
    fit.save(tmp_path / "model")
    rows.to_csv(tmp_path / "new.csv", index=False)
    assert run("predict", tmp_path / "model", tmp_path / "new.csv", "--output", tmp_path / "p.csv") == 0
    found = pd.read_csv(tmp_path / "p.csv", dtype={"mean": str})
    assert found["mean"].tolist() == rows["mean"].tolist()
    np.testing.assert_allclose(found["predicted_mean"], fit.predict(rows)["mean"], rtol=1e-6)


def test_the_order_of_labels_that_are_texts_is_told(tmp_path, rows, capsys):
    names = ["low", "mid", "high"]
    grade = pd.cut(rows["y"], [-np.inf, *rows["y"].quantile([0.3, 0.7]), np.inf], labels=names)
    rows = rows.assign(grade=grade, x=rows["x"] - 2000)
    rows.to_csv(tmp_path / "rows.csv", index=False)
    command = ["mixed", tmp_path / "rows.csv", "grade ~ x + (1 | g)", "--likelihood", "ordinal"]
    command += ["--output", tmp_path / "out"]
    assert "or --levels" in refused(capsys, *command)
    assert "--levels: expected all labels of 'grade' among low, mid, got 'high'" in refused(
        capsys, *command, "--levels", "low,mid"
    )
    assert run(*command, "--levels", "low,mid,high") == 0
    fit = mixed_model("grade ~ x + (1 | g)", rows, "ordinal")
    found = pd.read_csv(tmp_path / "out" / "fixed_effects.csv", index_col="term")
    pd.testing.assert_frame_equal(found, fit.fixed_effects, rtol=1e-5)
    assert "--levels: expected a column of texts" in refused(
        capsys, "mixed", tmp_path / "rows.csv", FORMULA, *command[-2:], "--levels", "1,2"
    )
