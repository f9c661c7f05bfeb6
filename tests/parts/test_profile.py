"""Class profiles: what they learn, of which classes, and where there can be none."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn.functional import normalize

from ebmeta import EmpiricalBayes, EpisodeSampler, MixedSampler, evaluate, fit, load, save
from ebmeta.parts.profile import RIDGE, SMOOTHING, ClassProfile
from ebmeta.training.preparation import prepare
from tests.training.test_preparation import episodes


def rows(classes: int = 4, each: int = 60, spread: float = 0.5) -> tuple[torch.Tensor, torch.Tensor]:
    """Directions around the corners of a simplex, in order of their classes."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(classes), each)
    x = np.eye(classes)[y] + spread * rng.standard_normal((len(y), classes))
    return normalize(torch.from_numpy(x), dim=-1), torch.from_numpy(y)


def started(model: EmpiricalBayes, tasks: EpisodeSampler | MixedSampler) -> EmpiricalBayes:
    prepare(model, tasks, 4, torch.device("cpu"))
    return model


def test_the_regression_is_that_of_scikit_learn():
    u, y = rows()
    profile = ClassProfile(4, 4).double()
    profile.fit(u, y)
    # Smoothed labels: every row with every label, by weight.
    weight = np.where(np.arange(4) == y.numpy()[:, None], 1 - SMOOTHING, 0.0) + SMOOTHING / 4
    reference = LogisticRegression(C=1 / (RIDGE * len(u)), tol=1e-8, max_iter=2000)
    reference.fit(np.repeat(u.numpy(), 4, 0), np.tile(np.arange(4), len(u)), weight.ravel())
    wanted = reference.predict_proba(u.numpy())
    got = torch.softmax(u @ profile.weight.mT + profile.bias, -1)
    np.testing.assert_allclose(got, wanted, atol=2e-3)
    np.testing.assert_allclose(profile.center, np.sqrt(wanted).mean(0), atol=2e-3)
    assert wanted.max() - wanted.min() > 0.5


def test_classes_beyond_the_groups_join_their_nearest():
    u, y = rows(6)
    near = u.clone()
    near[y >= 3] = u[(y >= 3).roll(-180)]  # classes 3, 4 and 5 lie where 0, 1 and 2 do
    both, three = ClassProfile(6, 3).double(), ClassProfile(6, 3).double()
    both.fit(near, y)
    three.fit(near, y % 3)
    similar = both(near) @ both(near).mT, three(near) @ three(near).mT
    torch.testing.assert_close(*similar, atol=1e-4, rtol=0.0)
    with pytest.raises(ValueError, match="expected at most as many groups as there are training classes, got 3 groups"):
        both.fit(u[:60], y[:60])


def test_training_learns_the_profile_of_its_classes_once():
    tasks = episodes(1.0)
    model = started(EmpiricalBayes.classifier(4, profile=8), MixedSampler([tasks]))
    x, y = tasks.rows(240)
    wanted = ClassProfile(4, 8)
    wanted.fit(model.predictor.direction(x), y)
    assert torch.equal(model.predictor.profile.weight, wanted.weight)
    assert model.predictor.num_weights == 4 + 8 + 1
    fit(model, episodes(0.5), 2, batch_size=4, device="cpu", progress=False)
    assert torch.equal(model.predictor.profile.weight, wanted.weight)


def test_rows_are_as_many_of_every_class_as_tasks_show_them():
    tasks = episodes(1.0)
    seen: list[int] = []

    def shifted(task: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        seen.append(len(task))
        return task + 7

    moved = EpisodeSampler(tasks.X, tasks._codes, 3, 1, 5, transform=shifted)
    (x, y), (z, same) = tasks.rows(80), moved.rows(80)
    assert torch.bincount(y).tolist() == [10] * 8
    assert torch.equal(y, same)
    assert max(seen) <= 50
    torch.testing.assert_close(z, x + 7)
    assert len(tasks.rows(10**6)[0]) == 240
    assert all(torch.equal(a, b) for a, b in zip(tasks.rows(80), tasks.rows(80), strict=True))


def test_measured_widths_have_seen_the_profile():
    model = started(
        EmpiricalBayes.classifier(4, profile=8, widths="measured", synthetic_gradient="mixture"), episodes(1.0)
    )
    u = model.predictor.direction(episodes(1.0).rows(240)[0])
    of_profile = model.initializer.log_precision[4:12]
    assert float(of_profile.std()) > 0.01
    assert bool((model.predictor.profile(u).std(0) > 0.05).all())


def test_a_saved_model_keeps_its_profile(tmp_path):
    model = EmpiricalBayes.classifier(4, num_steps=1, profile=8)
    fit(model, episodes(1.0), 2, batch_size=4, device="cpu", progress=False)
    save(model, tmp_path)
    batch = episodes(1.0, seed=5).sample(3)
    for a, b in zip(model.posterior(batch), load(tmp_path).posterior(batch), strict=True):
        assert torch.equal(a.loc, b.loc)


def tangled(seed: int, first: int, last: int) -> EpisodeSampler:
    """Classes that are hues of training classes: a sharp feature of each, drowned in loud noise of no class."""
    rng = np.random.default_rng(9)
    corners = np.eye(24)
    new = np.stack([corners[rng.choice(24, 2, replace=False)].sum(0) for _ in range(16)])
    means = np.concatenate([2 * corners, 1.4 * new])[first:last]
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(len(means)), 60)
    return EpisodeSampler(means[y] + 0.5 * rng.standard_normal((len(y), 24)), y, 4, 1, 10, seed=seed)


