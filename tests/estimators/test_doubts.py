"""What makes answers of the general classifier doubtful: each is told, and ordinary rows are not."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_iris

from ebmeta import EmpiricalBayes, FewShotClassifier


def rows(number=60, features=12, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).normal(2.0, 1.0, (number, features))


def ask(labelled, others, labels="aba", **options) -> None:
    FewShotClassifier(**options).fit(labelled, list(labels)).predict(others)


def test_a_column_that_decides_alone_is_told_of_in_any_unit_and_by_each_question():
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(size=(40, 6)), 10.0 * np.arange(40)[:, None]], 1)  # a number of the row left in
    said = r"^X: 1 feature of 7 has \d+% of the variance and will decide alone; the largest is column 6; if features"
    for unit in (1.0, 1e-160, 1e140):
        clf = FewShotClassifier(outliers=True).fit(unit * X[:3], list("aba"))
        for ask in (clf.predict, clf.outlier_proba, clf.suggest, clf.tasks):
            with pytest.warns(UserWarning, match=said):
                ask(unit * X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for other in (X[:, :6], X / X.std(0), np.concatenate([X[:, :6], np.ones((40, 60))], 1), X[:, 6:], 0 * X):
            FewShotClassifier().fit(other[:3], list("aba")).predict(other)
        own = EmpiricalBayes.classifier(7, num_steps=1, width=4)
        warnings.filterwarnings("ignore", "model: expected a trained one")
        FewShotClassifier(own).fit(X[:3], list("aba")).predict(X)


def test_labelled_rows_of_another_scale_are_told_of_whatever_the_model():
    X = rows()
    for labelled, others, said in (
        (X[:3] / 16, X[3:], "X: labelled rows are less than 1/4 as long as the others; encode and scale all"),
        (X[:3], X[3:] / 16, "X: labelled rows are more than 4 times as long as the others; encode and scale all"),
        (X[:3], X[3:4] / 16, "X: labelled rows are more than 4 times as long as the others"),
        (0 * X[:3, :4], X[3:, :4], "X: labelled rows are less than 1/4 as long as the others"),
        (X[:3] * [[0], [1], [1]], X[3:], "X: labelled row 0 is zero in all features; leave out rows that could not"),
    ):
        with pytest.warns(UserWarning, match=said):
            ask(labelled, others)
    own = EmpiricalBayes.classifier(12, num_steps=1, width=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "model: expected a trained one")
        ask(X[:3], X[3:])
        ask(X[:3] / 3, X[3:])
        ask(X[:3] / 16, np.r_[X[3:], X[:9] / 16])  # a tenth of the rows and more are like the labelled ones
        ask([[0.0, 0.0], [5.0, 5.0]], [[4.0, 4.0], [5.0, 4.0]], "ab")  # a point like any other
        ask(X[:3], X[3:], model=own)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "model: expected a trained one")
        with pytest.warns(UserWarning, match="X: labelled rows are less than 1/4 as long as the others"):
            ask(X[:3] / 16, X[3:], model=own)


def test_a_row_far_beyond_all_others_is_told_of_and_a_rare_class_is_not():
    X = rows()
    middle = np.median(X, 0)
    damaged = X.copy()
    damaged[10] = middle + 1e3 * (X[10] - middle)
    with pytest.warns(UserWarning, match="^X: row 7 lies more than 50 times as far out as the others, and moves"):
        ask(damaged[:3], damaged[3:])
    with pytest.warns(UserWarning, match="^X: labelled row 2 lies more than 50 times as far"):
        ask(damaged[[0, 1, 10]], damaged[11:])
    damaged[20] = middle - 1e3 * (X[20] - middle)
    with pytest.warns(UserWarning, match=r"^X: row (7|17) .and 1 more. lies more than 50 times"):
        ask(damaged[:3], damaged[3:])
    tight = np.where((np.arange(60) % 10 == 0)[:, None], [5.0, 0.0], [0.0, 5.0]) + 1e-3 * X[:, :2]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ask(X[:3], np.r_[X[3:], 10 * X[:1]])
        ask(tight[:3], tight[3:])  # every tenth row is of a class a thousand times its spread away


def test_more_classes_than_directions_are_told_of_in_any_number_of_features():
    line = np.linspace(-1, 1, 30)[:, None]
    angle = 2 * np.pi * np.arange(30)[:, None] / 30
    circle = np.c_[np.cos(angle), np.sin(angle)]
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(12, 12)))[0]
    for rows_in, features, labels in ((line, 1, "abc"), (circle, 2, "abcde")):
        said = rf"^X: rows vary in about {features}.0 directions, few for {len(labels)} classes; scikit-learn's"
        many = 1e3 + np.pad(rows_in, ((0, 0), (0, 12 - features))) @ turn
        for X in (rows_in, np.tile(rows_in, 7), many, 1e-150 * many):
            with pytest.warns(UserWarning, match=said) as told:
                ask(X[: len(labels)], X, labels)
            assert len(told) == 1
    iris = load_iris().data
    with pytest.warns(UserWarning, match=r"^X: rows vary in about 1\.2 directions, few for 3 classes"):
        ask(iris[[0, 60, 120]], iris, "abc")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ask(line[[0, 29]], line, "ab")
        ask(circle[:4], circle, "abcd")
        ask(np.tile(circle, 6)[:4], np.tile(circle, 6), "abcd")
        ask(np.tile(line, 8)[:3], np.tile(line, 8)[3:12], "abc")  # too few rows to say
        ask(rows()[:30], rows()[30:], "abcdefghijklmno" * 2)


def test_copies_among_the_rows_of_a_task_are_told_of():
    """Answers of the estimator count them once."""
    X = rows()
    clf = FewShotClassifier().fit(X[:3], list("aba"))
    with pytest.warns(UserWarning, match="^X: 2 of 59 rows are copies of others, and count as rows of a task; give"):
        clf.tasks(np.r_[X[3:], X[10:12]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clf.tasks(X[3:])
        clf.predict(np.repeat(X[3:], 9, 0))
        FewShotClassifier().fit(X[:3] > 2, list("aba")).tasks(X[3:, :12] > 2)
        ask(np.repeat(X[:3], 9, 0), X[3:], "aaaaaaaaabbbbbbbbbaaaaaaaaa")


def test_a_column_that_numbers_the_rows_is_told_of_by_name():
    X = pd.DataFrame(rows(), columns=[f"f{i}" for i in range(12)]).assign(nr=np.arange(1, 61) / 1.0)
    with pytest.warns(UserWarning, match="decide alone|numbers the rows") as told:
        ask(X[:3], X[3:])
    assert str(told[0].message).startswith("X: column 'nr' numbers the rows, from 1 to 60, and counts as a feature")
    with pytest.warns(UserWarning, match="the largest is column 'nr'; if features"):
        ask(X.assign(nr=X.nr**2)[:3], X.assign(nr=X.nr**2)[3:])


def test_a_row_that_has_two_labels_is_told_of():
    X = np.random.default_rng(0).normal(size=(6, 8))
    X[4] = X[1].astype(np.float32)
    with pytest.warns(UserWarning, match="^y: labelled rows 1 and 4 are one row with labels 'b' and 'c'; give"):
        FewShotClassifier().fit(X, list("abcacb"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FewShotClassifier().fit(X, list("abcabb"))  # the same row twice, with one label


@pytest.mark.parametrize(("unit", "said"), [(16.0, "less than 1/4 as long"), (1 / 16, "more than 4 times as long")])
def test_a_pool_in_another_unit_is_told_of_where_it_is_given(unit, said):
    """As one that a pipeline does not scale with the labelled rows; one in the same unit is not."""
    rows = np.random.default_rng(0).normal(size=(40, 12))
    with pytest.warns(UserWarning, match=f"^pool: labelled rows are {said} as the others; encode and scale all"):
        FewShotClassifier().fit(rows[:3], ["a", "b", "c"], pool=unit * rows[3:])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FewShotClassifier().fit(rows[:3], ["a", "b", "c"], pool=rows[3:])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda a: a + 100, "^anchors: anchors are more than 4 times as long as the rows; encode and scale all rows"),
        (lambda a: a / 100, "^anchors: anchors are less than 1/4 as long as the rows; encode and scale all rows alike"),
        (lambda a: a * [[1.0], [0.0], [1.0]], "^anchors: anchor 1 is zero in all features; leave out anchors that"),
    ],
)
def test_anchors_of_another_scale_are_told_of(change, told):
    """They decide which class each row is of, as labelled rows do; of the same scale nothing is said."""
    rng = np.random.default_rng(0)
    means = 2 * rng.normal(size=(3, 12))
    rows = means.repeat(10, 0) + rng.normal(size=(30, 12))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FewShotClassifier().fit(anchors=dict(zip("abc", means, strict=True))).predict(rows)
    with pytest.warns(UserWarning, match=told):
        FewShotClassifier().fit(anchors=dict(zip("abc", change(means), strict=True))).predict(rows)


def test_errors_of_anchors_alone_name_them():
    with pytest.raises(ValueError, match=r"^anchors: expected a vector of features per row, got shape \(1, 2\)"):
        FewShotClassifier().fit(anchors={"a": [[1.0, 0.0]], "b": [[0.0, 1.0]]})
