"""Writing: whole or not at all, and what ebmeta did not write stays."""

import errno
import json
import os
import resource
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from builders import class_tasks, classifier
from matplotlib.figure import Figure

import ebmeta
from ebmeta.app.tables import write_table
from ebmeta.diagnostics.report import Diagnosis
from ebmeta.foundation.tensor_files import write_tensors
from ebmeta.foundation.writing import check_files, kind_of, lock, write, write_json, write_tree
from ebmeta.plots.axes import save_figure

COLUMNS = {"school": np.arange(4000), "mean": np.arange(4000.0), "std": np.ones(4000)}
COLUMNS |= {name: np.ones(4000) for name in ("q05", "q50", "q95")}
TREE = xr.DataTree.from_dict({f"/g{i}": xr.Dataset({"x": ("n", np.arange(2000.0) + i)}) for i in range(30)})


def page(path, overwrite):
    Diagnosis((), {}, 2, 1.0).save(path, overwrite)


def picture(path, overwrite):
    figure = Figure()
    figure.subplots().plot([0, 1])
    save_figure(figure, path, overwrite)


WRITERS = {
    "table.csv": ("table", lambda path, overwrite: write_table(path, COLUMNS, overwrite)),
    "table.npz": ("table", lambda path, overwrite: write_table(path, COLUMNS, overwrite)),
    "table.parquet": ("table", lambda path, overwrite: write_table(path, COLUMNS, overwrite)),
    "tree.nc": ("tree", lambda path, overwrite: write_tree(path, TREE, overwrite)),
    "result.json": ("result", lambda path, overwrite: write_json(path, {"a": [1.0] * 2000}, overwrite)),
    "page.html": ("page", page),
    "picture.png": ("picture", picture),
    "checkpoint": (
        "checkpoint",
        lambda path, overwrite: write_tensors(path, {"a": torch.ones(2000)}, {}, "checkpoint", overwrite),
    ),
}


def test_classes_in_csv_are_known_again(tmp_path):
    path = tmp_path / "t.csv"
    write_table(path, {"prediction": np.array(["u"]), "p_u": np.array([1.0])})
    assert kind_of(path) == "table"
    write_table(path, {"prediction": np.array(["u"]), "p_u": np.array([1.0]), "outlier": np.zeros(1)}, overwrite=False)
    assert kind_of(path) == "table"
    for names in (
        "prediction,set",
        "prediction,size",
        "prediction",
        "id,mean,std",
        "p_u,p_v",
        "q05,q50,q95,mean,std",
        "\0\1",
    ):
        path.write_text(f"{names}\n1\n")
        assert kind_of(path) is None, names


@pytest.mark.parametrize("name", WRITERS)
def test_what_others_wrote_stays(tmp_path, name):
    kind, writer = WRITERS[name]
    path = tmp_path / name
    writer(path, False)
    assert kind_of(path) == kind
    writer(path, False)
    for other, content in {
        "text": b"mine",
        "csv": b"a,y\n1,2\n",
        "json": b'{"a": 1}',
        "zip": b"PK\3\4mine",
        "html": b"<!DOCTYPE html>",
        "png": b"\x89PNG\r\n",
        "netCDF": b"\x89HDF\r\n",
        "tensors": b"\x10\0\0\0\0\0\0\0{}              ",
        "parquet": b"PAR1PAR1",
        "deep": b'{"a":' * 100_000,
    }.items():
        path.write_bytes(content)
        with pytest.raises(FileExistsError, match=f"new file or a {kind} written by ebmeta, got a file that"):
            writer(path, False)
        assert path.read_bytes() == content, other
    writer(path, True)
    assert kind_of(path) == kind
    path.write_bytes(b"")
    writer(path, False)
    assert kind_of(path) == kind
    other = "result.json" if name != "result.json" else "table.npz"
    WRITERS[other][1](path.with_suffix(os.path.splitext(other)[1]), True)
    path.with_suffix(os.path.splitext(other)[1]).replace(path)
    with pytest.raises(FileExistsError, match=f"new file or a {kind} written by ebmeta, got a (result|table)"):
        writer(path, False)


