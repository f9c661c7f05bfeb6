"""Columns that the terms of a formula become, made by `formulae`, and its refusals in one line that names the terms.

Names in a formula are columns and the functions of `FUNCTIONS`, and nothing else.
"""

from __future__ import annotations

import re
import threading
import warnings
from typing import Any

import numpy as np
import pandas as pd
from formulae import design_matrices
from formulae.environment import Environment
from formulae.matrices import CommonEffectsMatrix
from formulae.model_description import model_description
from numpy.typing import NDArray

from ebmeta.formula.elsewhere import term_here
from ebmeta.formula.knots import Reach, beyond, reaches
from ebmeta.formula.syntax import parsed
from ebmeta.foundation.telling import named

__all__ = ["FUNCTIONS", "Terms", "asked", "tidy", "variables"]

Array = NDArray[np.float64]

#: Functions that a formula may name, next to those of `formulae` such as `poly`, `bs` and `scale`.
FUNCTIONS: dict[str, Any] = {
    name: getattr(np, name) for name in ("log", "log2", "log10", "log1p", "exp", "expm1", "sqrt", "abs", "sin", "cos")
}


class _NumPy:
    """NumPy by the names in it, which pickles, as a module does not."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(np, name)


ENVIRONMENT = Environment([{"np": _NumPy(), **FUNCTIONS}])
INTERCEPT, NONE, CONSTANT = "1", "0", "Intercept"  # in a formula, and the name of its column
LOCK = threading.Lock()
FINITE = "term {name!r}: expected finite numbers, got {value} in row {row}"
CHECKED, CLOSE = 128, 1e-8  # rows that are computed again, and how far of the largest value they may be off
#: Parts of what `formulae` says, and what is said here.
SAID = {
    "unrecognized type": "a column of neither numbers, texts nor categories (of times, make a column of days or years "
    "first)",
    "need at least one array": "a product with a category of one level (leave it out)",
    "no attribute 'callee'": "a function of a function before another call of it (write log(b) + log(exp(a)), and not "
    "the other way round)",
}


class Terms:
    """Columns of a sum of terms.

    Args:
        text: the terms.
        frame: complete training rows.
        finite: what an error says of a number that is not finite.

    Raises:
        ValueError: if they cannot be computed, a number is not finite, or the value of a row depends on other rows.
    """

    def __init__(self, text: str, frame: pd.DataFrame, finite: str = FINITE) -> None:
        self.text, self.plain, self.finite = text, _plain(text, frame), finite
        self.matrix: CommonEffectsMatrix | None = None
        self.names: list[str] = []
        self.widths: list[int] = []
        self.offsets: list[str] = []
        self.reaches: list[Reach] = []
        if self.plain is not None:
            self.names, self.widths = self.plain, [1] * len(self.plain)
            self.values = self._stacked(self.plain, frame)
            return
        ordered = _in_floats(text, frame)
        for column, kind in frame.dtypes.items():
            if isinstance(kind, pd.CategoricalDtype):
                ordered[column] = frame[column].cat.as_ordered()  # or the reference is the first in the alphabet
        self.matrix = asked(text, lambda: _design(text, ordered).common)
        terms = {} if self.matrix is None else self.matrix.terms
        self.offsets = [name for name, term in terms.items() if term.kind == "offset"]
        for name, term in terms.items():
            if name not in self.offsets:
                self.names += term.labels
                self.widths.append(len(term.labels))
        self.reaches = reaches(self.matrix, ordered)
        self._check_alone(frame)

    def first(self, length: int) -> tuple[Array, Array]:
        """Return the columns of the training rows, and the sum of the offsets among them."""
        return self._columns(self.matrix, length) if self.plain is None else (self.values, np.zeros(length))

    def new(self, frame: pd.DataFrame) -> tuple[Array, Array]:
        """Return those of new rows."""
        if not len(frame):  # which `formulae` does not take
            return np.zeros((0, len(self.names))), np.zeros(0)
        if self.plain is not None:
            return self._stacked(self.plain, frame), np.zeros(len(frame))
        matrix, rows = self.matrix, _in_floats(self.text, frame)
        return self._columns(
            None if matrix is None else asked(self.text, lambda: matrix.evaluate_new_data(rows)), len(frame)
        )

    def beyond(self, frame: pd.DataFrame, rows: NDArray[np.int64]) -> dict[str, str]:
        """Return what there is to say of new rows beyond the outer knots of splines; as `knots.beyond`."""
        return beyond(self.reaches, _in_floats(self.text, frame), rows) if self.reaches else {}

    def _stacked(self, plain: list[str], frame: pd.DataFrame) -> Array:
        out = np.ones((len(frame), len(plain)))
        for place, name in enumerate(plain):
            if name != CONSTANT:
                out[:, place] = frame[name]
        return self._finite(out)

    def _finite(self, x: Array) -> Array:
        if not np.isfinite(x).all():
            row, column = (int(v[0]) for v in np.nonzero(~np.isfinite(x)))
            raise ValueError(self.finite.format(name=self.names[column], value=x[row, column], row=row))
        return x

    def _columns(self, matrix: CommonEffectsMatrix | None, length: int) -> tuple[Array, Array]:
        x, offset = np.zeros((length, len(self.names))), np.zeros(length)
        if matrix is None:
            return x, offset
        if np.iscomplexobj(matrix.design_matrix):
            raise ValueError(f"terms {self.text!r}: expected real numbers, got complex ones")
        values, start = np.asarray(matrix.design_matrix, dtype=np.float64).reshape(length, -1), 0
        for name, part in matrix.slices.items():
            if name in self.offsets:
                offset += values[:, part].sum(1)
                continue
            width = part.stop - part.start
            if width != len(matrix.terms[name].labels):
                raise ValueError(f"term {name!r}: expected no product or sum next to a slash (write a + a:b for a/b)")
            x[:, start : start + width] = values[:, part]
            start += width
        return self._finite(x), offset

    def _check_alone(self, frame: pd.DataFrame) -> None:
        """Raise `ValueError` where the value of a row is another one next to other rows."""
        some = np.arange(len(frame))[::-2][:CHECKED]
        whole = np.column_stack(self.first(len(frame)))
        try:
            part = np.column_stack(self.new(frame.iloc[some]))
        except ValueError:  # as of draws of one number for each training row
            part = np.full((len(some), whole.shape[1]), np.inf)
        apart = (np.abs(part - whole[some]) > CLOSE * np.abs(whole).max(0, initial=0.0)).any(0)
        if apart.any():
            name = [*self.names, *self.offsets][int(np.argmax(apart))] if np.isfinite(part).all() else self.text
            raise ValueError(
                f"term {name!r}: expected a value of each row by itself, got one that depends on the other rows (make "
                "a column of it; scale, center, poly and bs keep what they learn of the training rows)"
            )


def _plain(text: str, frame: pd.DataFrame) -> list[str] | None:
    """Return the names of the terms of nothing but columns of numbers, as `1 + a` or `0 + a + b`; None for others."""
    parts = [part.strip() for part in text.split("+")]
    names = parts[1:] if parts[0] in (INTERCEPT, NONE) else parts
    known = all(name.isidentifier() and name in frame.columns and frame[name].dtype.kind in "iuf" for name in names)
    constant = [] if parts[0] == NONE else [CONSTANT]
    return [*constant, *names] if known and len(set(names)) == len(names) else None


def _in_floats(text: str, frame: pd.DataFrame) -> pd.DataFrame:
    """Return rows whose numbers have 64 bits, so that `I(a - b)` of small ones does not wrap; names as `C(a)` stay."""
    out = frame.copy(deep=False)
    for column, kind in frame.dtypes.items():
        named = re.search(rf"\b[CST]\(\s*`?{re.escape(str(column))}`?\s*[,)]", text)
        if kind.kind in "iuf" and named is None:
            out[column] = frame[column].astype(np.float64)
    return out


def tidy(frame: pd.DataFrame, groups: list[tuple[str, ...]]) -> pd.DataFrame:
    """Return rows numbered from 0, with numbers where columns hold numbers, and without categories that have no row."""
    out, names = frame.reset_index(drop=True).infer_objects(), {name for factor in groups for name in factor}
    for column, kind in out.dtypes.items():
        if isinstance(kind, pd.CategoricalDtype):
            out[column] = out[column].cat.remove_unused_categories()
        elif column not in names and (
            pd.api.types.is_bool_dtype(kind)
            or (not isinstance(kind, np.dtype) and pd.api.types.is_numeric_dtype(kind))
            or (kind.kind == "O" and pd.api.types.infer_dtype(out[column]) == "decimal")  # as data bases have them
        ):
            out[column] = out[column].to_numpy(dtype=np.float64, na_value=np.nan)
    return out


def variables(text: str, frame: pd.DataFrame) -> list[str]:
    """Return the columns that a text of terms names."""
    if text.strip() == INTERCEPT:
        return []
    simple = text.isidentifier() and text in frame.columns
    names = [text] if simple else sorted(str(n) for n in asked(text, lambda: _described(text)) if n)
    for name in names:
        if name == CONSTANT:
            raise ValueError(f"formula: expected names of columns but that of the constant, got {name!r} (rename it)")
        if name not in frame.columns and name not in FUNCTIONS:
            raise ValueError(
                f"formula: expected names of columns, got {name!r}, and the columns are {named(frame.columns)}"
                f"{term_here(text)}"
            )
    return [n for n in names if n in frame.columns]


def _described(text: str) -> set[Any]:
    parsed(text)
    found: set[Any] = model_description(text).var_names
    return found


def _design(text: str, frame: pd.DataFrame) -> Any:
    parsed(text, levels=False)
    with LOCK, warnings.catch_warnings():  # which belong to the process and not to a thread
        warnings.simplefilter("ignore")  # of pandas, inside formulae
        return design_matrices(text, frame, na_action="pass", env=ENVIRONMENT)


def asked(text: str, question: Any) -> Any:
    """Return an answer of `formulae`; what it refuses is refused in one line that names the terms."""
    try:
        return question()
    except KeyError as error:
        raise ValueError(
            f"formula: expected names of columns or functions in {text!r}, got {error.args[0]!r}{term_here(text)}"
        ) from None
    except Exception as error:  # of a parser, of functions that a formula names
        plain = f"{' '.join(str(error).split()):.150}{term_here(text)}"
        said = next((here for theirs, here in SAID.items() if theirs in str(error)), plain)
        raise ValueError(f"formula: expected terms that can be computed, got {text!r}: {said}") from None
