"""Files and errors of the command line: nothing is lost, and whatever goes wrong is one line."""

import json
import os

import numpy as np
import pandas as pd
import pytest
from commands import refused, run

import ebmeta
from ebmeta.app.files import remove_old
from ebmeta.foundation.writing import write_json
from ebmeta.tasks.frames import FrameEncoder


@pytest.fixture
def files(plain_files):
    return plain_files


def line(capsys, *arguments):
    """Run a command that fails and return its one line."""
    return refused(capsys, *arguments).removeprefix("ebmeta: error: ")


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def commands(files):
    """Every command, and its flags that name a file to write."""
    model, data, new = files / "model", files / "data.csv", files / "new"
    few = ("--num-tasks", 2, "--n-query", 3)
    train = ("train", data, "--validation", files / "support.csv", "--num-iterations", 1, "--n-query", 3)
    return {
        ("evaluate", model, data, *few): ("--json", "--plots"),
        ("diagnose", model, data, *few, "--no-progress"): ("--json", "--output"),
        ("predict", model, files / "support.csv", files / "query.csv", "--output", new / "o.csv"): ("--json",),
        ("predict", model, files / "support.csv", files / "query.csv"): ("--output",),
        (*train, "--output", new / "model", "--no-progress"): ("--json", "--checkpoint"),
        (*train, "--no-progress"): ("--output",),
        ("demo", new / "demo", "--num-iterations", 1, "--no-progress"): ("--json",),
    }


def test_what_others_wrote_and_what_is_read_stays(files, capsys):
    (files / "new").mkdir()
    page, numbers = files / "mine.html", files / "mine.json"
    for path in (page, numbers):
        path.write_text("mine")
    (files / "theirs").mkdir()
    for name in ("config.json", "refinement.png", "result.json"):
        (files / "theirs" / name).write_text("mine")
    (files / "link.csv").symlink_to(files / "data.csv")
    os.link(files / "data.csv", files / "hard.csv")
    before = contents(files)
    tried = 0
    for command, flags in commands(files).items():
        for flag in flags:
            folder = flag == "--plots" or (flag == "--output" and command[0] == "train")
            targets = [files / "theirs"] if folder else [files / "mine.txt", numbers, files / "model" / "config.json"]
            if not folder and command[0] != "demo":
                targets += [files / name for name in ("data.csv", "link.csv", "hard.csv")]
                targets += [files / "query.csv", files / "model" / ".." / "data.csv"]
            if flag == "--output" and command[0] == "predict":
                targets = [t for t in targets if t.suffix == ".csv"] + [files / "mine.csv"]
                (files / "mine.csv").write_text("mine\n1\n")
                before = contents(files)
            if flag == "--output" and command[0] == "diagnose":
                targets = [page, files / "beside.html", files / "folder.html"]
                (files / "beside.json").write_text("mine")
                (files / "folder.html").mkdir()
                before = contents(files)
            for target in targets:
                message = line(capsys, *command, flag, target)
                assert any(words in message for words in ("is no input", "new file or a", "got a folder")), message
                assert contents(files) == before, (command, flag, target)
                tried += 1
    assert tried > 40
    assert "written by ebmeta, got a file that ebmeta did not write" in line(capsys, "demo", files / "theirs")
    assert contents(files) == before
    command = ("evaluate", files / "model", files / "data.csv", "--num-tasks", 2, "--n-query", 3)
    for target in ("data.csv", "hard.csv"):
        assert "which is DATA" in line(capsys, *command, "--json", files / target, "--overwrite")
    config = files / "run.json"
    config.write_text("[evaluate]\nseed = 1\n")
    assert "which is --config" in line(capsys, *command, "--config", config, "--json", config)
    assert "which is MODEL" in line(capsys, *command, "--json", files / "model" / "model.safetensors")
    assert run(*command, "--json", files / "mine.txt", "--overwrite") == 0
    assert json.loads((files / "mine.txt").read_text())["num_tasks"] == 2


def test_nothing_is_written_into_the_folder_of_a_model(files, capsys):
    (files / "new").mkdir()
    before = contents(files)
    for command, flags in commands(files).items():
        for flag in flags:
            if flag == "--output" and command[0] == "train":
                continue  # which is the model
            name = {"--plots": ".", "--output": "new.csv" if command[0] == "predict" else "new.html"}.get(
                flag, "new.json"
            )
            for more in ((), ("--overwrite",)):
                message = line(capsys, *command, flag, files / "model" / name, *more)
                assert message.startswith(f"{flag}: expected a file outside the folder of a model, got "), message
    assert contents(files) == before


