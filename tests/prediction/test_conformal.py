"""Conformal sets: the guarantee, the reference implementation, and the edges."""

import numpy as np
import pytest
import torch
from builders import class_tasks, classifier, regressor
from crepes import ConformalClassifier
from scipy import stats

import ebmeta
from ebmeta import ConformalSets
from ebmeta.prediction.conformal import class_scores, set_coverage, task_quantile


def world(tasks, seed=0, ways=(3,), queries=8, sharp=1.5):
    """Ragged tasks: true probabilities, labels, and over-confident reports. A task shares its difficulty."""
    rng = np.random.default_rng(seed)
    kinds, most = rng.choice(ways, tasks), max(ways)
    logits = rng.normal(size=(tasks, queries, most)) * np.exp(rng.normal(size=(tasks, 1, 1)))
    logits[np.broadcast_to((np.arange(most) >= kinds[:, None])[:, None], logits.shape)] = -np.inf
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    y = (rng.uniform(size=(tasks, queries, 1)) > probs.cumsum(-1)).sum(-1)
    report = probs**sharp / (probs**sharp).sum(-1, keepdims=True)
    absent = np.arange(queries) >= rng.integers(2, queries + 1, (tasks, 1))
    report = np.where(np.isneginf(logits) | absent[..., None], np.nan, report)
    return report, np.where(absent, -1, np.minimum(y, kinds[:, None] - 1))


@pytest.mark.parametrize("score", ["lac", "aps"])
@pytest.mark.parametrize("by_ways", [False, True])
def test_coverage_of_fresh_tasks_is_the_level(score, by_ways):
    covered = []
    for seed in range(60):
        probs, y = world(160, seed, ways=(2, 5))
        sets = ConformalSets(level=0.8, score=score, by_ways=by_ways, seed=seed).calibrate_probs(probs[:80], y[:80])
        covered.append(float(set_coverage(sets.predict_probs(probs[80:]), y[80:])["coverage"]))
    # The expectation is within [0.8, 0.8 + 1.5/80] (1.5/30 by ways); 4 standard errors either side have a
    # chance below 1e-4.
    error = 4 * np.std(covered, ddof=1) / np.sqrt(60)
    assert 0.8 - error < np.mean(covered) < 0.8 + 1.5 / (30 if by_ways else 80) + error
    assert error < 0.03


def test_ways_are_covered_alike_only_by_their_own_thresholds():
    probs, y = world(2000, ways=(2, 8), sharp=1.0)
    gap = {}
    for by_ways in (False, True):
        conformal = ConformalSets(level=0.8, by_ways=by_ways).calibrate_probs(probs[:1000], y[:1000])
        report = set_coverage(conformal.predict_probs(probs[1000:]), y[1000:])
        assert report["ways"].values.tolist() == [2, 8]
        gap[by_ways] = np.abs(report["coverage_by_ways"] - 0.8).max().item()
    # half widths over 500 tasks are 0.02, so a gap of 0.06 by chance is below 1e-6
    assert gap[True] < 0.06 < 0.08 < gap[False]


def test_one_query_per_task_is_the_classifier_of_crepes():
    rng = np.random.default_rng(0)
    probs, y = rng.dirichlet(np.ones(4), (60, 1)), rng.integers(4, size=(60, 1))
    new = rng.dirichlet(np.ones(4), (40, 5))
    conformal = ConformalSets(level=0.85).calibrate_probs(probs, y)
    truth = np.take_along_axis(1 - probs[:, 0], y, -1)[:, 0]
    peer = ConformalClassifier().fit(truth)
    wanted = peer.predict_set(1 - new.reshape(-1, 4), confidence=0.85, smoothing=False).reshape(40, 5, 4)
    np.testing.assert_array_equal(conformal.predict_probs(new)["sets"], wanted.astype(bool))


def test_ways_apart_are_the_mondrian_classifier_of_crepes():
    rng = np.random.default_rng(0)
    kinds = rng.choice([2, 4], 80)
    probs = rng.dirichlet(np.ones(4), (80, 1))
    probs[kinds == 2, :, 2:] = 0
    probs = probs / probs.sum(-1, keepdims=True)
    y = rng.integers(kinds)[:, None]
    real = np.where(np.arange(4) < kinds[:, None, None], probs, np.nan)
    conformal = ConformalSets(level=0.7, by_ways=True).calibrate_probs(real[:50], y[:50])
    truth = np.take_along_axis(1 - probs[:50, 0], y[:50], -1)[:, 0]
    peer = ConformalClassifier().fit(truth, bins=kinds[:50])
    wanted = peer.predict_set(1 - probs[50:, 0], bins=kinds[50:], confidence=0.7, smoothing=False).astype(bool)
    wanted &= np.arange(4) < kinds[50:, None]
    np.testing.assert_array_equal(conformal.predict_probs(real[50:])["sets"].values[:, 0], wanted)


