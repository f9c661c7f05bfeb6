"""A regressor for scikit-learn: equal to `predict` and to the conjugate posterior, for one group and for many."""

import numpy as np
import pytest
import torch
from builders import number_tasks, real_tasks, regressor
from scipy import stats

import ebmeta
from tests.estimators.test_classifier import one


def test_regressor_equals_predict_and_its_draws():
    model, batch = regressor(), real_tasks()
    support_x, support_y, query_x, _ = one(batch, 2)
    reg = ebmeta.FewShotRegressor(model).fit(support_x, support_y)
    mean, std = reg.predict(query_x, return_std=True)
    tree = ebmeta.predict(model, batch, num_draws=0)["predictive"].isel(step=-1, task=2)
    np.testing.assert_allclose(mean, tree["mean"].values[: len(mean)], atol=1e-9)
    np.testing.assert_allclose(std, tree["std"].values[: len(std)], atol=1e-9)
    draws = reg.sample(query_x, 40_000)
    assert np.abs((draws.mean(0) - mean) / std * 200).max() < 5  # 7 queries at 5 sigma: below 5e-6
    q = model.posterior(batch)[-1]
    x = model.predictor.features(batch.query_x)[2, : len(query_x)].detach()
    covariance = (x @ q.covariance()[2, 0].detach() @ x.T).numpy() + np.diag(
        np.full(len(x), model.likelihood.dispersion().item())
    )
    np.testing.assert_allclose(np.cov(draws.T), covariance, atol=0.03 * covariance.max())
    assert (reg.sample(query_x, 3, seed=1) == reg.sample(query_x, 3, seed=1)).all()


def test_a_new_group_without_labels_is_predicted_from_the_prior():
    model = regressor(num_steps=0)
    reg = ebmeta.FewShotRegressor(model).fit(np.empty((0, 3)), np.empty(0))
    x = np.array([[0.3, -1.0, 2.0]])
    mean, std = reg.predict(x, return_std=True)
    prior, phi = model.prior.gaussian(), model.predictor.features(torch.from_numpy(x)[None])[0, 0]
    variance = phi @ torch.linalg.inv(prior.precision) @ phi + model.likelihood.dispersion()
    assert mean[0] == pytest.approx((phi @ prior.loc).item())
    assert std[0] == pytest.approx(variance.sqrt().item())


LEVELS = (0.05, 0.5, 0.9)


def long_form(batch, seed=0):
    """Return the rows of all tasks under one another, shuffled, each with its task and size, for both sides."""
    out = []
    for side in ("support", "query"):
        t, i = (v.numpy() for v in getattr(batch, f"{side}_mask").nonzero(as_tuple=True))
        order = np.random.default_rng(seed).permutation(len(t))
        size = getattr(batch, f"{side}_size")
        parts = [
            getattr(batch, f"{side}_x"),
            getattr(batch, f"{side}_y"),
            torch.ones_like(getattr(batch, f"{side}_y")) if size is None else size,
        ]
        out.append([v.numpy()[t, i][order] for v in parts] + [t[order]])
    return out


