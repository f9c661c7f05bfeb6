"""A mixed model of ordered categories: names in and out, saved and loaded, and a new group through the estimator."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import ebmeta
from ebmeta.mixed.fit import mixed_model
from ebmeta.mixed.tables import PREDICTED


@pytest.fixture(scope="module")
def data() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    g, x = np.repeat(np.arange(40), 8), rng.normal(size=320)
    eta = 0.3 + 0.8 * x + rng.normal(size=40)[g]
    code = (eta + rng.logistic(size=320) > np.array([[0.0], [1.0]])).sum(0)
    names = pd.Categorical.from_codes(code, ["low", "mid", "high", "never"][:3], ordered=True)
    return pd.DataFrame({"grade": names, "code": code, "x": x, "g": g})


def test_named_categories_are_their_numbers(data, tmp_path):
    named, plain = (mixed_model(f"{y} ~ x + (1 | g)", data, "ordinal") for y in ("grade", "code"))
    assert named.log_likelihood == plain.log_likelihood
    new = data[:9].assign(g=[0, 1, 99, 99, 99, 98, 98, 97, 96])
    new.loc[[0, 1, 4, 6, 7, 8], ["grade", "code"]] = np.nan
    ours, numbers = named.predict(new, 0.8), plain.predict(new, 0.8)
    assert ours.columns.tolist() == [*PREDICTED, "p(low)", "p(mid)", "p(high)"]
    assert numbers.columns.tolist() == [*PREDICTED, "p(0)", "p(1)", "p(2)"]
    chance = numbers.iloc[:, 6:].to_numpy()
    np.testing.assert_array_equal(ours.iloc[:, 6:], chance)
    np.testing.assert_allclose(chance.sum(1), 1.0)
    np.testing.assert_allclose(numbers["mean"], chance @ [0, 1, 2], rtol=2e-3)
    assert ours["upper"].tolist() == [["low", "mid", "high"][int(v)] for v in numbers["upper"]]
    np.testing.assert_array_equal(numbers["upper"], (chance.cumsum(1) < 0.9).sum(1))
    again = ebmeta.load(named.save(tmp_path / "fit"))
    pd.testing.assert_frame_equal(again.predict(new, 0.8), ours)
    with pytest.raises(ValueError, match="labels: expected categories among low, mid, high, as in the training rows"):
        named.predict(new.assign(grade="other"))


def test_probabilities_are_those_of_a_fine_grid(data):
    fit = mixed_model("code ~ x + (1 | g)", data, "ordinal")
    new = pd.DataFrame({"x": [-1.0, 2.0], "g": -1})
    beta, table = fit.fixed_effects["estimate"], fit.variance_components["estimate"]
    z = np.linspace(-8, 8, 4001)
    weight = np.exp(-(z**2) / 2) / np.exp(-(z**2) / 2).sum()
    eta = (beta["Intercept"] + beta["x"] * new["x"].to_numpy())[:, None] + table.iloc[0] * z
    for c, tau in enumerate([0.0, table.iloc[1]]):
        exact = (1 / (1 + np.exp(eta - tau))) @ weight
        np.testing.assert_allclose(fit.predict(new).iloc[:, 6 : 7 + c].sum(axis=1), exact, atol=2e-3)


def test_a_new_group_is_predicted_by_the_estimator_too(data):
    fit = mixed_model("code ~ x + (1 | g)", data, "ordinal")
    assert fit.model.likelihood.num_labels == 3
    four = mixed_model("code ~ x + (1 | g)", data.assign(code=data["code"] + (data.index % 9 == 0)), "ordinal")
    thresholds = four.variance_components.loc["residual", "estimate"].to_dict()
    assert four.model.likelihood.numbers() == pytest.approx(thresholds, rel=1e-6)
    new = data[:4].assign(g=-1, code=np.nan)
    none = ebmeta.FewShotRegressor(fit.model).fit(np.zeros((0, 1)), np.zeros(0))
    np.testing.assert_allclose(none.predict(fit.features(new).to_numpy()), fit.predict(new)["mean"], rtol=1e-3)
