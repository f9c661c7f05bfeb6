"""scikit-learn faces: equal to `predict`, any labels, any number of ways, clear errors."""

import math
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from builders import class_tasks, classifier, joint_model, regressor
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import ebmeta
from ebmeta.estimators.calibration_rows import calibration_split
from ebmeta.prediction import suggestion
from ebmeta.simulate.gaussian_classes import GaussianClasses


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


def test_a_score_is_the_share_of_right_rows_by_their_weights():
    shown, names, x, y = pile()
    clf, weight = joint().fit(shown, names), np.arange(1.0, len(x) + 1)
    y = np.where(weight < 10, "ash", y)  # some of them are wrong
    assert clf.score(x, y, weight) == pytest.approx(np.average(clf.predict(x) == y, weights=weight))


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
        least, next_to = (clf.set_params(concentration=c).predict_proba(query_x) for c in (1e-300, 1e-20))
        np.testing.assert_allclose(least, next_to, atol=1e-9)


def test_classes_are_matched_by_label_not_by_order():
    support_x, support_y, query_x, _ = one(class_tasks(), 1)
    clf = ebmeta.FewShotClassifier(classifier()).fit(support_x, support_y)
    flipped = ebmeta.FewShotClassifier(classifier()).fit(support_x[::-1], -support_y[::-1])
    np.testing.assert_allclose(flipped.predict_proba(query_x), clf.predict_proba(query_x)[:, ::-1], atol=1e-9)


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


