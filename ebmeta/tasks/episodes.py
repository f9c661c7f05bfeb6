r"""Sampling: from labelled arrays to tasks, as a pure function of (seed, index).

`sample(num_tasks, index)` draws batch number `index` of an endless stream. Its random numbers come
from a Philox generator keyed by `(seed, index)` alone, so a batch is the same anywhere, in any order
and in any process; a run can be resumed at any iteration and workers need no shared state.

Arrays may be memory-mapped: a batch reads only the rows that it needs.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from sklearn.utils.multiclass import type_of_target

from ebmeta.foundation.checks import MOST_COUNT, WHOLE, at_least, checked, found, within
from ebmeta.foundation.fingerprint import fingerprint
from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.columns import read_keys, read_rows, refuse_not_finite

__all__ = [
    "EpisodeSampler",
    "RowSampler",
    "TaskSampler",
    "class_codes",
    "exact",
    "gather",
    "generator",
    "names_of",
]

MOST_CLASS = 2.0**53  # floats from here on are not told apart
SEEN_AT_ONCE = 50  # rows of one transform, where rows are not those of a task

Range = int | tuple[int, int]
Transform = Callable[[np.ndarray, np.random.Generator], np.ndarray]


class TaskSampler(Protocol):
    """What `fit` needs of a source of tasks: batches as a pure function of their index."""

    def sample(self, num_tasks: int, index: int = 0) -> TaskBatch:
        """Draw batch number `index`."""
        ...


class RowSampler:
    """A source of tasks over rows whose columns may have names.

    Attributes:
        feature_names: names of the columns, or None.
        covariate_names: names of the covariates of groups, or None.
    """

    feature_names: Sequence[str] | None = None
    covariate_names: Sequence[str] | None = None

    def fingerprint(self) -> str | None:
        """Return a checksum of data, settings and seed, for checkpoints; None where there is none."""
        return None


def names_of(tasks: object) -> Sequence[str] | None:
    """Return the names of the columns that a source of tasks reads; None where they have none."""
    return tasks.feature_names if isinstance(tasks, RowSampler) else None


def covariates_of(tasks: object) -> Sequence[str] | None:
    """Return the names of the covariates of groups of a source of tasks; None where they have none."""
    return tasks.covariate_names if isinstance(tasks, RowSampler) else None


def check_range(name: str, value: Range, least: int) -> tuple[int, int]:
    pair: Any = (value, value) if WHOLE.fits(value) else value
    if not (isinstance(pair, tuple | list) and len(pair) == 2 and all(map(WHOLE.fits, pair))):
        raise ValueError(f"{name}: expected an integer or a pair of integers (low, high), got {found(value)}")
    low, high = (int(v) for v in pair)
    if high >= MOST_COUNT:
        raise ValueError(f"{name}: expected a number below {MOST_COUNT}, got {found(high)}")
    if not least <= low <= high:
        raise ValueError(f"{name}: expected {least} <= low <= high, got {value}")
    return low, high


@checked()
def generator(seed: int, index: int) -> np.random.Generator:
    """Return the random generator of batch `index`: the same for equal (seed, index), everywhere."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, index))))


def exact(values: np.ndarray) -> np.ndarray:
    """Return numbers as floats of 32 bits where those hold each of them, else of 64.

    Examples:
        >>> [exact(np.array([1], kind)).dtype.name for kind in ("float16", "float32", "uint8", "int64", "float64")]
        ['float32', 'float32', 'float32', 'float64', 'float64']
    """
    short = values.dtype.itemsize <= (4 if values.dtype.kind == "f" else 2)
    return np.asarray(values, dtype=np.float32 if short else np.float64)


def _told_apart(labels: np.ndarray) -> bool:
    return bool((np.abs(labels.astype(np.float64)) < MOST_CLASS).all())


@checked()
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
    wanted = f"{name}: expected one column of class labels (integers, strings or booleans)"
    try:
        labels = read_keys(name, y)
    except ValueError as error:
        raise ValueError(f"{wanted}, got none or others: {str(error).removeprefix(f'{name}: ')}") from None
    array = y if isinstance(y, np.ndarray) and y.dtype.kind in "biufUS" else np.array(labels)
    if not array.size:
        kind = "empty"
    elif array.dtype.kind == "c":
        kind = "complex (Complex data not supported)"  # scikit-learn's words
    elif array.dtype.kind not in "biufU" or (array.dtype.kind == "f" and not _told_apart(array)):
        kind = "infinite or other"
    else:
        kind = type_of_target(array)
    if array.ndim != 1 or kind not in ("binary", "multiclass"):
        raise ValueError(f"{wanted}, got {kind} labels of shape {array.shape} and type {array.dtype}")
    classes, codes = np.unique(array, return_inverse=True)
    return classes, codes


def members(codes: np.ndarray) -> list[np.ndarray]:
    """Return the rows of each class or group, by code."""
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.cumsum(np.bincount(codes))[:-1])


