"""Scores of the comparison, against definitions and against the library's own evaluation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from builders import class_tasks, classifier
from sklearn.metrics import log_loss

import ebmeta
from ebmeta.prediction.trees import marginals
from lib.kinds import Kind
from lib.scoring import conformal, curves, fit_temperature, rounded, score, temper


def forecasts(tasks: int = 300, queries: int = 20, ways: int = 4, seed: int = 0):
    """Calibrated forecasts and outcomes drawn from them."""
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(ways, 0.7), (tasks, queries))
    y = (rng.uniform(size=(tasks, queries, 1)) > probs.cumsum(-1)).sum(-1)
    return torch.from_numpy(probs), torch.from_numpy(y)


def test_scores_are_those_of_the_library():
    model, batch = classifier(scale=0.1), class_tasks(ways=(3,) * 4, shots=(1,) * 4, queries=(6,) * 4)
    probs = torch.cat([m.summaries["probs"] for m in marginals(model, batch)], 1)[-1]
    got, expected = score(probs, batch.query_y), ebmeta.evaluate(model, batch)
    for name in ("accuracy", "nll", "brier", "ece", "ece_mass", "aurc"):
        assert got[name][0] == pytest.approx(float(expected[name][-1]), abs=1e-6), name
        assert got[name][1] == pytest.approx(float(expected[f"{name}_half_width"][-1]), rel=1e-5), name
    for name in ("brier_reliability", "brier_resolution", "brier_uncertainty"):
        assert got[name] == pytest.approx(float(expected[name][-1]), abs=1e-6), name


def test_the_interval_over_classes_is_that_of_the_library():
    rng, names = np.random.default_rng(0), np.repeat(np.arange(8), 20)
    tasks = ebmeta.EpisodeSampler(rng.normal(size=(8, 4))[names] + rng.normal(size=(160, 4)), names, n_way=3, n_query=4)
    model, batch = ebmeta.EmpiricalBayes.classifier(4, seed=0).eval(), tasks.sample(40)
    probs = torch.cat([m.summaries["probs"] for m in marginals(model, batch)], 1)[-1]
    expected = float(ebmeta.evaluate(model, batch)["accuracy_half_width_classes"][-1])
    assert score(probs, batch.query_y, batch.way_class)["accuracy_classes"] == pytest.approx(expected, rel=1e-6)
    assert expected > 0.01
    assert "accuracy_classes" not in score(probs, batch.query_y)


def test_nll_is_that_of_scikit_learn():
    probs, y = forecasts()
    assert score(probs, y)["nll"][0] == pytest.approx(log_loss(y.flatten(), probs.flatten(0, 1).numpy()), rel=1e-9)


@pytest.mark.parametrize("truth", [0.25, 1.0, 3.0])
def test_the_fitted_temperature_undoes_a_wrong_one(truth):
    probs, y = forecasts(tasks=2000)
    # Six standard errors of the maximum-likelihood temperature, a normal: false alarms at 2e-9.
    assert fit_temperature(temper(probs, 1 / truth), y) / truth == pytest.approx(1.0, abs=0.05)


def test_calibrated_forecasts_score_as_such():
    probs, y = forecasts()
    scores = score(probs, y)
    assert scores["ece"][0] < 0.02
    sharp = score(temper(probs, 0.3), y)
    assert sharp["ece"][0] > 0.08
    assert sharp["nll"][0] > scores["nll"][0] + 0.1
    lines = curves(probs, y)
    assert lines["risk"][-1] == pytest.approx(1 - scores["accuracy"][0])
    assert sum(lines["bin_count"]) == y.numel()


def test_conformal_sets_cover():
    probs, y = forecasts(tasks=2000)
    out = conformal((probs[:1000], y[:1000]), (probs[1000:], y[1000:]))
    assert out["coverage"][0] == pytest.approx(0.9, abs=0.015)
    assert 1 < out["size"][0] < 4


def test_rounding_reaches_every_number():
    assert rounded({"a": [0.123456789, {"b": 1.0}], "c": 2}, 3) == {"a": [0.123, {"b": 1.0}], "c": 2}


def test_kinds_have_names_and_tasks(shared_data):
    assert Kind(5, 1).name == "5way_1shot_balanced"
    assert Kind(20, 5, 2.0, 2).name == "20way_5shot_dirichlet2_2query"
    batch = Kind(20, 1, 2.0, 2).sampler("test", 0).sample(2)
    assert batch.query_y.shape == (2, 40)
    assert Kind(20, 1).sampler("val", 0).sample(1).way_mask.shape == (1, 16)