def clusters(seed=0, outside=0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the centres of four far directions, rows about them, and their classes; 4 for rows of other directions."""
    rng = np.random.default_rng(seed)
    centre = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    y = np.r_[np.arange(4).repeat(15), np.full(outside, 4)]
    x = centre[np.r_[y[:60], rng.integers(4, 12, outside)]] + 0.1 * rng.normal(size=(len(y), 12))
    return centre[:4], x, y


def joint(**kwargs) -> ebmeta.FewShotClassifier:
    """Return the classifier of a joint model with the moments of such clusters."""
    model = classifier(12, synthetic_gradient="joint", scale=0.0).eval()
    model.prior.log_between.fill_(math.log(1 / 12))
    model.prior.log_within.fill_(math.log(0.01))
    return ebmeta.FewShotClassifier(model, **kwargs)


def test_a_class_with_an_anchor_needs_no_labelled_row():
    centre, x, y = clusters()
    names = np.array(["ash", "birch", "cedar", "dogwood"])
    clf = joint().fit(anchors=dict(zip(names, centre, strict=True)))
    assert clf.classes_.tolist() == names.tolist()
    assert (clf.predict(x) == names[y]).mean() > 0.98
    some = joint().fit(x[[0, 16]], names[y[[0, 16]]], anchors={"dogwood": centre[3], "cedar": centre[2]})
    assert (some.predict(x) == names[y]).mean() > 0.98


def test_an_anchor_says_as_much_as_a_row_where_it_is_worth_one():
    centre, x, _ = clusters()
    between = (x[:10] + x[15:25]) / 2
    rows = joint().fit(np.r_[x[[0, 16]], centre[:1]], [0, 1, 0]).predict_proba(between)
    anchored = joint().fit(x[[0, 16]], [0, 1], anchors={0: centre[0]}).predict_proba(between)
    np.testing.assert_allclose(anchored, rows, atol=1e-9)
    more = joint(anchor_size=9.0).fit(x[[0, 16]], [0, 1], anchors={0: centre[0]})
    shown, asked = (torch.from_numpy(v)[None] for v in (np.r_[x[[0, 16]], np.repeat(centre[:1], 9, 0)], between))
    nine = ebmeta.TaskBatch(shown, torch.tensor([[0, 1, *[0] * 9]]), asked)
    first, second = (more.model.posterior(task, 0)[0] for task in (more.tasks(between), nine))
    torch.testing.assert_close(first.loc, second.loc)
    torch.testing.assert_close(first.precision, second.precision)
    later = joint().fit(x[[0, 16]], [0, 1], anchors={0: centre[0]}).set_params(anchor_size=9.0)
    np.testing.assert_array_equal(later.predict_proba(between), more.predict_proba(between))


def test_the_general_classifier_learns_as_much_of_anchors_as_of_rows():
    """All that differs is that rows count in the mean of all rows, and in the shares of classes."""
    _, x, y = clusters()
    first = [int(np.argmax(y == c)) for c in range(4)]
    rest = np.delete(x, first, 0)
    rows = ebmeta.FewShotClassifier().fit(x[first], np.arange(4)).predict_proba(rest)
    anchored = ebmeta.FewShotClassifier().fit(anchors=dict(enumerate(x[first]))).predict_proba(rest)
    np.testing.assert_allclose(anchored, rows, atol=1e-5)


def test_many_features_that_say_little_each_add_up_in_a_large_pile():
    """No row is near its centre: rough clusters find nothing, five labelled rows a class and the pile do.

    By chance the NLL is 1.61 nats; where labelled rows are not looked at, 1.5.
    """
    rng = np.random.default_rng(3)
    y = np.arange(5).repeat(200)
    x = 0.25 * rng.normal(size=(5, 256))[y] + rng.normal(size=(1000, 256))
    few = np.arange(1000) % 200 < 5
    p = ebmeta.FewShotClassifier().fit(x[few], y[few]).predict_proba(x[~few])
    assert (p.argmax(1) == y[~few]).mean() > 0.93
    assert -np.log(p[np.arange(975), y[~few]]).mean() < 0.4


def test_rows_of_none_of_the_classes_are_found():
    """Twenty of eighty rows are of other directions; classes of the rest are as without them."""
    centre, x, y = clusters(outside=20)
    clf = joint(outliers=True).fit(centre, np.arange(4))
    outlier = clf.outlier_proba(x)
    assert outlier[y == 4].min() > outlier[y < 4].max()
    probs = clf.predict_proba(x)
    np.testing.assert_allclose(probs.sum(1), 1.0)
    assert (clf.predict(x)[y < 4] == y[y < 4]).mean() > 0.98
    assert joint(outliers=True).fit(centre, np.arange(4)).outlier_proba(x[:60]).max() < 0.5


def test_outliers_of_simulated_tasks_are_found_as_often_as_is_said():
    """Five classes and three unknown ones, in the model's own world: 40 tasks of 96 queries.

    Rows of an unknown class lie together, and tell more of it than their distance from the known classes does. Twelve
    seeds: difference of the two areas at least .12, of the mean probability and the share of such rows at most .07.
    """
    family = GaussianClasses(8, between=1.0, within=1.0, concentration=3.0, n_way=8, n_shot=5, n_query=96)
    model, batch = joint_model(family), family.sample(40).to(torch.float64)
    rows = batch.support_y[0] < 5
    shown = ebmeta.TaskBatch(batch.support_x[:, rows], batch.support_y[:, rows], batch.query_x)
    inferred = model.infer(replace(shown, outliers=torch.ones(40, dtype=torch.bool)))
    said, outlier = inferred.predict(-1)["outlier"].detach(), batch.query_y >= 5
    near = -torch.cdist(batch.query_x, inferred.path[0].loc[:, :5].detach()).amin(-1)
    areas = [roc_auc_score(outlier.flatten(), v.flatten()) for v in (said, -near)]
    assert areas[0] > areas[1] + 0.05
    assert abs(float(said.mean()) - float(outlier.double().mean())) < 0.1


def test_to_allow_for_rows_of_none_costs_the_general_classifier_little_where_there_are_none():
    """Thirty tasks of five classes in 64 dimensions, one labelled row each: 98% right without, 97% with.

    Of three seeds the loss was .4 to .8 points, and the mean probability of none .11.
    """
    rng, right, said = np.random.default_rng(0), [], []
    for _ in range(30):
        means, y = rng.normal(size=(5, 64)), np.repeat(np.arange(5), 15)
        shown, asked = (means[label] + 1.7 * rng.normal(size=(len(label), 64)) for label in (np.arange(5), y))
        open_, closed = (ebmeta.FewShotClassifier(outliers=o).fit(shown, np.arange(5)) for o in (True, False))
        right.append([(clf.predict(asked) == y).mean() for clf in (open_, closed)])
        said.append(open_.outlier_proba(asked).mean())
    opened, closed = np.mean(right, 0)
    assert opened > closed - 0.03
    assert closed > 0.95
    assert np.mean(said) < 0.2


def test_anchors_and_outliers_are_refused_where_they_cannot_be():
    centre, x, _ = clusters()
    plain = ebmeta.FewShotClassifier(classifier(12))
    with pytest.raises(ValueError, match="anchors: expected none but for a joint model of inputs and labels, got some"):
        plain.fit(x[:2], [0, 1], anchors={0: centre[0]})
    with pytest.raises(ValueError, match="outliers: expected none but for a joint model"):
        ebmeta.FewShotClassifier(classifier(12), outliers=True).fit(x[:2], [0, 1])
    with pytest.raises(ValueError, match="outlier_proba: expected an estimator with outliers=True, got"):
        joint().fit(x[:2], [0, 1]).outlier_proba(x)
    with pytest.raises(ValueError, match=r"anchors: expected each of the shape \(12,\) of an input, got \(3,\)"):
        joint().fit(x[:2], [0, 1], anchors={0: centre[0, :3]})
    with pytest.raises(ValueError, match="anchors: expected numbers of one shape for every label, got"):
        joint().fit(x[:2], [0, 1], anchors={0: centre[0], 1: centre[0, :3]})
    with pytest.raises(ValueError, match="anchors: expected finite numbers, got NaN or infinity"):
        joint().fit(x[:2], [0, 1], anchors={0: centre[0] * np.nan})
    for wrong in ([centre[0]], x, pd.DataFrame(x), np.float64(3)):  # such as a pool in its place
        with pytest.raises(ValueError, match="anchors: expected a mapping from labels to inputs, got (list|nd|Da|fl)"):
            joint().fit(x[:2], [0, 1], wrong)
    with pytest.raises(ValueError, match="X and y: expected both, or neither with anchors of all classes"):
        joint().fit(x[:2], anchors={0: centre[0]})


def pile(outside=0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return one labelled row of each of four classes, their labels, and the other rows with theirs."""
    _, x, y = clusters(outside=outside)
    names, first = np.array(["ash", "birch", "cedar", "dogwood", "none"]), [0, 15, 30, 45]
    rest = np.setdiff1d(np.arange(len(x)), first)
    return x[first], names[y[first]], x[rest], names[y[rest]]


def test_a_row_is_known_as_well_with_a_pool_as_within_the_pile():
    shown, names, x, _ = pile()
    whole = ebmeta.FewShotClassifier().fit(shown, names).predict_proba(x)
    clf = ebmeta.FewShotClassifier().fit(shown, names, pool=x)
    for rows in ([3], [40, 7], list(range(len(x)))):
        np.testing.assert_allclose(clf.predict_proba(x[rows]), whole[rows], atol=1e-5)
    alone = ebmeta.FewShotClassifier().fit(shown, names).predict_proba(x[[3]])
    assert np.abs(alone - whole[[3]]).max() > 1e-4


def test_new_rows_join_the_pool():
    shown, names, x, _ = pile()
    clf = joint().fit(shown, names, pool=x[:50])
    together = joint().fit(shown, names).predict_proba(np.r_[x[50:], x[:50]])
    np.testing.assert_allclose(clf.predict_proba(x[50:]), together[:6], atol=1e-9)
    tree = ebmeta.predict(clf.model, clf.tasks(x[50:]), num_draws=0)["predictive/probs"].isel(step=-1, task=0)
    np.testing.assert_allclose(tree.values, together, atol=1e-9)


def test_labelled_rows_in_a_pool_count_once():
    shown, names, x, _ = pile()
    clf = joint().fit(shown, names, pool=x).predict_proba(x[:5])
    np.testing.assert_allclose(joint().fit(shown, names, pool=np.r_[x, shown]).predict_proba(x[:5]), clf, atol=1e-9)
    twice = joint().fit(shown, names, pool=np.r_[x, x[:1]])
    piled = joint().fit(shown, names).predict_proba(np.r_[x, x[:1]])
    np.testing.assert_allclose(twice.predict_proba(x[:1]), piled[:1], atol=1e-9)


def test_labelled_rows_that_are_asked_of_again_change_no_other_answer():
    shown, names, x, _ = pile(outside=20)
    for options in ({}, {"outliers": True}, {"concentration": 2.0}):
        clf = joint(**options).fit(shown, names)
        asked = np.r_[x[:30], shown, x[30:], x[:1]]
        expected, got = clf.predict_proba(np.r_[x, x[:1]]), clf.predict_proba(asked)
        np.testing.assert_array_equal(np.delete(got, range(30, 34), 0), expected)
        with warnings.catch_warnings(action="ignore"):  # it has a row twice
            task = clf.tasks(asked)
        tree = ebmeta.predict(clf.model, task, num_draws=0)["predictive/probs"].isel(step=-1, task=0)
        np.testing.assert_allclose(got[30:34], tree.values[30:34], atol=1e-9)
        twice = clf.predict_proba(np.r_[x, shown[:1], shown[:1]])
        np.testing.assert_array_equal(twice[-2], twice[-1])
        tree = ebmeta.predict(clf.model, clf.tasks(np.r_[x, shown[:1]]), num_draws=0)["predictive/probs"]
        np.testing.assert_allclose(twice[-1], tree.isel(step=-1, task=0).values[-1], atol=1e-9)
        np.testing.assert_array_equal(twice[:-2], clf.predict_proba(x))
        pooled = joint(**options).fit(shown, names, pool=x)
        np.testing.assert_allclose(pooled.predict_proba(np.r_[x[:2], shown])[:2], pooled.predict_proba(x[:2]))
    clf = joint().fit(shown, names)
    np.testing.assert_array_equal(clf.predict_proba(np.r_[shown, x[:1]])[4:], clf.predict_proba(x[:1]))
    wild = joint(outliers=True).fit(shown, names)
    np.testing.assert_array_equal(wild.outlier_proba(np.r_[shown, x])[4:], wild.outlier_proba(x))


@pytest.mark.parametrize("noise", [None, 1e-6])
def test_labelled_rows_in_other_bits_or_computed_anew_are_the_same_rows(noise):
    rng = np.random.default_rng(0)
    y = np.arange(72) % 3
    X = (3 * rng.normal(size=(3, 12)) + 40)[y] + rng.normal(size=(72, 12))
    again = X[:36].astype(np.float32) if noise is None else X[:36] + noise * rng.normal(size=(36, 12))
    clf = ebmeta.FewShotClassifier().fit(X[:36], y[:36])
    np.testing.assert_array_equal(clf.predict_proba(np.r_[X[36:], again])[:36], clf.predict_proba(X[36:]))
    np.testing.assert_array_equal(clf.predict_sets(np.r_[again, X[36:]], 0.8)[36:], clf.predict_sets(X[36:], 0.8))
    assert (clf.suggest(np.r_[again, X[36:]], 3) - 36).tolist() == clf.suggest(X[36:], 3).tolist()
    assert len(ebmeta.FewShotClassifier().fit(X[:36], y[:36], pool=np.r_[again, X[36:]]).pool_) == 36
    twice = ebmeta.FewShotClassifier().fit(np.r_[X[:36], again], np.r_[y[:36], y[:36]])
    np.testing.assert_array_equal(twice.predict_sets(X[36:], 0.8), clf.predict_sets(X[36:], 0.8))


def test_a_row_that_is_given_many_times_counts_once():
    """Among labelled rows, rows that are asked of, and a pool; copies of a row are answered alike."""
    shown, names, x, y = pile()
    rng = np.random.default_rng(0)
    again, pooled = np.r_[:40, rng.integers(0, 40, 60)], np.r_[40:56, 45:50, 45:50]
    for clf in (ebmeta.FewShotClassifier(outliers=True), joint(concentration=math.inf), joint(num_steps=1)):
        once = clf.fit(np.r_[shown, x[50:52]], np.r_[names, y[50:52]], pool=x[40:])
        wanted, sure = clf.predict_proba(x[:40]), clf.suggest(x[:40], 2)
        more = np.r_[shown, shown, x[50:52], shown], np.r_[names, names, y[50:52], names]
        clf = clone(clf).fit(*more, pool=x[pooled])
        np.testing.assert_array_equal(clf.predict_proba(x[again]), wanted[again])
        assert again[clf.suggest(x[again], 2)].tolist() == sure.tolist()
        assert len(clf.support_X_) == len(once.support_X_) == 6
    few = ebmeta.FewShotClassifier().fit([[1.0, 0.0], [0.0, 1.0]] * 3, list("ab") * 3, pool=np.eye(2)[[0, 0, 1]])
    assert (len(few.support_X_), len(few.pool_)) == (2, 0)


@pytest.mark.parametrize(
    "more", [{"X": np.eye(3)}, {"X": np.full((2, 4), np.nan)}, {"X": np.eye(2), "pool": np.eye(3)}]
)
def test_after_a_fit_that_failed_the_task_is_the_one_before(more):
    clf = ebmeta.FewShotClassifier().fit(np.eye(2), ["cat", "dog"], anchors={"owl": [-1.0, -1.0]}, pool=np.eye(2) / 2)
    before = dict(vars(clf))
    with pytest.raises(ValueError, match="expected"):
        clf.fit(y=["ant", "bee"], **more)
    assert vars(clf) == before
    reg = ebmeta.FewShotRegressor(regressor()).fit(np.eye(3), [1.0, 2.0, 3.0])
    before = dict(vars(reg))
    with pytest.raises(ValueError, match="size: expected numbers above 0, got 0 at row 1"):
        reg.fit(np.eye(3) + 1, [1.0, 2.0, 3.0], size=[1, 0, 1])
    assert vars(reg) == before


def test_rows_marked_as_without_a_label_are_told_of():
    _, x, _ = clusters()
    for unlabelled in (-1, -1.0):
        for times in (1, 4):
            said = f"^y: -1 counts as a class like any other, of {times} rows; give rows without a label as pool="
            with pytest.warns(UserWarning, match=said):
                clf = joint().fit(x[: times + 3], [unlabelled] * times + [0, 1, 2])
            assert clf.classes_.tolist() == [-1, 0, 1, 2]
    with pytest.warns(UserWarning, match="of 4 rows"):
        joint().fit(x[:6], [-1] * 4 + [0, 1])
    with pytest.warns(UserWarning, match="^y: .* of 9 rows; leave out rows without a label, or call"):
        ebmeta.EpisodeSampler(np.zeros((27, 2)), [-1, 0, 7] * 9, 2, 1, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        joint().fit(x[:7], [-1, -1, 0, 0, 0, 1, 1])  # what is negative, neutral and positive
        joint().fit(x[:7], [-1] * 6 + [1])
        joint().fit(x[:7], [-2, -1, -1, -1, -1, 0, 1])
        joint().fit(x[:7], ["-1"] * 5 + ["0", "1"])
    for none, got in ((None, "none"), (np.nan, "none"), ("", "the text ''")):
        said = (
            f"^y: .* a label in every row, got {got} in row 1; give rows without a label as pool=, or to predict_proba$"
        )
        with pytest.raises(ValueError, match=said):
            joint().fit(x[:3], ["a", none, "b"])


def test_settings_are_checked_where_they_are_used():
    shown, names, x, _ = pile()
    clf = joint().fit(shown, names)
    for setting, said in (
        ({"outliers": "no"}, "outliers: expected True or False, got 'no'"),
        ({"outliers": False, "concentration": "2"}, "concentration: expected a number or None, got '2'"),
        ({"concentration": -1.0}, "concentration: expected a number above 0, got -1"),
        ({"concentration": None, "num_steps": "3"}, "num_steps: expected a whole number or None, got '3'"),
        ({"num_steps": None, "model": 3}, "model: expected an EmpiricalBayes"),
    ):
        with pytest.raises(ValueError, match=said):
            clf.set_params(**setting).predict_proba(x)


def test_a_pool_goes_with_all_that_a_task_may_have():
    """Anchors, outliers, a concentration, frames and several labelled rows of some classes."""
    shown, names, x, y = pile(outside=20)
    stands = dict(zip(names, shown, strict=True))
    anchored = joint().fit(anchors=stands, pool=x)
    np.testing.assert_allclose(anchored.predict_proba(x[:3]), joint().fit(anchors=stands).predict_proba(x)[:3])
    wild = joint(outliers=True).fit(shown, names)
    with_pool = joint(outliers=True).fit(shown, names, pool=x)
    some = [0, 20, 60, 70]
    np.testing.assert_allclose(with_pool.outlier_proba(x[some]), wild.outlier_proba(x)[some], atol=1e-9)
    assert with_pool.outlier_proba(x[[0]])[0] < 0.5 < with_pool.outlier_proba(x[[70]])[0]
    even = joint(concentration=math.inf)
    told = even.fit(shown, names).predict_proba(x[:56])
    np.testing.assert_allclose(even.fit(shown, names, pool=x[:56]).predict_proba(x[9:10]), told[9:10], atol=1e-9)
    ragged = np.r_[shown, x[:2]], np.r_[names, y[:2]]
    frames = [pd.DataFrame(v, columns=[f"c{i}" for i in range(12)]) for v in (ragged[0], x[2:], x[5:9])]
    clf = joint().fit(frames[0], ragged[1], pool=pl.from_pandas(frames[1]))
    expected = joint().fit(*ragged).predict_proba(x[2:])[3:7]
    np.testing.assert_allclose(clf.predict_proba(frames[2]), expected, atol=1e-9)


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        (np.zeros((3, 5)), r"pool: expected rows of shape \(12,\) as in the support set, got \(5,\)"),
        (np.zeros((0, 12)), "pool: expected at least one row, got 0"),
        (np.full((2, 12), np.nan), "pool: expected finite numbers, got NaN or infinity at row 0, column 0"),
        (3.0, "pool: expected a numeric array"),
        ([["a"] * 12], "pool: expected numbers, got the text 'a' in row 0, column 0"),
    ],
)
def test_bad_pools(pool, message):
    shown, names, *_ = pile()
    with pytest.raises(ValueError, match=message):
        joint().fit(shown, names, pool=pool)


