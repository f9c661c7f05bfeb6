"""Sources of tasks: what each knows, what it refuses, and what stands in for one."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import class_tasks, number_tasks, real_tasks

import ebmeta
from ebmeta import EmpiricalBayes, EpisodeSampler, GroupSampler, MixedSampler, TaskBatch
from ebmeta.simulate import LinearGaussianTasks, SineTasks, SpinningLines
from ebmeta.tasks import FixedTasks, TaskSource
from ebmeta.tasks.source import as_source

RNG = np.random.default_rng(0)
X, CODES = RNG.normal(size=(60, 3)), np.repeat(np.arange(6), 10)
EPISODES = EpisodeSampler(X, CODES, 2, 1, 3)
GROUPS = GroupSampler(X, X[:, 0], CODES, n_support=2)


class Own:
    """The least that a user's object has to do."""

    def __init__(self, tasks=EPISODES) -> None:
        self.tasks, self.calls = tasks, []

    def sample(self, num_tasks, index=0):
        self.calls.append((num_tasks, index))
        return self.tasks.sample(num_tasks, index)


SOURCES = [
    EPISODES, MixedSampler([EPISODES]), GROUPS, LinearGaussianTasks(np.zeros(3), np.eye(3)), SineTasks(),
    SpinningLines(), FixedTasks(real_tasks()), as_source(Own()),
]  # fmt: skip


def same(a: TaskBatch, b: TaskBatch) -> bool:
    names = ("support_x", "support_y", "query_x", "query_y", "support_mask", "query_mask", "way_mask")
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in names)


@pytest.mark.parametrize("source", SOURCES, ids=lambda s: s.name)
def test_every_source_answers_everything(source):
    """Each capability is there, or says so in one plain line."""
    assert isinstance(source, TaskSource)
    assert as_source(source) is source
    assert same(source.sample(3, 2), source.sample(3, 2))
    of_classes, of_groups = bool(source.class_rows), source.labels() is not None
    assert (source.difficulty is None) == (not of_classes)
    assert (source.groups is None) == (not of_groups)
    assert source.feature_names is source.covariate_names is source.encoder is None
    for call, possible, words in (
        (lambda: source.rows(12), of_classes, "profile: expected tasks of an EpisodeSampler or MixedSampler, got "),
        (lambda: source.harder(0.5), of_classes, "harder: expected tasks of an EpisodeSampler or MixedSampler, got "),
        (lambda: list(source.parts(30)), source.num_groups is not None, "tasks: expected a GroupSampler or a TaskBat"),
    ):
        if possible:
            call()
        else:
            with pytest.raises(ValueError, match=f"^{words}.*{source.name}$"):
                call()


def test_a_source_has_to_sample():
    with pytest.raises(TypeError, match="abstract"):
        TaskSource()


@pytest.mark.parametrize("source", SOURCES, ids=lambda s: s.name)
def test_draws_are_as_many_as_asked_for(source):
    assert [len(batch) for batch in source.draws(7, 3)] == [3, 3, 1]


def test_evaluations_see_batches_of_64_tasks_in_order():
    own = Own()
    assert [len(batch) for batch in as_source(own).batches(150)] == [64, 64, 22]
    assert own.calls == [(64, 0), (64, 1), (22, 2)]
    list(as_source(own).draws(5, 2, seed=3))
    assert own.calls[3:] == [(2, 9), (2, 10), (1, 11)]


@pytest.mark.parametrize("source", SOURCES, ids=lambda s: s.name)
def test_every_second_task_of_every_source_has_unknown_proportions(source):
    unknown = source.with_unknown_proportions()
    assert unknown.with_unknown_proportions().fingerprint() == unknown.fingerprint()
    for index in (0, 1):
        batch, seen = source.sample(4, index), unknown.sample(4, index)
        assert same(seen, unknown.sample(4, index))
        told, width = [0, 2] if index == 0 else [1, 3], batch.support_x.shape[1]
        assert torch.equal(seen.support_x[told, :width], batch.support_x[told])
        assert torch.equal(seen.support_mask[told, :width], batch.support_mask[told])
        assert torch.equal(seen.query_x[told], batch.query_x[told])
        assert torch.equal(seen.query_mask[told], batch.query_mask[told])
        if batch.support_y.is_floating_point():
            assert same(seen, batch)
        else:
            assert seen.concentration.isinf().nonzero()[:, 0].tolist() == told
            assert seen.concentration.isnan().sum() == 2
            assert not torch.equal(seen.query_y * seen.query_mask, batch.query_y * batch.query_mask)
    if source.fingerprint() is None or source.labels() is not None:
        assert unknown.fingerprint() == source.fingerprint()
    else:
        assert unknown.fingerprint() != source.fingerprint()


