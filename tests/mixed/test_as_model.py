"""A mixed model as a regressor: the same predictions of new groups, through the estimator."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ebmeta import FewShotRegressor
from ebmeta.mixed.as_model import feature_names
from ebmeta.mixed.fit import mixed_model
from tests.mixed.worlds import frame
from tests.random_effects.test_crossed import ratings
from tests.random_effects.test_quadrature import counts


@pytest.mark.parametrize(
    "formula", ["y ~ x + (1 + x | g)", "y ~ x + (1 | g)", "y ~ 1 + (x || g)", "y ~ x + (0 + x | g)"]
)
def test_a_new_group_is_predicted_as_the_fit_predicts_it(formula):
    data = frame(num_groups=40)
    fit = mixed_model(formula, data)
    told, asked = frame(5, 2, (4, 5)).assign(g="new")[:4], frame(6, 2, (4, 5)).assign(g="new", y=np.nan)
    together = pd.concat([told, asked], ignore_index=True)
    found = fit.predict(together)[len(told) :]
    features = fit.features(together).to_numpy()
    assert fit.model.prior.varying == ((0, 1) if "x |" in formula else (1,))  # common terms have no spread
    regressor = FewShotRegressor(fit.model).fit(features[: len(told)], told["y"].to_numpy())
    mean, sd = regressor.predict(features[len(told) :], return_std=True)
    np.testing.assert_allclose(mean, found["mean"], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(sd, found["sd"], rtol=1e-3)


def test_counts_are_predicted_nearly_alike():
    """The fit integrates over a normal distribution with the moments of the posterior, and the model over another."""
    fit = mixed_model("poisson ~ x + (1 | g)", counts(num_groups=30), "poisson")
    new = counts(4)[:5].assign(g="new", poisson=np.nan)
    model = fit.model
    assert model.likelihood.name == "poisson"
    features = fit.features(new).to_numpy()
    none = FewShotRegressor(model).fit(np.zeros((0, 1)), np.zeros(0))
    np.testing.assert_allclose(none.predict(features), fit.predict(new)["mean"], rtol=1e-3)


def test_features_are_named_by_their_terms_and_one_factor_is_asked_for():
    fit = mixed_model("y ~ 1 + (1 + x | g)", frame())
    assert feature_names(fit.design.common.names, fit.engine.factors[0]) == ["x"]
    assert fit.features(frame()).columns.tolist() == ["x"]
    crossed = mixed_model("y ~ x + (1 | user) + (1 | item)", ratings())
    with pytest.raises(ValueError, match="model: expected one grouping factor, got user, item"):
        _ = crossed.model


@pytest.mark.parametrize("formula", ["y ~ x + (1 | g)", "y ~ x + offset(o) + (1 | g)"])
def test_a_fit_with_offsets_is_no_model_of_tasks(formula):
    data = frame(num_groups=6).assign(o=lambda rows: np.arange(len(rows)) / 10)
    fit = mixed_model(formula, data, offset=None if "offset" in formula else "o")
    with pytest.raises(ValueError, match="^model: expected a fit without offset, which tasks have not, got one with"):
        _ = fit.model
