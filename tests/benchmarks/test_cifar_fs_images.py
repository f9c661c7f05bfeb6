"""The pipeline of benchmarks/cifar_fs_images.py, every piece of it, on textures."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from textures import textures

import cifar_fs_images

OPTIONS = {"rotation-epochs": 3, "mixup-epochs": 1, "batch-size": 32, "iterations": 52, "test-tasks": 64}


def write_textures(folder: Path, members: int = 24, side: int = 16) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    for name, count in (("train_0", 4), ("train_1", 4), ("val", 5), ("test", 5)):
        names = np.array([f"{name} {c}" for c in range(count)])
        np.savez_compressed(folder / f"images_{name}.npz", images=textures(count, members, side, rng), classes=names)


def call(folder: Path, units: float = math.inf, **more: Any) -> Path:
    """Run the command line once, however long it takes; return the file of the result."""
    given = [f"--{k}={v}" for k, v in (OPTIONS | more).items()]
    where = [f"--images={folder.parent / 'images'}", f"--folder={folder}", f"--results={folder / 'result.json'}"]
    cifar_fs_images.main([*where, "--minutes=inf", f"--units={units}", "--device=cpu", *given])
    return folder / "result.json"


def test_pipeline(tmp_path, capsys, monkeypatch):
    """In one call, and in five that are cut short: the same scores."""
    write_textures(tmp_path / "images")
    whole = json.loads(call(tmp_path / "whole").read_text())
    assert whole["network"] == "WRN-10-1"
    assert whole["reduced"] is True
    assert list(whole["pieces"]) == [
        "backbone",
        *("features_train", "features_val", "features_test"),
        *("fit_1shot", "fit_5shot", "test_1shot", "test_5shot", "general_1shot", "general_5shot"),
    ]
    assert all(piece["device"] == "CPU" and piece["calls"] == 1 for piece in whole["pieces"].values())
    assert whole["seconds"] == pytest.approx(sum(p["seconds"] for p in whole["pieces"].values()), abs=0.06)
    assert whole["pieces"]["backbone"]["iterations"] == 4 * (8 * 24 // 32)
    assert whole["5shot"]["accuracy"][-1] > 0.5  # chance is 0.2
    assert whole["5shot_general"]["test"]["accuracy"][-1] > 0.5
    with np.load(tmp_path / "whole" / "features_train.npz") as file:
        assert file["features"].shape == (8, 24, 64)
        assert file["features"].dtype == np.float16
        assert file["classes"].tolist() == [f"train_{part} {c}" for part in (0, 1) for c in range(4)]

    monkeypatch.setattr(cifar_fs_images, "SHOTS", (1,))
    parts = tmp_path / "parts"
    late = tmp_path / "images" / "images_train_1.npz"
    late.rename(tmp_path / "late.npz")
    capsys.readouterr()
    assert not call(parts).exists()
    assert "waiting for images_train_1.npz" in capsys.readouterr().out
    (tmp_path / "late.npz").rename(late)
    assert not call(parts, units=5).exists()
    assert "5 of 24 iterations done" in capsys.readouterr().out
    assert not call(parts, units=0).exists()
    assert "backbone: nothing left of the budget" in capsys.readouterr().out
    with monkeypatch.context() as patch:
        stop_sampling_at(patch, 51)
        assert not call(parts).exists()
    assert "fit_1shot: stopped at batch 51" in capsys.readouterr().out
    assert (parts / "fit_1shot.safetensors").is_file()
    pieces = json.loads(call(parts).read_text())
    assert pieces["pieces"]["backbone"]["calls"] == 4
    assert pieces["pieces"]["fit_1shot"]["calls"] == 2
    assert pieces["1shot"] == whole["1shot"]
    assert pieces["1shot_general"] == whole["1shot_general"]

    with pytest.raises(ValueError, match="seed: expected 0 as in"):
        call(parts, seed=1)


def stop_sampling_at(patch: pytest.MonkeyPatch, last: int) -> None:
    """Let the budget end when batch number `last` is asked for."""
    sample = cifar_fs_images.Budgeted.sample

    def late(self: cifar_fs_images.Budgeted, num_tasks: int, index: int = 0) -> object:
        self.budget.units = 0 if index == last else self.budget.units
        return sample(self, num_tasks, index)

    patch.setattr(cifar_fs_images.Budgeted, "sample", late)


def test_a_budget_ends_with_its_units_or_its_time():
    units = cifar_fs_images.Budget(units=2)
    assert [units.left(), units.take(), units.take(), units.left(), units.take()] == [True, True, True, False, False]
    assert not cifar_fs_images.Budget(minutes=0).take()
