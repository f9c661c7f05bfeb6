"""The command line: the same numbers as the library, and one line with exit code 2 for every mistake."""

import importlib
import json
import subprocess
import sys
import tomllib
import typing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from commands import refused, run

import ebmeta
from ebmeta.app.cli import COMMANDS, app, main


def test_train_equals_the_library(files, tmp_path):
    out = tmp_path / "result.json"
    arguments = ["--n-query", 6, "--num-iterations", 30, "--seed", 4, "--num-steps", 2, "--no-progress"]
    assert run("train", files / "train.npz", "--output", tmp_path / "m", "--json", out, *arguments) == 0
    with np.load(files / "train.npz") as data:
        tasks = ebmeta.EpisodeSampler(data["X"], data["y"], n_query=6, seed=4)
    model = ebmeta.EmpiricalBayes.classifier(6, 2, seed=4)
    result = ebmeta.fit(model, tasks, 30, seed=4, progress=False)
    batch = tasks.sample(3, 99)
    saved = ebmeta.predict(ebmeta.load(tmp_path / "m"), batch)
    assert saved.identical(ebmeta.predict(model, batch))
    written = json.loads(out.read_text())
    assert written["best_iteration"] == result.best_iteration == 30
    expected = result.history["nll"].mean("iteration").values
    np.testing.assert_allclose(written["training_nll"], expected, atol=1e-5)


def test_a_model_of_groups_remembers_its_columns(shops, tmp_path):
    model, encoder = ebmeta.load(shops / "model"), ebmeta.load_encoder(shops / "model")
    assert (encoder.names, encoder.group_names) == (["kind_cake", "kind_tea", "price"], ["area_village"])
    train = pd.read_csv(shops / "train.csv")
    tasks = ebmeta.GroupSampler.from_frame(train, "sold", "shop", None, ["area"], "days", n_support=(0, 3))
    twin = ebmeta.EmpiricalBayes.regressor(3, "poisson", 0, num_covariates=1)
    ebmeta.fit(twin, tasks, 30, device="cpu", progress=False)
    for name, value in twin.state_dict().items():
        np.testing.assert_array_equal(model.state_dict()[name], value, err_msg=name)
    new = pd.read_parquet(shops / "new.parquet")
    seen = new["shop"].isin(["shop 26", "shop 28"]) & (new.groupby("shop").cumcount() < 2)
    support, query = new[seen], new[~seen].sample(frac=1, random_state=0).drop(columns="sold")
    support.to_csv(tmp_path / "support.csv", index=False)
    query[query.columns[::-1]].to_csv(tmp_path / "query.csv", index=False)
    task = (shops / "model", tmp_path / "support.csv", tmp_path / "query.csv")
    assert run("predict", *task, "--output", tmp_path / "out.csv", "--json", tmp_path / "out.json") == 0
    table = pd.read_csv(tmp_path / "out.csv")
    assert list(table) == ["row", "shop", "mean", "std", "q05", "q50", "q95"]
    assert (table["shop"].to_numpy() == query["shop"].to_numpy()).all()
    assert json.loads((tmp_path / "out.json").read_text())["groups"] == query["shop"].nunique()
    for shop, rows in query.groupby("shop"):
        own = support[support["shop"] == shop]
        reg = ebmeta.FewShotRegressor(model).fit(
            encoder.transform(own), own["sold"], size=own["days"], group_x=[float(rows["area"].iloc[0] == "village")]
        )
        mean, std = reg.predict(encoder.transform(rows), return_std=True, size=rows["days"])
        got = table[(table["shop"] == shop).to_numpy()]
        np.testing.assert_allclose(got[["mean", "std"]].to_numpy(), np.stack([mean, std], 1), rtol=1e-4)
        expected = reg.quantiles(encoder.transform(rows), (0.05, 0.5, 0.95), size=rows["days"])
        np.testing.assert_array_equal(got[["q05", "q50", "q95"]].to_numpy(), expected)
    assert run("predict", *task, "--output", tmp_path / "out.nc") == 0
    with xr.open_datatree(tmp_path / "out.nc", engine="h5netcdf") as tree:
        quantile = tree["predictive/quantile"]
        assert quantile["level"].values.tolist() == [0.05, 0.5, 0.95]
        first = query["shop"] == query["shop"].iloc[0]
        got = quantile.isel(task=0).values[:, : first.sum()].T
        np.testing.assert_array_equal(got, table[first.to_numpy()][["q05", "q50", "q95"]].to_numpy())