@checked(imbalance=within(1e-6, 1e9))
class EpisodeSampler(RowSampler):
    r"""Draw classification tasks from a labelled data set.

    A task picks `n_way` classes, numbers them in random order, and draws `n_shot` support rows and
    `n_query` query rows of each, all without replacement. With `imbalance` $= a$, `n_query` counts
    the queries of the whole task, divided by class proportions $\pi \sim \mathrm{Dirichlet}(a, \dots, a)$. Tasks say
    which it is: their `concentration` is $a$, and infinity where the queries are balanced.

    Args:
        X: inputs, shape `(N, ...)`; NumPy array, memory map or data frame, whose names of columns are kept.
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
        self._codes, self._strength = codes, 0.0

    @property
    def members(self) -> list[np.ndarray]:
        """The rows of each class, in the order of `classes`."""
        return self._members

    @cached_property
    def _means(self) -> np.ndarray:
        return np.stack([np.asarray(self.X[m], dtype=np.float64).mean(0) for m in self._members])

    @cached_property
    def difficulty(self) -> float:
        r"""Spread of a class's members over the spread of the classes, $\sqrt{\mathrm{tr} S_w / \mathrm{tr} S_b}$.

        Examples:
            >>> round(EpisodeSampler([[0.0], [2.0], [10.0], [12.0]], [0, 0, 1, 1], 2, 1, 1).difficulty, 3)
            0.2
        """
        within = [float(np.square(self.X[m] - mean).sum()) for m, mean in zip(self._members, self._means, strict=True)]
        freedom = max(1, len(self._codes) - len(self._members))
        between = float(self._means.var(0, ddof=1).sum()) if len(self._means) > 1 else 0.0
        return math.sqrt(sum(within) / freedom / between) if between > 0 else math.inf

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
        seen = gather(self.X, [(part, part[:0]) for part in parts], self.transform, rng)
        return torch.cat([x for x, _ in seen]), torch.from_numpy(self._codes[chosen])

    def fingerprint(self) -> str:
        """Return a checksum of data, settings and seed, by which a checkpoint knows its source."""
        settings = self.n_way, self.n_shot, self.n_query, self.imbalance, self.seed, self._strength, self.feature_names
        return fingerprint(self.X, self._codes, settings)

    @checked(strength=within(0, 1e6))
    def harder(self, strength: float = 1.0) -> EpisodeSampler:
        r"""Return a sampler of the same tasks made harder: classes spread about their means, and split in two.

        $$ x_i \leftarrow \bar x_c + s\,(x_i - \bar x_c) + \tfrac{t_c}{2}\, \varepsilon_i\, (\bar x_{c'} - \bar x_c) $$

        with $s = 1 + 0.3\,b$ and $b \sim \mathcal U(0, 2a)$ for each task, $t_c \sim \mathcal U(0, b)$ and another
        class $c'$ for each class of a task, and a sign $\varepsilon_i = \pm 1$ for each row. Features of the
        classes that an embedding was trained on are tighter than those of new classes; a model trained on
        them as they are trusts its queries too much. Tasks of all degrees teach it how far to trust them.

        Args:
            strength: $a$, at least 0; 0 changes nothing.

        Raises:
            ValueError: if `strength` is negative.
        """
        other = copy.copy(self)
        other._strength = float(strength)
        return other

    def _harden(self, task: np.ndarray, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        classes, place = np.unique(self._codes[rows], return_inverse=True)
        means = self._means[classes]
        away = self._means[rng.integers(len(self._means), size=len(classes))] - means
        shape = (-1, *[1] * (task.ndim - 1))
        strength = rng.uniform(0, 2 * self._strength)
        away *= rng.uniform(0, strength / 2, len(classes)).reshape(shape)
        side = rng.choice(np.array([-1.0, 1.0]), len(task)).reshape(shape)
        out: np.ndarray = means[place] + (1 + 0.3 * strength) * (task - means[place]) + side * away[place]
        return out.astype(task.dtype)

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
        inputs = gather(self.X, rows, self.transform, rng, self._harden if self._strength else None, self.feature_names)
        return TaskBatch.from_tasks(
            [s for s, _ in inputs],
            [torch.from_numpy(s) for s, _ in labels],
            [q for _, q in inputs],
            [torch.from_numpy(q) for _, q in labels],
            ways,
            concentration=torch.full((num_tasks,), math.inf if self.imbalance is None else self.imbalance),
        )


def gather(
    X: np.ndarray,
    rows: list[tuple[np.ndarray, np.ndarray]],
    transform: Transform | None,
    rng: np.random.Generator,
    harden: Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray] | None = None,
    names: Sequence[str] | None = None,
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Read each task's rows (support, query), change them as asked, and turn them into tensors."""
    flat = np.concatenate([np.concatenate(pair) for pair in rows])
    read = exact(X[flat])
    refuse_not_finite("X", read, names, flat)
    out, start = [], 0
    for support, query in rows:
        stop = start + len(support) + len(query)
        task = read[start:stop]
        if harden is not None:
            task = harden(task, flat[start:stop], rng)
        if transform is not None:
            changed = np.asarray(transform(task, rng))
            if changed.dtype.kind not in "fiub" or changed.shape[:1] != task.shape[:1]:
                got = f"shape {changed.shape} of {changed.dtype}"
                raise ValueError(f"transform: expected a function that returns {len(task)} rows of numbers, got {got}")
            task = exact(changed)
        x = torch.from_numpy(task if task.flags.c_contiguous and task.flags.writeable else task.copy("C"))
        out.append((x[: len(support)], x[len(support) :]))
        start = stop
    return out
