"""Hostile values in place of a right one, each with what has to come of it.

- "refuse": an error of ebmeta's own, in one line;
- "same": the result of the right value, since the two are equal;
- "same or refuse": either;
- "any": an error, or a result without NaN or infinity that the right one does not have.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import xarray as xr
from kit import Kit
from scipy import sparse

import ebmeta

__all__ = ["Case", "hostile"]

HUGE = 10**30
#: Arguments that count from the end where they are negative.
SIGNED = {"step", "column", "task"}
#: Paths that are read.
READ: set[str] = set()
#: Texts that may be anything.
FREE = {"name", "question", "finding", "meaning", "advice", "caption", "hint"}


class Case(NamedTuple):
    """A hostile value, what it is, and what has to come of it."""

    label: str
    value: Any
    verdict: str


class Marked(np.ndarray):
    """An array of somebody's own class."""


def hostile(kit: Kit, name: str, value: Any, optional: bool) -> list[Case]:
    """Return the hostile values in place of one argument."""
    cases = [Case("None", None, "any" if optional else "refuse")]
    for kind, make in KINDS:
        if isinstance(value, kind):
            cases += make(kit, name, value)
            break
    return cases


def _strangers(kit: Kit, *but: str) -> list[Case]:
    """Return things of a kind that no argument of another kind takes."""
    values: dict[str, Any] = {
        "a text": "nonsense",
        "bytes": b"1",
        "a dict": {"a": 1},
        "a list of texts": ["a", "b"],
        "an object": object(),
        "a class": ebmeta.EpisodeSampler,
        "a function": len,
        "a model": kit._regressor,
        "a complex number": 1 + 1j,
        "a date": datetime.datetime(2020, 1, 1),
        "NaN": float("nan"),
    }
    return [Case(label, v, "refuse") for label, v in values.items() if label not in but]


def _bools(kit: Kit, name: str, value: bool) -> list[Case]:
    if name == "hyperprior":  # may be a function
        wrong = {"1": 1, "a text": "yes", "a function": lambda model: None, "another": lambda model: torch.zeros(3)}
        return [Case(label, v, "refuse") for label, v in wrong.items()]
    wrong = {"1": 1, "0": 0, "1.0": 1.0, "a list": [True], "an array": np.array([True, False])}
    return [
        *_strangers(kit),
        *(Case(label, v, "refuse") for label, v in wrong.items()),
        Case("NumPy's bool", np.bool_(value), "same"),
    ]


def _integers(kit: Kit, name: str, value: int) -> list[Case]:
    wrong = {
        "a text of a number": str(value),
        "auto": "auto",
        "1.5": 1.5,
        "a float": float(value),
        "NumPy's float": np.float64(value),
        "infinity": float("inf"),
        "True": True,
        "NumPy's bool": np.True_,
        "a list": [value],
        "an array": np.array([value]),
        "huge": HUGE,
        "huge and negative": -HUGE,
        "2**63": 2**63,
    }
    if name not in ("seed", "index"):
        wrong["2**40"] = 2**40
    if name not in SIGNED:
        wrong["-1"] = -1
    equal = {"int64": np.int64(value), "int8": np.int8(value), "uint8": np.uint8(value)}
    return [
        *_strangers(kit),
        *(Case(label, v, "refuse") for label, v in wrong.items()),
        *(Case(label, v, "same") for label, v in equal.items()),
        Case("a 0-d array", np.array(value), "same or refuse"),
        Case("a 0-d tensor", torch.tensor(value), "same or refuse"),
        *(Case(str(v), v, "any") for v in (0, 1, 2, 3, -2)),
    ]


def _floats(kit: Kit, name: str, value: float) -> list[Case]:
    wrong = {
        "a text of a number": str(value),
        "True": True,
        "a list": [value],
        "an array": np.array([value]),
        "NumPy's NaN": np.float64("nan"),
        "three numbers": (value, value, value),
    }
    return [
        *_strangers(kit),
        *(Case(label, v, "refuse") for label, v in wrong.items()),
        Case("float64", np.float64(value), "same"),
        Case("float32", np.float32(value), "same"),
        Case("float16", np.float16(value), "same"),
        Case("a fraction", Fraction(value), "same or refuse"),
        Case("a 0-d array", np.array(value), "same or refuse"),
        Case("a 0-d tensor", torch.tensor(value, dtype=torch.float64), "same or refuse"),
        *(Case(str(v), v, "any") for v in (0, 1, 2, -1, np.inf, -np.inf, 1e308, -1e308, 1e-308, HUGE)),
    ]


