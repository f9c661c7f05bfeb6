"""Columns of a data frame as tensors and JSON, so that a formula makes the same terms of them again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

__all__ = ["pack_frame", "pack_index", "unpack_frame", "unpack_index"]

PLAIN = (str, int, float, bool)  # what JSON gives back as it was


def pack_frame(frame: pd.DataFrame, start: str) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """Return facts of columns, and their values as tensors.

    Args:
        frame: complete rows.
        start: of the names of the tensors.

    Raises:
        ValueError: if a column holds neither numbers, texts, categories nor times.
    """
    facts, tensors = [], {}
    for place, name in enumerate(frame.columns):
        fact, values = _packed(str(name), frame.iloc[:, place])
        facts.append({"name": str(name), **fact})
        tensors[f"{start}{place}"] = torch.from_numpy(np.array(values))
    return facts, tensors


def unpack_frame(facts: Sequence[Mapping[str, Any]], tensors: Mapping[str, Tensor], start: str) -> pd.DataFrame:
    """Return the columns that `pack_frame` took."""
    columns = [_unpacked(fact, tensors[f"{start}{place}"].numpy()) for place, fact in enumerate(facts)]
    return pd.DataFrame({fact["name"]: column for fact, column in zip(facts, columns, strict=True)})


def pack_index(index: pd.Index[Any], start: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return facts of the names of rows, and tensors; arguments and errors as for `pack_frame`."""
    levels = {f"index {place}": index.get_level_values(place) for place in range(index.nlevels)}
    facts, tensors = pack_frame(pd.DataFrame(levels), start)
    return {"names": [None if n is None else str(n) for n in index.names], "levels": facts}, tensors


def unpack_index(facts: Mapping[str, Any], tensors: Mapping[str, Tensor], start: str) -> pd.Index[Any]:
    """Return the names of rows that `pack_index` took."""
    frame = unpack_frame(facts["levels"], tensors, start)
    if len(facts["names"]) == 1:
        out: pd.Index[Any] = pd.Index(frame.iloc[:, 0].array, name=facts["names"][0])
        return out
    return pd.MultiIndex.from_frame(frame, names=facts["names"])


def _packed(name: str, column: pd.Series[Any]) -> tuple[dict[str, Any], np.ndarray]:
    if isinstance(column.dtype, pd.CategoricalDtype):
        levels = _plain(name, column.cat.categories)
        return {"kind": "category", "levels": levels, "ordered": bool(column.cat.ordered)}, column.cat.codes.to_numpy()
    if pd.api.types.is_numeric_dtype(column.dtype):  # yes and no too
        return {"kind": "numbers"}, column.to_numpy()
    if isinstance(column.dtype, np.dtype) and column.dtype.kind in "mM":
        return {"kind": "times", "unit": column.dtype.str}, column.to_numpy().view(np.int64)
    codes, texts = pd.factorize(column)
    return {"kind": "texts", "levels": _plain(name, texts)}, codes


def _plain(name: str, levels: Any) -> list[Any]:
    values = [v.item() if isinstance(v, np.generic) else v for v in levels]
    if strange := [v for v in values if not isinstance(v, PLAIN)]:
        raise ValueError(
            f"save: expected numbers, texts, categories or times in column {name!r}, got {type(strange[0]).__name__}"
        )
    return values


def _unpacked(fact: Mapping[str, Any], values: np.ndarray) -> Any:
    kind = fact["kind"]
    if kind == "category":
        return pd.Categorical.from_codes(values, pd.Index(fact["levels"]), ordered=fact["ordered"])
    if kind == "times":
        return values.view(fact["unit"])
    if kind == "texts":
        return np.array(fact["levels"], dtype=object)[values]
    return values
