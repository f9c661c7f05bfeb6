r"""Sampling: from labelled arrays to tasks, as a pure function of (seed, index).

`sample(num_tasks, index)` draws batch number `index` of an endless stream. Its random numbers come
from a Philox generator keyed by `(seed, index)` alone, so a batch is the same anywhere, in any order
and in any process; a run can be resumed at any iteration and workers need no shared state.

Arrays may be memory-mapped: a batch reads only the rows that it needs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from sklearn.utils.multiclass import type_of_target

from ebmeta.tasks import TaskBatch

__all__ = ["EpisodeSampler", "GroupSampler", "TaskSampler", "class_codes", "generator"]

Range = int | tuple[int, int]
Transform = Callable[[np.ndarray, np.random.Generator], np.ndarray]


class TaskSampler(Protocol):
    """What `fit` needs of a source of tasks: batches as a pure function of their index."""

    def sample(self, num_tasks: int, index: int = 0) -> TaskBatch:
        """Draw batch number `index`."""
        ...


def _range(name: str, value: Range, least: int) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, (int, np.integer)) else value
    whole = isinstance(pair, (tuple, list)) and len(pair) == 2 and all(isinstance(v, (int, np.integer)) for v in pair)
    if not whole:
        raise ValueError(f"{name}: expected an integer or a pair of integers (low, high), got {value}")
    if not least <= pair[0] <= pair[1]:
        raise ValueError(f"{name}: expected {least} <= low <= high, got {value}")
    low, high = pair
    return int(low), int(high)


def generator(seed: int, index: int) -> np.random.Generator:
    """Return the random generator of batch `index`: the same for equal (seed, index), everywhere."""
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index: expected non-negative integers, got {seed} and {index}")
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, index))))


def _features(X: Any) -> np.ndarray:
    array = X if isinstance(X, np.ndarray) else np.asarray(X)
    if array.ndim < 2 or array.dtype.kind not in "fiub":
        raise ValueError(
            f"X: expected a numeric array of shape (rows, features...), got shape {array.shape} of {array.dtype}"
        )
    return array


def class_codes(y: Any, name: str = "y") -> tuple[np.ndarray, np.ndarray]:
    """Turn class labels of any kind (integers, strings, booleans) into codes.

    Args:
        y: labels, shape `(N,)`.
        name: how an error message calls them.

    Returns:
        The sorted distinct labels, and each row's index among them.

    Raises:
        ValueError: if `y` is not one column of class labels.

    Examples:
        >>> classes, codes = class_codes(["b", "a", "b"])
        >>> classes.tolist(), codes.tolist()
        (['a', 'b'], [1, 0, 1])
    """
    array = np.asarray(y)
    try:
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError("no label")
        np.unique(array)
        kind = type_of_target(array) if array.size else "empty"
    except (TypeError, ValueError):
        kind = "missing or unsortable"
    if array.ndim != 1 or kind not in ("binary", "multiclass"):
        raise ValueError(
            f"{name}: expected one column of class labels (integers, strings or booleans), got {kind} "
            f"labels of shape {array.shape} and type {array.dtype}"
        )
    classes, codes = np.unique(array, return_inverse=True)
    return classes, codes


def _members(codes: np.ndarray) -> list[np.ndarray]:
    """Return the rows of each class or group, by code."""
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.cumsum(np.bincount(codes))[:-1])


class EpisodeSampler:
    r"""Draw classification tasks from a labelled data set.

    A task picks `n_way` classes, numbers them in random order, and draws `n_shot` support rows and
    `n_query` query rows of each, all without replacement. With `imbalance` $= a$, `n_query` counts
    the queries of the whole task, divided by class proportions $\pi \sim \mathrm{Dirichlet}(a, \dots, a)$.

    Args:
        X: inputs, shape `(N, ...)`; NumPy array or memory map.
        y: class labels of any kind, shape `(N,)`.
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
        self.X = _features(X)
        self.classes, codes = class_codes(y)
        if len(codes) != len(self.X):
            raise ValueError(f"y: expected {len(self.X)} labels, one per row of X, got {len(codes)}")
        self.n_way = _range("n_way", n_way, 1)
        self.n_shot = _range("n_shot", n_shot, 0)
        self.n_query = _range("n_query", n_query, 1)
        if imbalance is not None and not 0 < imbalance < np.inf:
            raise ValueError(f"imbalance: expected a concentration above 0, got {imbalance}")
        self.imbalance, self.transform, self.seed = imbalance, transform, seed
        self._members = _members(codes)
        if len(self.classes) < self.n_way[1]:
            raise ValueError(f"n_way: expected at most {len(self.classes)} (the classes in y), got {self.n_way[1]}")
        need = self.n_shot[1] + self.n_query[1]
        smallest = min(range(len(self._members)), key=lambda c: len(self._members[c]))
        if len(self._members[smallest]) < need:
            raise ValueError(
                f"y: expected at least n_shot + n_query = {need} rows of every class, got "
                f"{len(self._members[smallest])} of class {self.classes[smallest]!r}"
            )
        generator(seed, 0)

    def sample(self, num_tasks: int, index: int = 0) -> TaskBatch:
        """Draw batch number `index`, a pure function of (seed, index).

        Args:
            num_tasks: number of tasks, $T$.
            index: number of the batch.

        Returns:
            Labelled tasks; features as 32-bit floats.

        Raises:
            ValueError: if a feature read is not finite, or `num_tasks` is below 1.
        """
        if num_tasks < 1:
            raise ValueError(f"num_tasks: expected at least 1, got {num_tasks}")
        rng = generator(self.seed, index)
        rows: list[tuple[np.ndarray, np.ndarray]] = []
        labels: list[tuple[np.ndarray, np.ndarray]] = []
        ways: list[int] = []
        for _ in range(num_tasks):
            way = int(rng.integers(self.n_way[0], self.n_way[1] + 1))
            shot = int(rng.integers(self.n_shot[0], self.n_shot[1] + 1))
            query = int(rng.integers(self.n_query[0], self.n_query[1] + 1))
            chosen = rng.choice(len(self._members), way, replace=False)
            if self.imbalance is None:
                counts = np.full(way, query)
            else:
                counts = rng.multinomial(query, rng.dirichlet(np.full(way, self.imbalance)))
            picks = [rng.choice(self._members[c], shot + n, replace=False) for c, n in zip(chosen, counts, strict=True)]
            rows.append((np.concatenate([p[:shot] for p in picks]), np.concatenate([p[shot:] for p in picks])))
            labels.append((np.repeat(np.arange(way), shot), np.repeat(np.arange(way), counts)))
            ways.append(way)
        inputs = _gather(self.X, rows, self.transform, rng)
        return TaskBatch.from_tasks(
            [s for s, _ in inputs],
            [torch.from_numpy(s) for s, _ in labels],
            [q for _, q in inputs],
            [torch.from_numpy(q) for _, q in labels],
            ways,
        )


