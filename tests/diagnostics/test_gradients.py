"""The report on synthetic gradients: exact where the network is an oracle, silent where it is untrained."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from builders import class_tasks, classifier, joint_model, number_tasks, real_tasks, regressor
from torch import Tensor

import ebmeta
from ebmeta.diagnostics import synthetic_gradients
from ebmeta.refine.base import Iterate, SyntheticGradient
from ebmeta.refine.gradient import GradientRefiner
from ebmeta.refine.state import QueryState
from ebmeta.simulate.gaussian_classes import GaussianClasses


class Oracle(SyntheticGradient):
    """Knows the labels: what no network of the library does."""

    def __init__(self, y: Tensor, likelihood: ebmeta.likelihood.Likelihood, factor: float = 1.0) -> None:
        super().__init__()
        self.y, self.likelihood, self.factor = y, likelihood, factor

    def forward(self, state: QueryState) -> Tensor:
        statistic = self.likelihood.statistic(self.y, state.mean.shape[-1]).to(state.mean)
        return self.factor * (state.mean - statistic)


def with_oracle(model: ebmeta.EmpiricalBayes, y: Tensor, factor: float = 1.0, step: float = 0.5) -> Any:
    model.refiner = GradientRefiner(Oracle(y, model.likelihood, factor), 2, step).double()
    return model


def narrow_counts() -> ebmeta.EmpiricalBayes:
    """Return a model of counts whose steps are not cut (`ebmeta.refine.gradient`), as under a wide prior."""
    model = regressor(num_steps=1, likelihood="poisson")
    model.prior.log_scale.data -= 3.0
    return model


@pytest.mark.parametrize(
    ("model", "batch"),
    [
        (classifier(num_steps=1), class_tasks()),
        (regressor(num_steps=1), real_tasks()),
        (narrow_counts(), number_tasks("poisson")),
    ],
    ids=["classes", "real", "counts"],
)
def test_an_oracle_has_cosine_one_and_its_step_for_a_ratio(model, batch) -> None:
    data = synthetic_gradients(with_oracle(model, batch.query_y), batch)
    for name in ("gradient_cosine", "gradient_ratio", "gradient_slope", "move_cosine"):
        np.testing.assert_allclose(data[name], 1, rtol=1e-6, err_msg=name)
    np.testing.assert_allclose(data["move_ratio"], 0.5, rtol=1e-6)
    np.testing.assert_allclose(data["gradient_cosine_half_width"], 0, atol=1e-6)
    if model.likelihood.categorical:
        assert data["belief_brier"].values.tolist() == [0, 0]
        np.testing.assert_allclose(data["belief_nll"], 0, atol=1e-12)
        assert data["belief_accuracy"].values.tolist() == [1, 1]
        np.testing.assert_allclose(data["belief_ece"], 0, atol=1e-12)
    else:
        np.testing.assert_allclose(data["belief_error"], 0, atol=1e-9)
        np.testing.assert_allclose(data["belief_z_square"], 0, atol=1e-9)
    against = synthetic_gradients(with_oracle(model, batch.query_y, factor=-2.0), batch)
    np.testing.assert_allclose(against["gradient_cosine"], -1, rtol=1e-6)
    np.testing.assert_allclose(against["gradient_ratio"], 2, rtol=1e-6)
    np.testing.assert_allclose(against["gradient_slope"], -0.5, rtol=1e-6)
    np.testing.assert_allclose(against["gradient_slope_half_width"], 0, atol=1e-6)
    np.testing.assert_allclose(against["move_cosine"], -1, rtol=1e-6)


def test_a_full_step_with_the_labels_solves_a_quadratic_loss() -> None:
    batch = real_tasks()
    model = regressor(num_steps=1, beta=0.0)
    with_oracle(model, batch.query_y, step=0.1)
    data = synthetic_gradients(model, batch)
    assert data.attrs["verdict"] == "helps"
    assert data["harmed"].values.tolist() == [0, 0]
    assert data.attrs["words"].startswith("Refinement gains")


@pytest.mark.parametrize("kind", ["residual", "mlp", "real"])
def test_an_untrained_network_does_nothing(kind) -> None:
    if kind == "real":
        model, batch = regressor(scale=0.0), real_tasks()
    else:
        model = classifier(scale=0.0, synthetic_gradient=kind, n_way=3)
        batch = class_tasks((3,) * 4)
    data = synthetic_gradients(model, batch)
    for name in ("gradient_ratio", "move_ratio", "gain"):
        np.testing.assert_allclose(data[name], 0, atol=1e-12, err_msg=name)
    assert data["harmed"].values.tolist() == [0, 0, 0]
    for name in ("gradient_cosine", "move_cosine"):
        assert np.isnan(data[name].values).all(), name
    assert data.attrs["verdict"] == "no change"
    assert "cosine" not in data.attrs["words"]


@pytest.mark.parametrize("kind", ["mixture", "residual"])
def test_cosines_against_dense_arithmetic(kind) -> None:
    model, batch = classifier(synthetic_gradient=kind), class_tasks()
    if kind == "mixture":
        model.refiner.temperature.forget()  # steps do not start from what it makes of them
    data = synthetic_gradients(model, batch)
    path = [q.with_(q.loc.detach(), q.precision.detach()) for q in model.posterior(batch)]
    x = model.predictor.features(batch.query_x, batch.query_mask).detach()
    for k, (q, after) in enumerate(itertools.pairwise(path)):
        loc, var = q.marginal(x)
        p = model.likelihood.moments(loc, var, batch.way_mask)[0]
        for t in range(len(batch)):
            rows, ways = int(batch.num_queries[t]), int(batch.way_mask[t].sum())
            onehot = np.eye(ways)[batch.query_y[t, :rows]]
            g = (p[t, :rows, :ways].numpy() - onehot).T @ x[t, :rows].numpy()
            move = (after.loc - q.loc)[t, :ways].numpy()
            precision = after.precision[t, :ways].numpy()
            cosine = -(move * g).sum() / np.sqrt((move**2 * precision).sum() * (g**2 / precision).sum())
            assert float(data["move_cosine_by_task"][k, t]) == pytest.approx(cosine, abs=1e-9)


def test_the_true_gradient_is_that_of_the_expected_loss() -> None:
    model, batch = regressor(num_steps=1), real_tasks()
    data = synthetic_gradients(model, batch)
    q, after = model.posterior(batch)
    loc = q.loc.detach().requires_grad_()
    x = model.predictor.features(batch.query_x, batch.query_mask).detach()
    inferred = model.infer(batch)
    setting = dataclasses.replace(inferred.setting, x=x)
    inferred = dataclasses.replace(inferred, setting=setting, iterates=[Iterate(q.with_(loc, q.precision.detach()))])
    nll = -torch.where(batch.query_mask, inferred.log_prob(0, batch.query_y, torch.zeros(1), predictive=False), 0.0)
    (g,) = torch.autograd.grad(nll.sum(), loc)
    move = (after.loc - q.loc).detach()
    metric = after.precision.detach()
    inverse = torch.einsum("tcp,tcpr,tcr->t", g, metric.inverse(), g)
    length = torch.einsum("tcp,tcpr,tcr->t", move, metric, move)
    cosine = -(move * g).sum((1, 2)) / (inverse * length).sqrt()
    np.testing.assert_allclose(data["move_cosine_by_task"][0], cosine.detach(), rtol=1e-9)
    np.testing.assert_allclose(data["move_ratio"][0], (length / inverse).sqrt().mean().detach(), rtol=1e-9)


@pytest.mark.parametrize(
    ("model", "batch"),
    [
        (classifier(), class_tasks()),
        (regressor(), real_tasks()),
        (regressor(likelihood="normal_per_task"), real_tasks()),
        (regressor(likelihood="student_t"), real_tasks()),
        (regressor(likelihood="negative_binomial"), number_tasks("negative_binomial")),
    ],
    ids=["classes", "normal", "levels", "student_t", "negative_binomial"],
)
def test_gains_are_differences_of_the_scores(model, batch) -> None:
    data, scores = synthetic_gradients(model, batch, num_steps=2), ebmeta.evaluate(model, batch, num_steps=2)
    np.testing.assert_allclose(data["gain"], -np.diff(scores["nll"]), atol=1e-8)
    np.testing.assert_allclose(data["harmed"], (data["gain_by_task"] < 0).mean("task"))
    assert data["step"].values.tolist() == [1, 2]
    assert (np.abs(data["move_cosine"]) <= 1 + 1e-9).all()
    assert np.isfinite(data["gradient_cosine_by_task"]).all()


CLOUDS = GaussianClasses(2, between=2.0, within=1.0, concentration=2.0, n_way=3, n_query=6)


def test_an_uncorrected_belief_has_no_synthetic_gradient() -> None:
    """Steps move all the same, and their belief is what predictions say before them."""
    model, batch = joint_model(CLOUDS, 2), CLOUDS.sample(40).to(torch.float64)
    data, scores = synthetic_gradients(model, batch), ebmeta.evaluate(model, batch)
    np.testing.assert_allclose(data["gradient_ratio"], 0, atol=1e-12)
    assert np.isnan(data["gradient_cosine"].values).all()
    assert (data["move_cosine"] > [0.5, 0]).all()
    for name in ("nll", "accuracy", "brier"):
        np.testing.assert_allclose(data[f"belief_{name}"], scores[name][:-1], rtol=1e-6)
    np.testing.assert_allclose(data["gain"], -np.diff(scores["nll"]), atol=1e-8)


@torch.no_grad()
def test_a_corrected_belief_has_that_of_its_correction() -> None:
    """By dense arithmetic: r* - r and r* - y by the derivative of a predictor, (x - m) / s; moves with the labels."""
    model, batch = joint_model(CLOUDS, 1, scale=0.3), CLOUDS.sample(5).to(torch.float64)
    data, inferred = synthetic_gradients(model, batch), model.infer(batch)
    q, after = (iterate.q for iterate in inferred.iterates)
    believed = (after.counted, q.log_odds(inferred.x)[0].softmax(-1))
    truth = torch.nn.functional.one_hot(batch.query_y, 3).double()
    off = (batch.query_x.unsqueeze(2) - q.loc.unsqueeze(1)) / model.prior.within
    ours, true = (torch.einsum("tqc,tqcd->tcd", believed[1] - r, off) for r in (believed[0], truth))
    wanted, move = (after.precision * (q.loc - v.loc) for v in (q.given_beliefs(batch.query_x, truth), after))
    for name, g, against in (("gradient", ours, true), ("move", move, wanted)):
        cosine, *norms = ((a * b / after.precision).sum((1, 2)) for a, b in ((g, against), (g, g), (against, against)))
        cosine = cosine / (norms[0] * norms[1]).sqrt()
        np.testing.assert_allclose(data[f"{name}_cosine_by_task"][0], cosine, rtol=1e-9)
    np.testing.assert_allclose(data["belief_brier"][0], (believed[0] - truth).square().sum(-1).mean(), rtol=1e-9)


def test_a_belief_of_numbers_is_judged_by_the_spread_that_the_posterior_states() -> None:
    model, batch = regressor(num_steps=1, scale=0.0), real_tasks()  # untrained: the belief is the mean of eta
    data = synthetic_gradients(model, batch)
    inferred = model.infer(batch)
    loc, var = (v.squeeze(-1) for v in inferred.marginal(0))
    error = torch.where(batch.query_mask, loc - batch.query_y, 0.0)
    z = -error / (var + model.likelihood.dispersion()).sqrt()
    for name, value in (("belief_error", error), ("belief_z", z), ("belief_z_square", z.square())):
        mean = ((value * batch.query_mask).sum(1) / batch.num_queries).mean()
        assert float(data[name][0]) == pytest.approx(mean.item(), rel=1e-9), name
    assert "belief_nll" not in data


def test_what_is_no_distribution_has_no_likelihood() -> None:
    model = classifier(synthetic_gradient="mlp", n_way=3)
    data = synthetic_gradients(model, class_tasks((3,) * 4))
    assert "belief_brier" in data
    assert not {"belief_nll", "belief_accuracy", "belief_ece"} & set(data)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="num_steps: expected at least 1 refinement step to report on, got 0"):
        synthetic_gradients(regressor(num_steps=0), real_tasks())
    with pytest.raises(ValueError, match="num_steps: expected at least 1 refinement step to report on, got 0"):
        synthetic_gradients(regressor(), real_tasks(), num_steps=0)
    with pytest.raises(ValueError, match="synthetic_gradients: expected query labels, got unlabelled tasks"):
        synthetic_gradients(regressor(), real_tasks().unlabelled())
    with pytest.raises(ValueError, match="tasks: expected at least 2, got 1"):
        synthetic_gradients(regressor(), real_tasks()[:1])


def test_beliefs_are_those_that_the_refiner_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """With known class proportions and a fitted temperature, which change what the steps see and what is predicted."""
    model, batch = classifier(num_steps=3), class_tasks()
    batch = dataclasses.replace(batch, concentration=torch.tensor([0.3, math.nan, 2.0, math.inf], dtype=torch.float64))
    assert model.refiner.temperature.fitted  # by the perturbation
    network, held = type(model.refiner.synthetic_gradient), []
    original = network.belief

    def belief(self: Any, state: QueryState) -> Tensor:
        held.append(original(self, state))
        return held[-1]

    monkeypatch.setattr(network, "belief", belief)
    with torch.no_grad():
        model.eval().infer(batch)
    used = held[:3]
    data = synthetic_gradients(model, batch)
    truth = torch.nn.functional.one_hot(batch.query_y, used[0].shape[-1])
    for step, r in enumerate(used):
        brier = torch.where(batch.query_mask, (r - truth).square().sum(-1), 0.0).sum(1) / batch.query_mask.sum(1)
        assert float(data["belief_brier"][step]) == pytest.approx(float(brier.mean()), rel=1e-9)


def test_a_belief_of_counts_is_judged_by_the_spread_that_the_posterior_states() -> None:
    """Untrained, the belief is the expected rate, which is the expected curvature too."""
    model, batch = regressor(likelihood="poisson", num_steps=1, scale=0.0), number_tasks("poisson", sizes=False)
    data = synthetic_gradients(model, batch)
    inferred = model.infer(batch)
    loc, var = (v.squeeze(-1) for v in inferred.marginal(0))
    rate = (loc + var / 2).exp()
    z = torch.where(batch.query_mask, (batch.query_y - rate) / (rate + rate.square() * var).sqrt(), 0.0)
    for name, value in (("belief_z", z), ("belief_z_square", z.square())):
        mean = (value.sum(1) / batch.num_queries).mean()
        assert float(data[name][0]) == pytest.approx(mean.item(), rel=1e-6), name
