"""Inference: no random numbers, steps under the model's beta, and the evidence of closed forms."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from builders import class_tasks, classifier, close, number_tasks, real_tasks, regressor

from ebmeta import EmpiricalBayes, TaskBatch, general_classifier


@pytest.mark.parametrize("build", [classifier, regressor])
def test_inference_uses_no_random_numbers(build, rng_untouched):
    model, batch = build(), class_tasks() if build is classifier else real_tasks()
    inferred = model.infer(batch)
    assert all(torch.equal(a.loc, b.loc) for a, b in zip(inferred.path, model.infer(batch).path, strict=True))
    inferred.predict(-1)


def test_more_than_forty_queries_of_a_class_count_together_as_forty():
    """Of two ways, 160 queries and 20: the first count as 80, whatever task stands beside."""
    rng = torch.Generator().manual_seed(0)
    labelled, queries = (torch.randn(2, n, 3, generator=rng, dtype=torch.float64) for n in (2, 160))
    ways = torch.arange(2).expand(2, -1)
    few = torch.arange(160) < torch.tensor([[160], [20]])
    batch = TaskBatch(labelled, ways, queries, query_mask=few, way_mask=torch.ones(2, 2, dtype=torch.bool))
    model = EmpiricalBayes.classifier(3).double()
    inferred = model.infer(batch)
    prior = model.prior_of(batch).shares.sum(1)
    for iterate in inferred.iterates[1:]:
        close(iterate.q.shares.sum(1) - prior, torch.tensor([80.0, 20.0]).double())
    close(inferred.predict(-1)["probs"][1, :20], model.infer(batch[1:]).predict(-1)["probs"][0, :20])


def test_steps_weigh_the_prior_by_the_models_beta():
    model, batch = regressor(), real_tasks(supports=(4, 4), queries=(6, 6))
    inferred = model.infer(batch)
    same, other = (model.refiner(replace(inferred.setting, beta=beta))[-1].q for beta in (model.beta, 1.0))
    close(inferred.path[-1].loc, same.loc)
    close(inferred.path[-1].precision, same.precision)
    assert not torch.allclose(same.precision, other.precision)


def test_the_evidence_of_a_conjugate_model_is_that_of_a_multivariate_normal():
    model, batch = regressor(num_steps=0), real_tasks()
    inferred, prior = model.infer(batch), model.prior.gaussian()
    covariance = torch.linalg.inv(prior.precision)
    noise = model.likelihood.log_noise.exp() ** 2 * torch.eye(6, dtype=torch.float64)
    for t in range(4):
        rows = batch.support_mask[t]
        x, n = model.predictor.features(batch.support_x[t][rows][None])[0], int(rows.sum())
        y = (batch.support_y[t][rows] - model.likelihood.center) / model.likelihood.unit
        exact = torch.distributions.MultivariateNormal(x @ prior.loc, x @ covariance @ x.T + noise[:n, :n]).log_prob(y)
        close(inferred.log_evidence[t], exact - n * model.likelihood.unit.log())


def test_levels_share_the_evidence_and_a_given_level_takes_all_of_it():
    model, batch = regressor(likelihood="normal_per_task"), number_tasks("normal_per_task")
    inferred = model.infer(batch)
    close(inferred.weight.sum(1), torch.ones(4, dtype=torch.float64))
    level = inferred.levels.z[:, 2]
    given = model.infer(batch, level=level)
    assert given.num_levels == 1
    close(given.path[0].loc, inferred.path[0].loc.unflatten(0, (4, -1))[:, 2])
    close(given.weight, torch.ones(4, 1, dtype=torch.float64))
    joint = inferred.log_weight[:, 2] + inferred.log_evidence - inferred.levels.log_mass[:, 2]
    close(given.log_evidence, joint)


def test_priors_of_tasks_follow_their_covariates_at_every_level():
    model, batch = regressor(num_covariates=1), real_tasks()
    batch = replace(batch, task_x=torch.arange(4.0).double().unsqueeze(1))
    prior = model.prior_of(batch, 3)
    assert prior.loc.shape[0] == 12
    close(prior.loc[::3], prior.loc[2::3], 0.0)
    assert len(torch.unique(prior.loc, dim=0)) == 4


@pytest.mark.parametrize("build", [lambda: EmpiricalBayes.classifier(3), lambda: general_classifier()])
def test_covariates_that_a_model_does_not_take_are_refused(build):
    x = torch.eye(3)[None]
    batch = TaskBatch(x, torch.arange(3)[None], x, task_x=torch.ones(1, 2))
    with pytest.raises(ValueError, match="task_x: expected 0 covariates per task, got 2"):
        build().infer(batch)