def test_evaluate_and_mistakes_of_a_model_of_groups(shops, tmp_path, capsys):
    model, new, out = shops / "model", shops / "new.parquet", tmp_path / "scores.json"
    assert run("evaluate", model, new, "--n-shot", "0:3", "--num-tasks", 20, "--json", out) == 0
    tasks = ebmeta.GroupSampler.from_frame(pd.read_parquet(new), encoder=ebmeta.load_encoder(model), n_support=(0, 3))
    expected = ebmeta.evaluate(ebmeta.load(model), tasks, 20)
    np.testing.assert_allclose(json.loads(out.read_text())["nll"], expected["nll"], atol=1e-6)
    frame = pd.read_parquet(new)
    frame.to_csv(tmp_path / "good.csv", index=False)
    for change, message in {
        ("kind", "pie"): "bad.csv: column 'kind': expected one of the categories of the training rows",
        ("price", None): "bad.csv: column 'price': expected values, got none in any row",
        ("sold", -1): "bad.csv: column 'sold': expected counts 0, 1, 2, ..., got -1 at row 0",
        ("days", 0): "bad.csv: column 'days': expected numbers above 0, got 0 at row 0",
        ("area", "city"): "column 'area': expected one of the categories",
    }.items():
        frame.assign(**{change[0]: change[1]}).to_csv(tmp_path / "bad.csv", index=False)
        task = (model, tmp_path / "bad.csv", tmp_path / "good.csv")
        assert message in refused(capsys, "predict", *task, "--output", tmp_path / "o.csv"), change


def test_evaluate_equals_the_library(files, tmp_path, capsys):
    out = tmp_path / "scores.json"
    arguments = ["--n-way", "2:4", "--n-query", 5, "--num-tasks", 70, "--json", out, "--plots", tmp_path / "plots"]
    assert run("evaluate", files / "model", files / "new.csv", *arguments) == 0
    frame = pd.read_csv(files / "new.csv")
    tasks = ebmeta.EpisodeSampler(frame.drop(columns="y").to_numpy(np.float32), frame["y"], (2, 4), 1, 5)
    expected = ebmeta.evaluate(ebmeta.load(files / "model"), tasks, 70)
    written = json.loads(out.read_text())
    for name in ("accuracy", "nll", "brier", "ece", "ece_half_width"):
        np.testing.assert_allclose(written[name], expected[name], atol=1e-6)
    assert f"{float(expected['nll'][-1]):.4f} ± {float(expected['nll_half_width'][-1]):.4f}" in capsys.readouterr().out
    for name in ("refinement", "reliability"):
        assert (tmp_path / "plots" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_evaluate_a_regressor(files, tmp_path):
    out, plots = tmp_path / "scores.json", tmp_path / "plots"
    classes = [files / "model", files / "new.csv", "--n-way", 2, "--n-query", 5]
    assert run("evaluate", *classes, "--num-tasks", 5, "--plots", plots) == 0
    schools = pd.read_csv(files / "schools.csv")
    schools.assign(x=schools["x"] + 1).to_csv(tmp_path / "new.csv", index=False)  # other ones than those of training
    data = [files / "groups", tmp_path / "new.csv", "--groups", "school", "--label", "score"]
    assert run("evaluate", *data, "--n-shot", 3, "--num-tasks", 20, "--json", out, "--plots", plots) == 0
    assert set(json.loads(out.read_text())) >= {"nll", "rmse", "coverage"}
    assert [path.name for path in plots.iterdir()] == ["refinement.png"]  # and no picture of the run before


def test_tasks_are_of_the_sizes_of_training_where_no_flag_says_others(files, tmp_path, capsys):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), 12)
    X = 3 * rng.normal(size=(6, 3))[labels] + rng.normal(size=(72, 3))
    for name, shift in (("train", 0.0), ("new", 1.0)):
        np.savez(tmp_path / f"{name}.npz", X=X + shift, y=labels)
    model, new, out = tmp_path / "model", tmp_path / "new.npz", tmp_path / "out.json"
    sizes = ["--n-way", "2:4", "--n-shot", 2, "--n-query", 9, "--imbalance", 2]
    options = ["--num-iterations", 2, "--device", "cpu", "--no-progress"]
    assert run("train", tmp_path / "train.npz", "--output", model, *sizes, *options) == 0
    capsys.readouterr()
    for flags, source, said in (
        ([], {"n_way": (2, 4), "n_shot": 2, "n_query": 9, "imbalance": 2.0}, ", as in training"),
        (
            ["--n-shot", 1],
            {"n_way": (2, 4), "n_shot": 1, "n_query": 9, "imbalance": 2.0},
            " (training had --n-way 2:4,",
        ),
        (["--n-query", 5], {"n_way": (2, 4), "n_shot": 2, "n_query": 5}, " (training had --n-way 2:4, --n-shot 2,"),
    ):
        assert run("evaluate", model, new, "--num-tasks", 20, "--json", out, *flags) == 0
        tasks = ebmeta.EpisodeSampler(X + 1, labels, **source)
        line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("tasks: "))
        assert line.startswith(f"tasks: {tasks.task_sizes()}{said}")
        written = json.loads(out.read_text())
        assert written["tasks"] == tasks.task_sizes().config()
        right = ebmeta.evaluate(ebmeta.load(model), tasks, 20)
        np.testing.assert_allclose(written["nll"], right["nll"].values, atol=1e-6)
    schools = pd.read_csv(files / "schools.csv")
    schools.assign(x=schools["x"] + 1).to_csv(tmp_path / "schools.csv", index=False)
    data = [files / "groups", tmp_path / "schools.csv", "--groups", "school", "--label", "score", "--json", out]
    assert run("evaluate", *data, "--num-tasks", 20) == 0
    assert json.loads(out.read_text())["tasks"] == {"n_way": None, "n_shot": [1, 3], "n_query": None, "imbalance": None}
    assert run("diagnose", *data, "--num-tasks", 20, "--output", tmp_path / "page.html", "--no-progress") == 0
    assert "tasks: --n-shot 1:3, as in training" in capsys.readouterr().out


