"""Labels that are not normal, compared with integrals over a fine grid and with closed forms."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, special, stats

from ebmeta.formula.design import Design, Extras
from ebmeta.likelihood import LIKELIHOODS
from ebmeta.mixed import fit as fit_module
from ebmeta.mixed.fit import mixed_model
from ebmeta.random_effects.ascent import jacobian
from ebmeta.random_effects.covariance import Factor
from ebmeta.random_effects.nodes import Nodes, check_nodes, nodes_of
from ebmeta.random_effects.quadrature import QuadratureEngine
from tests.mixed.worlds import dense, engine_of

KINDS = ["bernoulli", "binomial", "poisson", "negative_binomial", "student_t", "gamma"]
KINDS += ["beta", "ordinal", "zero_inflated_poisson", "zero_inflated_negative_binomial"]
UNSIZED = ("bernoulli", "student_t", "beta", "ordinal")


def counts(seed: int = 0, num_groups: int = 10) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(num_groups), rng.integers(1, 7, num_groups))
    x, n = rng.normal(size=len(g)), rng.integers(1, 9, len(g))
    eta = 0.2 + 0.5 * x + rng.normal(size=num_groups)[g]
    return pd.DataFrame(
        {
            "bernoulli": rng.binomial(1, special.expit(eta)),
            "binomial": rng.binomial(n, special.expit(eta)),
            "poisson": rng.poisson(n * np.exp(eta)),
            "negative_binomial": rng.poisson(n * np.exp(eta) * rng.gamma(2.0, 0.5, len(g))),
            "student_t": 100 + 7 * (eta + rng.standard_t(4, len(g))),
            "gamma": rng.gamma(1.5 * n, np.exp(3 + eta) / (1.5 * n)),
            "beta": rng.beta(4 * special.expit(eta), 4 * special.expit(-eta)),
            "ordinal": (eta + rng.logistic(size=len(g)) > np.array([[0.0], [1.0], [1.5]])).sum(0),
            "zero_inflated_poisson": rng.poisson(n * np.exp(eta)) * (rng.random(len(g)) < 0.7),
            "zero_inflated_negative_binomial": (
                rng.poisson(n * np.exp(eta) * rng.gamma(2.0, 0.5, len(g))) * (rng.random(len(g)) < 0.7)
            ),
            "n": n,
            "x": x,
            "w": rng.uniform(0.5, 2, len(g)),
            "g": g,
        }
    ).sample(frac=1, random_state=seed)


def build(
    kind: str,
    terms: str = "1",
    hyperprior: bool = False,
    weights: str | None = None,
    fineness: int = 0,
    unit: float = 1.0,
):
    size, data = None if kind in UNSIZED else "n", counts()
    data[kind] *= unit
    design = Design(f"{kind} ~ x + ({terms} | g)", data, Extras(size=size, weights=weights), "drop")
    factor = Factor("g", *design.terms_of(("g",)), design.rows.groupings[0].z)
    likelihood = LIKELIHOODS[kind].of(design.rows.y)
    return QuadratureEngine(design.rows, [factor], design.common.names, likelihood, hyperprior, fineness)


def somewhere(engine: QuadratureEngine) -> np.ndarray:
    at = engine.start()
    rng = np.random.default_rng(1)
    at[: engine.num_theta] = rng.uniform(0.3, 0.8, engine.num_theta)
    return at + np.where(np.arange(len(at)) < engine.num_theta, 0.0, rng.uniform(-0.2, 0.2, len(at)))


def log_density(engine: QuadratureEngine, at: np.ndarray, eta: np.ndarray) -> np.ndarray:
    """Return the log density of every row at linear predictors of shape `(S, N)`, by scipy."""
    rows, (_, learned) = engine.rows, engine.scales(at)
    n = np.ones(len(rows)) if rows.size is None else rows.size
    if engine.family.name in ("bernoulli", "binomial"):
        return stats.binom.logpmf(rows.y, n, special.expit(eta))
    if engine.family.name == "poisson":
        return stats.poisson.logpmf(rows.y, n * np.exp(eta))
    if engine.family.name == "negative_binomial":
        r = learned["shape"]
        return stats.nbinom.logpmf(rows.y, r, r / (r + n * np.exp(eta)))
    if engine.family.name == "beta":
        phi = learned["precision"]
        return stats.beta.logpdf(rows.y, phi * special.expit(eta), phi * special.expit(-eta))
    if engine.family.name == "ordinal":
        tau = np.array([-np.inf, 0.0, learned["threshold(1|2)"], learned["threshold(2|3)"], np.inf])
        c = rows.y.astype(int)
        return np.log(special.expit(tau[c + 1] - eta) - special.expit(tau[c] - eta))
    if engine.family.name.startswith("zero_inflated"):
        r, pi = learned.get("shape", 1e9), learned["inflation"]
        rest = stats.poisson.logpmf(rows.y, n * np.exp(eta))
        rest = stats.nbinom.logpmf(rows.y, r, r / (r + n * np.exp(eta))) if r < 1e9 else rest
        return np.log1p(-pi) + np.where(rows.y == 0, np.logaddexp(rest, np.log(pi / (1 - pi))), rest)
    if engine.family.name == "gamma":
        k = n * learned["shape"]
        return stats.gamma.logpdf(rows.y, k, scale=np.exp(eta) / k)
    return stats.t.logpdf(rows.y, learned["freedom"], eta, learned["noise"])


def on_a_grid(engine: QuadratureEngine, at: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Return log likelihood, and means and standard deviations of the effects, from a grid of 4,001 values."""
    rows, estimate = engine.rows, engine.estimate(at)
    sd = math.sqrt(engine.factors[0].covariance(estimate.theta, estimate.sigma)[0, 0])
    u = np.linspace(-8, 8, 4001)
    value = log_density(engine, at, (rows.x @ estimate.beta)[None] + sd * u[:, None])
    value = value if rows.weights is None else value * rows.weights
    joint = np.stack([value[:, rows.groupings[0].codes == g].sum(1) for g in range(len(rows.groupings[0].labels))], 1)
    joint += stats.norm.logpdf(u)[:, None] + math.log(u[1] - u[0])
    evidence = special.logsumexp(joint, 0)
    weight = np.exp(joint - evidence)
    mean = sd * (u @ weight)
    return float(evidence.sum()), mean, np.sqrt((sd * u) ** 2 @ weight - mean**2)


