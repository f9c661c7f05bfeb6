"""What is taken for known of the groups of new rows: predictions with closed forms."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import special

from ebmeta.mixed.fit import mixed_model
from tests.mixed.worlds import frame


@pytest.fixture(scope="module")
def data() -> pd.DataFrame:
    return frame(num_groups=30).reset_index(drop=True)


@pytest.fixture(scope="module")
def fit(data):
    return mixed_model("y ~ x + (1 + x | g)", data)


def test_typical_groups_have_no_effects_and_noise_alone(fit, data):
    found = fit.predict(data.drop(columns=["g", "y"]), 0.8, groups="typical")
    mean, sd = fit.engine.rows.x @ fit.estimate.beta, fit.estimate.learned["sd"]
    np.testing.assert_allclose(found["mean"], mean, rtol=1e-9)
    np.testing.assert_allclose(found["sd"], sd, rtol=1e-9)
    np.testing.assert_allclose(found["upper"], mean + 1.2815516 * sd, rtol=1e-6)
    new = data.assign(g=["g01", "someone"] * (len(data) // 2) + ["g02"] * (len(data) % 2))  # whatever their labels
    pd.testing.assert_frame_equal(fit.predict(new, 0.8, groups="typical"), found)


def test_a_typical_probability_is_that_of_the_common_terms_and_no_average():
    rng = np.random.default_rng(0)
    g, x = np.repeat(np.arange(40), 6), rng.normal(size=240)
    y = rng.binomial(1, special.expit(x + 2 * rng.normal(size=40)[g]))
    rows = pd.DataFrame({"y": y, "x": x, "g": g})
    fit = mixed_model("y ~ x + (1 | g)", rows, "bernoulli")
    beta = fit.fixed_effects["estimate"]
    found = fit.predict(rows, groups="typical")["mean"]
    np.testing.assert_allclose(found, special.expit(beta["Intercept"] + beta["x"] * x), rtol=1e-6)
    over = fit.predict(rows, groups="new")["mean"]  # an average over groups lies nearer to a half
    assert (np.abs(over - 0.5) < np.abs(found - 0.5)).all()


def test_known_groups_may_be_taken_for_new_ones(fit, data):
    fresh = fit.predict(data.assign(g="new " + data["g"], y=np.nan))
    pd.testing.assert_frame_equal(fit.predict(data, groups="new"), fresh)
    assert (fit.predict(data)["sd"] < fresh["sd"]).all()


def test_names_that_are_almost_those_of_the_fit_are_told(data):
    whole = data.assign(g=data["g"].str[1:].astype(int))
    fit = mixed_model("y ~ x + (1 | g)", data.assign(g=whole["g"].map("{:03d}".format)))
    said = r"^new_data: column 'g': 9 \(and 29 more\) counts as new, and differs from '009' of the known groups in"
    with pytest.warns(UserWarning, match=said):
        fit.predict(whole)
    days = whole.assign(g=pd.Timestamp("2026-01-01") + pd.to_timedelta(whole["g"], "D"))
    dated = mixed_model("y ~ x + (1 | g)", days)
    with pytest.warns(
        UserWarning, match=r"^new_data: column 'g': '2026-01-10' \(and 29 more\) counts as new, and differs"
    ):
        dated.predict(days.assign(g=days["g"].astype(str)))
    nested = mixed_model("y ~ x + (1 | h/g)", data.assign(h="North", g=data["g"]).assign(h=lambda d: d["g"].str[:2]))
    with pytest.warns(UserWarning, match="^new_data: column 'h': 'G1 ' counts as new, and differs from 'g1' of"):
        nested.predict(data.assign(h="G1 ", g="another"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dated.predict(days.assign(g="new"))
        fit.predict(data.assign(g=99))
        fit.predict(data.assign(g="new"))
        for groups in ("new", "typical"):
            fit.predict(whole, groups=groups)


def test_crossed_groups_are_typical_or_new_each():
    rows = frame(num_groups=20).reset_index(drop=True)
    rows["h"] = np.arange(len(rows)) % 7
    fit = mixed_model("y ~ x + (1 | g) + (1 | h)", rows)
    typical, new = (fit.predict(rows, groups=name) for name in ("typical", "new"))
    sd, spreads = fit.estimate.learned["sd"], fit.variance_components["estimate"].to_numpy()
    np.testing.assert_allclose(typical["mean"], fit.engine.rows.x @ fit.estimate.beta, rtol=1e-9)
    np.testing.assert_allclose(new["mean"], typical["mean"], rtol=1e-9)
    np.testing.assert_allclose(typical["sd"], sd, rtol=1e-9)
    np.testing.assert_allclose(new["sd"], np.sqrt((spreads**2).sum()), rtol=1e-6)


def test_groups_that_terms_name_are_needed_and_conformal_asks_for_new_ones(data, fit):
    rows = data.assign(h=data["g"].str[-1])
    named = mixed_model("y ~ h + (1 | g:h)", rows)
    assert np.isfinite(named.predict(rows.drop(columns="g"), groups="typical")["mean"]).all()
    with pytest.raises(ValueError, match=r"^new_data: expected a column 'h'"):
        named.predict(rows.drop(columns="h"), groups="typical")
    with pytest.raises(ValueError, match=r"^new_data: expected a column 'g'"):
        named.predict(rows.drop(columns="g"), groups="new")
    with pytest.raises(ValueError, match=r"^groups: expected 'known', 'typical' or 'new', got 'population'"):
        named.predict(rows, groups="population")
    with pytest.raises(ValueError, match=r"^conformal: expected rows of new groups alone"):
        fit.predict(data, groups="typical", conformal=True)


@pytest.mark.parametrize(
    ("likelihood", "label", "said"),
    [
        ("poisson", -1.0, r"expected counts 0, 1, 2, ..., got -1 at row 2"),
        ("poisson", 1.5, r"expected counts 0, 1, 2, ..., got 1.5 at row 2"),
        ("bernoulli", 2.0, "expected 0 or 1, got 2 at row 2"),
        ("ordinal", 7.0, "expected categories 0, ..., 1 for an ordinal likelihood of 2 .*, got 7 at row 2"),
        ("log_normal", -2.0, "expected numbers above 0 for a log_normal likelihood, got -2 at row 2"),
    ],
)
def test_impossible_labels_of_new_groups_are_refused(likelihood, label, said):
    """Those of known groups are not used, and may stand for absent ones."""
    rng, group = np.random.default_rng(0), np.repeat(np.arange(12), 5)
    binary = (rng.random(60) < special.expit(rng.normal(size=12)[group])) * 1.0
    y = np.exp(rng.normal(size=60)) if likelihood == "log_normal" else binary
    fit = mixed_model("y ~ 1 + (1 | g)", pd.DataFrame({"y": y, "g": group}), likelihood)
    asked = pd.DataFrame({"y": [label, np.nan, label], "g": [0, 99, 99]})
    with pytest.raises(ValueError, match=f"^labels: {said}"):
        fit.predict(asked)
    pd.testing.assert_frame_equal(fit.predict(asked[:2]), fit.predict(asked[:2].assign(y=np.nan)))
    assert np.isfinite(fit.predict(asked, groups="new")["mean"]).all()