def test_the_tasks_of_a_batch_come_round_again():
    batch = real_tasks()
    tasks = FixedTasks(batch)
    assert tasks.batches(600) == [batch]
    assert tasks.batches(1) == [batch]
    assert (tasks.count(3), tasks.count(600), tasks.num_groups) == (3, 4, 4)
    assert EPISODES.count(600) == GROUPS.count(600) == 600
    assert same(tasks.sample(3, 1), batch[[3, 0, 1]])
    for seed in (0, 5):
        drawn = list(tasks.draws(6, 4, seed))
        assert same(drawn[0], batch)
        assert same(drawn[1], batch[[0, 1]])


def test_parts_of_a_batch_hold_every_task_once():
    batch = replace(number_tasks("poisson"), task_x=torch.arange(4.0)[:, None])
    parts = list(FixedTasks(batch).parts(20))
    assert sorted(t for part in parts for t in part.task_x.flatten().tolist()) == [0.0, 1.0, 2.0, 3.0]
    assert len(parts) > 1
    for part in parts:
        assert len(part) == 1 or len(part) * (part.support.width + part.query.width) <= 20
        for row in range(len(part)):
            own = batch[[int(part.task_x[row])]].trimmed()
            assert same(part[[row]].trimmed(), own)


def test_fingerprints_of_batches_tell_content():
    batch = class_tasks()
    known = FixedTasks(batch).fingerprint()
    assert known == FixedTasks(class_tasks()).fingerprint()
    others = (
        replace(batch, concentration=torch.ones(4)), batch.unlabelled(), batch[[1, 0, 2, 3]],
        replace(batch, query_x=batch.query_x + 1), replace(batch, way_class=torch.zeros(4, 5).long()),
    )  # fmt: skip
    assert len({known, *(FixedTasks(other).fingerprint() for other in others)}) == 6


@pytest.mark.filterwarnings("ignore:tasks. training or validation has used most of these groups:UserWarning")
@pytest.mark.parametrize("kind", ["classifier", "regressor"])
def test_an_object_that_samples_trains_and_is_scored_as_its_tasks_are(kind):
    """An EpisodeSampler draws tasks of unknown proportions itself, which its tasks alone cannot."""
    tasks = FixedTasks(EPISODES.sample(8)) if kind == "classifier" else GROUPS
    scored = EPISODES if kind == "classifier" else GROUPS
    found = []
    for source, other in ((Own(tasks), Own(scored)), (tasks, scored)):
        model = getattr(EmpiricalBayes, kind)(3, num_steps=1)
        history = ebmeta.fit(model, source, 3, 4, harder=0.0, progress=False).history
        found.append((history["loss"].values, ebmeta.evaluate(model, other, 70)["nll"].values))
    for got, expected in zip(*found, strict=True):
        np.testing.assert_array_equal(got, expected)
    with pytest.raises(ValueError, match="harder: expected 0 for tasks that are not drawn from class feat"):
        ebmeta.fit(EmpiricalBayes.classifier(3), Own(), 1, harder=0.5, progress=False)


def test_a_source_of_ones_own_says_what_it_knows():
    class Named(TaskSource):
        feature_names = ("a", "b", "c")
        groups = np.arange(6)

        def sample(self, num_tasks, index=0):
            return GROUPS.sample(num_tasks, index)

    model = EmpiricalBayes.regressor(3, num_steps=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ebmeta.fit(model, Named(), 1, 4, progress=False)
    assert model.feature_names == ["a", "b", "c"]
    with pytest.raises(ValueError, match=r"validation: expected groups that training does not have, got .* in both"):
        ebmeta.fit(EmpiricalBayes.regressor(3), Named(), 1, 4, validation=Named(), progress=False)


def test_training_on_the_tasks_of_one_batch():
    model = EmpiricalBayes.regressor(3, num_steps=1)
    result = ebmeta.fit(model, FixedTasks(real_tasks(dtype=torch.float32)), 3, 3, progress=False)
    assert np.isfinite(result.history["loss"].values).all()
    with pytest.raises(
        ValueError, match="tasks: expected a source such as EpisodeSampler.X, y. or FixedTasks.batch., got TaskBatch"
    ):
        ebmeta.fit(model, real_tasks(), 1, progress=False)
