"""Unrolling: how many steps there are, what they may return, and how the path of training is compiled."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from builders import class_tasks, classifier, close, real_tasks, regressor

import ebmeta
from ebmeta.refine.base import SyntheticGradient
from ebmeta.refine.gradient import GradientRefiner
from ebmeta.refine.mlp_synthetic_gradient import MLPSyntheticGradient
from ebmeta.refine.state import QueryState


def test_a_number_of_steps_below_zero_is_refused():
    with pytest.raises(ValueError, match="num_steps: expected at least 0, got -1"):
        GradientRefiner(MLPSyntheticGradient(2), -1)
    with pytest.raises(ValueError, match="num_steps: expected at least 0, got -2"):
        classifier().posterior(class_tasks(), -2)


def test_steps_need_a_trained_step():
    model = regressor(num_steps=0)
    assert len(model.posterior(real_tasks(), 0)) == len(model.posterior(real_tasks())) == 1
    with pytest.raises(ValueError, match="built with no refinement steps, got 2"):
        model.posterior(real_tasks(), 2)


def test_fewer_steps_are_the_start_of_the_path():
    model, batch = classifier(num_steps=3), class_tasks()
    for a, b in zip(model.posterior(batch, 1), model.posterior(batch), strict=False):
        assert torch.equal(a.loc, b.loc)
        assert torch.equal(a.precision, b.precision)


def test_padded_queries_change_nothing_whatever_their_features():
    model, batch = regressor(), real_tasks()
    setting = model.infer(batch).setting
    other = replace(setting, x=torch.where(setting.query_mask.unsqueeze(-1), setting.x, 1e3))
    assert not torch.equal(other.x, setting.x)
    for a, b in zip(model.refiner(setting), model.refiner(other), strict=True):
        assert torch.equal(a.q.loc, b.q.loc)
        assert torch.equal(a.q.precision, b.q.precision)


def test_steps_go_on_from_the_posterior_as_it_was():
    """What is reported under a fitted temperature is another posterior than the next step starts from."""
    model, batch = classifier(), class_tasks()
    assert model.refiner.temperature.fitted  # by the perturbation
    inferred = model.infer(batch)
    for k in range(3):
        here, after = inferred.iterates[k : k + 2]
        close(after.q.loc, model.refiner.step(k, QueryState(inferred.setting, here.q)).loc, 0.0)
        assert not torch.allclose(after.q.loc, inferred.path[k + 1].loc)
    model.refiner.temperature.forget()
    cold = model.infer(batch)
    for a, b in zip(inferred.iterates, cold.iterates, strict=True):
        assert torch.equal(a.q.loc, b.q.loc)
        assert b.posterior is b.q


@pytest.mark.parametrize(
    ("step", "wanted"),
    [
        (lambda q: q.loc, "a Gaussian, got tensor"),
        (lambda q: q[:1], r"a Gaussian of shape \(4, 1, 4\), got \(1, 1, 4\)"),
    ],
    ids=["no gaussian", "one task"],
)
def test_a_step_keeps_the_shape(step, wanted):
    """The posterior of one task was taken for that of all."""

    class Own(GradientRefiner):
        def step(self, k, state):
            return step(state.q)

    model = regressor(num_steps=2)
    model.refiner = Own(model.refiner.synthetic_gradient, 2).double()
    with pytest.raises(ValueError, match=rf"refiner, step 0: expected {wanted}"):
        model.posterior(real_tasks())


def test_a_synthetic_gradient_is_of_every_query():
    """That of one task was taken for that of all."""

    class Own(SyntheticGradient):
        def forward(self, state):
            return torch.zeros_like(state.loc)[:1]

    model = regressor(num_steps=1)
    model.refiner = GradientRefiner(Own(), 1).double()
    said = r"refiner, synthetic gradient: expected a Tensor of shape \(4, 7, 1\), got \(1, 7, 1\)"
    with pytest.raises(ValueError, match=said):
        model.posterior(real_tasks())


@pytest.fixture
def compiler(monkeypatch):
    """What the compiler of torch leaves behind is undone: it turns the checks of distributions off for good."""
    checks = torch.distributions.Distribution
    monkeypatch.setattr(checks, "_validate_args", checks._validate_args)
    yield
    torch.compiler.reset()


def slopes(model, batch):
    model.refiner.forget()
    model.zero_grad()
    objective = ebmeta.Objective("predictive", num_draws=2)
    loss = objective.total(objective.terms(model, batch))
    loss.backward()
    return {"loss": loss.detach()} | {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.usefixtures("compiler")
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # while torch compiles
@pytest.mark.parametrize(
    ("model", "batch"),
    [
        (classifier(num_steps=2, synthetic_gradient="joint"), class_tasks()),
        (classifier(num_steps=1), class_tasks()),
        (regressor(num_steps=1), real_tasks()),
    ],
    ids=["joint", "mixture", "numbers"],
)
def test_the_path_of_training_is_one_graph_with_the_same_gradients(model, batch):
    """`fullgraph` raises where Python has to step in; half of the tasks know that shares are equal."""
    equal = torch.tensor([torch.inf, torch.nan]).repeat(len(batch))[: len(batch)].double()
    batch = replace(batch, concentration=equal) if model.likelihood.categorical else batch
    wanted = slopes(model, batch)
    model.refiner.compile(backend="eager", fullgraph=True)
    found = slopes(model, batch)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        close(found[name], value, 1e-9)


@pytest.mark.usefixtures("compiler")
@pytest.mark.filterwarnings("ignore:The .grad attribute")
def test_predictions_and_copies_are_not_compiled():
    def refuse(graph, inputs):
        raise AssertionError("compiled")

    model, batch = classifier(num_steps=1), class_tasks()
    wanted = ebmeta.predict(model, batch)
    model.refiner.compile(backend=refuse)
    assert ebmeta.predict(model, batch).identical(wanted)
    model.posterior(batch)  # with gradients, and a fitted temperature
    slopes(copy.deepcopy(model), batch)
    with pytest.raises(Exception, match="compiled"):
        slopes(model, batch)
