"""Saves and loads a fitted mixed model, with all that its formula has learned of the training rows.

A folder holds the rows of the columns that the formula names, the parameters, and what the engine found beside them, in
the files of any model of ebmeta. Reading it makes the terms of these rows again: contrasts, polynomials and splines
come out as they were, and nothing is fitted.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ebmeta.formula.design import Design, Extras
from ebmeta.formula.stored_columns import unpack_frame, unpack_index
from ebmeta.foundation.folders import read_folder
from ebmeta.mixed.content import KIND
from ebmeta.mixed.fit import engine_of
from ebmeta.mixed.propagation import Draws
from ebmeta.mixed.result import MixedModel
from ebmeta.random_effects.ascent import Optimum

__all__ = ["load_fit"]


def load_fit(folder: Path) -> MixedModel:
    """Return the fit that `MixedModel.save` wrote; its predictions are bit-equal to those of the saved one.

    Raises:
        OSError: if the folder or one of its files does not exist.
        ValueError: if a file is truncated, changed, of another model or written by a newer version.
    """
    entry, tensors = read_folder(folder, _explained, _check)
    config = entry["config"]
    try:
        return _built(config, tensors)
    except (KeyError, TypeError, IndexError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{folder / 'config.json'}: expected what a mixed model was saved with, got: {error}"
        ) from None


def _explained(path: Path, stored: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str | None:
    return None  # which tensors a mixed model has depends on its rows


def _check(path: Path, config: Mapping[str, Any]) -> None:
    if config.get("kind") != KIND:
        raise ValueError(f"{path}: expected a mixed model, got {config.get('kind')!r:.60}")


def _built(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> MixedModel:
    used = unpack_frame(config["columns"], tensors, "columns.")
    extra = {name: tensors[f"extra.{name}"].numpy() for name in config["given"] if f"extra.{name}" in tensors}
    design = Design(config["formula"], used, Extras(**extra), config["na"])
    design.given = Extras(**{name: extra[name] if v is True else v for name, v in config["given"].items()})
    design.num_rows, design.num_dropped, design.num_unlabelled = config["counts"]
    design.index = unpack_index(config["index"], tensors, "index.")
    engine = engine_of(design, config["likelihood"], config["reml"], config["hyperprior"])
    at = tensors["at"].numpy()
    engine.restore(at, {n.removeprefix("state."): v.numpy() for n, v in tensors.items() if n.startswith("state.")})
    draws = Draws(tensors["draws.at"].numpy(), tensors["draws.weight"].numpy()) if config["draws"] else None
    return MixedModel(design, engine, Optimum(at, **config["optimum"]), config["likelihood"], draws)
