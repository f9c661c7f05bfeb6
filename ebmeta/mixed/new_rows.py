"""Rows that are asked about: what is taken for known of their groups, and the table of their labels."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ebmeta.likelihood.base import Likelihood
from ebmeta.mixed.predictive import chances, intervals, moments
from ebmeta.mixed.rows import Grouping, Rows

__all__ = ["Groups", "as_asked", "forecast"]

Array = NDArray[np.float64]
Groups = Literal["known", "typical", "new"]


def as_asked(rows: Rows, known: Sequence[int], groups: Groups) -> Rows:
    """Return rows whose effects are what is taken for them.

    Args:
        rows: rows whose new groups are numbered after the known ones.
        known: number of known groups of each grouping factor.
        groups: "known" leaves the rows as they are. "typical" takes the effects for 0. "new" takes every group for
            a new one. Both leave labels out of account.
    """
    if groups == "known":
        for grouping, number in zip(rows.groupings, known, strict=True):
            _tell_of_spellings(grouping, number)
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


def _tell_of_spellings(grouping: Grouping, number: int) -> None:
    """Warn where no group is known, and one is a known number or date that is written otherwise: `31` for `031`."""
    if (grouping.codes < number).any():
        return
    known = {value: name for name in grouping.labels[:number] if (value := _meant(name)) is not None}
    for name in grouping.labels[number:]:
        value = _meant(name)
        if value is not None and value in known:
            warnings.warn(
                f"new_data: none of its groups, such as {name!r}, is among the {number} of the fit, such as "
                f"{known[value]!r}: all are predicted as new groups",
                UserWarning,
                stacklevel=4,
            )
            return


def _meant(name: Any) -> float | pd.Timestamp | None:
    """Return the number or the date that a name is, None where it is neither."""
    try:
        return float(name)
    except (ValueError, TypeError):
        pass
    try:
        return pd.Timestamp(name).tz_localize(None)
    except (ValueError, TypeError):
        return None


def forecast(
    asked: tuple[Sequence[Likelihood], Array, Array, Array, Array | None], coverage: float
) -> NDArray[np.float64]:
    """Return mean, standard deviation, both ends of the interval, and the chance of each label where these end.

    Args:
        asked: likelihoods, weights, location and variance of the linear predictor, and sizes, as for
            `predictive.moments`.
        coverage: probability that a label is in its interval.

    Returns:
        Shape `(4 + C, N)`.
    """
    return np.stack([*moments(*asked), *intervals(*asked, coverage), *chances(*asked)])
