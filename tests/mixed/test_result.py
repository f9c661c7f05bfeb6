"""Predictions of a fitted mixed model, compared with the normal distribution of all labels at once."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars
import pytest

from ebmeta.mixed.fit import mixed_model
from ebmeta.mixed.propagation import Draws
from tests.mixed.worlds import frame


@pytest.fixture(scope="module")
def data() -> pd.DataFrame:
    return frame(num_groups=30).reset_index(drop=True)


@pytest.fixture(scope="module")
def fit(data):
    return mixed_model("y ~ x + (1 + x | g)", data, weights="w")


def conditional(fit, told: pd.DataFrame, asked: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of labels of one group, given others of it, at the fitted parameters."""
    rows = pd.concat([told, asked])
    Z = np.column_stack([np.ones(len(rows)), rows["x"]])
    prior = fit.engine.factors[0].covariance(fit.estimate.theta, fit.estimate.sigma)
    V = Z @ prior @ Z.T + np.diag(fit.estimate.learned["sd"] ** 2 / rows["w"])
    mean, n = Z @ fit.estimate.beta, len(told)
    gain = V[n:, :n] @ np.linalg.inv(V[:n, :n]) if n else np.zeros((len(asked), 0))
    rest = told["y"].to_numpy(dtype=float) - mean[:n]
    return mean[n:] + gain @ rest, np.sqrt(np.diag(V[n:, n:] - gain @ V[:n, n:]))


def test_known_groups_new_groups_and_new_groups_with_labels(fit, data):
    asked = pd.DataFrame({"x": [1999.0, 2003.0], "w": [1.0, 2.0], "y": np.nan})
    told = pd.DataFrame({"x": [2001.0, 1998.0], "w": [1.5, 0.5], "y": [9.0, 2.0]})
    new = pd.concat(
        [asked.assign(g="g04"), asked.assign(g="none"), told.assign(g="some"), asked.assign(g="some")],
        ignore_index=True,
    ).iloc[::-1]
    found = fit.predict(new, 0.8, size=None)
    assert found.index.equals(new.index)
    known = data[data["g"] == "g04"]
    for labels, rows in ((known, [0, 1]), (told[:0], [2, 3]), (told, [6, 7])):
        mean, sd = conditional(fit, labels, asked)
        np.testing.assert_allclose(found.loc[rows, "mean"], mean, rtol=1e-6)
        np.testing.assert_allclose(found.loc[rows, "lower"], mean - 1.2815516 * found.loc[rows, "sd"], rtol=1e-6)
        np.testing.assert_allclose(found.loc[rows, "upper"], mean + 1.2815516 * found.loc[rows, "sd"], rtol=1e-6)
        np.testing.assert_allclose(found.loc[rows, "sd"], sd, rtol=1e-6)


@pytest.mark.parametrize("groups", ["known", "typical", "new"])
def test_new_rows_without_the_column_of_weights_have_weight_1(fit, data, groups):
    """It was asked for, though means do not depend on it. With it, the noise of a label is that of its weight."""
    plain = fit.predict(data.drop(columns=["w", "y"]), groups=groups)
    pd.testing.assert_frame_equal(plain, fit.predict(data.assign(w=1.0).drop(columns="y"), groups=groups))
    found = fit.predict(data.drop(columns="y"), groups=groups)
    same = ["mean", "mean_lower", "mean_upper"]
    np.testing.assert_allclose(found[same], plain[same], rtol=1e-9)
    noise = fit.estimate.learned["sd"] ** 2
    np.testing.assert_allclose(found["sd"] ** 2, plain["sd"] ** 2 + noise * (1 / data["w"] - 1), rtol=1e-9)


def test_the_mean_of_new_rows_of_counts_asks_for_no_weights():
    counts = frame(num_groups=12).assign(c=lambda d: np.arange(len(d)) % 4)
    fit = mixed_model("c ~ 1 + (1 | g)", counts, "poisson", weights="w")
    pd.testing.assert_frame_equal(fit.predict(counts), fit.predict(counts.drop(columns="w")))


def test_labels_of_known_groups_are_not_used_twice(fit, data):
    found = fit.predict(data)
    pd.testing.assert_frame_equal(found, fit.predict(data.drop(columns="y")))
    pd.testing.assert_frame_equal(found, fit.predict(polars.from_pandas(data)))


