r"""Tasks: a few labelled examples (support) and unlabelled inputs (query), many of them at a time.

Tasks are ragged: each has its own number of classes (ways), support points and queries. A
`TaskBatch` holds them as padded tensors with boolean masks, so that every later stage works on
all tasks at once and never loops over them.

========================  =======================================  =========================================
on paper                  in code                                  shape
========================  =======================================  =========================================
$x^s_{ti}$, $y^s_{ti}$    `support_x`, `support_y`, `support_mask`  `(T, S, ...)`, `(T, S)`, `(T, S)`
$x^q_{ti}$, $y^q_{ti}$    `query_x`, `query_y`, `query_mask`        `(T, Q, ...)`, `(T, Q)`, `(T, Q)`
classes of task $t$       `way_mask`                               `(T, C)`; `C = 1` for real-valued labels
trials or exposure        `support_size`, `query_size`             `(T, S)`, `(T, Q)`
covariates of the group   `task_x`                                 `(T, G)`
========================  =======================================  =========================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from ebmeta.foundation.buckets import split
from ebmeta.foundation.checks import at_least, checked, found
from ebmeta.tasks.arrays import check_batch, pad

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

    def __post_init__(self) -> None:
        if self.support_x.dim() < 3 or self.query_x.dim() < 3:
            raise ValueError(
                "support_x and query_x: expected shapes (tasks, rows, features...), got "
                f"{tuple(self.support_x.shape)} and {tuple(self.query_x.shape)}"
            )
        for name in ("way_mask", "task_x"):
            value = getattr(self, name)
            if value is not None and value.dim() != 2:
                raise ValueError(f"{name}: expected two axes, the first of tasks, got shape {tuple(value.shape)}")
        for name in ("support_size", "query_size", "task_x", "concentration"):
            value = getattr(self, name)
            if value is not None and not value.is_floating_point():
                object.__setattr__(self, name, value.to(torch.get_default_dtype()))
        for name in ("support_x", "query_x"):
            x = getattr(self, name)
            if not x.is_floating_point():
                exact = torch.float64 if x.element_size() > 2 else torch.get_default_dtype()
                object.__setattr__(self, name, x.to(exact))
        for name in ("support_y", "query_y"):
            y = getattr(self, name)
            if y is not None and not y.is_floating_point():
                object.__setattr__(self, name, y.long())
        missing = {name for name in ("support_mask", "query_mask", "way_mask") if getattr(self, name) is None}
        for name, x in (("support_mask", self.support_x), ("query_mask", self.query_x)):
            if name in missing:
                object.__setattr__(self, name, torch.ones(x.shape[:2], dtype=torch.bool, device=x.device))
        if "way_mask" in missing:
            ways = 1
            if not self.support_y.is_floating_point():
                labels = [self.support_y] if self.query_y is None else [self.support_y, self.query_y]
                ways = 1 + max((int(y.max()) for y in labels if y.numel()), default=0)
            mask = torch.ones(len(self.support_x), ways, dtype=torch.bool, device=self.support_x.device)
            object.__setattr__(self, "way_mask", mask)
        check_batch(self)
        for side in ("support", "query"):
            mask = getattr(self, f"{side}_mask")
            if bool(mask.all()):
                continue
            for name, blank in ((f"{side}_x", 0), (f"{side}_y", 0), (f"{side}_size", 1)):
                value = getattr(self, name)
                if value is not None:  # padding may hold anything, so it is made to hold numbers that do no harm
                    real = mask.view(*mask.shape, *[1] * (value.dim() - 2))
                    object.__setattr__(self, name, value.masked_fill(~real, blank))

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

        Returns:
            The tasks, padded to the largest.

        Raises:
            ValueError: if the lists differ in length, or as for the constructor.
        """
        lengths = {len(support_x), len(support_y), len(query_x)}
        optional = (query_y, num_ways, support_size, query_size, task_x, concentration)
        lengths |= {0 if isinstance(v, Tensor) and not v.dim() else len(v) for v in optional if v is not None}
        if len(lengths) != 1 or not support_x:
            raise ValueError(f"expected lists of one equal, positive length, got lengths {sorted(lengths)}")
        for name, xs, ys in (
            ("support_y", support_x, support_y),
            ("query_y", query_x, query_y),
            ("support_size", support_x, support_size),
            ("query_size", query_x, query_size),
        ):
            for t, (x, y) in enumerate(zip(xs, xs if ys is None else ys, strict=True)):
                if len(x) != len(y):
                    what = "labels" if name.endswith("y") else "sizes"
                    raise ValueError(f"{name}: expected {len(x)} {what} in task {t}, got {len(y)}")
        sx, support_mask = pad(support_x, max(map(len, support_x)))
        sy, _ = pad(support_y, sx.shape[1])
        qx, query_mask = pad(query_x, max(map(len, query_x)))
        qy = None if query_y is None else pad(query_y, qx.shape[1])[0]
        if num_ways is None:
            if sy.is_floating_point():
                num_ways = [1] * len(sx)
            else:
                last = [sy] if qy is None else [sy, qy]
                if not any(y.shape[1] for y in last):
                    raise ValueError("num_ways: expected the number of classes where there are no labels, got None")
                num_ways = [1 + max(int(y[t].max()) for y in last if y.shape[1]) for t in range(len(sx))]
        ways = torch.as_tensor(list(num_ways), device=sx.device)
        way_mask = torch.arange(int(ways.max()), device=sx.device) < ways[:, None]
        of_support = None if support_size is None else pad(support_size, sx.shape[1])[0]
        of_query = None if query_size is None else pad(query_size, qx.shape[1])[0]
        masks = support_mask, query_mask, way_mask
        return cls(sx, sy, qx, qy, *masks, of_support, of_query, task_x, concentration)

    @property
    def num_tasks(self) -> int:
        """Number of tasks, $T$."""
        return len(self.support_x)

    @property
    def num_queries(self) -> Tensor:
        """Number of real queries of each task, $Q_t$, shape `(T,)`."""
        return self.query_mask.sum(1)

    def _map(self, f: Callable[[Tensor], Tensor]) -> TaskBatch:
        values = {k.name: getattr(self, k.name) for k in fields(self)}
        new = object.__new__(TaskBatch)
        for name, v in values.items():
            object.__setattr__(new, name, None if v is None else f(v))
        return new

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
        ends = {}
        for side in ("support", "query"):
            used = getattr(self, f"{side}_mask").any(0).nonzero()
            ends[side] = int(used[-1]) + 1 if len(used) else 0
        values = {k.name: getattr(self, k.name) for k in fields(self)}
        new = object.__new__(TaskBatch)
        for name, v in values.items():
            end = ends.get(name.split("_")[0])
            object.__setattr__(new, name, v if v is None or end is None else v[:, :end])
        return new

    @checked(cells=at_least(1), least=at_least(1))
    def parts(self, cells: int, least: int = 1) -> list[tuple[Tensor, TaskBatch]]:
        """Return tasks of like size together, so that cost follows rows and not the largest task.

        Args:
            cells: most rows times classes of a part, padding included; a larger task is a part by itself.
            least: rows that even the smallest task counts for.

        Returns:
            The numbers of the tasks of each part, and those tasks, trimmed; this batch as it is, where it is small.
        """
        rows, ways = self.support_mask.shape[1] + self.query_mask.shape[1], self.way_mask.shape[1]
        if self.num_tasks * max(rows, least) * ways <= cells:
            return [(torch.arange(self.num_tasks), self)]
        lengths = (self.support_mask.sum(1) + self.query_mask.sum(1)).clamp(min=least) * ways
        numbers = (torch.from_numpy(part) for part in split(np.asarray(lengths.cpu()), cells))
        return [(number, self[number].trimmed()) for number in numbers]

    def __len__(self) -> int:
        return self.num_tasks

    def unlabelled(self) -> TaskBatch:
        """Return the same tasks without query labels: all that inference may see."""
        return replace(self, query_y=None)

    def pooled(self) -> TaskBatch:
        r"""Return tasks whose support *and* query are all labelled rows.

        Conditioned on all labels, $q_0$ approximates $p(w \mid \text{all data})$ and the Gibbs
        objective becomes the evidence lower bound of all data, which is tight where $q_0$ is exact.

        Raises:
            ValueError: if the query labels are absent.
        """
        if self.query_y is None:
            raise ValueError("pooled: expected query labels, got unlabelled tasks")
        x = torch.cat([self.support_x, self.query_x], 1)
        y = torch.cat([self.support_y, self.query_y], 1)
        mask = torch.cat([self.support_mask, self.query_mask], 1)
        size = None
        if self.support_size is not None or self.query_size is not None:
            parts = ((self.support_size, self.support_y), (self.query_size, self.query_y))
            size = torch.cat([torch.ones_like(y) if s is None else s for s, y in parts], 1)
        support = {"support_x": x, "support_y": y, "support_mask": mask, "support_size": size}
        query = {"query_x": x, "query_y": y, "query_mask": mask, "query_size": size}
        return replace(self, **support, **query, concentration=None)  # type: ignore[arg-type]  # a table of tensors and Nones

    def __repr__(self) -> str:
        return (
            f"TaskBatch(tasks={self.num_tasks}, ways<={self.way_mask.shape[1]}, "
            f"support<={self.support_x.shape[1]}, queries<={self.query_x.shape[1]}, "
            f"features={tuple(self.support_x.shape[2:])}, "
            f"{'un' if self.query_y is None else ''}labelled)"
        )
