"""Residuals of normal labels are those of dense matrices, and ranks are uniform where the model holds."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import special, stats

import ebmeta
from ebmeta.likelihood import LIKELIHOODS
from ebmeta.likelihood.base import Given
from ebmeta.mixed.fit import FAMILIES
from ebmeta.mixed.predictive import moments, skewed
from tests.mixed.worlds import frame


def covariance(fit, rows) -> np.ndarray:
    """Return the covariance of all labels."""
    sigma, learned = fit.engine.scales(fit.optimum.at)
    out = np.diag(learned["sd"] ** 2 / (np.ones(len(rows)) if rows.weights is None else rows.weights))
    for factor, grouping, theta in zip(
        fit.engine.factors, rows.groupings, fit.engine.thetas(fit.optimum.at), strict=True
    ):
        same = grouping.codes[:, None] == grouping.codes
        out += same * (grouping.z @ factor.covariance(theta, sigma) @ grouping.z.T)
    return out


@pytest.mark.parametrize(
    ("formula", "options"),
    [
        ("y ~ x + (1 + x | g)", {"weights": "w"}),
        ("y ~ x + (1 | g)", {"reml": True, "offset": "w"}),
        ("y ~ x + (1 | g) + (1 | h)", {}),
    ],
)
def test_normal_labels_are_exact(formula, options):
    data = frame(3, 12, (2, 7)).assign(x=lambda d: d.x - 2000, h=lambda d: np.arange(len(d)) % 4)
    fit = ebmeta.mixed_model(formula, data, **options)
    rows, found = fit.engine.rows, fit.residuals
    V, beta = covariance(fit, rows), fit.fixed_effects["estimate"].to_numpy()
    noise = fit.engine.scales(fit.optimum.at)[1]["sd"] / np.sqrt(1 if rows.weights is None else rows.weights)
    off = rows.y - rows.x @ beta - rows.offset
    fitted = rows.y - np.asarray(noise) ** 2 * np.linalg.solve(V, off)
    assert found.index.equals(data.index)
    assert (found["label"] == data["y"]).all()
    np.testing.assert_allclose(found["fitted"], fitted, rtol=1e-9)
    np.testing.assert_allclose(found["fitted"], fit.predict(data)["mean"], rtol=1e-9)
    np.testing.assert_allclose(found["response"], rows.y - fitted, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found["pearson"], (rows.y - fitted) / noise, rtol=1e-6, atol=1e-9)
    for i in range(0, len(rows), 5):  # each without its own label
        rest = np.arange(len(rows)) != i
        gain = np.linalg.solve(V[np.ix_(rest, rest)], V[rest, i])
        z = (off[i] - gain @ off[rest]) / np.sqrt(V[i, i] - gain @ V[rest, i])
        assert found["quantile"].iloc[i] == pytest.approx(z, rel=1e-6)
        assert found["pit"].iloc[i] == pytest.approx(special.ndtr(z), rel=1e-6)


@pytest.mark.parametrize("name", FAMILIES)
def test_ranks_are_uniform_where_the_model_holds(name):
    """480 labels of 80 groups: a Kolmogorov distance beyond 1.95 / sqrt(n) has a chance of 1 in 1,000 for each family.

    The parameters are estimated of the same labels, which makes the distance smaller.
    """
    torch.manual_seed(0)
    rng, group = np.random.default_rng(FAMILIES.index(name)), np.repeat(np.arange(80), 6)
    x, size = rng.normal(size=480), np.full(480, 4.0)
    eta = torch.from_numpy(0.3 + 0.4 * x + 0.6 * rng.normal(size=80)[group])[None, :, None]
    family, sized = LIKELIHOODS[name]().double(), name == "binomial"
    given = Given(torch.from_numpy(size)[None] if sized else None)
    y = family.sample(eta, torch.ones(1, 1, dtype=torch.bool), given, generator=torch.Generator().manual_seed(1))[0]
    data = pd.DataFrame({"y": y.double().numpy(), "x": x, "g": group, "n": size})
    fit = ebmeta.mixed_model("y ~ x + (1 | g)", data, name, size="n" if sized else None)
    pit = fit.residuals["pit"]
    assert pit.between(0, 1).all()
    assert stats.kstest(pit, "uniform").statistic < 1.95 / np.sqrt(480)
    np.testing.assert_allclose(special.ndtr(fit.residuals["quantile"]), pit, atol=1e-12)
    assert abs(fit.residuals["pearson"].mean()) < 0.2


def test_a_wrong_model_is_seen():
    """Counts of three times the variance of a Poisson have a Kolmogorov distance beyond chance (1 in 1,000)."""
    rng, group = np.random.default_rng(0), np.repeat(np.arange(80), 6)
    mean = np.exp(1 + 0.5 * rng.normal(size=80))[group]
    data = pd.DataFrame({"y": rng.negative_binomial(mean / 2, 1 / 3), "g": group})
    fit = ebmeta.mixed_model("y ~ 1 + (1 | g)", data, "poisson")
    assert stats.kstest(fit.residuals["pit"], "uniform").statistic > 1.95 / np.sqrt(480)


def test_labels_of_a_group_without_others_are_ranked_by_what_is_known_of_groups():
    rng, group = np.random.default_rng(0), np.array([0, *np.repeat(np.arange(1, 30), 3)])
    data = pd.DataFrame({"y": rng.poisson(np.exp(1 + 0.5 * rng.normal(size=30)))[group] * 1.0, "g": group})
    data["y"] = rng.poisson(1 + data["y"])
    fit = ebmeta.mixed_model("y ~ 1 + (1 | g)", data, "poisson")
    alone = fit.engine.left_out(fit.optimum.at, fit._effects)
    spread = fit.variance_components.loc[("g", "sd(Intercept)"), "estimate"]
    assert alone[0][0] == pytest.approx(fit.fixed_effects.loc["Intercept", "estimate"])
    assert alone[1][0] == pytest.approx(spread**2)
    told = data.iloc[2:4].assign(g=99)
    asked = fit.predict(pd.concat([told, told.iloc[:1].assign(y=np.nan)]))
    known = skewed([fit.engine.likelihood(fit.optimum.at)], np.ones(1), alone[None, :, 1:2])
    assert asked["mean"].iloc[-1] == pytest.approx(moments(*known, None)[0][0])


def test_large_groups_leave_out_a_part_at_a_time():
    rng, group = np.random.default_rng(0), np.repeat(np.arange(3), [45, 3, 20])
    data = pd.DataFrame({"y": rng.poisson(np.exp(np.array([0.0, 1.0, 2.0])[group])), "g": group})
    fit = ebmeta.mixed_model("y ~ 1 + (1 | g)", data, "poisson")
    found = fit.engine.left_out(fit.optimum.at, fit._effects)
    part = np.arange(45) % 20 == 7
    told = data.iloc[:45].assign(g="new", y=np.where(part, np.nan, data["y"].iloc[:45]))
    rows, _ = fit.design.new(told, fit.design.given)
    wanted = fit.engine.linear(fit.optimum.at, fit._effects, rows)
    np.testing.assert_allclose(found[:, :45][:, part], wanted[:, part])


def test_gaps_are_filled_in_the_same_way_each_time():
    data = pd.DataFrame({"y": np.tile([0, 1, 1, 0, 1], 8), "g": np.repeat(np.arange(10), 4)})
    one, two = (ebmeta.mixed_model("y ~ 1 + (1 | g)", data, "bernoulli", hyperprior=True).residuals for _ in range(2))
    pd.testing.assert_frame_equal(one, two)
    assert one["pit"].nunique() == 40


def test_log_normal_labels_have_the_quantiles_of_their_logarithms():
    data = frame(3, 12, (2, 7)).assign(x=lambda d: d.x - 2000)
    data["y"] /= 3.0
    found = ebmeta.mixed_model("I(exp(y)) ~ x + (1 + x | g)", data, "log_normal", offset="w").residuals
    wanted = ebmeta.mixed_model("y ~ x + (1 + x | g)", data, offset="w").residuals
    np.testing.assert_allclose(found["quantile"], wanted["quantile"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["label"], np.exp(wanted["label"]))
