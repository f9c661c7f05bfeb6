"""A stream of frames in, and a stream of their predictions out, with memory for one of them at a time."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import narwhals as nw
import pandas as pd

from ebmeta.foundation.checks import at_least, checked
from ebmeta.foundation.folders import kind_in
from ebmeta.mixed.content import KIND
from ebmeta.model.base import PredictiveModel
from ebmeta.model.storage import load_encoder
from ebmeta.saved.loading import load
from ebmeta.scoring.frame import Scorer
from ebmeta.scoring.roles import roles_for
from ebmeta.scoring.whole_groups import WholeGroups
from ebmeta.tasks.columns import as_frame
from ebmeta.tasks.frame_columns import frame_of
from ebmeta.tasks.frames import FrameEncoder

__all__ = ["check_stream", "like", "opened", "score_batches"]

Frame = Any  # of pandas, polars or pyarrow


@checked(num_steps=at_least(0), num_draws=at_least(0))
def score_batches(
    model: str | os.PathLike[str],
    frames: Iterable[Frame],
    *,
    label: str | None = None,
    groups: str | None = None,
    keep: Sequence[str] = (),
    group_rows: str | None = None,
    num_steps: int | None = None,
    num_draws: int = 0,
    seed: int = 0,
) -> Iterator[Frame]:
    """Predict the rows without a label of one frame after the other.

    A frame holds all rows of some thousands of groups: those with a label, and those without one. Nothing is kept from
    one frame to the next but 8 bytes for each group, by which a group that lies in two frames is refused. Where frames
    are scored by several processes, which know nothing of each other, `group_rows` does the same.

    Args:
        model: folder of a saved model. A process reads it once.
        frames: frames of pandas, polars or pyarrow.
        label: column of the labels, empty where a row is to be predicted, also where no row of a frame has a label; a
            model of named columns knows it, and it is "y" otherwise.
        groups: column of the groups; a model of named columns knows it.
        keep: columns that come back with the predictions, such as an id of the row.
        group_rows: column that states how many rows the group has in all. A group with fewer or more is refused.
        num_steps: refinement steps; those of training by default.
        num_draws: draws of each label that is a number, an inference more for each group.
        seed: of the draws. Those of a group depend on the seed and on the name of the group, and on nothing else.

    Returns:
        For each frame one of the same kind with the rows without a label, in their order. Its columns are the group,
        those of `keep`, and `mean`, `std`, `q05`, `q50`, `q95` and `draw_0`, ... of a model of numbers (in units of the
        label), or `prediction` and its `probability` of a model of classes.

    Raises:
        OSError: if the folder does not exist.
        ValueError: if the folder holds no model of tasks, an argument is out of range, a frame does not fit the
            model, or a group is not whole.

    Examples:
        >>> import tempfile, ebmeta
        >>> model = ebmeta.EmpiricalBayes.regressor(num_features=1, num_steps=0)
        >>> shops = pd.DataFrame({"shop": ["a", "a", "b"], "price": [0.0, 1.0, 1.0], "y": [2.0, None, None]})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = list(score_batches(ebmeta.save(model, folder), [shops], groups="shop"))
        >>> found[0][["shop", "q50"]].round(1).to_dict("list")
        {'shop': ['a', 'b'], 'q50': [1.0, 0.0]}
    """
    check_stream(frames)
    loaded, encoder = opened(Path(model))
    roles = roles_for(loaded, encoder, (label, groups), keep, group_rows)
    return _scored(Scorer(loaded, encoder, roles, num_steps, num_draws, seed), frames)


def check_stream(frames: Any) -> None:
    """Raise `ValueError` where something is no iterator of frames, such as one frame."""
    if isinstance(frames, Mapping | str) or as_frame(frames, "frames") is not None:
        raise ValueError(f"frames: expected an iterator of frames, such as a list of one, got {type(frames).__name__}")


def _scored(scorer: Scorer, frames: Iterable[Frame]) -> Iterator[Frame]:
    known = WholeGroups()
    for frame in frames:
        table = frame_of("frame", frame)
        own = scorer.groups(table)
        scorer = scorer.after(table)
        known.add(list(dict.fromkeys(own)))
        yield like(frame, scorer.columns(table, own))


def like(frame: Frame, columns: dict[str, Any]) -> Frame:
    """Return columns as a frame of the kind of another one."""
    out = pd.DataFrame(columns)
    if isinstance(frame, pd.DataFrame):
        return out
    own = nw.from_native(out)
    return own.to_polars() if nw.from_native(frame).implementation.is_polars() else own.to_arrow()


def opened(folder: Path) -> tuple[PredictiveModel, FrameEncoder | None]:
    """Return the model of a folder and its encoder, read once until the folder is written again.

    Raises:
        OSError: if there is no folder.
        ValueError: if it holds no model of tasks.
    """
    config = folder / "config.json"
    written = config.stat().st_mtime_ns if config.is_file() else 0
    return _opened(folder.resolve(), written)


@lru_cache(maxsize=4)
def _opened(folder: Path, written: int) -> tuple[PredictiveModel, FrameEncoder | None]:
    if kind_in(folder) == KIND:
        raise ValueError(f"{folder}: expected a model of tasks, got a mixed model")
    return cast(PredictiveModel, load(folder)), load_encoder(folder)