def test_new_classes_that_resemble_training_classes_are_told_apart_better():
    accuracy = []
    for groups in (0, 24):
        model = EmpiricalBayes.classifier(24, num_steps=0, profile=groups)
        fit(model, tangled(0, 0, 24), 100, harder=0.0, device="cpu", progress=False)
        accuracy.append(evaluate(model, tangled(1, 24, 40), 300)["accuracy"].item())
    assert accuracy[1] > accuracy[0] + 0.01  # fixed seeds; chance plays no part


def test_profiles_are_for_class_features_that_stay():
    wanted = "profile: expected 0 but for class features that training does not move, got 5"
    with pytest.raises(ValueError, match=wanted):
        EmpiricalBayes.classifier(4, profile=5, embedder=nn.Linear(4, 4))
    with pytest.raises(ValueError, match="profile: expected 0 or at least 2 training classes, got 1"):
        EmpiricalBayes.classifier(4, profile=1)
    frozen = EmpiricalBayes.classifier(4, profile=8, embedder=nn.Linear(4, 4), freeze_embedder=True)
    assert started(frozen, episodes(1.0)).predictor.profile.fitted

    class Source:
        def sample(self, num_tasks: int, index: int = 0):
            return episodes(1.0).sample(num_tasks, index)

    with pytest.raises(ValueError, match="profile: expected tasks of an EpisodeSampler or MixedSampler, got Source"):
        fit(EmpiricalBayes.classifier(4, profile=8), Source(), 1, device="cpu", progress=False)
    with pytest.raises(ValueError, match="got 9 groups of 8 classes"):
        fit(EmpiricalBayes.classifier(4, profile=9), episodes(1.0), 1, device="cpu", progress=False)


@pytest.mark.parametrize(("groups", "length"), [(4, 0.125), (16, 0.25), (64, 0.5), (500, 0.5)])
def test_few_classes_count_for_little(groups, length):
    assert math.isclose(ClassProfile(3, groups).length, length)


def test_own_classes_are_left_out_of_a_profile():
    """Rows of a task are described by the other classes, as if its own had never been there."""
    profile = ClassProfile(5, 6)
    g = torch.Generator().manual_seed(0)
    profile.weight.copy_(3 * torch.randn(6, 5, generator=g))
    u = torch.nn.functional.normalize(torch.randn(2, 4, 5, generator=g), dim=-1)
    own = torch.tensor([[1, 4, -1], [0, 2, 5]])
    assert torch.equal(profile(u, own), profile(u))  # groups of several classes
    profile.one_each.fill_(True)
    for t, others in enumerate(([0, 2, 3, 5], [1, 3, 4])):
        root = torch.softmax(u[t] @ profile.weight[others].mT + profile.bias[others], -1).sqrt()
        want = torch.nn.functional.normalize(root - profile.center[others], dim=-1)
        got = profile(u, own)[t]
        torch.testing.assert_close(got[:, others], want)
        assert float(got.square().sum(-1).sub(1).abs().max()) < 1e-5


def test_training_leaves_out_own_classes_and_predictions_do_not():
    source = episodes(1.0)
    model = EmpiricalBayes.classifier(4, profile=8, synthetic_gradient="joint")
    fit(model, source, 1, device="cpu", progress=False)
    assert bool(model.predictor.profile.one_each)
    batch = source.sample(3)
    plain = dataclasses.replace(batch, way_class=None)
    model.train()
    hidden, seen = (model.infer(b).predict(0)["probs"].detach() for b in (batch, plain))
    assert float((hidden - seen).abs().max()) > 1e-4
    model.eval()
    assert torch.equal(model.infer(batch).predict(0)["probs"], model.infer(plain).predict(0)["probs"])
