"""Sources of tasks from the files that the command line names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ebmeta.app.errors import FLAGS
from ebmeta.app.flags import Tasks
from ebmeta.app.tables import Roles, read_frame, read_table, roles_of
from ebmeta.tasks.episodes import EpisodeSampler
from ebmeta.tasks.frame_columns import NONE
from ebmeta.tasks.frame_files import as_ids
from ebmeta.tasks.frames import FrameEncoder
from ebmeta.tasks.groups import GroupSampler
from ebmeta.tasks.sizes import TaskSizes, span

__all__ = [
    "check_roles",
    "column_errors",
    "listed",
    "of_tasks",
    "refuse_numbers",
    "roles_of_encoder",
    "sampler",
    "sized",
]


def _range(flag: str, text: str) -> tuple[int, int]:
    low, _, high = str(text).partition(":")
    try:
        return int(low), int(high or low)
    except ValueError:
        raise ValueError(f"--{flag}: expected a number or a range such as 2:10, got {text!r}") from None


def listed(text: str | None) -> list[str]:
    """Return the names of a flag, which commas part."""
    return [] if text is None else [part.strip() for part in text.split(",") if part.strip()]


def sampler(
    path: Path,
    tasks: Tasks,
    seed: int,
    encoder: FrameEncoder | None = None,
    names: Sequence[str] | None = None,
    say: Callable[[str], None] = print,
) -> EpisodeSampler | GroupSampler:
    """Return a source of tasks over the rows of a file, and report the role of each column.

    Args:
        path: npz, CSV or parquet file.
        tasks: how its rows become tasks.
        seed: seed of the source.
        encoder: what columns became in training, where the model was trained on groups in named columns.
        names: columns of a model that was trained on named ones without an encoder.
        say: what is done with that line.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if the file or an option is malformed, or they do not go together.
    """
    if tasks.groups is not None or encoder is not None:
        return _groups(path, tasks, seed, encoder, names, say)
    for flag in ("size", "group_features"):
        if getattr(tasks, flag) is not None:
            raise ValueError(f"--{flag.replace('_', '-')}: expected --groups beside it, got none")
    exclude = listed(tasks.exclude) if names is None else []
    table = read_table(path, tasks.label, features=_features(path, tasks, names), exclude=exclude)
    refuse_numbers(path, tasks.label, table.y, "name the column of the groups with --groups")
    with column_errors(path, y=tasks.label):
        source = EpisodeSampler(
            table.X,
            table.y,
            _range("n-way", tasks.n_way or "5"),
            _range("n-shot", tasks.n_shot or "1"),
            _range("n-query", tasks.n_query or "15"),
            imbalance=tasks.imbalance,
            seed=seed,
        )
    source.feature_names = table.features
    say(f"{path}: {table.roles}")
    return source


def sized(tasks: Tasks, trained: TaskSizes | None) -> Tasks:
    """Return what flags say, with the sizes of training in the place of those that no flag gives.

    Queries and the balance of their classes go together: with either flag, both are what flags say.
    """
    if trained is None:
        return tasks
    known = {"n_way": trained.n_way, "n_shot": trained.n_shot}
    more: dict[str, Any] = {n: span(v) for n, v in known.items() if v is not None and getattr(tasks, n) is None}
    if tasks.n_query is None and tasks.imbalance is None:
        more["n_query"] = None if trained.n_query is None else span(trained.n_query)
        more["imbalance"] = trained.imbalance
    return replace(tasks, **more)


def of_tasks(source: EpisodeSampler | GroupSampler, trained: TaskSizes | None) -> str:
    """Return a line that says the sizes of tasks, and whether they are those of training."""
    used = source.task_sizes()
    said = "" if trained is None else ", as in training" if used == trained else f" (training had {trained})"
    return f"tasks: {used}{said}"


def _features(path: Path, tasks: Tasks, names: Sequence[str] | None) -> Sequence[str] | None:
    """Return the columns of features that a flag names, or that training used."""
    asked = None if tasks.features is None else listed(tasks.features)
    if asked is not None and path.suffix == ".npz":
        raise ValueError(f"{path}: expected a file of named columns, .csv or .parquet, for --features")
    if names is None:
        return asked
    if asked not in (None, list(names)):
        raise ValueError(f"--features: expected the columns of training, {list(names)}, got {asked}")
    if needed := set(names) & set(listed(tasks.exclude)):
        raise ValueError(f"--exclude: expected no column of training, got {min(needed)!r}")
    return None if path.suffix == ".npz" else names


def refuse_numbers(
    path: Path, label: str, y: np.ndarray | None, hint: str = "use ebmeta mixed or ebmeta train --groups"
) -> None:
    """Raise `ValueError`, with a hint, where class labels are not whole numbers, but those of groups."""
    numbers = pd.to_numeric(pd.Series([] if y is None or y.ndim != 1 else y), errors="coerce").to_numpy(dtype=float)
    odd = np.isfinite(numbers) & (numbers != np.round(numbers))
    if odd.any() and np.isfinite(numbers).all():
        row = int(np.argmax(odd))
        raise ValueError(
            f"{path}: column {label!r}: expected class labels, got continuous numbers such as {numbers[row]:g} in row "
            f"{row}; to predict numbers of groups, {hint}"
        )


def _groups(
    path: Path,
    tasks: Tasks,
    seed: int,
    encoder: FrameEncoder | None,
    names: Sequence[str] | None,
    say: Callable[[str], None],
) -> GroupSampler:
    name = encoder.groups if encoder is not None else str(tasks.groups)
    for flag, value in (("n-way", tasks.n_way), ("imbalance", tasks.imbalance)):
        if value is not None:
            raise ValueError(f"--{flag}: expected classes, got --groups {name}, whose labels are numbers")
    n_support = _range("n-shot", tasks.n_shot or "3")
    n_query = None if tasks.n_query is None else _range("n-query", tasks.n_query)[1]
    if path.suffix == ".npz" and encoder is None:
        if tasks.size or tasks.features or tasks.group_features or tasks.exclude:
            raise ValueError(f"{path}: expected a file of named columns, .csv or .parquet, for sizes and features")
        table = read_table(path, tasks.label, tasks.groups, classes=False)
        with column_errors(path, y=tasks.label, groups=tasks.groups):
            source = GroupSampler(table.X, table.y, table.groups, n_support, n_query, seed=seed)
        say(f"{path}: {table.roles}")
        return source
    frame = read_frame(path, [name] if encoder is None else encoder.texts)
    with column_errors(path, groups=name):
        if encoder is None:
            known, exclude = listed(tasks.group_features), listed(tasks.exclude)
            features = _features(path, tasks, names)
            found = roles_of(frame, tasks.label, name, features, exclude, group_features=known, size=tasks.size)
            if absent := [c for c in exclude if c not in frame]:
                raise ValueError(f"--exclude: expected columns of the file, got {absent[0]!r}")
            encoder = FrameEncoder(tasks.label, name, found.features, known, tasks.size).fit(frame)
        check_roles(tasks, encoder)
        roles = roles_of_encoder(frame, encoder)
        if name in frame:
            frame[name] = as_ids(frame[name])
    with column_errors(path, y=encoder.y, size=encoder.size):
        source = GroupSampler.from_frame(frame, n_support=n_support, n_query=n_query, encoder=encoder, seed=seed)
    say(f"{path}: {roles}")
    return source


def roles_of_encoder(frame: pd.DataFrame, encoder: FrameEncoder) -> Roles:
    """Return the role of each column of a frame for an encoder."""
    covariates, size = encoder.group_features, encoder.size
    return roles_of(frame, encoder.y, encoder.groups, encoder.features, group_features=covariates, size=size)


@contextmanager
def column_errors(path: Path, **roles: str | None) -> Iterator[None]:
    """Name the file and the column in errors of the library, which name a role such as `y`.

    Args:
        path: the file.
        **roles: name of the column behind an argument of the library, such as `y`.
    """
    try:
        yield
    except ValueError as error:
        role, colon, rest = str(error).partition(":")
        called = f"column {roles[role]!r}" if roles.get(role) is not None else FLAGS.get(role, role)
        rest = rest if path.suffix == ".csv" else rest.replace(f"; {NONE}", "")
        rest = re.sub(r"n_support=\((\d+), (\d+)\)", r"--n-shot \1:\2", rest)
        raise ValueError(
            f"{path}: {rest.lstrip() if role in ('frame', 'new_data') else f'{called}{colon}{rest}'}"
        ) from None


def check_roles(tasks: Tasks, encoder: FrameEncoder) -> None:
    """Raise `ValueError` where flags name other columns than those of training."""
    known = {
        "label": (None if tasks.label == Tasks.label else tasks.label, encoder.y),
        "groups": (tasks.groups, encoder.groups),
        "size": (tasks.size, encoder.size),
        "features": (None if tasks.features is None else listed(tasks.features), encoder.features),
        "group-features": (
            None if tasks.group_features is None else listed(tasks.group_features),
            encoder.group_features,
        ),
    }
    for flag, (got, wanted) in known.items():
        if got not in (None, wanted):
            raise ValueError(f"--{flag}: expected {wanted}, as in training, got {got}")
