"""What is measured before training: how hard tasks are made, and the metric of the features."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from ebmeta import EmpiricalBayes, EpisodeSampler, GroupSampler, MixedSampler, TaskBatch, fit
from ebmeta.foundation.seeding import stream
from ebmeta.likelihood import Normal
from ebmeta.parts.heads import LinearHead
from ebmeta.parts.initializer import ConjugateInitializer
from ebmeta.parts.prior import FullPrior
from ebmeta.refine.gradient import GradientRefiner
from ebmeta.refine.real_synthetic_gradient import RealSyntheticGradient
from ebmeta.training.preparation import hardening, notes_on_classes, notes_on_groups, prepare


def episodes(spread: float, seed: int = 0) -> EpisodeSampler:
    """Classes with the same means and the same deviations, times `spread`."""
    rng = np.random.default_rng(3)
    means, off = rng.standard_normal((8, 1, 4)), rng.standard_normal((8, 30, 4))
    off -= off.mean(1, keepdims=True)
    X = (means + spread * off).reshape(240, 4)
    return EpisodeSampler(X, np.repeat(np.arange(8), 30), 3, 1, 5, seed=seed)


def test_tasks_are_hardened_by_the_excess_times_a_constant_of_the_validation_classes():
    model, train = EmpiricalBayes.classifier(4), episodes(1.0)
    assert hardening(model, train, episodes(1.2), "auto") == pytest.approx(0.48, abs=1e-4)
    assert hardening(model, MixedSampler([train]), MixedSampler([episodes(1.2)]), "auto") == pytest.approx(
        0.48, abs=1e-4
    )
    assert hardening(model, train, episodes(0.7), "auto") == 0.0
    assert hardening(model, train, episodes(9.0), "auto") == 2.4
    assert hardening(model, train, None, "auto") == 0.0
    assert hardening(model, train, None, 1.5) == 1.5


def test_only_class_features_are_hardened():
    embedded = EmpiricalBayes.classifier(4, embedder=nn.Linear(4, 4))
    assert hardening(embedded, episodes(1.0), episodes(1.5), "auto") == 0.0
    groups = GroupSampler(np.zeros((12, 1)), np.zeros(12), np.repeat(np.arange(3), 4))
    for model, tasks in ((embedded, episodes(1.0)), (EmpiricalBayes.regressor(1), groups)):
        with pytest.raises(ValueError, match="harder: expected 0 for tasks that are not drawn from class"):
            hardening(model, tasks, None, 1.0)


def test_training_sees_the_harder_tasks():
    runs = []
    for tasks, harder in ((episodes(1.0), 0.9), (episodes(1.0).harder(0.9), 0.0)):
        model = EmpiricalBayes.classifier(4)
        prepare(model, episodes(1.0), 4, torch.device("cpu"))  # the metric is of the tasks as they are
        run = fit(model, tasks, 3, batch_size=4, harder=harder, device="cpu", progress=False)
        runs.append(run.history["loss"].values)
    assert np.array_equal(*runs)


def test_training_tells_what_is_known():
    @dataclass
    class Source:
        told: bool

        def sample(self, num_tasks: int, index: int = 0) -> TaskBatch:
            batch = episodes(1.0).sample(num_tasks, index)
            return batch if self.told else replace(batch, concentration=None)

    losses = []
    for told in (True, False):
        model = EmpiricalBayes.classifier(4)
        model.predictor.center.fill_(0.5)
        run = fit(model, Source(told), 1, batch_size=4, device="cpu", progress=False)
        losses.append(run.history["loss"].item())
    assert losses[0] != losses[1]


def test_a_measured_metric_is_kept():
    model = EmpiricalBayes.classifier(4)
    model.predictor.center.fill_(0.5)
    fit(model, episodes(1.0), 1, batch_size=4, device="cpu", progress=False)
    assert torch.equal(model.predictor.center, torch.full((4,), 0.5))
    assert torch.equal(model.predictor.metric, torch.eye(4))


def from_parts(**arguments) -> EmpiricalBayes:
    refiner = GradientRefiner(RealSyntheticGradient(3, 32, stream(0)), 2)
    return EmpiricalBayes(FullPrior(3), Normal(), LinearHead(2, **arguments), ConjugateInitializer(), refiner, beta=0.1)


def test_a_model_built_from_parts_trains_on_raw_units():
    rng = np.random.default_rng(0)
    X, groups = 300 + 50 * rng.normal(size=(60, 2)), np.repeat(np.arange(10), 6)
    tasks = GroupSampler(X, 1000 + 100 * rng.normal(size=60), groups, n_support=2)
    models = [from_parts(), EmpiricalBayes.regressor(2, num_steps=2)]
    for model in models:
        fit(model, tasks, 3, batch_size=4, device="cpu", progress=False)
    assert models[0].measured
    for one, other in zip(*(model.state_dict().values() for model in models), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(ValueError, match="expected features and labels of about unit scale"):
        fit(from_parts(standardize=False), tasks, 3, batch_size=4, device="cpu", progress=False)


def test_training_tells_of_columns_that_number_the_rows():
    """A file that is sorted by class is told apart by them, and no other file is."""
    rng = np.random.default_rng(0)
    X = np.c_[rng.normal(size=(60, 2)), np.arange(1, 61)]
    frame = pd.DataFrame(X, columns=["a", "b", "nr"])
    said = "numbers the rows, from 1 to 60, and counts as a feature; leave it out"
    classes, groups = np.repeat(np.arange(6), 10), np.repeat(np.arange(12), 5)
    episodes = [EpisodeSampler(rows, classes, 2, 1, 2) for rows in (frame, X, X[:, :2])]
    model = EmpiricalBayes.classifier(3, width=4, num_steps=1)
    assert [notes_on_classes(model, tasks) for tasks in episodes[1:]] == [[f"X: column 2 {said} (--exclude)"], []]
    assert notes_on_classes(model, MixedSampler([episodes[2], episodes[2]])) == []
    with pytest.warns(UserWarning, match=f"fit: X: column 'nr' {said}"):
        fit(model, episodes[0], 1, 2, progress=False)
    with pytest.warns(UserWarning, match=f"fit: X: column 2 {said}"):
        fit(EmpiricalBayes.regressor(3, num_steps=0), GroupSampler(X, X[:, 0], groups), 1, 2, progress=False)


def test_of_many_rows_random_groups_are_looked_at(monkeypatch):
    """Feature 1 is the same within every group. Draws of 64 groups go on until 2,000 numbers are seen."""
    rng, group = np.random.default_rng(0), np.repeat(np.arange(400), 5)
    X = np.stack([rng.normal(size=2000), rng.normal(size=400)[group]], 1)
    tasks, model = GroupSampler(X, rng.normal(size=2000), group, n_support=2), EmpiricalBayes.regressor(2)
    wanted = notes_on_groups(model, tasks)
    assert [note[:42] for note in wanted] == ["feature 1 never varies within a group, so "]
    monkeypatch.setattr("ebmeta.training.preparation.LOOKED_AT", 2000)
    monkeypatch.setattr(GroupSampler, "parts", None)  # which would read all rows
    drawn = []
    monkeypatch.setattr(
        GroupSampler, "sample", lambda *args, old=GroupSampler.sample: drawn.append(old(*args)) or drawn[-1]
    )
    assert notes_on_groups(model, tasks) == wanted
    assert sum(len(batch) for batch in drawn) == 256
