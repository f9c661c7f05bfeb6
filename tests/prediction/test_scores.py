"""Metrics against hand calculations and scikit-learn."""

import numpy as np
import pytest
import torch
from builders import class_tasks, classifier, real_tasks, regressor
from scipy import stats
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss

import ebmeta
from ebmeta.prediction.calibration import calibration_interval
from ebmeta.prediction.class_jackknife import class_half_width
from ebmeta.prediction.risk_coverage import area_under_risk_coverage
from ebmeta.prediction.scores import calibration_error, reliability_bins, table, task_scores


def test_classification_metrics_agree_with_scikit_learn():
    model = classifier(scale=0.1)  # no probability so small that scikit-learn clips it
    batch = class_tasks(ways=(3,) * 5, shots=(1,) * 5, queries=(8,) * 5, spread=2.0)
    scores = ebmeta.evaluate(model, batch, num_bootstrap=50)
    probs = ebmeta.predict(model, batch, num_draws=0)["predictive/probs"].values
    for k in range(len(probs)):
        per_task = {
            "accuracy": [accuracy_score(y, p.argmax(1)) for y, p in zip(batch.query_y, probs[k], strict=True)],
            "nll": [log_loss(y, p, labels=[0, 1, 2]) for y, p in zip(batch.query_y, probs[k], strict=True)],
            "brier": [
                brier_score_loss(np.eye(3)[y], p, scale_by_half=False)
                for y, p in zip(batch.query_y, probs[k], strict=True)
            ],
        }
        for name, values in per_task.items():
            assert float(scores[name][k]) == pytest.approx(np.mean(values), abs=1e-6), name
            half = stats.norm.ppf(0.975) * np.std(values, ddof=1) / np.sqrt(5)
            assert float(scores[f"{name}_half_width"][k]) == pytest.approx(half, abs=1e-6), name
    flat = probs[-1].reshape(-1, 3)
    confidence, correct = flat.max(1), flat.argmax(1) == batch.query_y.numpy().ravel()
    assert float(scores["ece"][-1]) == pytest.approx(calibration_error(confidence, correct))


def test_a_task_counts_once_whatever_its_number_of_queries():
    model, batch = classifier(), class_tasks()
    whole = ebmeta.evaluate(model, batch, num_bootstrap=2)
    alone = [
        float(ebmeta.evaluate(model, batch[t : t + 1][:], num_bootstrap=2)["accuracy"][-1]) for t in range(len(batch))
    ]
    assert float(whole["accuracy"][-1]) == pytest.approx(np.mean(alone))


def test_calibration_error_by_hand():
    confidence = np.array([0.30, 0.30, 0.90, 0.90, 0.90, 1.00])
    correct = np.array([True, False, True, True, False, True])
    # bins of width 1/5: [0.2, 0.4) holds two (accuracy 1/2, confidence 0.3), [0.8, 1] four (3/4, 0.925)
    assert calibration_error(confidence, correct, bins=5) == pytest.approx((2 * 0.2 + 4 * 0.175) / 6)
    table = reliability_bins(confidence, correct, bins=5)
    assert table["count"].values.tolist() == [0, 2, 0, 0, 4]
    with pytest.raises(ValueError, match="expected confidences in"):
        reliability_bins(np.array([1.5]), np.array([True]))


def test_calibrated_predictions_have_a_small_error_and_overconfident_ones_do_not():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.2, 1, 200_000)
    correct = rng.uniform(size=confidence.size) < confidence
    # each of 12 bins has sd 0.004, so the mean absolute gap is below 0.01 but for a chance under 1e-6
    assert calibration_error(confidence, correct) < 0.01
    assert calibration_error(np.sqrt(confidence), correct) > 0.1


def test_the_bootstrap_half_width_matches_repeated_sampling():
    """The spread of the ECE over fresh sets of tasks is what the half width claims, within a third."""
    model = classifier(scale=0.0)

    def fresh(seed):
        batch = class_tasks(ways=(3,) * 60, shots=(1,) * 60, queries=(6,) * 60, spread=2.5, seed=seed)
        scores = ebmeta.evaluate(model, batch, num_steps=0)
        return float(scores["ece"][-1]), float(scores["ece_half_width"][-1])

    values = np.array([fresh(seed) for seed in range(40)])
    claimed, seen = values[:, 1].mean(), 1.96 * values[:, 0].std(ddof=1)
    # the sd of 40 values is within a third of the truth but for a chance near 1e-3, at a fixed seed
    assert 0.67 < claimed / seen < 1.5


