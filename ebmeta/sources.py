"""Sources: tasks from files, as the command line describes them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ebmeta.frames import FrameEncoder
from ebmeta.group_sampling import GroupSampler
from ebmeta.sampling import EpisodeSampler
from ebmeta.tabular import read_frame, read_table

__all__ = ["Tasks", "agree", "naming", "sampler"]


@dataclass(frozen=True)
class Tasks:
    """How rows become tasks.

    Args:
        label: name of the label column or array.
        groups: name of the group column or array: labels are numbers, one task per group. Without it, labels
            are classes.
        size: with groups, column of trials, exposure or readings of each row.
        features: with groups, columns of features, numbers or texts, such as price,kind; all others by default.
        group_features: with groups, columns of covariates of the group, such as area,city.
        n_way: classes per task, a number or a range such as 2:10; 5 by default.
        n_shot: labelled rows per class, a number or a range; 1 by default. With groups, labelled rows
            per group; 3 by default, and a range from 0, such as 0:3, takes groups of any size.
        n_query: queries per class, 15 by default; per task, with imbalance. With groups, the largest
            number of queries; all remaining rows by default.
        imbalance: Dirichlet concentration of the query classes; balanced without it.
    """

    label: str = "y"
    groups: str | None = None
    size: str | None = None
    features: str | None = None
    group_features: str | None = None
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


def _list(text: str | None) -> list[str]:
    return [] if text is None else [part.strip() for part in text.split(",") if part.strip()]


def sampler(path: Path, tasks: Tasks, seed: int, encoder: FrameEncoder | None = None) -> EpisodeSampler | GroupSampler:
    """Return a source of tasks over the rows of a file.

    Args:
        path: npz, CSV or parquet file.
        tasks: how its rows become tasks.
        seed: seed of the source.
        encoder: what columns became in training, where the model was trained on groups in named columns.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if the file or an option is malformed, or they do not go together.
    """
    if tasks.groups is not None or encoder is not None:
        return _groups(path, tasks, seed, encoder)
    for flag in ("size", "features", "group_features"):
        if getattr(tasks, flag) is not None:
            raise ValueError(f"--{flag.replace('_', '-')}: expected --groups beside it, got none")
    table = read_table(path, tasks.label)
    ranges = [_range(n, v) for n, v in (("n-way", tasks.n_way or "5"), ("n-shot", tasks.n_shot or "1"))]
    ranges.append(_range("n-query", tasks.n_query or "15"))
    try:
        return EpisodeSampler(table.X, table.y, *ranges, imbalance=tasks.imbalance, seed=seed)
    except ValueError as error:
        numbers = np.asarray(table.y).dtype.kind == "f" and "class labels" in str(error)
        advice = "; are these numbers of groups? Then name the column of the groups with --groups" if numbers else ""
        raise ValueError(f"{path}: {error}{advice}") from None


def _groups(path: Path, tasks: Tasks, seed: int, encoder: FrameEncoder | None) -> GroupSampler:
    name = encoder.groups if encoder is not None else str(tasks.groups)
    for flag, value in (("n-way", tasks.n_way), ("imbalance", tasks.imbalance)):
        if value is not None:
            raise ValueError(f"--{flag}: expected classes, got --groups {name}, whose labels are numbers")
    n_support = _range("n-shot", tasks.n_shot or "3")
    n_query = None if tasks.n_query is None else _range("n-query", tasks.n_query)[1]
    if path.suffix == ".npz" and encoder is None:
        if tasks.size or tasks.features or tasks.group_features:
            raise ValueError(f"{path}: expected a file of named columns, .csv or .parquet, for sizes and features")
        table = read_table(path, tasks.label, tasks.groups)
        return GroupSampler(table.X, table.y, table.groups, n_support, n_query, seed=seed)
    frame = read_frame(path)
    with naming(path):
        if encoder is None:
            columns = None if tasks.features is None else _list(tasks.features)
            known = _list(tasks.group_features)
            encoder = FrameEncoder(tasks.label, name, columns, known, tasks.size).fit(frame)
        agree(tasks.label, tasks.groups, encoder)
        return GroupSampler.from_frame(frame, n_support=n_support, n_query=n_query, encoder=encoder, seed=seed)


@contextmanager
def naming(path: Path, **roles: str | None) -> Iterator[None]:
    """Put the file in front of what is wrong with its columns, and their names in place of their roles.

    Args:
        path: the file.
        **roles: name of the column behind an argument of the library, such as `y`.
    """
    try:
        yield
    except ValueError as error:
        role, colon, rest = str(error).partition(":")
        called = f"column {roles[role]!r}" if roles.get(role) is not None else role
        raise ValueError(f"{path}: {called}{colon}{rest}") from None


def agree(label: str, groups: str | None, encoder: FrameEncoder) -> None:
    """Raise `ValueError` where label or group column are named, and otherwise than in training."""
    for flag, got, known in (("label", label, encoder.y), ("groups", groups, encoder.groups)):
        if got not in (None, Tasks.label if flag == "label" else None, known):
            raise ValueError(f"--{flag}: expected {known}, as in training, got {got}")
