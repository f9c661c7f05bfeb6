"""Columns that the terms of a formula become, made by `formulae`, and its refusals in one line that names the terms.

Names in a formula are columns and the functions of `FUNCTIONS`, and nothing else.
"""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from formulae import design_matrices
from formulae.environment import Environment
from formulae.matrices import CommonEffectsMatrix
from formulae.model_description import model_description
from formulae.parser import Parser
from formulae.scanner import Scanner
from numpy.typing import NDArray

from ebmeta.mixed.elsewhere import term_here

__all__ = ["FUNCTIONS", "Terms", "response_of", "some_names", "tidy", "trials_of", "variables"]

Array = NDArray[np.float64]

#: Functions that a formula may name, next to those of `formulae` such as `poly`, `bs` and `scale`.
FUNCTIONS: dict[str, Any] = {
    name: getattr(np, name) for name in ("log", "log2", "log10", "log1p", "exp", "expm1", "sqrt", "abs", "sin", "cos")
}
ENVIRONMENT = Environment([{"np": np, **FUNCTIONS}])
INTERCEPT = "1"
LOCK = threading.Lock()
COUNTS = ("cbind", "prop", "p", "proportion")
MOST_SHOWN = 8  # names of columns in a message


class Terms:
    """Columns of a sum of terms.

    Args:
        text: the terms.
        frame: complete training rows.
    """

    def __init__(self, text: str, frame: pd.DataFrame) -> None:
        self.text, self.plain = text, _plain(text, frame)
        self.matrix: CommonEffectsMatrix | None = None
        self.names: list[str] = []
        self.widths: list[int] = []
        self.offsets: list[str] = []
        if self.plain is not None:
            self.names, self.widths = ["Intercept", *self.plain], [1] * (1 + len(self.plain))
            self.values = self._stacked(self.plain, frame)
            return
        self.matrix = _asked(text, lambda: _design(text, frame).common)
        terms = {} if self.matrix is None else self.matrix.terms
        self.offsets = [name for name, term in terms.items() if term.kind == "offset"]
        for name, term in terms.items():
            if name not in self.offsets:
                self.names += term.labels
                self.widths.append(len(term.labels))

    def first(self, length: int) -> tuple[Array, Array]:
        """Return the columns of the training rows, and the sum of the offsets among them."""
        return self._columns(self.matrix, length) if self.plain is None else (self.values, np.zeros(length))

    def new(self, frame: pd.DataFrame) -> tuple[Array, Array]:
        """Return those of new rows."""
        if self.plain is not None:
            return self._stacked(self.plain, frame), np.zeros(len(frame))
        matrix = self.matrix
        return self._columns(
            None if matrix is None else _asked(self.text, lambda: matrix.evaluate_new_data(frame)), len(frame)
        )

    def _stacked(self, plain: list[str], frame: pd.DataFrame) -> Array:
        return self._finite(np.column_stack([np.ones(len(frame)), *(frame[n].to_numpy(dtype=float) for n in plain)]))

    def _finite(self, x: Array) -> Array:
        if not np.isfinite(x).all():
            row, column = (int(v[0]) for v in np.nonzero(~np.isfinite(x)))
            raise ValueError(f"term {self.names[column]!r}: expected finite numbers, got {x[row, column]} in row {row}")
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
            x[:, start : start + width] = values[:, part]
            start += width
        return self._finite(x), offset


def _plain(text: str, frame: pd.DataFrame) -> list[str] | None:
    """Return the columns that a sum of nothing but columns of numbers names, as `1 + a + b`; None for other terms."""
    parts = [part.strip() for part in text.split("+")]
    names = parts[1:] if parts[0] == INTERCEPT else parts
    known = all(name.isidentifier() and name in frame.columns and frame[name].dtype.kind in "iuf" for name in names)
    return names if known and len(set(names)) == len(names) else None


def tidy(frame: pd.DataFrame, groups: list[tuple[str, ...]]) -> pd.DataFrame:
    """Return rows numbered from 0, with numbers where columns hold numbers, and without categories that have no row."""
    out, names = frame.reset_index(drop=True).infer_objects(), {name for factor in groups for name in factor}
    for column, kind in out.dtypes.items():
        if isinstance(kind, pd.CategoricalDtype):
            out[column] = out[column].cat.remove_unused_categories()
        elif column not in names and (
            pd.api.types.is_bool_dtype(kind) or (not isinstance(kind, np.dtype) and pd.api.types.is_numeric_dtype(kind))
        ):
            out[column] = out[column].to_numpy(dtype=np.float64, na_value=np.nan)
    return out


def some_names(frame: pd.DataFrame) -> str:
    """Return the first names of columns, for a message."""
    names = [str(c) for c in frame.columns]
    return ", ".join(names[:MOST_SHOWN]) + (", ..." if len(names) > MOST_SHOWN else "")


