"""Levels of noise: their posterior is that of numerical integration."""

import math

import torch
from builders import close, number_tasks

import ebmeta


def test_the_posterior_over_noise_levels_is_that_of_numerical_integration():
    """Prediction and evidence against sums over a fine grid of closed forms of multivariate normals."""
    model = ebmeta.EmpiricalBayes.regressor(2, "normal_per_task", num_steps=0).double()
    model.likelihood.log_ratio.data.fill_(math.log(0.6))
    batch = number_tasks("normal_per_task", supports=(4, 1, 30), queries=(3, 2, 4), features=2, sizes=False)
    inferred = model.infer(batch)
    z = torch.linspace(-6, 6, 801, dtype=torch.float64)
    log_prior = torch.log_softmax(-z.square() / 2, 0)
    prior = model.prior.gaussian()
    root = torch.linalg.inv(prior.precision)

    def log_evidence(x, y):
        x = model.predictor.features(x[None])[0]
        noise = torch.exp(2 * 0.6 * z)[:, None, None] * torch.eye(len(x), dtype=torch.float64)
        exact = torch.distributions.MultivariateNormal(x @ prior.loc, x @ root @ x.T + noise).log_prob(y)
        return torch.logsumexp(exact + log_prior, 0)

    nll = -inferred.log_prob(0, batch.query_y, torch.zeros(1), predictive=True)
    loss = ebmeta.Objective("evidence").terms(model, batch).loss[0]
    for t in range(3):
        s, q = batch.support_mask[t], batch.query_mask[t]
        x, y = batch.support_x[t][s], batch.support_y[t][s]
        one = torch.cat([x, batch.query_x[t, :1]]), torch.cat([y, batch.query_y[t, :1]])
        close(nll[t, 0], log_evidence(x, y) - log_evidence(*one), 2e-3)
        every = torch.cat([x, batch.query_x[t][q]]), torch.cat([y, batch.query_y[t][q]])
        close(loss[t], -log_evidence(*every), 1e-3)
