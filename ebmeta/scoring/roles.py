"""What the columns of frames to be scored are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ebmeta.foundation.telling import named
from ebmeta.model.base import PredictiveModel
from ebmeta.tasks.frames import FrameEncoder

__all__ = ["Roles", "roles_for"]


@dataclass(frozen=True)
class Roles:
    """The columns of a frame that are no features.

    Args:
        label: labels; a row without one is to be predicted.
        groups: group of each row.
        keep: columns that come back with the predictions.
        group_rows: column that states how many rows the group has, or None.
    """

    label: str
    groups: str
    keep: tuple[str, ...]
    group_rows: str | None

    def check(self, frame: pd.DataFrame) -> None:
        """Raise `ValueError` where a frame lacks a column that has to be there."""
        for name in (self.label, self.groups, *self.keep, *([] if self.group_rows is None else [self.group_rows])):
            if name not in frame:
                raise ValueError(f"frame: expected a column {name!r}, got {named(frame.columns)}")

    def features(self, frame: pd.DataFrame, known: list[Any] | None) -> list[Any]:
        """Return the features of a frame: those that the model knows by name, or all columns without another role.

        Raises:
            ValueError: if one that the model knows is not there.
        """
        if known is None:
            taken = {self.label, self.groups, self.group_rows, *self.keep}
            return [name for name in frame.columns if name not in taken]
        if absent := [name for name in known if name not in frame]:
            raise ValueError(f"frame: expected a column {absent[0]!r}, as the model was trained on, got none")
        return known


def roles_for(
    model: PredictiveModel,
    encoder: FrameEncoder | None,
    named: tuple[str | None, str | None],
    keep: Sequence[str],
    group_rows: str | None,
) -> Roles:
    """Return the roles of the columns; a model of named columns knows its own.

    Args:
        model: of classes or of numbers.
        encoder: what the columns of a frame become, where the model was saved with one.
        named: the columns of labels and of groups, where the caller names them.
        keep: columns that come back with the predictions.
        group_rows: column that states how many rows a group has, or None.

    Raises:
        ValueError: if a column is named that is another one in the model, or none is named for the groups.
    """
    label, groups = named
    if encoder is not None:
        for name, got, known in (("label", label, encoder.y), ("groups", groups, encoder.groups)):
            if got not in (None, known):
                raise ValueError(f"{name}: expected {known!r}, as the model was trained, got {got!r}")
        label, groups = encoder.y, encoder.groups
    if groups is None:
        raise ValueError("groups: expected the name of the column of groups, got None, and the model knows none")
    if isinstance(keep, str):
        raise ValueError(f"keep: expected a list of columns, got the text {keep!r}")
    return Roles(label or "y", groups, tuple(keep), group_rows)
