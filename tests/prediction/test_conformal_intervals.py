"""Conformal intervals of numbers, for new groups."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr

import ebmeta
from ebmeta import ConformalIntervals, GroupSampler
from ebmeta.prediction import conformal_intervals
from ebmeta.prediction.conformal import task_quantile


def world(seed: int, groups: int, rows: int = 6, counts: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Groups whose labels have heavy tails and unequal noise, or are counts with more noise than Poisson."""
    rng = np.random.default_rng(seed)
    code = np.repeat(np.arange(groups), rows)
    X, effect, noise = rng.normal(size=(len(code), 1)), rng.normal(size=groups), rng.gamma(2, 0.5, groups)
    eta = 0.5 * X[:, 0] + effect[code]
    y = eta + noise[code] * rng.standard_t(3, len(code))
    if counts:
        y = rng.poisson(np.exp(1 + eta + rng.normal(size=len(code))))
    return X, y.astype(float), code


def own(model: ebmeta.EmpiricalBayes, batch: ebmeta.TaskBatch, level: float) -> np.ndarray:
    """Return lower end, median and upper end of the model's own interval."""
    tree = ebmeta.predict(model, batch, num_draws=0, quantiles=((1 - level) / 2, 0.5, (1 + level) / 2))
    return np.asarray(tree["predictive/quantile"].values)


@pytest.fixture(scope="module")
def model() -> ebmeta.EmpiricalBayes:
    tasks = GroupSampler(*world(0, 40), n_support=2)
    return ebmeta.fit_evidence(ebmeta.EmpiricalBayes.regressor(1, num_steps=0), tasks).model


def test_one_model_stretches_its_interval_by_the_quantile_over_groups(model: ebmeta.EmpiricalBayes) -> None:
    tasks = GroupSampler(*world(1, 15), n_support=(1, 3))
    found = ConformalIntervals(model, 0.8).calibrate(tasks, num_splits=3)
    assert found.num_groups == 15
    scores = np.full((15, 15), np.nan)
    for i in range(3):
        batch = tasks.disjoint(i)
        quantiles = ebmeta.predict(model, batch, num_draws=0, quantiles=(0.1, 0.5, 0.9))["predictive/quantile"].values
        low, middle, high = quantiles
        off = np.maximum(
            (middle - batch.query_y.numpy()) / (middle - low), (batch.query_y.numpy() - middle) / (high - middle)
        )
        off[~batch.query_mask.numpy()] = np.nan
        scores[:, 5 * i : 5 * i + off.shape[1]] = off
    batch = GroupSampler(*world(2, 4), n_support=2).disjoint(0)
    low, middle, high = ebmeta.predict(model, batch, num_draws=0, quantiles=(0.1, 0.5, 0.9))[
        "predictive/quantile"
    ].values
    for level in (0.5, 0.8):
        limit = task_quantile(_weighed(scores), level)
        ends = found.predict(batch, level)
        np.testing.assert_allclose(ends["upper"], middle + limit * (high - middle), rtol=1e-5)
        np.testing.assert_allclose(ends["lower"], middle - limit * (middle - low), rtol=1e-5)
    assert np.isinf(found.predict(batch, 0.97)["upper"]).all()  # of 15 groups
    assert (found.predict(batch)["upper"] == found.predict(batch, 0.8)["upper"]).all()


