"""Saves and loads models with tensors in safetensors and everything else in JSON, without pickle.

A model folder holds `model.safetensors` (parameters and buffers) and `config.json` (the arguments that rebuild the
model, what the columns of a data frame become, the version of this format, and a checksum of itself and of the
tensors). The two belong together, and neither is used without the other.

A folder is replaced as one: the new `config.json` tells of the old tensors too (`previous`) until the new ones are
in place. So a reader at any moment, also after the writer was killed, finds one whole model, old or new. Writers
wait for one another.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from ebmeta.foundation.checks import checked
from ebmeta.foundation.tensor_files import TensorFile, checksum, differing, load_tensors, read_tensors, write_tensors
from ebmeta.foundation.writing import Kind, check_target, lock, to_json, write
from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.model.recipes import RECIPES, ClassifierRecipe
from ebmeta.tasks.frames import FrameEncoder

__all__ = ["load", "load_encoder", "load_with_encoder", "model_files", "save"]

FORMAT_VERSION = 2
#: Tensors that older folders lack, as they would have been there.
ADDED = {"predictor.profile.one_each": torch.tensor(False)}
ATTEMPTS = 1000  # of reading a folder that writers replace all the while


def model_files(folder: Path) -> dict[Path, Kind]:
    """Return the files of a model folder and what they are."""
    return {folder / "config.json": "model", folder / "model.safetensors": "model"}


@checked()
def save(
    model: EmpiricalBayes,
    folder: str | os.PathLike[str],
    encoder: FrameEncoder | None = None,
    *,
    overwrite: bool = False,
) -> Path:
    """Save a model to a folder as a whole or not at all; it replaces a model that is there.

    Args:
        model: a model built by `EmpiricalBayes.classifier` or `EmpiricalBayes.regressor`.
        folder: where to; made where it does not exist.
        encoder: what the columns of a data frame become, to be read by `load_encoder`.
        overwrite: replace also files `config.json` and `model.safetensors` that ebmeta did not write.

    Returns:
        The folder.

    Raises:
        OSError: if the folder cannot be written, or holds files of these names that are not of ebmeta.
        ValueError: if the model was built from parts, so that no arguments can rebuild it, or a parameter is not
            finite.
    """
    recipe = model.recipe
    if recipe is None:
        raise ValueError("save: expected a model from EmpiricalBayes.classifier or regressor, got one built from parts")
    folder = Path(folder)
    tensors = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
    _check_finite(tensors, "save")
    header = {"format_version": FORMAT_VERSION}
    entry: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "config": {"kind": recipe.kind, **asdict(recipe), "beta": model.beta},
        "embedder": type(model.predictor.embedder).__name__ if model.predictor.embedder is not None else None,
        "encoder": None if encoder is None else encoder.config(),
        "tensors": checksum(tensors, header),
        "feature_names": model.feature_names,
        "covariate_names": model.covariate_names,
        "fitted": model.fitted,
    }
    entry["checksum"] = _checksum(entry)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        for path, kind in model_files(folder).items():
            check_target(path, kind, overwrite)
        if old := _present(folder):
            _write_config(folder, entry | {"previous": old}, overwrite)
        else:
            _write_config(folder, entry, overwrite)
        write_tensors(folder / "model.safetensors", tensors, header, "model", overwrite)
        if old:
            _write_config(folder, entry, overwrite)
    return folder


def _write_config(folder: Path, stored: Mapping[str, Any], overwrite: bool) -> None:
    text = to_json({"ebmeta": "model", **stored}) + "\n"
    write(folder / "config.json", text.encode(), "model", overwrite)


def _checksum(entry: Mapping[str, Any]) -> str:
    content = {k: v for k, v in entry.items() if k not in ("ebmeta", "checksum", "previous")}
    text = json.dumps(content, sort_keys=True, default=lambda number: number.item())
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other writers of a folder waiting."""
    if sys.platform == "win32":
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        lock(descriptor)
        yield
    finally:
        os.close(descriptor)


def _present(folder: Path) -> dict[str, Any] | None:
    """Return what `config.json` says of the tensors in its folder; None where there is no whole model."""
    try:
        _, stored = _read_config(folder)
        return _entry(stored, read_tensors(folder / "model.safetensors", "model"))
    except (OSError, ValueError):
        return None


