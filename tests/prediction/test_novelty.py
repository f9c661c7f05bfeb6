"""Novelty of tasks: exact ranks, what moves each number, and invariances."""

import dataclasses

import numpy as np
import pytest
import torch
from builders import class_tasks, classifier, close, real_tasks, regressor
from scipy import stats
from sklearn.metrics import roc_auc_score

import ebmeta
from ebmeta import Novelty, TaskBatch


def episodes(tasks, seed, ways=3, shot=2, query=6, **kwargs):
    return class_tasks((ways,) * tasks, (shot,) * tasks, (query,) * tasks, seed=seed, **kwargs)


def move(batch, f):
    return dataclasses.replace(batch, support_x=f(batch.support_x), query_x=f(batch.query_x))


@pytest.fixture(scope="module")
def novelty():
    return Novelty(classifier()).fit(episodes(200, 1)).calibrate(episodes(199, 2))


def test_p_values_of_like_tasks_are_uniform(novelty):
    p = novelty.p_value(episodes(400, 3)).values
    np.testing.assert_allclose(p * 200, np.round(p * 200), atol=1e-9)  # ranks among 199 and itself
    # Two samples, the 400 scores and the 199 of calibration, have one distribution; false-alarm rate 1e-4.
    fresh = novelty.score(episodes(400, 3)).values
    assert stats.ks_2samp(fresh, novelty.score(episodes(199, 2)).values).pvalue > 1e-4
    # P(p <= 0.1) <= 0.1: 400 tasks and a calibration of 199 put 0.1 + 5 * 0.026 beyond a chance of 1e-6
    assert (p <= 0.1).mean() < 0.23


def test_p_value_is_the_rank(novelty):
    score, reference = novelty.score(episodes(5, 4)).values, novelty.score(episodes(199, 2)).values
    wanted = [(1 + (reference >= s).sum()) / 200 for s in score]
    np.testing.assert_allclose(novelty.p_value(episodes(5, 4)), wanted)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x + 6,
        lambda x: 3 * x,
        lambda x: x / 4,  # too close is unlike, too
        lambda x: x + 5 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype),
    ],
    ids=["shifted", "stretched", "shrunk", "noisy"],
)
def test_changed_inputs_stand_out(novelty, change):
    like = episodes(100, 5)
    unlike = move(like, change)
    scores = np.r_[novelty.score(like), novelty.score(unlike)]
    assert roc_auc_score(np.repeat([0, 1], 100), scores) > 0.95


def test_queries_of_other_classes_raise_the_distance_from_the_support(novelty):
    like = episodes(100, 5)
    foreign = dataclasses.replace(like, query_x=episodes(100, 6).query_x)
    near, far = (novelty.statistics(b)["support_distance"].values for b in (like, foreign))
    assert roc_auc_score(np.repeat([0, 1], 100), np.r_[near, far]) > 0.8
    assert roc_auc_score(np.repeat([0, 1], 100), np.r_[novelty.score(like), novelty.score(foreign)]) > 0.6


def test_a_stray_support_row_shows_in_the_furthest(novelty):
    like = episodes(20, 5)
    x = like.support_x.clone()
    x[:, 0] += 30
    stray = novelty.statistics(dataclasses.replace(like, support_x=x))
    assert (stray["furthest"] > novelty.statistics(like)["furthest"] + 1).all()