def test_what_a_run_leaves_out_is_removed(tmp_path):
    old, new, mine, other = (tmp_path / f"{name}.json" for name in ("old", "new", "mine", "other"))
    write_json(old, {"a": 1})
    write_json(new, {"a": 1})
    mine.write_text("mine")
    write_json(other, {"ebmeta": "model"})
    absent = tmp_path / "absent.json"
    remove_old([("--output", path, "result") for path in (old, new, mine, absent)] + [("", other, "page")], [new])
    assert sorted(tmp_path.iterdir()) == [mine, new, other]


def test_a_command_can_run_again(files):
    task = ("predict", files / "model", files / "support.csv", files / "query.csv", "--json", files / "result.json")
    for suffix in ("csv", "npz", "parquet", "nc"):
        for _ in range(2):
            assert run(*task, "--output", files / f"o.{suffix}") == 0
    command = ("evaluate", files / "model", files / "data.csv", "--num-tasks", 2, "--n-query", 3)
    for _ in range(2):
        assert run(*command, "--json", files / "result.json", "--plots", files / "plots") == 0
    judge = ("diagnose", files / "model", files / "data.csv", "--num-tasks", 4, "--n-query", 3, "--no-progress")
    for _ in range(2):
        assert run(*judge, "--output", files / "d.html", "--json", files / "d.json") == 0
    train = ("train", files / "data.csv", "--num-iterations", 1, "--n-query", 3, "--no-progress")
    for seed in range(2):
        assert run(*train, "--output", files / "m", "--json", files / "result.json", "--seed", seed) == 0


def test_configurations_of_others_are_refused(files, capsys):
    config = files / "run.toml"
    command = ("evaluate", files / "model", files / "data.csv", "--config", config)
    for content, message in {
        b"a = " + b"[" * 100_000: "run.toml: expected TOML, got: expected input that is nested less deeply",
        b"\xff\xfe": "run.toml: expected TOML, got: 'utf-8' codec",
        b"evaluate = 3": "run.toml: expected a table [evaluate], got 3",
        b"[evaluate]\nnum-tasks = 1979-05-27\n": "num-tasks",
        b"[evaluate]\nnum-tasks = [[1], [2]]\n": "num-tasks",
        b"[evaluate.num-tasks]\na = 1\n": "num-tasks",
    }.items():
        config.write_bytes(content)
        assert message in line(capsys, *command), content[:40]


def test_messages_name_file_and_flag(files, capsys):
    frame = pd.read_csv(files / "data.csv")
    frame.assign(y=np.linspace(0, 1, len(frame)), school=np.repeat(np.arange(36), 2)).to_csv(
        files / "n.csv", index=False
    )
    frame[:0].to_csv(files / "none.csv", index=False)
    frame[frame["y"] < "c3"].to_csv(files / "few.csv", index=False)
    new = ("--output", files / "new")
    for command, message in {
        ("train", files / "n.csv", *new): "to predict numbers of groups, name the column of the groups with --groups",
        ("train", files / "n.csv", *new, "--groups", "school"): "; --n-shot 0:3 takes groups of any size",
        (
            "train",
            files / "data.csv",
            *new,
            "--n-query",
            3,
            "--validation",
            files / "few.csv",
        ): "few.csv: --n-way: expected at most 3 (the classes in y), got 5",
        ("train", files / "data.csv"): "--output: expected folder of the model, got none",
        (
            "predict",
            files / "model",
            files / "support.csv",
            files / "none.csv",
            "--output",
            files / "o.csv",
        ): "none.csv: expected rows, got none",
    }.items():
        assert message in line(capsys, *command)


def test_a_query_file_without_the_covariate_is_named(tmp_path, capsys):
    frame = pd.DataFrame({"x": np.arange(12.0), "shop": np.repeat(list("uvw"), 4), "area": np.repeat(list("pqp"), 4)})
    frame = frame.assign(sold=frame["x"] % 3)
    encoder = FrameEncoder("sold", "shop", ["x"], ["area"]).fit(frame)
    ebmeta.save(ebmeta.EmpiricalBayes.regressor(1, num_covariates=1), tmp_path / "model", encoder)
    frame[:8].to_csv(tmp_path / "support.csv", index=False)
    frame.drop(columns="area").to_csv(tmp_path / "query.csv", index=False)
    task = (
        "predict",
        tmp_path / "model",
        tmp_path / "support.csv",
        tmp_path / "query.csv",
        "--output",
        tmp_path / "o.csv",
    )
    message = line(capsys, *task)
    assert "query.csv: expected a column 'area', because " in message
    assert "support.csv has no row of group 'w', got x, shop, sold" in message