def test_sets_are_those_of_the_labelled_rows_that_calibrate():
    rng = np.random.default_rng(1)
    y = rng.integers(0, 3, 60)
    X = rng.normal(size=(3, 4))[y] + rng.normal(size=(60, 4))
    clf = ebmeta.FewShotClassifier().fit(X[:30], y[:30])
    learned, held = calibration_split(clf.support_y_, torch.zeros(3, dtype=torch.bool), 0.8, 5)
    half = ebmeta.FewShotClassifier().fit(X[:30][learned], y[:30][learned])
    probs = half.predict_proba(np.concatenate([X[30:], X[:30][held]]))
    scores = np.sort(1 - probs[30:][np.arange(15), y[:30][held]])
    expected = 1 - probs[:30] <= scores[12]  # the 13th of 15: the first with 13 / 16 at 0.8 or above
    expected[np.arange(30), clf.predict_proba(X[30:]).argmax(1)] = True
    np.testing.assert_array_equal(clf.predict_sets(X[30:], 0.8, seed=5), expected)
    np.testing.assert_array_equal(clf.predict_sets(np.r_[X[:30], X[30:]], 0.8, seed=5)[30:], expected)


def test_sets_hold_the_class_as_often_as_is_said():
    """Over 100 tasks of 40 rows the share is 0.9 or more but for chance: below 4 standard errors once in 30,000."""
    rng = np.random.default_rng(0)
    held = []
    for seed in range(100):
        y = rng.integers(0, 3, 70)
        X = 0.8 * rng.normal(size=(3, 5))[y] + rng.normal(size=(70, 5))
        clf = ebmeta.FewShotClassifier().fit(X[:30], y[:30])
        held.append(clf.predict_sets(X[30:], 0.9, seed=seed)[np.arange(40), y[30:]].mean())
    assert np.mean(held) > 0.9 - 4 * np.std(held) / 10


