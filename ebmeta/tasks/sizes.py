r"""Sizes of tasks: those that a model remembers, and random ones, so that what is fitted to some holds for others.

$$ \log C \sim \mathcal U(\log 2, \log C_{\max}), \qquad \log n \sim \mathcal U(0, \log n_{\max}), \qquad
   \log m \sim \mathcal U(0, \log m_{\max}) $$

for the classes of a task, the labelled rows and the queries of each, as far as there are classes and rows. A task has
at most four times as many rows as the largest of its source: what is trained on the source has the memory for these.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

__all__ = ["MOST_QUERIES", "SIZES", "TaskSizes", "random_size", "span"]

SIZES = 4  # stream of random numbers, after those of tasks, proportions and blocks
MOST_WAYS, MOST_SHOTS, MOST_QUERIES = 30, 20, 40  # at most
MORE = 4  # times the rows of the largest task of the source, at most


@dataclass(frozen=True)
class TaskSizes:
    """The sizes of the tasks of a source, by which a model remembers what it was trained on.

    Args:
        n_shot: labelled rows of a class or of a group, fewest and most.
        n_query: queries of a class (of a task with `imbalance`), fewest and most; of a group, at most; all where None.
        n_way: classes, fewest and most; None for groups.
        imbalance: as of `EpisodeSampler`.

    Examples:
        >>> TaskSizes.from_config(TaskSizes((0, 3), None).config()) == TaskSizes((0, 3), None)
        True
        >>> print(TaskSizes((1, 1), (75, 75), (2, 10), 2.0))
        --n-way 2:10, --n-shot 1, --n-query 75, --imbalance 2
    """

    n_shot: tuple[int, int]
    n_query: tuple[int, int] | None
    n_way: tuple[int, int] | None = None
    imbalance: float | None = None

    def __str__(self) -> str:
        shown = {"--n-way": self.n_way, "--n-shot": self.n_shot, "--n-query": self.n_query}
        said = [f"{flag} {span(value)}" for flag, value in shown.items() if value is not None]
        return ", ".join(said if self.imbalance is None else [*said, f"--imbalance {self.imbalance:g}"])

    def config(self) -> dict[str, Any]:
        """Return what a folder keeps, for JSON."""
        return {n: list(v) if isinstance(v, tuple) else v for n, v in asdict(self).items()}

    @classmethod
    def from_config(cls, config: Any) -> TaskSizes | None:
        """Return the sizes that a folder keeps; None where it keeps none.

        Raises:
            ValueError: if they are damaged.
        """
        if config is None:
            return None
        if not isinstance(config, dict) or set(config) != {"n_shot", "n_query", "n_way", "imbalance"}:
            raise ValueError(f"expected n_shot, n_query, n_way and imbalance of tasks, got {config!r:.60}")
        given = {name: _read_range(name, config[name], name != "n_shot") for name in ("n_shot", "n_query", "n_way")}
        imbalance = config["imbalance"]
        if imbalance is not None and not (type(imbalance) in (int, float) and 0 < imbalance < math.inf):
            raise ValueError(f"expected a number above 0 for imbalance, got {imbalance!r:.60}")
        return cls(imbalance=None if imbalance is None else float(imbalance), **given)


def span(value: tuple[int, int]) -> str:
    """Return a number or a range as the command line writes it.

    Examples:
        >>> span((2, 10)), span((3, 3))
        ('2:10', '3')
    """
    return str(value[0]) if value[0] == value[1] else f"{value[0]}:{value[1]}"


def _read_range(name: str, value: Any, optional: bool) -> Any:
    if value is None and optional:
        return None
    whole = isinstance(value, list) and len(value) == 2 and all(type(v) is int for v in value)
    if not whole or not 0 <= value[0] <= value[1] < 1 << 31:
        raise ValueError(f"expected the least and the largest number for {name}, got {value!r:.60}")
    return tuple(value)


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
    ways = _between(2, min(MOST_WAYS, classes, most // 2), u[0])
    each = min(members, most // ways)
    shots = _between(1, min(MOST_SHOTS, each - 1), u[1])
    return ways, shots, _between(1, min(MOST_QUERIES, each - shots), u[2])


def _between(low: int, high: int, u: float) -> int:
    """Return a whole number whose logarithm lies at the share `u` between those of two others."""
    return round(math.exp(math.log(low) + u * (math.log(high) - math.log(low))))
