"""The general classifier on what it is not made for: tables of a few columns, and many labelled rows.

Data sets of scikit-learn, a few labelled rows of each class drawn anew, all other rows unlabelled. Beside it logistic
regression and label spreading of scikit-learn with their defaults. Takes about 2 minutes.
`python benchmarks/small_tables.py`
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import torch
from sklearn.datasets import (
    load_breast_cancer,
    load_digits,
    load_iris,
    load_wine,
    make_blobs,
    make_classification,
    make_moons,
)
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.semi_supervised import LabelSpreading

import ebmeta
from lib.common import write

DRAWS, SHOTS = 40, (1, 5, 20)


def sets() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Return name, rows and labels; columns of different units are scaled."""
    for name, load in (("wine", load_wine), ("breast_cancer", load_breast_cancer)):
        X, y = load(return_X_y=True)
        yield name, StandardScaler().fit_transform(X), y
    yield "iris", *load_iris(return_X_y=True)
    yield "digits", *load_digits(return_X_y=True)
    yield "blobs", *make_blobs(600, 50, centers=10, cluster_std=8.0, random_state=3)
    two = {"n_informative": 8, "n_classes": 3, "n_clusters_per_class": 2, "class_sep": 1.5}
    yield "two_clusters", *make_classification(600, 20, random_state=0, **two)
    yield "moons", *make_moons(400, noise=0.1, random_state=0)


def answers(X: np.ndarray, y: np.ndarray, few: np.ndarray, pile: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Return class probabilities of the pile by each method, shape `(Q, C)`."""
    yield "ebmeta", ebmeta.FewShotClassifier().fit(X[few], y[few]).predict_proba(X[pile])
    yield "logistic", LogisticRegression(max_iter=5000).fit(X[few], y[few]).predict_proba(X[pile])
    partly = np.full(len(y), -1)
    partly[few] = y[few]
    spread = LabelSpreading(kernel="knn", n_neighbors=10).fit(X, partly).label_distributions_[pile]
    yield "spreading", np.nan_to_num(spread, nan=1 / spread.shape[1])


def cell(X: np.ndarray, y: np.ndarray, shots: int) -> tuple[dict[str, list[float]], float]:
    """Return accuracy, NLL and mean confidence, and the 95% half width of the lead in accuracy over the logistic."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for draw in range(DRAWS):
        rng = np.random.default_rng(draw)
        few = np.concatenate([rng.choice(np.flatnonzero(y == c), shots, replace=False) for c in np.unique(y)])
        pile = np.setdiff1d(np.arange(len(y)), few)
        for method, p in answers(X, y, few, pile):
            right, own = p.argmax(1) == y[pile], p[np.arange(len(pile)), y[pile]]
            each = float(right.mean()), float(-np.log(own.clip(1e-12)).mean()), float(p.max(1).mean())
            found.setdefault(method, []).append(each)
    lead = np.subtract(found["ebmeta"], found["logistic"])[:, 0]
    kept = {"ebmeta": 3, "logistic": 2, "spreading": 1}  # whose probabilities are 0 where no neighbour has a label
    scores = {method: np.mean(found[method], 0).round(4).tolist()[:number] for method, number in kept.items()}
    return scores, float(1.96 * lead.std(ddof=1) / DRAWS**0.5)


def main() -> None:
    """Score all sets, and write."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # told of rows in too few directions, and of rows that no label reaches
    result: dict[str, dict[str, dict[str, list[float]]]] = {}
    widths = []
    for name, X, y in sets():
        cells = {str(shots): cell(X, y, shots) for shots in SHOTS}
        result[name] = {shots: scores for shots, (scores, _) in cells.items()}
        widths += [width for _, width in cells.values()]
        print(name, result[name], flush=True)
    write("small_tables.json", {"draws": DRAWS, "widest": round(max(widths), 4), "sets": result})


if __name__ == "__main__":
    main()
