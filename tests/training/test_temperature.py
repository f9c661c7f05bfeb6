"""The temperature of a task: fitted last, and following the task's difficulty."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import torch

from ebmeta import EmpiricalBayes, TaskBatch, fit
from ebmeta.prediction.trees import marginals
from ebmeta.tasks.source import as_source
from ebmeta.training.preparation import prepare
from ebmeta.training.temperature import TASKS, fit_task_temperature, unseen
from tests.training.test_preparation import episodes


def scores(model: EmpiricalBayes, batch: TaskBatch) -> torch.Tensor:
    """Mean NLL of every refined posterior in nats per query."""
    probs = torch.cat([m.summaries["probs"] for m in marginals(model, batch)], 1)
    assert batch.query_y is not None
    return -probs[1:].gather(-1, batch.query_y.expand(len(probs) - 1, -1, -1).unsqueeze(-1)).log().mean((1, 2, 3))


def test_a_fitted_temperature_follows_the_difficulty_of_a_task():
    model, tasks = EmpiricalBayes.classifier(4, num_steps=1, synthetic_gradient="mixture"), episodes(1.0).harder(3.0)
    prepare(model, episodes(1.0), 16, torch.device("cpu"))
    with torch.no_grad():
        model.refiner.log_scale.fill_(1.0)
    easy, hard = episodes(0.3, seed=1).sample(64), episodes(3.0, seed=1).sample(64)
    before, kept = scores(model, hard), copy.deepcopy(model.state_dict())
    raw = model.posterior(easy)
    fit_task_temperature(model, (tasks.sample(64, n) for n in range(8)))
    tempered = model.posterior(easy)
    factors = [(a.loc / b.loc).mean((1, 2)) for a, b in zip(tempered, raw, strict=True)]
    assert torch.equal(factors[0], torch.ones(64))  # q_0 has not seen the queries
    of_hard, of_easy = (float(model.refiner.temperature(0, reading(model, b)).mean()) for b in (hard, easy))
    assert of_hard < 0.7 < 1.4 < of_easy
    assert bool((scores(model, hard) < before - 0.1).all())
    changed = {n for n, v in model.state_dict().items() if not torch.equal(v, kept[n])}
    assert changed == {"refiner.temperature.weight", "refiner.temperature.bias"}


def reading(model: EmpiricalBayes, batch: TaskBatch) -> torch.Tensor:
    """What the temperature reads after the first step."""
    seen: list[torch.Tensor] = []
    handle = model.refiner.temperature.register_forward_hook(lambda _, args, __: seen.append(args[1]))
    with torch.no_grad():
        model.posterior(batch)
    handle.remove()
    return seen[0]


def test_training_fits_the_temperature_and_begins_without_one():
    model = EmpiricalBayes.classifier(4, num_steps=1)
    fit(model, episodes(1.0), 2, progress=False)
    first = copy.deepcopy(model.state_dict())
    assert model.refiner.temperature.fitted
    again = EmpiricalBayes.classifier(4, num_steps=1)
    again.refiner.temperature.bias.fill_(0.7)
    fit(again, episodes(1.0), 2, progress=False)
    assert all(torch.equal(v, first[n]) for n, v in again.state_dict().items())


def test_validation_tasks_have_their_part_in_the_fit():
    model, tasks, other = EmpiricalBayes.classifier(4, num_steps=1), episodes(1.0), episodes(1.6, seed=2)
    fit(model, tasks, 4, batch_size=4, validation=other, validation_tasks=8, harder=0.0, device="cpu", progress=False)
    found = copy.deepcopy(model.state_dict())
    sources = [source.with_unknown_proportions() for source in (tasks, other)]
    fit_task_temperature(model, unseen(sources, 4, 4))
    assert all(torch.equal(v, found[n]) for n, v in model.state_dict().items())
    fit_task_temperature(model, unseen(sources[:1], 4, 4))
    assert not torch.equal(model.refiner.temperature.weight, found["refiner.temperature.weight"])


def test_unseen_tasks_follow_those_of_training_and_come_in_other_sizes_too():
    tasks, fixed = episodes(1.0), as_source(episodes(1.0).sample(8))
    drawn = list(unseen([tasks], 40, 16))
    assert len(drawn) == 2 * 40 // 4
    for n in range(10):
        assert torch.equal(drawn[n].query_x, tasks.sample(16, 40 + n).query_x)
        assert torch.equal(drawn[10 + n].query_x, tasks.with_random_sizes().sample(16, 40 + n).query_x)
    assert len({tuple(batch.query_x.shape) for batch in drawn[10:]}) > 5
    assert len(list(unseen([tasks, fixed], 10**6, 64))) == 3 * TASKS // 64


def test_models_without_a_temperature_are_left_alone():
    model = EmpiricalBayes.classifier(4, synthetic_gradient="residual")
    kept = copy.deepcopy(model.state_dict())
    fit_task_temperature(model, [episodes(1.0).sample(4)])
    assert all(torch.equal(v, kept[n]) for n, v in model.state_dict().items())


def test_a_model_without_steps_has_no_temperature_to_fit():
    model = EmpiricalBayes.classifier(4, num_steps=0)
    run = fit(model, episodes(1.0), 2, batch_size=4, device="cpu", progress=False)
    assert run.model is model
    assert not model.refiner.temperature.fitted


@pytest.mark.parametrize("frozen", ["network", "all"])
def test_a_frozen_network_does_not_cost_the_temperature(frozen):
    """It is fitted anew where something else is trained, and kept where nothing is."""
    tasks = episodes(1.0)
    model = fit(EmpiricalBayes.classifier(4, 2, width=4), tasks, 8, progress=False).model
    before = copy.deepcopy(model.refiner.temperature.state_dict())
    assert model.refiner.temperature.fitted
    (model if frozen == "all" else model.refiner.synthetic_gradient).requires_grad_(False)
    with pytest.warns(UserWarning, match="got neither") if frozen == "all" else nullcontext():
        fit(model, tasks, 8, seed=1, progress=False)
    assert model.refiner.temperature.fitted
    same = all(torch.equal(v, before[n]) for n, v in model.refiner.temperature.state_dict().items())
    assert same == (frozen == "all")
