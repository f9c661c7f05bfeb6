"""The simulated family's exact answers, checked by brute force over the joint Gaussian."""

import numpy as np
import pytest
import torch
from builders import close

from ebmeta.simulate.linear_gaussian import LinearGaussianTasks

LOC = np.array([1.0, -0.5, 0.3])
SCALE = np.array([[0.8, 0.0, 0.0], [0.3, 0.6, 0.0], [-0.2, 0.1, 0.5]])
COUPLING = np.array([[1.0, 0.2, 0.0], [0.0, 0.7, -0.4]])


def family(coupling=COUPLING, **kwargs):
    return LinearGaussianTasks(LOC, SCALE, 0.5, coupling, seed=4, **kwargs)


@pytest.mark.parametrize("transductive", [False, True])
def test_exact_posterior_is_the_normalised_joint(transductive):
    """The log joint is quadratic in w: its Hessian and stationary point are the posterior's parameters."""
    tasks = family()
    batch = tasks.sample(3).to(torch.float64)
    q = tasks.exact_posterior(batch, transductive=transductive)
    for t in range(3):

        def log_joint(w, t=t):
            prior = torch.distributions.MultivariateNormal(torch.tensor(LOC), scale_tril=torch.tensor(SCALE))
            x = torch.cat([batch.support_x[t], batch.query_x[t]])
            eta = batch.support_x[t] @ w[:-1] + w[-1]
            value = prior.log_prob(w) + torch.distributions.Normal(eta, 0.5).log_prob(batch.support_y[t]).sum()
            if transductive:
                value = value + torch.distributions.Normal(torch.tensor(COUPLING) @ w, 1.0).log_prob(x).sum()
            return value

        hessian = torch.autograd.functional.hessian(log_joint, torch.zeros(3, dtype=torch.float64))
        slope = torch.autograd.functional.jacobian(log_joint, q.loc[t, 0])
        close(q.precision[t, 0], -hessian, 1e-9)
        close(slope, torch.zeros(3, dtype=torch.float64), 1e-8)


def test_samples_have_the_stated_moments():
    # 20,000 tasks; means of unit-scale variables have sd below 0.03: 5 sigma, false alarm below 1e-5.
    tasks = family(n_support=2, n_query=1)
    batch = tasks.sample(20_000)
    x = batch.query_x[:, 0].double()
    expected = torch.from_numpy(COUPLING @ LOC)
    close(x.mean(0), expected, 0.06)
    covariance = torch.from_numpy(COUPLING @ SCALE @ SCALE.T @ COUPLING.T + np.eye(2))
    close(torch.cov(x.T), covariance, 0.15)


def test_exact_predictions_are_calibrated_and_transduction_helps():
    tasks = family()
    batch = tasks.sample(4000)
    nll = {flag: tasks.exact_nll(batch, transductive=flag) for flag in (False, True)}
    assert nll[True].mean() < nll[False].mean() - 0.05
    # the entropy of each exact predictive, averaged, equals its NLL: 40,000 scores, 5 sigma of the task means
    q = tasks.exact_posterior(batch, transductive=True)
    x = torch.nn.functional.pad(batch.query_x.double(), (0, 1), value=1.0)
    entropy = (torch.log(2 * torch.pi * (q.marginal(x)[1][..., 0] + 0.25)) + 1) / 2
    gap = (nll[True] - entropy).mean(1)
    assert abs(gap.mean()) < 5 * gap.std() / 4000**0.5


def test_without_coupling_both_posteriors_are_one():
    tasks = family(coupling=None)
    batch = tasks.sample(5)
    both = [tasks.exact_posterior(batch, transductive=flag) for flag in (False, True)]
    close(both[0].loc, both[1].loc)
    close(both[0].precision, both[1].precision)


def test_batches_are_pure_and_bad_shapes_are_refused():
    assert torch.equal(family().sample(4, 7).query_y, family().sample(4, 7).query_y)
    assert not torch.equal(family().sample(4, 7).query_y, family().sample(4, 8).query_y)
    with pytest.raises(ValueError, match="scale_tril: expected shape \\(3, 3\\), got \\(2, 2\\)"):
        LinearGaussianTasks(LOC, np.eye(2))
    with pytest.raises(ValueError, match="coupling: expected shape \\(2, 3\\), got \\(3, 3\\)"):
        LinearGaussianTasks(LOC, SCALE, coupling=np.eye(3))
    with pytest.raises(ValueError, match="exact_nll: expected query labels"):
        family().exact_nll(family().sample(2).unlabelled(), transductive=True)
