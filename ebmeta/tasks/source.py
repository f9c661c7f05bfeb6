"""The abstract source of tasks, whose batches are a pure function of their index, with what is known of them.

`TaskSource` states everything that training, evaluation and diagnostics ever ask of a source. A new one gives `sample`
alone; the rest says that nothing is known, or refuses in words. Those who hand over tasks may give

- a source, such as `ebmeta.EpisodeSampler` or a class of their own under `TaskSource`,
- any object with a method `sample(num_tasks, index)`, of which nothing else is asked, or
- a `TaskBatch`, where what is done needs no more tasks than are there.

Public functions turn all three into a source once, by `as_source`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch

from ebmeta.foundation.buckets import split
from ebmeta.foundation.checks import at_least, checked
from ebmeta.foundation.fingerprint import fingerprint
from ebmeta.tasks.asked import as_many_as_asked, same_tasks
from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.classes import ClassRows, members
from ebmeta.tasks.frames import FrameEncoder
from ebmeta.tasks.group_marks import group_marks
from ebmeta.tasks.proportions import thinned
from ebmeta.tasks.sizes import TaskSizes

__all__ = ["FixedTasks", "TaskSampler", "TaskSource", "as_source"]

EVALUATED = 64  # tasks of a batch, where all that counts is how many there are in all


class TaskSampler(Protocol):
    """The least that an object has to do to be a source of tasks."""

    def sample(self, num_tasks: int, index: int = 0) -> TaskBatch:
        """Draw batch number `index`."""
        ...


class TaskSource(ABC):
    """A source of tasks: give it `sample`, and whatever else is known.

    Attributes:
        feature_names: names of the columns of features, or None.
        covariate_names: names of the covariates of groups, or None.
        encoder: what the columns of a data frame became, or None.
        groups: labels of the groups that tasks are made of, or None where tasks are no groups.

    Examples:
        >>> class Coins(TaskSource):
        ...     def sample(self, num_tasks, index=0):
        ...         x = torch.ones(num_tasks, 4, 1)
        ...         return TaskBatch(x, x[..., 0], x, x[..., 0])
        >>> Coins().sample(2)
        TaskBatch(tasks=2, ways<=1, support<=4, queries<=4, features=(1,), labelled)
        >>> print(Coins().difficulty, Coins().class_rows)
        None ()
        >>> Coins().harder(0.5)
        Traceback (most recent call last):
        ...
        ValueError: harder: expected tasks of an EpisodeSampler or MixedSampler, got Coins
    """

    feature_names: Sequence[str] | None = None
    covariate_names: Sequence[str] | None = None
    encoder: FrameEncoder | None = None
    groups: np.ndarray | None = None

    @abstractmethod
    def sample(self, num_tasks: int, index: int = 0) -> TaskBatch:
        """Draw batch number `index`: the same tasks for the same arguments, whatever was drawn before.

        Args:
            num_tasks: number of tasks, $T$.
            index: number of the batch.
        """

    @property
    def name(self) -> str:
        """What messages call the source."""
        return type(self).__name__

    @property
    def class_rows(self) -> Sequence[ClassRows]:
        """The rows of classes that tasks are drawn from, each set once; none where tasks are not drawn from classes."""
        return ()

    @property
    def difficulty(self) -> float | None:
        """Spread of a class's rows over the spread of the classes; None where tasks are not drawn from classes."""
        return None

    @property
    def num_groups(self) -> int | None:
        """Number of different groups that tasks are made of; None where every task is another."""
        return None if self.groups is None else len(self.groups)

    @property
    def has_fixed_rows(self) -> bool:
        """Whether `parts` shows the very rows that tasks are made of."""
        return False

    def fingerprint(self) -> str | None:
        """Return a checksum of data, settings and seed, by which a checkpoint knows its source; None without one."""
        return None

    def labels(self) -> tuple[np.ndarray, np.ndarray | None] | None:
        """Return the labels of all rows of all groups and their sizes; None where tasks are no groups."""
        return None

    def task_sizes(self) -> TaskSizes | None:
        """Return the sizes of tasks; None where they are not drawn by any from classes or groups."""
        return None

    def group_marks(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the names of groups and their marks (`ebmeta.tasks.group_marks`); None where there are none."""
        return None

    def rows(self, most: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return about `most` rows as tasks show them and the numbers of their classes, as many of each class.

        Tasks call their classes by the same numbers (`TaskBatch.way_class`), where they know them.

        Raises:
            ValueError: if tasks are not drawn from rows of classes.
        """
        raise ValueError(f"profile: expected tasks of an EpisodeSampler or MixedSampler, got {self.name}")

    def harder(self, strength: float = 1.0) -> TaskSource:
        """Return a source of the same tasks made harder.

        Raises:
            ValueError: if tasks are not drawn from rows of classes.
        """
        raise ValueError(f"harder: expected tasks of an EpisodeSampler or MixedSampler, got {self.name}")

    def with_unknown_proportions(self) -> TaskSource:
        """Return a source of the same tasks, every second of which hides its class proportions and has random ones.

        A model learns from them what it is not to count on: see `ebmeta.tasks.proportions`. Tasks of class labels lose
        queries by it, unless the source draws such tasks itself; tasks of numbers stay as they are.
        """
        return _Thinned(self)

    def with_random_sizes(self) -> TaskSource | None:
        """Return a source of tasks of other numbers of classes, labelled rows and queries, from the same classes.

        None where tasks are not drawn from rows of classes: nothing is known of others then.
        """
        return None

    def parts(self, rows: int, least: int = 1) -> Iterator[TaskBatch]:
        """Return every row once, in batches of groups of like size.

        Args:
            rows: most rows of a batch, padding included; a larger group is a batch by itself.
            least: rows that even the smallest group counts for.

        Raises:
            ValueError: if there is no end of rows.
        """
        raise ValueError(f"tasks: expected a GroupSampler or a TaskBatch, all rows of which are known, got {self.name}")

    def disjoint(self, index: int = 0) -> TaskBatch:
        """Draw tasks no two of which share a class or a group, as many as there can be, or all of them where fixed.

        Args:
            index: number of the draw; each has as many tasks.

        Raises:
            ValueError: if the classes and groups of tasks are not known.
        """
        raise ValueError(
            f"tasks: expected an EpisodeSampler or a GroupSampler, whose classes or groups are known, got {self.name}"
        )

    @checked(num_tasks=at_least(1))
    def count(self, num_tasks: int) -> int:
        """Return how many different tasks there are, where so many are asked for."""
        return num_tasks

    @checked(num_tasks=at_least(1))
    def batches(self, num_tasks: int) -> list[TaskBatch]:
        """Return the tasks that an evaluation looks at: batches 0, 1, ... of 64 tasks, `num_tasks` in all.

        Raises:
            ValueError: if a source that is not known draws the same tasks again, which would count as others.
        """
        drawn = list(self.draws(num_tasks, EVALUATED))
        if len(drawn) > 1 and self.fingerprint() is None and same_tasks(drawn[0], drawn[1]):
            raise ValueError(
                f"sample: expected other tasks for another index from {self.name}, got the same for 0 and 1; hand over "
                "a TaskBatch for tasks that stay the same"
            )
        return drawn

    @checked(num_tasks=at_least(1), size=at_least(1))
    def draws(self, num_tasks: int, size: int, seed: int = 0) -> Iterator[TaskBatch]:
        """Yield batches of `size` tasks, `num_tasks` in all; another seed goes on where the last one ended.

        Raises:
            ValueError: if a source draws another number of tasks, which would count as so many.
        """
        sizes = [min(size, num_tasks - start) for start in range(0, num_tasks, size)]
        for number, each in enumerate(sizes):
            yield as_many_as_asked(self.sample(each, seed * len(sizes) + number), each, self.name)


@checked()
class FixedTasks(TaskSource):
    """A source of the tasks of one batch, which come round again where more are asked for.

    Args:
        batch: the tasks.

    Examples:
        >>> x = torch.arange(3.0).view(3, 1, 1)
        >>> tasks = FixedTasks(TaskBatch(x, x[..., 0], x))
        >>> tasks.sample(2, index=1).query_x.flatten().tolist()
        [2.0, 0.0]
    """

    def __init__(self, batch: TaskBatch) -> None:
        self.batch = batch

    @checked(num_tasks=at_least(1))
    def sample(self, num_tasks: int, index: int = 0) -> TaskBatch:
        return self.batch[(torch.arange(num_tasks, device="cpu") + index * num_tasks) % len(self.batch)]

    @property
    def num_groups(self) -> int | None:
        return len(self.batch)

    @property
    def has_fixed_rows(self) -> bool:
        return True

    def fingerprint(self) -> str | None:
        sides = (self.batch.support, self.batch.query)
        tensors = [v for rows in sides for v in (rows.x, rows.y, rows.mask, rows.size)]
        tensors += vars(self.batch.facts).values()
        return fingerprint(*(None if v is None else v.cpu().numpy() for v in tensors))

    def group_marks(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Return those of tasks of numbers, each task as a group named by its number."""
        parts = [p for p in (self.batch.support.labelled(), self.batch.query.labelled()) if p is not None]
        if not all(p.y.is_floating_point() for p in parts):
            return None
        x, y, size, task = (
            np.concatenate([v.detach().cpu().numpy() for v in of_part]) for of_part in zip(*parts, strict=True)
        )
        names, codes = np.unique(task, return_inverse=True)
        marks = group_marks(x, y, size, members(codes))
        return None if marks is None else (names, marks)

    @checked(rows=at_least(1), least=at_least(1))
    def parts(self, rows: int, least: int = 1) -> Iterator[TaskBatch]:
        lengths = (self.batch.support.count + self.batch.query.count).clamp(min=least)
        for part in split(lengths.cpu().numpy(), rows):
            yield self.batch[torch.from_numpy(part)].trimmed()

    @checked()
    def disjoint(self, index: int = 0) -> TaskBatch:
        """Return all tasks of groups, each of which counts as one; tasks of classes may share some, and are refused."""
        return super().disjoint(index) if self.batch.way_mask.shape[1] > 1 else self.batch

    @checked(num_tasks=at_least(1))
    def count(self, num_tasks: int) -> int:
        return min(num_tasks, len(self.batch))

    @checked(num_tasks=at_least(1))
    def batches(self, num_tasks: int) -> list[TaskBatch]:
        """Return the batch as it is, however many tasks are asked for."""
        return [self.batch]

    @checked(num_tasks=at_least(1), size=at_least(1))
    def draws(self, num_tasks: int, size: int, seed: int = 0) -> Iterator[TaskBatch]:
        """Yield the tasks one after another, from the first again where they end, whatever the seed."""
        for start in range(0, num_tasks, size):
            numbers = start + torch.arange(min(size, num_tasks - start), device="cpu")
            yield self.batch[numbers % len(self.batch)]


class _Given(TaskSource):
    """What is known of an object that samples tasks and says no more."""

    def __init__(self, tasks: TaskSampler) -> None:
        self.tasks = tasks

    @property
    def name(self) -> str:
        return type(self.tasks).__name__

    def sample(self, num_tasks: int, index: int = 0) -> TaskBatch:
        return self.tasks.sample(num_tasks, index)


class _Thinned(TaskSource):
    """The tasks of a source, of which every second one has lost queries and tells no class proportions."""

    def __init__(self, tasks: TaskSource) -> None:
        self.tasks = tasks
        self.feature_names, self.covariate_names = tasks.feature_names, tasks.covariate_names

    @property
    def name(self) -> str:
        return self.tasks.name

    def fingerprint(self) -> str | None:
        known = self.tasks.fingerprint()
        return None if known is None else fingerprint("unknown proportions", known)

    def with_unknown_proportions(self) -> TaskSource:
        return self

    def sample(self, num_tasks: int, index: int = 0) -> TaskBatch:
        return thinned(self.tasks.sample(num_tasks, index), index)


@checked()
def as_source(tasks: TaskSampler | TaskBatch) -> TaskSource:
    """Return what was handed over as a source of tasks; see the head of this module.

    Args:
        tasks: a source, an object with a method `sample`, or tasks.

    Examples:
        >>> x = torch.zeros(3, 4, 1)
        >>> as_source(TaskBatch(x, x[..., 0], x)).batches(600)
        [TaskBatch(tasks=3, ways<=1, support<=4, queries<=4, features=(1,), unlabelled)]
    """
    if isinstance(tasks, TaskBatch):
        return FixedTasks(tasks)
    return tasks if isinstance(tasks, TaskSource) else _Given(tasks)
