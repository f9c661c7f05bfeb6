"""What corrections cost in evidence: exact where labels can be summed out, nothing where nothing is corrected."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import class_tasks, classifier, joint_model
from scipy import integrate, special, stats

from ebmeta.diagnostics import belief_cost
from ebmeta.diagnostics.common import mean_of
from ebmeta.refine.belief import self_consistent
from ebmeta.simulate.gaussian_classes import GaussianClasses

LINE = GaussianClasses(1, between=2.0, within=1.0, concentration=2.0, n_way=3, n_query=4)
APART = GaussianClasses(8, between=100.0, within=1.0, concentration=2.0, n_way=3, n_query=4)


def bound(batch, t, r):
    """Return L(r) of one task of `LINE` by a quadrature for every class, from its definition."""
    total = special.entr(r).sum() + special.gammaln(6) - special.gammaln(6 + r.sum())
    total += (special.gammaln(2 + r.sum(0)) - special.gammaln(2)).sum()
    x, own = batch.query_x[t, :, 0].numpy(), batch.support_x[t, :, 0].numpy()
    for c, label in enumerate(batch.support_y[t].tolist()):
        prior = stats.norm(own[c] / 1.5, 1.5**-0.5)  # precision 1 / 2 + 1

        def density(m, label=label, prior=prior):
            return prior.pdf(m) * np.exp((r[:, label] * stats.norm.logpdf(x, m)).sum())

        total += np.log(integrate.quad(density, -12, 12, epsabs=0, epsrel=1e-10, limit=200)[0])
    return total


@torch.no_grad()
def test_evidence_and_costs_are_those_of_the_definition():
    model, batch = joint_model(LINE, 2, scale=0.1), LINE.sample(3).to(torch.float64)
    assert batch.support_y.tolist() == [[0, 1, 2]] * 3
    model.refiner.forget()
    data, inferred = belief_cost(model, batch), model.infer(batch)
    own, _ = self_consistent(inferred.setting, 50)
    best = torch.tensor([bound(batch, t, own[t].numpy()) for t in range(3)])
    np.testing.assert_allclose([data["own_evidence"], data["own_evidence_half_width"]], np.stack(mean_of(best)))
    for k in (1, 2):
        probs = [inferred.predict(k)["probs"][t].numpy() for t in range(3)]
        predicted = torch.tensor([bound(batch, t, p) for t, p in enumerate(probs)])
        cost, half = mean_of(best - predicted)
        np.testing.assert_allclose(data["cost_of_predictions"][k], cost, atol=1e-7)
        np.testing.assert_allclose(data["cost_of_predictions_half_width"][k], half, atol=1e-7)
    # Without a temperature, what is predicted after a step is what the next one counts.
    counted = torch.tensor([bound(batch, t, inferred.predict(1)["probs"][t].numpy()) for t in range(3)])
    np.testing.assert_allclose(data["evidence"][2], counted.mean(), atol=1e-7)
    np.testing.assert_allclose(data["cost"][2], (best - counted).mean(), atol=1e-7)
    assert np.isnan(data["evidence"][0])
    score = -own.gather(-1, batch.query_y.unsqueeze(-1)).log().mean()
    np.testing.assert_allclose(data["own_nll"], score)


@torch.no_grad()
def test_beliefs_of_classes_far_apart_reach_the_evidence():
    """Labels are certain: nothing is lost by the bound, and nothing gained by a correction."""
    batch = APART.sample(20).to(torch.float64)
    data = belief_cost(joint_model(APART), batch)
    exact, _ = APART.exact(batch)
    np.testing.assert_allclose(data["own_evidence"], exact.mean(), atol=1e-6)
    np.testing.assert_allclose(data["cost"][1:], 0, atol=1e-6)
    np.testing.assert_allclose(data["cost_of_predictions"], 0, atol=1e-6)
    assert float(data["own_nll"]) < 1e-6


def test_steps_without_correction_end_at_the_own_belief():
    batch = class_tasks(spread=1.0)
    told = replace(batch, concentration=torch.tensor([torch.inf, 2.0, torch.nan, torch.inf], dtype=torch.float64))
    data = belief_cost(classifier(4, 60, scale=0.0, synthetic_gradient="joint"), told, num_iterations=60)
    np.testing.assert_allclose(data["cost"][-1], 0, atol=1e-9)
    np.testing.assert_allclose(data["nll"][-1], data["own_nll"], atol=1e-6)
    assert float(data["own_change"]) < 1e-3
    few = belief_cost(classifier(4, 1, scale=0.0, synthetic_gradient="joint"), told, num_iterations=1)
    np.testing.assert_allclose(few["cost"][1], 0, atol=1e-9)
    assert float(few["own_change"]) > 0.5  # from no belief to the first


def test_corrections_cost_evidence():
    """The network at random numbers: its beliefs explain the inputs less well than the model's own."""
    batch = class_tasks(spread=2.0)
    data = belief_cost(classifier(4, 3, scale=0.3, synthetic_gradient="joint"), batch)
    assert (data["cost"][1:] > 0.1).all()
    np.testing.assert_allclose(data["own_evidence"] - data["evidence"][1:], data["cost"][1:])


def test_a_temperature_costs_evidence_of_predictions_alone():
    """Steps go on from beliefs as they were: the cost of what is counted stays."""
    batch, model = class_tasks(spread=1.0), classifier(4, 40, scale=0.0, synthetic_gradient="joint")
    plain = belief_cost(model, batch)
    model.refiner.temperature.bias.fill_(-2.0)
    doubtful = belief_cost(model, batch)
    np.testing.assert_array_equal(doubtful["cost"], plain["cost"])
    np.testing.assert_allclose(plain["cost_of_predictions"][-1], 0, atol=1e-6)
    assert float(doubtful["cost_of_predictions"][-1]) > 0.05


@pytest.mark.parametrize("kind", ["mixture", "residual"])
def test_models_of_labels_alone_are_refused(kind):
    with pytest.raises(ValueError, match="expected a joint model of inputs and labels, got one with DiagonalPrior"):
        belief_cost(classifier(synthetic_gradient=kind), class_tasks())


def test_bad_input():
    model = classifier(synthetic_gradient="joint")
    with pytest.raises(ValueError, match="belief_cost: expected query labels, got unlabelled tasks"):
        belief_cost(model, class_tasks().unlabelled())
    with pytest.raises(ValueError, match="tasks: expected at least 2, got 1"):
        belief_cost(model, class_tasks()[:1])
    with pytest.raises(ValueError, match="belief_cost: expected tasks without outliers, got some"):
        belief_cost(model, replace(class_tasks(), outliers=torch.tensor([False, True, False, False])))
