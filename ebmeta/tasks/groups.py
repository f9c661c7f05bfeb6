r"""Regression tasks drawn from grouped data, where a task is a group split at random into support and query."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from ebmeta.foundation.buckets import split
from ebmeta.foundation.checks import at_least, checked
from ebmeta.foundation.fingerprint import fingerprint
from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.classes import members
from ebmeta.tasks.columns import read_column, read_keys, read_rows
from ebmeta.tasks.drawing import Range, Transform, check_range, exact, gather, generator
from ebmeta.tasks.frames import FrameEncoder
from ebmeta.tasks.group_marks import group_marks
from ebmeta.tasks.row_order import check_order
from ebmeta.tasks.sizes import TaskSizes
from ebmeta.tasks.source import TaskSource
from ebmeta.tasks.spellings import tell_of_twins

__all__ = ["GroupSampler"]


@checked(n_query=at_least(1))
class GroupSampler(TaskSource):
    r"""Draw regression tasks from grouped data: a task is a group, split at random into support and query.

    Args:
        X: inputs, shape `(N, D)`; NumPy array, memory map or data frame, whose names of columns are kept.
        y: numbers to predict: real, counts, or 0 and 1, shape `(N,)`.
        groups: group of each row, hashable labels of one kind, shape `(N,)`; texts of digits count as those numbers in
            the order of groups alone.
        n_support: support rows per task, or an inclusive range drawn anew for each task. The upper end gives way
            in a small group, so that one query is left, the lower end does not: with (0, 10) groups of any size
            can be used, and one of a single row is a task without labels.
        n_query: largest number of query rows per task; all remaining rows by default.
        size: trials, exposure or readings of each row (see `ebmeta.likelihood.Given`), shape `(N,)`; 1 by default.
        group_X: covariates of the group of each row, the same in all its rows, shape `(N, G)`.
        transform: function of (rows of one task, generator) applied to each task.
        seed: first half of the key of every batch.

    Raises:
        ValueError: if a group has no row left for the query, or the arrays are malformed.

    Attributes:
        groups: the distinct labels of the groups.
        encoder: what the columns of a data frame became, for a sampler from `from_frame`; None for others.

    Examples:
        >>> X, y, groups = np.ones((9, 1)), np.arange(9.0), np.repeat([0, 1], [4, 5])
        >>> GroupSampler(X, y, groups, n_support=3, seed=0).sample(2)
        TaskBatch(tasks=2, ways<=1, support<=3, queries<=2, features=(1,), labelled)
    """

    def __init__(
        self,
        X: Any,
        y: Any,
        groups: Any,
        n_support: Range = 3,
        n_query: int | None = None,
        *,
        size: Any = None,
        group_X: Any = None,
        transform: Transform | None = None,
        seed: int = 0,
    ) -> None:
        check_order(X, y=y, groups=groups, size=size)
        self.X, self.feature_names = read_rows("X", X, finite=False)
        self.y = read_column("y", y, hint=" (class labels go to EpisodeSampler)")
        labels = read_keys("groups", groups)
        if not len(self.X) == len(self.y) == len(labels) or not labels:
            raise ValueError(
                f"expected X, y and groups of equal length, got {len(self.X)}, {len(self.y)} and {len(labels)}"
            )
        try:
            number = {group: code for code, group in enumerate(sorted(set(labels), key=_order))}
        except TypeError:
            raise ValueError(f"groups: expected hashable, sortable labels, got {type(labels[0]).__name__}") from None
        tell_of_twins(number, "groups", "groups")
        self.groups: np.ndarray = np.empty(len(number), dtype=object)
        self.groups[:] = list(number)
        codes = np.array([number[group] for group in labels])
        self.size = None if size is None else _sizes(size, len(self.y))
        self.n_support = check_range("n_support", n_support, 0)
        self.n_query, self.transform, self.seed = n_query, transform, seed
        self._members = members(codes)
        self.group_X: np.ndarray | None = None
        if group_X is not None:
            self.group_X, self.covariate_names = self._covariates(group_X)
        small = [g for g, rows in enumerate(self._members) if len(rows) <= self.n_support[0]]
        if small:
            low, high = self.n_support
            more = f" (and {len(small) - 1} more)" if len(small) > 1 else ""
            raise ValueError(
                f"groups: expected at least n_support + 1 = {low + 1} rows in every group, got "
                f"{len(self._members[small[0]])} in group {self.groups[small[0]]!r}{more}; n_support=(0, {high}) takes "
                "groups of any size, or leave these out"
            )

    @classmethod
    def from_frame(
        cls,
        frame: pd.DataFrame,
        y: str | None = None,
        groups: str | None = None,
        features: Sequence[str] | None = None,
        group_features: Sequence[str] = (),
        size: str | None = None,
        *,
        n_support: Range = 3,
        n_query: int | None = None,
        encoder: FrameEncoder | None = None,
        transform: Transform | None = None,
        seed: int = 0,
    ) -> GroupSampler:
        """Draw tasks from the rows of a data frame, columns by their role; see `ebmeta.tasks.frames`.

        Args:
            frame: the rows.
            y: column of the numbers to predict.
            groups: column of the groups.
            features: columns of features, numbers or texts; all that have no other role by default.
            group_features: columns of covariates of the group, the same in all rows of a group.
            size: column of trials, exposure or readings.
            n_support: as for the constructor.
            n_query: as for the constructor.
            encoder: `encoder` of the sampler of training rows, in place of the names of columns: new rows then
                become what training rows did.
            transform: as for the constructor.
            seed: as for the constructor.

        Raises:
            ValueError: if a column is absent or malformed, as for the constructor, or if both an encoder and names
                of columns are given.

        Examples:
            >>> frame = pd.DataFrame({"kind": ["a", "b"] * 4, "shop": [1] * 5 + [2] * 3, "sold": range(8)})
            >>> train = GroupSampler.from_frame(frame, y="sold", groups="shop", n_support=(0, 2))
            >>> train.sample(2)
            TaskBatch(tasks=2, ways<=1, support<=2, queries<=4, features=(1,), labelled)
            >>> GroupSampler.from_frame(frame[5:], encoder=train.encoder, n_support=1).groups
            array([2], dtype=object)
        """
        if encoder is None:
            if y is None or groups is None:
                raise ValueError(f"y and groups: expected the names of two columns, got {y!r} and {groups!r}")
            encoder = FrameEncoder(y, groups, features, group_features, size).fit(frame)
        elif any(v is not None for v in (y, groups, features, size)) or len(group_features):
            raise ValueError("encoder: expected no names of columns beside it, because it knows them, got some")
        sampler = cls(
            encoder.transform(frame),
            encoder.numbers(frame, encoder.y),
            encoder.labels(frame),
            n_support,
            n_query,
            size=None if encoder.size is None else encoder.numbers(frame, encoder.size),
            group_X=encoder.group_rows(frame) if encoder.group_names else None,
            transform=transform,
            seed=seed,
        )
        sampler.encoder, sampler.feature_names = encoder, encoder.names
        sampler.covariate_names = encoder.group_names or None
        return sampler

    def _covariates(self, group_X: Any) -> tuple[np.ndarray, list[str] | None]:
        """Return the covariates of each group, from those of its rows, and their names where they have some."""
        values, names = read_rows("group_X", group_X)
        if values.ndim != 2 or len(values) != len(self.y):
            raise ValueError(
                f"group_X: expected numbers of shape ({len(self.y)}, G), got shape {values.shape} of {values.dtype}"
            )
        values = exact(values)
        for group, rows in zip(self.groups, self._members, strict=True):
            own = values[rows]
            if not np.isfinite(own).all() or (own != own[0]).any():
                raise ValueError(
                    f"group_X: expected finite numbers, the same in all rows of a group, got others in {group!r}"
                )
        return np.stack([values[rows[0]] for rows in self._members]), names

    def fingerprint(self) -> str:
        sizes, names = list(map(len, self._members)), (self.feature_names, self.covariate_names)
        settings = self.n_support, self.n_query, self.seed, *names
        rows = np.concatenate(self._members)
        return fingerprint(self.X, self.y, rows, sizes, list(self.groups), self.size, self.group_X, settings)

    @property
    def has_fixed_rows(self) -> bool:
        return self.transform is None

    def labels(self) -> tuple[np.ndarray, np.ndarray | None]:
        return self.y, self.size

    def task_sizes(self) -> TaskSizes:
        return TaskSizes(self.n_support, None if self.n_query is None else (1, self.n_query))

    def group_marks(self) -> tuple[np.ndarray, np.ndarray] | None:
        marks = group_marks(self.X, self.y, self.size, self._members)
        return None if marks is None else (np.asarray(self.groups), marks)

    def everything(self) -> TaskBatch:
        """Return every group once, with all its rows as labelled queries and no support: what evidence is made of."""
        none = np.empty(0, dtype=np.int64)
        rng = generator(self.seed, 0)
        return self._collate(np.arange(len(self._members)), [(none, rows) for rows in self._members], rng)

    @checked(rows=at_least(1), least=at_least(1))
    def parts(self, rows: int, least: int = 1) -> Iterator[TaskBatch]:
        """Return the groups of `everything` in batches of groups of like size; order: `ebmeta.foundation.buckets`.

        Args:
            rows: most rows of a batch, padding included; a larger group is a batch by itself.
            least: rows that even the smallest group counts for.
        """
        none, rng = np.empty(0, dtype=np.int64), generator(self.seed, 0)
        lengths = np.maximum([len(own) for own in self._members], least)
        for part in split(lengths, rows):
            yield self._collate(part, [(none, self._members[group]) for group in part], rng)

    def with_unknown_proportions(self) -> GroupSampler:
        """Return these tasks: their labels are numbers."""
        return self

    @checked(num_tasks=at_least(1))
    def sample(self, num_tasks: int, index: int = 0) -> TaskBatch:
        """Draw batch number `index`: groups without replacement, while there are enough.

        Args:
            num_tasks: number of tasks, $T$.
            index: number of the batch.

        Returns:
            Labelled tasks; features, labels and sizes in their own precision, see `ebmeta.tasks.drawing.exact`.

        Raises:
            ValueError: if a feature read is not finite, or `num_tasks` is below 1.
        """
        rng = generator(self.seed, index)
        total = len(self._members)
        return self._draw(rng.choice(total, num_tasks, replace=num_tasks > total), rng)

    @checked()
    def disjoint(self, index: int = 0) -> TaskBatch:
        """Draw each group once, in the order of `groups`; `index` numbers the splits into support and query."""
        return self._draw(np.arange(len(self._members)), generator(self.seed, index))

    def _draw(self, chosen: np.ndarray, rng: np.random.Generator) -> TaskBatch:
        """Split each of the chosen groups into support and query."""
        rows = []
        for g in chosen:
            own, (low, high) = self._members[g], self.n_support
            support = int(rng.integers(low, min(high, len(own) - 1) + 1))
            order = rng.permutation(own)
            stop = len(order) if self.n_query is None else support + self.n_query
            rows.append((order[:support], order[support:stop]))
        return self._collate(chosen, rows, rng)

    def _collate(
        self, chosen: np.ndarray, rows: list[tuple[np.ndarray, np.ndarray]], rng: np.random.Generator
    ) -> TaskBatch:
        inputs = gather(self.X, rows, self.transform, rng, names=self.feature_names)
        support_size, query_size = (None, None) if self.size is None else _columns(self.size, rows)
        support_y, query_y = _columns(self.y, rows)
        task_x = None if self.group_X is None else torch.from_numpy(self.group_X[chosen])
        return TaskBatch.from_tasks(
            [s for s, _ in inputs],
            support_y,
            [q for _, q in inputs],
            query_y,
            support_size=support_size,
            query_size=query_size,
            task_x=task_x,
        )


def _order(group: Any) -> Any:
    """Return what groups are sorted by: themselves, but texts of digits as the numbers that they write."""
    if not isinstance(group, str):
        return group
    digits = group.lstrip("0")
    return (0, len(digits), digits, group) if group.isdecimal() else (1, 0, "", group)


def _sizes(size: Any, length: int) -> np.ndarray:
    values = read_column("size", size, length)
    bad = values <= 0
    if bad.any():
        raise ValueError(f"size: expected finite numbers above 0, got {values[bad][0]} at row {int(np.argmax(bad))}")
    return values


def _columns(
    values: np.ndarray, rows: list[tuple[np.ndarray, np.ndarray]]
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return the values of each task's support and query rows as floats."""
    flat = exact(values)
    return [torch.from_numpy(flat[s]) for s, _ in rows], [torch.from_numpy(flat[q]) for _, q in rows]
