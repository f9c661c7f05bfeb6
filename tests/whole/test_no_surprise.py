"""Rows as people have them: what holds the same numbers is classified the same, and the rest is refused in a line."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from scipy import sparse
from scipy.spatial.distance import cdist
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from ebmeta import FewShotClassifier

NAMES = list("abcdefgh")


def clusters(ways: int, features: int, each: int, spread: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of classes whose means are standard normal, in random order."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(ways).repeat(each))
    return rng.normal(size=(ways, features))[y] + spread * rng.normal(size=(len(y), features)), y


def first_of_each(y: np.ndarray, shots: int = 1) -> np.ndarray:
    return np.concatenate([np.flatnonzero(y == c)[:shots] for c in np.unique(y)])


WHOLE, CODES = clusters(3, 8, 20, 0.7)
WHOLE = (4 * WHOLE).round().clip(-100, 100)  # exact in every type
KINDS = np.array(["ash", "elm", "fir"])[CODES]
FEW = first_of_each(CODES, 2)
FORMS = {
    "float32": lambda X: X.astype(np.float32),
    "float16": lambda X: X.astype(np.float16),
    "int8": lambda X: X.astype(np.int8),
    "objects": lambda X: X.astype(object),
    "lists": lambda X: X.tolist(),
    "column order": np.asfortranarray,
    "read-only": lambda X: np.frombuffer(X.tobytes()).reshape(X.shape),
    "torch": torch.from_numpy,
    "bfloat16": lambda X: torch.from_numpy(X).bfloat16(),
    "pandas": lambda X: pd.DataFrame(X, columns=NAMES, index=np.arange(len(X)) + 7),
    "pandas, nullable": lambda X: pd.DataFrame(X, columns=NAMES).astype("Int64"),
    "polars": lambda X: pl.DataFrame({name: X[:, i] for i, name in enumerate(NAMES)}),
}
LABELS = {
    "array": lambda y: y,
    "objects": lambda y: y.astype(object),
    "list": lambda y: y.tolist(),
    "pandas": lambda y: pd.Series(y, index=np.arange(len(y)) + 7),
    "categories": lambda y: pd.Series(y).astype("category"),
    "pandas texts": lambda y: pd.Series(y).astype("string"),
    "polars": lambda y: pl.Series(y.tolist()),
}


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    return FewShotClassifier().fit(WHOLE[FEW], KINDS[FEW]).predict_proba(WHOLE)


@pytest.mark.parametrize("form", FORMS)
def test_the_same_numbers_in_any_form_say_the_same(expected, form):
    clf = FewShotClassifier().fit(FORMS[form](WHOLE[FEW]), KINDS[FEW])
    np.testing.assert_allclose(clf.predict_proba(FORMS[form](WHOLE)), expected, atol=1e-6)


@pytest.mark.parametrize("form", LABELS)
def test_labels_in_any_form_say_the_same(expected, form):
    clf = FewShotClassifier().fit(WHOLE[FEW], LABELS[form](KINDS[FEW]))
    assert clf.classes_.tolist() == ["ash", "elm", "fir"]
    np.testing.assert_allclose(clf.predict_proba(WHOLE), expected, atol=1e-6)
    assert clf.predict(WHOLE).tolist() == np.array(["ash", "elm", "fir"])[expected.argmax(1)].tolist()


@pytest.mark.parametrize("features", [1280, 4096])
def test_raw_embeddings_of_many_features(features):
    """Neither centred nor of unit length, of thirty directions, with three features that are far larger than others."""
    X, y = clusters(5, 30, 40, 1.0)
    few = first_of_each(y)
    turn = np.random.default_rng(1).normal(size=(30, features)) * np.where(np.arange(features) < 3, 5.0, 1.0)
    raw = (50 + X @ turn).astype(np.float32)
    p = FewShotClassifier().fit(raw[few], y[few]).predict_proba(raw)
    other = raw.astype(np.float64) / 1024 - 3
    np.testing.assert_allclose(FewShotClassifier().fit(other[few], y[few]).predict_proba(other), p, atol=1e-5)
    assert (p.argmax(1) == y).mean() > 0.95
    assert p.max(1).mean() > 0.8


def test_fifty_classes_are_told_apart_better_than_by_the_nearest_of_their_rows():
    X, y = clusters(50, 30, 20, 0.8)
    few = first_of_each(y)
    rest = np.setdiff1d(np.arange(len(y)), few)
    clf = FewShotClassifier().fit(X[few], [f"class {c:02d}" for c in y[few]])
    p = clf.predict_proba(X[rest])
    nearest = y[few][cdist(X[rest], X[few]).argmin(1)]
    np.testing.assert_allclose(p.sum(1), 1)
    assert (p.argmax(1) == y[rest]).mean() >= (nearest == y[rest]).mean() + 0.05


TOPICS = {
    "bread": "flour yeast oven crust dough bake knead loaf rye salt",
    "ships": "harbour sail mast anchor deck hull tide captain port wind",
    "chess": "pawn knight bishop rook queen king mate board castle opening",
}


def texts() -> tuple[list[str], np.ndarray]:
    """Return 240 texts of eight words, half of them of the topic and half of any."""
    rng = np.random.default_rng(0)
    every, y = " ".join(TOPICS.values()).split(), rng.permutation(np.arange(3).repeat(80))
    own = [words.split() for words in TOPICS.values()]
    return [" ".join([*rng.choice(own[c], 4), *rng.choice(every, 4)]) for c in y], y


def test_words_counted_and_reduced_are_classified():
    said, y = texts()
    counted = TfidfVectorizer().fit_transform(said)
    few = first_of_each(y, 3)
    with pytest.raises(ValueError, match=r"X: expected a dense array, got a sparse csr_\w+; call its toarray\(\), or"):
        FewShotClassifier().fit(counted[few], y[few])
    X = TruncatedSVD(12, random_state=0).fit_transform(counted)
    reduced = FewShotClassifier().fit(X[few], y[few]).predict_proba(X)
    whole = FewShotClassifier().fit(counted.toarray()[few], y[few]).predict_proba(counted.toarray())
    for p in (reduced, whole):
        assert (p.argmax(1) == y).mean() > 0.85


def test_a_single_class_is_certain_and_its_strangers_are_not():
    X, y = clusters(2, 8, 30, 0.3)
    own = np.flatnonzero(y == 0)
    clf = FewShotClassifier(outliers=True).fit(X[own[:3]], ["mine"] * 3)
    np.testing.assert_array_equal(clf.predict_proba(X), np.ones((60, 1)))
    outlier = clf.outlier_proba(X)
    assert outlier[y == 1].mean() > outlier[y == 0].mean() + 0.5


def holed(where: tuple[int, int]) -> np.ndarray:
    out = WHOLE.copy()
    out[where] = np.nan
    return out


WRONG = {
    "NaN among labelled rows": (
        (holed((1, 2)), KINDS, WHOLE),
        "X: .* got NaN or infinity at row 1, column 2",
    ),
    "NaN among rows": (
        (WHOLE, KINDS, holed((5, 0))),
        "X: .* got NaN or infinity at row 5, column 0",
    ),
    "a label is missing": (
        (WHOLE, [None, *KINDS[1:]], WHOLE),
        "y: .* a label in every row, got none in row 0",
    ),
    "sparse rows": ((WHOLE, KINDS, sparse.csr_matrix(WHOLE)), "X: expected a dense array, got a sparse csr_matrix"),
    "one row alone": ((WHOLE, KINDS, WHOLE[0]), r"X: expected a numeric array of shape .* got shape \(8,\)"),
    "texts": ((WHOLE.astype(str), KINDS, WHOLE), "X: expected numbers, got the text '.*' in row 0, column 0"),
    "other features": ((WHOLE, KINDS, WHOLE[:, :5]), "X has 5 features, but FewShotClassifier is expecting 8 features"),
    "continuous labels": ((WHOLE, WHOLE[:, 0] / 3, WHOLE), "y: expected one column of class labels .* got continuous"),
}


@pytest.mark.parametrize(("task", "said"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_classified_is_refused_in_a_line(task, said):
    X, y, rows = task
    with pytest.raises(ValueError, match=said) as error:
        FewShotClassifier().fit(X, y).predict_proba(rows)
    assert "\n" not in str(error.value)
