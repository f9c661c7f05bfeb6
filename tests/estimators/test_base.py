"""The faces as estimators of scikit-learn: its own checks, what faces like these cannot pass, and metadata routing."""

import pickle

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from sklearn.base import clone
from sklearn.model_selection import KFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import ebmeta
from ebmeta import EmpiricalBayes, FewShotClassifier, FewShotRegressor


class Widen(torch.nn.Module):
    """Any number of columns as twenty-four, zeros behind them: a model has one width, and the checks have many."""

    def forward(self, x):
        return torch.nn.functional.pad(x, (0, 24 - x.shape[-1]))


COPIES = "a copy of a torch module hashes to another value under joblib, whatever it holds; fit changes no parameter"
COLUMN = "labels of shape (N, 1) are refused in one line, where the check wants them flattened with a warning"
CLASSIFIER = {
    "check_estimators_overwrite_params": COPIES,
    "check_supervised_y_2d": COLUMN,
    "check_methods_subset_invariance": "unlabelled rows of a call refine the posterior together: that is the method",
}
REGRESSOR = {
    "check_estimators_overwrite_params": COPIES,
    "check_supervised_y_2d": COLUMN,
    "check_estimators_empty_data_messages": "no labelled row is legal: the answer is the prior",
}


def model(face):
    if face is FewShotClassifier:
        built = EmpiricalBayes.classifier(24, num_steps=1, width=4, embedder=Widen())
    else:
        built = EmpiricalBayes.regressor(24, num_steps=0, width=4, embedder=Widen(), standardize=False)
    return built.double()  # invariances are asked for to the ninth digit


@pytest.mark.filterwarnings("ignore")  # scikit-learn's checks warn of what they skip
@pytest.mark.parametrize(("face", "expected"), [(FewShotClassifier, CLASSIFIER), (FewShotRegressor, REGRESSOR)])
def test_the_checks_of_scikit_learn(face, expected):
    results = check_estimator(face(model(face)), expected_failed_checks=expected, on_fail=None)
    by_status = {}
    for result in results:
        by_status.setdefault(result["status"], set()).add(result["check_name"])
    assert by_status.get("failed", set()) == set()
    assert by_status["xfail"] == set(expected)  # each of them does fail: nothing is excused for nothing
    assert by_status.get("skipped", set()) <= {"check_array_api_input"}
    assert sum(result["status"] == "passed" for result in results) >= 48


@pytest.fixture(scope="module")
def groups():
    """Rows of twelve groups with exposure, and a Poisson model of them."""
    rng = np.random.default_rng(0)
    group = np.repeat([f"g{i:02d}" for i in range(12)], 10)
    X = pd.DataFrame({"price": rng.normal(size=120), "size": rng.normal(size=120)})
    days = rng.integers(1, 5, 120)
    level = np.repeat(rng.normal(size=12), 10)
    y = rng.poisson(days * np.exp(0.3 * X["price"] + level))
    tasks = ebmeta.GroupSampler(X, y, group, size=days, n_support=3)
    built = EmpiricalBayes.regressor(2, "poisson", num_steps=0)
    ebmeta.fit_evidence(built, tasks, boundary=False)
    return built, X, y, group, days


def test_groups_and_sizes_are_routed(groups):
    built, X, y, group, days = groups
    folds = KFold(3, shuffle=True, random_state=0)
    expected = []
    for train, test in folds.split(X):
        reg = FewShotRegressor(built).fit(X.iloc[train], y[train], groups=group[train], size=days[train])
        mean = reg.predict(X.iloc[test], groups=group[test], size=days[test])
        expected.append(1 - np.square(y[test] - mean).sum() / np.square(y[test] - y[test].mean()).sum())
    with sklearn.config_context(enable_metadata_routing=True):
        reg = FewShotRegressor(built).set_fit_request(groups=True, size=True).set_score_request(groups=True, size=True)
        found = cross_validate(reg, X, y, cv=folds, params={"groups": group, "size": days})
        np.testing.assert_allclose(found["test_score"], expected)
        reg.set_predict_request(groups=True, size=True)
        pipe = make_pipeline(StandardScaler(with_mean=False, with_std=False), reg)
        pipe.fit(X, y, groups=group, size=days)
        piped = pipe.predict(X, groups=group, size=days)
    plain = FewShotRegressor(built).fit(X, y, groups=group, size=days).predict(X, groups=group, size=days)
    np.testing.assert_allclose(piped, plain)


def test_a_face_in_a_pipeline_of_named_columns(groups):
    built, X, y, *_ = groups
    pipe = make_pipeline(StandardScaler().set_output(transform="pandas"), FewShotRegressor(built))
    assert pipe.fit(X[:10], y[:10]).predict(X[10:]).shape == (110,)
    with pytest.raises(ValueError, match="The feature names should match those that were passed during fit"):
        pipe.predict(X[["size", "price"]])


def test_faces_are_cloned_and_pickled_with_what_they_know(groups):
    built, X, y, group, days = groups
    reg = FewShotRegressor(built, num_steps=0).fit(X, y, groups=group, size=days)
    again = pickle.loads(pickle.dumps(reg))
    assert again.feature_names_in_.tolist() == ["price", "size"]
    answers = [r.predict(X, groups=group, size=days) for r in (reg, again)]
    np.testing.assert_array_equal(*answers)
    fresh = clone(reg)
    assert fresh.get_params()["num_steps"] == 0
    assert fresh.model.feature_names == ["price", "size"]
    assert not hasattr(fresh, "feature_names_in_")


def test_scikit_learns_names(groups):
    built, X, y, group, days = groups
    reg = FewShotRegressor(built).fit(X=X, y=y, groups=group, size=days)
    assert reg.predict(X=X[:3], groups=group[:3], size=days[:3]).shape == (3,)
    assert reg.score(X=X, y=y, groups=group, size=days) == pytest.approx(
        1 - np.square(y - reg.predict(X, groups=group, size=days)).sum() / np.square(y - y.mean()).sum()
    )
    clf = FewShotClassifier(EmpiricalBayes.classifier(2, num_steps=0)).fit(X=X, y=group)
    assert clf.predict_proba(X=X).shape == (120, 12)
    for face in (reg, clf):
        with pytest.raises(ValueError, match=r"y: FewShot\w+ requires y to be passed, but the target y is None"):
            face.fit(X, None)