def test_too_few_labelled_rows_for_sets_are_counted():
    clf = ebmeta.FewShotClassifier().fit(np.eye(4), list("abcd"))
    with pytest.raises(ValueError, match="level: expected at least 13 labelled rows for sets of level 0.9, .* got 4"):
        clf.predict_sets(np.eye(4))
    with pytest.raises(ValueError, match="level: expected a number between 0 and 1, got 1.0"):
        clf.predict_sets(np.eye(4), 1.0)


def test_suggested_rows_are_those_of_the_task():
    """What `suggest` says are numbers of rows as they came, labelled rows left out, whatever else comes with them."""
    shown, names, x, _ = pile()
    clf = joint().fit(shown, names)
    task = clf.tasks(x)
    expected = suggestion.suggest(clf.model.infer(task), task.query_mask, 6)[0].tolist()
    assert clf.suggest(x, 6).tolist() == expected
    assert clf.suggest(x).tolist() == expected[:1]
    assert (clf.suggest(np.r_[shown, x], 6) - 4).tolist() == expected
    frame = pl.DataFrame({f"c{i}": x[:, i] for i in range(12)})
    assert joint().fit(pd.DataFrame(shown, columns=frame.columns), names).suggest(frame, 6).tolist() == expected
    with_pool = joint().fit(shown, names, pool=x[20:])
    whole = clf.tasks(x)
    candidates = torch.arange(56).unsqueeze(0) < 20
    expected = suggestion.suggest(clf.model.infer(whole), candidates, 3)[0].tolist()
    assert with_pool.suggest(x[:20], 3).tolist() == expected


