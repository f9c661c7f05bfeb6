r"""Classification tasks drawn from labelled arrays, as a pure function of seed and index.

`sample(num_tasks, index)` draws batch number `index` of an endless stream. Its random numbers come
from a Philox generator keyed by `(seed, index)` alone, so a batch is the same anywhere, in any order
and in any process; a run can be resumed at any iteration and workers need no shared state.

Arrays may be memory-mapped: a batch reads only the rows that it needs.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from ebmeta.foundation.checks import at_least, checked, within
from ebmeta.foundation.fingerprint import fingerprint
from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.classes import ClassRows, class_codes, members
from ebmeta.tasks.columns import read_rows
from ebmeta.tasks.drawing import Range, Transform, check_range, gather, generator
from ebmeta.tasks.facts import NO_CLASS
from ebmeta.tasks.hardness import Hardening
from ebmeta.tasks.proportions import MORE, PROPORTIONS, hidden, random_counts, random_shots
from ebmeta.tasks.row_order import check_order
from ebmeta.tasks.sizes import SIZES, TaskSizes, random_size
from ebmeta.tasks.source import TaskSource

__all__ = ["EpisodeSampler"]

BLOCKS = 3  # stream of random numbers, after those of tasks and of proportions
SEEN_AT_ONCE = 50  # rows of one transform, where rows are not those of a task


@checked(imbalance=within(1e-6, 1e9))
class EpisodeSampler(TaskSource):
    r"""Draw classification tasks from a labelled data set.

    A task picks `n_way` classes, numbers them in random order, and draws `n_shot` support rows and
    `n_query` query rows of each, all without replacement. With `imbalance` $= a$, `n_query` counts
    the queries of the whole task, divided by class proportions $\pi \sim \mathrm{Dirichlet}(a, \dots, a)$. Tasks say
    which it is: their `concentration` is $a$, and infinity where the queries are balanced. They also say which classes
    are theirs: `way_class` numbers them in the order of `classes`.

    Args:
        X: inputs, shape `(N, ...)`; NumPy array, memory map or data frame, whose names of columns are kept.
        y: class labels, texts, whole numbers or truth values, shape `(N,)`.
        n_way: classes per task, or an inclusive range `(low, high)` drawn anew for each task.
        n_shot: support rows per class, or a range.
        n_query: query rows per class (per task with `imbalance`), or a range.
        imbalance: Dirichlet concentration of the query classes, or None for balanced queries.
        transform: function of (rows of one task, generator) applied to each task, for nuisances and
            augmentation that a whole task shares.
        seed: first half of the key of every batch.

    Raises:
        ValueError: if a class has fewer members than a task may ask of it, there are fewer classes
            than `n_way`, or the arrays are malformed.

    Examples:
        >>> X, y = np.arange(60.0).reshape(30, 2), np.repeat(["a", "b", "c"], 10)
        >>> tasks = EpisodeSampler(X, y, n_way=2, n_shot=1, n_query=3, seed=0)
        >>> tasks.sample(4)
        TaskBatch(tasks=4, ways<=2, support<=2, queries<=6, features=(2,), labelled)
        >>> bool((tasks.sample(4, index=7).query_x == tasks.sample(4, index=7).query_x).all())
        True
    """

    def __init__(
        self,
        X: Any,
        y: Any,
        n_way: Range = 5,
        n_shot: Range = 1,
        n_query: Range = 15,
        *,
        imbalance: float | None = None,
        transform: Transform | None = None,
        seed: int = 0,
    ) -> None:
        check_order(X, y=y)
        self.X, self.feature_names = read_rows("X", X, finite=False)
        self.classes, codes = class_codes(y)
        if len(codes) != len(self.X):
            raise ValueError(f"y: expected {len(self.X)} labels, one per row of X, got {len(codes)}")
        self.n_way = check_range("n_way", n_way, 1)
        self.n_shot = check_range("n_shot", n_shot, 0)
        self.n_query = check_range("n_query", n_query, 1)
        self.imbalance, self.transform, self.seed = imbalance, transform, seed
        self._members = members(codes)
        if len(self.classes) < self.n_way[1]:
            raise ValueError(f"n_way: expected at most {len(self.classes)} (the classes in y), got {self.n_way[1]}")
        need = self.n_shot[1] + self.n_query[1]
        smallest = min(range(len(self._members)), key=lambda c: len(self._members[c]))
        if len(self._members[smallest]) < need:
            raise ValueError(
                f"y: expected at least n_shot + n_query = {need} rows of every class, got "
                f"{len(self._members[smallest])} of class {self.classes[smallest].item()!r}"
            )
        self._codes = codes
        self._hardening: Hardening | None = None
        self._unknown = self._any_size = False

    def task_sizes(self) -> TaskSizes:
        return TaskSizes(self.n_shot, self.n_query, self.n_way, self.imbalance)

    @property
    def members(self) -> list[np.ndarray]:
        """The rows of each class, in the order of `classes`."""
        return self._members

    @cached_property
    def class_rows(self) -> Sequence[ClassRows]:
        return (ClassRows(self.X, self.classes, self._codes, self._members),)

    @property
    def difficulty(self) -> float:
        r"""Spread of a class's members over the spread of the classes, $\sqrt{\mathrm{tr} S_w / \mathrm{tr} S_b}$.

        Examples:
            >>> round(EpisodeSampler([[0.0], [2.0], [10.0], [12.0]], [0, 0, 1, 1], 2, 1, 1).difficulty, 3)
            0.2
        """
        return self.class_rows[0].difficulty

    @checked(most=at_least(1))
    def rows(self, most: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return rows as tasks show them and the numbers of their classes: as many of each, about `most` in all.

        Examples:
            >>> EpisodeSampler([[0.0], [2.0], [10.0], [12.0]], [0, 0, 1, 1], 2, 1, 1).rows(2)[1].sort().values
            tensor([0, 1])
        """
        each, rng = max(1, most // len(self._members)), generator(self.seed, 0)
        picked = [m[np.linspace(0, len(m) - 1, min(each, len(m))).astype(int)] for m in self._members]
        chosen = rng.permutation(np.concatenate(picked))
        parts = np.array_split(chosen, math.ceil(len(chosen) / SEEN_AT_ONCE))
        drawn = gather(self.X, [(part, part[:0]) for part in parts], self.transform, rng)
        return torch.cat([x for x, _ in drawn]), torch.from_numpy(self._codes[chosen])

    def fingerprint(self) -> str:
        strength = 0.0 if self._hardening is None else self._hardening.strength
        sizes = self.n_way, self.n_shot, self.n_query, self.imbalance, self._unknown, self._any_size
        return fingerprint(self.X, self._codes, (sizes, self.seed, strength, self.feature_names))

    @checked(strength=within(0, 1e6))
    def harder(self, strength: float = 1.0) -> EpisodeSampler:
        """Return a sampler of the same tasks made harder: classes spread wider, and split in two.

        Args:
            strength: $a$ of `ebmeta.tasks.hardness`, at least 0; 0 changes nothing.

        Raises:
            ValueError: if `strength` is negative.
        """
        hardening = Hardening(self.class_rows[0], float(strength)) if strength else None
        other = copy.copy(self)
        other._hardening = hardening
        return other

    def with_unknown_proportions(self) -> EpisodeSampler:
        """Return a sampler of the same tasks, every second of which has queries in random proportions that it hides.

        Such a task has as many queries as its classes have rows for; its `concentration` is NaN. Half of them have the
        support rows that they had, and half as many of each class as chance says (`ebmeta.tasks.proportions`). The
        other tasks stay as they are.

        Examples:
            >>> X, y = np.arange(80.0).reshape(40, 2), np.repeat(["a", "b"], 20)
            >>> batch = EpisodeSampler(X, y, n_way=2, n_query=5).with_unknown_proportions().sample(2)
            >>> batch.concentration.tolist(), [labels.bincount(minlength=2).tolist() for labels in batch.query_y]
            ([inf, nan], [[5, 5], [7, 3]])
        """
        other = copy.copy(self)
        other._unknown = True
        return other

    def with_random_sizes(self) -> EpisodeSampler:
        """Return a sampler of tasks of other sizes: each batch has its own, drawn by `ebmeta.tasks.sizes`.

        Examples:
            >>> X, y = np.arange(800.0).reshape(400, 2), np.repeat(np.arange(10), 40)
            >>> tasks = EpisodeSampler(X, y, n_way=5, n_query=15).with_random_sizes()
            >>> tasks.sample(2, 0), tasks.sample(2, 1)
            (TaskBatch(tasks=2, ways<=2, support<=8, queries<=18, features=(2,), labelled), \
TaskBatch(tasks=2, ways<=4, support<=40, queries<=40, features=(2,), labelled))
        """
        other = copy.copy(self)
        other._any_size = True
        return other

    def _of_size(self, index: int) -> EpisodeSampler:
        """Return the sampler of the tasks of a batch."""
        classes, fewest = len(self._members), min(map(len, self._members))
        if not self._any_size or min(classes, fewest) < 2:
            return self
        rows = self.n_way[1] * self.n_shot[1] + self.n_query[1] * (self.n_way[1] if self.imbalance is None else 1)
        way, shot, query = random_size(classes, fewest, rows, generator(self.seed, index, SIZES))
        if self.imbalance is not None:
            query = min(query * way, fewest - shot)
        other = copy.copy(self)
        other.n_way, other.n_shot, other.n_query = (way, way), (shot, shot), (query, query)
        return other

    @checked(num_tasks=at_least(1))
    def sample(self, num_tasks: int, index: int = 0) -> TaskBatch:
        """Draw batch number `index`, a pure function of (seed, index).

        Args:
            num_tasks: number of tasks, $T$.
            index: number of the batch.

        Returns:
            Labelled tasks; features in their own precision, see `exact`.

        Raises:
            ValueError: if a feature read is not finite, or `num_tasks` is below 1.
        """
        drawn = self._of_size(index)
        return drawn._draw([len(self._members)] * num_tasks, generator(self.seed, index), index)

    @checked()
    def disjoint(self, index: int = 0) -> TaskBatch:
        """Draw tasks no two of which share a class: partition number `index` of the classes into blocks.

        A block has as many classes as the largest task, and the classes that are left over have no task. Over new draws
        of independent classes, these tasks are independent.

        Examples:
            >>> tasks = EpisodeSampler(np.arange(40.0).reshape(20, 2), np.repeat(list("abcde"), 4), 2, 1, 1)
            >>> tasks.disjoint().way_class.tolist()
            [[3, 4], [1, 2]]
        """
        rng, size = generator(self.seed, index, BLOCKS), self.n_way[1]
        order = rng.permutation(len(self._members))
        return self._draw([order[i : i + size] for i in range(0, len(order) - size + 1, size)], rng, index)

    def _draw(self, pools: Sequence[int | np.ndarray], rng: np.random.Generator, index: int) -> TaskBatch:
        """Draw a task from each pool of classes: an array of their numbers, or how many there are."""
        num_tasks, unknown = len(pools), generator(self.seed, index, PROPORTIONS)
        hide = hidden(num_tasks, index) & self._unknown
        rows: list[tuple[np.ndarray, np.ndarray]] = []
        labels: list[tuple[np.ndarray, np.ndarray]] = []
        classes: list[torch.Tensor] = []
        for t, pool in enumerate(pools):
            way = int(rng.integers(self.n_way[0], self.n_way[1] + 1))
            shot = int(rng.integers(self.n_shot[0], self.n_shot[1] + 1))
            query = int(rng.integers(self.n_query[0], self.n_query[1] + 1))
            chosen = rng.choice(pool, way, replace=False)
            if self.imbalance is None:
                counts = np.full(way, query)
            else:
                counts = rng.multinomial(query, rng.dirichlet(np.full(way, self.imbalance)))
            picks = [rng.choice(self._members[c], shot + n, replace=False) for c, n in zip(chosen, counts, strict=True)]
            support, queries = [p[:shot] for p in picks], [p[shot:] for p in picks]
            if hide[t]:
                support = self._of_random_numbers(chosen, support, unknown)
                queries = self._in_random_proportions(chosen, counts.sum(), support, unknown)
            rows.append((np.concatenate(support), np.concatenate(queries)))
            labels.append((_numbered(support), _numbered(queries)))
            classes.append(torch.from_numpy(chosen))
        inputs = gather(self.X, rows, self.transform, rng, self._hardening, self.feature_names)
        return TaskBatch.from_tasks(
            [s for s, _ in inputs],
            [torch.from_numpy(s) for s, _ in labels],
            [q for _, q in inputs],
            [torch.from_numpy(q) for _, q in labels],
            [len(chosen) for chosen in classes],
            concentration=torch.where(torch.from_numpy(hide), math.nan, self.imbalance or math.inf),
            way_class=pad_sequence(classes, batch_first=True, padding_value=NO_CLASS),
        )

    def _of_random_numbers(
        self, classes: np.ndarray, support: list[np.ndarray], rng: np.random.Generator
    ) -> list[np.ndarray]:
        """Return the labelled rows of each class of a task, fewer or more than it had in every second one."""
        shots = np.array([len(rows) for rows in support])
        room = np.array([len(self._members[c]) - self.n_query[1] for c in classes])
        numbers, out = random_shots(shots, np.minimum(MORE * shots, room), rng), []
        for c, s, n in zip(classes, support, numbers, strict=True):
            more = [] if n <= len(s) else [rng.choice(_without(self._members[c], s), n - len(s), replace=False)]
            out.append(np.concatenate([s[:n], *more]))
        return out

    def _in_random_proportions(
        self, classes: np.ndarray, total: int, support: list[np.ndarray], rng: np.random.Generator
    ) -> list[np.ndarray]:
        """Return the queries of each class of a task."""
        free = [_without(self._members[c], rows) for c, rows in zip(classes, support, strict=True)]
        counts = random_counts(total, np.array([len(rows) for rows in free]), rng)
        return [rng.choice(rows, n, replace=False) for rows, n in zip(free, counts, strict=True)]


def _numbered(rows: list[np.ndarray]) -> np.ndarray:
    """Return the number of the class of each row, given the rows of each class."""
    return np.repeat(np.arange(len(rows)), [len(own) for own in rows])


def _without(members: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return ascending numbers without some of them."""
    keep = np.ones(len(members), dtype=bool)
    keep[np.searchsorted(members, rows)] = False
    return members[keep]