def _texts(kit: Kit, name: str, value: str) -> list[Case]:
    texts = {
        "another text": "nonsense",
        "an empty text": "",
        "a long text": "x" * 10_000,
        "two lines": f"{value}\n{value}",
    }
    return [
        *_strangers(kit, "a text"),
        *(Case(label, v, "any" if name in FREE else "refuse") for label, v in texts.items()),
        Case("NumPy's text", np.str_(value), "same"),
    ]


def _paths(kit: Kit, name: str, value: Path) -> list[Case]:
    nowhere = "refuse" if name in READ else "any"
    return [
        *_strangers(kit, "a text", "bytes"),
        Case("bytes", os.fsencode(value), "refuse"),
        Case("a text", str(value), "same"),
        Case("a file that is not there", value.parent / "missing" / "thing", nowhere),
        Case("a file in place of a folder", value.parent / "tensors" / "inside", "refuse"),
        Case("an empty text", "", "any"),
        Case("a zero byte", str(value) + "\0", "refuse"),
        Case("a long name", value.parent / ("x" * 300), "refuse"),
    ]


def _tuples(kit: Kit, name: str, value: tuple[Any, ...]) -> list[Case]:
    low, high = value
    wrong = {
        "reversed": (high, low) if high != low else (2, 1),
        "one": (low,),
        "three": (low, high, high),
        "none": (),
        "texts": (str(low), str(high)),
        "a text": "0:3",
        "nested": ((low, high),),
        "NaN": (low, float("nan")),
        "None": (low, None),
        "bools": (False, True),
    }
    if isinstance(low, int):
        wrong |= {"halves": (0.5, 1.5), "huge": (low, HUGE), "negative": (-1, high)}
    verdict = "any" if name == "weights" else "refuse"
    return [
        *_strangers(kit, "a text", "NaN"),
        *(Case(label, v, verdict if label == "reversed" else "refuse") for label, v in wrong.items()),
        Case("a list", list(value), "same"),
    ]


