"""The entry: published estimates, and what it refuses."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

import ebmeta
from ebmeta.mixed.fit import mixed_model
from tests.mixed.worlds import frame


@pytest.fixture
def sleep(shared_data) -> pd.DataFrame:
    return pd.read_csv(shared_data / "regression" / "sleepstudy.csv")


def test_sleepstudy_by_reml_is_as_lme4_publishes_it(sleep):
    """Bates, Maechler, Bolker and Walker 2015, section 1."""
    fit = mixed_model("Reaction ~ Days + (Days | Subject)", sleep, reml=True)
    assert -2 * fit.log_likelihood == pytest.approx(1743.628, abs=1e-3)
    np.testing.assert_allclose(fit.fixed_effects["estimate"], [251.405, 10.467], atol=1e-3)
    np.testing.assert_allclose(fit.fixed_effects["std_error"], [6.825, 1.546], atol=1e-3)
    np.testing.assert_allclose(fit.fixed_effects["z"], [36.838, 6.771], atol=1e-3)
    np.testing.assert_allclose(fit.variance_components["estimate"], [24.741, 5.922, 0.066, 25.592], atol=1e-3)
    assert fit.converged


def test_the_covariance_of_balanced_coefficients_is_that_of_means_over_people(sleep):
    """Each person's own least squares has covariance Sigma + sigma^2 (X'X)^-1, and 18 of them are averaged."""
    fit = mixed_model("Reaction ~ Days + (Days | Subject)", sleep, reml=True)
    x = np.column_stack([np.ones(10), np.arange(10)])
    sigma, prior = fit.estimate.sigma, fit.engine.factors[0].covariance(fit.estimate.theta, fit.estimate.sigma)
    found = fit.fixed_effects_covariance
    np.testing.assert_allclose(found, (prior + sigma**2 * np.linalg.inv(x.T @ x)) / 18, rtol=1e-8)
    assert found.loc["Days", "Intercept"] / np.sqrt(np.prod(np.diag(found))) == pytest.approx(-0.138, abs=5e-4)
    np.testing.assert_allclose(np.diag(fit.propagate(16).fixed_effects_covariance), np.diag(found), rtol=0.5)


def test_sleepstudy_by_maximum_likelihood_is_as_lme4_publishes_it(sleep):
    fit = mixed_model("Reaction ~ Days + (Days | Subject)", sleep)
    assert fit.log_likelihood == pytest.approx(-875.9697, abs=1e-4)
    assert fit.aic == pytest.approx(1763.9393, abs=1e-3)
    assert fit.bic == pytest.approx(1783.1, abs=0.05)
    apart = mixed_model("Reaction ~ Days + (Days || Subject)", sleep)
    assert apart.log_likelihood == pytest.approx(-876.0016, abs=1e-3)
    assert len(apart.variance_components) == 3


def test_cbpp_is_as_lme4_publishes_it(shared_data):
    """lme4's `glmer(cbind(incidence, size - incidence) ~ period + (1 | herd), nAGQ = 9)`, from its help page."""
    data = pd.read_csv(shared_data / "regression" / "cbpp.csv").astype({"period": str})
    fit = mixed_model("cbind(incidence, size - incidence) ~ period + (1 | herd)", data, "binomial")
    np.testing.assert_allclose(fit.fixed_effects["estimate"], [-1.3992, -0.9914, -1.1278, -1.5795], atol=3e-4)
    assert fit.variance_components.loc[("herd", "sd(Intercept)"), "estimate"] == pytest.approx(0.6475, abs=3e-4)
    same = mixed_model("incidence ~ period + (1 | herd)", data, "binomial", size="size")
    assert same.log_likelihood == pytest.approx(fit.log_likelihood, abs=1e-9)