def test_rows_that_lack_a_value_are_not_predicted(fit, data):
    some = data.copy()
    some.loc[1, "x"] = np.nan
    found = fit.predict(some)
    assert found.loc[1].isna().all()
    pd.testing.assert_frame_equal(found.drop(index=1), fit.predict(data).drop(index=1))


def test_rows_of_which_none_is_whole_are_not_predicted(fit, data):
    asked = data[:2].assign(x=np.nan)
    found = fit.predict(asked)
    assert found.index.equals(asked.index)
    assert found.isna().all(axis=None)
    assert mixed_model("y ~ poly(x, 2) + (x | g)", data).predict(asked).isna().all(axis=None)
    kinds = data.assign(kind=np.where(data["x"] > data["x"].median(), "a", "b"))
    fit = mixed_model("y ~ w * kind + offset(x) + (1 | g)", kinds)
    assert fit.predict(kinds[:2].assign(kind=None)).isna().all(axis=None)


def test_intervals_hold_new_labels_as_often_as_they_say():
    """Of 3,000 labels of 300 new groups, two labels told, 90% are inside: 88.0 to 92.0 but for one run in a thousand,
    counting each group's labels as if they were 4 independent ones of 10."""
    fit = mixed_model("y ~ x + (1 + x | g)", frame(1, 300, (4, 8)))
    new = frame(2, 300, (12, 13)).reset_index(drop=True)
    new["g"] = "n" + new["g"]
    asked = new.copy()
    asked.loc[asked.groupby("g").cumcount() >= 2, "y"] = np.nan
    found = fit.predict(asked, 0.9)[asked["y"].isna()]
    labels = new.loc[found.index, "y"]
    inside = ((labels >= found["lower"]) & (labels <= found["upper"])).mean()
    assert 0.88 <= inside <= 0.92


def test_the_summary_says_all(fit):
    text = fit.summary()
    for part in ("y ~ x + (1 + x | g)", "maximum likelihood", "groups          g 30", "converged       yes", "g sd(x)"):
        assert part in text
    assert repr(fit) == text
    assert fit.aic == pytest.approx(2 * 6 - 2 * fit.log_likelihood)
    assert fit.formula == "y ~ x + (1 + x | g)"


def test_propagated_intervals_are_longer_where_groups_are_few():
    few = mixed_model("y ~ x + (1 + x | g)", frame(num_groups=8))
    wide, new = few.propagate(), frame(5, 6).assign(g="new")
    new["y"] = np.nan
    ratio = (wide.predict(new)["sd"] / few.predict(new)["sd"]).mean()
    assert 1.1 < ratio < 3
    assert (wide.group_effects["sd"] > few.group_effects["sd"]).mean() > 0.9
    assert "draws           256, worth" in wide.summary()
    many = mixed_model("y ~ x + (1 + x | g)", frame(num_groups=600))
    close = many.propagate().predict(new)
    np.testing.assert_allclose(close["sd"], many.predict(new)["sd"], rtol=0.03)
    np.testing.assert_allclose(close["mean"], many.predict(new)["mean"], rtol=0.01)


def test_coefficients_given_the_rest_are_averaged_exactly():
    """With the spread and the noise known, a prediction's variance is that of the best linear unbiased one."""
    fit = mixed_model("y ~ x + (1 | g)", frame(num_groups=10))
    at = fit.optimum.at
    one = type(fit)(fit.design, fit.engine, fit.optimum, fit.likelihood, Draws(at[None], np.ones(1)))
    rows = fit.engine.rows
    prior, sigma = fit.engine.factors[0].covariance(at[:-1], fit.estimate.sigma)[0, 0], fit.estimate.learned["sd"]
    same = (rows.groupings[0].codes[:, None] == rows.groupings[0].codes) * prior
    inverse = np.linalg.inv(same + sigma**2 * np.eye(len(rows)))
    new = frame().reset_index(drop=True)[:1].assign(y=np.nan)
    x = np.array([1.0, new.loc[0, "x"]])
    c = prior * (rows.groupings[0].labels[rows.groupings[0].codes] == new.loc[0, "g"])
    d = x - rows.x.T @ inverse @ c
    exact = sigma**2 + prior - c @ inverse @ c + d @ np.linalg.inv(rows.x.T @ inverse @ rows.x) @ d
    assert one.predict(new).loc[0, "sd"] == pytest.approx(np.sqrt(exact), rel=1e-6)
