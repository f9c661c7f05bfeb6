r"""Random sizes of tasks, so that what is fitted to some tasks holds for others.

$$ \log C \sim \mathcal U(\log 2, \log C_{\max}), \qquad \log n \sim \mathcal U(0, \log n_{\max}), \qquad
   \log m \sim \mathcal U(0, \log m_{\max}) $$

for the classes of a task, the labelled rows and the queries of each, as far as there are classes and rows. A task has
at most four times as many rows as the largest of its source: what is trained on the source has the memory for these.
"""

from __future__ import annotations

import math

import numpy as np

__all__ = ["QUERIES", "SIZES", "random_size"]

SIZES = 4  # stream of random numbers, after those of tasks, proportions and blocks
WAYS, SHOTS, QUERIES = 30, 20, 40  # at most
MORE = 4  # times the rows of the largest task of the source, at most


def random_size(classes: int, members: int, rows: int, rng: np.random.Generator) -> tuple[int, int, int]:
    """Draw the size of a task.

    Args:
        classes: how many there are, at least two.
        members: rows of the smallest class, at least two.
        rows: of the largest task of the source, at least one.
        rng: the random generator.

    Returns:
        Classes, labelled rows of each and queries of each.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> [random_size(64, 600, 80, rng) for _ in range(3)], random_size(3, 2, 80, rng)
        ([(11, 2, 1), (2, 11, 29), (10, 9, 5)], (3, 1, 1))
    """
    u, most = rng.random(3), max(MORE * rows, 2 * 2)
    ways = _between(2, min(WAYS, classes, most // 2), u[0])
    each = min(members, most // ways)
    shots = _between(1, min(SHOTS, each - 1), u[1])
    return ways, shots, _between(1, min(QUERIES, each - shots), u[2])


def _between(low: int, high: int, u: float) -> int:
    """Return a whole number whose logarithm lies at the share `u` between those of two others."""
    return round(math.exp(math.log(low) + u * (math.log(high) - math.log(low))))
