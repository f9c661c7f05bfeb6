"""Encoding of data frames as features, covariates, sizes and groups, learned once and kept.

Frames are those of pandas, polars and pyarrow; columns are found by name, in any order.

Numbers stay as they are. Of a column of texts (or of a pandas categorical) each level but the first becomes a
column of zeros and ones; which levels there are is learned from training rows, and any other is refused later. A
column that never changes is kept where it holds numbers (a model gives it unit 1, so that it adds nothing that the
intercept does not) and becomes no feature where it holds texts. A value that is missing or infinite is refused by
column and row, rows counted from 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ebmeta.foundation.checks import checked, found as shown, kind_of
from ebmeta.foundation.telling import named, tell
from ebmeta.tasks.columns import read_keys
from ebmeta.tasks.frame_columns import frame_of, levels_of, numbers_of, refuse_missing, texts_of
from ebmeta.tasks.frame_files import note_on_ids, row_ids

if TYPE_CHECKING:
    from sklearn.compose import ColumnTransformer

__all__ = ["FrameEncoder"]


Frame = Any  # of pandas, polars or pyarrow
Levels = dict[str, "list[Any] | None"]


COLUMN, OPTIONAL = kind_of(str | int), kind_of(str | int | None)
COLUMNS, ALL = kind_of(Sequence[str | int]), kind_of(Sequence[str | int] | None)


@checked(
    y=COLUMN,
    groups=COLUMN,
    size=kind_of(str | int | None),
    features=COLUMNS,
    group_features=kind_of(Sequence[str | int]),
)
class FrameEncoder:
    """Learn from training rows what the columns of a data frame become; then do the same with new rows.

    Args:
        y: column of the labels.
        groups: column of the groups.
        features: columns of the features; all that have no other role by default. There may be none, for a model of
            intercepts.
        group_features: columns of covariates of the group, the same in all rows of a group.
        size: column of trials, exposure or readings (see `ebmeta.likelihood.Given`).

    Raises:
        ValueError: if a column has two roles.

    Examples:
        >>> frame = pd.DataFrame({"kind": ["a", "b", "c"], "x": [1.0, 2.0, 3.0], "shop": [1, 1, 2], "y": [0, 1, 2]})
        >>> encoder = FrameEncoder("y", "shop").fit(frame)
        >>> encoder.names
        ['kind_b', 'kind_c', 'x']
        >>> encoder.transform(frame)
        array([[0., 0., 1.],
               [1., 0., 2.],
               [0., 1., 3.]])
    """

    def __init__(
        self,
        y: str,
        groups: str,
        features: Sequence[str] | None = None,
        group_features: Sequence[str] = (),
        size: str | None = None,
    ) -> None:
        for name, columns in (("features", features), ("group_features", group_features)):
            if isinstance(columns, str):
                raise ValueError(f"{name}: expected a list of columns, got the text {columns!r}")
        self.y, self.groups, self.size = y, groups, size
        self.features = None if features is None else list(features)
        self.group_features = list(group_features)
        roles = [y, groups, *([] if size is None else [size]), *(self.features or []), *self.group_features]
        if twice := [c for c in dict.fromkeys(roles) if roles.count(c) > 1]:
            raise ValueError(f"columns: expected one role for each, got {twice[0]!r} in several")
        self._levels: tuple[Levels, Levels] = {}, {}
        self._transformers: tuple[Any, Any] | None = None

    def fit(self, frame: Frame) -> FrameEncoder:
        """Learn columns and levels from training rows.

        Raises:
            ValueError: if a column is absent, without any value, or of neither numbers nor texts.
        """
        frame = frame_of("frame", frame)
        if not len(frame):
            raise ValueError("frame: expected at least one row, got none")
        if self.features is None:
            taken = {self.y, self.groups, self.size, *self.group_features}
            if numbering := row_ids(frame, taken):
                tell(
                    f"frame: {', '.join(map(repr, numbering))} numbers the rows and becomes no feature; name columns "
                    "in features= if it is one"
                )
            self.features = [c for c in frame.columns if c not in {*taken, *numbering}]
            if said := note_on_ids(frame, self.features):
                tell(f"frame: {said}")
        of_rows, of_groups = (
            {c: levels_of(c, _column(frame, c)) for c in columns} for columns in (self.features, self.group_features)
        )
        return self._learn(of_rows, of_groups)

    def _learn(self, of_rows: Levels, of_groups: Levels) -> FrameEncoder:
        for levels in (of_rows, of_groups):
            _check_names(levels)
        self._levels = of_rows, of_groups
        self._transformers = _transformer(of_rows), _transformer(of_groups)
        return self

    @property
    def names(self) -> list[str]:
        """Names of the features, in the order of the columns of `transform`."""
        return self._names(0)

    @property
    def group_names(self) -> list[str]:
        """Names of the covariates of a group, in the order of the columns of `group_rows`."""
        return self._names(1)

    def _names(self, which: int) -> list[str]:
        if self._transformers is None:
            raise ValueError("encoder: expected one that was fitted on training rows, got one that was not")
        transformer = self._transformers[which]
        return [] if transformer is None else [str(c) for c in transformer.get_feature_names_out()]

    def numbers_of_features(self, columns: Sequence[str]) -> list[int]:
        """Return the numbers of the features that some columns become, in ascending order.

        Raises:
            ValueError: if one is no column of features.

        Examples:
            >>> frame = pd.DataFrame({"kind": ["a", "b", "c"], "x": [1.0, 2.0, 3.0], "shop": [1, 1, 2], "y": [0, 1, 2]})
            >>> FrameEncoder("y", "shop").fit(frame).numbers_of_features(["kind"])
            [0, 1]
        """
        if absent := [c for c in columns if c not in self._levels[0]]:
            known = ", ".join(map(str, self._levels[0])) or "none"
            raise ValueError(f"columns: expected some of the features, {known}, got {absent[0]!r}")
        owners = [c for c, v in self._levels[0].items() for _ in range(1 if v is None else len(v) - 1)]
        return [place for place, column in enumerate(owners) if column in columns]

    @property
    def texts(self) -> list[str]:
        """Columns that a file has to be read with as they are written: the groups, and features that are texts."""
        known = [c for part in self._levels for c, v in part.items() if v and all(isinstance(t, str) for t in v)]
        return [self.groups, *known]

    def transform(self, frame: Frame) -> NDArray[np.float64]:
        """Return the features of rows, shape `(N, D)`; of the columns, labels may be absent.

        Raises:
            ValueError: if a column is absent, a value is missing, or a level was not in the training rows.
        """
        frame = frame_of("frame", frame)
        return self._apply(0, frame) if self._names(0) else np.zeros((len(frame), 0))

    def group_rows(self, frame: Frame) -> NDArray[np.float64]:
        """Return the covariates of the group of each row, shape `(N, G)`.

        Raises:
            ValueError: as for `transform`, or if they differ within a group.
        """
        frame = frame_of("frame", frame)
        if not self._names(1):
            return np.zeros((len(frame), 0))
        values, labels = self._apply(1, frame), self.labels(frame)
        first = pd.Series(np.arange(len(labels))).groupby(labels).transform("first").to_numpy()
        for column in self.group_features:
            raw = _column(frame, column).to_numpy(dtype=object)
            if (other := raw != raw[first]).any():
                row = int(np.argmax(other))
                raise ValueError(
                    f"group_features: expected one value of {column!r} in all rows of a group, got "
                    f"{raw[first[row]]!r} and {raw[row]!r} in group {labels[row]!r} (rows {first[row]} and {row})"
                )
        return values

    def group_x(self, frame: Frame) -> dict[Any, NDArray[np.float64]] | None:
        """Return the covariates of each group by its label, for `FewShotRegressor.fit`; None where there are none."""
        frame = frame_of("frame", frame)
        if not self.group_features:
            return None
        return dict(zip(self.labels(frame), self.group_rows(frame), strict=True))

    def labels(self, frame: Frame) -> list[Any]:
        """Return the group of each row."""
        column = _column(frame_of("frame", frame), self.groups)
        refuse_missing(self.groups, column)
        return read_keys(f"column {self.groups!r}", column)

    @checked()
    def numbers(self, frame: Frame, column: str) -> NDArray[np.float64]:
        """Return a column of numbers, shape `(N,)`: labels or sizes.

        Raises:
            ValueError: if it is absent or holds something else than finite numbers.
        """
        return numbers_of(column, _column(frame_of("frame", frame), column))

    def _apply(self, which: int, frame: pd.DataFrame) -> NDArray[np.float64]:
        assert self._transformers is not None  # for the type checker: names were asked for
        columns = {}
        for name, levels in self._levels[which].items():
            column = _column(frame, name)
            columns[str(name)] = numbers_of(name, column) if levels is None else texts_of(name, column, levels)
        if not len(frame):
            return np.zeros((0, len(self._names(which))))
        table = pd.DataFrame(columns, index=range(len(frame)))
        out: NDArray[np.float64] = np.asarray(self._transformers[which].transform(table), dtype=np.float64)
        return out

    def config(self) -> dict[str, Any]:
        """Return all that was learned, as strict JSON knows it."""
        self._names(0)
        levels = [[[c, v] for c, v in part.items()] for part in self._levels]
        return {
            "y": self.y,
            "groups": self.groups,
            "size": self.size,
            "features": levels[0],
            "group_features": levels[1],
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> FrameEncoder:
        """Rebuild an encoder from `config`.

        Raises:
            ValueError: if it is not what `config` returned.
        """
        parts = "features", "group_features"
        try:
            values = {name: config[name] for name in (*parts, "y", "groups", "size")}
        except (KeyError, TypeError) as error:
            raise ValueError(f"encoder: expected columns and their levels, got: {error!r}") from None
        for name, value in values.items():
            one = isinstance(value, str | int) or (value is None and name == "size")
            if not (_are_levels(value) if name in parts else one):
                raise ValueError(f"encoder: expected columns and their levels, got {value!r:.60} for {name}")
        of_rows, of_groups = (dict(config[part]) for part in parts)
        encoder = cls(config["y"], config["groups"], list(of_rows), list(of_groups), config["size"])
        return encoder._learn(of_rows, of_groups)


def _are_levels(part: Any) -> bool:
    """Whether something from JSON is a list of columns, each with its levels, or None for numbers."""
    return isinstance(part, list) and all(
        isinstance(pair, list | tuple)
        and len(pair) == 2
        and isinstance(pair[0], str | int)
        and (pair[1] is None or (isinstance(pair[1], list) and pair[1] != [] and all(map(_is_level, pair[1]))))
        for pair in part
    )


def _is_level(value: Any) -> bool:
    return isinstance(value, str | int | float) and value == value


def _transformer(levels: Levels) -> ColumnTransformer | None:
    """Return a transformer that is a function of the levels alone; None where no column would come out."""
    from sklearn.compose import ColumnTransformer  # at import it would draw from a global generator
    from sklearn.preprocessing import OneHotEncoder

    if not any(v is None or len(v) > 1 for v in levels.values()):
        return None
    rows = max(1 if v is None else len(v) for v in levels.values())
    example, parts = {}, []
    for c, v in levels.items():
        name = str(c)
        example[name] = [0.0] * rows if v is None else pd.Series([v[i % len(v)] for i in range(rows)], dtype=object)
        one_hot = OneHotEncoder(categories=[np.array(v, dtype=object)], drop="first", sparse_output=False)
        parts.append((name, "passthrough" if v is None else one_hot, [name]))
    transformer = ColumnTransformer(parts, verbose_feature_names_out=False)
    transformer.fit(pd.DataFrame(example))
    return transformer


def _check_names(levels: Levels) -> None:
    """Refuse columns that would give two features of one name, such as a column `kind_b` and a level b of `kind`."""
    known: dict[str, str] = {}
    for column, values in levels.items():
        for name in [str(column)] if values is None else [f"{column}_{v}" for v in values[1:]]:
            source = f"column {column!r}" + (
                "" if values is None else f" and its level {name[len(str(column)) + 1 :]!r}"
            )
            if name in known:
                raise ValueError(
                    f"columns: expected features of distinct names, got {name!r} from {known[name]} and from {source}; "
                    "rename a column"
                )
            known[name] = source


def _column(frame: pd.DataFrame, name: str) -> pd.Series[Any]:
    if name not in frame:
        raise ValueError(f"frame: expected a column {shown(name)}, got {named(frame.columns)}")
    return frame[name]
