"""Rows that are asked about, and what is taken for known of their groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ebmeta.likelihood.base import Likelihood
from ebmeta.random_effects.rows import Rows

__all__ = ["Groups", "as_asked", "check_labels"]

Array = NDArray[np.float64]
Groups = Literal["known", "typical", "new"]


def as_asked(rows: Rows, known: Sequence[int], groups: Groups, likelihood: Likelihood) -> Rows:
    """Return rows whose effects are what is taken for them.

    Args:
        rows: rows whose new groups are numbered after the known ones.
        known: number of known groups of each grouping factor.
        groups: "known" leaves the rows as they are. "typical" takes the effects for 0. "new" takes every group for
            a new one. Both leave labels out of account.
        likelihood: of the labels of new groups.

    Raises:
        ValueError: if a label of a new group is impossible.
    """
    if groups == "known":
        new = np.any([g.codes >= number for g, number in zip(rows.groupings, known, strict=True)], axis=0)
        check_labels(likelihood, rows, new & np.isfinite(rows.y))
    else:
        rows = replace(rows, y=np.full(len(rows), np.nan))
    if groups == "typical":
        for place, grouping in enumerate(rows.groupings):
            rows = rows.with_terms(place, np.zeros_like(grouping.z))
    if groups == "new":
        for place, number in enumerate(known):
            own = rows.groupings[place]
            rows = rows.regrouped(place, own.codes + number, np.concatenate([own.labels[:number], own.labels]))
    return rows


def check_labels(likelihood: Likelihood, rows: Rows, told: NDArray[np.bool_]) -> None:
    """Raise `ValueError` where a label of some rows is impossible.

    Args:
        likelihood: of the labels.
        rows: all rows.
        told: which of them, shape `(N,)`.
    """
    size = None if rows.size is None else torch.from_numpy(rows.size)[None]
    try:
        likelihood.check("labels", torch.from_numpy(rows.y)[None], torch.from_numpy(told)[None], size)
    except ValueError as error:
        raise ValueError(str(error).replace("task 0, ", "")) from None
