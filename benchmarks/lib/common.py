"""What the benchmark scripts share: data, results, and the facts of a run."""

from __future__ import annotations

import functools
import json
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

import ebmeta

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
#: Characters of a line that a written result is broken at, save inside a list of numbers.
WIDTH = 120
FACTS = ("script", "versions", "cores")  # of a run, written with its result


def data_folder() -> Path:
    """Return the folder of the shared data sets, or say where it was expected."""
    folder = Path(os.environ.get("EBMETA_DATA", ROOT.parent.parent / "shared" / "data"))
    if not folder.is_dir():
        raise SystemExit(f"{folder}: expected the data folder of benchmarks/README.md; set EBMETA_DATA")
    return folder


@functools.lru_cache(3)  # the sources of a mixture share what they draw from
def _features(file: Path) -> np.ndarray:
    """Return features, shape (classes, members, width)."""
    with np.load(file) as stored:
        features = stored["features"].astype(np.float32)
    features.flags.writeable = False
    return features


def cifar_fs(split: str, **episode: Any) -> ebmeta.EpisodeSampler:
    """Return a sampler over the shared Conv-4-64 features of one split."""
    features = _features(data_folder() / "cifar_fs" / f"conv4_64_{split}.npz")
    classes, members, width = features.shape
    return ebmeta.EpisodeSampler(features.reshape(-1, width), np.repeat(np.arange(classes), members), **episode)


def by_step(evaluation: xr.Dataset) -> dict[str, list[float]]:
    """Return every metric and half width over refinement steps, rounded for a JSON file."""
    return {
        str(name): np.round(values.values, 5).tolist()
        for name, values in evaluation.items()
        if values.dims == ("step",)
    }


def read(name: str) -> dict[str, Any]:
    """Return a stored result without the facts of its run; an empty one where there is none."""
    path = RESULTS / name
    stored = json.loads(path.read_text()) if path.is_file() else {}
    return {key: value for key, value in stored.items() if key not in FACTS}


def compact(value: object, indent: int = 0, key: str = "") -> str:
    """Return JSON that breaks a line where it must: what fits one is on one, and so is a list without lists inside.

    Args:
        value: what is written; reading it again gives the same value, floats to the bit.
        indent: columns that the lines stand in.
        key: the quoted name before it, with its colon.

    >>> print(compact({"nll": [[1.25, 0.5], [0.75, 0.25]], "tasks": 2000}))
    {"nll": [[1.25, 0.5], [0.75, 0.25]], "tasks": 2000}
    """
    line = key + json.dumps(value)
    if not isinstance(value, dict | list) or indent + len(line) < WIDTH or _is_plain(value):
        return line
    inner = indent + 2
    if isinstance(value, dict):
        items, ends = [compact(v, inner, f"{json.dumps(k)}: ") for k, v in value.items()], "{}"
    else:
        items, ends = [compact(v, inner) for v in value], "[]"
    lines = ",\n".join(" " * inner + item for item in items)
    return f"{key}{ends[0]}\n{lines}\n{' ' * indent}{ends[1]}"


def _is_plain(value: object) -> bool:
    return isinstance(value, list) and not any(isinstance(item, dict | list) for item in value)


def write(name: str, result: dict[str, Any]) -> None:
    """Write one result, with the versions and the machine that it came from."""
    versions = {"ebmeta": ebmeta.__version__, "torch": torch.__version__, "python": platform.python_version()}
    facts = dict(zip(FACTS, (f"benchmarks/{Path(name).stem}.py", versions, os.cpu_count()), strict=True))
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / name
    part = path.with_name(f".{path.name}.part")
    plain = json.loads(json.dumps(facts | result))  # with texts for keys
    part.write_text(compact(plain) + "\n")
    os.replace(part, path)  # another process may be reading it
    print(f"wrote {RESULTS.name}/{name}")


def model_folder() -> Path:
    """Return the folder of trained models, `EBMETA_CACHE` (by default `cache`, here)."""
    folder = Path(os.environ.get("EBMETA_CACHE", ROOT / "cache"))
    folder.mkdir(exist_ok=True)
    return folder


def model_new_to(encoder: str) -> Path:
    """Return the folder of the general classifier whose training and calibration have not seen an encoder.

    `general_classifier.py` writes it.
    """
    return model_folder() / f"general_new_to_{encoder}"
