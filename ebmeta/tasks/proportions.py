r"""Random class proportions, so that tasks that do not tell theirs may have any.

$$ \pi \sim \mathrm{Dirichlet}(a, \dots, a), \qquad \log a \sim \mathcal U(\log 0.5, \log 10) $$

Some classes then have most of the queries and others none. A model that is trained on tasks that hide the proportions
of their source learns these instead: where all are balanced, "unknown" comes to mean "balanced".
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.drawing import generator

__all__ = ["PROPORTIONS", "hidden", "random_counts", "thinned"]

LEAST, MOST = 0.5, 10.0  # concentration of the Dirichlet distribution
PROPORTIONS = 1  # stream of random numbers, beside that of the tasks


def hidden(num_tasks: int, index: int) -> np.ndarray:
    """Return which tasks of a batch hide their class proportions: every second one, in turns from batch to batch.

    Args:
        num_tasks: number of tasks, $T$.
        index: number of the batch.

    Examples:
        >>> hidden(3, 0).tolist(), hidden(3, 1).tolist()
        ([False, True, False], [True, False, True])
    """
    hide: np.ndarray = np.arange(num_tasks) % 2 != index % 2
    return hide


def random_counts(total: int, room: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    r"""Draw the number of queries of each class of a task, in random proportions.

    A class with too few rows for its share would bend the proportions towards equal ones. There are fewer queries
    then: $\min(Q, \min_c n_c / \pi_c)$ are shared out, and what a class has no row for is left out.

    Args:
        total: number of queries of the task, $Q$, if there are rows enough.
        room: rows that each class has, $n_c$, at least one in all, shape `(C,)`.
        rng: the random generator.

    Returns:
        Numbers of queries, at least one in all, shape `(C,)`.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> random_counts(20, np.array([50, 50, 0]), rng).tolist(), random_counts(20, np.array([0, 7]), rng).tolist()
        ([12, 8, 0], [0, 7])
    """
    there = room > 0
    concentration = math.exp(rng.uniform(math.log(LEAST), math.log(MOST)))
    share = rng.dirichlet(np.full(int(there.sum()), concentration))
    reach = min(total, round(1 / float((share / room[there]).max())))
    counts = np.zeros_like(room)
    counts[there] = np.minimum(rng.multinomial(max(reach, 1), share), room[there])
    return counts


def thinned(batch: TaskBatch, index: int) -> TaskBatch:
    """Hide the class proportions of every second task, and leave queries out at random until they are random ones.

    Labels tell which queries: where they are absent, all stay. Tasks of numbers have no classes, and stay as they are.

    Args:
        batch: tasks.
        index: number of the batch.
    """
    if batch.support_y.is_floating_point():
        return batch
    hide, mask = hidden(len(batch), index), batch.query_mask
    if batch.query_y is not None:
        rng, labels, kept = generator(0, index, PROPORTIONS), batch.query_y.cpu().numpy(), mask.cpu().numpy().copy()
        for t in np.flatnonzero(hide):
            rows = [np.flatnonzero(kept[t] & (labels[t] == c)) for c in range(batch.way_mask.shape[1])]
            counts = random_counts(int(kept[t].sum()), np.array([len(r) for r in rows]), rng)
            kept[t] = False
            kept[t, np.concatenate([rng.choice(r, n, replace=False) for r, n in zip(rows, counts, strict=True)])] = True
        mask = torch.from_numpy(kept).to(mask.device)
    known = batch.concentration
    if known is not None:
        known = known.masked_fill(torch.from_numpy(hide).to(known.device), math.nan)
    return replace(batch, query_mask=mask, concentration=known)
