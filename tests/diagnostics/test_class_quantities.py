"""Simulated inputs of classes: exact posteriors pass, others fail, each for its own reason.

False alarms of what has to pass are at most 1e-3 each, and seeds are fixed.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import class_tasks, classifier, close, joint_model
from scipy import stats

from ebmeta.diagnostics import simulate_tasks, simulation_based_calibration
from ebmeta.model.features import on_features
from ebmeta.simulate.gaussian_classes import GaussianClasses

ALPHA = 1e-3
CLOUDS = GaussianClasses(3, between=2.0, within=1.0, concentration=2.0, n_way=3, n_query=8)
APART = replace(CLOUDS, between=400.0)


@pytest.mark.usefixtures("rng_untouched")
def test_simulated_inputs_have_the_law_of_the_model():
    """Variances within and between classes, and shares of labels, within 5 standard errors of 4,000 tasks."""
    model, given = joint_model(CLOUDS), CLOUDS.sample(1).to(torch.float64)[torch.zeros(4000, dtype=torch.long)]
    batch, w = simulate_tasks(model, given, seed=2)
    assert torch.equal(batch.support_y, given.support_y)
    means = w[..., :-1]
    own = means.gather(1, batch.query_y.unsqueeze(-1).expand(-1, -1, 3))
    for values, variance in ((means, 2.0), (batch.query_x - own, 1.0), (batch.support_x - means, 1.0)):
        error = 5 * variance * (2 / values.numel()) ** 0.5
        assert abs(float(values.square().mean()) - variance) < error
    shares = (w[..., -1] + means.square().sum(-1) / 2).exp()
    close(shares.sum(1), torch.ones(4000, dtype=torch.float64))
    drawn = torch.nn.functional.one_hot(batch.query_y, 3).double().mean(1)
    assert float((drawn - shares).mean(0).abs().max()) < 5 * (0.25 / 32_000) ** 0.5
    again, same = simulate_tasks(model, given, seed=2)
    assert torch.equal(again.query_x, batch.query_x)
    assert torch.equal(same, w)


def test_queries_known_to_be_balanced_are_as_many_of_every_class():
    batch = replace(class_tasks(), concentration=torch.tensor([torch.inf, 2.0, torch.inf, torch.inf]))
    y = simulate_tasks(classifier(synthetic_gradient="joint", scale=0.0), batch)[0].query_y
    for t, (ways, queries) in enumerate(((3, 6), (5, 4), (2, 7), (4, 5))):
        counts = torch.bincount(y[t, :queries], minlength=ways)
        assert len(counts) == ways
        if t != 1:
            assert int(counts.max() - counts.min()) <= 1


@pytest.mark.parametrize("told", ["known", "unknown"])
def test_the_posterior_given_the_support_set_passes(told):
    """Ragged tasks of a cosine head, in its features; proportions known or not."""
    model = classifier(4, 2, scale=0.0, synthetic_gradient="joint", profile=2)
    concentration = torch.tensor([2.0, torch.inf, 0.5, torch.inf])
    batch = replace(class_tasks(), concentration=concentration if told == "known" else None)
    found = simulation_based_calibration(model, batch, num_tasks=600, alpha=ALPHA)
    assert found.passed, found.table.to_dataframe()
    names = [*(f"mean {d}" for d in range(6)), "sum of means", "proportion", "predictor difference"]
    assert found.pit["quantity"].values.tolist() == [*names, "log likelihood", "region", "label"]


def test_simulators_give_inputs_to_a_linear_head():
    """In its own world the model passes; with another spread of classes for a prior it does not."""
    found = simulation_based_calibration(joint_model(CLOUDS), simulator=CLOUDS.simulate, step=0, num_tasks=500)
    assert found.passed, found.table.to_dataframe()
    wrong = joint_model(replace(CLOUDS, between=8.0))
    assert not simulation_based_calibration(wrong, simulator=CLOUDS.simulate, step=0, num_tasks=500).passed


@pytest.mark.parametrize(
    ("factor", "shift", "verdict"),
    [(1.0, 0.0, "calibrated"), (0.8, 0.0, "too narrow"), (1.25, 0.0, "too wide"), (1.0, 0.3, "shifted")],
)
def test_faults_of_refined_posteriors_are_named(factor, shift, verdict):
    """Classes far apart, so that q_K is exact: of other widths by a factor, or off by some of its widths."""
    model = joint_model(APART)

    def changed(batch):
        q = on_features(model).infer(batch).path[-1]
        return q.with_(q.loc + shift * q.scale, q.precision / factor**2)

    found = simulation_based_calibration(model, APART, posterior=changed, num_tasks=600, alpha=ALPHA)
    assert found.verdict == verdict, found.table.to_dataframe()


def test_refined_posteriors_pass_where_classes_lie_apart_and_are_refused_where_they_overlap():
    """Widths of single means are right there too (one false alarm in 1,000). What is wrong: classes are independent."""
    found = simulation_based_calibration(joint_model(APART), APART, step=-1, num_tasks=600, alpha=ALPHA)
    assert found.passed, found.table.to_dataframe()
    assert "surprise" in found.pit["quantity"]
    found = simulation_based_calibration(joint_model(CLOUDS), CLOUDS, step=-1, num_tasks=600)
    assert not found.passed
    of_means = found.table["spread"].values[found.table["kind"].values == "weight"]
    assert float(abs(of_means - 1).max()) < 0.15
    assert float(found.p_values.sel(quantity="mean 0")) > 1e-3
    assert float(found.p_values.sel(quantity="log likelihood")) < 1e-6


def test_the_support_posterior_fails_where_it_should_know_the_queries():
    """Given for a posterior of one's own it is asked of all inputs, which it has not read."""
    model = joint_model(CLOUDS)

    def first(batch):
        return on_features(model).infer(batch, 0).path[0]

    found = simulation_based_calibration(model, CLOUDS, posterior=first, num_tasks=600)
    assert not found.passed
    assert float(found.p_values.sel(quantity="log likelihood")) < 1e-6
    assert float(found.p_values.sel(quantity="mean 0")) > 1e-6  # of class means alone it is a right posterior