def test_regression_metrics():
    model, batch = regressor(), real_tasks(supports=(3,) * 6, queries=(9,) * 6)
    scores = ebmeta.evaluate(model, batch)
    tree = ebmeta.predict(model, batch, num_draws=0)["predictive"].isel(step=-1)
    y, mean, std = batch.query_y.numpy(), tree["mean"].values, tree["std"].values
    assert float(scores["rmse"][-1]) == pytest.approx(np.sqrt(((y - mean) ** 2).mean()))
    assert float(scores["nll"][-1]) == pytest.approx(-stats.norm.logpdf(y, mean, std).mean())
    low, high = stats.norm.interval(0.9, mean, std)
    assert float(scores["coverage"][-1]) == pytest.approx(((low <= y) & (y <= high)).mean())


def test_sources_are_sampled_in_batches():
    class Counting:
        asked: list = []

        def sample(self, num_tasks, index=0):
            self.asked.append((num_tasks, index))
            return class_tasks(ways=(3,) * num_tasks, shots=(1,) * num_tasks, queries=(4,) * num_tasks, seed=index)

    scores = ebmeta.evaluate(classifier(), Counting(), 100, num_bootstrap=2)
    assert Counting.asked == [(64, 0), (36, 1)]
    assert scores.attrs["num_tasks"] == 100
    assert scores["confidence"].sizes["task"] == 100


def test_unlabelled_tasks_and_too_few():
    with pytest.raises(ValueError, match="evaluate: expected query labels, got unlabelled tasks"):
        ebmeta.evaluate(classifier(), class_tasks().unlabelled())
    with pytest.raises(ValueError, match="num_tasks: expected at least 1, got 0"):
        ebmeta.evaluate(classifier(), class_tasks(), 0)
    assert torch.is_grad_enabled()


def test_tasks_weigh_alike_whatever_their_number_of_queries():
    model, batch = regressor(), real_tasks(queries=(2, 9, 4, 6))
    scores = ebmeta.evaluate(model, batch)
    tree = ebmeta.predict(model, batch, num_draws=0)["predictive"].isel(step=-1)
    error = np.where(batch.query_mask, batch.query_y.numpy() - tree["mean"].values, np.nan)
    assert float(scores["rmse"][-1]) == pytest.approx(np.sqrt(np.nanmean(error**2, 1).mean()))


def test_overconfidence_is_mean_confidence_less_accuracy_and_has_an_interval_over_tasks():
    scores = ebmeta.evaluate(classifier(), class_tasks(), num_bootstrap=2)
    each = (scores["confidence"] - scores["correct"]).mean("query").transpose("step", "task").values
    np.testing.assert_allclose(scores["overconfidence"], each.mean(1))
    np.testing.assert_allclose(scores["overconfidence_half_width"], 1.959964 * each.std(1, ddof=1) / 2, rtol=1e-6)
    assert bool((abs(scores["overconfidence"]) > 1e-3).all())


def test_parts_of_the_brier_score_add_up_for_ragged_tasks():
    scores = ebmeta.evaluate(classifier(), class_tasks(spread=2.0), num_bootstrap=20)
    whole = scores["brier_reliability"] - scores["brier_resolution"] + scores["brier_uncertainty"]
    np.testing.assert_allclose(whole, scores["brier"], atol=1e-12)
    # ways 3, 5, 2, 4: each task weighs a quarter, so 14/4 pairs a query, of which one is a hit
    assert float(scores["brier_uncertainty"][0]) == pytest.approx(3.5 * (1 / 3.5) * (1 - 1 / 3.5))
    assert (scores["brier_reliability"] >= 0).all()
    assert (scores["brier_reliability_half_width"] > 0).all()


def test_brier_parts_of_equal_ways_by_a_bootstrap_of_tasks():
    model, batch = classifier(), class_tasks(ways=(3,) * 12, shots=(1,) * 12, queries=(6,) * 12, spread=2.0)
    scores = ebmeta.evaluate(model, batch, num_bootstrap=40, seed=2)
    picks = np.random.default_rng(2).multinomial(12, np.full(12, 1 / 12), size=40)
    parts = {name: [] for name in ("brier_reliability", "brier_resolution", "brier_uncertainty")}
    for times in picks:
        again = ebmeta.evaluate(model, batch[np.repeat(np.arange(12), times).tolist()], num_bootstrap=2)
        for name, values in parts.items():
            values.append(float(again[name][-1]))
    for name, values in parts.items():
        half = stats.norm.ppf(0.975) * np.std(values, ddof=1)
        assert float(scores[f"{name}_half_width"][-1]) == pytest.approx(half, abs=1e-6), name