def _weighed(scores: np.ndarray) -> np.ndarray:
    """Repeat the scores of each split, so that splits of unequal numbers of rows count alike."""
    out = np.full((len(scores), 3 * 60), np.nan)
    for t, row in enumerate(scores):
        parts = [row[5 * i : 5 * i + 5][~np.isnan(row[5 * i : 5 * i + 5])] for i in range(3)]
        repeated = np.concatenate([np.repeat(p, 60 // len(p)) for p in parts])
        out[t, : len(repeated)] = repeated
    return out


@pytest.mark.parametrize("support", [0, 2])
def test_new_groups_are_covered_whatever_the_noise(support: int, model: ebmeta.EmpiricalBayes) -> None:
    """False-alarm rate: with 90% coverage, below 88% in one of 200 runs; the seeds are fixed."""
    covered = {True: [], False: []}
    batch = GroupSampler(*world(3, 150), n_support=support).disjoint(0)
    for seed in range(15):
        tasks = GroupSampler(*world(100 + seed, 19), n_support=support, seed=seed)
        for strict, found in covered.items():
            ends = ConformalIntervals(model, 0.9, strict=strict).calibrate(tasks, num_splits=2).predict(batch)
            y = batch.query_y.numpy()
            found.append(((ends["lower"].values <= y) & (y <= ends["upper"].values)).mean())
    assert 0.9 <= np.mean(covered[True]) < 0.97
    assert 0.9 * 19 / 20 - 0.02 < np.mean(covered[False]) < np.mean(covered[True])


def test_one_row_of_each_group_and_a_rank_by_chance_cover_as_often_as_asked(model: ebmeta.EmpiricalBayes) -> None:
    """Over random splits of any groups coverage is the level.

    False-alarm rate: the mean of 60 splits, of standard deviation .12 each, is .051 off in one of 1,000 runs.
    """
    X, y, code = world(5, 40)
    covered = []
    for seed in range(60):
        names = np.random.default_rng(seed).permutation(40)
        known, new = (np.isin(code, part) for part in (names[:10], names[10:]))
        tasks, batch = (GroupSampler(X[s], y[s], code[s], n_support=2, seed=seed) for s in (known, new))
        asked = batch.disjoint(0)
        label = asked.query_y.numpy()
        ends = ConformalIntervals(model, 0.8, randomized=True).calibrate(tasks, seed=seed).predict(asked)
        covered.append(((ends["lower"].values <= label) & (label <= ends["upper"].values)).mean())
    assert abs(np.mean(covered) - 0.8) < 0.051


def test_rows_drawn_are_real_ones_and_a_seed_draws_them_again(model: ebmeta.EmpiricalBayes) -> None:
    tasks = GroupSampler(*world(1, 15), n_support=(1, 3))
    every = ConformalIntervals(model, 0.8).calibrate(tasks, num_splits=1)._folds[0]
    first, again, other = (
        ConformalIntervals(model, 0.8, randomized=True).calibrate(tasks, seed=seed) for seed in (0, 0, 1)
    )
    (drawn,), (same,), (else_,) = (found._folds for found in (first, again, other))
    np.testing.assert_array_equal(drawn.scores, same.scores)
    np.testing.assert_array_equal(drawn.weights, same.weights)
    np.testing.assert_array_equal(drawn.scores, every.scores)  # of the first split alone
    assert sorted(set(drawn.weights)) == [0.0, 1.0]
    assert first.num_groups == drawn.weights.sum() == 15
    assert (drawn.weights != else_.weights).any()
    assert first._chance == again._chance != other._chance


def test_other_numbers_of_labelled_rows_than_those_of_calibration_are_told_of() -> None:
    """Groups differ far more than in training: it hardly matters with four labelled rows, and does without any."""

    def wide(seed: int, groups: int, n_support: int, spread: float = 3.0) -> GroupSampler:
        rng, code = np.random.default_rng(seed), np.repeat(np.arange(groups), 6)
        y = spread * rng.normal(size=groups)[code] + rng.normal(size=len(code))
        return GroupSampler(np.zeros((len(code), 0)), y, code, n_support)

    raw = ebmeta.EmpiricalBayes.regressor(0, num_steps=0)
    intervals = ConformalIntervals(ebmeta.fit_evidence(raw, wide(0, 60, 2, 0.7)).model, 0.9)
    batch = wide(2, 300, 0).disjoint(0)

    def covered() -> float:
        ends, y = intervals.predict(batch), batch.query_y.numpy()
        return float(((ends["lower"].values <= y) & (y <= ends["upper"].values)).mean())

    intervals.calibrate(wide(1, 60, 4), num_splits=2)
    with pytest.warns(
        UserWarning, match="predict: expected tasks of 4 labelled rows, as calibration had, got 0 in task 0"
    ):
        assert covered() < 0.75
    intervals.calibrate(wide(1, 60, 0), num_splits=1)
    assert covered() > 0.85  # one calibration of 60 groups: 0.9 ± 0.04


def shared(seed: int, groups: int) -> GroupSampler:
    """Groups with intercepts and slopes of their own and a slope that all share, and noise of heavy tails."""
    rng = np.random.default_rng(seed)
    code = np.repeat(np.arange(groups), 6)
    X, own = rng.normal(size=(len(code), 2)), rng.normal(size=(groups, 2)) * [1.0, 0.5]
    y = own[code, 0] + own[code, 1] * X[:, 0] + 2 * X[:, 1] + 0.5 * rng.standard_t(3, len(code))
    return GroupSampler(X, y, code, n_support=2, seed=seed)


def test_new_groups_are_covered_where_groups_share_weights() -> None:
    """Of ten calibrations with 39 groups each; false-alarm rate: no alarm in 200 runs of other seeds."""
    raw = ebmeta.EmpiricalBayes.regressor(2, random=[0], num_steps=0)
    model = ebmeta.fit_evidence(raw, shared(0, 60), boundary=False).model
    batch, covered = shared(1, 300).disjoint(0), []
    for seed in range(10):
        ends = ConformalIntervals(model, 0.9).calibrate(shared(100 + seed, 39), num_splits=2).predict(batch)
        y = batch.query_y.numpy()
        covered.append(((ends["lower"].values <= y) & (y <= ends["upper"].values)).mean())
    assert 0.88 < np.mean(covered) < 0.96


def test_counts_have_whole_ends(model: ebmeta.EmpiricalBayes) -> None:
    tasks = GroupSampler(*world(0, 40, counts=True), n_support=2)
    counts = ebmeta.fit_evidence(ebmeta.EmpiricalBayes.regressor(1, "poisson", num_steps=0), tasks).model
    batch = GroupSampler(*world(4, 200, counts=True), n_support=2).disjoint(0)
    known = GroupSampler(*world(5, 60, counts=True), n_support=2)
    ends = ConformalIntervals(counts, 0.8).calibrate(known).predict(batch)
    lower, upper, y = ends["lower"].values, ends["upper"].values, batch.query_y.numpy()
    assert (lower == np.round(lower)).all()
    assert (upper == np.round(upper)).all()
    assert (lower >= 0).all()
    assert ((lower <= y) & (y <= upper)).mean() > 0.78
    low, _, high = own(counts, batch, 0.8)
    assert ((low <= y) & (y <= high)).mean() < 0.76  # the model by itself
    asked, label = known.disjoint(0), known.disjoint(0).query_y.numpy()
    near, middle, far = own(counts, asked, 0.8)  # ends lie half a count outside
    scores = np.maximum((middle - label) / (middle - near + 0.5), (label - middle) / (far - middle + 0.5))
    limit = task_quantile(scores, 0.8)
    ends = ConformalIntervals(counts, 0.8).calibrate(known, num_splits=1).predict(asked)
    np.testing.assert_array_equal(ends["lower"], np.ceil(middle - limit * (middle - near + 0.5) - 1e-9).clip(0))
    np.testing.assert_array_equal(ends["upper"], np.floor(middle + limit * (far - middle + 0.5) + 1e-9))


def test_folds_use_every_group_twice(model: ebmeta.EmpiricalBayes) -> None:
    X, y, code = world(6, 20)
    parts = [code % 4 == k for k in range(4)]
    models = [
        ebmeta.fit_evidence(
            ebmeta.EmpiricalBayes.regressor(1, num_steps=0), GroupSampler(X[~p], y[~p], code[~p], 1)
        ).model
        for p in parts
    ]
    sources = [GroupSampler(X[p], y[p], code[p], 1) for p in parts]
    folds = ConformalIntervals(models, 0.8).calibrate(sources)
    assert folds.num_groups == 20
    batch = GroupSampler(*world(7, 200), n_support=1).disjoint(0)
    ends = folds.predict(batch)
    held = (ends["lower"].values <= batch.query_y.numpy()) & (batch.query_y.numpy() <= ends["upper"].values)
    assert 0.76 < held.mean() < 0.92
    apart = ebmeta.EmpiricalBayes.regressor(1, num_steps=0)
    ebmeta.fit_evidence(apart, GroupSampler(*world(9, 20), n_support=1))
    same = ConformalIntervals([apart] * 4, 0.8).calibrate(sources).predict(batch)
    alone = ConformalIntervals(apart, 0.8).calibrate(GroupSampler(X, y, code, 1)).predict(batch)
    assert np.abs(same["upper"] - alone["upper"]).max() < 0.5  # the same model: splits of groups differ, no more


def test_padding_is_none_and_labels_are_not_looked_at(model: ebmeta.EmpiricalBayes) -> None:
    found = ConformalIntervals(model, 0.5).calibrate(GroupSampler(*world(1, 15), n_support=1))
    X, y, code = world(8, 5)
    batch = GroupSampler(X[:-3], y[:-3], code[:-3], 1).disjoint(0)
    ends = found.predict(batch)
    np.testing.assert_array_equal(np.isnan(ends["lower"]), ~batch.query_mask.numpy())
    np.testing.assert_array_equal(ends["lower"], found.predict(batch.unlabelled())["lower"])


def test_bad_input_is_refused_in_one_line(model: ebmeta.EmpiricalBayes) -> None:
    tasks = GroupSampler(*world(1, 15), n_support=1)
    with pytest.raises(ValueError, match=r"^models: expected labels that are numbers and have quantiles, got a cat"):
        ConformalIntervals(ebmeta.EmpiricalBayes.classifier(2))
    with pytest.raises(ValueError, match=r"^models: expected at least one, got none"):
        ConformalIntervals([])
    with pytest.raises(ValueError, match=r"^tasks: expected one source, for one model, got a list of 2"):
        ConformalIntervals(model).calibrate([tasks, tasks])
    with pytest.raises(ValueError, match=r"^randomized: expected one model and strict=True beside it, got 2 models$"):
        ConformalIntervals([model, model], randomized=True)
    with pytest.raises(ValueError, match=r"^randomized: expected one model .*, got strict=False$"):
        ConformalIntervals(model, strict=False, randomized=True)
    with pytest.raises(ValueError, match=r"^ConformalIntervals: expected a call of calibrate first"):
        ConformalIntervals(model).predict(tasks.sample(1))
    with pytest.raises(ValueError, match=r"^calibrate: expected query labels, got unlabelled tasks"):
        ConformalIntervals(model).calibrate(tasks.sample(4).unlabelled())


def test_a_label_at_the_median_scores_nothing_where_the_interval_is_a_point(model: ebmeta.EmpiricalBayes) -> None:
    found = ConformalIntervals(model, 0.5).calibrate(GroupSampler(*world(1, 15), n_support=1))
    assert np.isfinite(found._folds[0].scores).all()
    assert torch.isfinite(torch.from_numpy(found._folds[0].weights)).all()


def test_another_level_after_calibration_is_that_of_the_call(model: ebmeta.EmpiricalBayes) -> None:
    found = ConformalIntervals(model, 0.9).calibrate(GroupSampler(*world(1, 40), n_support=1))
    batch = GroupSampler(*world(8, 5), n_support=1).disjoint(0)
    wanted = found.predict(batch, 0.6)
    found.level = 0.6
    xr.testing.assert_identical(found.predict(batch), wanted)


def test_an_interval_of_a_point_is_infinite_where_groups_are_too_few():
    fold = conformal_intervals._Fold(np.array([0.5, np.inf]), np.ones(2))
    ends = [(np.array([1.0, 2.0]), np.array([0.0, 3.0]))]  # the model is sure of the first
    for share, wanted in ((1.0, [1.0, 3.5]), (2.0, [np.inf, np.inf]), (2.5, [np.inf, np.inf])):
        np.testing.assert_array_equal(conformal_intervals._stretched(ends, [fold], share), wanted)
