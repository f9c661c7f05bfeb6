r"""A fitted mixed model as an `EmpiricalBayes` regressor.

Its features are the columns of the common terms and of the random terms, without the intercept. The prior of the
weights of a group has mean $\beta$ and the covariance of the group effects. The weights of common terms have no spread.
The intercept is that of centred features: it varies wherever a slope does, and has a spread of next to nothing
elsewhere.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.random_effects.covariance import Factor
from ebmeta.random_effects.engine import Engine
from ebmeta.random_effects.rows import Rows

__all__ = ["as_model", "feature_names", "features_of"]

Array = NDArray[np.float64]
INTERCEPT = "Intercept"
NOTHING = 1e-5  # spread that stands for 0, of the typical size of a linear predictor: it leaves digits to the rest


def feature_names(common: list[str], factor: Factor) -> list[str]:
    """Return the names of the features: common terms, then random terms that are none, without the intercept."""
    return [name for name in dict.fromkeys([*common, *factor.terms]) if name != INTERCEPT]


def features_of(rows: Rows, common: list[str], factor: Factor) -> Array:
    """Return the features of rows, shape `(N, F)`."""
    columns = dict(zip(factor.terms, rows.groupings[0].z.T, strict=True)) | dict(zip(common, rows.x.T, strict=True))
    names = feature_names(common, factor)
    return np.stack([columns[n] for n in names], 1) if names else np.zeros((len(rows), 0))


def as_model(engine: Engine, at: Array, likelihood: str, common: list[str]) -> EmpiricalBayes:
    """Return the model, in 64 bits.

    Args:
        engine: the criterion, of one grouping factor.
        at: its parameters.
        likelihood: name of the likelihood.
        common: names of the common terms.

    Raises:
        ValueError: if rows have offsets, which tasks have not.
    """
    if engine.rows.offset.any():
        raise ValueError("model: expected a fit without offset, which tasks have not, got one with some")
    factor, rows, estimate = engine.factors[0], engine.rows, engine.estimate(at)
    names, x = feature_names(common, factor), features_of(rows, common, factor)
    number = engine.likelihood(at).num_labels or 3  # which other likelihoods do not read
    places = [names.index(t) if t != INTERCEPT else len(names) for t in factor.terms]
    random = sorted({*places} - {len(names)})
    model = EmpiricalBayes.regressor(
        len(names),
        likelihood,
        num_steps=0,
        random=random,
        num_categories=number,
        known_noise=engine.likelihood(at).known,
    ).double()
    loc, spread = np.zeros(len(names) + 1), np.zeros((len(names) + 1, len(names) + 1))
    for name, value in zip(common, estimate.beta, strict=True):
        loc[names.index(name) if name != INTERCEPT else -1] = value
    spread[np.ix_(places, places)] = factor.covariance(estimate.theta, estimate.sigma)
    center, unit = (x.mean(0), np.where(x.std(0) > 0, x.std(0), 1.0)) if names else (np.zeros(0), np.ones(0))
    change = np.diag(np.append(unit, 1.0))  # to weights of features in their own units
    change[-1, :-1] = center
    size = np.sqrt(np.diag(change @ spread @ change.T).max(initial=0.0)) or 1.0
    varying = np.array(model.prior.varying)
    own = (change @ spread @ change.T)[np.ix_(varying, varying)]
    lower = np.linalg.cholesky(own + (NOTHING * size) ** 2 * np.eye(len(varying)))
    with torch.no_grad():
        head = dict(model.predictor.named_buffers())
        head["center"].copy_(torch.from_numpy(center))
        head["unit"].copy_(torch.from_numpy(unit))
        head["taken"].fill_(True)
        model.prior.loc.copy_(torch.from_numpy(change @ loc))
        model.prior.log_scale.copy_(torch.from_numpy(np.log(np.diag(lower))))
        correlations = model.prior.correlations
        assert correlations is not None  # for the type checker: a regressor's prior is full
        correlations.copy_(torch.from_numpy(np.tril(lower / np.diag(lower)[:, None], -1)))
        model.likelihood.load_state_dict(engine.likelihood(at).state_dict())
    return model.eval()