def variables(text: str, frame: pd.DataFrame) -> list[str]:
    """Return the columns that a text of terms names."""
    if text.strip() == INTERCEPT:
        return []
    if text.isidentifier() and text in frame.columns:
        return [text]
    inner = text.partition("(")[2].rpartition(")")[0] if text.partition("(")[0].strip() in COUNTS else text
    parts = [part for part in inner.split(",") if part.strip()] if inner is not text else [text]
    names: dict[str, None] = {}
    for part in parts:
        wrapped = part if inner is text else f"I({part})"
        names |= dict.fromkeys(
            sorted(str(n) for n in _asked(text, lambda w=wrapped: model_description(w).var_names) if n)
        )
    for name in names:
        if name not in frame.columns and name not in FUNCTIONS:
            raise ValueError(
                f"formula: expected names of columns, got {name!r}, and the columns are {some_names(frame)}"
                f"{term_here(text)}"
            )
    return [n for n in names if n in frame.columns]


def _design(text: str, frame: pd.DataFrame) -> Any:
    parser = Parser(Scanner(text).scan())
    parser.parse()
    if not parser.at_end():  # what follows would be left out without a word
        raise ValueError(f"expected an operator before {parser.peek().lexeme!r}")
    with LOCK, warnings.catch_warnings():  # which belong to the process and not to a thread
        warnings.simplefilter("ignore")  # of pandas, inside formulae
        return design_matrices(text, frame, na_action="pass", env=ENVIRONMENT)


def _asked(text: str, question: Any) -> Any:
    """Return an answer of `formulae`; what it refuses is refused in one line that names the terms."""
    try:
        return question()
    except KeyError as error:
        raise ValueError(
            f"formula: expected names of columns or functions in {text!r}, got {error.args[0]!r}{term_here(text)}"
        ) from None
    except Exception as error:  # of a parser, of functions that a formula names
        said = f"{' '.join(str(error).split()):.150}{term_here(text)}"
        raise ValueError(f"formula: expected terms that can be computed, got {text!r}: {said}") from None


def trials_of(text: str, names: list[str], frame: pd.DataFrame) -> Array | None:
    """Return trials of rows with or without labels, 1 where nothing says how many; None for other responses.

    Args:
        text: the response.
        names: columns of it.
        frame: rows, which may lack some of them.

    Examples:
        >>> trials_of("prop(sick, of)", ["sick", "of"], pd.DataFrame({"of": [20.0, np.nan]}))
        array([20.,  1.])
    """
    head, _, rest = text.partition("(")
    if head.strip() not in COUNTS or not rest.endswith(")"):
        return None
    trials, number = np.ones(len(frame)), rest[:-1].split(",")[-1].strip()
    if head.strip() == "cbind":
        return trials
    needed = [name for name in names if re.search(rf"(?<![\w.]){re.escape(name)}(?![\w.])", number)]
    if set(needed) <= set(frame.columns):
        known = ~frame[needed].isna().any(axis=1).to_numpy()
        if known.any():
            trials[known] = response_of(number if number.isdigit() else f"I({number})", frame[known])[0]
    return trials


def response_of(text: str, frame: pd.DataFrame) -> tuple[Array, Array | None]:
    """Return labels, and trials where the response gives them."""
    head, _, rest = text.partition("(")
    if head.strip() in COUNTS and rest.endswith(")"):
        parts = rest[:-1].split(",")
        if len(parts) != 2:
            raise ValueError(f"formula: expected two columns in {text!r}, such as cbind(successes, failures)")
        first, second = (response_of(f"I({part})" if not part.strip().isdigit() else part, frame)[0] for part in parts)
        return first, first + second if head.strip() == "cbind" else second
    if text.strip().isdigit():
        return np.full(len(frame), float(text)), None
    if text.isidentifier() and text in frame.columns and frame[text].dtype.kind in "iuf":
        return _finite(text, np.array(frame[text], dtype=np.float64)), None
    matrix = _asked(text, lambda: _design(f"{text} ~ 1", frame).response)
    if matrix.kind != "numeric" and "[" not in text:
        raise ValueError(f"labels: expected numbers, got texts in {text!r}{_for_texts(text, matrix.levels, frame)}")
    if np.iscomplexobj(matrix.design_matrix):
        raise ValueError(f"labels: expected real numbers, got complex ones in {text!r}")
    values = np.array(matrix.design_matrix, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"labels: expected one column, got {values.shape[1]} in {text!r}")
    return _finite(text, values), None


def _for_texts(text: str, levels: Sequence[Any] | None, frame: pd.DataFrame) -> str:
    """Return what to write for labels that are texts, in brackets."""
    if levels is None:
        return ""
    words = f"write {text}[{levels[-1]!r}] for 1 where it is {levels[-1]!r} and 0 elsewhere"
    if text in frame.columns and frame[text].nunique() > 2:
        words += f", or tell their order by pd.Categorical(data[{text!r}], [...], ordered=True) or --levels"
    return f" ({words})"


def _finite(text: str, values: Array) -> Array:
    if not np.isfinite(values).all():
        row = int(np.argmin(np.isfinite(values)))
        raise ValueError(f"labels: expected finite numbers, got {values[row]} of {text!r} in row {row}")
    return values
