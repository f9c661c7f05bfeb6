"""Crossed and nested groups, compared with the density of all labels at once."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import linalg, stats

from ebmeta.formula.design import Design, Extras
from ebmeta.mixed.fit import mixed_model
from ebmeta.random_effects.covariance import Factor
from ebmeta.random_effects.crossed import CrossedEngine


def ratings(seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    user, item = rng.integers(0, 12, 90), rng.integers(0, 5, 90)
    x, w = rng.normal(size=90), rng.uniform(0.5, 2, 90)
    y = 3 + x + rng.normal(size=12)[user] * (1 + x) + 0.5 * rng.normal(size=5)[item] + rng.normal(size=90)
    return pd.DataFrame({"y": y, "x": x, "w": w, "user": user, "item": item, "kind": item % 2})


FORMULAS = [
    "y ~ x + (1 | user) + (1 | item)",
    "y ~ x + (1 + x | user) + (x || item)",
    "y ~ 0 + x + (1 | kind/item)",
    "y ~ 1 + (1 | kind) + (1 | item) + (0 + x | user)",
]


def build(formula: str, reml: bool = False, hyperprior: bool = False) -> tuple[CrossedEngine, Design]:
    design = Design(formula, ratings(), Extras(weights="w"), "drop")
    pairs = zip(design.factors, design.rows.groupings, strict=True)
    factors = [Factor(":".join(name), *design.terms_of(name), g.z) for name, g in pairs]
    return CrossedEngine(design.rows, factors, design.common.names, reml, hyperprior), design


class Dense:
    """The same model in dense matrices."""

    def __init__(self, engine: CrossedEngine, at: np.ndarray, reml: bool) -> None:
        rows, (sigma, learned) = engine.rows, engine.scales(at)
        self.priors = [f.covariance(t, sigma) for f, t in zip(engine.factors, engine.thetas(at), strict=True)]
        self.sizes = [len(g.labels) for g in rows.groupings]
        self.b = np.zeros((0, 0))
        for prior, size in zip(self.priors, self.sizes, strict=True):
            block = np.kron(np.eye(size), prior)
            self.b = np.block(
                [[self.b, np.zeros((len(self.b), len(block)))], [np.zeros((len(block), len(self.b))), block]]
            )
        self.Z, X, y = self.columns(rows), rows.x, rows.y
        V = self.Z @ self.b @ self.Z.T + np.diag(learned["sd"] ** 2 / rows.weights)
        self.inverse = np.linalg.inv(V)
        self.normal = X.T @ self.inverse @ X
        self.beta = np.linalg.solve(self.normal, X.T @ self.inverse @ y)
        self.value = stats.multivariate_normal(X @ self.beta, V).logpdf(y)
        if reml:
            self.value += (X.shape[1] * np.log(2 * np.pi) - np.linalg.slogdet(self.normal)[1]) / 2
        gain = self.b @ self.Z.T @ self.inverse
        self.mean, self.slope = gain @ (y - X @ self.beta), -gain @ X
        self.covariance = self.b - gain @ self.Z @ self.b

    def columns(self, rows) -> np.ndarray:
        """Return the columns of all groups; those of unknown groups are left out."""
        parts = []
        for grouping, size in zip(rows.groupings, self.sizes, strict=True):
            z = np.zeros((len(rows), size, grouping.z.shape[1]))
            known = grouping.codes < size
            z[np.flatnonzero(known), grouping.codes[known]] = grouping.z[known]
            parts.append(z.reshape(len(rows), -1))
        return np.concatenate(parts, 1)


@pytest.mark.parametrize("reml", [False, True])
@pytest.mark.parametrize("formula", FORMULAS)
def test_likelihood_coefficients_and_effects_are_those_of_dense_matrices(formula, reml):
    engine, _ = build(formula, reml)
    at = np.random.default_rng(1).uniform(0.2, 0.9, engine.num_parameters)
    exact = Dense(engine, at, reml)
    assert engine.log_likelihood(at) == pytest.approx(exact.value, rel=1e-9)
    np.testing.assert_allclose(engine.estimate(at).beta, exact.beta, rtol=1e-8)
    np.testing.assert_allclose(engine.common_covariance(at), np.linalg.inv(exact.normal), rtol=1e-8)
    found = engine.effects(at)
    np.testing.assert_allclose(np.concatenate([e.mean.ravel() for e in found]), exact.mean, atol=1e-9)
    width = exact.slope.shape[1]
    np.testing.assert_allclose(np.concatenate([e.slope.reshape(-1, width) for e in found]), exact.slope, atol=1e-9)
    sd = np.concatenate([np.sqrt(np.einsum("gkk->gk", e.covariance)).ravel() for e in found])
    np.testing.assert_allclose(sd, np.sqrt(np.diag(exact.covariance)), rtol=1e-8)


@pytest.mark.parametrize("formula", FORMULAS)
def test_effects_of_several_factors_vary_together(formula):
    """The variance of the sum is that of dense matrices, for pairs that met and pairs that did not, and new groups."""
    engine, design = build(formula)
    at = np.random.default_rng(1).uniform(0.2, 0.9, engine.num_parameters)
    exact = Dense(engine, at, False)
    new = ratings(3)[:20].assign(y=np.nan)
    new.loc[:3, "user"], new.loc[2:6, "item"] = 77, 88
    rows, _ = design.new(new, Extras())
    loc, var, _ = engine.linear(at, engine.effects(at), rows)
    Z = exact.columns(rows)
    wanted = np.einsum("nq,qr,nr->n", Z, exact.covariance, Z)
    for grouping, size, prior in zip(rows.groupings, exact.sizes, exact.priors, strict=True):
        unknown = grouping.codes >= size
        wanted[unknown] += np.einsum("nk,kl,nl->n", grouping.z[unknown], prior, grouping.z[unknown])
    np.testing.assert_allclose(var, wanted, rtol=1e-8)
    np.testing.assert_allclose(loc, rows.x @ exact.beta + Z @ exact.mean, rtol=1e-8)


@pytest.mark.parametrize("formula", FORMULAS)
def test_labelled_rows_of_new_groups_count_as_in_dense_matrices(formula):
    """A user with one label, an item with three, both new in one of them; labels of known groups do not count again."""
    engine, design = build(formula)
    at = np.random.default_rng(1).uniform(0.2, 0.9, engine.num_parameters)
    exact, new = Dense(engine, at, False), ratings(3)[:20]
    new.loc[[0, 3, 4, 5], "user"], new.loc[2:6, "item"], new.loc[4:, "y"] = 77, 88, new["y"][4:] + 2
    new.loc[[1, 6, 9], ["user", "item"]] = [[78, 3], [78, 89], [79, 90]]
    new.loc[[0, 1, 5, 9], "y"] = np.nan
    rows, _ = design.new(new, Extras(weights="w"))
    own, sizes = Dense.__new__(Dense), [len(g.labels) for g in rows.groupings]
    own.sizes = sizes
    told = np.isfinite(rows.y) & np.any([g.codes >= n for g, n in zip(rows.groupings, exact.sizes, strict=True)], 0)
    assert told.any()
    Z = np.vstack([own.columns(engine.rows), own.columns(rows)[told]])
    b = linalg.block_diag(*(np.kron(np.eye(n), prior) for n, prior in zip(sizes, exact.priors, strict=True)))
    noise = engine.scales(at)[1]["sd"] ** 2 / np.concatenate([engine.rows.weights, rows.weights[told]])
    gain = b @ Z.T @ np.linalg.inv(Z @ b @ Z.T + np.diag(noise))
    left = np.concatenate([engine.rows.y - engine.rows.x @ exact.beta, (rows.y - rows.x @ exact.beta)[told]])
    asked, slope = own.columns(rows), -gain @ np.vstack([engine.rows.x, rows.x[told]])
    loc, var, _ = engine.linear(at, engine.effects(at), rows)
    np.testing.assert_allclose(loc, rows.x @ exact.beta + asked @ gain @ left, rtol=1e-8)
    np.testing.assert_allclose(var, np.einsum("nq,qr,nr->n", asked, b - gain @ Z @ b, asked), rtol=1e-8)
    more = engine.linear(at, engine.effects(at), rows, common=engine.common_root(at))[1] - var
    slopes = rows.x + asked @ slope
    np.testing.assert_allclose(more, np.einsum("np,pq,nq->n", slopes, np.linalg.inv(exact.normal), slopes), rtol=1e-6)


def test_a_labelled_row_of_a_new_user_moves_its_user_alone():
    """Other new users stay as they were, and so does the row itself where users have no spread."""
    fit = mixed_model("y ~ x + (1 | user) + (1 | item)", ratings())
    new = pd.DataFrame({"x": 0.0, "user": [50, 50, 51], "item": 2, "y": [9.0, np.nan, np.nan]})
    told, blind = fit.predict(new), fit.predict(new.drop(columns="y"))
    assert told["mean"][1] > blind["mean"][1] + 1
    assert told["sd"][1] < blind["sd"][1]
    assert told["mean"][0] == pytest.approx(told["mean"][1], rel=1e-12)
    assert abs(told["mean"][2] - blind["mean"][2]) < 0.2  # by what the label says of the item
    pd.testing.assert_frame_equal(fit.predict(new, groups="new").iloc[2:], fit.predict(new[2:], groups="new"))


def test_draws_of_effects_have_their_joint_covariance():
    """4,000 draws: every covariance within 5 of its standard errors, which are at most one of the product of scales."""
    engine, _ = build(FORMULAS[1])
    at = np.random.default_rng(1).uniform(0.2, 0.9, engine.num_parameters)
    exact, effects, rng = Dense(engine, at, False), engine.effects(at), np.random.default_rng(0)
    shift = np.array([0.3, -0.2])
    draws = np.stack(
        [np.concatenate([d.ravel() for d in engine.draw_effects(at, effects, shift, rng)]) for _ in range(4000)]
    )
    scale = np.sqrt(np.diag(exact.covariance))
    gap = (np.cov(draws.T) - exact.covariance) / np.outer(scale, scale)
    assert np.abs(gap).max() < 5 * np.sqrt(2 / 4000)
    mean = (draws.mean(0) - exact.mean - exact.slope @ shift) / scale
    assert np.abs(mean).max() < 5 / np.sqrt(4000)


@pytest.mark.parametrize("hyperprior", [False, True])
def test_gradients_are_those_of_differences(hyperprior):
    engine, _ = build(FORMULAS[1], hyperprior=hyperprior)
    at = np.random.default_rng(1).uniform(0.2, 0.9, engine.num_parameters)
    ends = [(engine.loss(at + step)[0], engine.loss(at - step)[0]) for step in 1e-4 * np.eye(len(at))]
    np.testing.assert_allclose(engine.loss(at)[1], [(a - b) / 2e-4 for a, b in ends], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("hyperprior", [False, True])
def test_curvatures_are_those_of_gradients(hyperprior):
    engine, _ = build(FORMULAS[1], hyperprior=hyperprior)
    at = np.random.default_rng(1).uniform(0.4, 0.9, engine.num_parameters)
    ends = [(engine.loss(at + step)[1], engine.loss(at - step)[1]) for step in 1e-3 * np.eye(len(at))]
    exact = np.stack([(a - b) / 2e-3 for a, b in ends])
    np.testing.assert_allclose(engine.curvature(at), exact, rtol=1e-2, atol=1e-2 * np.abs(exact).max())


def test_one_factor_beside_a_spread_of_0_is_that_factor_alone():
    data = ratings()
    one = mixed_model("y ~ x + (1 + x | user)", data)
    two, _ = build("y ~ x + (1 + x | user) + (1 | item)")
    rows = Design("y ~ x + (1 + x | user) + (1 | item)", data, Extras(), "drop").rows
    two = CrossedEngine(rows, two.factors, two.names, False, False)
    at = np.insert(one.optimum.at, 3, 0.0)
    assert two.log_likelihood(at) == pytest.approx(one.log_likelihood, abs=1e-8)


def test_tables_predictions_and_draws_of_crossed_groups():
    data = ratings()
    fit = mixed_model("y ~ x + (1 | user) + (1 | item)", data, reml=True)
    assert fit.converged
    assert fit.group_effects.loc["item"].shape == (5, 5)
    assert "user 12, item 5" in fit.summary()
    found = fit.predict(data)
    assert 0.85 < ((data["y"] > found["lower"]) & (data["y"] < found["upper"])).mean() <= 1
    new = data[:2].assign(user=99, item=99)
    assert (fit.predict(new)["sd"] > fit.predict(data[:2])["sd"]).all()
    pd.testing.assert_frame_equal(fit.predict(data), fit.predict(data.assign(y=np.nan)))
    assert (fit.propagate(32).predict(new)["sd"] > fit.predict(new)["sd"]).all()
    assert fit.tree["posterior"]["effects_item"].shape == (1, 256, 5, 1)


def test_what_cannot_be_fitted_is_refused(monkeypatch):
    with pytest.raises(
        ValueError, match="groups: expected more rows than effects of 'row', got 90 rows for 90 effects"
    ):
        mixed_model("y ~ x + (1 | user) + (1 | row)", ratings().assign(row=range(90)))
    with pytest.raises(ValueError, match="expected one grouping factor for labels that are not normal, got user, item"):
        mixed_model("k ~ x + (1 | user) + (1 | item)", ratings().assign(k=1), "poisson")
    monkeypatch.setattr("ebmeta.random_effects.crossed.MOST", 4)
    with pytest.raises(ValueError, match="groups: expected at most 4 effects of all grouping factors but the largest"):
        mixed_model("y ~ x + (1 | user) + (1 | item)", ratings())
