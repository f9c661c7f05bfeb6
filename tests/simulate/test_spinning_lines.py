"""Tasks without labels: the exact answers against brute force over the weights, and refinement towards them."""

import math

import numpy as np
import pytest
import torch
from builders import close
from scipy import stats
from torch.distributions import MultivariateNormal, Normal

import ebmeta
from ebmeta.simulate.spinning_lines import SpinningLines

LABELLED = pytest.mark.parametrize("n_support", [0, 2])


def family(**kwargs):
    return SpinningLines(radius=1.5, radius_scale=0.4, length=0.8, width=0.5, noise=0.6, n_query=5, seed=3, **kwargs)


def brute_force(tasks, batch, t, told):
    """Return a grid of weights in polar form, `w` `(A * R, 2)`, and its normalised joint probabilities."""
    angle = torch.arange(600, dtype=torch.float64) * (2 * math.pi / 600)
    radius = tasks.radius + tasks.radius_scale * torch.linspace(-9, 9, 400, dtype=torch.float64)
    u = torch.stack([angle.cos(), angle.sin()], -1)
    w = u[:, None] * radius[:, None]
    log_p = Normal(tasks.radius, tasks.radius_scale).log_prob(radius).expand(600, 400)
    error = batch.support_y[t] - w @ batch.support_x[t].T
    log_p = log_p - error.square().sum(-1) / (2 * tasks.noise**2)
    if told:
        line = torch.stack([(-angle / 2).cos(), (-angle / 2).sin()], -1)
        spread = tasks.width**2 * torch.eye(2) + tasks.length**2 * line[:, :, None] * line[:, None]
        rows = torch.cat([batch.support_x[t], batch.query_x[t]])
        density = MultivariateNormal(torch.zeros(2, dtype=torch.float64), spread[:, None])
        log_p = log_p + density.log_prob(rows).sum(1, keepdim=True)
    return w.flatten(0, 1), torch.softmax(log_p.flatten(), 0)


@LABELLED
@pytest.mark.parametrize("told", [False, True])
def test_exact_answers_are_those_of_the_joint_density(n_support, told):
    tasks = family(n_support=n_support)
    batch = tasks.sample(3).to(torch.float64)
    posterior = tasks.exact_posterior(batch, transductive=told)
    q, nll = posterior.gaussian(), tasks.exact_nll(batch, transductive=told)
    for t in range(3):
        w, p = brute_force(tasks, batch, t, told)
        mean = p @ w
        close(q.loc[t, 0], mean, 1e-6)
        close(q.covariance()[t, 0], (w - mean).T @ ((w - mean) * p[:, None]), 1e-6)
        log_prob = Normal(w @ batch.query_x[t].T, tasks.noise).log_prob(batch.query_y[t])
        close(nll[t], -torch.log(p @ log_prob.exp()), 1e-6)


@LABELLED
def test_the_density_integrates_to_its_moments(n_support):
    tasks = family(n_support=n_support)
    batch = tasks.sample(2)
    posterior = tasks.exact_posterior(batch, transductive=True)
    side = torch.linspace(-5, 5, 500, dtype=torch.float64)  # even: no point at the origin, where 1 / |w| is infinite
    w = torch.cartesian_prod(side, side)
    p = posterior.log_density(w.expand(2, -1, -1)).exp() * (side[1] - side[0]) ** 2
    close(p.sum(1), torch.ones(2, dtype=torch.float64), 5e-3)
    close(p @ w, posterior.gaussian().loc[:, 0], 5e-3)


def test_samples_have_the_stated_moments():
    # 20,000 tasks: second moments of unit scale have a standard error below 0.02; 5 sigma, false alarm below 1e-5.
    tasks = SpinningLines(n_support=1, n_query=2)
    batch = tasks.sample(20_000).to(torch.float64)
    x, y = batch.query_x[:, 0], batch.query_y[:, 0]
    middle = (tasks.width**2 + tasks.length**2 / 2) * torch.eye(2, dtype=torch.float64)
    close(x.T @ x / len(x), middle, 0.03)
    along = (x * batch.query_x[:, 1]).sum(1)  # both rows on one line: E[a b] = 0, and E[(a b)^2] tells that it is one
    close(along.square().mean(), torch.tensor(tasks.length**4 + tasks.width**2 * 2 + 2 * tasks.width**4).double(), 0.15)
    close((x * y[:, None]).mean(0), torch.zeros(2, dtype=torch.float64), 0.06)  # pooled, x says nothing of y


