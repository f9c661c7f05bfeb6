"""scikit-learn faces: equal to `predict`, any labels, any number of ways, clear errors."""

import numpy as np
import pytest
import torch
from builders import class_tasks, classifier, real_tasks, regressor
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
        (np.zeros((2, 3)), [0, 1], "support_X: expected 4 features per row, got shape \\(3,\\)"),
        (np.zeros((2, 4)), [0, 1, 1], "support_y: expected 2 labels, one per row of support_X, got 3"),
        (np.full((2, 4), np.nan), [0, 1], "support_X: expected finite numbers, got NaN or infinity at row 0"),
        (np.zeros((2, 4)), [0.5, 1.5], "support_y: expected one column of class labels .* got continuous"),
        (np.zeros((2, 4)), [[0], [1]], "support_y: expected one column of class labels"),
        (np.zeros(4), [0], "support_X: expected a numeric array"),
        ([["a"], ["b"]], [0, 1], "support_X: expected a numeric array"),
        (np.zeros((0, 4)), [], "support_y: expected one column of class labels .* got empty"),
    ],
)
def test_bad_support(support_x, support_y, message):
    with pytest.raises(ValueError, match=message):
        ebmeta.FewShotClassifier(classifier()).fit(support_x, support_y)


@pytest.mark.parametrize(
    ("query_x", "message"),
    [
        (np.zeros((2, 3)), "query_X: expected rows of shape \\(4,\\) as in the support set, got \\(3,\\)"),
        (np.zeros((0, 4)), "query_X: expected at least one row, got 0"),
        (np.array([[0, 0, np.inf, 0]]), "query_X: expected finite numbers, got NaN or infinity at row 0"),
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
    with pytest.raises(ValueError, match="support_y: expected one column of finite numbers"):
        reg.fit(np.eye(3), [0.0, np.nan, 1.0])
