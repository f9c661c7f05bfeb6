"""Sources: tasks from files, as the command line describes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ebmeta.group_sampling import GroupSampler
from ebmeta.sampling import EpisodeSampler
from ebmeta.tabular import read_table

__all__ = ["Tasks", "sampler"]


@dataclass(frozen=True)
class Tasks:
    """How rows become tasks.

    Args:
        label: name of the label column or array.
        groups: name of the group column or array: real labels, one task per group. Without it, labels
            are classes.
        n_way: classes per task, a number or a range such as 2:10; 5 by default.
        n_shot: labelled rows per class, a number or a range; 1 by default. With groups, labelled rows
            per group; 3 by default.
        n_query: queries per class, 15 by default; per task, with imbalance. With groups, the largest
            number of queries; all remaining rows by default.
        imbalance: Dirichlet concentration of the query classes; balanced without it.
    """

    label: str = "y"
    groups: str | None = None
    n_way: str | None = None
    n_shot: str | None = None
    n_query: str | None = None
    imbalance: float | None = None


def _range(flag: str, text: str) -> tuple[int, int]:
    low, _, high = str(text).partition(":")
    try:
        return int(low), int(high or low)
    except ValueError:
        raise ValueError(f"--{flag}: expected a number or a range such as 2:10, got {text!r}") from None


def sampler(path: Path, tasks: Tasks, seed: int) -> EpisodeSampler | GroupSampler:
    """Return a source of tasks over the rows of a file.

    Args:
        path: npz, CSV or parquet file.
        tasks: how its rows become tasks.
        seed: seed of the source.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if the file or an option is malformed, or they do not go together.
    """
    table = read_table(path, tasks.label, tasks.groups)
    if tasks.groups is not None:
        for flag, value in (("n-way", tasks.n_way), ("imbalance", tasks.imbalance)):
            if value is not None:
                raise ValueError(f"--{flag}: expected classes, got --groups {tasks.groups}, whose labels are real")
        n_query = None if tasks.n_query is None else _range("n-query", tasks.n_query)[1]
        return GroupSampler(table.X, table.y, table.groups, _range("n-shot", tasks.n_shot or "3"), n_query, seed=seed)
    return EpisodeSampler(
        table.X,
        table.y,
        _range("n-way", tasks.n_way or "5"),
        _range("n-shot", tasks.n_shot or "1"),
        _range("n-query", tasks.n_query or "15"),
        imbalance=tasks.imbalance,
        seed=seed,
    )