def test_copies_of_rows_are_suggested_once():
    """A copy of a row that is labelled says nothing more."""
    shown, names, x, _ = pile()
    clf = joint().fit(shown, names)
    thrice = np.r_[x[:3], x[:3], shown[:2], shown[:2], x[:3]]
    assert sorted(clf.suggest(thrice, 3)) == [0, 1, 2]
    with pytest.raises(ValueError, match="n: expected at most the number of rows that are new and unlike, 3, got 4"):
        clf.suggest(thrice, 4)


def test_a_row_of_an_unsure_group_is_suggested_first():
    """Forty rows of no labelled class lie together; all others are known."""
    centre, x, _ = clusters()
    rng = np.random.default_rng(1)
    between = (centre[0] + centre[1]) / np.sqrt(2) + 0.1 * rng.normal(size=(40, 12))
    clf = joint().fit(centre, list("abcd"))
    assert clf.suggest(np.r_[x, between])[0] >= 60


def test_suggestions_with_outliers_and_anchors():
    centre, x, _ = clusters(outside=20)
    clf = joint(outliers=True).fit(anchors=dict(zip("abcd", centre, strict=True)))
    chosen = clf.suggest(x, 5)
    assert len({int(i) for i in chosen}) == 5
    assert clf.outlier_proba(x)[chosen].max() > 0.1


