"""Labels that terms and groups explain are refused, whatever their likelihood, and those with little noise are not."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import special

from ebmeta.mixed.fit import mixed_model

RNG = np.random.default_rng(0)
GROUP = np.repeat(np.arange(20), 6)
X, OWN = RNG.normal(size=120), RNG.normal(size=20)[GROUP]
LABELS = {"gamma": np.exp, "beta": special.expit, "student_t": lambda eta: 5 + 3 * eta}


@pytest.mark.parametrize("hyperprior", [False, True])
@pytest.mark.parametrize("likelihood", LABELS)
def test_labels_that_terms_and_groups_explain_are_refused(likelihood, hyperprior):
    for eta, formula in ((OWN, "y ~ 1 + (1 | g)"), (OWN + 0.3 * X, "y ~ x + (1 | g)")):
        data = pd.DataFrame({"y": LABELS[likelihood](eta), "x": X, "g": GROUP})
        with pytest.raises(ValueError, match="labels: expected some that differ from what terms and groups say"):
            mixed_model(formula, data, likelihood=likelihood, hyperprior=hyperprior)


@pytest.mark.parametrize("likelihood", ["gamma", "beta"])
def test_labels_with_little_noise_are_fitted(likelihood):
    noise = 1e-2 * RNG.normal(size=120)
    data = pd.DataFrame({"y": LABELS[likelihood](OWN + 0.3 * X + noise), "x": X, "g": GROUP})
    found = mixed_model("y ~ x + (1 | g)", data, likelihood=likelihood)
    assert found.converged
    assert found.fixed_effects.loc["x", "estimate"] == pytest.approx(0.3, abs=4e-3)


def test_as_many_effects_as_labels_say_nothing_of_noise():
    group = np.repeat(np.arange(60), 2)
    y = np.exp(0.5 * RNG.normal(size=(2, 60))[:, group].T @ [1, 0] + 0.3 * RNG.normal(size=120))
    found = mixed_model("y ~ x + (1 + x | g)", pd.DataFrame({"y": y, "x": X, "g": group}), likelihood="gamma")
    assert 1 < found.variance_components.loc[("residual", "shape"), "estimate"] < 1000
