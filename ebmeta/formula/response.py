"""The response of a formula: labels, and the trials of those that are successes, of training rows and of new ones.

What functions such as `scale` learn of the training rows is kept for new ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import pandas as pd
from formulae.expr import Call, QuotedName, Variable
from numpy.typing import NDArray

from ebmeta.formula.syntax import parsed
from ebmeta.formula.terms import Terms, asked, variables

__all__ = ["COUNTS", "Response", "columns_of_response"]

Array = NDArray[np.float64]

#: Functions of successes and of failures or trials.
COUNTS = ("cbind", "prop", "p", "proportion")
FINITE = "labels: expected finite numbers, got {value} of {name!r} in row {row}"


class Response:
    """Labels and trials.

    Args:
        text: the left side of a formula.
        frame: labelled training rows.

    Raises:
        ValueError: if the text is no column, function of columns or count of successes, or its values are no labels.

    Examples:
        >>> rows = pd.DataFrame({"sick": [1.0, 3.0], "of": [20.0, 10.0]})
        >>> Response("prop(sick, of)", rows).first
        (array([1., 3.]), array([20., 10.]))
    """

    def __init__(self, text: str, frame: pd.DataFrame) -> None:
        self.counts, arguments = _arguments(text)
        self.parts = [_part(argument, frame, self.counts is not None) for argument in arguments]
        self.numeric = [c for part in self.parts for c in part.columns if frame[c].dtype.kind in "iufb"]
        #: Labels and trials of the training rows.
        self.first = self._joined([part.new(frame) for part in self.parts])

    @property
    def levels(self) -> list[Any] | None:
        """Names of labels that are ordered categories; None for other labels."""
        return self.parts[0].levels

    def new(self, frame: pd.DataFrame) -> tuple[Array, Array | None]:
        """Return labels and trials of new rows that have all columns of the response."""
        for column in self.numeric:
            if frame[column].dtype.kind not in "iufb":
                raise ValueError(
                    f"column {column!r}: expected numbers as in the training rows, got {frame[column].dtype}"
                )
        return self._joined([part.new(frame) for part in self.parts])

    def trials(self, frame: pd.DataFrame) -> Array | None:
        """Return trials of rows with or without labels, 1 where nothing says how many; None for other labels.

        Args:
            frame: rows, which may lack some of the columns.
        """
        if self.counts is None:
            return None
        trials, part = np.ones(len(frame)), self.parts[-1]
        if self.counts != "cbind" and set(part.columns) <= set(frame.columns):
            known = ~frame[part.columns].isna().any(axis=1).to_numpy()
            if known.any():
                trials[known] = part.new(frame[known])
        return trials

    def _joined(self, values: list[Array]) -> tuple[Array, Array | None]:
        if self.counts is None:
            return values[0], None
        return values[0], values[0] + values[1] if self.counts == "cbind" else values[1]


def columns_of_response(text: str, frame: pd.DataFrame) -> list[str]:
    """Return the columns that a response names.

    Raises:
        ValueError: if it names one that the frame lacks, or is no response.
    """
    counts, arguments = _arguments(text)
    return list(dict.fromkeys(c for part in arguments for c in _columns(part, frame, counts is not None)))


def _arguments(text: str) -> tuple[str | None, list[str]]:
    """Return the function of counts that a response is, None where it is none, and its arguments."""
    head, _, rest = text.partition("(")
    if head.strip() not in COUNTS or not rest.endswith(")"):
        return None, [text.strip()]
    parts = [part.strip() for part in rest[:-1].split(",")]
    if len(parts) != 2:
        raise ValueError(f"formula: expected two columns in {text!r}, such as cbind(successes, failures)")
    return head.strip(), parts


def _columns(argument: str, frame: pd.DataFrame, called: bool) -> list[str]:
    if argument.isdigit():
        return []
    return variables(f"I({argument})" if called else argument, frame)


class _Part(ABC):
    """Numbers of rows from one argument of a response.

    Args:
        text: the argument.
        columns: of it.
    """

    #: Names of the numbers 0, 1, ... where they are ordered categories.
    levels: list[Any] | None = None

    def __init__(self, text: str, columns: list[str]) -> None:
        self.text, self.columns = text, columns

    @abstractmethod
    def new(self, frame: pd.DataFrame) -> Array:
        """Return the numbers of rows that have the columns."""


class _Constant(_Part):
    """The same number in every row."""

    def new(self, frame: pd.DataFrame) -> Array:
        return np.full(len(frame), float(self.text))


class _Computed(_Part):
    """A column, or a function of columns."""

    def __init__(self, text: str, columns: list[str], frame: pd.DataFrame) -> None:
        super().__init__(text, columns)
        if any(np.iscomplexobj(frame[column]) for column in columns):
            raise ValueError(f"labels: expected real numbers, got complex ones in {text!r}")
        self.terms = Terms(f"0 + {text}", frame, FINITE)
        if len(self.terms.names) != 1:
            raise ValueError(f"labels: expected one column, got {len(self.terms.names)} in {text!r}")

    def new(self, frame: pd.DataFrame) -> Array:
        return self.terms.new(frame)[0][:, 0]


class _Category(_Part):
    """1 where a column has one of its values, and 0 elsewhere."""

    def __init__(self, text: str, column: str, value: str, frame: pd.DataFrame) -> None:
        super().__init__(text, [column])
        self.value, self.known = value, _distinct(frame[column])
        if value not in self.known:
            raise ValueError(
                f"labels: expected a value of column {column!r} in brackets, such as {self.known[-1]!r}, got {value!r}"
            )

    def new(self, frame: pd.DataFrame) -> Array:
        column = frame[self.columns[0]]
        _refuse_unknown(column, self.known)
        return np.where(column == self.value, 1.0, 0.0)


class _Grades(_Part):
    """The number of an ordered category."""

    def __init__(self, text: str, column: str, frame: pd.DataFrame) -> None:
        super().__init__(text, [column])
        self.levels = self.known = frame[column].cat.categories.tolist()

    def new(self, frame: pd.DataFrame) -> Array:
        column = frame[self.columns[0]]
        _refuse_unknown(column, self.known)
        return np.array(pd.Index(self.known).get_indexer(pd.Index(column.to_numpy())), dtype=np.float64)


def _part(text: str, frame: pd.DataFrame, called: bool) -> _Part:
    if text.isdigit():
        return _Constant(text, [])
    expression = asked(text, lambda: parsed(text))
    columns = _columns(text, frame, called)
    if not isinstance(expression, Call | Variable | QuotedName):
        if not called:
            raise ValueError(
                f"formula: expected a column or a function of columns on the left, got {text!r} (write I({text}) for "
                "numbers, and prop(successes, trials) for shares)"
            )
        return _Computed(f"I({text})", columns, frame)
    if isinstance(expression, Call):
        return _Computed(text, columns, frame)
    column = frame[columns[0]]
    if isinstance(expression, Variable) and expression.level is not None:
        return _Category(text, columns[0], expression.level.value, frame)
    if isinstance(column.dtype, pd.CategoricalDtype) and column.cat.ordered and not called:
        return _Grades(text, columns[0], frame)
    if column.dtype.kind not in "iufcb":
        raise ValueError(f"labels: expected numbers, got texts in {text!r}{_for_texts(text, column)}")
    return _Computed(text, columns, frame)


def _for_texts(text: str, column: pd.Series[Any]) -> str:
    """Return what to write for labels that are texts, in brackets."""
    known = _distinct(column)
    words = f"write {text}[{known[-1]!r}] for 1 where it is {known[-1]!r} and 0 elsewhere"
    if len(known) > 2:
        words += f", or tell their order by pd.Categorical(data[{column.name!r}], [...], ordered=True) or --levels"
    return f" ({words})"


def _distinct(column: pd.Series[Any]) -> list[Any]:
    values = column.unique().tolist()
    return values if len({type(v) for v in values}) > 1 else sorted(values)


def _refuse_unknown(column: pd.Series[Any], known: list[Any]) -> None:
    """Raise `ValueError` where a value is none of the training rows."""
    strange = ~column.isin(known).to_numpy()
    if strange.any():
        raise ValueError(
            f"labels: expected categories among {', '.join(str(level) for level in known)}, as in the "
            f"training rows, got {column.to_numpy()[int(np.argmax(strange))]!r}"
        )