class GroupSampler:
    r"""Draw regression tasks from grouped data: a task is a group, split at random into support and query.

    Args:
        X: inputs, shape `(N, D)`; NumPy array or memory map.
        y: real-valued labels, shape `(N,)`.
        groups: group of each row, any hashable labels, shape `(N,)`.
        n_support: support rows per task, or an inclusive range drawn anew for each task.
        n_query: largest number of query rows per task; all remaining rows by default.
        transform: function of (rows of one task, generator) applied to each task.
        seed: first half of the key of every batch.

    Raises:
        ValueError: if a group has no row left for the query, or the arrays are malformed.

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
        transform: Transform | None = None,
        seed: int = 0,
    ) -> None:
        self.X = _features(X)
        self.y = np.asarray(y)
        if self.y.ndim != 1 or self.y.dtype.kind not in "fiub":
            raise ValueError(
                f"y: expected one column of numbers, got shape {self.y.shape} of {self.y.dtype} "
                "(class labels go to EpisodeSampler)"
            )
        labels = list(groups)
        if not len(self.X) == len(self.y) == len(labels) or not labels:
            raise ValueError(
                f"expected X, y and groups of equal length, got {len(self.X)}, {len(self.y)} and {len(labels)}"
            )
        if not np.isfinite(self.y).all():
            raise ValueError(
                f"y: expected finite numbers, got NaN or infinity at row {int(np.argmin(np.isfinite(self.y)))}"
            )
        try:
            number = {group: code for code, group in enumerate(sorted(set(labels)))}
        except TypeError:
            raise ValueError(f"groups: expected hashable, sortable labels, got {type(labels[0]).__name__}") from None
        self.groups = np.empty(len(number), dtype=object)
        self.groups[:] = list(number)
        codes = np.array([number[group] for group in labels])
        self.n_support = _range("n_support", n_support, 0)
        if n_query is not None and n_query < 1:
            raise ValueError(f"n_query: expected at least 1, got {n_query}")
        self.n_query, self.transform, self.seed = n_query, transform, seed
        self._members = _members(codes)
        smallest = min(range(len(self._members)), key=lambda g: len(self._members[g]))
        if len(self._members[smallest]) <= self.n_support[1]:
            raise ValueError(
                f"groups: expected at least n_support + 1 = {self.n_support[1] + 1} rows in every group, got "
                f"{len(self._members[smallest])} in group {self.groups[smallest]!r}"
            )
        generator(seed, 0)

    def sample(self, num_tasks: int, index: int = 0) -> TaskBatch:
        """Draw batch number `index`: groups without replacement, while there are enough.

        Args:
            num_tasks: number of tasks, $T$.
            index: number of the batch.

        Returns:
            Labelled tasks; features and labels as 32-bit floats.

        Raises:
            ValueError: if a feature read is not finite, or `num_tasks` is below 1.
        """
        if num_tasks < 1:
            raise ValueError(f"num_tasks: expected at least 1, got {num_tasks}")
        rng = generator(self.seed, index)
        total = len(self._members)
        chosen = rng.choice(total, num_tasks, replace=num_tasks > total)
        rows = []
        for g in chosen:
            support = int(rng.integers(self.n_support[0], self.n_support[1] + 1))
            order = rng.permutation(self._members[g])
            stop = len(order) if self.n_query is None else support + self.n_query
            rows.append((order[:support], order[support:stop]))
        inputs = _gather(self.X, rows, self.transform, rng)
        y = [(self.y[s].astype(np.float32), self.y[q].astype(np.float32)) for s, q in rows]
        return TaskBatch.from_tasks(
            [s for s, _ in inputs],
            [torch.from_numpy(s) for s, _ in y],
            [q for _, q in inputs],
            [torch.from_numpy(q) for _, q in y],
        )


def _gather(
    X: np.ndarray,
    rows: list[tuple[np.ndarray, np.ndarray]],
    transform: Transform | None,
    rng: np.random.Generator,
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Read each task's rows (support, query), transform them together, and turn them into tensors."""
    flat = np.concatenate([np.concatenate(pair) for pair in rows])
    read = np.asarray(X[flat], dtype=np.float32)
    finite = np.isfinite(read.reshape(len(read), -1)).all(1)
    if not finite.all():
        raise ValueError(f"X: expected finite numbers, got NaN or infinity at row {int(flat[np.argmin(finite)])}")
    out, start = [], 0
    for support, query in rows:
        stop = start + len(support) + len(query)
        task = read[start:stop]
        if transform is not None:
            task = np.asarray(transform(task, rng), dtype=np.float32)
        x = torch.from_numpy(np.ascontiguousarray(task))
        out.append((x[: len(support)], x[len(support) :]))
        start = stop
    return out
