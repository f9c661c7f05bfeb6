"""What the benchmark scripts share: data, results, and the facts of a run."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

import ebmeta

ROOT = Path(__file__).resolve().parent
RESULTS = ROOT / "results"


def data_folder() -> Path:
    """Return the folder of the shared data sets, or say where it was expected."""
    folder = Path(os.environ.get("EBMETA_DATA", ROOT.parent.parent / "shared" / "data"))
    if not folder.is_dir():
        raise SystemExit(f"{folder}: expected the data folder; set EBMETA_DATA")
    return folder


def cifar_fs(split: str, **episode: Any) -> ebmeta.EpisodeSampler:
    """Return a sampler over the shared Conv-4-64 features of one split."""
    with np.load(data_folder() / "cifar_fs" / f"conv4_64_{split}.npz") as file:
        features = file["features"].astype(np.float32)
    classes, members, width = features.shape
    return ebmeta.EpisodeSampler(features.reshape(-1, width), np.repeat(np.arange(classes), members), **episode)


def by_step(evaluation: xr.Dataset) -> dict[str, list[float]]:
    """Return every metric and half width over refinement steps, rounded for a JSON file."""
    return {
        str(name): np.round(values.values, 5).tolist()
        for name, values in evaluation.items()
        if values.dims == ("step",)
    }


def write(name: str, result: dict[str, Any]) -> None:
    """Write one result, with the versions and the machine that it came from."""
    facts = {
        "script": f"benchmarks/{Path(name).stem}.py",
        "versions": {"ebmeta": ebmeta.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "cores": os.cpu_count(),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / name).write_text(json.dumps(facts | result, indent=2) + "\n")
    print(f"wrote {RESULTS.name}/{name}")