def test_exact_predictions_are_calibrated_and_inputs_help():
    tasks = SpinningLines(n_support=1)
    batch = tasks.sample(400)
    nll = {told: tasks.exact_nll(batch, transductive=told).mean(1) for told in (False, True)}
    assert float((nll[False] - nll[True]).mean()) > 0.2
    # A label drawn from the exact posterior scores as the real one does: 5 sigma over 400 tasks.
    posterior = tasks.exact_posterior(batch, transductive=True)
    g = torch.Generator().manual_seed(0)
    node = torch.multinomial(posterior.probability, 1, generator=g)
    noise = torch.randn(2, 400, 20, generator=g, dtype=torch.float64)
    radius = posterior.radius.gather(1, node) + posterior.radius_variance.gather(1, node).sqrt() * noise[0, :, :1]
    angle = posterior.angle[node]
    x = batch.query_x.double()
    y = radius * (x[..., 0] * angle.cos() + x[..., 1] * angle.sin()) + tasks.noise * noise[1]
    gap = nll[True] + posterior.log_prob(x, y).mean(1)
    assert abs(gap.mean()) < 5 * gap.std() / 400**0.5


def test_uncoupled_inputs_say_nothing():
    tasks = family(n_support=2, coupled=False)
    batch = tasks.sample(4)
    a, b = (tasks.exact_posterior(batch, transductive=told) for told in (False, True))
    close(a.probability, b.probability, 1e-15)
    moved = family(n_support=0, coupled=False).exact_posterior(family().sample(4), transductive=True)
    close(moved.gaussian().loc, torch.zeros(4, 1, 2, dtype=torch.float64), 1e-12)


def test_padded_rows_count_for_nothing():
    tasks = family(n_support=2)
    batch = tasks.sample(2).to(torch.float64)
    wide = ebmeta.TaskBatch(
        torch.cat([batch.support_x, torch.full((2, 1, 2), 9.0)], 1),
        torch.cat([batch.support_y, torch.full((2, 1), 9.0)], 1),
        torch.cat([batch.query_x, torch.full((2, 3, 2), 9.0)], 1),
        support_mask=torch.tensor([[True, True, False]] * 2),
        query_mask=torch.arange(8).expand(2, -1) < 5,
    )
    a, b = (tasks.exact_posterior(v, transductive=True) for v in (batch, wide))
    close(a.probability, b.probability, 1e-12)
    close(a.radius, b.radius, 1e-12)


def test_batches_are_pure_and_bad_arguments_are_refused():
    assert torch.equal(family().sample(4, 7).query_y, family().sample(4, 7).query_y)
    assert not torch.equal(family().sample(4, 7).query_y, family().sample(4, 8).query_y)
    for name, value in (("width", 0.0), ("noise", -1.0), ("length", np.inf), ("radius_scale", 0.0)):
        with pytest.raises(ValueError, match=f"{name}: expected a finite number above 0, got {value}"):
            SpinningLines(**{name: value})
    with pytest.raises(ValueError, match="n_query: expected at least 1, got 0"):
        SpinningLines(n_query=0)
    with pytest.raises(ValueError, match="n_support: expected at least 0, got -1"):
        SpinningLines(n_support=-1)
    with pytest.raises(ValueError, match="exact_nll: expected query labels"):
        family().exact_nll(family().sample(2).unlabelled(), transductive=True)


@pytest.mark.parametrize("noise", [0.02, 0.002])
def test_sharp_angles_have_as_many_nodes_as_they_need(noise):
    """A sum in the plane, along the axes of the likelihood: with 512 angles scores were wrong by up to 25 nats."""
    family = SpinningLines(n_support=10, n_query=3, noise=noise)
    batch = family.sample(3)
    wide = batch.to(torch.float64)
    axis = np.linspace(-8, 8, 401)
    z = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    for told in (True, False):
        found = family.exact_nll(batch, transductive=told)
        for t in range(3):
            x, y = wide.support_x[t].numpy(), wide.support_y[t].numpy()
            precision = x.T @ x / noise**2
            root = np.linalg.cholesky(np.linalg.inv(precision))
            w = np.linalg.solve(precision, x.T @ y / noise**2) + z @ root.T
            radius, half = np.hypot(*w.T), np.arctan2(w[:, 1], w[:, 0]) / 2
            log_p = -np.square(z).sum(1) / 2 - np.square((radius - 2.0) / 0.3) / 2 - np.log(radius)
            if told:
                rows = torch.cat([wide.support_x[t], wide.query_x[t]]).numpy()
                along = rows @ np.stack([np.cos(half), -np.sin(half)])
                log_p += (np.square(along) * (1 / 0.09 - 1 / 1.09) / 2).sum(0)
            p = np.exp(log_p - log_p.max())
            mean = wide.query_x[t].numpy() @ w.T
            density = stats.norm.pdf(wide.query_y[t].numpy()[:, None], mean, noise) @ (p / p.sum())
            close(found[t], torch.from_numpy(-np.log(density)), 1e-9)


def test_angles_that_are_too_sharp_are_refused():
    family = SpinningLines(n_support=10, noise=1e-5)
    with pytest.raises(ValueError, match="expected rows that leave an angle 0.00014 radians or more, got"):
        family.exact_posterior(family.sample(1), transductive=False)