@pytest.mark.parametrize(
    ("formula", "options", "said"),
    [
        ("y ~ x + (1 + c | g)", {}, "random term 'c' of 'g': expected values that differ within groups"),
        ("y ~ x + twice + (1 | g)", {}, "term 'twice': expected one that is no combination of the terms before it"),
        ("y ~ x + (1 + x + twice | g)", {}, "random term 'twice' of 'g': expected one that is no combination"),
        ("y ~ x + (1 | one)", {}, "groups: expected at least two of 'one', got 1"),
        ("y ~ x + (1 | row)", {}, "groups: expected more rows than effects of 'row'"),
        ("c ~ 1 + (1 | g)", {"weights": "x0"}, "weights: expected numbers above 0, got -1 in row 0"),
        ("one ~ 1 + (1 | g)", {}, "labels: expected some that differ, got 1 in the first of"),
        ("y ~ x + (1 | g)", {"likelihood": "gumbel"}, "likelihood: expected one of normal, log_normal, "),
        ("y ~ x + (1 | g)", {"na": "keep"}, "na: expected 'drop' or 'raise', got 'keep'"),
        ("y ~ x + (1 | g)", {"reml": 1}, "reml: expected True or False, got 1"),
        ("up ~ kind + (1 | g)", {"likelihood": "bernoulli"}, "term 'kind[b]': expected labels of both kinds where"),
        (
            "own ~ 1 + (1 | g)",
            {"likelihood": "bernoulli"},
            "random term 'Intercept' of 'g': expected labels that differ",
        ),
        ("up ~ 1 + (1 | row)", {"likelihood": "bernoulli"}, "groups: expected some of 'row' with several rows"),
        ("up ~ 1 + (1 | g)", {"likelihood": "bernoulli", "reml": True}, "reml: expected False for labels that are not"),
        ("up ~ 1 + (1 | g)", {"likelihood": "bernoulli", "size": "one"}, "labels: expected rows of one trial each"),
        ("up ~ 1 + (1 | g)", {"likelihood": "gamma"}, "labels: expected numbers above 0 for a gamma likelihood, got 0"),
        ("up ~ 1 + (1 | g)", {"likelihood": "log_normal"}, "labels: expected numbers above 0 for a log_normal"),
        ("y ~ 1 + (1 | g)", {"likelihood": "ordinal"}, "labels: expected categories 0, 1, 2, ... for an ordinal"),
        ("gap ~ 1 + (1 | g)", {"likelihood": "ordinal"}, "labels: expected rows of each of the categories 0, ..., 2"),
        ("up ~ 0 + x + (1 | g)", {"likelihood": "ordinal"}, "formula: expected an intercept among the common terms"),
        ("up ~ 1 + (1 | g)", {"likelihood": "ordinal", "size": "one"}, "labels: expected ordered categories without"),
        ("grade ~ 1 + (1 | g)", {}, "got the ordered categories low, high (likelihood='ordinal' takes these)"),
        ("up ~ 1 + (1 | g)", {"likelihood": "beta"}, "labels: expected shares between 0 and 1, neither of them"),
        ("y ~ 1 + (1 | g)", {"likelihood": "zero_inflated_poisson"}, "labels: expected counts 0, 1, 2, ..., got"),
        ("one ~ 1 + (1 | g)", {"likelihood": "gamma"}, "labels: expected some that differ, got 1 in the first of"),
        ("y ~ 1 + (1 | g)", {"likelihood": "poisson"}, "labels: expected counts 0, 1, 2, ..., got"),
        (3, {}, "formula: expected a text, got 3"),
    ],
)
def test_what_is_refused_is_named_in_one_line(formula, options, said):
    data = frame().reset_index(drop=True)
    kind = np.where(np.arange(len(data)) % 2, "a", "b")
    up = np.where(kind == "b", 1, np.arange(len(data)) // 2 % 2)
    data = data.assign(kind=kind, up=up, own=(data["g"] > "g05").astype(int))
    data = data.assign(gap=2 * up, grade=pd.Categorical.from_codes(up, ["low", "high"], ordered=True))
    data = data.assign(c=data["g"].str[1:].astype(float), one=1, twice=2 * data["x"], row=np.arange(len(data)), x0=-1.0)
    with pytest.raises(ValueError) as error:
        mixed_model(formula, data, **options)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_rows_that_lack_something_are_left_out():
    data = frame(num_groups=30).reset_index(drop=True)
    holes = data.copy()
    holes.loc[3, "x"], holes.loc[7, "y"], holes.loc[9, "g"] = np.nan, np.nan, None
    fit, whole = mixed_model("y ~ x + (1 | g)", holes), mixed_model("y ~ x + (1 | g)", data.drop(index=[3, 7, 9]))
    assert fit.log_likelihood == whole.log_likelihood
    assert f"rows            {len(data) - 3} of {len(data)} (2 lack a value, 1 have no label)" in fit.summary()


@pytest.mark.parametrize("terms", ["(1 + x | g)", "(1 | g) + (1 | h)"])
@pytest.mark.parametrize("reml", [False, True])
def test_a_log_normal_fit_is_the_normal_one_of_logarithms(reml, terms):
    data = frame(num_groups=20).reset_index(drop=True)
    data = data.assign(log=data["y"] / 10, y=np.exp(data["y"] / 10), h=np.arange(len(data)) % 3)
    found = mixed_model(f"y ~ x + {terms}", data, "log_normal", weights="w", reml=reml)
    plain = mixed_model(f"log ~ x + {terms}", data, weights="w", reml=reml)
    assert found.log_likelihood == pytest.approx(plain.log_likelihood - data["log"].sum(), abs=1e-6)
    for name in ("fixed_effects", "variance_components", "group_effects"):
        pd.testing.assert_frame_equal(getattr(found, name), getattr(plain, name), rtol=1e-4, atol=1e-6)
    new = data[:6].assign(g=["g00", "g01", "new", "new", "new", "other"])
    new.loc[[0, 1, 4, 5], ["y", "log"]] = np.nan
    ours, logs = found.predict(new), plain.predict(new)
    np.testing.assert_allclose(np.log(ours[["lower", "upper"]]), logs[["lower", "upper"]], rtol=1e-4)
    np.testing.assert_allclose(ours["mean"], np.exp(logs["mean"] + logs["sd"] ** 2 / 2), rtol=1e-5)
    np.testing.assert_allclose(ours["sd"], ours["mean"] * np.sqrt(np.expm1(logs["sd"] ** 2)), rtol=1e-4)


def test_the_hyperprior_keeps_a_spread_from_0():
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"y": rng.normal(size=20), "g": np.repeat(np.arange(4), 5)})
    data["y"] -= data.groupby("g")["y"].transform("mean")
    free, kept = (mixed_model("y ~ 1 + (1 | g)", data, hyperprior=h) for h in (False, True))
    assert free.variance_components.loc[("g", "sd(Intercept)"), "estimate"] == 0
    assert kept.variance_components.loc[("g", "sd(Intercept)"), "estimate"] > 0.05
    assert "the spread of Intercept cannot be told from 0" in free.summary()
    assert "the spread of Intercept cannot be told from 0" in kept.summary()