def test_statistics_by_hand():
    """Distances from a known Gaussian, with padding and a class without support."""
    novelty = Novelty(classifier()).fit(episodes(50, 1))
    mean = torch.tensor([1.0, 0.0, -1.0, 2.0], dtype=torch.float64)
    precision, within = torch.diag(torch.tensor([1.0, 2.0, 0.5, 1.0])).double(), torch.eye(4).double() * 3
    novelty._location, novelty._precision = mean, {"all": precision, "within": within}
    novelty._center_unit = torch.zeros(()), torch.ones(())
    batch = class_tasks(ways=(3, 2), shots=(2, 1), queries=(4, 6))
    keep = batch.support_mask & (batch.support_y != 1)
    batch = dataclasses.replace(batch, support_mask=keep)
    got = novelty.statistics(batch)
    for t in range(2):
        s, q = batch.support_x[t][keep[t]], batch.query_x[t][batch.query_mask[t]]
        rows = torch.cat([s, q]) - mean
        squares = ((rows @ precision) * rows).sum(1)
        centre = rows.mean(0)
        y = batch.support_y[t][keep[t]]
        classes = [s[y == c].mean(0) if (y == c).any() else mean for c in range((3, 2)[t])]
        nearest = torch.stack([3 * (q - c).square().sum(1) for c in classes]).amin(0)
        wanted = [squares.mean(), squares.max(), centre @ precision @ centre, nearest.mean()]
        names = ["distance", "furthest", "task_distance", "support_distance"]
        close(torch.tensor([float(got[n][t]) for n in names], dtype=torch.float64), torch.stack(wanted).log())
    probs = ebmeta.predict(novelty.model, batch, num_draws=0)["predictive/probs"].isel(step=-1).values
    for t, ways in enumerate((3, 2)):
        p = probs[t][batch.query_mask[t].numpy(), :ways]
        assert float(got["uncertainty"][t]) == pytest.approx(stats.entropy(p, axis=1).mean() / np.log(ways))


def test_score_is_the_distance_from_training_tasks():
    tasks = episodes(80, 1)
    novelty = Novelty(classifier()).fit(tasks)
    numbers = novelty.statistics(tasks).to_array().values.T
    assert novelty.score(tasks).mean().item() == pytest.approx(5 * 79 / 80)  # five numbers, their own covariance
    off = numbers[3] - numbers.mean(0)
    wanted = off @ np.linalg.inv(np.cov(numbers.T)) @ off
    assert novelty.score(tasks).values[3] == pytest.approx(wanted)


def test_order_padding_labels_and_chunks_do_not_matter(novelty):
    batch = class_tasks(ways=(3, 5, 2, 4), shots=(2, 1, 3, 1), queries=(6, 4, 7, 5))
    together = novelty.score(batch).values
    alone = np.concatenate([novelty.score(batch[t : t + 1]) for t in range(4)])
    np.testing.assert_allclose(together, alone, rtol=1e-6)
    np.testing.assert_array_equal(novelty.score(batch.unlabelled()), together)
    flip = torch.arange(6).flip(0)
    one = batch[0:1]
    turned = TaskBatch(one.support_x[:, :6][:, flip], one.support_y[:, :6][:, flip], one.query_x[:, :6][:, flip])
    np.testing.assert_allclose(novelty.score(turned), together[:1], rtol=1e-6)


def test_real_labels():
    many = real_tasks((4,) * 120, (6,) * 120, seed=1)
    novelty = Novelty(regressor()).fit(many).calibrate(real_tasks((4,) * 99, (6,) * 99, seed=2))
    like = real_tasks((4,) * 50, (6,) * 50, seed=3)
    names = ["distance", "furthest", "task_distance", "uncertainty"]
    assert list(novelty.statistics(like)) == names
    std = ebmeta.predict(novelty.model, like, num_draws=0)["predictive/std"].isel(step=-1)
    np.testing.assert_allclose(novelty.statistics(like)["uncertainty"], np.log(std).mean("query"))
    # 50 tasks: a share of p-values up to 0.1 above 0.4 has a chance below 1e-6
    assert (novelty.p_value(like) <= 0.1).mean() < 0.4
    assert (novelty.p_value(move(like, lambda x: x + 8)) == 0.01).all()


def test_the_model_is_left_alone(novelty, rng_untouched):
    model = novelty.model
    model.train()
    novelty.score(episodes(3, 5))
    assert model.training
    model.eval()


def test_calls_out_of_order_and_too_few_tasks():
    novelty = Novelty(classifier())
    with pytest.raises(ValueError, match="expected a call of fit first"):
        novelty.score(episodes(2, 1))
    with pytest.raises(ValueError, match="expected at least 2 tasks, got 1"):
        novelty.fit(episodes(1, 1))
    with pytest.raises(ValueError, match="fit: expected query labels, got unlabelled tasks"):
        novelty.fit(episodes(3, 1).unlabelled())
    novelty.fit(episodes(30, 1))
    with pytest.raises(ValueError, match="expected a call of calibrate first"):
        novelty.p_value(episodes(2, 1))
    with pytest.raises(ValueError, match="num_tasks: expected at least 1, got 0"):
        novelty.calibrate(episodes(2, 1), 0)