def _with(value: np.ndarray, bad: Any) -> np.ndarray:
    out = np.array(value, dtype=type(bad) if isinstance(bad, str | complex) else float)
    out.flat[out.size // 2] = bad
    return out


def _equal_arrays(value: np.ndarray) -> Iterator[tuple[str, Any]]:
    yield "a list", value.tolist()
    yield "big-endian", value.astype(value.dtype.newbyteorder(">"))
    yield "Fortran's order", np.asfortranarray(value)
    yield "every other", np.repeat(value, 2, 0)[::2]
    yield "backwards", value[::-1].copy()[::-1]
    frozen = value.copy()
    frozen.flags.writeable = False
    yield "read-only", frozen
    for kind in (np.float32, np.float16, np.longdouble, np.int64, np.uint8, np.int8):
        if value.dtype.kind in "fiu" and (value.astype(kind) == value).all():
            yield np.dtype(kind).name, value.astype(kind)


def _odd_arrays(value: np.ndarray) -> Iterator[tuple[str, Any]]:
    yield "a class of one's own", value.view(Marked)
    yield "a masked array without a mask", np.ma.array(value)
    yield "objects", value.astype(object)
    yield "a tensor", torch.from_numpy(np.ascontiguousarray(value))
    yield "nested tuples", tuple(map(tuple, value.tolist())) if value.ndim == 2 else tuple(value.tolist())
    if value.dtype.kind == "f":
        yield "a tensor with gradients", torch.from_numpy(np.ascontiguousarray(value)).requires_grad_()
    if value.ndim == 2:
        yield "a frame", pd.DataFrame(value)
        yield "a frame with an index", pd.DataFrame(value, index=np.arange(len(value))[::-1])
    if value.ndim == 1:
        yield "a series with an index", pd.Series(value, index=np.arange(len(value))[::-1])


def _wrong_arrays(value: np.ndarray) -> Iterator[tuple[str, Any]]:
    yield "0-d", np.array(1.0)
    yield "a number", 1.5
    yield "empty", value[:0]
    yield "an empty list", []
    yield "one axis more", value[None]
    yield "four axes more", value[None, None, None, None]
    if value.ndim > 1:
        yield "one axis less", value[0]
        yield "ragged", [list(row) for row in value[:-1]] + [[1.0]]
    yield "NaN within", _with(value, np.nan)
    yield "infinity within", _with(value, np.inf)
    yield "minus infinity within", _with(value, -np.inf)
    yield "complex", value + 1j
    yield "dates", np.full(value.shape, np.datetime64("2020-01-01"))
    yield "spans of time", np.full(value.shape, np.timedelta64(1, "D"))
    yield "texts of numbers", value.astype(str)
    yield "bytes", value.astype(bytes)
    yield "None within", np.where(np.arange(value.size).reshape(value.shape) == 1, None, value.astype(object))
    yield "masked", np.ma.array(value, mask=np.arange(value.size).reshape(value.shape) % 2)
    yield "a record", np.zeros(value.shape, dtype=[("a", float)])
    yield "a generator", (row for row in value)
    yield "a set", {1.0, 2.0}
    if value.ndim == 2:
        yield "sparse", sparse.csr_matrix(value)


def _arrays(kit: Kit, name: str, value: np.ndarray) -> list[Case]:
    labels = name in LABELS
    padded = name in PADDED
    out = _strangers(kit, "a list of texts")
    for label, v in _wrong_arrays(value):
        verdict = "refuse"
        if label in ("a generator", "a set") and labels:
            verdict = "same or refuse" if label == "a generator" else "any"
        if name == "X" and label.endswith("within"):  # samplers look at rows when they draw them
            verdict = "any"
        if labels and label in (
            "complex",
            "dates",
            "spans of time",
            "a record",
            "infinity within",
            "minus infinity within",
        ):
            verdict = "any"
        if labels and label in ("texts of numbers", "bytes"):
            verdict = "any"
        if (
            (padded and label == "NaN within")
            or (name in ANY_SHAPE and "axis" in label)
            or ("axes" in label and name in ANY_SHAPE)
        ):
            verdict = "any"
        if name in SCALAR_TOO and label in ("0-d", "a number"):
            verdict = "any"
        out.append(Case(label, v, verdict))
    for label, v in _equal_arrays(value):
        out.append(Case(label, v, "same"))
    for label, v in _odd_arrays(value):
        out.append(Case(label, v, "same or refuse"))
    out.append(Case("the last row missing", value[:-1], "any"))
    out.append(Case("constant", np.ones_like(value), "any"))
    out.append(Case("bools", value > value.mean(), "any"))
    out.append(Case("1e300", np.full(value.shape, 1e300), "any"))
    out.append(Case("-1", np.full(value.shape, -1.0), "any"))
    out.append(Case("int64's largest", np.full(value.shape, np.iinfo(np.int64).max), "any"))
    out.append(Case("doubled", np.concatenate([value, value]), "any"))
    return out


#: Arguments that hold labels of classes or groups, which texts may be.
LABELS = {"groups", "task", "y", "size", "support_y"}
ODD_LABELS = ("complex", "dates", "spans of time", "a record", "infinity within", "minus infinity within")
#: Arrays in which NaN is padding, or that are looked at where they are real alone.
PADDED = {"probs", "scores", "confidence", "correct", "p", "y", "query_y", "uniform", "u"}
#: Arrays of any number of axes.
ANY_SHAPE = {"confidence", "correct", "p", "y", "sums", "log_ratios", "X", "support_X", "uniform", "probs", "support_x"}
SCALAR_TOO = {"mass"}


def _tensors(kit: Kit, name: str, value: torch.Tensor) -> list[Case]:
    wrong: dict[str, Any] = {
        "a list": value.tolist(),
        "an array": value.detach().numpy(),
        "a number": 1.5,
        "0-d": torch.tensor(1.0),
        "one axis more": value[None],
        "the last missing": value[:-1] if value.dim() else value[None],
        "complex": value.to(torch.complex64),
        "sparse": value.to_sparse() if value.dim() else value,
        "no data": value.to("meta"),
    }
    if not value.dim():
        del wrong["0-d"], wrong["sparse"]
    out = [*_strangers(kit), *(Case(label, v, "refuse") for label, v in wrong.items())]
    if name in ("x", "loc", "var"):
        out = [c._replace(verdict="any") if c.label in ("one axis more", "the last missing") else c for c in out]
    if value.is_floating_point():
        for bad in (float("nan"), float("inf")):
            changed = value.detach().clone(memory_format=torch.contiguous_format)
            changed.view(-1)[changed.numel() // 2] = bad
            out.append(Case(f"{bad} within", changed, "any" if name == "concentration" else "refuse"))
        out.append(Case("with gradients", value.detach().clone().requires_grad_(), "same"))
        out.append(Case("float64", value.double(), "same or refuse"))
        out.append(Case("float16", value.half(), "any"))
        out.append(Case("bfloat16", value.bfloat16(), "any"))
        out.append(Case("1e30", torch.full_like(value, 1e30), "any"))
        out.append(Case("-1", torch.full_like(value, -1.0), "any"))
        out.append(Case("bools", value > 0, "any"))
    out.append(Case("every other", value.repeat_interleave(2, 0)[::2] if value.dim() else value, "same"))
    out.append(Case("a column of a larger one", torch.stack([value, value], -1)[..., 0], "same"))
    out.append(Case("empty", value[:0] if value.dim() else value[None][:0], "any"))
    return out


def _models(kit: Kit, name: str, value: torch.nn.Module) -> list[Case]:
    wrong = {"a number": 3, "another module": torch.nn.Linear(2, 2), "tasks": kit.batch, "a frame": kit.frame}
    out = [*_strangers(kit, "a model"), *(Case(label, v, "refuse") for label, v in wrong.items())]
    if name == "models":
        out = [c for c in out if c.label != "a model"]
    if name == "embedder":
        out = [c for c in out if c.label != "another module"]
    if isinstance(value, ebmeta.EmpiricalBayes):
        other = kit.regressor if value.likelihood.categorical else kit.classifier
        out.append(Case("a model of the other kind", other, "any"))
        out.append(Case("the same in 64 bits", kit.classifier.double(), "any"))
        out.append(Case("another number of features", ebmeta.EmpiricalBayes.regressor(5, num_steps=1), "any"))
    return out


def _sources(kit: Kit, name: str, value: Any) -> list[Case]:
    wrong = {
        "a number": 3,
        "a list of tasks": [kit.batch],
        "a frame": kit.frame,
        "an array": kit.X,
        "a face": kit.reg,
        "a generator": (batch for batch in [kit.batch]),
    }
    out = [*_strangers(kit), *(Case(label, v, "refuse") for label, v in wrong.items())]
    for label, v in {"tasks of classes": kit.class_batch, "classes": kit.episodes, "groups": kit.groups}.items():
        out.append(Case(label, v, "any"))
    for label, v in {"tasks": kit.batch, "no labels": kit.batch.unlabelled(), "one task": kit.batch[:1]}.items():
        out.append(Case(label, v, "any"))
    for label, dtype in {"64 bits": torch.float64, "16 bits": torch.float16}.items():
        out.append(Case(label, kit.batch.to(dtype), "any"))
    return out


def _datasets(kit: Kit, name: str, value: xr.Dataset) -> list[Case]:
    wrong = {"a tree": kit.tree, "a frame": kit.frame, "nothing in it": xr.Dataset(), "an array": kit.X}
    out = [*_strangers(kit), *(Case(label, v, "refuse") for label, v in wrong.items())]
    out.append(Case("other data", xr.Dataset({"nonsense": ("thing", [1.0])}), "refuse"))
    out += [Case(f"without {v}", value.drop_vars(v), "any") for v in list(value.variables)]
    out += [Case(f"without {d}", value.isel({d: 0}), "any") for d in value.sizes]
    return out


def _labelled_arrays(kit: Kit, name: str, value: xr.DataArray) -> list[Case]:
    wrong = {"a tree": kit.tree, "an array": value.values, "a dataset": value.to_dataset(), "numbers": [1.0]}
    out = [*_strangers(kit), *(Case(label, v, "refuse") for label, v in wrong.items())]
    out.append(Case("NaN", value * np.nan, "refuse"))
    out.append(Case("negative", -value, "refuse"))
    out += [Case(f"without {d}", value.isel({d: 0}), "refuse") for d in value.dims]
    return out


def _trees(kit: Kit, name: str, value: xr.DataTree) -> list[Case]:
    wrong = {"a dataset": kit.scores, "a frame": kit.frame, "nothing in it": xr.DataTree(), "an array": kit.X}
    out = [*_strangers(kit), *(Case(label, v, "refuse") for label, v in wrong.items())]
    for child in value.children:
        left = xr.DataTree.from_dict({f"/{n}": v.to_dataset() for n, v in value.children.items() if n != child})
        out.append(Case(f"without {child}", left, "any"))
    return out


def _frames(kit: Kit, name: str, value: pd.DataFrame) -> list[Case]:
    wrong = {
        "an array": value.to_numpy(),
        "a list": value.to_dict("records"),
        "a series": value["y"],
        "a column twice": pd.concat([value, value[["a"]]], axis=1),
        "without a column": value.drop(columns="a"),
        "no columns": value[[]],
        "a gap": value.assign(a=value["a"].where(value.index != 3)),
        "infinity": value.assign(a=value["a"].where(value.index != 3, np.inf)),
        "complex numbers": value.assign(a=value["a"] + 1j),
        "dates": value.assign(a=pd.Timestamp("2020-01-01")),
        "lists": value.assign(a=[[1.0]] * len(value)),
        "texts for numbers": value.assign(a=value["a"].astype(str)),
    }
    training = name == "frame"
    out = [*_strangers(kit), *(Case(label, v, "refuse") for label, v in wrong.items())]
    odd = ("a gap", "infinity", "complex numbers", "dates", "lists", "texts for numbers", "without a column")
    out = [c._replace(verdict="any") if training and c.label in odd else c for c in out]
    out.append(Case("no rows", value[:0], "any"))
    out.append(Case("columns in another order", value[value.columns[::-1]], "any"))
    out.append(Case("an index of texts", value.set_index(value.index.astype(str)), "same"))
    out.append(Case("float32", value.astype({"a": np.float32, "b": np.float32}), "same"))
    out.append(Case("nullable numbers", value.astype({"a": "Float64", "b": "Int64"}), "same"))
    return out


def _functions(kit: Kit, name: str, value: Callable[..., Any]) -> list[Case]:
    out = [c for c in _strangers(kit) if c.label not in ("a class", "a function", "a model")]
    out.append(Case("a number", 3, "refuse"))
    if name not in ("distribution", "hyperpriors"):
        out.append(Case("one that returns None", lambda *a: None, "refuse"))
        out.append(Case("one that returns a text", lambda *a: "nonsense", "refuse"))
        out.append(Case("one that returns too little", lambda *a: np.zeros(1), "any"))
    return out


def _mappings(kit: Kit, name: str, value: dict[str, Any]) -> list[Case]:
    wrong = {"pairs": list(value.items()), "a number": 3, "keys that are numbers": {1: 2}}
    but = ["a model"] if name == "models" else []
    out = [*_strangers(kit, *but), *(Case(label, v, "refuse") for label, v in wrong.items())]
    free = name in ("config", "numbers")
    out = [c._replace(verdict="any") if free and isinstance(c.value, dict) else c for c in out]
    out.append(Case("empty", {}, "any"))
    out += [Case(f"{key} None", {**value, key: None}, "any") for key in value]
    out += [Case(f"{key} a text", {**value, key: "nonsense"}, "any") for key in value]
    out += [Case(f"without {key}", {k: v for k, v in value.items() if k != key}, "any") for key in value]
    return out


def _lists(kit: Kit, name: str, value: list[Any]) -> list[Case]:
    wrong: dict[str, Any] = {
        "a number": 3,
        "Nones": [None],
        "numbers": [3],
        "a list of lists": [[1.0, 2.0]],
        "objects": [object()],
        "one wrong": [*value, object()],
    }
    out = [*_strangers(kit), *(Case(label, v, "refuse") for label, v in wrong.items())]
    if value and isinstance(value[0], float):
        out += [Case(str(v), [v], "refuse") for v in (float("nan"), float("inf"), -0.5, 1.5, "0.5", True, 10**400)]
        out += [Case(np.dtype(t).name, np.array(value, dtype=t), "same") for t in (">f8", np.float32, np.float16)]
        out += [Case("a number above others", 0.5, "any"), Case("rows", np.array([value, value]), "refuse")]
        out = [c for c in out if c.label not in ("a number", "numbers")]
    if name in ("features", "group_features") or (value and isinstance(value[0], int)):
        out = [c for c in out if c.label != "numbers"]
    out += [Case("a tuple", tuple(value), "same"), Case("empty", [], "any")]
    return out


def _things(kit: Kit, name: str, value: Any) -> list[Case]:
    wrong = {"a number": 3, "a list": [value], "another thing": kit.frame}
    return [*_strangers(kit), *(Case(label, v, "refuse") for label, v in wrong.items())]


KINDS: list[tuple[type | tuple[type, ...], Callable[[Kit, str, Any], list[Case]]]] = [
    (bool, _bools),
    (int, _integers),
    (float, _floats),
    (str, _texts),
    (Path, _paths),
    (tuple, lambda kit, name, value: _tuples(kit, name, value) if len(value) == 2 else _things(kit, name, value)),
    (np.ndarray, _arrays),
    (torch.Tensor, _tensors),
    (torch.nn.Module, _models),
    ((ebmeta.TaskBatch, ebmeta.EpisodeSampler, ebmeta.GroupSampler), _sources),
    (xr.Dataset, _datasets),
    (xr.DataArray, _labelled_arrays),
    (xr.DataTree, _trees),
    (pd.DataFrame, _frames),
    (dict, _mappings),
    (list, _lists),
    (type(lambda: 0), _functions),
    (object, _things),
]