def test_configuration_lies_under_the_flags(files, tmp_path, capsys):
    config, out = tmp_path / "run.toml", tmp_path / "out.json"
    config.write_text('[evaluate]\nnum-tasks = 7\nn-way = "2"\nn-query = 3\nseed = 5\n')
    task = ["evaluate", files / "model", files / "new.csv", "--json", out]
    assert run(*task, "--config", config, "--seed", 6) == 0
    written = json.loads(out.read_text())
    assert (written["num_tasks"], written["seed"]) == (7, 6)
    config.write_text("[evaluate]\nnum_taks = 7\n")
    assert "taks" in refused(capsys, *task, "--config", config)
    assert "expected a TOML file, found none" in refused(capsys, *task, "--config", tmp_path / "absent.toml")
    config.write_text("[evalute]\nseed = 1\n")
    assert "expected tables among demo, classify, mixed, train, predict, evaluate, diagnose, got evalute" in refused(
        capsys, *task, "--config", config
    )
    config.write_text("[evaluate\n")
    assert "ebmeta: error:" in refused(capsys, *task, "--config", config)


@pytest.mark.parametrize("value", ["1.5", "2.0", "1e3"])
def test_a_flag_that_counts_takes_whole_numbers_alone(value, capsys, tmp_path):
    given = {
        "demo": [tmp_path / "demo"],
        "classify": ["few.npz", "rows.npz", "--output", tmp_path / "table.csv"],
        "mixed": ["data.csv", "y ~ (1 | g)", "--output", tmp_path / "tables"],
        "train": ["data.npz", "--output", tmp_path / "model"],
        "predict": ["model", "support.npz", "query.npz", "--output", tmp_path / "table.csv"],
        "evaluate": ["model", "data.npz"],
        "diagnose": ["model", "data.npz"],
    }
    tried = 0
    for command in COMMANDS:
        hints = typing.get_type_hints(app[command].default_command)
        for name in [name for name, hint in hints.items() if hint in (int, int | None)]:
            flag = f"--{name.replace('_', '-')}"
            line = refused(capsys, command, *given[command], flag, value)
            assert line == f"ebmeta: error: {flag}: expected a whole number, got {value!r}\n"
            tried += 1
    assert tried == 16
    assert not list(tmp_path.iterdir())


