"""Labels of new rows: mean, standard deviation and interval of each, and the interval of its mean."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ebmeta.mixed.new_rows import Groups
from ebmeta.mixed.over_draws import linear_of, whole_of
from ebmeta.mixed.predictive import chances, intervals, mean_ends, moments
from ebmeta.mixed.propagation import Draws
from ebmeta.random_effects.effects import Effects
from ebmeta.random_effects.engine import Engine
from ebmeta.random_effects.rows import Rows

__all__ = ["forecast"]

Array = NDArray[np.float64]


def forecast(
    engine: Engine, known: tuple[Array, Draws | None, list[Effects]], rows: Rows, coverage: float, groups: Groups
) -> Array:
    """Return mean, standard deviation, ends of both intervals, and the chance of each label where these end.

    Args:
        engine: the criterion.
        known: its maximum, draws of the parameters or None, and the effects of the known groups.
        rows: rows whose new groups are numbered after the known ones.
        coverage: probability that a label is in its interval, and a mean in its own.
        groups: as for `new_rows.as_asked`. The mean of a typical group is one of coefficients, and has an interval of
            Student's t where they have.

    Returns:
        Shape `(6 + C, N)`, in the units of the labels.
    """
    (at, draws, effects), size = known, engine.precisions(rows)
    linear = linear_of(engine, *known, rows)
    whole, asked = whole_of(engine, at, effects, rows) if draws is None else linear, (*linear, size)
    freedom = engine.freedom(at, rows.x) if groups == "typical" and draws is None else None
    means = mean_ends(whole, size, coverage, freedom)
    return np.stack([*moments(*asked), *intervals(*asked, coverage), *means, *chances(*asked)])