@pytest.mark.parametrize("likelihood", ["normal", "normal_per_task", "student_t", "binomial", "poisson"])
def test_many_groups_at_once_equal_one_at_a_time(likelihood):
    # Less spread where the rate is an exponential: a rate of e^40 is beyond what can be drawn.
    scale = 0.1 if likelihood == "poisson" else 0.3
    batch, model = number_tasks(likelihood), regressor(likelihood=likelihood, num_covariates=2, scale=scale)
    covariates = dict(zip("abcd", np.random.default_rng(1).normal(size=(4, 2)), strict=True))
    names = np.array(list("abcd"))
    (sx, sy, ss, st), (qx, qy, qs, qt) = long_form(batch)
    seen = st != 2  # group c comes without labels
    together = ebmeta.FewShotRegressor(model).fit(
        sx[seen], sy[seen], groups=names[st[seen]], size=ss[seen], group_x=covariates
    )
    mean, std = together.predict(qx, return_std=True, groups=names[qt], size=qs)
    quantiles = together.quantiles(qx, LEVELS, groups=names[qt], size=qs)
    low, high = together.interval(qx, 0.8, groups=names[qt], size=qs)
    density = together.log_density(qx, qy, groups=names[qt], size=qs)
    for t, name in enumerate(names):
        s, q = (st == t) & seen, qt == t
        alone = ebmeta.FewShotRegressor(model).fit(sx[s], sy[s], size=ss[s], group_x=covariates[name])
        expected = alone.predict(qx[q], return_std=True, size=qs[q])
        np.testing.assert_allclose([mean[q], std[q]], expected, atol=1e-9)
        np.testing.assert_allclose(quantiles[q], alone.quantiles(qx[q], LEVELS, size=qs[q]), atol=1e-9)
        np.testing.assert_allclose([low[q], high[q]], alone.interval(qx[q], 0.8, size=qs[q]), atol=1e-9)
        np.testing.assert_allclose(density[q], alone.log_density(qx[q], qy[q], size=qs[q]), atol=1e-9)
    draws = together.sample(qx, 4000, seed=3, groups=names[qt], size=qs)
    error = 0.005 + 5 * (0.25 / 4000) ** 0.5  # of the rule behind the cdf, and 5 sigma of 66 shares: below 4e-5
    for level, quantile in zip(LEVELS, quantiles.T, strict=True):
        assert ((draws <= quantile).mean(0) > level - error).all()
        assert ((draws < quantile).mean(0) < level + error).all()
    assert (draws == together.sample(qx, 4000, seed=3, groups=names[qt], size=qs)).all()


def test_normal_answers_are_those_of_the_conjugate_posterior():
    """Weights N(mu + B g, Sigma), noise variance over the readings of a row: everything in closed form."""
    batch, model = number_tasks("normal"), regressor(num_steps=0, num_covariates=2)
    model.likelihood.center.fill_(3.0)
    model.likelihood.unit.fill_(2.0)
    (sx, sy, ss, st), (qx, qy, qs, qt) = long_form(batch)
    g = np.random.default_rng(1).normal(size=(4, 2))
    reg = ebmeta.FewShotRegressor(model).fit(sx, sy, groups=st, size=ss, group_x=dict(enumerate(g)))
    mean, std = reg.predict(qx, return_std=True, groups=qt, size=qs)
    low, high = reg.interval(qx, 0.9, groups=qt, size=qs)
    density = reg.log_density(qx, qy, groups=qt, size=qs)
    upper = reg.quantiles(qx, [0.975], groups=qt, size=qs)
    draws = reg.sample(qx, 40_000, groups=qt, size=qs)
    with torch.no_grad():
        prior = model.prior.gaussian()
        loc, precision, slope = prior.loc.numpy(), prior.precision.numpy(), model.prior.slope.numpy()
        noise = float(model.likelihood.dispersion())
        scaled = (g - model.prior.center.numpy()) / model.prior.unit.numpy()
        phi = [model.predictor.features(torch.from_numpy(x)[None])[0].numpy() for x in (sx, qx)]
    for t in range(4):
        (s, q), m = ((st == t), (qt == t)), loc + slope @ scaled[t]
        f, weight = phi[0][s], ss[s] / noise
        posterior = precision + (f.T * weight) @ f
        w = np.linalg.solve(posterior, precision @ m + (f.T * weight) @ ((sy[s] - 3) / 2))
        x = phi[1][q]
        covariance = 4 * (x @ np.linalg.solve(posterior, x.T) + np.diag(noise / qs[q]))
        exact = stats.norm(3 + 2 * x @ w, np.diag(covariance) ** 0.5)
        np.testing.assert_allclose(mean[q], exact.mean(), atol=1e-8)
        np.testing.assert_allclose(std[q], exact.std(), atol=1e-8)
        np.testing.assert_allclose([low[q], high[q]], [exact.ppf(0.05), exact.ppf(0.95)], atol=1e-7)
        np.testing.assert_allclose(upper[q, 0], exact.ppf(0.975), atol=1e-7)
        np.testing.assert_allclose(density[q], exact.logpdf(qy[q]), atol=1e-8)
        np.testing.assert_allclose(np.cov(draws[:, q].T), covariance, atol=0.03 * covariance.max())


