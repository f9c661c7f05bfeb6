"""Predictions of very many groups as parquet files, one for each frame, which an interrupted run continues."""

from __future__ import annotations

import inspect
import io
import json
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from ebmeta.foundation.checks import at_least, checked
from ebmeta.foundation.extras import need
from ebmeta.foundation.fingerprint import fingerprint
from ebmeta.foundation.writing import check_target, marked, write
from ebmeta.scoring.batches import check_stream, opened
from ebmeta.scoring.frame import Scorer
from ebmeta.scoring.roles import roles_for
from ebmeta.scoring.whole_groups import WholeGroups
from ebmeta.tasks.frame_columns import frame_of

__all__ = ["ScoredParts", "score_parts"]

FACTS = b"PANDAS_ATTRS"  # where pandas keeps what is said of a frame in a parquet file


@checked(parts=at_least(0), kept=at_least(0), groups=at_least(0), rows=at_least(0), seconds=at_least(0))
@dataclass(frozen=True)
class ScoredParts:
    """What a call of `score_parts` did.

    Args:
        parts: files in the folder.
        kept: those that were there before.
        groups: groups of all files.
        rows: predicted rows of the files that this call wrote.
        seconds: wall time of this call.
    """

    parts: int
    kept: int
    groups: int
    rows: int
    seconds: float

    @property
    def rows_per_second(self) -> float:
        """Predicted rows of this call over its wall time."""
        return self.rows / self.seconds


@checked(total=at_least(0))
def score_parts(
    model: str | os.PathLike[str],
    frames: Iterable[Any],
    output: str | os.PathLike[str],
    *,
    total: int | None = None,
    progress: bool = True,
    **options: Any,
) -> ScoredParts:
    """Predict the rows without a label of one frame after the other, and write a parquet file for each.

    Each file is written whole. A call that was interrupted is continued by the same call: the files that are there
    stay, after their frames are compared with those that they were made of. Memory is that of one frame.

    Args:
        model: folder of a saved model.
        frames: as for `score_batches`; in the same order at each call.
        output: folder of the files `part-00000.parquet`, ...; made where it does not exist.
        total: how many frames there are, for the progress bar.
        progress: show a progress bar.
        options: further arguments of `score_batches`.

    Returns:
        What was done.

    Raises:
        MissingPackageError: if pyarrow is not installed.
        OSError: if a file cannot be written, or one of these names is not of ebmeta.
        ValueError: as for `score_batches`, or if a file that is there was made of another frame, by another model or
            with other options, or of more frames.
    """
    if strange := [name for name in options if name not in inspect.signature(_scorer).parameters]:
        raise TypeError(f"score_parts() got an unexpected keyword argument {strange[0]!r}")
    check_stream(frames)
    started = time.perf_counter()
    parquet, folder = need("pyarrow.parquet"), Path(output)
    scorer = _scorer(Path(model), **options)
    checksum = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))["checksum"]
    asked = {**asdict(scorer.roles), "seed": scorer.seed, "num_draws": scorer.num_draws, "num_steps": scorer.num_steps}
    run = fingerprint(checksum, asked)
    folder.mkdir(parents=True, exist_ok=True)
    known, parts, kept, groups, rows = WholeGroups(), 0, 0, 0, 0
    with tqdm(total=total, desc="score", unit="frame", disable=not progress) as bar:
        for parts, frame in enumerate(frames, 1):
            path = _part(folder, parts - 1)
            table = frame_of("frame", frame)
            own = scorer.groups(table)
            scorer = scorer.after(table)
            names = list(dict.fromkeys(own))
            known.add(names)
            groups += len(names)
            facts = {"run": run, "frame": _content(table)}
            if path.exists() and path.stat().st_size:
                check_target(path, "table")
                _compare(path, parquet.read_schema(path).metadata or {}, facts)
                kept += 1
            else:
                rows += _write(path, pd.DataFrame(scorer.columns(table, own)), facts)
            bar.update()
            bar.set_postfix(groups=groups, refresh=False)
    if rest := sorted(set(folder.glob("part-*.parquet")) - {_part(folder, number) for number in range(parts)}):
        raise ValueError(f"{rest[0]}: expected none but those of {parts} frames, got another; choose another folder")
    return ScoredParts(parts, kept, groups, rows, time.perf_counter() - started)


def _part(folder: Path, number: int) -> Path:
    return folder / f"part-{number:05d}.parquet"


def _scorer(
    folder: Path,
    *,
    label: str | None = None,
    groups: str | None = None,
    keep: Sequence[str] = (),
    group_rows: str | None = None,
    num_steps: int | None = None,
    num_draws: int = 0,
    seed: int = 0,
) -> Scorer:
    model, encoder = opened(folder)
    roles = roles_for(model, encoder, (label, groups), keep, group_rows)
    return Scorer(model, encoder, roles, num_steps, num_draws, seed)


def _content(table: pd.DataFrame) -> str:
    """Return a fingerprint of all values of a frame and of the names of its columns."""
    return fingerprint(list(table.columns), pd.util.hash_pandas_object(table, index=False).to_numpy())


def _compare(path: Path, metadata: dict[bytes, bytes], facts: dict[str, str]) -> None:
    stored = json.loads(metadata.get(FACTS, b"{}"))
    for name, what in (("run", "this model with these options"), ("frame", "this frame")):
        if stored.get(name) != facts[name]:
            raise ValueError(f"{path}: expected predictions of {what}, got others; choose another folder")


def _write(path: Path, found: pd.DataFrame, facts: dict[str, str]) -> int:
    found.attrs.update({"ebmeta": marked("table")}, **facts)
    buffer = io.BytesIO()
    found.to_parquet(buffer, index=False)
    write(path, buffer.getvalue(), "table")
    return len(found)