def test_a_score_at_the_threshold_is_inside():
    """All calibration scores are 1 - p = 0.5, and so is the threshold."""
    probs = np.full((20, 3, 2), 0.5)
    sets = ConformalSets(level=0.8).calibrate_probs(probs, np.zeros((20, 3), int)).predict_probs(probs)
    assert sets["sets"].values.all()


@pytest.mark.parametrize("score", ["lac", "aps"])
def test_equal_probabilities_are_equal_in_any_precision(score):
    """Shares of votes, of which many are equal: thirds of 32 bits are above those of 64, and fifths too."""
    for ways in (3, 5):
        probs = np.full((20, 3, ways), 1 / ways)
        short = probs.astype(np.float32)
        found = [
            ConformalSets(level=0.8, score=score).calibrate_probs(one, np.zeros((20, 3), int)).predict_probs(other)
            for one in (short, probs)
            for other in (short, probs)
        ]
        assert all(sets.identical(found[0]) for sets in found)
    if score == "lac":
        assert found[0]["sets"].values.all()


def test_tasks_weigh_alike_whatever_their_number_of_queries():
    scores = np.array([[0.9] * 9, [0.1] + [np.nan] * 8, [0.2] + [np.nan] * 8])
    assert task_quantile(scores, 0.25) == 0.1
    assert task_quantile(scores, 0.5) == 0.2
    assert task_quantile(scores, 0.75) == 0.9
    assert task_quantile(scores, 0.76) == np.inf


def test_adaptive_scores_fall_in_rank_order():
    rng = np.random.default_rng(0)
    probs, u = rng.dirichlet(np.ones(6), 50), rng.uniform(size=50)
    scores = class_scores(probs, "aps", u)
    np.testing.assert_array_equal(np.argsort(-probs), np.argsort(scores))
    np.testing.assert_allclose(scores.min(1), u * probs.max(1))


def test_scores_of_classes_do_not_depend_on_their_order():
    rng = np.random.default_rng(0)
    probs, u = rng.multinomial(8, np.ones(5) / 5, 200) / 8, rng.uniform(size=200)
    assert np.mean([len(set(row)) < 5 for row in probs.tolist()]) > 0.9  # of equal probabilities
    for score in ("lac", "aps"):
        scores = class_scores(probs, score, u)
        for order in ([4, 3, 2, 1, 0], [1, 3, 0, 4, 2]):
            np.testing.assert_array_equal(class_scores(probs[:, order], score, u), scores[:, order])
        equal = probs[:, :, None] == probs[:, None]
        assert ((scores[:, :, None] == scores[:, None]) == equal)[probs.min(1) > 0].all()


def test_model_and_probabilities_are_one_procedure():
    model = classifier()
    batch = class_tasks(ways=(3, 5, 2, 4) * 10, shots=(2, 1, 3, 1) * 10, queries=(6, 4, 7, 5) * 10)
    probs = ebmeta.predict(model, batch, num_draws=0)["predictive/probs"].isel(step=-1).values
    for score in ("lac", "aps"):
        ours = ConformalSets(model, 0.7, score=score).calibrate(batch)
        plain = ConformalSets(level=0.7, score=score).calibrate_probs(probs, batch.query_y.numpy())
        assert ours.thresholds == plain.thresholds
        got = ours.predict(batch)
        assert got.identical(plain.predict_probs(probs))
        assert got.identical(ours.predict(batch.unlabelled()))
    mask = (batch.query_mask[:, :, None] & batch.way_mask[:, None]).numpy()
    assert not got["sets"].values[~mask].any()
    np.testing.assert_array_equal(got["size"].values[~batch.query_mask.numpy()], -1)
    np.testing.assert_array_equal(got["ways"], batch.way_mask.sum(1))
    assert got.attrs["level"] == 0.7


def test_sources_of_ragged_batches_are_joined():
    class Source:
        def sample(self, num_tasks, index=0):
            way = 3 + index
            return class_tasks((way,) * num_tasks, (1,) * num_tasks, (4 + 2 * index,) * num_tasks, seed=index)

    model = classifier()
    conformal = ConformalSets(model, 0.6, by_ways=True).calibrate(Source(), 100)
    alone = [ConformalSets(model, 0.6).calibrate(Source().sample(n, i)) for i, n in ((0, 64), (1, 36))]
    assert conformal.thresholds == {3: alone[0].thresholds[0], 4: alone[1].thresholds[0]}