def test_bad_suggestions():
    shown, names, x, _ = pile()
    clf = joint().fit(shown, names)
    with pytest.raises(ValueError, match="n: expected at most the number of rows that are new and unlike, 56, got 57"):
        clf.suggest(np.r_[x, shown], 57)
    with pytest.raises(ValueError, match="n: expected at most the number of rows that are new and unlike, 0, got 1"):
        clf.suggest(shown)
    with pytest.raises(ValueError, match="n: expected at least 1, got 0"):
        clf.suggest(x, 0)
    plain = ebmeta.FewShotClassifier(classifier(12)).fit(shown, names)
    with pytest.raises(
        ValueError, match="suggest: expected a joint model of inputs and labels, got one of labels alone"
    ):
        plain.suggest(x)
    with pytest.raises(NotFittedError):
        joint().suggest(x)


def test_one_class_alone_is_told_of():
    X = np.random.default_rng(0).normal(size=(6, 4))
    with pytest.warns(UserWarning, match="expected labels of at least two classes, got 'cat' alone, of which all rows"):
        clf = ebmeta.FewShotClassifier().fit(X[:3], ["cat"] * 3)
    assert clf.predict_proba(X[3:]).tolist() == [[1.0]] * 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ebmeta.FewShotClassifier(outliers=True).fit(X[:3], ["cat"] * 3)
        ebmeta.FewShotClassifier().fit(X[:3], ["cat"] * 3, anchors={"dog": X[3]})


