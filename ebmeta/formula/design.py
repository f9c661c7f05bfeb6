"""What the columns of a data frame become by a formula, learned from training rows and kept for new ones.

Common terms, and the terms on the left of each bar, become columns: contrasts of categories, interactions, polynomials
and splines with what they learned.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ebmeta.formula.grammar import Formula, parse, quoted
from ebmeta.formula.group_names import coded, placed
from ebmeta.formula.response import Response, columns_of_response
from ebmeta.formula.terms import Terms, tidy, variables
from ebmeta.foundation.checks import found
from ebmeta.foundation.telling import named, tell
from ebmeta.random_effects.rows import Grouping, Rows
from ebmeta.tasks.columns import read_column
from ebmeta.tasks.frame_columns import frame_of, numbers_of, refuse_written_numbers
from ebmeta.tasks.keys import plain
from ebmeta.tasks.row_order import check_order
from ebmeta.tasks.spellings import tell_of_near, tell_of_twins

__all__ = ["Design", "Extras", "rows_of"]

Array = NDArray[np.float64]


class Extras(NamedTuple):
    """Columns or values that stand beside the formula.

    Args:
        size: trials, exposure or readings.
        offset: added to the linear predictor.
        weights: how much rows count.
        known_noise: standard deviations of labels.
    """

    size: Any = None
    offset: Any = None
    weights: Any = None
    known_noise: Any = None


class Design:
    """Rows of numbers from the frames of one formula.

    Args:
        formula: text of the form of lme4.
        data: training rows, a frame of pandas, polars or pyarrow.
        given: columns or values beside the formula.
        na: "drop" leaves out rows that lack a value of a term, and "raise" refuses them.

    Raises:
        ValueError: if the formula is none, names a column that the frame lacks, or a column holds what it must not.
    """

    def __init__(self, formula: str, data: Any, given: Extras, na: str) -> None:
        frame = rows_of("data", data)
        self.text, self.given, self.na = formula, given, na
        with quoted(formula, frame.columns):
            self.formula = parse(formula)
            self.columns = _columns_of(self.formula, frame)
            self.response_columns = columns_of_response(self.formula.response, frame)
        texts = self.formula.common, *(bar.terms for bar in self.formula.bars)
        named = {name for text in texts for name in variables(text, frame)}
        #: Columns of grouping factors that no term names.
        self.alone = [name for factor in self.factors for name in factor if name not in named]
        extra = _extra(given, frame, data)
        labelled = ~_missing(frame, self.response_columns)
        complete = ~self._missing(frame, extra)
        self.kept = complete & labelled
        some: slice | NDArray[np.bool_] = slice(None) if self.kept.all() else self.kept
        self.index = (data.index if isinstance(data, pd.DataFrame) else frame.index)[some]
        self.num_rows, self.num_dropped, self.num_unlabelled = (
            len(frame),
            int((~complete).sum()),
            int((complete & ~labelled).sum()),
        )
        if not self.kept.any():
            raise ValueError(f"data: expected rows with a value of every term and a label, got none of {len(frame)}")
        known = frame.columns.tolist()
        places = [known.index(name) for name in dict.fromkeys([*self.columns, *self.response_columns])]
        used = tidy(frame.take(places, axis=1)[some], self.factors)
        self.used = used
        groups = {name for factor in self.factors for name in factor}
        self.numeric = [c for c in self.columns if c not in groups and pd.api.types.is_numeric_dtype(used[c])]
        self.common = Terms(self.formula.common, used)
        self.bars = [(bar, Terms(bar.terms, used)) for bar in self.formula.bars]
        for bar, terms in self.bars:
            if not terms.names:
                raise ValueError(
                    f"formula: expected terms on the left of the bar, as in (1 | g), got ({bar.terms} | ...)"
                )
            if terms.offsets:  # of all rows, and of no group
                raise ValueError(
                    f"formula: expected {terms.offsets[0]} among the common terms, got it in ({bar.terms} | ...)"
                )
        for text in dict.fromkeys(texts):
            _tell_of_truth_values(text, frame, used)
        self.response = Response(self.formula.response, used)
        labels, trials = self.response.first
        if trials is not None and given.size is not None:
            raise ValueError(f"size: expected none next to {self.formula.response!r}, which gives the trials")
        for name in ("size", "weights") if given.known_noise is not None else ():
            if getattr(given, name) is not None:
                raise ValueError(f"{name}: expected none next to known_noise, which says how sure a label is, got some")
        self.labels: dict[tuple[str, ...], NDArray[np.object_]] = {}
        self.names: dict[str, list[Any]] = {}
        self.extra = extra[some]
        self.rows = self._rows(used, self.extra, labels, trials, new=False)

    @property
    def factors(self) -> list[tuple[str, ...]]:
        """Columns of every grouping factor, in the order of the formula."""
        return list(dict.fromkeys(bar.factor for bar in self.formula.bars))

    def terms_of(self, factor: tuple[str, ...]) -> tuple[list[str], list[int]]:
        """Return the names of the random terms of a grouping factor, and the number of terms of each block."""
        names, blocks = [], []
        for bar, terms in self.bars:
            if bar.factor == factor:
                names += terms.names
                blocks += [len(terms.names)] if bar.correlated else terms.widths
        if twice := [n for n in dict.fromkeys(names) if names.count(n) > 1]:
            raise ValueError(
                f"random term {twice[0]!r} of {':'.join(factor)!r}: expected it once, got it in several bars (write "
                "(0 + x | g) for a bar without an intercept)"
            )
        return names, blocks

    def given_to(self, **given: Any) -> Extras:
        """Return the columns or values beside the formula of new rows, those of the fit where none are given.

        Args:
            given: all but `weights`.

        Raises:
            ValueError: if the fit had some that are no column, and there are none, or new rows have what it had not.
        """
        for name, new in given.items():
            old = getattr(self.given, name)
            if new is None and old is not None and not isinstance(old, str):
                raise ValueError(f"{name}: expected a column, or a number for each new row as the fit had, got none")
            if name == "known_noise" and new is not None and old is None:
                raise ValueError("known_noise: expected none, as the fit learned the noise of labels, got some")
            given[name] = old if new is None else new
        weights = self.given.weights if isinstance(self.given.weights, str) else None  # else a new row counts once
        return Extras(weights=weights, **given)

    def new(self, data: Any, given: Extras, groups: str = "known") -> tuple[Rows, NDArray[np.bool_]]:
        """Return new rows, their groups numbered after the known ones, and which of the frame's rows they are.

        Args:
            data: rows, with or without labels.
            given: columns or values beside the formula; without the column of weights a row counts once.
            groups: as of `new_rows.as_asked`; names that are almost known are told of where the known ones matter, and
                columns that say no more than typical groups are not needed.

        Raises:
            ValueError: if a column is absent, or holds what training rows did not.
        """
        frame = rows_of("new_data", data)
        if isinstance(given.weights, str) and given.weights not in frame:
            given = given._replace(weights=None)
        if groups == "typical":
            frame = frame.assign(**{name: self.used[name].iloc[0] for name in self.alone if name not in frame})
        for column in self.columns:
            if column not in frame.columns:
                raise ValueError(
                    f"new_data: expected a column {column!r}, which the formula names, got {named(frame.columns)}"
                )
        extra = _extra(given, frame, data)
        whole = ~self._missing(frame, extra)
        used = tidy(frame[whole], self.factors)
        for column in self.numeric:
            if used[column].dtype.kind not in "iufb" and len(used):
                raise ValueError(
                    f"column {column!r}: expected numbers as in the training rows, got {used[column].dtype}"
                )
        labels, trials = np.full(len(used), np.nan), self.response.trials(used)
        if set(self.response_columns) <= set(used.columns):
            known = ~used[self.response_columns].isna().any(axis=1).to_numpy()
            if known.any():
                labels[known], some = self.response.new(used[known])
                if trials is not None and some is not None:
                    trials[known] = some
        rows, where = self._rows(used, extra[whole], labels, trials, new=True), np.flatnonzero(whole)
        parts = [self.common, *(terms for _, terms in self.bars)]
        for said in {term: told for part in parts for term, told in part.beyond(used, where).items()}.values():
            tell(f"new_data: {said}")
        for column in self.names if groups == "known" else ():
            names = map(plain, used[column].unique())
            tell_of_near(names, self.names[column], f"new_data: column {column!r}", "groups")
        return rows, whole

    def _rows(self, used: pd.DataFrame, extra: pd.DataFrame, labels: Array, trials: Array | None, new: bool) -> Rows:
        x, offset = self.common.new(used) if new else self.common.first(len(used))
        groupings = []
        for factor in self.factors:
            codes, names, own = coded(factor, used, self.names)
            codes, names = placed(codes, names, self.labels.get(factor))
            if not new:
                self.labels[factor] = names
                self.names |= own
                for column, known in own.items():
                    tell_of_twins(known, f"column {column!r}", "groups")
            parts = [t.new(used) if new else t.first(len(used)) for bar, t in self.bars if bar.factor == factor]
            groupings.append(Grouping(codes, names, np.concatenate([p[0] for p in parts], 1)))
        columns = {str(c): getattr(self.given, str(c)) for c in extra}  # an error has the name of a column
        values: dict[str, Array] = {
            role: np.array(numbers_of(column if isinstance(column, str) else role, extra[role]))
            for role, column in columns.items()
        }
        for name in {"size", "weights", "known_noise"} & values.keys():
            if (bad := values[name] <= 0).any():
                row = int(np.argmax(bad))
                raise ValueError(f"{name}: expected numbers above 0, got {values[name][row]:g} in row {row}")
        offset = offset + values["offset"] if "offset" in values else offset
        size = trials if trials is not None else values.get("size")
        if "known_noise" in values:
            size = 1 / values["known_noise"] ** 2
        return Rows(labels, x, tuple(groupings), offset, size, values.get("weights"))

    def _missing(self, frame: pd.DataFrame, extra: pd.DataFrame) -> NDArray[np.bool_]:
        """Return where a row lacks a value, or refuse such rows."""
        missing = _missing(frame, self.columns) | _missing(extra, extra.columns.tolist())
        if self.na == "raise" and missing.any():
            row = int(np.argmax(missing))
            column = next(c for table in (frame[self.columns], extra) for c in table if pd.isna(table[c].iloc[row]))
            raise ValueError(
                f"column {column!r}: expected a value in every row, got none in row {row} (na='drop' leaves such rows "
                "out)"
            )
        return missing


def _missing(frame: pd.DataFrame, columns: list[str]) -> NDArray[np.bool_]:
    """Return where a row lacks a value of some columns."""
    out = np.zeros(len(frame), dtype=bool)
    for column in columns:
        out |= np.asarray(pd.isna(frame[column].array))
    return out


def rows_of(name: str, data: Any) -> pd.DataFrame:
    """Return the rows of a frame of pandas, polars or pyarrow, numbered from 0.

    Categories of pandas stand in an order that was chosen; those of other frames are sorted, unless they have one.
    """
    frame = frame_of(name, data)
    if not len(frame):
        raise ValueError(f"{name}: expected at least one row, got none")
    frame = frame.reset_index(drop=True)
    if not isinstance(data, pd.DataFrame):
        for column, kind in frame.dtypes.items():
            if isinstance(kind, pd.CategoricalDtype) and not kind.ordered:
                frame[column] = frame[column].cat.reorder_categories(sorted(kind.categories))
    return frame


def _columns_of(formula: Formula, frame: pd.DataFrame) -> list[str]:
    names = [*variables(formula.common, frame), *(n for bar in formula.bars for n in variables(bar.terms, frame))]
    text = " ".join([formula.common, *(bar.terms for bar in formula.bars)])
    for name in names:
        if f"C({name}" not in text and pd.api.types.infer_dtype(frame[name]) == "string":  # C(x) says what it is
            refuse_written_numbers(name, frame[name])
            _refuse_texts_of_numbers(name, frame[name].dropna())
        if pd.api.types.infer_dtype(frame[name]) in ("string", "categorical"):
            tell_of_twins(frame[name].unique().tolist(), f"column {name!r}", "categories")
    for factor in dict.fromkeys(n for bar in formula.bars for n in bar.factor):
        if factor not in frame.columns:
            raise ValueError(
                f"formula: expected a column as the grouping factor, got {factor!r}, and the columns are "
                f"{named(frame.columns)}"
            )
        names.append(factor)
    return list(dict.fromkeys(names))


def _refuse_texts_of_numbers(name: str, texts: pd.Series[Any]) -> None:
    """Refuse numbers that are texts, most of them different: they would be a category each."""
    numbers = pd.to_numeric(texts.astype(str), errors="coerce")
    if len(texts) and numbers.notna().all() and texts.nunique() > len(texts) / 2:
        raise ValueError(
            f"column {name!r}: expected numbers, or texts that name categories, got {texts.nunique()} different texts "
            f"of numbers in {len(texts)} rows, such as {texts.iloc[0]!r} (C({name}) takes them for categories)"
        )


def _tell_of_truth_values(text: str, frame: pd.DataFrame, used: pd.DataFrame) -> None:
    """Warn where truth values as the numbers 0 and 1 give fewer columns than as the two categories of R."""
    for name in variables(text, frame):
        if not pd.api.types.is_bool_dtype(frame[name]):
            continue
        try:
            kinds = Terms(text, used.assign(**{name: used[name].map({0.0: "False", 1.0: "True"})}))
        except ValueError:  # a function of numbers, which a category is not
            continue
        if len(kinds.names) > len(Terms(text, used).names):
            tell(
                f"column {name!r}: expected an intercept and its main effect in {text!r}, got truth values without, "
                f"which stand for the numbers 0 and 1 (C({name}) takes them for two categories, as R does)"
            )


def _extra(given: Extras, frame: pd.DataFrame, data: Any) -> pd.DataFrame:
    """Return the columns beside the formula, given the rows and the frame that they come from."""
    out = pd.DataFrame(index=frame.index)
    for name, value in given._asdict().items():
        if value is None:
            continue
        if isinstance(value, str):
            if value not in frame.columns:
                raise ValueError(
                    f"{name}: expected the name of a column, got {found(value)}, and the "
                    f"columns are {named(frame.columns)}"
                )
            out[name] = frame[value]
            continue
        if np.ndim(value) == 0 and not isinstance(value, Iterable):
            of = "column of standard deviations" if name == "known_noise" else "column"
            raise ValueError(f"{name}: expected a {of}, or a number for each row, got {found(value)}")
        check_order(data, **{name: value})
        if isinstance(value, Iterator):  # which could be read once
            raise ValueError(f"{name}: expected a column, or a number for each row, got {found(value)}")
        out[name] = read_column(name, value, len(frame))
    return out
