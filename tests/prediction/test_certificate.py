"""Lower bounds of scores on new classes and groups."""

from __future__ import annotations

import math

import numpy as np
import pytest
import xarray as xr

import ebmeta
from ebmeta.prediction.certificate import BETS, Certificate, certify, lower_bound
from ebmeta.prediction.scores import task_scores


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(30), 12)
    return 3 * rng.normal(size=(30, 3))[y] + rng.normal(size=(360, 3)), y


@pytest.fixture(scope="module")
def train(data: tuple[np.ndarray, np.ndarray]) -> ebmeta.EpisodeSampler:
    X, y = data
    return ebmeta.EpisodeSampler(X[:120], y[:120], 3, 1, 5)


@pytest.fixture(scope="module")
def new(data: tuple[np.ndarray, np.ndarray]) -> ebmeta.EpisodeSampler:
    X, y = data
    return ebmeta.EpisodeSampler(X[120:], y[120:], 3, 1, 5)


@pytest.fixture(scope="module")
def model(train: ebmeta.EpisodeSampler) -> ebmeta.EmpiricalBayes:
    return ebmeta.fit(ebmeta.EmpiricalBayes.classifier(3, width=4), train, 3, 4, progress=False).model


def test_the_certificate_is_the_formula_on_disjoint_tasks(
    model: ebmeta.EmpiricalBayes, new: ebmeta.EpisodeSampler
) -> None:
    found = certify(model, new, 0.9, num_partitions=8)
    draws = [new.disjoint(i) for i in range(8)]
    scores = np.stack([task_scores(model, d)["accuracy"].isel(step=-1).values for d in draws])
    assert scores.shape == (8, 6)
    assert found.bound == pytest.approx((0.1 * scores.prod(1).mean()) ** (1 / 6), rel=1e-9)
    assert (found.num_blocks, found.num_used, found.unit, found.chance) == (6, 18, "classes", pytest.approx(1 / 3))
    assert found.estimate == pytest.approx(scores.mean())
    brier = np.stack([1 - task_scores(model, d)["brier"].isel(step=-1).values / 2 for d in draws])
    own = certify(model, new, 0.9, score="brier", num_partitions=8)
    assert own.bound == pytest.approx((0.1 * brier.prod(1).mean()) ** (1 / 6), rel=1e-6)

    def truth(predicted: xr.Dataset, batch: ebmeta.TaskBatch) -> np.ndarray:
        assert batch.query_y is not None
        picked = np.take_along_axis(predicted["probs"].values, batch.query_y.numpy()[..., None], -1)
        return np.asarray(picked.mean((1, 2)))

    assert 0 < certify(model, new, score=truth, num_partitions=2).bound < 1


def test_groups_are_blocks_whose_splits_are_averaged() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(25), 8)
    train, tasks = (ebmeta.GroupSampler(rng.normal(size=(200, 2)), rng.normal(size=200), groups) for _ in range(2))
    model = ebmeta.fit(ebmeta.EmpiricalBayes.regressor(2), train, 3, 4, progress=False).model
    found = certify(model, tasks, num_partitions=3)
    coverage = [task_scores(model, tasks.disjoint(i))["coverage"].isel(step=-1).values for i in range(3)]
    assert found.bound == pytest.approx(lower_bound(np.mean(coverage, 0)[None], 0.95, BETS[1:]))
    assert (found.num_blocks, found.num_used, found.unit, found.score) == (25, 25, "groups", "coverage")
    assert "coverage on new groups: at least" in str(found)
    assert certify(model, tasks.disjoint(0), num_partitions=1).num_blocks == 25


def test_what_training_used_is_refused(
    model: ebmeta.EmpiricalBayes, train: ebmeta.EpisodeSampler, new: ebmeta.EpisodeSampler
) -> None:
    with pytest.raises(ValueError, match=r"^tasks: expected classes that training does not have, got the rows of"):
        certify(model, train, training=train)
    assert certify(model, new, num_partitions=2, training=train).num_blocks == 6
    groups = ebmeta.GroupSampler(np.ones((9, 1)), np.arange(9.0), np.repeat([0, 1, 2], 3), n_support=1)
    regressor = ebmeta.fit(ebmeta.EmpiricalBayes.regressor(1), groups, 1, 2, progress=False).model
    with pytest.raises(ValueError, match=r"^tasks: expected groups that training does not have, got 0"):
        certify(regressor, groups, training=groups)


def test_bad_input_is_refused_in_one_line(model: ebmeta.EmpiricalBayes, new: ebmeta.EpisodeSampler) -> None:
    with pytest.raises(ValueError, match=r"^tasks: expected an EpisodeSampler or a GroupSampler, whose classes"):
        certify(model, new.sample(4))
    with pytest.raises(ValueError, match=r"^score: expected one of accuracy and brier for these labels, got"):
        certify(model, new, score="coverage", num_partitions=1)
    with pytest.raises(ValueError, match=r"^score: expected a number in \[0, 1\] for each of 6 tasks, got others"):
        certify(model, new, score=lambda predicted, batch: np.full(6, 2.0), num_partitions=1)
    with pytest.raises(ValueError, match=r"^scores: expected numbers in \[0, 1\]"):
        lower_bound(np.array([[0.5, 1.5]]))


def test_a_certificate_says_when_it_is_vacuous() -> None:
    few = Certificate(0.19, 0.77, 0.95, 2, 10, "classes", "accuracy", 0.2)
    assert few.vacuous
    assert few.needed == 15  # 0.77 * 0.05 ** (1 / 3) is above 0.2
    assert "nothing is certain, a guess reaches 0.2" in str(few)
    assert "about 15 classes would say more" in str(few)
    assert "2 disjoint tasks of 10 classes" in str(few)
    assert "0.770; one task of 10 classes" in str(Certificate(0.1, 0.77, 0.95, 1, 10, "classes", "accuracy", 0.2))
    bad = Certificate(0.0, 0.1, 0.95, 2, 10, "classes", "accuracy", 0.2)
    assert bad.needed is None
    assert "would say more" not in str(bad)
    assert not Certificate(0.5, 0.77, 0.95, 7, 35, "classes", "accuracy", 0.2).vacuous


def test_sure_scores_give_the_root_of_the_risk() -> None:
    assert lower_bound(np.ones((2, 4)), 0.9) == pytest.approx(0.1 ** (1 / 4))
    assert lower_bound(np.zeros((1, 4)), 0.9) == 0
    assert lower_bound(np.zeros((1, 4)), 0.9, BETS[1:]) == 0
    many = lower_bound(np.full((1, 4000), 0.5), 0.95)
    assert many == pytest.approx(0.5 * math.exp(math.log(0.05) / 4000))


def test_bets_help_where_scores_are_hits_and_misses() -> None:
    hits = np.r_[np.ones(180), np.zeros(20)][None]
    assert lower_bound(hits) == 0
    assert 0.8 < lower_bound(hits, bets=BETS[1:]) < 0.9
