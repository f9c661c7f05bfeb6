r"""Log densities of the labels of each group, given those of all others.

$$ \log p(y_g \mid y_{-g}) \approx \log \sum_d \tilde w_{dg}\, p(y_g \mid \theta_d), \qquad
   \tilde w_{dg} \propto w_d / p(y_g \mid \theta_d) , $$

over the draws of the parameters of `ebmeta.mixed.propagation`, with the tail of the weights smoothed. Source: Vehtari,
Gelman and Gabry 2017, Practical Bayesian model evaluation using leave-one-out cross-validation and WAIC.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ebmeta.mixed.propagation import draw
from ebmeta.mixed.result import MixedModel
from ebmeta.prediction.arviz import USABLE, psis

__all__ = ["groups_left_out"]

Array = NDArray[np.float64]
DRAWS = 512


def groups_left_out(fit: MixedModel, num_draws: int = DRAWS, seed: int = 0) -> tuple[Array, NDArray[np.bool_]]:
    """Return the log density of the labels of each group, left out, and where that cannot be trusted, shape `(G,)`.

    Args:
        fit: of one grouping factor.
        num_draws: of the parameters.
        seed: of the draws.

    Raises:
        ValueError: if there are several grouping factors.
    """
    engine = fit.engine
    if len(engine.factors) > 1:
        names = ", ".join(f.name for f in engine.factors)
        raise ValueError(f"loo: expected one grouping factor, whose groups are independent, got {names}")
    with fit._lock:
        draws, rng = draw(engine, fit.optimum.at, num_draws, seed), np.random.default_rng(seed)
        scores = np.stack([engine.each_group(at, rng) for at in draws.at], 1)
    with np.errstate(divide="ignore"):
        ratios = np.log(draws.weight) - scores
    kept = np.isfinite(ratios).all(0)  # a draw of no weight says nothing
    weights, shape = psis(ratios[:, kept])
    return special.logsumexp(weights + scores[:, kept], 1), shape > USABLE