@pytest.mark.parametrize("response", ["cbind(a, b)", "prop(a, b)"])
def test_successes_of_trials_are_binomial(response):
    data = pd.DataFrame({"a": [1, 2, 3, 1], "b": [4, 5, 6, 7], "g": [0, 0, 1, 1]})
    for likelihood in ("normal", "poisson"):
        with pytest.raises(ValueError, match=r"^likelihood: expected 'binomial' for successes of trials, .*, got '"):
            mixed_model(f"{response} ~ 1 + (1 | g)", data, likelihood)


def test_groups_of_another_type_are_no_new_groups():
    data = pd.DataFrame({"y": [1.0, 2.0, 4.0, 5.5, 2.5, 3.0], "g": [308, 308, 309, 309, 310, 310]})
    fit = mixed_model("y ~ 1 + (1 | g)", data)
    with pytest.raises(
        ValueError, match=r"^column 'g': expected group 308 to be a number, as in the fit, got the text '308'$"
    ):
        fit.predict(pd.DataFrame({"g": ["308"]}))
    assert len(fit.predict(pd.DataFrame({"g": [308.0, 311]}))) == 2
    assert len(fit.predict(pd.DataFrame({"g": ["new"]}))) == 1
    other = mixed_model("y ~ 1 + (1 | g)", data.assign(g=data["g"].astype(str)))
    with pytest.raises(ValueError, match=r"^column 'g': expected group 308 to be a text, as in the fit, got 308$"):
        other.predict(data)


def test_a_correlation_next_to_a_spread_of_nothing_may_be_anything():
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(20), 5)
    x = rng.normal(size=100)
    data = pd.DataFrame({"y": rng.normal(size=20)[group] + rng.normal(size=100), "x": x, "g": group})
    for seed in range(20):  # until a spread of slopes ends at 0
        data["y"] = np.random.default_rng(seed).normal(size=20)[group] + np.random.default_rng(seed + 99).normal(
            size=100
        )
        table = mixed_model("y ~ x + (x | g)", data).variance_components
        row = table[[name.startswith("cor(") for name in table.index.get_level_values(1)]].iloc[0]
        if np.isnan(row["std_error"]):
            break
    assert (row["lower"], row["upper"]) == (-1.0, 1.0)


#: Cases and others of the vaccinated and of the rest, of 13 trials (Colditz and others 1994), and degrees of latitude.
BCG = [
    [4, 119, 11, 128, 44],
    [6, 300, 29, 274, 55],
    [3, 228, 11, 209, 42],
    [62, 13536, 248, 12619, 52],
    [33, 5036, 47, 5761, 13],
    [180, 1361, 372, 1079, 44],
    [8, 2537, 10, 619, 19],
    [505, 87886, 499, 87892, 13],
    [29, 7470, 45, 7232, 27],
    [17, 1699, 65, 1600, 42],
    [186, 50448, 141, 27197, 18],
    [5, 2493, 3, 2338, 33],
    [27, 16886, 29, 17825, 33],
]


