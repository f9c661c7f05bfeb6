r"""Residuals of a fitted mixed model, and where each label lies among what the other rows of its group let expect.

With the distribution function $F_i$ of a label given the other rows of its group, at the estimate, and $U_i$ uniform,

$$ \mathrm{pit}_i = F_i(y_i^-) + U_i \, (F_i(y_i) - F_i(y_i^-)), \qquad q_i = \Phi^{-1}(\mathrm{pit}_i) , $$

which are uniform and standard normal where the model is right; for labels without gaps $U_i$ does nothing. Sources:
Dunn and Smyth 1996, Randomized quantile residuals; Dawid 1984, Statistical theory: the prequential approach.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import special

from ebmeta.foundation.checks import at_least, checked
from ebmeta.likelihood.base import Given
from ebmeta.mixed.predictive import cdf, moments, skewed
from ebmeta.random_effects.effects import Effects
from ebmeta.random_effects.engine import Engine

__all__ = ["residual_table"]

Array = NDArray[np.float64]
EDGE = 1e-16  # of probability, so that a quantile is finite


@checked(seed=at_least(0))
def residual_table(engine: Engine, at: Array, effects: list[Effects], index: pd.Index, seed: int = 0) -> pd.DataFrame:
    """Return labels, fitted means, residuals and PIT of the fitted rows.

    Args:
        engine: the criterion.
        at: its maximum.
        effects: of the groups there.
        index: names of the rows.
        seed: of what labels with gaps are given at random.
    """
    rows, sizes, likelihood = engine.rows, engine.precisions(engine.rows), engine.likelihood(at)
    linear = engine.linear(at, effects, rows)
    mean, _ = moments(*skewed([likelihood], np.ones(1), linear[None]), sizes)
    given = Given(None if sizes is None else torch.from_numpy(sizes)[None])
    with torch.no_grad():
        spread = likelihood.variance(torch.from_numpy(linear[:1]), given).double().sqrt().numpy()[0]
    others = skewed([likelihood], np.ones(1), engine.left_out(at, effects)[None])
    above = cdf(rows.y, *others, sizes)
    below = cdf(rows.y - 1, *others, sizes) if likelihood.discrete else above
    pit = below + np.random.default_rng(seed).random(len(above)) * (above - below)
    table = {
        "label": rows.y,
        "fitted": mean,
        "response": rows.y - mean,
        "pearson": (rows.y - mean) / spread,
        "pit": pit,
        "quantile": special.ndtri(pit.clip(EDGE, 1 - EDGE)),
    }
    return pd.DataFrame(table, index=index)