def test_unseen_ways_and_too_few_tasks_get_every_class():
    probs, y = world(5, ways=(3,))
    conformal = ConformalSets(level=0.9).calibrate_probs(probs, y)
    assert conformal.thresholds == {0: np.inf}
    sets = conformal.predict_probs(probs)
    np.testing.assert_array_equal(sets["sets"], ~np.isnan(probs))
    conformal = ConformalSets(level=0.5, by_ways=True).calibrate_probs(probs, y)
    other = world(4, ways=(2,))[0]
    np.testing.assert_array_equal(conformal.predict_probs(other)["sets"], ~np.isnan(other))


def test_random_numbers_are_the_seed_s(rng_untouched):
    probs, y = world(60)

    def sets(seed):
        return ConformalSets(level=0.7, score="aps", seed=seed).calibrate_probs(probs, y).predict_probs(probs)

    assert sets(1).identical(sets(1))
    assert not sets(1).identical(sets(2))


def test_tasks_predicted_one_by_one_are_covered_as_together():
    """4,000 tasks of one query whose true probabilities are known: 5 standard errors of a share of 0.9 are 0.024, and
    some of the calibration's 2,000 tasks 0.034 more; a false alarm is below 1e-6."""
    rng = np.random.default_rng(0)
    probs = rng.beta(2, 2, (6000, 1, 1)) * [1, -1] + [0, 1]
    y = (rng.uniform(size=(6000, 1)) > probs[..., 0]).astype(int)
    for seed in (1, 3):
        sets = ConformalSets(level=0.9, score="aps", seed=seed).calibrate_probs(probs[:2000], y[:2000])
        held = [sets.predict_probs(probs[t : t + 1])["sets"].values[0, 0, y[t, 0]] for t in range(2000, 6000)]
        assert abs(np.mean(held) - 0.9) < 0.024 + 0.034
        together = sets.predict_probs(probs[2000:])["sets"].values
        copies = 4000 - len(np.unique(np.round(probs[2000:, 0, 0], 6)))
        assert np.sum(held != np.take_along_axis(together[:, 0], y[2000:], 1)[:, 0]) <= copies < 20


@pytest.mark.parametrize("score", ["lac", "aps"])
def test_no_order_of_tasks_queries_and_classes_changes_sets(score):
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(4), (60, 6))
    y = rng.integers(4, size=(60, 6))
    sets = ConformalSets(level=0.7, score=score).calibrate_probs(probs[:30], y[:30])
    again = ConformalSets(level=0.7, score=score).calibrate_probs(probs[29::-1], y[29::-1])
    assert again.thresholds[0] == pytest.approx(sets.thresholds[0], abs=1e-12)
    found = sets.predict_probs(probs[30:])["sets"].values
    for order in (np.s_[::-1], np.s_[:, ::-1], np.s_[..., ::-1]):
        np.testing.assert_array_equal(sets.predict_probs(probs[30:][order])["sets"], found[order])


def test_calibration_and_prediction_draw_apart(monkeypatch):
    """The uniforms of adaptive scores: 6 standard errors of a correlation of 3,000, false alarms at 2e-9."""
    seen = []

    def spy(probs, score, uniform):
        seen.append(uniform)
        return class_scores(probs, score, uniform)

    monkeypatch.setattr("ebmeta.prediction.conformal.class_scores", spy)
    probs = np.random.default_rng(0).dirichlet(np.ones(3), (600, 5))
    conformal = ConformalSets(score="aps", seed=3).calibrate_probs(probs, probs.argmax(-1))
    conformal.predict_probs(probs)
    calibration, prediction = (u.ravel() for u in seen)
    assert stats.kstest(calibration, "uniform").pvalue > 1e-6
    assert stats.kstest(prediction, "uniform").pvalue > 1e-6
    assert abs(np.corrcoef(calibration, prediction)[0, 1]) < 6 / np.sqrt(3000)


def test_report_by_hand():
    probs = np.array([[[0.7, 0.3], [0.5, 0.5]], [[0.9, 0.1], [np.nan, np.nan]]])
    conformal = ConformalSets(level=0.5)
    conformal.thresholds = {0: 0.4}
    report = set_coverage(conformal.predict_probs(probs), np.array([[0, 1], [0, -1]]))
    assert float(report["coverage"]) == pytest.approx((0.5 + 1) / 2)
    assert float(report["size"]) == pytest.approx((0.5 + 1) / 2)
    assert float(report["single"]) == pytest.approx(0.75)
    assert float(report["empty"]) == pytest.approx(0.25)
    assert float(report["coverage_half_width"]) == pytest.approx(1.959964 * np.std([0.5, 1], ddof=1) / np.sqrt(2))
    assert report["coverage_by_ways"].values.tolist() == [float(report["coverage"])]
    assert report["num_tasks_by_ways"].values.tolist() == [2]


