"""Marks of training classes and groups, by which a model knows those that it was trained on.

A mark is a hash. Of the rows of classes those of the least hashes are kept, so that the same rows are marked wherever
they come again: a class all of whose $n$ rows were among the $N$ of training has about $n M / N$ of the $M$ marked
ones. Rows are known by their values in 32 bits. What marks cannot tell: other rows of a class of training under another
name, rows that are encoded anew or rescaled, and what an encoder was trained on. Names count where they are texts,
since classes are often numbered anew.

Groups of numbers are known by all of their rows together (`ebmeta.tasks.group_marks`), under any name. Other rows of a
group of training are not known, nor are groups of rows that mostly repeat or of memory-mapped features.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ebmeta.foundation.telling import tell
from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.classes import ClassRows, members
from ebmeta.tasks.held_out import SHARE, distinct_rows
from ebmeta.tasks.source import TaskSampler, TaskSource, as_source

__all__ = ["Marks", "refuse_known", "tell_of_known"]

SIZE = 6  # bytes of a mark: of 10^6 rows, two differ and are marked alike with a probability of .002
END = 1 << 8 * SIZE
MOST = 1024  # marked rows that are kept
LEAST = 3  # marked rows that do not meet by chance


def _mark(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=SIZE).digest(), "big")


def _text(marks: frozenset[int]) -> str:
    return "".join(f"{mark:0{2 * SIZE}x}" for mark in sorted(marks))


def _read(text: Any) -> frozenset[int]:
    if not isinstance(text, str) or len(text) % (2 * SIZE) or not set(text) <= set("0123456789abcdef"):
        raise ValueError(f"expected marks of {2 * SIZE} hexadecimal digits each, got {text!r:.60}")
    return frozenset(int(text[i : i + 2 * SIZE], 16) for i in range(0, len(text), 2 * SIZE))


@dataclass(frozen=True)
class Marks:
    """What is kept of the classes or groups of training.

    Args:
        rows: marks of rows that one class alone has, or of groups.
        limit: all rows or groups of marks below it were kept, and none of others.
        names: marks of the names of classes that are texts.

    Examples:
        >>> import numpy as np
        >>> from ebmeta.tasks.episodes import EpisodeSampler
        >>> X, y = np.arange(24.0).reshape(12, 2), np.repeat([0, 1, 2, 3], 3)
        >>> train, other = (EpisodeSampler(x, y[:6], 2, 1, 2) for x in (X[:6], X[6:]))
        >>> kept = Marks.of(train)
        >>> kept.check(other.class_rows, "tasks")
        >>> kept.check(EpisodeSampler(X[3:9], y[:6], 2, 1, 2).class_rows, "tasks")
        Traceback (most recent call last):
        ...
        ValueError: tasks: expected classes that training never used, got rows of it in class 0
    """

    rows: frozenset[int]
    limit: int
    names: frozenset[int]

    @classmethod
    def of(cls, tasks: TaskSource) -> Marks | None:
        """Return the marks of the classes or groups of a source; None where tasks are drawn from rows of neither."""
        if not tasks.class_rows:
            return cls._of_groups(tasks)
        owner: dict[int, int] = {}
        limit, number, names = END, 0, set()
        for source in tasks.class_rows:
            names |= {_mark(label.encode()) for label in source.classes.tolist() if isinstance(label, str)}
            for _, rows in distinct_rows(source):
                number += 1
                for mark in map(_mark, rows):
                    if mark < limit and owner.setdefault(mark, number) != number:
                        owner[mark] = 0  # of several classes
                if len(owner) > 4 * MOST:
                    limit = heapq.nsmallest(2 * MOST + 1, owner)[-1]
                    owner = {mark: of for mark, of in owner.items() if mark < limit}
        kept = sorted(mark for mark, of in owner.items() if of)
        return cls(frozenset(kept[:MOST]), kept[MOST] if len(kept) > MOST else limit, frozenset(names))

    @classmethod
    def _of_groups(cls, tasks: TaskSource) -> Marks | None:
        found = tasks.group_marks()
        if found is None:
            return None
        marks, number = np.unique(found[1], return_counts=True)
        kept = marks[number == 1].tolist()
        return cls(frozenset(kept[:MOST]), kept[MOST] if len(kept) > MOST else END, frozenset())

    def known_group(self, names: np.ndarray, marks: np.ndarray) -> Any:
        """Return the name of a group of training where most of these groups are of it; None elsewhere."""
        below = marks < self.limit
        found = below & np.isin(marks, np.array(sorted(self.rows), dtype=np.uint64))
        many = found.sum() >= LEAST and found.sum() > SHARE * below.sum()
        return names[found.argmax()] if many else None

    def __or__(self, other: Marks) -> Marks:
        """Return the marks of both, of a model that was trained twice."""
        limit = min(self.limit, other.limit)
        rows = sorted(mark for mark in self.rows | other.rows if mark < limit)
        limit = rows[MOST] if len(rows) > MOST else limit
        return Marks(frozenset(rows[:MOST]), limit, self.names | other.names)

    def known(self, classes: Sequence[ClassRows]) -> Any:
        """Return the label of a class whose rows were used before; None where there is none.

        Most marked rows of the class have to be known, or else most of all classes together: few of them may be
        marked in a class.
        """
        marked = known = 0
        first: Any = None
        for source in classes:
            for code, rows in distinct_rows(source):
                below = [mark for mark in map(_mark, rows) if mark < self.limit]
                found = len(self.rows.intersection(below))
                marked, known = marked + len(below), known + found
                first = source.classes[code].item() if found and first is None else first
                if found >= LEAST and found > SHARE * len(below):
                    return source.classes[code].item()
        return first if known >= LEAST and known > SHARE * marked else None

    def check(self, classes: Sequence[ClassRows], name: str) -> None:
        """Refuse classes whose rows were used before, and warn of names that were.

        Args:
            classes: rows of classes that nothing should have seen, such as `TaskSource.class_rows`.
            name: how messages call them.

        Raises:
            ValueError: as `known` says.
        """
        if (label := self.known(classes)) is not None:
            raise ValueError(f"{name}: expected classes that training never used, got rows of it in class {label!r}")
        self.tell_of_names(classes, name)

    def tell_of_names(self, classes: Sequence[ClassRows], name: str) -> None:
        """Warn of classes whose names were used before; arguments as of `check`."""
        labels = [n for source in classes for n in source.classes.tolist() if isinstance(n, str)]
        if names := [n for n in labels if _mark(n.encode()) in self.names]:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            told = f"{name}: expected classes that training never used, got the name {min(names)!r}{more} of one of it"
            tell(told)

    def config(self) -> dict[str, Any]:
        """Return what a folder keeps, for JSON."""
        return {"rows": _text(self.rows), "limit": self.limit, "names": _text(self.names)}

    @classmethod
    def from_config(cls, config: Any) -> Marks | None:
        """Return the marks that a folder keeps; None where it keeps none.

        Raises:
            ValueError: if they are damaged.
        """
        if config is None:
            return None
        if not isinstance(config, dict) or set(config) != {"rows", "limit", "names"}:
            raise ValueError(f"expected rows, limit and names of training, got {config!r:.60}")
        limit = config["limit"]
        if type(limit) is not int or not 0 <= limit <= END:
            raise ValueError(f"expected a whole number up to {END} for limit, got {limit!r:.60}")
        return cls(_read(config["rows"]), limit, _read(config["names"]))


def refuse_known(marks: Marks | None, tasks: TaskSampler | TaskBatch, name: str) -> None:
    """Refuse tasks of classes or groups that training used, whether drawn from a source or given as such.

    Args:
        marks: those of a model; None where it keeps none.
        tasks: a source, or tasks, each class of each task by itself.
        name: how messages call them.

    Raises:
        ValueError: as `Marks.known` and `Marks.known_group` say.

    Examples:
        >>> import numpy as np
        >>> from ebmeta.tasks.episodes import EpisodeSampler
        >>> tasks = EpisodeSampler(np.arange(24.0).reshape(12, 2), np.repeat([5, 6, 7, 8], 3), 2, 1, 2)
        >>> refuse_known(Marks.of(tasks), tasks.sample(3), "tasks")
        Traceback (most recent call last):
        ...
        ValueError: tasks: expected classes that training never used, got rows of it in class 'number 0 of task 0'
    """
    if marks is None:
        return
    marks.check(_classes(tasks), name)
    groups = as_source(tasks).group_marks()
    if groups is not None and (group := marks.known_group(*groups)) is not None:
        raise ValueError(f"{name}: expected groups that training never used, got those of it, such as {group}")


def tell_of_known(marks: Marks | None, tasks: TaskSampler | TaskBatch, name: str) -> None:
    """Warn of tasks of classes or groups that training used; arguments as of `refuse_known`.

    Examples:
        >>> from ebmeta.tasks.episodes import EpisodeSampler
        >>> tasks = EpisodeSampler(np.arange(24.0).reshape(12, 2), np.repeat([5, 6, 7, 8], 3), 2, 1, 2)
        >>> import warnings
        >>> with warnings.catch_warnings(record=True) as told:
        ...     warnings.simplefilter("always")
        ...     tell_of_known(Marks.of(tasks), tasks, "tasks")
        >>> print(told[0].message)
        tasks: training or validation has used classes of these, such as 5; new ones may score lower
    """
    if marks is None:
        return
    classes, groups = _classes(tasks), as_source(tasks).group_marks()
    group = None if groups is None else marks.known_group(*groups)
    if (label := marks.known(classes)) is None and group is None:
        marks.tell_of_names(classes, name)
        return
    of = f"classes of these, such as {label!r}" if group is None else f"most of these groups, such as {group}"
    told = f"{name}: training or validation has used {of}; new ones may score lower"
    tell(told)


def _classes(tasks: TaskSampler | TaskBatch) -> Sequence[ClassRows]:
    """Return the rows of classes of a source; of tasks given as such, each class of each task by itself."""
    source = as_source(tasks)
    if source.class_rows or not source.has_fixed_rows:
        return source.class_rows
    return [_rows_of(batch) for batch in source.batches(1)]


def _rows_of(batch: TaskBatch) -> ClassRows:
    """Return the labelled rows of tasks, each class of each task as one of its own."""
    parts = [batch.support, *([] if batch.query_y is None else [batch.query])]
    rows = [part for part in (part.labelled() for part in parts) if part is not None]
    X = np.concatenate([part.x.detach().cpu().numpy() for part in rows])
    ways = batch.way_mask.shape[1]
    number = np.concatenate([(part.task * ways + part.y).cpu().numpy() for part in rows])
    found, codes = np.unique(number, return_inverse=True)
    return ClassRows(X, np.array([f"number {n % ways} of task {n // ways}" for n in found]), codes, members(codes))
