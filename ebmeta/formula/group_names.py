"""Names of groups, by which new rows find the groups of the fit.

A name is what the column holds, and for a combination of columns the text of all names, with `:` between them. Names
that are equal but for their type, such as 1 and "1", are never two groups and never one: they are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ebmeta.tasks.keys import WRITTEN_MISSING, kind_of_keys, plain, refuse_inexact

__all__ = ["Names", "coded", "placed"]

Codes = NDArray[np.int64]
#: The distinct names that each column of groups has.
Names = Mapping[str, Sequence[Any]]
TRUTH, NUMBER = "truth value", "number"  # kinds of keys


def coded(
    factor: Sequence[str], frame: pd.DataFrame, known: Names
) -> tuple[Codes, NDArray[np.object_], dict[str, list[Any]]]:
    """Return the number of the group of each row, names of the groups in the order of the rows, and those of columns.

    Args:
        factor: columns whose combinations are the groups.
        frame: complete rows.
        known: names that the columns had in the fit; none where this is the fit.

    Raises:
        ValueError: if a name is missing or not hashable, or is one of two types.

    Examples:
        >>> frame = pd.DataFrame({"school": [3.0, 3.0, 4.0], "class": ["a", "b", "a"]})
        >>> codes, labels, _ = coded(["school", "class"], frame, {})
        >>> codes.tolist(), labels.tolist()
        ([0, 1, 2], ['3:a', '3:b', '4:a'])
    """
    parts = {name: _column(name, frame[name], known.get(name, ())) for name in factor}
    own = {name: names for name, (_, names) in parts.items()}
    if len(factor) == 1:
        codes, names = parts[factor[0]]
        return codes, _objects(names), own
    joint, labels = np.zeros(len(frame), dtype=np.int64), [""]
    for place, (codes, names) in enumerate(parts.values()):
        numbers, firsts = pd.factorize(joint * len(names) + codes)
        texts = [_spelled(name).replace("\\", "\\\\").replace(":", "\\:") for name in names]  # or two may be alike
        pairs = (divmod(int(v), len(names)) for v in firsts)
        labels = [f"{labels[a]}:{texts[b]}" if place else texts[b] for a, b in pairs]
        joint = numbers.astype(np.int64)
    return joint, _objects(labels), own


def placed(codes: Codes, names: NDArray[np.object_], known: NDArray[np.object_] | None) -> tuple[Codes, NDArray[Any]]:
    """Return codes and names, the known ones first, or sorted where none are known."""
    if known is None:
        try:
            order = np.argsort(names, kind="stable")
        except TypeError:  # names of several types
            order = np.arange(len(names))
        place = np.empty(len(names), dtype=np.int64)
        place[order] = np.arange(len(names))
        return place[codes], names[order]
    where = {name: i for i, name in enumerate(known.tolist())}
    fresh = [n for n in names.tolist() if n not in where]
    where |= {name: len(known) + i for i, name in enumerate(fresh)}
    place = np.array([where[n] for n in names.tolist()], dtype=np.int64)
    return place[codes], _objects([*known.tolist(), *fresh])


def _column(name: str, column: pd.Series[Any], known: Sequence[Any]) -> tuple[Codes, list[Any]]:
    values = column.to_numpy() if column.dtype.kind in "iub" else np.asarray(column, dtype=object)
    try:
        codes, found = pd.factorize(values, sort=False)
    except TypeError:
        row = next(i for i, v in enumerate(values) if not pd.api.types.is_hashable(v))
        raise ValueError(f"column {name!r}: expected names of groups, got {values[row]!r:.40} in row {row}") from None
    names: list[Any] = found.tolist()
    refuse_inexact(f"column {name!r}", column if column.dtype.kind == "f" else names)
    if not set(map(type, names)) <= {int, str}:  # of many groups nearly always
        names = [plain(v) for v in names]
    if missing := [v for v in names if isinstance(v, str) and (v in WRITTEN_MISSING or not v.strip())]:
        raise ValueError(
            f"column {name!r}: expected a group in every row, got the text {missing[0]!r} in row "
            f"{int(np.argmax(codes == names.index(missing[0])))}, which is what becomes of a missing value among texts"
        )
    _refuse_other_types(name, names, names, "in other rows")
    _refuse_other_types(name, names, known, "in the fit")
    return codes.astype(np.int64), names


def _refuse_other_types(name: str, names: Sequence[Any], known: Sequence[Any], where: str) -> None:
    """Raise `ValueError` where a name is a known one in another type, such as the text of a number."""
    if (types := set(map(type, names)) | set(map(type, known))) <= {int, float} or len(types) == 1:
        return
    spelled = {_spelled(other): other for other in reversed(known)}
    kinds = {kind_of_keys([other]) for other in known}
    for one in names:
        kind = kind_of_keys([one])
        wanted = kind_of_keys([spelled.get(_spelled(one), one)])
        if {kind, *kinds} == {TRUTH, NUMBER} and kind not in kinds:  # 1 is True for Python
            wanted = TRUTH if kind == NUMBER else NUMBER
        if kind != wanted:
            got = f"the {kind} {one!r}" if kind in (TRUTH, "text") else repr(one)
            raise ValueError(f"column {name!r}: expected group {_spelled(one)} to be a {wanted}, as {where}, got {got}")


def _spelled(name: Any) -> str:
    return str(int(name)) if isinstance(name, float) and name.is_integer() else str(name)


def _objects(values: Sequence[Any]) -> NDArray[np.object_]:
    out = np.empty(len(values), dtype=object)
    out[:] = list(values)
    return out