@pytest.mark.parametrize(
    ("likelihood", "support_y", "size", "message"),
    [
        ("poisson", [1.0, -2.0], None, "y: expected counts 0, 1, 2, ..., got -2 at row 1"),
        ("binomial", [1.0, 4.0], [2, 3], "y: expected at most as many successes as trials, got 4 of 3"),
        ("poisson", [1.0, 2.0], [1, 0], "size: expected numbers above 0, got 0 at row 1"),
        ("poisson", [1.0, 2.0], [1], "size: expected 2 numbers, got shape"),
        ("bernoulli", [1.0, 0.0], [1, 1], "y: expected rows of one trial each"),
    ],
)
def test_impossible_support_labels(likelihood, support_y, size, message):
    with pytest.raises(ValueError, match=message):
        ebmeta.FewShotRegressor(regressor(likelihood=likelihood)).fit(np.zeros((2, 3)), support_y, size=size)


def test_groups_that_do_not_fit():
    x, y = np.zeros((2, 3)), np.zeros(2)
    reg = ebmeta.FewShotRegressor(regressor())
    with pytest.raises(ValueError, match="groups: expected one label for each of 2 rows, got shape"):
        reg.fit(x, y, groups=["a"])
    with pytest.raises(ValueError, match="groups: expected a label in every row, got none in row 1"):
        reg.fit(x, y, groups=["a", None])
    with pytest.raises(ValueError, match="groups: expected the group of each row, because fit was given groups"):
        reg.fit(x, y, groups=["a", "b"]).predict(x)
    with pytest.raises(ValueError, match="groups: expected none, because fit was given none"):
        reg.fit(x, y).predict(x, groups=["a", "b"])
    with pytest.raises(ValueError, match="levels: expected probabilities between 0 and 1"):
        reg.fit(x, y).quantiles(x, [0.0, 0.5])
    with pytest.raises(ValueError, match="coverage: expected a number between 0 and 1, got 90"):
        reg.interval(x, 90)
    with pytest.raises(ValueError, match="y: expected finite numbers, got NaN or infinity at row 0"):
        reg.log_density(x, [np.nan, 0.0])
    covered = ebmeta.FewShotRegressor(regressor(num_covariates=2))
    with pytest.raises(ValueError, match="group_x: expected 2 covariates of each group, got none"):
        covered.fit(x, y)
    with pytest.raises(ValueError, match="group_x: expected covariates of every group, got none of 'b'"):
        covered.fit(x, y, groups=["a", "a"], group_x={"a": [1, 2]}).predict(x, groups=["a", "b"])
    with pytest.raises(ValueError, match="group_x: expected 2 finite covariates per group"):
        covered.fit(x, y, group_x=[1.0, np.nan])
    with pytest.raises(ValueError, match="y: expected counts 0, 1, 2, ..., got 0.5"):
        ebmeta.FewShotRegressor(regressor(likelihood="poisson")).fit(x, y).log_density(x, [1.0, 0.5])


