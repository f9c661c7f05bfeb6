"""scikit-learn faces: equal to `predict`, any labels, any number of ways, clear errors."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import class_tasks, classifier, number_tasks, real_tasks, regressor
from scipy import stats
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import ebmeta


def one(batch, t):
    s, q = batch.support_mask[t], batch.query_mask[t]
    return [v.numpy() for v in (batch.support_x[t][s], batch.support_y[t][s], batch.query_x[t][q], batch.query_y[t][q])]


@pytest.mark.parametrize("task", [0, 1, 2])
def test_classifier_equals_predict(task):
    model, batch = classifier(), class_tasks()
    names = np.array(["ash", "birch", "cedar", "dogwood", "elm"])
    support_x, support_y, query_x, query_y = one(batch, task)
    clf = ebmeta.FewShotClassifier(model).fit(support_x, names[support_y])
    got = clf.predict_proba(query_x)
    tree = ebmeta.predict(model, batch, num_draws=0)
    expected = tree["predictive/probs"].isel(step=-1, task=task).values[: len(query_x), : len(clf.classes_)]
    np.testing.assert_allclose(got, expected, atol=1e-9)
    assert (clf.predict(query_x) == names[expected.argmax(1)]).all()
    assert clf.score(query_x, names[query_y]) == pytest.approx((expected.argmax(1) == query_y).mean())
    unrefined = ebmeta.FewShotClassifier(model, num_steps=0).fit(support_x, support_y).predict_proba(query_x)
    assert np.abs(unrefined - got).max() > 1e-4


def test_what_is_known_of_class_proportions_is_told():
    model, batch = classifier(), class_tasks()
    stated = replace(batch, concentration=torch.tensor([0.3, math.inf, 0.3, 0.3]).double())
    probs = ebmeta.predict(model, stated, num_draws=0)["predictive/probs"].isel(step=-1).values
    for task, concentration in ((0, 0.3), (1, math.inf)):
        support_x, support_y, query_x, _ = one(batch, task)
        clf = ebmeta.FewShotClassifier(model, concentration=concentration).fit(support_x, support_y)
        got = clone(clf).fit(support_x, support_y).predict_proba(query_x)
        np.testing.assert_allclose(got, probs[task][: got.shape[0], : got.shape[1]], atol=1e-9)
        untold = ebmeta.FewShotClassifier(model).fit(support_x, support_y).predict_proba(query_x)
        assert np.abs(got - untold).max() > 1e-4
        with pytest.raises(ValueError, match="concentration: expected a number above 0, got -1"):
            ebmeta.FewShotClassifier(model, concentration=-1).fit(support_x, support_y)


def test_classes_are_matched_by_label_not_by_order():
    support_x, support_y, query_x, _ = one(class_tasks(), 1)
    clf = ebmeta.FewShotClassifier(classifier()).fit(support_x, support_y)
    flipped = ebmeta.FewShotClassifier(classifier()).fit(support_x[::-1], -support_y[::-1])
    np.testing.assert_allclose(flipped.predict_proba(query_x), clf.predict_proba(query_x)[:, ::-1], atol=1e-9)


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


def test_scikit_learn_conventions():
    clf = ebmeta.FewShotClassifier(classifier(), num_steps=1)
    assert clf.get_params()["num_steps"] == 1
    with pytest.raises(NotFittedError):
        clf.predict_proba(np.zeros((1, 4)))
    with pytest.raises(NotFittedError):
        clf.predict(np.zeros((1, 4)))
    with pytest.raises(ValueError, match="expected an EmpiricalBayes .ebmeta.load reads a saved one., got str"):
        ebmeta.FewShotClassifier("model").fit(np.eye(4), [0, 1, 0, 1])
    copy = clone(clf)
    assert copy.num_steps == 1
    assert copy.model is not None


@pytest.mark.parametrize(
    ("support_x", "support_y", "message"),
    [
        (np.zeros((2, 3)), [0, 1], "X: expected 4 features per row, got shape \\(3,\\)"),
        (np.zeros((2, 4)), [0, 1, 1], "y: expected 2 labels, one per row of X, got 3"),
        (np.full((2, 4), np.nan), [0, 1], "X: expected finite numbers, got NaN or infinity at row 0, column 0"),
        (np.zeros((2, 4)), [0.5, 1.5], "y: expected one column of class labels .* got continuous"),
        (np.zeros((2, 4)), [[0], [1]], "y: expected one column of class labels"),
        (np.zeros(4), [0], "X: expected a numeric array"),
        ([["a"], ["b"]], [0, 1], "X: expected numbers, got the text 'a' in row 0, column 0"),
        (np.zeros((0, 4)), [], "y: expected one column of class labels .* got empty"),
    ],
)
def test_bad_support(support_x, support_y, message):
    with pytest.raises(ValueError, match=message):
        ebmeta.FewShotClassifier(classifier()).fit(support_x, support_y)


@pytest.mark.parametrize(
    ("query_x", "message"),
    [
        (np.zeros((2, 3)), "X has 3 features, but FewShotClassifier is expecting 4 features as input"),
        (np.zeros((0, 4)), "X: expected at least one row, got 0"),
        (np.array([[0, 0, np.inf, 0]]), "X: expected finite numbers, got NaN or infinity at row 0, column 2"),
    ],
)
def test_bad_queries(query_x, message):
    clf = ebmeta.FewShotClassifier(classifier()).fit(np.eye(4), [0, 1, 0, 1])
    with pytest.raises(ValueError, match=message):
        clf.predict_proba(query_x)


def test_models_of_the_other_kind():
    with pytest.raises(ValueError, match="expected a classifier, got a normal likelihood"):
        ebmeta.FewShotClassifier(regressor()).fit(np.eye(3), [0, 1, 2])
    with pytest.raises(ValueError, match="expected a regressor, got a categorical likelihood"):
        ebmeta.FewShotRegressor(classifier()).fit(np.eye(4), np.zeros(4))
    reg = ebmeta.FewShotRegressor(regressor()).fit(np.eye(3), np.zeros(3))
    with pytest.raises(ValueError, match="num_draws: expected at least 1, got 0"):
        reg.sample(np.eye(3), 0)
    with pytest.raises(ValueError, match="y: expected finite numbers, got NaN or infinity at row 1"):
        reg.fit(np.eye(3), [0.0, np.nan, 1.0])