def _entry(stored: dict[str, Any], file: TensorFile) -> dict[str, Any] | None:
    """Return the part of `config.json` that is about a file of tensors; None where there is none."""
    for part in (stored, stored.get("previous")):
        if isinstance(part, dict) and part.get("format_version") == file.header.get("format_version"):
            if part["format_version"] == 1 and file.checksum is None:  # the first format has no checksums
                return {k: v for k, v in part.items() if k != "previous"}
            if file.checksum is not None and part.get("tensors") == file.checksum:
                return {k: v for k, v in part.items() if k != "previous"}
    return None


def _read_config(folder: Path) -> tuple[Path, dict[str, Any]]:
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: expected a model folder with config.json, found none")
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        version, _ = stored["format_version"], dict(stored["config"] or {})
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected the JSON of an ebmeta model, got: {error!r:.200}") from None
    if type(version) is not int or version < 1:
        raise ValueError(f"{path}: expected a format_version of 1 or more, got {version!r:.40}")
    if version > FORMAT_VERSION:
        raise ValueError(
            f"{path}: expected format version {FORMAT_VERSION} or older, got {version}; a newer ebmeta wrote it"
        )
    return path, stored


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read one whole model, also while others write to the folder."""
    files = list(model_files(folder))
    for _ in range(ATTEMPTS):
        before = [_identity(path) for path in files]
        path, stored = _read_config(folder)
        file = read_tensors(folder / "model.safetensors", "model")
        entry = _entry(stored, file)
        if entry is not None:
            break
        if before == [_identity(path) for path in files]:
            difference = None if stored.get("embedder") else differing(_shapes(path, stored["config"]), file.tensors)
            wanted = difference or "expected the tensors that config.json was written with, got others"
            raise ValueError(f"{folder}: {wanted}: another model")
    else:
        raise ValueError(f"{folder}: expected a folder that is left alone for a moment, got one written all the time")
    _check_arguments(path, dict(entry["config"] or {}))
    if entry["format_version"] > 1 and entry.get("checksum") != _checksum(entry):
        raise ValueError(f"{path}: expected what was written, got a file that was changed or damaged")
    _check_finite(file.tensors, str(folder / "model.safetensors"))
    return entry, file.tensors


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _check_finite(tensors: Mapping[str, Tensor], source: str) -> None:
    for name, value in tensors.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            bad = value[~torch.isfinite(value)].flatten()[0].item()
            raise ValueError(f"{source}: expected finite numbers in {name}, got {bad}")


@checked()
def load_encoder(folder: str | os.PathLike[str]) -> FrameEncoder | None:
    """Load the encoder of data frames from a model folder; None where the model was saved without one.

    Raises:
        OSError: if the folder does not exist.
        ValueError: if a file is damaged or of a newer version.
    """
    folder = Path(folder)
    return _encoder(folder, _read(folder)[0])


def _encoder(folder: Path, entry: Mapping[str, Any]) -> FrameEncoder | None:
    config = entry.get("encoder")
    try:
        return None if config is None else FrameEncoder.from_config(config)
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'}: {error}") from None


@checked()
def load(folder: str | os.PathLike[str], embedder: nn.Module | None = None) -> EmpiricalBayes:
    """Load a model from a folder; its predictions are bit-equal to the saved model's.

    Args:
        folder: what `save` wrote.
        embedder: a network of the same architecture, where the model was built with one.

    Returns:
        The model, on the CPU, in evaluation mode.

    Raises:
        OSError: if the folder or one of its files does not exist.
        ValueError: if a file is truncated, changed, of another model, written by a newer version, or does not fit
            the embedder.
    """
    folder = Path(folder)
    return _build(folder, *_read(folder), embedder)


@checked()
def load_with_encoder(
    folder: str | os.PathLike[str], embedder: nn.Module | None = None
) -> tuple[EmpiricalBayes, FrameEncoder | None]:
    """Load a model and its encoder (None where there is none) as they were saved together.

    Args:
        folder: as for `load`.
        embedder: as for `load`.

    Raises:
        OSError: as for `load`.
        ValueError: as for `load`.
    """
    folder = Path(folder)
    entry, tensors = _read(folder)
    return _build(folder, entry, tensors, embedder), _encoder(folder, entry)


def _build(
    folder: Path, entry: Mapping[str, Any], tensors: Mapping[str, Tensor], embedder: nn.Module | None
) -> EmpiricalBayes:
    path = folder / "config.json"
    config, needs = dict(entry["config"]), entry.get("embedder")
    if needs is not None and not (isinstance(needs, str) and needs.isidentifier()):
        raise ValueError(f"{path}: expected the name of a class for embedder, got {needs!r:.60}")
    if (needs is None) != (embedder is None):
        wanted = "no embedder" if needs is None else f"embedder= a {needs}, with which the model was built"
        raise ValueError(f"{folder}: expected {wanted}, got {None if embedder is None else type(embedder).__name__}")
    shapes = _shapes(path, config, embedder)
    tensors = {name: value for name, value in ADDED.items() if name in shapes} | dict(tensors)
    if difference := differing(shapes, tensors):
        raise ValueError(f"{folder}: {difference}: another model")
    model = _construct(path, config, embedder)
    if all(tensors[name].dtype == torch.float64 for name, _ in model.named_parameters() if name in tensors):
        model.double()
    load_tensors(model, tensors, folder)
    head = model.predictor
    features = head.num_features if head.embedder is None and not head.any_features else None
    model.feature_names = _names(path, entry.get("feature_names"), features)
    model.covariate_names = _names(path, entry.get("covariate_names"), model.prior.num_covariates)
    fitted = entry.get("fitted", True)  # a folder that was written before models stated it
    if not isinstance(fitted, bool):
        raise ValueError(f"{path}: expected true or false for fitted, got {fitted!r:.60}")
    model.fitted = fitted
    return model.eval()


def _shapes(path: Path, config: Mapping[str, Any], embedder: nn.Module | None = None) -> dict[str, Tensor]:
    """Return the tensors of a model without their values: what the file asks for may not fit into memory."""
    _check_arguments(path, config)
    with torch.device("meta"):
        return _construct(path, config, embedder).state_dict()


def _names(path: Path, names: Any, wanted: int | None) -> list[str] | None:
    if names is None:  # of rows without names, or in a folder that was written before there were any
        return None
    texts = isinstance(names, list) and all(isinstance(n, str) for n in names)
    if not texts or len(set(names)) != len(names) or wanted not in (None, len(names)):
        raise ValueError(f"{path}: expected the names of {wanted} columns, got {names!r:.80}")
    return list(names)


def _construct(path: Path, config: Mapping[str, Any], embedder: nn.Module | None) -> EmpiricalBayes:
    arguments = dict(config)
    kind, beta = arguments.pop("kind"), arguments.pop("beta")
    if kind == ClassifierRecipe.kind:
        arguments.setdefault("synthetic_gradient", "mixture")  # the default, before folders stated it
    try:
        return EmpiricalBayes.from_recipe(RECIPES[kind](**arguments), beta, embedder)
    except (TypeError, RuntimeError, OverflowError, MemoryError, LookupError, ValueError) as error:
        raise ValueError(f"{path}: expected the arguments of a {kind}, got: {error!s:.200}") from None


def _check_arguments(path: Path, config: Mapping[str, Any]) -> None:
    """Compare arguments that come from JSON with the types that the recipe states."""
    kind = config.get("kind")
    if kind not in list(RECIPES):  # it may be no text
        raise ValueError(f"{path}: expected kind 'classifier', 'regressor' or 'general', got {kind!r:.60}")
    hints = get_type_hints(RECIPES[kind]) | {"beta": float}
    known = {"kind", "beta", *(each.name for each in fields(RECIPES[kind]))}
    for name, value in config.items():
        if name not in known:
            raise ValueError(f"{path}: expected the arguments of a {kind}, got: {name!r:.60}")
        if name != "kind" and not _fits(value, hints[name]):
            wanted = inspect.formatannotation(hints[name])
            raise ValueError(f"{path}: expected {name} of type {wanted}, got {value!r:.60}")
    needed = [each.name for each in fields(RECIPES[kind]) if each.default is MISSING]
    for name in (*needed, "beta"):
        if name not in config:
            raise ValueError(f"{path}: expected the arguments of a {kind}, got none for {name}")


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, part) for part in get_args(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if hint is float:
        return type(value) in (int, float) and abs(value) < float("inf")
    if hint is int:
        return type(value) is int and abs(value) < 2**53
    return isinstance(value, get_origin(hint) or hint)