def test_labels_that_differ_from_known_classes_in_writing_are_told_of():
    X = np.eye(4)
    clf = ebmeta.FewShotClassifier().fit(X, ["1", "1", "2", "2"])
    with pytest.warns(UserWarning, match=r"^y: '1\.0' \(and 1 more\) counts as new, and differs from '1' of the known"):
        assert clf.score(X, ["1.0", "1.0", "2.0", "2.0"]) == 0.0
    assert clf.score(X, ["1", "1", "2", "2"]) == 1.0
    with pytest.raises(ValueError, match="^y: expected labels as those of fit, the text '1', got the number 1$"):
        clf.score(X, [1, 1, 2, 2])


def test_two_classes_of_one_feature_are_told_by_how_far_rows_lie():
    """Means 3 apart, deviation 1: true means and shares give these rows an NLL of 0.178, signs alone more than 1."""
    rng = np.random.default_rng(0)
    lost = []
    for _ in range(10):
        y = np.r_[np.arange(10) % 2, rng.integers(0, 2, 60)]
        x = 3.0 * y[:, None] + rng.normal(size=(70, 1))
        probs = ebmeta.FewShotClassifier().fit(x[:10], y[:10]).predict_proba(x[10:])
        lost.append(-np.log(probs[np.arange(60), y[10:]]).mean())
    assert np.mean(lost) < 0.25


def test_a_scaler_in_a_pipeline_learns_from_labelled_rows_alone():
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(40, 6)) + np.repeat(4 * np.eye(6)[:2], 20, 0)) * [1, 1, 1, 1, 1, 9]
    pipe = make_pipeline(StandardScaler(), ebmeta.FewShotClassifier()).fit(X[::10], list("aabb"))
    center, spread = X[::10].mean(0), X[::10].std(0)
    found = ebmeta.FewShotClassifier().fit((X[::10] - center) / spread, list("aabb"))
    np.testing.assert_allclose(pipe.predict_proba(X), found.predict_proba((X - center) / spread), atol=1e-6)
    together = StandardScaler().fit_transform(X)
    other = ebmeta.FewShotClassifier().fit(together[::10], list("aabb")).predict_proba(together)
    assert np.abs(pipe.predict_proba(X) - other).max() > 0.01
