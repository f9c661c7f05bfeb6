"""New rows where splines of a formula have learned nothing, which R warns of too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from formulae.matrices import CommonEffectsMatrix
from formulae.terms.call import Call
from formulae.terms.call_resolver import LazyCall
from numpy.typing import NDArray

__all__ = ["Reach", "beyond", "reaches"]

SPLINES = ("bs", "cr", "tp")
BOUNDS = ("lower_bound", "upper_bound")  # knots beyond the rows, where a formula sets them
ROUNDING = 1e-9  # of the range of a column


class Reach(NamedTuple):
    """Where a spline has its outer knots.

    Args:
        term: the spline, as in the formula.
        of: what it is a spline of.
        low: its least knot.
        high: its largest one.
        argument: what computes the values of rows.
        env: where functions are found.
    """

    term: str
    of: str
    low: float
    high: float
    argument: Any
    env: Any


def reaches(matrix: CommonEffectsMatrix | None, frame: pd.DataFrame) -> list[Reach]:
    """Return where the splines of terms have their outer knots.

    Args:
        matrix: the terms, after they have learned.
        frame: the rows that they learned of.
    """
    found = []
    for call, env in _calls(matrix):
        if call.callee not in SPLINES:
            continue
        argument = [*call.args, *(v for name, v in call.kwargs.items() if name == "x")][0]
        given = [call.kwargs[name].eval(frame, env) for name in BOUNDS if name in call.kwargs]
        values = np.concatenate([_values(argument, frame, env), [v for v in given if v is not None]])
        found.append(Reach(str(call), str(argument), values.min(), values.max(), argument, env))
    return found


def beyond(known: list[Reach], frame: pd.DataFrame, rows: NDArray[np.int64]) -> dict[str, str]:
    """Return what there is to say of splines with rows beyond their outer knots, by term.

    Args:
        known: where the splines have these.
        frame: new rows.
        rows: the numbers that a message gives them.
    """
    out = {}
    for one in known:
        values = _values(one.argument, frame, one.env)
        far = np.maximum(one.low - values, values - one.high)
        outside = far > ROUNDING * max(one.high - one.low, abs(one.low), abs(one.high))
        if outside.any():
            worst = int(np.argmax(far))
            out[one.term] = (
                f"term {one.term!r}: expected {one.of} from {one.low:g} to {one.high:g}, as in the training rows, got "
                f"{outside.sum()} of {len(values)} rows beyond, {values[worst]:g} in row {rows[worst]}: no row says "
                "how the curve goes on there"
            )
    return out


def _calls(matrix: CommonEffectsMatrix | None) -> Iterator[tuple[LazyCall, Any]]:
    """Yield all functions that terms name, those inside others too."""
    for term in () if matrix is None else matrix.terms.values():
        for part in getattr(term, "components", ()):
            if isinstance(part, Call):
                yield from ((call, part.env) for call in _inside(part.call))


def _inside(part: Any) -> Iterator[LazyCall]:
    if isinstance(part, LazyCall):
        yield part
        inner = [*part.args, *part.kwargs.values()]
    else:
        inner = list(getattr(part, "args", []))  # of an operator
    for one in inner:
        yield from _inside(one)


def _values(argument: Any, frame: pd.DataFrame, env: Any) -> NDArray[np.float64]:
    return np.asarray(argument.eval(frame, env), dtype=np.float64).ravel()
