"""One pass over tasks: log ratios and draws of an exact posterior, written out."""

import pytest
import torch
from builders import close, number_tasks, real_tasks, regressor

from ebmeta.diagnostics.passes import CHUNK, passes


def one(model, batch, observe="support", num_draws=50, num_steps=0):
    (found,) = passes(model, batch, observe, num_steps, num_draws, 0)
    return found


def test_ratios_of_an_exact_posterior_are_the_evidence_whatever_is_drawn():
    model, batch = regressor(num_steps=0), real_tasks()
    found = one(model, batch)
    drawn = found.draw(0)
    inferred = model.infer(batch)
    close(drawn.log_ratio_rows, inferred.log_evidence.expand(50, -1), 1e-6)
    assert drawn.u.shape[:3] == (4, 1, 50)


def test_draws_have_the_moments_of_the_posterior_and_of_the_prior():
    model, batch = regressor(num_steps=0), real_tasks(supports=(30,), queries=(5,))
    found = one(model, batch, num_draws=4000)
    for k in (0, None):
        u = found.draw(k).u[0, 0]
        q = found.inferred.path[0] if k == 0 else found.inferred.prior
        basis = found.directions.basis[0, :, : found.directions.num_labelled]
        loc = q.loc[0, 0] @ basis
        covariance = basis.T @ torch.linalg.inv(q.precision[0, 0]) @ basis
        # means of 4,000 draws: six standard errors, a false alarm of 2e-9 each
        assert bool(((u.mean(0) - loc).abs() < 6 * (covariance.diagonal() / 4000).sqrt()).all())
        close(torch.cov(u.T) / covariance.diagonal().max(), covariance / covariance.diagonal().max(), 0.15)


def test_predictors_of_queries_are_those_of_whole_weights():
    """Mean and variance given all draws are those of the prediction from the posterior itself."""
    model, batch = regressor(num_steps=0), real_tasks(supports=(30,), queries=(5,))
    found = one(model, batch, num_draws=8000)
    eta = found.queries(found.draw(0))[:, 0, :, 0]
    loc, var = found.inferred.path[0].marginal(found.inferred.x)
    assert bool(((eta.mean(0) - loc[0, :, 0]).abs() < 6 * (var[0, :, 0] / 8000).sqrt()).all())
    close(eta.var(0) / var[0, :, 0], torch.ones(5, dtype=torch.float64), 6 * (2 / 8000) ** 0.5)


def test_tasks_come_a_few_at_a_time():
    batch = real_tasks(supports=(3,) * (CHUNK + 2), queries=(2,) * (CHUNK + 2))
    sizes = [found.batch.num_tasks for found in passes(regressor(num_steps=0), batch, "support", 0, 30, 0)]
    assert sizes == [CHUNK, 2]


@pytest.mark.parametrize("observe", ["support", "both"])
def test_labels_of_queries_are_seen_where_they_are_observed(observe):
    model, batch = regressor(num_steps=0, likelihood="poisson"), number_tasks("poisson", sizes=False)
    found = one(model, batch, observe)
    rows = batch.support_mask.sum(1) + (batch.query_mask.sum(1) if observe == "both" else 0)
    assert found.labelled.support_mask.sum(1).tolist() == rows.tolist()
    assert (found.all_labels is None) == (observe == "support")
