"""Saving and loading: tensors by safetensors, everything else by JSON; no pickle.

A model folder holds `model.safetensors` (parameters and buffers) and `config.json` (the arguments that
rebuild the model, what the columns of a data frame become, and the version of this format). Files are
replaced whole, so an interrupted write leaves the old ones.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from ebmeta.frames import FrameEncoder
from ebmeta.model import EmpiricalBayes

__all__ = ["load", "load_encoder", "load_tensors", "read_tensors", "save", "strict", "to_json", "write_tensors"]

FORMAT_VERSION = 1


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write tensors and a JSON header to one file, replacing it whole.

    Args:
        path: the file; its folder is made where it does not exist.
        tensors: named tensors, on any device.
        header: JSON-serialisable facts.

    Raises:
        OSError: if the file cannot be written.
    """
    plain: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        plain[name] = value.clone() if value.data_ptr() in seen else value  # the format refuses tied weights
        seen.add(value.data_ptr())
    _replace(path, to_bytes(plain, metadata={"header": to_json(header)}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_tensors` wrote.

    Raises:
        OSError: if the file does not exist or cannot be read.
        ValueError: if it is truncated or not such a file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a safetensors file, found none")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["header"])
            return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: expected a complete safetensors file written by ebmeta, got: {error}") from None


def to_json(value: Any) -> str:
    """Return strict JSON; NumPy numbers become plain ones."""
    return json.dumps(value, indent=2, default=lambda number: number.item(), allow_nan=False)


def strict(value: Any) -> Any:
    """Turn numbers that JSON does not know (an interval of one task) into null, and tuples into lists.

    Examples:
        >>> strict({"half_width": [float("inf"), 1.0]})
        {'half_width': [None, 1.0]}
    """
    if isinstance(value, dict):
        return {k: strict(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [strict(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save(model: EmpiricalBayes, folder: str | os.PathLike[str], encoder: FrameEncoder | None = None) -> Path:
    """Save a model to a folder.

    Args:
        model: a model built by `EmpiricalBayes.classifier` or `EmpiricalBayes.regressor`.
        folder: where to; made where it does not exist.
        encoder: what the columns of a data frame become, to be read by `load_encoder`.

    Returns:
        The folder.

    Raises:
        OSError: if the folder cannot be written.
        ValueError: if the model was built from parts, so that no arguments can rebuild it.
    """
    if model.config is None:
        raise ValueError(
            "save: expected a model from EmpiricalBayes.classifier or regressor, got one built from parts; of an "
            "ensemble save the model that it was made from, and call propagate again"
        )
    folder = Path(folder)
    config = {
        "format_version": FORMAT_VERSION,
        "config": model.config | {"beta": model.beta},
        "embedder": type(model.predictor.embedder).__name__ if model.predictor.embedder is not None else None,
        "encoder": None if encoder is None else encoder.config(),
    }
    write_tensors(folder / "model.safetensors", model.state_dict(), {"format_version": FORMAT_VERSION})
    _replace(folder / "config.json", (to_json(config) + "\n").encode())
    return folder


def _read_config(folder: Path) -> tuple[Path, dict[str, Any]]:
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: expected a model folder with config.json, found none")
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        version, _ = int(stored["format_version"]), dict(stored["config"] or {})
    except (json.JSONDecodeError, KeyError, TypeError, ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected the JSON of an ebmeta model, got: {error!r}") from None
    if version > FORMAT_VERSION:
        raise ValueError(
            f"{path}: expected format version {FORMAT_VERSION} or older, got {version}; a newer ebmeta wrote it"
        )
    return path, stored


def load_encoder(folder: str | os.PathLike[str]) -> FrameEncoder | None:
    """Load what the columns of a data frame become from a model folder; None where it was saved without.

    Raises:
        OSError: if the folder does not exist.
        ValueError: if its JSON is damaged or of a newer version.
    """
    _, stored = _read_config(Path(folder))
    config = stored.get("encoder")
    return None if config is None else FrameEncoder.from_config(config)


def load(folder: str | os.PathLike[str], embedder: nn.Module | None = None) -> EmpiricalBayes:
    """Load a model from a folder; its predictions are bit-equal to the saved model's.

    Args:
        folder: what `save` wrote.
        embedder: a network of the same architecture, where the model was built with one.

    Returns:
        The model, on the CPU, in evaluation mode.

    Raises:
        OSError: if the folder or one of its files does not exist.
        ValueError: if a file is truncated, written by a newer version, or does not fit the embedder.
    """
    folder = Path(folder)
    path, stored = _read_config(folder)
    config, needs = dict(stored["config"] or {}), stored.get("embedder")
    if (needs is None) != (embedder is None):
        wanted = "no embedder" if needs is None else f"embedder= a {needs}, with which the model was built"
        raise ValueError(f"{folder}: expected {wanted}, got {embedder!r:.60}")
    tensors, _ = read_tensors(folder / "model.safetensors")
    kind = config.pop("kind", None)
    if kind not in ("classifier", "regressor"):
        raise ValueError(f"{path}: expected kind 'classifier' or 'regressor', got {kind!r}")
    try:
        model: EmpiricalBayes = getattr(EmpiricalBayes, kind)(**config, embedder=embedder)
    except TypeError as error:
        raise ValueError(f"{path}: expected the arguments of a {kind}, got: {error}") from None
    dtypes = {t.dtype for t in tensors.values() if t.is_floating_point()}
    if dtypes == {torch.float64}:
        model.double()
    load_tensors(model, tensors, folder)
    return model.eval()


def load_tensors(model: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Copy tensors into a model, all or none.

    Raises:
        ValueError: if a name or a shape differs.
    """
    wanted, got = ({k: tuple(v.shape) for k, v in d.items()} for d in (model.state_dict(), tensors))
    if wanted != got:
        name = sorted(k for k in wanted.keys() | got.keys() if wanted.get(k) != got.get(k))[0]
        raise ValueError(f"{source}: expected {name} of shape {wanted.get(name)}, got {got.get(name)}: another model")
    model.load_state_dict(tensors)