def test_other_calibration_metrics_are_those_of_the_top_labels():
    scores = ebmeta.evaluate(classifier(), class_tasks(spread=2.0), num_bootstrap=20, seed=4)
    for k in range(scores.sizes["step"]):
        top = scores["confidence"][k].values, scores["correct"][k].values
        wanted = {
            "ece": calibration_interval(*top, num_bootstrap=20, seed=4),
            "ece_mass": calibration_interval(*top, mass=True, num_bootstrap=20, seed=4),
            "aurc": area_under_risk_coverage(*top),
        }
        for name, (value, half) in wanted.items():
            assert float(scores[name][k]) == pytest.approx(value)
            assert float(scores[f"{name}_half_width"][k]) == pytest.approx(half)


def test_table_leaves_details_out():
    scores = ebmeta.evaluate(classifier(), class_tasks(), num_bootstrap=2)
    head = table(scores).splitlines()[0].split()
    assert head == ["K", "nll", "brier", "accuracy", "ece", "aurc"]


def test_splits_of_the_same_groups_count_once():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 1)), rng.normal(size=40)
    source = ebmeta.GroupSampler(X, y, np.repeat(np.arange(5), 8), n_support=2, seed=0)
    model = ebmeta.EmpiricalBayes.regressor(1, num_steps=0)
    drawn, same = ebmeta.evaluate(model, source, 45), ebmeta.evaluate(model, source.sample(45), 45)
    for name in ("nll", "rmse", "coverage"):
        np.testing.assert_allclose(drawn[name], same[name], rtol=1e-5)
        np.testing.assert_allclose(drawn[f"{name}_half_width"], 3 * same[f"{name}_half_width"], rtol=1e-4)
    assert table(drawn).endswith("45 tasks of 5 groups, ± 95% interval over groups")
    assert table(same).endswith("45 tasks, ± 95% interval over tasks")
    assert "num_groups" not in ebmeta.evaluate(model, source, 5).attrs


def test_batches_of_unequal_numbers_of_queries_are_scored_together():
    X, y = np.random.default_rng(0).normal(size=(90, 4)), np.repeat(np.arange(3), 30)
    few, many = (ebmeta.EpisodeSampler(X, y, 3, 1, number) for number in (2, 5))
    model = classifier(dtype=torch.float32)
    scores = ebmeta.evaluate(model, ebmeta.MixedSampler([few, many]), 70)
    expected = [ebmeta.evaluate(model, tasks) for tasks in (few.sample(64, 0), many.sample(6, 1))]
    assert dict(scores["confidence"].sizes) == {"step": 4, "task": 70, "query": 15}
    assert {"step", "task", "query"} <= set(scores.coords)
    mean = (64 * expected[0]["nll"] + 6 * expected[1]["nll"]) / 70
    np.testing.assert_allclose(scores["nll"], mean, rtol=1e-5)
    assert bool(scores["confidence"][:, :64, 6:].isnull().all())
    np.testing.assert_array_equal(scores["confidence"][:, 64:], expected[1]["confidence"])


def test_intervals_for_other_classes_stand_beside_those_over_tasks():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(120, 4)), np.repeat(np.arange(10), 12)
    tasks = ebmeta.EpisodeSampler(X + 2 * rng.normal(size=(10, 4))[y], y, 3, 1, 4)
    scores = ebmeta.evaluate(classifier(), tasks, 100, num_bootstrap=2)
    batches = [tasks.sample(64, 0), tasks.sample(36, 1)]
    values = np.concatenate([task_scores(classifier(), batch)["accuracy"].values for batch in batches], 1)
    classes = np.concatenate([batch.way_class for batch in batches])
    wanted = [class_half_width(row, classes) for row in values]
    np.testing.assert_allclose(scores["accuracy_half_width_classes"], wanted)
    gaps = np.concatenate([task_scores(classifier(), batch)["overconfidence"].values for batch in batches], 1)
    wanted = [class_half_width(row, classes) for row in gaps]
    np.testing.assert_allclose(scores["overconfidence_half_width_classes"], wanted)
    assert scores.attrs["num_classes"] == 10
    assert "for other classes than these 10, last row: nll ± " in table(scores)
    given = ebmeta.evaluate(classifier(), class_tasks(), num_bootstrap=2)  # whose classes nobody knows
    assert "accuracy_half_width_classes" not in given
    assert "other classes" not in table(given)