def test_mistakes_are_one_line(files, tmp_path, capsys):
    train = ["train", files / "train.npz", "--output", tmp_path / "m", "--no-progress"]
    data = files / "new.csv"
    schools = ["train", files / "schools.csv", "--output", tmp_path / "m", "--groups", "school", "--label", "score"]
    cases = {
        ("train", tmp_path / "absent.csv", "--output", tmp_path / "m"): "absent.csv: expected a file, found none",
        (*train, "--n-query", 600): "expected at least n_shot + n_query = 601 rows of every class, got 30",
        (*train, "--n-way", "five"): "--n-way: expected a number or a range such as 2:10, got 'five'",
        (*train, "--groups", "y"): "expected labels and groups in two columns, got 'y' for both",
        (*train, "--groups", "g"): "expected arrays ['X', 'y', 'g']",
        (*train, "--groups", "g", "--size", "n"): "expected a file of named columns, .csv or .parquet",
        (*train, "--size", "n"): "--size: expected --groups beside it, got none",
        (*train, "--likelihood", "poisson"): "--likelihood: expected --groups beside it, got 'poisson' for classes",
        (*schools, "--profile", "16"): "--profile: expected 0 for numbers of groups, got 16",
        (*train, "--profile", "16"): "profile: expected at most as many groups as there are training classes, got 16",
        (*schools, "--likelihood", "cauchy"): "likelihood: expected one of ['normal'",
        (*schools, "--likelihood", "poisson"): "y: expected counts 0, 1, 2, ..., got",
        (*schools, "--size", "x"): "schools.csv: column 'x': expected finite numbers above 0, got",
        (*schools, "--features", "x,z"): "schools.csv: expected a column 'z', got x, score, school",
        (*schools, "--group-features", "x"): "schools.csv: group_features: expected one value of 'x' in all rows of a",
        (
            *schools,
            "--n-shot",
            8,
        ): "schools.csv: groups: expected at least n_support + 1 = 9 rows in every group, got 8",
        (*schools, "--validation", files / "schools.csv"): "validation: expected groups that training does not have",
        (*schools, "--n-way", 3): "--n-way: expected classes, got --groups school, whose labels are numbers",
        (*train, "--num-steps", -1): "--num-steps: expected at least 0, got -1",
        (*train, "--beta", -1): "beta: expected a finite number of at least 0, got -1.0",
        (*train, "--label", "z"): "expected arrays ['X', 'z']",
        (*train, "--device", "tpu"): "device: expected 'auto', 'cpu' or 'cuda', got 'tpu'",
        (*train, "--objective", "elbo"): "objective",
        (*train, "--colour", "red"): "colour",
        (*train, "--json", tmp_path / "no" / "x.json", "--num-iterations", 1): "expected an existing folder",
        ("demo", tmp_path / "d", "--json", tmp_path / "no" / "x.json"): "expected an existing folder",
        ("evaluate", tmp_path, data, "--json", tmp_path / "no" / "x.json"): "expected an existing folder",
        ("evaluate", tmp_path, data): "expected a model folder with config.json, found none",
        (
            "evaluate",
            files / "model",
            files / "schools.csv",
            "--label",
            "school",
            "--n-query",
            3,
        ): "expected 6 features",
        ("evaluate", files / "groups", data, "--n-way", 2): "--n-way: expected classes, got --groups school",
        ("evaluate", files / "groups", data): "new.csv: expected a column 'x', got a, b, c, d, e, f, y",
        ("evaluate", files / "groups", data, "--groups", "shop"): "--groups: expected school, as in training, got shop",
        ("predict", files / "groups", data, data, "--label", "y2", "--output", tmp_path / "o.csv"): "--label: expected",
        (
            "predict",
            files / "model",
            data,
            files / "schools.csv",
            "--output",
            tmp_path / "o.csv",
        ): "expected the features of",
        ("predict", files / "model", data, data, "--output", tmp_path / "o.xlsx"): "expected a file of type .nc, .npz",
        ("fly",): "fly",
    }
    for arguments, message in cases.items():
        assert message in refused(capsys, *arguments), arguments
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert "file" in refused(capsys, "train", files / "train.npz", "--output", blocked / "m")
    bad = pd.read_csv(data).assign(a=np.inf)
    bad.to_csv(tmp_path / "bad.csv", index=False)
    assert "bad.csv: column 'a': expected finite numbers, got inf in row 0" in refused(
        capsys, "evaluate", files / "model", tmp_path / "bad.csv", "--n-query", 3, "--n-way", 2
    )
    config = files / "model" / "config.json"
    text = config.read_text()
    try:
        config.write_text(text.replace('"format_version": 2', '"format_version": 9'))
        assert "a newer ebmeta wrote it" in refused(capsys, "evaluate", files / "model", data)
    finally:
        config.write_text(text)


