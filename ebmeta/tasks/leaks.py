"""Queries that are a labelled row of their own task, which a score of new rows should not count.

Rows that a data set has several times, such as those of small classes that were repeated to make them large, are drawn
as labelled rows and as queries of one task.
"""

from __future__ import annotations

import numpy as np
import torch

from ebmeta.foundation.telling import tell
from ebmeta.tasks.alike import alike, by_chance
from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.rows import Rows

__all__ = ["leaked", "note_on_leaks", "tell_of_leaks"]

MOST = 0.01  # share of the queries that moves no score by more than its error
FEWEST = 8  # features, from which on equal rows are one row and no two like any other
TASKS = 64  # that are looked at


def leaked(batch: TaskBatch) -> float:
    r"""Return the share of the queries that are a labelled row of their task, as `ebmeta.tasks.alike` says it.

    It is 0 where rows have too few features, or values, to tell a copy from a row that is equal by chance.

    Args:
        batch: $T$ tasks of classes; those of numbers have rows of any features.

    Examples:
        >>> x = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(0))
        >>> leaked(TaskBatch(x[:, :2], torch.arange(2)[None], x[:, 1:]))
        0.3333333333333333
    """
    if batch.support_y.is_floating_point() or batch.support_x.shape[2:].numel() < FEWEST:
        return 0.0
    (task, rows), (own, queries) = _rows(batch.support), _rows(batch.query)
    known, asked = alike(rows, queries)
    numbers = np.concatenate([known, asked])
    first = np.unique(numbers, return_index=True)[1]
    if by_chance(np.concatenate([rows, queries])[first]):
        return 0.0
    labelled = set(zip(task.tolist(), known.tolist(), strict=True))
    return float(np.mean([pair in labelled for pair in zip(own.tolist(), asked.tolist(), strict=True)]))


def _rows(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Return the task of each real row, shape `(N,)`, and the rows, shape `(N, D)`."""
    real = rows.mask.cpu()
    values = rows.x.detach().cpu().flatten(2)[real]
    return torch.nonzero(real)[:, 0].numpy(), values.double().numpy()


def note_on_leaks(batch: TaskBatch) -> str:
    """Return what to say where too many of the queries are labelled rows of their task; nothing elsewhere."""
    share = leaked(batch[:TASKS])
    if share <= MOST:
        return ""
    said = f"{share:.0%} of the queries are copies of labelled rows of their task"
    return f"{said}, so that scores are not those of new rows; give each row once"


def tell_of_leaks(batch: TaskBatch, name: str) -> None:
    """Warn where too many of the queries are labelled rows of their task.

    Args:
        batch: $T$ tasks.
        name: of the argument that they are of.
    """
    if said := note_on_leaks(batch):
        tell(f"{name}: {said}")
