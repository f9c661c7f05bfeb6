"""Reads a folder with whatever it holds: a model, an ensemble of models, or a mixed model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import nn

from ebmeta.foundation.checks import checked
from ebmeta.foundation.folders import kind_in
from ebmeta.foundation.guarding import undisturbed
from ebmeta.mixed.content import KIND
from ebmeta.mixed.storage import load_fit
from ebmeta.model.storage import MEMBERS, build, read
from ebmeta.training.ensemble import PriorEnsemble

__all__ = ["load"]


@checked()
@undisturbed()
def load(folder: str | os.PathLike[str], embedder: nn.Module | None = None) -> Any:
    """Load a model from a folder; its predictions are bit-equal to the saved model's.

    Args:
        folder: what `ebmeta.save`, or `save` of an ensemble or of a mixed model, wrote.
        embedder: a network of the same architecture, where the model was built with one.

    Returns:
        An `EmpiricalBayes` or a `PriorEnsemble`, on the CPU, in evaluation mode, or a `MixedModel`.

    Raises:
        OSError: if the folder or one of its files does not exist.
        ValueError: if a file is truncated, changed, of another model, written by a newer version, or does not fit
            the embedder.
    """
    folder = Path(folder)
    if kind_in(folder) == KIND:
        if embedder is not None:
            raise ValueError(f"{folder}: expected no embedder for a mixed model, got {type(embedder).__name__}")
        return load_fit(folder)
    entry, tensors = read(folder)
    model, members = build(folder, entry, tensors, embedder), entry.get("members")
    if members is None:
        return model
    try:
        values, log_weight = tensors[f"{MEMBERS}values"], tensors[f"{MEMBERS}log_weight"]
        return PriorEnsemble(model, tuple(members["names"]), values, log_weight, members["new_groups"]).eval()
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder / 'config.json'}: expected the members of an ensemble, got: {error}") from None