@pytest.fixture
def bcg() -> pd.DataFrame:
    """Return log relative risks and their standard errors."""
    a, b, c, d, latitude = np.array(BCG, dtype=float).T
    risk, error = np.log(a / (a + b)) - np.log(c / (c + d)), np.sqrt(1 / a - 1 / (a + b) + 1 / c - 1 / (c + d))
    return pd.DataFrame({"y": risk, "se": error, "latitude": latitude, "trial": [f"t{k}" for k in range(len(BCG))]})


def test_a_meta_analysis_is_as_metafor_publishes_it(bcg):
    fit = mixed_model("y ~ 1 + (1 | trial)", bcg, known_noise="se", reml=True)
    assert fit.variance_components["estimate"].tolist() == [pytest.approx(0.3132**0.5, abs=1e-4)]
    assert fit.fixed_effects.loc["Intercept", ["estimate", "std_error"]].tolist() == pytest.approx(
        [-0.7145, 0.1798], abs=5e-5
    )
    by_latitude = mixed_model("y ~ latitude + (1 | trial)", bcg, known_noise="se", reml=True)
    assert by_latitude.fixed_effects["estimate"].tolist() == pytest.approx([0.2515, -0.0291], abs=5e-5)
    assert by_latitude.fixed_effects["std_error"].tolist() == pytest.approx([0.2491, 0.0072], abs=5e-5)
    assert by_latitude.variance_components["estimate"].iloc[0] ** 2 == pytest.approx(0.0764, abs=1e-4)


def test_a_meta_analysis_offers_what_other_fits_do(bcg, tmp_path):
    fit = mixed_model("y ~ 1 + (1 | trial)", bcg, known_noise="se", reml=True)
    assert dict(fit.facts())["labels"] == "normal of known noise"
    new = pd.DataFrame({"trial": ["t0", "another"], "se": [0.2, 0.3]})
    fit.save(tmp_path / "fit")
    pd.testing.assert_frame_equal(ebmeta.load(tmp_path / "fit").predict(new), fit.predict(new))
    pd.testing.assert_frame_equal(
        fit.predict(new[["trial"]], known_noise=[0.2, 0.3]).loc[:, "mean":"mean_upper"], fit.predict(new)
    )
    # As a model of tasks, whose rows have inverse variances for sizes, it says the same of a new trial.
    told = pd.DataFrame({"trial": "another", "y": [-2.0, np.nan], "se": [0.2, 0.1]})
    none = np.zeros((1, 0))
    regressor = ebmeta.FewShotRegressor(fit.model).fit(none, np.array([-2.0]), size=np.array([0.2**-2]))
    mean, sd = regressor.predict(none, return_std=True, size=np.array([0.1**-2]))
    found = fit.predict(told).iloc[1]
    assert (mean[0], sd[0]) == (pytest.approx(found["mean"], abs=1e-4), pytest.approx(found["sd"], abs=1e-4))
    # The profile of the likelihood, whose plain estimates are those of a fit without reml.
    low, high = fit.confint(names="sd(Intercept)").iloc[0][["lower", "upper"]]
    ml = mixed_model("y ~ 1 + (1 | trial)", bcg, known_noise="se")
    engine, unit = ml.engine, ml.engine.scales(ml.optimum.at)[0]
    for end in (low, high):
        assert -engine.loss(np.array([end / unit, 0.0]))[0] == pytest.approx(ml.log_likelihood - 1.9207, abs=2e-3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"likelihood": "poisson"}, "known_noise: expected a normal likelihood, got 'poisson'"),
        ({"size": "se"}, "size: expected none next to known_noise"),
        ({"weights": "se"}, "weights: expected none next to known_noise"),
        ({"known_noise": "sd"}, "known_noise: expected the name of a column, got 'sd'"),
        ({"known_noise": "trial"}, "column 'trial': expected numbers, got string values, such as 't0' in row 0"),
        ({"known_noise": -np.ones(13)}, "known_noise: expected numbers above 0, got -1 in row 0"),
        ({"known_noise": None, "vi": "se"}, "vi: expected an argument of another name (write known_noise=..."),
    ],
)
def test_what_known_noise_does_not_go_with_is_refused(bcg, options, said):
    with pytest.raises((ValueError, TypeError), match=re.escape(said)):
        mixed_model("y ~ 1 + (1 | trial)", bcg, **{"known_noise": "se", **options})


def test_new_rows_have_known_noise_where_the_fit_has(bcg):
    fit = mixed_model("y ~ 1 + (1 | trial)", bcg, known_noise="se")
    with pytest.raises(
        ValueError, match="known_noise: expected the name of a column, got 'se', and the columns are trial"
    ):
        fit.predict(bcg[["trial"]])
    learned = mixed_model("y ~ 1 + (1 | g)", frame())
    with pytest.raises(ValueError, match="known_noise: expected none, as the fit learned the noise of labels"):
        learned.predict(frame(), known_noise=np.ones(len(frame())))
