r"""Random numbers of queries and of labelled rows, so that classes of tasks that do not tell theirs may have any.

$$ \pi \sim \mathrm{Dirichlet}(a, \dots, a), \qquad \log a \sim \mathcal U(\log 0.5, \log 10) $$

Some classes then have most of the queries and others none. A model that is trained on tasks that hide the proportions
of their source learns these instead: where all are balanced, "unknown" comes to mean "balanced". In half of these tasks
classes differ in their number of labelled rows, too, which says nothing of the queries,

$$ n_c = \lfloor e^{u_c} \rfloor, \qquad u_c \sim \mathcal U(0, \log (m_c + 1)), $$

between one and $m_c$, four times as many as the source has, as far as there are rows. A model that has never seen such
tasks leans to the classes with more labelled rows.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.drawing import generator

__all__ = ["MORE", "PROPORTIONS", "hidden", "random_counts", "random_shots", "thinned"]

LEAST, MOST = 0.5, 10.0  # concentration of the Dirichlet distribution
MORE = 4  # times the labelled rows that the source has of a class, at most
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


def random_shots(shots: np.ndarray, most: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the number of labelled rows of each class of a task: those given, or in every second one random numbers.

    Args:
        shots: labelled rows that each class has, shape `(C,)`.
        most: labelled rows that each may have, $m_c$, shape `(C,)`.
        rng: the random generator.

    Returns:
        Numbers of labelled rows, at least one where `most` is, shape `(C,)`.

    Examples:
        >>> rng, shots = np.random.default_rng(0), np.array([5, 5, 5])
        >>> [random_shots(shots, np.array([20, 20, 8]), rng).tolist() for _ in range(2)]
        [[2, 1, 1], [16, 6, 4]]
    """
    if rng.random() < 0.5:
        return shots
    drawn: np.ndarray = np.minimum(np.exp(rng.uniform(0, np.log(most + 1))).astype(int), most)
    return drawn


def thinned(batch: TaskBatch, index: int) -> TaskBatch:
    """Hide the class proportions of every second task, and leave queries out at random until they are random ones.

    Half of these tasks lose labelled rows likewise, but the last of no class. Labels tell which queries: where they
    are absent, all stay. Tasks of numbers have no classes, and stay as they are.

    Args:
        batch: tasks.
        index: number of the batch.
    """
    if batch.support_y.is_floating_point():
        return batch
    hide, rng, ways = hidden(len(batch), index), generator(0, index, PROPORTIONS), batch.way_mask.shape[1]
    support = batch.support_mask.cpu().numpy().copy()
    queries = batch.query_mask.cpu().numpy().copy()
    for t in np.flatnonzero(hide):
        labelled = _of_class(batch.support_y[t], support[t], ways)
        shots = np.array([len(rows) for rows in labelled])
        _keep(support[t], labelled, random_shots(shots, shots, rng), rng)
        if batch.query_y is not None:
            unlabelled = _of_class(batch.query_y[t], queries[t], ways)
            room = np.array([len(rows) for rows in unlabelled])
            _keep(queries[t], unlabelled, random_counts(int(room.sum()), room, rng), rng)
    known = batch.concentration
    if known is not None:
        known = known.masked_fill(torch.from_numpy(hide).to(known.device), math.nan)
    kept = [torch.from_numpy(mask).to(batch.support_mask.device) for mask in (support, queries)]
    return replace(batch, support_mask=kept[0], query_mask=kept[1], concentration=known)


def _of_class(labels: torch.Tensor, mask: np.ndarray, ways: int) -> list[np.ndarray]:
    """Return which real rows of a task are of each class."""
    y = labels.cpu().numpy()
    return [np.flatnonzero(mask & (y == c)) for c in range(ways)]


def _keep(mask: np.ndarray, rows: list[np.ndarray], numbers: np.ndarray, rng: np.random.Generator) -> None:
    """Keep so many random rows of each class in a mask, in place."""
    mask[:] = False
    mask[np.concatenate([rng.choice(r, n, replace=False) for r, n in zip(rows, numbers, strict=True)])] = True
