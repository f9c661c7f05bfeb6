"""Simulation-based calibration: exact bands, exact test quantities, and posteriors known to be right or wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyro
import pytest
import torch
from builders import class_tasks, perturb, real_tasks
from scipy import stats

import ebmeta
from ebmeta import EmpiricalBayes, TaskBatch
from ebmeta.diagnostics import (
    SimulationCalibration,
    simulate_tasks,
    simulation_based_calibration,
)
from ebmeta.diagnostics.simulation_result import SENTENCES
from ebmeta.simulate.linear_gaussian import LinearGaussianTasks
from ebmeta.simulate.spinning_lines import SpinningLines

LOC = np.array([1.0, -0.5, 0.3])
SCALE = np.array([[0.8, 0.0, 0.0], [0.3, 0.6, 0.0], [-0.2, 0.1, 0.5]])
COUPLING = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
ALPHA = 1e-3  # false-alarm rate of every test below that has to pass


def family(coupling=None, seed=3) -> LinearGaussianTasks:
    return LinearGaussianTasks(LOC, SCALE, 0.5, coupling, seed=seed)


def true_model() -> EmpiricalBayes:
    model = EmpiricalBayes.regressor(2, num_steps=0, standardize=False).double()
    diagonal = torch.from_numpy(SCALE).diagonal()
    model.prior.loc.data = torch.from_numpy(LOC)
    model.prior.log_scale.data = diagonal.log()
    model.prior.lower.data = torch.from_numpy(SCALE) / diagonal[:, None]
    model.likelihood.log_noise.data.fill_(np.log(0.5))
    return model


def check(posterior=None, coupling=None, num_tasks=500, **kwargs) -> SimulationCalibration:
    source = family(coupling)
    arguments = {"simulator": source.simulate, "num_tasks": num_tasks, "alpha": ALPHA} | kwargs
    return simulation_based_calibration(true_model(), posterior=posterior, **arguments)


def exact(batch: TaskBatch, transductive: bool = False, coupling=None):
    return family(coupling).exact_posterior(batch, transductive=transductive)


def narrow(batch: TaskBatch):
    return exact(batch).with_(exact(batch).loc, exact(batch).precision / 0.64)


def shifted(batch: TaskBatch):
    return exact(batch).with_(exact(batch).loc + 0.3 * exact(batch).scale, exact(batch).precision)


def peeking(batch: TaskBatch):
    return exact(batch.pooled())


def wide(batch: TaskBatch):
    return exact(batch).with_(exact(batch).loc, exact(batch).precision * 0.64)


def prior(batch: TaskBatch):
    return true_model().prior_of(batch)


# simulated tasks --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("rng_untouched")
def test_simulated_tasks_have_the_law_of_the_program():
    """Mean and covariance of all labels of a task against the closed form; 5 sigma of 20,000 tasks."""
    model, one = true_model(), family().sample(1).to(torch.float64)
    batch = one[torch.zeros(20_000, dtype=torch.long)]
    got, w = simulate_tasks(model, batch, seed=5)
    assert torch.equal(got.support_x, batch.support_x)
    x = torch.cat([one.support_x, one.query_x], 1)[0]
    x = torch.cat([x, torch.ones(len(x), 1)], 1).double()
    y = torch.cat([got.support_y, got.query_y], 1)
    covariance = x @ torch.from_numpy(SCALE @ SCALE.T) @ x.T + 0.25 * torch.eye(len(x))
    sd = covariance.diagonal().sqrt()
    assert float(((y.mean(0) - x @ torch.from_numpy(LOC)) / sd).abs().max()) < 5 / np.sqrt(20_000)
    assert float((y.T.cov() - covariance).div(sd[:, None] * sd).abs().max()) < 5 * np.sqrt(2 / 20_000)
    noise = y - torch.einsum("np,tp->tn", x, w[:, 0])
    assert float(noise.std()) == pytest.approx(0.5, rel=0.01)
    again, same = simulate_tasks(model, batch, seed=5)
    assert torch.equal(again.query_y, got.query_y)
    assert torch.equal(same, w)
    assert not torch.equal(simulate_tasks(model, batch, seed=6)[1], w)


def test_simulation_leaves_the_parameter_store_alone():
    simulate_tasks(true_model(), family().sample(3).to(torch.float64))
    assert not dict(pyro.get_param_store().items())


@pytest.mark.parametrize("coupled", [True, False])
def test_simulators_return_the_weights_behind_their_labels(coupled):
    for source in (family(COUPLING if coupled else None), SpinningLines(coupled=coupled, n_support=2)):
        batch, w = source.simulate(4000, 2)
        assert torch.equal(batch.query_y, source.sample(4000, 2).query_y)
        x = torch.nn.functional.pad(batch.query_x, (0, 1), value=1.0).double()
        noise = batch.query_y - torch.einsum("tnp,tcp->tn", x, w)
        assert abs(float(noise.mean())) < 5 * 0.5 / np.sqrt(noise.numel())  # 5 sigma
        assert float(noise.std()) == pytest.approx(0.5, rel=0.01)


# exact values of the quantities -----------------------------------------------------------------------


def test_quantities_of_one_gaussian_are_those_of_scipy():
    source, found = family(), check(exact, num_tasks=30, seed=4)
    batch, w = source.simulate(30, 4)
    q = source.exact_posterior(batch, transductive=False)
    covariance, w, loc = q.covariance()[:, 0].numpy(), w[:, 0].numpy(), q.loc[:, 0].numpy()
    x = np.concatenate([batch.query_x.double().numpy(), np.ones((30, 10, 1))], 2)[:, 0]
    eta = np.einsum("tp,tpr,tr->t", x, covariance, x)
    distance = np.einsum("tp,tpr,tr->t", w - loc, np.linalg.inv(covariance), w - loc)
    expected = {
        "weight 1": stats.norm.cdf(w[:, 1], loc[:, 1], np.sqrt(covariance[:, 1, 1])),
        "sum of weights": stats.norm.cdf(w.sum(1), loc.sum(1), np.sqrt(covariance.sum((1, 2)))),
        "predictor": stats.norm.cdf((x * w).sum(1), (x * loc).sum(1), np.sqrt(eta)),
        "region": stats.chi2.cdf(distance, 3),
        "label": stats.norm.cdf(batch.query_y[:, 0], (x * loc).sum(1), np.sqrt(eta + 0.25)),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(found.pit.sel(quantity=name), value, atol=1e-6)
    assert found.pit.dims == ("quantity", "task")
    kinds = ["weight"] * 4 + ["predictor", "likelihood", "region", "label", "surprise"]
    assert found.pit["kind"].values.tolist() == kinds
    own = check(num_tasks=30, seed=4)  # the model's q_0 is exact
    np.testing.assert_allclose(own.pit, found.pit, atol=1e-6)


def test_levels_of_noise_count_by_their_weight():
    """A weight under a mixture of Gaussians, one for each noise level: the mean of normal probabilities."""
    model = EmpiricalBayes.regressor(2, "normal_per_task", num_steps=0, standardize=False).double()
    given = real_tasks(features=2)
    found = simulation_based_calibration(model, given, num_tasks=12, num_draws=2, seed=3).pit
    ((batch, w),) = (simulate_tasks(model, given[torch.arange(12) % 4], 3 * 1_000_003),)
    inferred = model.infer(batch, 0)
    weight = inferred.log_weight.exp().detach().numpy()
    assert np.ptp(weight, 1).min() > 0.05  # levels differ in what they explain
    loc, scale = (
        v[:, 0, 1].detach().numpy().reshape(weight.shape) for v in (inferred.path[0].loc, inferred.path[0].scale)
    )
    wanted = (weight * stats.norm.cdf(w[:, 0, 1].numpy()[:, None], loc, scale)).sum(1)
    np.testing.assert_allclose(found.sel(quantity="weight 1"), wanted, atol=1e-9)


def test_ranks_among_few_draws_are_uniform():
    """With 4 draws a rank is uniform only as (r + V (s + 1)) / 5; false alarms at 1e-6 for each of two quantities."""
    found = check(exact, num_tasks=4000, num_draws=4)
    for name in ("log likelihood", "surprise"):
        u = found.pit.sel(quantity=name).values
        assert stats.kstest(u, "uniform").pvalue > 1e-6
        assert len(np.unique(u)) == 4000  # ties are broken


def test_the_label_of_a_class_has_the_law_of_its_table():
    """Labels of three equally likely classes, predicted as (.59, .29, .12): uniform over the piece of each class.

    Two tests at 1e-6 each.
    """
    x = torch.tensor([[[0.6, -0.8]]], dtype=torch.float64)
    batch = TaskBatch(x[:, :0], torch.zeros(1, 0, dtype=torch.long), x, None, way_mask=torch.ones(1, 3).bool())
    model = EmpiricalBayes.classifier(2, num_steps=0, synthetic_gradient="mixture").double()
    phi = model.predictor.features(x)[0, 0].detach()
    shift = torch.tensor([0.9, 0.1, -0.8], dtype=torch.float64)

    def table(b: TaskBatch):
        q = model.prior_of(b)
        loc = shift[:, None] * phi / phi.square().sum()
        return q.with_(loc.expand_as(q.loc).clone(), torch.full_like(q.precision, 4.0))

    nodes, weights = np.polynomial.hermite_e.hermegauss(24)
    grid = np.stack(np.meshgrid(*[nodes] * 3, indexing="ij"), -1).reshape(-1, 3)
    share = np.stack(np.meshgrid(*[weights / weights.sum()] * 3, indexing="ij"), -1).reshape(-1, 3).prod(1)
    logits = shift.numpy() + grid * np.sqrt(float(phi.square().sum()) / 4)
    p = share @ (np.exp(logits) / np.exp(logits).sum(1, keepdims=True))
    np.testing.assert_allclose(p, [0.59, 0.29, 0.12], atol=0.005)
    found = simulation_based_calibration(model, batch, posterior=table, num_tasks=4000, num_draws=2)
    u, low = found.pit.sel(quantity="label").values, np.cumsum(p) - p
    label = np.searchsorted(low, u, side="right") - 1
    assert stats.chisquare(np.bincount(label, minlength=3)).pvalue > 1e-6
    assert stats.kstest((u - low[label]) / p[label], "uniform").pvalue > 1e-6


# right and wrong posteriors ---------------------------------------------------------------------------


def test_the_exact_posterior_passes_as_often_as_stated():
    """100 repeats at a rate of at most 5%: 18 refusals or more have probability 3e-6."""
    found = [check(exact, num_tasks=40, num_draws=20, alpha=0.05, seed=s) for s in range(100)]
    assert sum(not f.passed for f in found) < 18
    assert [f.passed for f in found[:30]] == [f.p_value > 0.05 for f in found[:30]]


@pytest.mark.parametrize(
    ("posterior", "verdict"),
    [
        (exact, "calibrated"),
        (None, "calibrated"),
        (narrow, "too narrow"),
        (wide, "too wide"),
        (shifted, "shifted"),
        (peeking, "sees the labels"),
        (prior, "learns too little"),
    ],
)
def test_every_fault_is_found_and_named(posterior, verdict):
    found = check(posterior)
    assert found.verdict == verdict, found.table.to_dataframe()
    assert found.passed == (verdict == "calibrated")
    assert SENTENCES[verdict] in str(found)


def test_a_prior_in_place_of_the_posterior_is_seen_by_the_likelihood_alone():
    refused = check(prior).p_values
    assert float(refused.sel(quantity="log likelihood")) < 1e-9
    assert float(refused.drop_sel(quantity="log likelihood").min()) > ALPHA


def test_a_trained_model_passes_on_the_true_tasks_and_on_its_own():
    model = EmpiricalBayes.regressor(2, num_steps=0, standardize=False)
    ebmeta.fit_evidence(model, family(seed=0).sample(1000))
    arguments = {"num_tasks": 400, "alpha": ALPHA}
    assert simulation_based_calibration(model, simulator=family().simulate, **arguments).passed
    assert simulation_based_calibration(model, family(), **arguments).passed
    assert simulation_based_calibration(model, family().sample(50), **arguments).passed


@pytest.mark.parametrize(("simulated", "transductive"), [(True, True), (True, False), (False, True), (False, False)])
def test_inputs_that_depend_on_the_weights_have_to_be_simulated(simulated, transductive):
    """Each posterior is right in its own world and wrong in the other."""
    source = family(COUPLING)
    where = {"simulator": source.simulate} if simulated else {"tasks": source, "simulator": None}
    found = check(lambda batch: exact(batch, transductive, COUPLING), COUPLING, 1500, **where)
    assert found.passed == (simulated == transductive)


def test_refinement_on_given_inputs_is_judged_by_the_support_posterior():
    model = true_model()
    model.refiner = perturbed_refiner()
    arguments = {"num_tasks": 300, "alpha": ALPHA}
    assert simulation_based_calibration(model, family(), **arguments).passed  # q_0
    assert not simulation_based_calibration(model, family(), step=-1, **arguments).passed


def perturbed_refiner():
    model = EmpiricalBayes.regressor(2, num_steps=3, standardize=False).double()
    perturb(model.refiner)
    return model.refiner


@pytest.mark.parametrize("likelihood", ["normal_per_task", "bernoulli", "poisson", "negative_binomial"])
def test_without_support_the_prior_is_the_posterior_for_every_likelihood(likelihood):
    given = real_tasks(features=2)
    y = [torch.zeros_like(v) for v in (given.support_y[:, :0], given.query_y)]
    batch = replace(
        given, support_x=given.support_x[:, :0], support_mask=given.support_mask[:, :0], support_y=y[0], query_y=y[1]
    )
    model = EmpiricalBayes.regressor(2, likelihood, num_steps=0, standardize=False)
    model.prior.loc.data = torch.tensor([0.3, -0.2, 0.5])
    found = simulation_based_calibration(model, batch, num_tasks=500, alpha=ALPHA)
    assert found.passed, found.table.to_dataframe()


def test_noise_levels_of_tasks_are_mixed_over():
    model = EmpiricalBayes.regressor(2, "normal_per_task", num_steps=0, standardize=False)
    found = simulation_based_calibration(model, real_tasks(features=2), num_tasks=500, alpha=ALPHA)
    assert found.passed, found.table.to_dataframe()
    assert float(found.table["spread"].sel(quantity="weight 0")) == pytest.approx(1, abs=0.16)  # 5 sigma


def test_ragged_classes_without_support_pass_and_a_narrow_posterior_fails():
    given = class_tasks((3, 2), (1, 1), (3, 4), features=2)
    batch = replace(
        given,
        support_x=given.support_x[:, :0],
        support_mask=given.support_mask[:, :0],
        support_y=given.support_y[:, :0],
    )
    model = EmpiricalBayes.classifier(2, num_steps=0, synthetic_gradient="mixture")
    model.prior.log_scale.data.fill_(1.0)
    right = simulation_based_calibration(model, batch, num_tasks=300, num_draws=40, alpha=ALPHA)
    assert right.passed, right.table.to_dataframe()
    assert "predictor difference" in right.pit["quantity"]

    def too_narrow(b: TaskBatch):
        q = model.prior_of(b)
        return q.with_(q.loc, q.precision * 2)

    wrong = simulation_based_calibration(model, batch, posterior=too_narrow, num_tasks=200, num_draws=20)
    assert wrong.verdict == "too narrow"


# bad input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"simulator": None}, "tasks: expected either tasks or a simulator, got neither"),
        ({"tasks": family()}, "tasks: expected either tasks or a simulator, got both"),
        ({"num_tasks": 1}, "num_tasks: expected at least 10, got 1"),
        ({"num_draws": 1}, "num_draws: expected at least 2, got 1"),
        ({"alpha": 1.0}, r"alpha: expected a number between 0 and 1, got 1.0"),
        ({"step": -2}, "step: expected at least -1, got -2"),
        ({"posterior": exact, "step": 0}, "step: expected None with a posterior of your own, got 0"),
        ({"posterior": lambda b: b}, "posterior: expected a Gaussian, got TaskBatch"),
        ({"posterior": lambda b: exact(b)[:3]}, r"posterior: expected a Gaussian of shape \(30, 1, 3\), got \(3, 1"),
        (
            {"posterior": lambda b: exact(b).with_(exact(b).loc * np.nan, exact(b).precision)},
            "posterior: expected finite numbers, got NaN or infinity",
        ),
        (
            {"simulator": lambda n, i: (family().sample(n, i).unlabelled(), torch.zeros(n, 1, 3))},
            "simulator: expected tasks with query labels, got unlabelled tasks",
        ),
        (
            {"simulator": lambda n, i: (family().sample(n, i), torch.zeros(n, 3))},
            r"simulator: expected weights of shape \(30, 1, 3\), got \(30, 3\)",
        ),
        (
            {"simulator": lambda n, i: (family().sample(n, i), np.zeros((n, 1, 3)))},
            "simulator, weights: expected a dense tensor of real numbers, got array of shape",
        ),
        (
            {"simulator": lambda n, i: family().sample(n, i)},
            "simulator: expected a TaskBatch and a tensor of weights, got TaskBatch$",
        ),
        (
            {"simulator": lambda n, i: family().simulate(n, 0), "num_tasks": 130},
            "simulator: expected other tasks for another index, got the same ones",
        ),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        check(**({"num_tasks": 30} | arguments))


def test_tasks_of_one_class_are_refused():
    batch = class_tasks(ways=(1, 1), shots=(1, 1), queries=(2, 2))
    with pytest.raises(ValueError, match="tasks: expected two classes or more in every task"):
        simulation_based_calibration(EmpiricalBayes.classifier(4, synthetic_gradient="mixture"), batch, num_tasks=10)