def test_bad_arguments():
    probs, y = world(9)
    with pytest.raises(ValueError, match="level: expected a number between 0 and 1, got 1"):
        ConformalSets(level=1)
    with pytest.raises(ValueError, match="score: expected 'lac' or 'aps', got 'margin'"):
        ConformalSets(score="margin")
    with pytest.raises(ValueError, match="score: expected 'lac' or 'aps', got 'margin'"):
        class_scores(probs, "margin")
    with pytest.raises(ValueError, match="uniform: expected random numbers"):
        class_scores(probs, "aps")
    with pytest.raises(ValueError, match="model: expected a classifier, got a normal likelihood"):
        ConformalSets(regressor())
    with pytest.raises(ValueError, match="seed: expected a non-negative"):
        ConformalSets(seed=-1)
    with pytest.raises(ValueError, match="expected a call of calibrate first"):
        ConformalSets().predict_probs(probs)
    with pytest.raises(ValueError, match="model: expected a model, got None"):
        ConformalSets().calibrate(class_tasks())
    with pytest.raises(ValueError, match="calibrate: expected query labels, got unlabelled tasks"):
        ConformalSets(classifier()).calibrate(class_tasks().unlabelled())
    with pytest.raises(ValueError, match="query_y: expected whole labels below the number of ways"):
        ConformalSets().calibrate_probs(probs, y + 5)
    with pytest.raises(ValueError, match="query_y: expected whole labels below the number of ways"):
        ConformalSets().calibrate_probs(probs, y / 2)
    with pytest.raises(ValueError, match="query_y: expected whole labels below the number of ways"):
        ConformalSets().calibrate_probs(probs, y[:, 1:])
    with pytest.raises(ValueError, match="probs: expected numbers with 3 axes"):
        ConformalSets().calibrate_probs(probs[0], y)
    with pytest.raises(ValueError, match=r"probs: expected numbers in \[0, 1\]"):
        ConformalSets().calibrate_probs(probs * 3, y)
    gap = probs.copy()
    gap[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="padding last, got gaps"):
        ConformalSets().calibrate_probs(gap, y)
    sets = ConformalSets(level=0.5).calibrate_probs(probs, y).predict_probs(probs)
    with pytest.raises(ValueError, match="query_y: expected shape"):
        set_coverage(sets, y[:, 1:])
    assert torch.is_grad_enabled()


def test_other_settings_than_those_of_the_calibration_are_refused():
    probs, y = world(20)
    sets = ConformalSets(level=0.8).calibrate_probs(probs, y)
    sets.level = 0.5
    with pytest.raises(ValueError, match=r"^ConformalSets: expected the settings of its calibration, got others \(cal"):
        sets.predict_probs(probs)
    assert sets.calibrate_probs(probs, y).predict_probs(probs).attrs["level"] == 0.5


def test_tasks_of_other_sizes_than_those_of_calibration_are_told_of(recwarn):
    model = classifier()

    def of(ways, shots, number=12):
        return class_tasks((ways,) * number, (shots,) * number, (4,) * number)

    sets = ConformalSets(model, 0.5).calibrate(of(3, 2))
    sets.predict(of(3, 2))
    ConformalSets(model, 0.5).calibrate(class_tasks((2, 4) * 6, (1, 3) * 6, (4,) * 12)).predict(of(3, 2))
    ConformalSets(model, 0.5, by_ways=True).calibrate(of(3, 2)).predict(of(2, 2))
    assert not recwarn.list
    with pytest.warns(UserWarning, match=r"^predict: expected tasks of 3 classes, as .*, got 5 in task 0: "):
        sets.predict(of(5, 2))
    with pytest.warns(UserWarning, match=r"^predict: expected tasks of 2 to 4 classes, as .*, got 5 in task 1"):
        ConformalSets(model, 0.5).calibrate(class_tasks((2, 4) * 6, (2,) * 12, (4,) * 12)).predict(
            class_tasks((3, 5), (2, 2), (4, 4))
        )
    with pytest.warns(UserWarning, match=r"^predict: expected tasks of 2 labelled rows of each class, .*, got 1 "):
        sets.predict(of(3, 1))
    probs, y = world(20)
    with pytest.warns(UserWarning, match="expected tasks of 3 classes"):
        ConformalSets(level=0.5).calibrate_probs(probs, y).predict_probs(world(20, ways=(4,))[0])
