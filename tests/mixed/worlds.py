"""Small data of groups, and the exact answers that dense matrices give."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import linalg, stats

from ebmeta.formula.design import Design, Extras
from ebmeta.mixed.result import MixedModel
from ebmeta.random_effects.covariance import Factor
from ebmeta.random_effects.engine import Engine
from ebmeta.random_effects.normal import NormalEngine

__all__ = ["dense", "engine_of", "frame", "henderson"]


def frame(seed: int = 0, num_groups: int = 12, sizes: tuple[int, int] = (1, 7)) -> pd.DataFrame:
    """Return groups of unequal sizes with an intercept and a slope of their own, and a feature far from 0."""
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(num_groups), rng.integers(*sizes, num_groups))
    x, w = rng.normal(2000.0, 3.0, len(g)), rng.uniform(0.5, 2.0, len(g))
    own = rng.normal(size=(num_groups, 2)) * [2.0, 0.4]
    y = 5 + 0.3 * (x - 2000) + own[g, 0] + own[g, 1] * (x - 2000) + rng.normal(size=len(g)) / np.sqrt(w)
    return pd.DataFrame({"y": y, "x": x, "w": w, "g": [f"g{i:02d}" for i in g]}).sample(frac=1, random_state=seed)


def engine_of(
    formula: str, data: pd.DataFrame, reml: bool = False, hyperprior: bool = False, weights: str | None = None
) -> NormalEngine:
    """Return the criterion of normal labels of a formula."""
    design = Design(formula, data, Extras(weights=weights), "drop")
    pairs = zip(design.factors, design.rows.groupings, strict=True)
    factors = [Factor(":".join(name), *design.terms_of(name), g.z) for name, g in pairs]
    return NormalEngine(design.rows, factors, design.common.names, reml, hyperprior)


def dense(engine: Engine, at: np.ndarray, reml: bool) -> dict[str, np.ndarray | float]:
    """Return log likelihood, coefficients and group effects from the covariance of all labels at once."""
    rows, factor, grouping = engine.rows, engine.factors[0], engine.rows.groupings[0]
    sigma, learned = engine.scales(at)
    prior = factor.covariance(engine.thetas(at)[0], sigma)
    num_groups, num_terms = len(grouping.labels), len(prior)
    Z = np.zeros((len(rows), num_groups * num_terms))
    for i, g in enumerate(grouping.codes):
        Z[i, g * num_terms : (g + 1) * num_terms] = grouping.z[i]
    b = np.kron(np.eye(num_groups), prior)
    noise = np.diag(learned["sd"] ** 2 / (np.ones(len(rows)) if rows.weights is None else rows.weights))
    V = Z @ b @ Z.T + noise
    inverse, X, y = np.linalg.inv(V), rows.x, rows.y - rows.offset
    normal = X.T @ inverse @ X
    beta = np.linalg.solve(normal, X.T @ inverse @ y)
    value = stats.multivariate_normal(X @ beta, V).logpdf(y)
    if reml:
        value += (X.shape[1] * np.log(2 * np.pi) - np.linalg.slogdet(normal)[1]) / 2
    gain = b @ Z.T @ inverse
    covariance = b - gain @ Z @ b
    blocks = [covariance[i : i + num_terms, i : i + num_terms] for i in range(0, len(b), num_terms)]
    return {
        "log_likelihood": float(value),
        "beta": beta,
        "covariance": linalg.inv(normal),
        "mean": (gain @ (y - X @ beta)).reshape(num_groups, num_terms),
        "sd": np.sqrt([np.diag(block) for block in blocks]),
        "slope": -(gain @ X).reshape(num_groups, num_terms, -1),
    }


def henderson(fit: MixedModel) -> tuple[np.ndarray, np.ndarray]:
    """Return the columns of coefficients and of all effects of one grouping factor, and the matrix of their equations.

    Its inverse is the covariance of the errors of both. Source: Henderson 1975, Best linear unbiased estimation and
    prediction under a selection model.
    """
    rows, grouping = fit.engine.rows, fit.engine.rows.groupings[0]
    prior, sigma = fit.engine.factors[0].covariance(fit.estimate.theta, fit.estimate.sigma), fit.estimate.learned["sd"]
    width = grouping.z.shape[1]
    z = np.zeros((len(rows), width * len(grouping.labels)))
    for i, g in enumerate(grouping.codes):
        z[i, width * g : width * (g + 1)] = grouping.z[i]
    columns, common = np.hstack([rows.x, z]), rows.x.shape[1]
    matrix = columns.T @ columns / sigma**2
    matrix[common:, common:] += np.kron(np.eye(len(grouping.labels)), np.linalg.inv(prior))
    return columns, matrix
