"""Saves and loads models with tensors in safetensors and everything else in JSON, without pickle.

A model folder holds `model.safetensors` (parameters and buffers) and `config.json` (the arguments that rebuild the
model, what the columns of a data frame become, the version of this format, and a checksum of itself and of the
tensors). The two belong together, and neither is used without the other (`ebmeta.foundation.folders`).
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from ebmeta.foundation.checks import Kind, checked, kind_of
from ebmeta.foundation.folders import model_files, read_folder, write_folder
from ebmeta.foundation.tensor_files import differing, load_tensors
from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.model.numbers import EMBEDDER, number_type, own_numbers
from ebmeta.model.recipes import RECIPES, ClassifierRecipe
from ebmeta.model.settings import other_setting
from ebmeta.tasks.frames import FrameEncoder
from ebmeta.tasks.marks import Marks
from ebmeta.tasks.sizes import TaskSizes

__all__ = ["build", "load", "load_encoder", "load_with_encoder", "model_files", "read", "save", "save_members"]

#: Tensors that older folders lack, as they would have been there.
ADDED = {"predictor.profile.one_each": torch.tensor(False)}
MEMBERS = "members."  # before the names of tensors of an ensemble's members
#: The way that is left to a model that no arguments rebuild.
KEEPS = "torch.save(model.state_dict(), file) keeps the numbers"
#: What `save` takes.
STORED = replace(
    cast(Kind, kind_of(EmpiricalBayes)),
    words="an EmpiricalBayes (an ensemble and a mixed model have a save of their own: write fit.save(folder))",
)


@checked(model=STORED)
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
        ValueError: if the model was built from parts, or a part was replaced by one of another class or has other
            settings, so that no arguments can rebuild it, or a parameter is not finite, or has another type than 32 or
            64 bits, one for all but an embedder.
    """
    folder = Path(folder)
    write_folder(folder, *_content(model, encoder), overwrite)
    return folder


def save_members(
    model: EmpiricalBayes, members: Mapping[str, Any], tensors: Mapping[str, Tensor], folder: Path, overwrite: bool
) -> None:
    """Save a model with members that differ from it in some parameters.

    Args:
        model: about which the members are.
        members: facts of them.
        tensors: theirs, by name.
        folder: as for `save`.
        overwrite: as for `save`.

    Raises:
        OSError: as for `save`.
        ValueError: as for `save`.
    """
    entry, own = _content(model, None)
    more = {f"{MEMBERS}{name}": value.detach().cpu().clone() for name, value in tensors.items()}
    write_folder(folder, {**entry, "members": dict(members)}, own | more, overwrite)


def _content(model: EmpiricalBayes, encoder: FrameEncoder | None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return what a folder says of a model, and its tensors."""
    recipe = model.recipe
    if recipe is None:
        raise ValueError("save: expected a model from EmpiricalBayes.classifier or regressor, got one built from parts")
    number_type("save", own_numbers(model))
    config = {"kind": recipe.kind, **asdict(recipe), "beta": model.beta}
    _check_parts(model, config)
    entry = {
        "config": config,
        "embedder": type(model.predictor.embedder).__name__ if model.predictor.embedder is not None else None,
        "encoder": None if encoder is None else encoder.config(),
        "feature_names": model.feature_names,
        "covariate_names": model.covariate_names,
        "fitted": model.fitted,
        "training": None if model.marks is None else model.marks.config(),
        "tasks": None if model.task_sizes is None else model.task_sizes.config(),
    }
    return entry, {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


def _check_parts(model: EmpiricalBayes, config: Mapping[str, Any]) -> None:
    """Raise `ValueError` where a part is not of the class or the settings that the arguments of a model build."""
    with torch.device("meta"):
        built = _construct(Path("save"), config, None if model.predictor.embedder is None else nn.Identity())
    parts = [dict(each.named_modules()) for each in (model, built)]
    for name in sorted(set().union(*parts) - {""}):
        if f"{name}.".startswith(EMBEDDER):
            continue
        part, like = (each.get(name) for each in parts)
        if part is None or like is None or type(part) is not type(like):
            got, wanted = ("none" if each is None else type(each).__name__ for each in (part, like))
            raise ValueError(f"save: expected the {wanted} that a {config['kind']} has as {name}, got {got}; {KEEPS}")
        if other := other_setting(part, like):
            raise ValueError(f"save: expected {name}.{other}; {KEEPS}")


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return what the folder of a model or an ensemble says, and its tensors.

    Raises:
        OSError: as for `load`.
        ValueError: as for `load`.
    """

    def explain(path: Path, stored: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str | None:
        own = {name: value for name, value in tensors.items() if not name.startswith(MEMBERS)}
        return None if stored.get("embedder") else differing(_shapes(path, stored["config"]), own)

    return read_folder(folder, explain, _check_arguments)


@checked()
def load_encoder(folder: str | os.PathLike[str]) -> FrameEncoder | None:
    """Load the encoder of data frames from a model folder; None where the model was saved without one.

    Raises:
        OSError: if the folder does not exist.
        ValueError: if a file is damaged or of a newer version.
    """
    folder = Path(folder)
    return _encoder(folder, read(folder)[0])


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
    return _alone(folder, *read(folder), embedder)


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
    entry, tensors = read(folder)
    return _alone(folder, entry, tensors, embedder), _encoder(folder, entry)


def _alone(
    folder: Path, entry: Mapping[str, Any], tensors: Mapping[str, Tensor], embedder: nn.Module | None
) -> EmpiricalBayes:
    if entry.get("members") is not None:
        raise ValueError(f"{folder}: expected one model, got an ensemble, which ebmeta.load reads")
    return build(folder, entry, tensors, embedder)


def build(
    folder: Path, entry: Mapping[str, Any], tensors: Mapping[str, Tensor], embedder: nn.Module | None
) -> EmpiricalBayes:
    """Return a model, given what `read` returned; for an ensemble the one that its members are about.

    Raises:
        ValueError: as for `load`.
    """
    tensors = {name: value for name, value in tensors.items() if not name.startswith(MEMBERS)}
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
    own = {name: tensors[name] for name, _ in model.named_parameters() if not name.startswith(EMBEDDER)}
    model.to(number_type(str(folder), own))
    for name, value in model.state_dict(keep_vars=True).items():
        if name.startswith(EMBEDDER):
            value.data = value.data.to(tensors[name].dtype)
    load_tensors(model, tensors, folder)
    head = model.predictor
    features = head.num_features if head.embedder is None and not head.any_features else None
    model.feature_names = _names(path, entry.get("feature_names"), features)
    model.covariate_names = _names(path, entry.get("covariate_names"), model.prior.num_covariates)
    fitted = entry.get("fitted", True)  # a folder that was written before models stated it
    if not isinstance(fitted, bool):
        raise ValueError(f"{path}: expected true or false for fitted, got {fitted!r:.60}")
    model.fitted = fitted
    try:
        model.marks = Marks.from_config(entry.get("training"))
        model.task_sizes = TaskSizes.from_config(entry.get("tasks"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
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