@pytest.mark.parametrize("kind", KINDS)
def test_likelihood_and_effects_are_those_of_a_fine_grid(kind):
    engine = build(kind, weights="w", fineness=2)
    at = somewhere(engine)
    value, mean, sd = on_a_grid(engine, at)
    assert engine.log_likelihood(at) == pytest.approx(value, abs=1e-5)
    assert engine.each_group(at, np.random.default_rng(0)).sum() == pytest.approx(value, abs=1e-5)
    effects = engine.effects(at)[0]
    np.testing.assert_allclose(effects.mean[:, 0], mean, atol=1e-4 * sd.max())
    np.testing.assert_allclose(np.sqrt(effects.covariance[:, 0, 0]), sd, rtol=1e-3)
    again = engine.effects(at, engine.rows)[0]
    np.testing.assert_allclose(again.mean, effects.mean, atol=1e-6 * sd.max())


@pytest.mark.parametrize("hyperprior", [False, True])
@pytest.mark.parametrize("terms", ["1", "1 + x", "x || g) + (0 + I(x**2)"])
@pytest.mark.parametrize(
    "kind", ["bernoulli", "negative_binomial", "gamma", "beta", "ordinal", "zero_inflated_negative_binomial"]
)
def test_gradients_are_those_of_differences(kind, terms, hyperprior):
    engine = build(kind, terms, hyperprior, fineness=1)
    at = somewhere(engine)
    ends = [(engine.loss(at + step)[0], engine.loss(at - step)[0]) for step in 1e-4 * np.eye(len(at))]
    np.testing.assert_allclose(engine.loss(at)[1], [(a - b) / 2e-4 for a, b in ends], rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("hyperprior", [False, True])
@pytest.mark.parametrize("terms", ["1", "1 + x", "x || g) + (0 + I(x**2)"])
@pytest.mark.parametrize("kind", ["bernoulli", "negative_binomial"])
def test_hessians_are_those_of_differences(kind, terms, hyperprior):
    engine = build(kind, terms, hyperprior, fineness=1)
    at = somewhere(engine)
    found = jacobian(lambda point: engine.loss(point)[1], at)
    np.testing.assert_allclose(engine.curvature(at), found, rtol=1e-3, atol=2e-3 * np.abs(found).max())


@pytest.mark.parametrize("kind", KINDS)
def test_newtons_steps_end_where_an_ascent_by_gradients_does(kind, monkeypatch):
    newton = build(kind, "1 + x" if kind == "poisson" else "1")
    found = newton.maximise()
    monkeypatch.setattr(QuadratureEngine, "newton", False)
    other = build(kind, "1 + x" if kind == "poisson" else "1").maximise()
    assert found.converged
    assert found.evaluations < other.evaluations / 2
    assert found.value == pytest.approx(other.value, abs=1e-6)


def test_two_random_terms_are_those_of_the_normal_likelihood_where_counts_are_large():
    """Counts of means near 1e6 are nearly normal on the scale of logarithms, with variance 1 / mean."""
    rng = np.random.default_rng(0)
    g, x = np.repeat(np.arange(15), 6), np.tile(np.linspace(-1, 1, 6), 15)
    b = rng.normal(size=(15, 2)) * 0.01
    y = rng.poisson(1e6 * np.exp(b[g, 0] + b[g, 1] * x))
    data = pd.DataFrame({"y": y, "log": np.log(y), "w": y, "x": x, "g": g})
    design = Design("y ~ x + (x | g)", data, Extras(), "drop")
    factor = Factor("g", *design.terms_of(("g",)), design.rows.groupings[0].z)
    engine = QuadratureEngine(design.rows, [factor], design.common.names, LIKELIHOODS["poisson"](), False)
    near = engine_of("log ~ x + (x | g)", data, weights="w")
    found = engine.maximise()
    covariance = factor.covariance(engine.thetas(found.at)[0], 1.0)
    theta = near.factors[0].read(np.linalg.cholesky(near.factors[0].basis @ covariance @ near.factors[0].basis.T))
    at = np.append(theta / near.unit, -math.log(near.unit) - math.log(near.typical) / 2)
    at[:-1] /= np.exp(at[-1])
    exact = dense(near, at, False)
    np.testing.assert_allclose(engine.estimate(found.at).beta, exact["beta"], atol=1e-5)
    np.testing.assert_allclose(engine.effects(found.at)[0].mean, exact["mean"], atol=3e-5)


def test_units_of_labels_change_what_they_must():
    one, other = build("student_t"), build("student_t", unit=1000.0)
    at = somewhere(one)
    np.testing.assert_allclose(other.coefficients(at), 1000 * one.coefficients(at), rtol=1e-8)
    np.testing.assert_allclose(other.common_covariance(at), 1e6 * one.common_covariance(at), rtol=1e-6)
    (effects,), (more,) = one.effects(at), other.effects(at)
    np.testing.assert_allclose(more.mean, 1000 * effects.mean, rtol=1e-6)
    np.testing.assert_allclose(more.covariance, 1e6 * effects.covariance, rtol=1e-6)
    np.testing.assert_allclose(more.slope, effects.slope, rtol=1e-6)


def test_a_coarse_rule_is_made_finer_where_it_is_not_exact(monkeypatch):
    coarse, fine = build("poisson"), build("poisson")
    found = coarse.maximise()
    assert (coarse.fineness, coarse.error < 0.01) == (0, True)
    monkeypatch.setattr("ebmeta.random_effects.quadrature.EXACT", coarse.error / 2)
    best = fine.maximise()
    assert fine.fineness > 0
    assert found.converged
    assert best.converged
    assert fine.log_likelihood(best.at) == pytest.approx(on_a_grid(fine, best.at)[0], abs=1e-5)


def test_a_finer_rule_goes_on_from_the_maximum_that_the_rougher_one_chose(monkeypatch):
    """It sought all others anew, which took most of the time where spreads are 0."""
    rng = np.random.default_rng(1)
    g, x = np.repeat(np.arange(20), 4), rng.normal(size=(80, 2))
    data = pd.DataFrame(
        {"a": x[:, 0], "b": x[:, 1], "g": g, "y": rng.poisson(np.exp(0.2 + 0.5 * rng.normal(size=20)[g]))}
    )
    ascents, ascend = [], QuadratureEngine.ascend
    monkeypatch.setattr("ebmeta.random_effects.quadrature.EXACT", 1e-9)  # takes all rules

    def counted(self, begin, held):
        ascents.append(self.fineness)
        return ascend(self, begin, held)

    monkeypatch.setattr(QuadratureEngine, "ascend", counted)
    found = mixed_model("y ~ a + b + (1 + a + b | g)", data, "poisson")
    numbers = [ascents.count(fineness) for fineness in range(3)]
    assert numbers[0] > 1
    assert numbers[1:] == [1, 1]
    ascents.clear()
    monkeypatch.setattr("ebmeta.random_effects.quadrature.SURE", 0.0)
    every = mixed_model("y ~ a + b + (1 + a + b | g)", data, "poisson")
    assert ascents.count(2) > 1
    assert found.log_likelihood == pytest.approx(every.log_likelihood, abs=1e-6)


def test_no_more_rows_are_looked_at_together_than_fit_memory(monkeypatch):
    engine = build("poisson")
    at = somewhere(engine)
    whole = engine.loss(at)
    monkeypatch.setattr("ebmeta.random_effects.averages.CELLS", 40)
    parts = build("poisson").loss(at)
    assert parts[0] == pytest.approx(whole[0], rel=1e-12)
    np.testing.assert_allclose(parts[1], whole[1], rtol=1e-9)


def test_a_parameter_that_ran_off_has_no_standard_error():
    """Counts that vary less than Poisson ones have an infinite shape and no inflation; all else is Poisson."""
    rng = np.random.default_rng(0)
    g = np.repeat(np.arange(40), 6)
    data = pd.DataFrame({"y": rng.binomial(20, rng.uniform(0.1, 0.6, 40)[g]), "g": g})
    plain, fit = (mixed_model("y ~ 1 + (1 | g)", data, k) for k in ("poisson", "zero_inflated_negative_binomial"))
    table = fit.variance_components.droplevel("factor")
    assert fit.converged
    assert table.loc["shape", "estimate"] > 1e4
    assert table.loc["inflation", "estimate"] < 1e-4
    assert table.loc[["shape", "inflation"], ["std_error", "lower", "upper"]].isna().all(axis=None)
    assert "residual shape: the labels say no more than that it is very large." in fit.notes()
    assert "residual inflation: the labels say no more than that it is very small." in fit.notes()
    assert fit.log_likelihood == pytest.approx(plain.log_likelihood, abs=1e-3)
    pd.testing.assert_frame_equal(fit.fixed_effects, plain.fixed_effects, rtol=1e-3)
    np.testing.assert_allclose(table.loc["sd(Intercept)"], plain.variance_components.iloc[0], rtol=1e-3)


@pytest.mark.parametrize("kind", ["poisson", "negative_binomial"])
def test_first_steps_on_some_groups_change_nothing_of_the_end(kind, monkeypatch):
    whole = build(kind).maximise()
    monkeypatch.setattr("ebmeta.random_effects.quadrature.FEW", 4)
    engine = build(kind)
    found = engine.maximise()
    assert found.value == pytest.approx(whole.value, abs=1e-6)
    assert engine.log_likelihood(found.at) == pytest.approx(on_a_grid(engine, found.at)[0], abs=1e-3)
    assert len(engine.data.y) == len(engine.rows)


def test_modes_are_where_the_density_of_effects_is_largest():
    data = counts(num_groups=30)
    fit = mixed_model("bernoulli ~ x + (1 | g)", data, "bernoulli")
    table = fit.group_effects.xs("Intercept", level="term").droplevel("factor")
    beta, sd = fit.fixed_effects["estimate"], fit.variance_components["estimate"].iloc[0]
    own = table["mode"].loc[data["g"]].to_numpy()
    left = data["bernoulli"] - special.expit(beta["Intercept"] + beta["x"] * data["x"] + own)
    score = left.groupby(data["g"]).sum() - table["mode"].sort_index() / sd**2
    np.testing.assert_allclose(score, 0, atol=1e-6)
    assert np.abs(table["mean"] - table["mode"]).max() > 0.01


def test_normal_effects_have_no_other_mode():
    data = counts(num_groups=30)
    assert "mode" not in mixed_model("student_t ~ x + (1 | g)", data).group_effects


@pytest.mark.parametrize("kind", ["bernoulli", "poisson", "ordinal"])
def test_features_may_lie_far_from_0(kind):
    """As years do: the fit is that of the same feature less its mean."""
    data = counts()
    near = mixed_model(f"{kind} ~ x + (1 | g)", data, kind)
    far = mixed_model(f"{kind} ~ x + (1 | g)", data.assign(x=data["x"] + 1e5), kind)
    assert far.log_likelihood == pytest.approx(near.log_likelihood, abs=1e-5)
    columns = ["estimate", "std_error"]
    np.testing.assert_allclose(far.fixed_effects.loc["x", columns], near.fixed_effects.loc["x", columns], rtol=1e-3)


@pytest.mark.parametrize("shift", [0.0, 2000.0, 1e6])
def test_the_term_that_separates_labels_is_named_wherever_it_lies(shift):
    data = counts()
    data = data.assign(bernoulli=(data["x"] > 0.3).astype(int), x=data["x"] + shift)
    with pytest.raises(ValueError, match="^term 'x': expected labels of both kinds .* runs off to infinity$"):
        mixed_model("bernoulli ~ x + (1 | g)", data, "bernoulli")


@pytest.mark.parametrize("shift", [1e6, -1e7])
@pytest.mark.parametrize("terms", ["1", "x"])
def test_labels_with_heavy_tails_may_lie_far_from_0(shift, terms):
    """From far away, all coefficients look alike to heavy tails."""
    data = counts()
    near = mixed_model(f"student_t ~ x + ({terms} | g)", data, "student_t")
    far = mixed_model(f"student_t ~ x + ({terms} | g)", data.assign(student_t=data["student_t"] + shift), "student_t")
    assert far.log_likelihood == pytest.approx(near.log_likelihood, abs=1e-5)
    estimate = far.fixed_effects["estimate"] - [shift, 0.0]
    np.testing.assert_allclose(estimate, near.fixed_effects["estimate"], rtol=1e-4)
    np.testing.assert_allclose(far.predict(data[:5])["mean"] - shift, near.predict(data[:5])["mean"], rtol=1e-5)


def test_no_earlier_call_changes_the_last_digits_of_a_fit():
    """Modes of groups start from those of the maximum once it is found, and not from those of the call before."""
    rng = np.random.default_rng(0)
    shop, x = np.repeat(np.arange(40), 8), rng.normal(size=320)
    rows = pd.DataFrame({"g": shop, "x": x, "y": rng.poisson(np.exp(1.5 + rng.normal(0, 0.5, 40)[shop] - 0.3 * x))})
    fit = mixed_model("y ~ x + (1 | g)", rows, "poisson")
    before = fit.propagate(seed=0).predict(rows)
    fit.confint()
    assert fit.propagate(seed=0).predict(rows).equals(before)


def test_counts_of_hundreds_of_millions_have_the_spread_and_the_shape_of_the_same_in_larger_units():
    rng = np.random.default_rng(0)
    g = np.repeat(np.arange(30), 4)
    mean = np.exp(12 + rng.normal(size=30)[g])
    y = rng.negative_binomial(2, 2 / (2 + mean))
    small, large = (
        mixed_model("y ~ 1 + (1 | g)", pd.DataFrame({"g": g, "y": k * y}), "negative_binomial") for k in (1, 10**5)
    )
    estimates = [fit.variance_components["estimate"].to_numpy() for fit in (small, large)]
    np.testing.assert_allclose(estimates[1], estimates[0], rtol=2e-4)
    assert large.log_likelihood + len(y) * math.log(1e5) == pytest.approx(small.log_likelihood, abs=0.05)


@pytest.mark.parametrize("num_rows", [1, 2, 3, 7])
def test_groups_whose_labels_lie_apart_are_integrals_over_all_their_maxima(num_rows):
    rng = np.random.default_rng(num_rows)
    g = np.repeat(np.arange(60), 2)[: 120 - 2 * num_rows].tolist() + [99] * num_rows
    effect = 5 * rng.normal(size=100)[g]
    far = np.where(rng.random(len(g)) < 0.1, 15.0, 0.3)
    data = pd.DataFrame({"g": g, "y": effect + far * rng.normal(size=len(g))})
    fit = mixed_model("y ~ 1 + (1 | g)", data, "student_t")
    assert "heavy tails" in fit.engine.method
    spread, noise, freedom = fit.variance_components["estimate"]
    u = np.linspace(-60, 60, 240_001)
    total, found = 0.0, fit.group_effects.loc["g"].droplevel("term")
    for name, rows in data.groupby("g"):
        gaps = rows["y"].to_numpy()[:, None] - fit.fixed_effects.loc["Intercept", "estimate"] - u
        log = stats.t.logpdf(gaps, freedom, scale=noise).sum(0) + stats.norm.logpdf(u, scale=spread)
        weight = np.exp(log - log.max())
        total += math.log(weight.sum() * (u[1] - u[0])) + log.max()
        mean = weight @ u / weight.sum()
        sd = math.sqrt(weight @ (u - mean) ** 2 / weight.sum())
        assert found.loc[name, "mean"] == pytest.approx(mean, abs=0.01 * sd)
        assert found.loc[name, "conditional_sd"] == pytest.approx(sd, rel=0.01)
        assert found.loc[name, "mode"] == pytest.approx(u[np.argmax(log)], abs=0.002)
    assert fit.log_likelihood == pytest.approx(total, abs=0.01)


def test_the_rule_that_is_taken_is_told():
    """A grid of up to five terms, draws of more; several maxima are looked for with one term alone."""
    rng = np.random.default_rng(0)
    g = np.repeat(np.arange(60), 3)
    data = pd.DataFrame(rng.normal(size=(180, 3)), columns=["a", "b", "c"]).assign(g=g)
    data["y"] = 5 * rng.normal(size=60)[g] + np.where(rng.random(180) < 0.1, 15.0, 0.3) * rng.normal(size=180)
    data["k"] = rng.poisson(np.exp(0.3 * rng.normal(size=60)[g]))
    one, two = (mixed_model(f"y ~ 1 + ({terms} | g)", data, "student_t").engine for terms in ("1", "1 + a"))
    assert one.method.startswith("maximum likelihood by quadrature over heavy tails around 51 nodes of each of five")
    assert two.method.startswith("maximum likelihood by adaptive Gauss-Hermite quadrature, ")
    assert len(two._modes_at(two.start())) == 1 < len(one._modes_at(one.start()))
    fit = mixed_model("k ~ 1 + (a + b + c + a:b + a:c || g)", data, "poisson", hyperprior=True)
    six = fit.engine
    assert six.method.startswith("maximum likelihood by importance weights of ")
    assert f"(other draws differ by {six.error:.1g} nats)" in six.method
    other = six.value(fit.optimum.at, check_nodes(6, six.fineness))
    assert six.error == pytest.approx(abs(other - fit.log_likelihood), abs=1e-6)
    design = Design("y ~ 1 + (a + b + c + a:b + a:c || g)", data, Extras(None, None, None, None), "drop")
    assert fit_module.engine_of(design, "student_t", False, False).nodes is nodes_of(6, 0, True)
    assert six.nodes is nodes_of(6, six.fineness, False)


@pytest.mark.parametrize("likelihood", ["poisson", "zero_inflated_poisson", "negative_binomial"])
def test_a_huge_exposure_costs_no_digits_of_the_log_likelihood(likelihood):
    """It is an offset of its logarithm, and moves the intercept alone."""
    data = counts(num_groups=20)
    plain = mixed_model(f"{likelihood} ~ x + (1 | g)", data, likelihood)
    huge = mixed_model(f"{likelihood} ~ x + (1 | g)", data, likelihood, size=np.full(len(data), 1e12))
    assert huge.log_likelihood == pytest.approx(plain.log_likelihood, abs=1e-6)
    moved = huge.fixed_effects["estimate"] - plain.fixed_effects["estimate"]
    np.testing.assert_allclose(moved, [-12 * math.log(10), 0], atol=1e-4)


def test_labels_alike_within_their_groups_have_no_maximum():
    rng, group = np.random.default_rng(0), np.repeat(np.arange(15), 6)
    data = pd.DataFrame({"y": rng.normal(size=15)[group], "g": group})
    with pytest.raises(ValueError, match="labels: expected some that differ from what terms and groups say"):
        mixed_model("y ~ 1 + (1 | g)", data, likelihood="student_t")


def test_four_random_terms_are_integrated_over_a_grid():
    """The rule that was taken differs by less than a hundredth of a nat from one of 14,641 nodes."""
    rng = np.random.default_rng(0)
    group, x = np.repeat(np.arange(40), 8), rng.normal(size=(320, 3))
    own = 0.6 * rng.normal(size=(40, 4))
    eta = own[group, 0] + ((0.3 + own[group, 1:]) * x).sum(1)
    data = pd.DataFrame(
        {"y": rng.random(320) < special.expit(eta), "g": group, "a": x[:, 0], "b": x[:, 1], "c": x[:, 2]}
    )
    fit = mixed_model("y ~ a + b + c + (a + b + c || g)", data.astype({"y": float}), likelihood="bernoulli")
    engine, at = fit.engine, fit.optimum.at
    points, weights = np.polynomial.hermite_e.hermegauss(11)
    grid = np.stack([v.ravel() for v in np.meshgrid(*[points] * 4)], 1)
    log_weights = sum(v.ravel() for v in np.meshgrid(*[np.log(weights / weights.sum())] * 4))
    assert engine.value(at) == pytest.approx(engine.value(at, Nodes(grid, log_weights, "")), abs=0.01)


WEIGHED = {
    "poisson": (lambda eta, rng: rng.poisson(np.exp(eta)), lambda y, eta, _: stats.poisson.logpmf(y, np.exp(eta))),
    "bernoulli": (
        lambda eta, rng: rng.random(eta.shape) < special.expit(eta),
        lambda y, eta, _: special.log_expit(np.where(y, eta, -eta)),
    ),
    "negative_binomial": (
        lambda eta, rng: rng.negative_binomial(2, 2 / (2 + np.exp(eta))),
        lambda y, eta, k: stats.nbinom.logpmf(y, k, k / (k + np.exp(eta))),
    ),
    "gamma": (
        lambda eta, rng: rng.gamma(3, np.exp(eta) / 3),
        lambda y, eta, k: stats.gamma.logpdf(y, k, scale=np.exp(eta) / k),
    ),
}


def weighed(kind: str) -> pd.DataFrame:
    """Return rows that count from a half to three times, with an offset."""
    rng = np.random.default_rng(0)
    data = pd.DataFrame(
        {"g": np.repeat(np.arange(30), 4), "x": rng.normal(size=120), "off": 0.3 * rng.normal(size=120)}
    )
    eta = 0.5 + 0.4 * data["x"] + 0.7 * rng.normal(size=30)[data["g"]] + data["off"]
    data["y"] = WEIGHED[kind][0](eta.to_numpy(), rng).astype(float)
    return data.assign(w=rng.choice([0.5, 1.0, 2.0, 3.0], 120))


@pytest.mark.parametrize("kind", WEIGHED)
def test_weights_are_those_of_integrals(kind):
    data, log_prob = weighed(kind), WEIGHED[kind][1]
    fit = mixed_model("y ~ x + (1 | g)", data, kind, weights="w", offset="off")
    node = np.linspace(-8, 8, 801)
    log_weight = stats.norm.logpdf(node) + np.log(node[1] - node[0])
    x, off, y, w = (data[name].to_numpy()[:, None] for name in ("x", "off", "y", "w"))

    def loss(at: np.ndarray) -> float:
        each = w * log_prob(y, at[0] + at[1] * x + off + np.exp(at[2]) * node, np.exp(at[-1]))
        total = np.add.reduceat(each, np.arange(0, 120, 4))
        return -special.logsumexp(total + log_weight, axis=1).sum()

    start = [0.0, 0.0, -0.3] + [0.5] * (kind in ("negative_binomial", "gamma"))
    found = optimize.minimize(loss, start, method="BFGS", options={"gtol": 1e-5})
    assert fit.log_likelihood == pytest.approx(-found.fun, abs=1.5 * fit.engine.error + 1e-5)  # as it says itself
    np.testing.assert_allclose(fit.fixed_effects["estimate"], found.x[:2], atol=5e-4)
    np.testing.assert_allclose(fit.variance_components["estimate"], np.exp(found.x[2:]), rtol=2e-3)


@pytest.mark.parametrize("kind", WEIGHED)
def test_a_row_of_weight_two_is_two_rows(kind):
    data = weighed(kind)
    data["w"] = np.ceil(data["w"])
    one = mixed_model("y ~ x + (1 | g)", data, kind, weights="w", offset="off")
    other = mixed_model("y ~ x + (1 | g)", data.loc[np.repeat(data.index, data["w"].astype(int))], kind, offset="off")
    assert one.log_likelihood == pytest.approx(other.log_likelihood, abs=1e-6)
    for name in ("fixed_effects", "variance_components", "group_effects"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-4, atol=1e-6)


def test_weights_of_counts_without_a_spread_are_those_of_a_model_without_groups():
    data = weighed("poisson")
    x, off = np.column_stack([np.ones(120), data["x"]]), data["off"]
    rng = np.random.default_rng(1)
    data["y"] = np.round(np.exp(1.0 + 0.4 * data["x"] + off) + 0.3 * rng.normal(size=120)).clip(0)  # less than chance
    beta = np.zeros(2)
    for _ in range(30):  # Newton's steps of weighted counts
        mean = np.exp(x @ beta + off)
        beta = beta + np.linalg.solve((x.T * (data["w"] * mean).to_numpy()) @ x, x.T @ (data["w"] * (data["y"] - mean)))
    fit = mixed_model("y ~ x + (1 | g)", data, "poisson", weights="w", offset="off")
    np.testing.assert_allclose(fit.variance_components["estimate"], 0.0, atol=1e-3)
    np.testing.assert_allclose(fit.fixed_effects["estimate"], beta, atol=1e-5)
    assert fit.log_likelihood == pytest.approx(data["w"] @ stats.poisson.logpmf(data["y"], np.exp(x @ beta + off)))
    covariance = np.linalg.inv((x.T * (data["w"] * np.exp(x @ beta + off)).to_numpy()) @ x)
    np.testing.assert_allclose(fit.fixed_effects["std_error"], np.sqrt(np.diag(covariance)), rtol=1e-4)