def test_conformal_intervals_take_the_place_of_the_model_s_own():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 5)
    X, y = rng.normal(size=(200, 1)), rng.normal(size=40)[groups] + rng.standard_t(3, 200)
    held = groups >= 20
    model = ebmeta.fit_evidence(
        ebmeta.EmpiricalBayes.regressor(1, num_steps=0), ebmeta.GroupSampler(X[~held], y[~held], groups[~held], 1)
    ).model
    tasks = ebmeta.GroupSampler(X[held], y[held], groups[held], (0, 1))
    conformal = ebmeta.ConformalIntervals(model, 0.8).calibrate(tasks)
    rows, of = rng.normal(size=(6, 1)), ["b", "a", "b", "c", "a", "a"]
    reg = ebmeta.FewShotRegressor(model, conformal=conformal).fit([[0.5], [1.0]], [2.0, -1.0], groups=["a", "b"])
    low, high = reg.interval(rows, 0.7, groups=of)
    batch, place = reg.placed(rows, groups=of)
    ends, real = conformal.predict(batch, 0.7), batch.query_mask.numpy()
    np.testing.assert_array_equal(low[place.numpy()], ends["lower"].values[real])
    np.testing.assert_array_equal(high[place.numpy()], ends["upper"].values[real])
    plain = ebmeta.FewShotRegressor(model).fit([[0.5], [1.0]], [2.0, -1.0], groups=["a", "b"])
    assert not np.allclose(plain.interval(rows, 0.7, groups=of)[1], high)
    np.testing.assert_array_equal(plain.predict(rows, groups=of), reg.predict(rows, groups=of))


@pytest.mark.parametrize(("likelihood", "categories"), [("bernoulli", 2), ("ordinal", 3)])
def test_probabilities_of_categories_are_those_of_draws_of_mean_and_of_log_density(likelihood, categories):
    batch, model = number_tasks(likelihood), regressor(likelihood=likelihood)
    (sx, sy, _, st), (qx, _, _, qt) = long_form(batch)
    reg = ebmeta.FewShotRegressor(model).fit(sx, sy, groups=st)
    probs, labels = reg.probabilities(qx, groups=qt), np.arange(categories)
    mean, std = reg.predict(qx, return_std=True, groups=qt)
    assert probs.shape == (len(qx), categories)
    np.testing.assert_allclose(probs.sum(1), 1, rtol=1e-12)
    np.testing.assert_allclose(probs @ labels, mean, rtol=1e-9)
    np.testing.assert_allclose(probs @ labels**2 - mean**2, std**2, rtol=1e-7, atol=1e-12)
    for label in labels:
        log_p = reg.log_density(qx, np.full(len(qx), label), groups=qt)
        np.testing.assert_allclose(probs[:, label], np.exp(log_p), rtol=1e-4)
    draws = reg.sample(qx, 40_000, groups=qt)
    for label in labels:
        error = np.sqrt(probs[:, label] * (1 - probs[:, label]) / len(draws))
        assert (np.abs((draws == label).mean(0) - probs[:, label]) < 5 * error + 1e-4).all()
    tree = ebmeta.predict(model, batch, num_draws=0)["predictive/probs"]
    alone = [reg.probabilities(batch.query_x[t, :n], groups=[t] * n) for t, n in enumerate(batch.query_mask.sum(1))]
    for t, rows in enumerate(alone):
        np.testing.assert_allclose(tree[t, : len(rows)], rows, rtol=1e-9)
        assert np.isnan(tree[t, len(rows) :]).all()
    told = reg.summaries(qx, [0.5], groups=qt, probs=True)
    np.testing.assert_array_equal(told[3:], probs.T)
    np.testing.assert_array_equal(told[2], (probs.cumsum(1) < 0.5).sum(1))


@pytest.mark.parametrize("likelihood", ["normal", "binomial", "poisson", "beta"])
def test_numbers_have_no_probabilities_of_categories(likelihood):
    reg = ebmeta.FewShotRegressor(regressor(likelihood=likelihood)).fit(np.zeros((0, 3)), [])
    with pytest.raises(ValueError, match=f"^probabilities: expected labels that are categories.* {likelihood} one"):
        reg.probabilities(np.zeros((1, 3)))


def test_without_a_model_there_is_no_regressor():
    said = "model: expected one for FewShotRegressor, got none; there is a general one of classes alone"
    with pytest.raises(ValueError, match=said):
        ebmeta.FewShotRegressor().fit([[0.0], [1.0]], [0.0, 1.0])
