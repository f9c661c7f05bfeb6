"""Unrolling: how many steps there are, and what the facts of a batch say."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from builders import class_tasks, classifier, close, real_tasks, regressor

from ebmeta.likelihood import Normal
from ebmeta.parts.gaussian import DiagonalGaussian
from ebmeta.refine.base import QueryState, Setting, SyntheticGradient
from ebmeta.refine.gradient import GradientRefiner
from ebmeta.refine.mlp_synthetic_gradient import MLPSyntheticGradient


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


def test_strength_is_the_mean_log_ratio_of_precisions_over_real_classes():
    prior = DiagonalGaussian(torch.zeros(1, 3, 2).double(), torch.ones(1, 3, 2).double())
    q0 = DiagonalGaussian(prior.loc, torch.tensor([[[4.0, 16.0], [1.0, 2.0], [99.0, 99.0]]]).double())
    ways = torch.tensor([[True, True, False]])
    setting = Setting(q0, prior, Normal(), torch.zeros(1, 1, 2).double(), torch.ones(1, 1, dtype=torch.bool), ways, 1.0)
    close(setting.strength, torch.tensor([math.log(4 * 16 * 1 * 2) / 4], dtype=torch.float64))


def test_shares_are_equal_where_that_is_known_and_possible():
    """Three classes: six queries can have equal shares, five cannot; a concentration of 2 says nothing of the kind."""
    queries = torch.arange(6) < torch.tensor([[6], [5], [6]])
    known = torch.tensor([math.inf, math.inf, 2.0])
    q0 = DiagonalGaussian(torch.zeros(3, 3, 2), torch.ones(3, 3, 2))
    ways = torch.ones(3, 3, dtype=torch.bool)
    setting = Setting(q0, q0, Normal(), torch.zeros(3, 6, 2), queries, ways, 1.0, concentration=known)
    assert setting.equal is not None
    assert setting.equal.tolist() == [True, False, False]
    close(setting.design, torch.tensor([[1, 1 / 6, 0], [0, 1 / 5, 0], [0, 1 / 6, 0]]))
    untold = replace(setting, concentration=None)
    assert untold.equal is None
    close(untold.design, setting.design * torch.tensor([0.0, 1.0, 1.0]))


def test_a_pile_of_queries_counts_by_its_logarithm_between_a_hundred_and_fifteen_hundred():
    q0 = DiagonalGaussian(torch.zeros(4, 3, 2), torch.ones(4, 3, 2))
    queries = torch.arange(3000) < torch.tensor([[100], [300], [1500], [3000]])
    setting = Setting(q0, q0, Normal(), torch.zeros(4, 3000, 2), queries, torch.ones(4, 3, dtype=torch.bool), 1.0)
    close(setting.design[:, 2], torch.tensor([1.0, 3.0, 15.0, 15.0]).log())


def test_padded_queries_change_nothing_whatever_their_features():
    model, batch = regressor(), real_tasks()
    setting = model.infer(batch).setting
    other = replace(setting, x=torch.where(setting.query_mask.unsqueeze(-1), setting.x, 1e3))
    assert not torch.equal(other.x, setting.x)
    for a, b in zip(model.refiner(setting), model.refiner(other), strict=True):
        assert torch.equal(a.q.loc, b.q.loc)
        assert torch.equal(a.q.precision, b.q.precision)


def test_a_state_is_read_once():
    model, batch = classifier(), class_tasks()
    setting, calls = model.infer(batch).setting, []

    def read(state: QueryState) -> int:
        calls.append(state)
        return len(calls)

    state = QueryState(setting, setting.q0)
    assert [state.once(read), state.once(read)] == [1, 1]
    assert calls == [state]


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
    model.refiner = Own(model.refiner.synthetic_gradient, 2)
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