@torch.no_grad()
def test_quantities_are_those_of_scipy():
    model = joint_model(CLOUDS)
    found = simulation_based_calibration(model, simulator=CLOUDS.simulate, step=0, num_tasks=20, seed=4).pit
    batch, w = CLOUDS.simulate(20, 4)
    q = model.posterior(batch.to(torch.float64), 0)[0]
    means = w[..., :-1]
    share = (w[:, 0, -1] + means[:, 0].square().sum(-1) / 2).exp()
    scale = q.precision[..., 0].rsqrt()
    expected = {
        "mean 1": stats.norm.cdf(means[:, 0, 1], q.loc[:, 0, 1], scale[:, 0]),
        "sum of means": stats.norm.cdf(means.sum((1, 2)), q.loc.sum((1, 2)), (3 * scale.square().sum(1)).sqrt()),
        "proportion": stats.beta.cdf(share, 2.0, 4.0),
        "region": stats.chi2.cdf((q.precision * (means - q.loc).square()).sum((1, 2)), 9),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(found.sel(quantity=name), value, atol=1e-9, err_msg=name)


def test_bad_input_is_refused():
    one = class_tasks(ways=(1, 1), shots=(1, 1), queries=(2, 2))
    model = classifier(scale=0.0, synthetic_gradient="joint")
    with pytest.raises(ValueError, match="tasks: expected two classes or more in every task"):
        simulation_based_calibration(model, one, num_tasks=10)
    batch = replace(class_tasks(), outliers=torch.tensor([False, True, False, False]))
    with pytest.raises(ValueError, match="simulate_tasks: expected tasks without outliers, got some"):
        simulate_tasks(model, batch)
