"""Whether a call came to a right end: a refusal of ebmeta's own, or a right value, and nothing else changed."""

from __future__ import annotations

import copy
import dataclasses
import random
import re
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr

import ebmeta

__all__ = ["flat", "fresh", "limited", "same", "verdict_of"]

HOME = str(Path(ebmeta.__file__).parent)
#: Libraries whose checks of arguments are part of ebmeta's face (scikit-learn's conventions).
FACES = ("sklearn/utils", "sklearn/base")
LONGEST = 400
SECONDS = 60


class TooLongError(BaseException):
    """A call did not come back."""


@contextmanager
def limited(seconds: int = SECONDS) -> Iterator[None]:
    """Stop what takes longer than any right call."""

    def stop(*_: Any) -> None:
        raise TooLongError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def flat(value: Any, depth: int = 0) -> list[Any]:
    """Return the arrays and texts that a result is made of, in order."""
    if value is None or isinstance(value, str | bytes | Path) or depth > 6:
        return [str(value)]
    if isinstance(value, bool | int | float | np.generic):
        return [np.asarray(value)]
    if isinstance(value, torch.Tensor) and value.is_meta:
        return [str(value)]
    if isinstance(value, torch.Tensor):
        value = value.to_dense()
        return [value.detach().cpu().to(torch.float64 if value.is_floating_point() else value.dtype).numpy()]
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, torch.nn.Module):
        return [a for v in value.state_dict().values() for a in flat(v, depth + 1)]
    if isinstance(value, xr.Dataset):
        return [np.asarray(v.values) for _, v in sorted(value.data_vars.items(), key=lambda item: str(item[0]))]
    if isinstance(value, xr.DataArray | pd.Series):
        return [np.asarray(value.values)]
    if isinstance(value, pd.DataFrame):
        return [np.asarray(value[c].to_numpy()) for c in value.columns]
    if isinstance(value, xr.DataTree):
        return [a for node in value.children.values() for a in flat(node.to_dataset(), depth + 1)]
    if isinstance(value, Mapping):
        return [a for k in value for a in flat(value[k], depth + 1)]
    if isinstance(value, list | tuple | set):
        return [a for v in value for a in flat(v, depth + 1)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [a for f in dataclasses.fields(value) for a in flat(getattr(value, f.name), depth + 1)]
    return []


def fresh(value: Any) -> Any:
    """Return a copy of what a call may change."""
    return copy.deepcopy(value) if isinstance(value, ebmeta.EmpiricalBayes) else value


def same(got: Any, expected: Any, tolerance: float = 1e-5) -> bool:
    """Whether two results are equal, but for rounding in 32 bits."""
    a, b = flat(got), flat(expected)
    if len(a) != len(b):
        return False
    for x, y in zip(a, b, strict=True):
        if isinstance(x, str) or isinstance(y, str):
            if x != y and "/" not in str(x):
                return False
            continue
        if x.shape != y.shape:
            return False
        if x.dtype.kind in "fc" or y.dtype.kind in "fc":
            if not np.allclose(x, y, rtol=tolerance, atol=tolerance, equal_nan=True):
                return False
        elif not (x == y).all():
            return False
    return True


def _infinite(value: Any) -> tuple[bool, bool]:
    arrays = [a for a in flat(value) if isinstance(a, np.ndarray) and a.dtype.kind in "fc"]
    return any(np.isnan(a).any() for a in arrays), any(np.isinf(a).any() for a in arrays)


def _state() -> list[Any]:
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002  # the generator that must not be used
    return [torch.get_rng_state().numpy().tobytes(), kind, keys.tobytes(), rest, random.getstate()]


def verdict_of(
    function: Callable[..., Any], arguments: Mapping[str, Any], expected: str, right: Any, allowed: Sequence[str] = ()
) -> str | None:
    """Make one call; return what is wrong with how it ended, or None.

    Args:
        function: what to call.
        arguments: its arguments, one of them hostile.
        expected: what has to come of it (see `values`).
        right: the result of the right call.
        allowed: what a call may do beside: "train" (change a model), "draw" (from the global generator), "warn", "NaN".
    """
    given = {name: fresh(value) for name, value in arguments.items()}
    watched = {n: v for n, v in given.items() if not ("train" in allowed and isinstance(v, torch.nn.Module))}
    before = {name: copy.deepcopy(flat(value)) for name, value in watched.items()}
    state = _state()
    with warnings.catch_warnings(record=True) as warned, limited():
        warnings.simplefilter("always")
        try:
            result = function(**given)
        except TooLongError:
            return "did not come back"
        except Exception as error:
            fault = _refusal(error, arguments)
            if fault is None and expected == "same":
                fault = f"refused what is equal to a right value: {error}"
        else:
            fault = _result(
                result, "any" if "draw" in allowed and expected == "same" else expected, right, "NaN" in allowed
            )
    warned = [w for w in warned if not (w.category is UserWarning and re.match(r"[\w.]+: ", str(w.message)))]
    if fault is None and warned and "warn" not in allowed:
        fault = f"warned: {warned[0].category.__name__}: {str(warned[0].message)[:150]}"
    if fault is None and "draw" not in allowed and _state() != state:
        fault = "used a global generator"
    if fault is None and not all(same(flat(v), before[n], 0.0) for n, v in watched.items()):
        fault = "changed an argument"
    return fault


def _result(result: Any, expected: str, right: Any, empty: bool) -> str | None:
    if expected == "refuse":
        return f"took it, and returned {type(result).__name__}"
    if expected.startswith("same"):
        return None if same(result, right) else "took it for another value"
    if empty:
        return None
    (nan, inf), (nan_right, inf_right) = _infinite(result), _infinite(right)
    return "returned NaN or infinity" if (nan and not nan_right) or (inf and not inf_right) else None


def _refusal(error: Exception, arguments: Mapping[str, Any]) -> str | None:
    text, kind = str(error), type(error).__name__
    last = traceback.extract_tb(error.__traceback__)[-1]
    shown = f"{kind} at {'/'.join(Path(last.filename).parts[-2:])}:{last.lineno}: {text[:150]!r}"
    if not isinstance(error, ValueError | TypeError | OSError):
        return f"foreign {shown}"
    if (
        isinstance(error, OSError)
        and {Path(last.filename).stem, Path(last.filename).parent.name} & {"pathlib", "os", "shutil"}
        and len(text) < LONGEST
    ):
        return None  # the system's own words about a file that it names
    ours = last.filename.startswith(HOME) or any(place in last.filename for place in FACES)
    binding = isinstance(error, TypeError) and re.search(r"(argument|keyword)", text) and "/hostile/" in last.filename
    if not ours and not binding:
        return f"foreign {shown}"
    if "\n" in text or not text:
        return f"not one line: {shown}"
    if len(text) > LONGEST:
        return f"{len(text)} letters: {shown}"
    if isinstance(error, OSError) and "/" in text:
        return None
    if not any(re.search(rf"\b{re.escape(name)}\b", text) for name in arguments) and "expected" not in text:
        return f"names no argument: {shown}"
    return None
