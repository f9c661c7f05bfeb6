"""The classifier that ships with the package."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyro
import pytest
import torch

import ebmeta
from ebmeta import FewShotClassifier, general_classifier, load, save
from ebmeta.model.general import FOLDER


def clusters(features: int, ways: int = 4, rows: int = 30, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(ways, features))
    X = means[:, None] + 0.7 * rng.normal(size=(ways, rows, features))
    return X.reshape(-1, features), np.arange(ways).repeat(rows)


def probabilities(X: np.ndarray, y: np.ndarray, **options) -> np.ndarray:
    return FewShotClassifier(**options).fit(X[::30], y[::30]).predict_proba(X[1::2])


def test_a_model_of_one_s_own_changes_no_other():
    """Shared by all, it would be trained or converted for all."""
    kept = {name: value.clone() for name, value in general_classifier().state_dict().items()}
    own = general_classifier().double().train()
    clf = FewShotClassifier()
    clf.model_.double()
    for model in (own, clf.model_):
        with torch.no_grad():
            model.prior.level += 1
    for model in (general_classifier(), FewShotClassifier().model_):
        assert not model.training
        assert all(value.equal(kept[name]) for name, value in model.state_dict().items())
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 500_000


@pytest.mark.filterwarnings("ignore:X. rows vary in about:UserWarning")
@pytest.mark.parametrize("features", [2, 64, 1280])
def test_features_of_any_number_unit_and_frame_are_classified(features):
    X, y = clusters(features)
    rng = np.random.default_rng(1)
    turned, _ = np.linalg.qr(rng.normal(size=(features, features)))
    p = probabilities(X, y)
    np.testing.assert_allclose(probabilities(1e5 * X @ turned - 3e5, y), p, atol=2e-4)
    right = [(p.argmax(1) == y[1::2]).mean()]
    for seed in range(1, 8 if features == 2 else 1):
        X, y = clusters(features, seed=seed)
        right.append((probabilities(X, y).argmax(1) == y[1::2]).mean())
    assert np.mean(right) > {2: 0.45, 64: 0.95, 1280: 0.95}[features]  # chance is 0.25


@pytest.mark.parametrize("num_steps", [0, None])
@pytest.mark.parametrize("features", [16, 1024])
def test_a_class_of_more_labels_has_no_more_rows_for_it(features, num_steps):
    """Five classes of as many rows, one with three labels: its share of the answers over 40 tasks is about a fifth."""
    share, right = [], []
    for seed in range(40):
        X, y = clusters(features, ways=5, seed=seed)
        X = X + np.random.default_rng(seed).normal(size=X.shape)
        labelled = [0, 1, 2, 30, 60, 90, 120]
        clf = FewShotClassifier(num_steps=num_steps).fit(X[labelled], y[labelled])
        p = clf.predict_proba(np.delete(X, labelled, 0))
        share.append((p.argmax(1) == 0).mean())
        right.append((p.argmax(1) == np.delete(y, labelled)).mean())
    assert 0.12 < np.mean(share) < 0.28  # in each task it has 0.19 of the rows
    assert np.mean(right) > 0.4  # chance is 0.2


def test_unlabelled_rows_help_and_its_confidence_is_about_right():
    """Over 40 tasks of overlapping clusters: confidence within .08 of accuracy, 3 standard errors of .02 and a bias.

    Without the others, each row goes to the labelled row in the same direction.
    """
    right, sure, alone = [], [], []
    for seed in range(40):
        X, y = clusters(8, ways=4, seed=seed)
        p = probabilities(X, y)
        right.append((p.argmax(1) == y[1::2]).mean())
        sure.append(p.max(1).mean())
        off = X - X.mean(0)
        near = (off[1::2] @ (off[::30] / np.linalg.norm(off[::30], axis=1, keepdims=True)).T).argmax(1)
        alone.append((near == y[1::2]).mean())
    assert abs(np.mean(right) - np.mean(sure)) < 0.08
    assert np.mean(right) > np.mean(alone) + 0.03


def test_a_saved_copy_is_the_same(tmp_path):
    X, y = clusters(6)
    own = general_classifier()
    own.beta = 0.25
    again = load(save(own, tmp_path / "own"))
    assert again.beta == 0.25
    np.testing.assert_array_equal(probabilities(X, y, model=again), probabilities(X, y))


def test_it_scores_tasks_of_a_source_and_programs_run():
    X, y = clusters(6, ways=8)
    tasks = ebmeta.EpisodeSampler(X, y, n_way=3, n_shot=2, n_query=5)
    assert ebmeta.evaluate(general_classifier(), tasks, 20)["accuracy"].values[-1] > 0.8
    batch = tasks.sample(3)
    trace = ebmeta.predict(general_classifier(), batch, num_draws=4)
    assert np.isfinite(trace["posterior/w"].values).all()
    nodes = pyro.poutine.trace(general_classifier().model).get_trace(replace(batch, query_y=None)).nodes
    assert nodes["m"]["value"].shape == (3, 3, 6)


def test_rows_have_to_be_vectors_of_the_same_length():
    with pytest.raises(ValueError, match=r"X: expected a vector of features per row, got shape \(2, 2\)"):
        FewShotClassifier().fit(np.ones((2, 2, 2)), ["a", "b"])
    with pytest.raises(ValueError, match="X has 3 features, but FewShotClassifier is expecting 2 features"):
        FewShotClassifier().fit(np.eye(2), ["a", "b"]).predict(np.ones((1, 3)))
    with pytest.raises(ValueError, match="X: expected rows, got 0 feature"):
        FewShotClassifier().fit(np.ones((2, 0)), ["a", "b"])
    with pytest.raises(ValueError, match="model: expected an EmpiricalBayes .* got int"):
        FewShotClassifier(3).fit(np.eye(2), ["a", "b"])
    with pytest.raises(ValueError, match="embedder: expected none for a general classifier"):
        ebmeta.model.recipes.GeneralRecipe().build(torch.nn.Identity())
