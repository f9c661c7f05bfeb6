r"""Batches of tasks, each with a few labelled examples (support) and unlabelled inputs (query).

Tasks are ragged: each has its own number of classes (ways), support points and queries. A
`TaskBatch` holds them as padded tensors with boolean masks, so that every later stage works on
all tasks at once and never loops over them.

========================  =======================================  =========================================
on paper                  in code                                  shape
========================  =======================================  =========================================
$x^s_{ti}$, $y^s_{ti}$    `support_x`, `support_y`, `support_mask`  `(T, S, ...)`, `(T, S)`, `(T, S)`
$x^q_{ti}$, $y^q_{ti}$    `query_x`, `query_y`, `query_mask`        `(T, Q, ...)`, `(T, Q)`, `(T, Q)`
classes of task $t$       `way_mask`, `way_class`                  `(T, C)`; `C = 1` for real-valued labels
trials or exposure        `support_size`, `query_size`             `(T, S)`, `(T, Q)`
covariates of the group   `task_x`                                 `(T, G)`
========================  =======================================  =========================================

What both sides have in common is said once, of `batch.support` and `batch.query`: `ebmeta.tasks.rows.Rows`. What is
said of tasks as a whole is `batch.facts`: `ebmeta.tasks.facts.Facts`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from ebmeta.foundation.buckets import split
from ebmeta.foundation.checks import at_least, checked, found
from ebmeta.tasks.facts import Facts
from ebmeta.tasks.rows import LabelledRows, Rows

__all__ = ["TaskBatch"]


@checked()
@dataclass(frozen=True, eq=False)
class TaskBatch:
    """Ragged tasks as padded tensors with masks.

    Args:
        support_x: support inputs $x^s$, shape `(T, S, ...)`.
        support_y: support labels $y^s$, shape `(T, S)`; integers below the number of ways, or reals.
        query_x: query inputs $x^q$, shape `(T, Q, ...)`.
        query_y: query labels $y^q$, shape `(T, Q)`, or None where they are unknown.
        support_mask: True where a support row is real, shape `(T, S)`; all True by default.
        query_mask: True where a query row is real, shape `(T, Q)`; all True by default.
        way_mask: True where a class exists, shape `(T, C)`. By default `C` is one more than the
            largest integer label, and 1 for real-valued labels.
        support_size: how much each support row counts (see `ebmeta.likelihood.Given`), shape `(T, S)`, or None.
        query_size: the same of each query, shape `(T, Q)`, or None.
        task_x: covariates of each task as a whole, shape `(T, G)`, or None.
        concentration: what is known of the class proportions of the queries: that they come from a Dirichlet
            distribution of this concentration (infinity: balanced queries; NaN: nothing), shape `(T,)`; nothing
            is known where None.
        way_class: number of each class of a task among the classes of its source (see `TaskSource.rows`), -1 where it
            has none, shape `(T, C)`; no class has a number where None.
        anchor: an input that stands for each class, such as its name in the space of the inputs or its mean elsewhere,
            shape `(T, C, ...)`; for joint models. A class that has one needs no support row.
        anchor_size: how many labelled rows each anchor is worth, 0 for none, shape `(T, C)`; 1 where None.
        outliers: whether queries may be of none of the classes, shape `(T,)`; for joint models. None are where None.

    Raises:
        ValueError: if shapes do not match, a number is not finite, a label is no class of its task,
            or a task has no query.

    Examples:
        >>> batch = TaskBatch(torch.zeros(2, 5, 3), torch.arange(5).expand(2, 5), torch.zeros(2, 7, 3))
        >>> batch
        TaskBatch(tasks=2, ways<=5, support<=5, queries<=7, features=(3,), unlabelled)
    """

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor | None = None
    support_mask: Tensor = None  # type: ignore[assignment]  # filled in __post_init__
    query_mask: Tensor = None  # type: ignore[assignment]
    way_mask: Tensor = None  # type: ignore[assignment]
    support_size: Tensor | None = None
    query_size: Tensor | None = None
    task_x: Tensor | None = None
    concentration: Tensor | None = None
    way_class: Tensor | None = None
    anchor: Tensor | None = None
    anchor_size: Tensor | None = None
    outliers: Tensor | None = None

    def __post_init__(self) -> None:
        if self.support_x.dim() < 3 or self.query_x.dim() < 3:
            raise ValueError(
                "support_x and query_x: expected shapes (tasks, rows, features...), got "
                f"{tuple(self.support_x.shape)} and {tuple(self.query_x.shape)}"
            )
        support = Rows.taken(self.support_x, self.support_y, self.support_mask, self.support_size)
        query = Rows.taken(self.query_x, self.query_y, self.query_mask, self.query_size)
        way_mask = _all_ways(support, query) if self.way_mask is None else self.way_mask
        facts = replace(self.facts, way_mask=way_mask).taken(len(support.x))
        self._of(support, query, facts)._check_rows()
        self.__dict__.update(self._of(support.blanked(), query.blanked(), facts).__dict__)

    @classmethod
    def _of(cls, support: Rows, query: Rows, facts: Facts) -> TaskBatch:
        """Put tasks together without a check."""
        new = object.__new__(cls)
        new.__dict__.update(support_x=support.x, support_y=support.y, query_x=query.x, query_y=query.y)
        new.__dict__.update(support_mask=support.mask, query_mask=query.mask)
        new.__dict__.update(support_size=support.size, query_size=query.size, **vars(facts))
        return new

    @property
    def support(self) -> Rows:
        """The support rows, shape `(T, S)` each."""
        return Rows(self.support_x, self.support_y, self.support_mask, self.support_size)

    @property
    def query(self) -> Rows:
        """The query rows, shape `(T, Q)` each."""
        return Rows(self.query_x, self.query_y, self.query_mask, self.query_size)

    @property
    def facts(self) -> Facts:
        """What is said of each task as a whole."""
        return Facts(**{field.name: getattr(self, field.name) for field in fields(Facts)})

    def _check_rows(self) -> None:
        """Raise `ValueError` where the two sides do not fit each other, or hold what they cannot."""
        tasks, features = self.num_tasks, tuple(self.support_x.shape[2:])
        self.support.check_shapes("support", tasks, features)
        self.query.check_shapes("query", tasks, features)
        real = self.support_y.is_floating_point()
        if self.query_y is not None and self.query_y.is_floating_point() != real:
            raise ValueError(
                f"query_y: expected labels of the kind of support_y, {self.support_y.dtype}, got {self.query_y.dtype}"
            )
        if real and self.way_mask.shape[1] != 1:
            raise ValueError(f"way_mask: expected one output for real-valued labels, got {self.way_mask.shape[1]}")
        if tasks == 0:
            raise ValueError("expected at least one task, got 0")
        if not bool(self.query_mask.any(1).all()):
            t = int((~self.query_mask.any(1)).nonzero()[0])
            raise ValueError(f"query_x: expected at least one query per task, got none in task {t}")
        ways = self.way_mask.sum(1)
        self.support.check_values("support", ways)
        self.query.check_values("query", ways)

    @classmethod
    @checked(num_ways=at_least(1))
    def from_tasks(
        cls,
        support_x: Sequence[Tensor],
        support_y: Sequence[Tensor],
        query_x: Sequence[Tensor],
        query_y: Sequence[Tensor] | None = None,
        num_ways: Sequence[int] | None = None,
        *,
        support_size: Sequence[Tensor] | None = None,
        query_size: Sequence[Tensor] | None = None,
        task_x: Tensor | None = None,
        concentration: Tensor | None = None,
        way_class: Tensor | None = None,
    ) -> TaskBatch:
        """Collate unpadded tasks, one entry of each list a task.

        Args:
            support_x: inputs, each of shape `(S_t, ...)`.
            support_y: labels, each of shape `(S_t,)`.
            query_x: inputs, each of shape `(Q_t, ...)`.
            query_y: labels, each of shape `(Q_t,)`, or None.
            num_ways: number of classes of each task; default from the labels (1 if real-valued).
            support_size: sizes of the support rows, each of shape `(S_t,)`, or None.
            query_size: sizes of the queries, each of shape `(Q_t,)`, or None.
            task_x: covariates of the tasks, shape `(T, G)`, or None.
            concentration: what is known of class proportions, shape `(T,)`, or None.
            way_class: numbers of the classes, shape `(T, C)` with `C` the most classes of a task, or None.

        Returns:
            The tasks, padded to the largest.

        Raises:
            ValueError: if the lists differ in length, or as for the constructor.
        """
        lengths = {len(support_x), len(support_y), len(query_x)}
        optional = (query_y, num_ways, support_size, query_size, task_x, concentration, way_class)
        lengths |= {0 if isinstance(v, Tensor) and not v.dim() else len(v) for v in optional if v is not None}
        if len(lengths) != 1 or not support_x:
            raise ValueError(f"expected lists of one equal, positive length, got lengths {sorted(lengths)}")
        support = Rows.stacked("support", support_x, support_y, support_size)
        query = Rows.stacked("query", query_x, query_y, query_size)
        ways = _num_ways(support, query) if num_ways is None else list(num_ways)
        counts = torch.as_tensor(ways, device=support.x.device)
        way_mask = torch.arange(int(counts.max()), device=support.x.device) < counts[:, None]
        return replace(cls._of(support, query, Facts(way_mask, task_x, concentration, way_class)))  # checked

    @property
    def num_tasks(self) -> int:
        """Number of tasks, $T$."""
        return len(self.support_x)

    @property
    def num_queries(self) -> Tensor:
        """Number of real queries of each task, $Q_t$, shape `(T,)`."""
        return self.query.count

    def _map(self, f: Callable[[Tensor], Tensor]) -> TaskBatch:
        return self._of(self.support.map(f), self.query.map(f), self.facts.map(f))

    @checked()
    def to(self, target: torch.device | str | torch.dtype) -> TaskBatch:
        """Move to a device, or change the floating-point type.

        Args:
            target: a device or a floating-point `torch.dtype`.

        Returns:
            The same tasks there; integer labels and masks keep their type.
        """
        if isinstance(target, torch.dtype):
            if not target.is_floating_point:
                raise ValueError(f"target: expected a device or a floating-point type, got {target}")
            return self._map(lambda v: v.to(target) if v.is_floating_point() else v)
        try:
            return self._map(lambda v: v.to(target))
        except RuntimeError:
            raise ValueError(f"target: expected a device that is there, got {found(target)}") from None

    def __getitem__(self, index: slice | Tensor | Sequence[int]) -> TaskBatch:
        """Choose tasks by slice, mask or list of indices; padding stays as it is."""
        chosen = index if isinstance(index, slice) else torch.as_tensor(index)
        if isinstance(chosen, Tensor) and chosen.dim() != 1:
            raise ValueError(f"expected a slice, a mask or a list of tasks, got {index!r}")
        return self._map(lambda v: v[chosen])

    def trimmed(self) -> TaskBatch:
        """Return the same tasks without the rows at the end that are padding in all of them."""
        return self._of(self.support.trimmed(), self.query.trimmed(), self.facts)

    @checked(cells=at_least(1), least=at_least(1))
    def parts(self, cells: int, least: int = 1) -> list[tuple[Tensor, TaskBatch]]:
        """Return tasks of like size together, so that cost follows rows and not the largest task.

        Args:
            cells: most rows times classes of a part, padding included; a larger task is a part by itself.
            least: rows that even the smallest task counts for.

        Returns:
            The numbers of the tasks of each part, and those tasks, trimmed; this batch as it is, where it is small.
        """
        rows, ways = self.support.width + self.query.width, self.way_mask.shape[1]
        if self.num_tasks * max(rows, least) * ways <= cells:
            return [(torch.arange(self.num_tasks, device="cpu"), self)]
        lengths = (self.support.count + self.query.count).clamp(min=least) * ways
        return [
            (torch.from_numpy(part), self[_run(part)].trimmed()) for part in split(np.asarray(lengths.cpu()), cells)
        ]

    def __len__(self) -> int:
        return self.num_tasks

    @checked()
    def with_rows(self, support: Rows | None = None, query: Rows | None = None) -> TaskBatch:
        """Return the same tasks with other rows.

        Args:
            support: support rows in place of its own, or None to keep these.
            query: queries in place of its own, or None to keep these.

        Raises:
            ValueError: as for the constructor.

        Examples:
            >>> batch = TaskBatch(torch.zeros(2, 5, 3), torch.zeros(2, 5), torch.zeros(2, 7, 3))
            >>> batch.with_rows(batch.support.first(2))
            TaskBatch(tasks=2, ways<=1, support<=2, queries<=7, features=(3,), unlabelled)
        """
        return replace(self._of(support or self.support, query or self.query, self.facts))  # checked

    def labelled(self) -> LabelledRows:
        """Return all labelled rows, those of the support first; the queries too where their labels are known."""
        sides = [rows for rows in (self.support.labelled(), self.query.labelled()) if rows is not None]
        return LabelledRows(*(torch.cat(values) for values in zip(*sides, strict=True)))

    def unlabelled(self) -> TaskBatch:
        """Return the same tasks without query labels: all that inference may see."""
        return self._of(self.support, replace(self.query, y=None), self.facts)

    def pooled(self) -> TaskBatch:
        r"""Return tasks whose support *and* query are all labelled rows.

        Conditioned on all labels, $q_0$ approximates $p(w \mid \text{all data})$ and the Gibbs
        objective becomes the evidence lower bound of all data, which is tight where $q_0$ is exact.

        Raises:
            ValueError: if the query labels are absent.
        """
        if self.query_y is None:
            raise ValueError("pooled: expected query labels, got unlabelled tasks")
        rows = self.support.joined(self.query)
        return self._of(rows, rows, replace(self.facts, concentration=None))

    def __repr__(self) -> str:
        return (
            f"TaskBatch(tasks={self.num_tasks}, ways<={self.way_mask.shape[1]}, "
            f"support<={self.support_x.shape[1]}, queries<={self.query_x.shape[1]}, "
            f"features={tuple(self.support_x.shape[2:])}, "
            f"{'un' if self.query_y is None else ''}labelled)"
        )


def _run(numbers: np.ndarray) -> slice | torch.Tensor:
    """Return consecutive numbers as a slice, which copies nothing."""
    first, last = int(numbers[0]), int(numbers[-1])
    return slice(first, last + 1) if (np.diff(numbers) == 1).all() else torch.from_numpy(numbers)


def _labels(support: Rows, query: Rows) -> list[Tensor]:
    return [rows.y for rows in (support, query) if rows.y is not None and rows.y.numel()]


def _all_ways(support: Rows, query: Rows) -> Tensor:
    """Return a mask of as many classes in every task as the largest label asks for; of one output for real labels."""
    labels = _labels(support, query)
    classes = support.y is not None and not support.y.is_floating_point()
    ways = 1 + max((int(y.max()) for y in labels), default=0) if classes else 1
    return torch.ones(len(support.x), ways, dtype=torch.bool, device=support.x.device)


def _num_ways(support: Rows, query: Rows) -> list[int]:
    """Return the number of classes of each task, from its largest label."""
    tasks, labels = len(support.x), _labels(support, query)
    if support.y is not None and support.y.is_floating_point():
        return [1] * tasks
    if not labels:
        raise ValueError("num_ways: expected the number of classes where there are no labels, got None")
    return [1 + max(int(y[t].max()) for y in labels) for t in range(tasks)]