@contextmanager
def little_room(size=1000):
    """Let no file grow beyond a size, as on a full disk (Python ignores the signal)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", WRITERS)
def test_without_room_the_old_file_stays(tmp_path, name):
    _, writer = WRITERS[name]
    with little_room(), pytest.raises(OSError, match=f"{name}: expected to write") as caught:
        writer(tmp_path / name, False)
    assert caught.value.errno == errno.EFBIG
    assert list(tmp_path.iterdir()) == []
    writer(tmp_path / name, False)
    before = (tmp_path / name).read_bytes()
    with little_room(), pytest.raises(OSError, match=f"{name}: expected to write"):
        writer(tmp_path / name, False)
    assert (tmp_path / name).read_bytes() == before
    assert {p.suffix for p in tmp_path.iterdir()} <= {".json", os.path.splitext(name)[1]}


def test_without_room_the_old_model_stays(tmp_path):
    batch, old = class_tasks(), classifier()
    ebmeta.save(old, tmp_path)
    size = (tmp_path / "config.json").stat().st_size
    for room in (10, 2 * size, 3 * size):
        with little_room(room), pytest.raises(OSError, match="expected to write"):
            ebmeta.save(classifier(features=40), tmp_path)
        assert ebmeta.predict(ebmeta.load(tmp_path), batch).identical(ebmeta.predict(old, batch))
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", "model.safetensors"}


def test_orphans_are_cleared_and_writers_at_work_are_not(tmp_path):
    path = tmp_path / "result.json"
    write_json(path, {})
    with little_room(0), pytest.raises(OSError, match="expected to write"):
        write_json(path, {})
    names = []

    def killed(source, target):
        names.append(source)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write_json(path, {})
    assert list(tmp_path.iterdir()) == [path]
    orphan, working = (names[0].with_name(names[0].name.replace(".tmp", f"{i}.tmp")) for i in range(2))
    orphan.write_text("half")
    with open(working, "w") as file:
        lock(file.fileno())
        write_json(path, {})
        assert set(tmp_path.iterdir()) == {path, working}
    write_json(path, {})
    assert list(tmp_path.iterdir()) == [path]


def test_links_lead_to_what_is_written_and_devices_stay(tmp_path):
    target, link = tmp_path / "a.json", tmp_path / "b.json"
    write_json(target, {"a": 1})
    target.chmod(0o640)
    link.symlink_to(target)
    write_json(link, {"a": 2})
    assert link.is_symlink()
    assert json.loads(target.read_text()) == {"ebmeta": "result", "a": 2}
    assert target.stat().st_mode & 0o777 == 0o640
    write("/dev/null", b"x", "result")
    assert os.path.exists("/dev/null")
    assert not os.path.isfile("/dev/null")
    reader, writer = os.pipe()
    write(f"/dev/fd/{writer}", b"through", "result")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    os.close(writer)
    out = tmp_path / "out.txt"
    with open(out, "w") as file:
        file.write("before ")
        file.flush()
        standard = os.dup(1)
        try:
            os.dup2(file.fileno(), 1)
            write("/dev/fd/1", b"through", "result")
        finally:
            os.dup2(standard, 1)
            os.close(standard)
    assert out.read_text() == "before through"
    for folder, kind in ((tmp_path, IsADirectoryError), (tmp_path / "no" / "x", FileNotFoundError)):
        with pytest.raises(kind, match=str(folder)):
            write(folder, b"x", "result")


def test_inputs_are_no_targets(tmp_path):
    data, folder = tmp_path / "data.csv", tmp_path / "model"
    pd.DataFrame(COLUMNS).to_csv(data, index=False)
    ebmeta.save(classifier(), folder)
    (tmp_path / "link.csv").symlink_to(data)
    os.link(data, tmp_path / "hard.csv")
    inputs = {"DATA": data, "MODEL": folder, "ABSENT": tmp_path / "absent.csv"}
    for path in (
        "data.csv",
        "link.csv",
        "hard.csv",
        "model/../data.csv",
        "absent/../data.csv",
        "model/config.json",
        "model/model.safetensors",
    ):
        for overwrite in (False, True):
            with pytest.raises(ValueError, match="expected a file that is no input, got .*, which is (DATA|MODEL)"):
                check_files([("--output", tmp_path / path, "table")], inputs, overwrite)
    one = ("--output", tmp_path / "new.csv", "table")
    check_files([one], inputs)
    with pytest.raises(
        ValueError, match="--json: expected a file of its own, got .*new.csv, which --output writes too"
    ):
        check_files([one, ("--json", tmp_path / "model" / ".." / "new.csv", "result")], inputs)


def test_a_path_through_a_folder_that_is_not_there_replaces_no_file_of_others(tmp_path):
    """The file that is written to is `data.csv`, which the system does not find by that path."""
    data = tmp_path / "data.csv"
    data.write_text("a,b\n1,2\n")
    through = tmp_path / "absent" / ".." / "data.csv"
    with pytest.raises(FileExistsError, match="expected a new file or a result written by ebmeta, got a file that"):
        write(through, b"x", "result")
    assert data.read_text() == "a,b\n1,2\n"
    write(through, b"x", "result", overwrite=True)
    assert data.read_bytes() == b"x"


def test_folders_of_models_hold_nothing_else(tmp_path):
    ebmeta.save(classifier(), tmp_path / "model")
    (tmp_path / "link").symlink_to(tmp_path / "model")
    for folder in ("model", "link"):
        for inputs in ({}, {"MODEL": tmp_path / "model"}):
            with pytest.raises(ValueError, match="--output: expected a file outside the folder of a model, got .*new"):
                check_files([("--output", tmp_path / folder / "new.csv", "table")], inputs, overwrite=True)
    (tmp_path / "other").mkdir()
    parts = [("--output", tmp_path / "other" / name, "model") for name in ("config.json", "model.safetensors")]
    with pytest.raises(ValueError, match="--json: expected a file outside the folder of a model, got .*r.json"):
        check_files([*parts, ("--json", tmp_path / "other" / "r.json", "result")], {})
    check_files([*parts, ("--json", tmp_path / "r.json", "result")], {})