def test_an_interrupt_says_how_to_go_on(files, tmp_path, capsys, monkeypatch):
    def interrupted(self, num_tasks, index=0):
        raise KeyboardInterrupt

    monkeypatch.setattr(ebmeta.EpisodeSampler, "sample", interrupted)
    task = ["train", files / "train.npz", "--output", tmp_path / "m", "--no-progress"]
    assert run(*task, "--checkpoint", tmp_path / "c") == 130
    assert "run the same command again to continue from the checkpoint" in capsys.readouterr().err
    assert run(*task) == 130
    assert capsys.readouterr().err == "ebmeta: interrupted\n"


def test_the_script_that_is_installed_is_the_command_line():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, _, name = project["scripts"]["ebmeta"].partition(":")
    assert getattr(importlib.import_module(module), name) is main


def test_a_real_process():
    done = subprocess.run([sys.executable, "-m", "ebmeta", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ebmeta.__version__
    failed = subprocess.run(
        [sys.executable, "-m", "ebmeta", "evaluate", "absent", "absent.csv"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert failed.returncode == 2
    assert failed.stderr == "ebmeta: error: absent: expected a model folder with config.json, found none\n"


def test_diagnose_writes_page_and_numbers(files, tmp_path, capsys):
    page = tmp_path / "page.html"
    arguments = ["--num-tasks", 20, "--n-way", 3, "--output", page, "--no-progress"]
    assert run("diagnose", files / "model", files / "new.csv", *arguments) == 0
    found = json.loads(page.with_suffix(".json").read_text())
    assert capsys.readouterr().out.startswith(found["summary"])
    assert found["summary"].split(".")[0] in page.read_text()
    frame = pd.read_csv(files / "new.csv")
    tasks = ebmeta.EpisodeSampler(frame.drop(columns="y").to_numpy(np.float32), frame["y"], 3, n_query=6)
    scores = ebmeta.evaluate(ebmeta.load(files / "model"), tasks, 20)
    assert found["checks"]["probabilities"]["numbers"]["accuracy"] == pytest.approx(float(scores["accuracy"][-1]))
    command = ("diagnose", files / "model", files / "new.csv", "--output")
    assert "expected a file of type .html" in refused(capsys, *command, tmp_path / "page.pdf")
    assert "expected an existing folder" in refused(capsys, *command, tmp_path / "nowhere" / "page.html")


@pytest.mark.filterwarnings("default:fit_evidence. not converged")
def test_evidence_of_groups_is_taken_to_its_maximum(tmp_path, capsys):
    """A slope of 10 per day is found, however few steps a command allows."""
    rng, person = np.random.default_rng(0), np.repeat(np.arange(18), 10)
    days = np.tile(np.arange(10.0), 18)
    own = rng.normal(size=(18, 2)) * [25, 6]
    label = 250 + 10 * days + own[person, 0] + own[person, 1] * days + rng.normal(0, 25, 180)
    rows = pd.DataFrame({"days": days, "person": person, "reaction": label})
    rows.to_csv(tmp_path / "rows.csv", index=False)
    columns = ["--groups", "person", "--label", "reaction", "--objective", "evidence", "--num-steps", "0"]
    command = ["train", tmp_path / "rows.csv", *columns, "--output", tmp_path / "model", "--num-iterations"]
    assert run(*command, "300") == 0
    fit = ebmeta.mixed_model("reaction ~ days + (days | person)", rows)
    said = f"log evidence {fit.log_likelihood:.1f}"
    assert said in capsys.readouterr().out
    model = ebmeta.load(tmp_path / "model")
    loc, _ = ebmeta.in_units(model, model.prior(1, 1))
    np.testing.assert_allclose(loc.detach().flatten(), fit.fixed_effects["estimate"].iloc[::-1], rtol=1e-3)
    assert run(*command, "300", "--random", "") == 0  # a slope that all share
    fit = ebmeta.mixed_model("reaction ~ days + (1 | person)", rows)
    found = capsys.readouterr().out.split("log evidence ")[1].split()[0]
    assert float(found) == pytest.approx(fit.log_likelihood, abs=0.01)  # nats
    assert ebmeta.load(tmp_path / "model").prior.varying == (1,)
    assert run(*command, "1", "--likelihood", "normal_per_task") == 0  # which the optimiser takes
    assert "not at the maximum; not converged after max_iterations=1" in capsys.readouterr().out
