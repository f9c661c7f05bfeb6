"""Numerical checks of theory/zero_shot.md: against quadratures over angle and radius, written apart."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from equations import checks
from scipy import integrate, special, stats

from ebmeta.simulate.spinning_lines import RingPosterior, SpinningLines
from ebmeta.tasks.batch import TaskBatch

LINES = SpinningLines(radius=1.6, radius_scale=0.4, length=0.9, width=0.4, noise=0.5, n_support=3, n_query=6, seed=2)
R, TAU, ELL, S, SIGMA = LINES.radius, LINES.radius_scale, LINES.length, LINES.width, LINES.noise
CIRCLE = np.arange(4000) * (2 * math.pi / 4000)


def u(angle: np.ndarray | float) -> np.ndarray:
    return np.stack([np.cos(angle), np.sin(angle)], -1)


def close(got: object, wanted: object, tol: float = 1e-8) -> None:
    np.testing.assert_allclose(got, wanted, atol=tol, rtol=tol)


@pytest.fixture
def batch() -> TaskBatch:
    return LINES.sample(3).to(torch.float64)


def log_inputs(x: np.ndarray, line: np.ndarray) -> np.ndarray:
    """Return the log density of rows along lines of given angles, by the covariance itself."""
    spread = S**2 * np.eye(2) + ELL**2 * u(line)[:, :, None] * u(line)[:, None]
    return np.array([stats.multivariate_normal(np.zeros(2), c).logpdf(x).sum() for c in spread])


def normalised(log_p: np.ndarray) -> np.ndarray:
    return special.softmax(log_p)


def unlabelled(batch: TaskBatch) -> TaskBatch:
    return TaskBatch(batch.support_x[:, :0], batch.support_y[:, :0], batch.query_x)


# When inputs tell the weights ---------------------------------------------------------------------------


@checks("eq-zero-shot")
def test_without_labels_inputs_alone_move_the_prior(batch: TaskBatch) -> None:
    angle = CIRCLE[::20]
    posterior = LINES.exact_posterior(unlabelled(batch), transductive=True).gaussian().loc[0, 0]
    p = normalised(log_inputs(batch.query_x[0].numpy(), -angle / 2))
    close(posterior, R * p @ u(angle))
    independent = SpinningLines(radius=R, coupled=False).exact_posterior(unlabelled(batch), transductive=True)
    close(independent.gaussian().loc, 0.0)


def length_ahead(posterior: RingPosterior) -> torch.Tensor:
    """Return the mean length of weights on the side of the posterior's mean, by quadrature over the plane."""
    length, angle = (torch.arange(1000, dtype=torch.float64) + 0.5) / 250, posterior.angle
    w = length[:, None, None] * torch.stack([angle.cos(), angle.sin()], -1)
    density = posterior.log_density(w.reshape(1, -1, 2).expand(len(posterior.probability), -1, -1)).exp()
    mass = density.reshape(-1, *w.shape[:2]) * length[:, None]  # an element of area: length d(length) d(angle)
    mass = mass * (torch.einsum("lgi,ti->tlg", w, posterior.gaussian().loc[:, 0]) > 0)
    return (mass * length[:, None]).sum((1, 2)) / mass.sum((1, 2))


@checks("eq-fibre")
def test_the_posterior_closes_in_on_the_prior_given_what_inputs_tell() -> None:
    lines = SpinningLines(radius=1.0, radius_scale=0.5, n_query=400)
    wanted = stats.truncnorm(-2, np.inf, 1.0, 0.5).mean()
    assert f"{wanted:.2f}" == "1.03"
    close(length_ahead(lines.exact_posterior(lines.sample(2), transductive=True)), wanted, 1e-4)
    # The limit by its formula: the prior per unit of area over the length of the gradient of T(w), an angle.
    length = torch.linspace(1e-3, 4.0, 40_000, dtype=torch.float64)
    w = (length[:, None] * torch.tensor([math.cos(0.7), math.sin(0.7)])).requires_grad_()
    (slope,) = torch.autograd.grad(torch.atan2(w[:, 1], w[:, 0]).sum(), w)
    prior = (
        lines.exact_posterior(unlabelled(lines.sample(1)), transductive=False).log_density(w.detach()[None])[0].exp()
    )
    prior = prior - torch.from_numpy(stats.norm(1.0, 0.5).pdf(-length)) / (2 * math.pi * length)  # lengths below 0
    close((prior / slope.norm(dim=1)) @ length / (prior / slope.norm(dim=1)).sum(), wanted, 1e-3)
    assert f"{float(prior @ length / prior.sum()):.2f}" == "0.54"  # the prior restricted to the ray
    # Simulated tasks whose inputs point one way: 5 sigma of 8,000 lengths (false alarms at 6e-7) are 0.03.
    tasks, weights = SpinningLines(radius=1.0, radius_scale=0.5, seed=1).simulate(100_000)
    v = lines.evidence(tasks.query_x, tasks.query_mask)
    chosen = weights[(v[:, 0] > 0.96 * v.norm(dim=1)) & (weights[:, 0, 0] > 0), 0, :2].norm(dim=1)
    assert len(chosen) > 8000
    close(chosen.mean(), wanted, 0.03)
    # With finitely many weights there is no such factor.
    prior = np.array([0.2, 0.5, 0.3])
    inputs = np.array([[0.6, 0.3, 0.1], [0.6, 0.3, 0.1], [0.1, 0.3, 0.6]])  # p(x | w), equal for the first two
    elsewhere = []
    for queries in (10, 100):
        counts = queries * inputs[0]  # a sample with the frequencies of its own distribution
        p = normalised(np.log(prior) + np.log(inputs) @ counts)
        elsewhere.append(p[2])
        close(p[:2] / p[:2].sum(), prior[:2] / prior[:2].sum())
    assert elsewhere[1] < 1e-30 < elsewhere[0] < 1e-3


@checks("eq-sign")
def test_a_line_does_not_tell_the_sign(batch: TaskBatch) -> None:
    x = batch.query_x[0].numpy()
    p = normalised(log_inputs(x, CIRCLE[::20]))  # weights along the line itself
    close(p, np.roll(p, len(p) // 2))
    assert p.max() > 3 / len(p)  # the inputs do say something
    close(x @ (R * p @ u(CIRCLE[::20])), 0.0)


@checks("eq-turns")
def test_labels_along_a_line() -> None:
    for n in (-3, -2, 0, 1, 2, 5):
        close((u(n * CIRCLE) * u(CIRCLE)).sum(-1), np.cos((n - 1) * CIRCLE))
    close((u(2 * CIRCLE) * u(CIRCLE)).sum(-1), u(CIRCLE) @ [1, 0])
    # The package's family has n = -2: at an input a u(theta) its label is a rho cos(3 theta).
    tasks, w = SpinningLines(width=1e-9, noise=1e-9).simulate(20)
    x, y, w = tasks.query_x.double().numpy(), tasks.query_y.double().numpy(), w[:, 0, :2].numpy()
    theta = -np.arctan2(w[:, 1], w[:, 0]) / 2
    a = (x * u(theta)[:, None]).sum(-1)
    close(y, a * np.linalg.norm(w, axis=1)[:, None] * np.cos(3 * theta)[:, None], 1e-5)  # 32-bit inputs


@checks("eq-pooled")
def test_pooled_regression_sees_nothing() -> None:
    close((u(CIRCLE) * np.cos(3 * CIRCLE)[:, None]).mean(0), 0.0)
    assert (u(CIRCLE) * np.cos(CIRCLE)[:, None]).mean(0)[0] > 0.4  # and would, if weights turned with the line
    tasks = LINES.sample(20_000).to(torch.float64)
    products = torch.einsum("tqi,tq->ti", tasks.query_x, tasks.query_y) / 6
    error = products.std(0) / math.sqrt(20_000)
    assert bool((products.mean(0).abs() < 5 * error).all())  # two tests at 6e-7
    assert float(error.max()) < 0.02


# Spinning lines -----------------------------------------------------------------------------------------


@checks("eq-lines")
def test_the_family_is_sampled_as_stated() -> None:
    # The sampler's own variables are not kept, so x and y are checked through moments that pin the law down:
    # 40,000 tasks, means of variables with sd below 6: 5 sigma is 0.15, false alarm below 1e-5.
    tasks = LINES.sample(40_000).to(torch.float64)
    x, y = tasks.query_x[:, :2].numpy(), tasks.query_y[:, :2].numpy()
    doubled = np.stack([x[..., 0] ** 2 - x[..., 1] ** 2, -2 * x[..., 0] * x[..., 1]], -1)
    close((doubled[:, 0] * doubled[:, 1]).sum(-1).mean(), ELL**4, 0.1)  # both rows on one line
    squares = y[:, 0] ** 2 - SIGMA**2 - (R**2 + TAU**2) * (ELL**2 / 2 + S**2)
    close(squares.mean(), 0.0, 0.15)
    # E[y_1 y_2 | x] to first order in the harmonics: E[(x_1' w)(x_2' w) (x_1' x_2)] picks cos(3 theta)^2.
    product = (y[:, 0] * y[:, 1] * (x[:, 0] * x[:, 1]).sum(-1)).mean()
    angle = CIRCLE[::20]
    spread = S**2 * np.eye(2) + ELL**2 * u(-angle / 2)[:, :, None] * u(-angle / 2)[:, None]
    look = np.einsum("gij,gj->gi", spread, u(angle))
    close(product, (R**2 + TAU**2) * (look**2).sum(-1).mean(), 0.15)


@checks("eq-line-evidence")
def test_inputs_speak_through_one_vector(batch: TaskBatch) -> None:
    angle = CIRCLE[::40]
    v = LINES.evidence(batch.query_x, batch.query_mask)[0].numpy()
    x = batch.query_x[0].numpy()
    rate = ELL**2 / (4 * S**2 * (S**2 + ELL**2))
    close(v, rate * np.stack([x[:, 0] ** 2 - x[:, 1] ** 2, -2 * x[:, 0] * x[:, 1]], -1).sum(0))
    rest = log_inputs(x, -angle / 2) - u(angle) @ v
    close(rest, rest.mean())
    p = LINES.exact_posterior(unlabelled(batch), transductive=True)
    density = stats.vonmises(np.linalg.norm(v), math.atan2(v[1], v[0])).pdf(p.angle.numpy())
    close(p.probability[0], density * 2 * math.pi / len(density))


def moments(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    kappa = np.linalg.norm(v)
    e = v / kappa
    along, across = np.outer(e, e), np.eye(2) - np.outer(e, e)
    a1, a2 = (special.ive(n, kappa) / special.ive(0, kappa) for n in (1, 2))
    return R * a1 * e, (R**2 + TAU**2) / 2 * ((1 + a2) * along + (1 - a2) * across)


@checks("eq-ring-moments")
def test_moments_of_the_arc(batch: TaskBatch) -> None:
    v = LINES.evidence(batch.query_x, batch.query_mask)[0].numpy()
    p = normalised(u(CIRCLE) @ v)
    mean, square = moments(v)
    close(mean, R * p @ u(CIRCLE))
    close(square, (R**2 + TAU**2) * np.einsum("g,gi,gj->ij", p, u(CIRCLE), u(CIRCLE)))
    prior = LINES.exact_posterior(unlabelled(batch), transductive=False).gaussian()
    close(prior.loc[0, 0], 0.0)
    close(prior.covariance()[0, 0], (R**2 + TAU**2) / 2 * np.eye(2))


@checks("eq-ring-labels")
def test_labels_given_the_angle(batch: TaskBatch) -> None:
    posterior = LINES.exact_posterior(batch, transductive=False)
    x, y = batch.support_x[0].numpy(), batch.support_y[0].numpy()
    rho = R + TAU * np.linspace(-9, 9, 4001)
    log_joint = stats.norm(R, TAU).logpdf(rho) + stats.norm(
        rho * (u(posterior.angle.numpy()) @ x.T)[..., None], SIGMA
    ).logpdf(y[:, None]).sum(1)
    joint = np.exp(log_joint)
    evidence = joint.sum(1)
    close(posterior.probability[0], evidence / evidence.sum())
    mean = joint @ rho / evidence
    close(posterior.radius[0], mean)
    close(posterior.radius_variance[0], joint @ rho**2 / evidence - mean**2)


@checks("eq-ring-predictive")
def test_the_predictive_density_is_one_integral(batch: TaskBatch) -> None:
    posterior = LINES.exact_posterior(batch, transductive=True)
    x = batch.query_x[0, 0].numpy()
    p, mean, var = (v[0].numpy() for v in (posterior.probability, posterior.radius, posterior.radius_variance))
    b = u(posterior.angle.numpy()) @ x

    def density(y: float) -> float:
        at = torch.tensor([[y]], dtype=torch.float64)
        return float(first(posterior).log_prob(batch.query_x[:1, :1], at).exp())

    close(density(0.7), p @ stats.norm(b * mean, np.sqrt(b**2 * var + SIGMA**2)).pdf(0.7))
    close(integrate.quad(density, -12, 12, points=[0.0])[0], 1.0, 1e-6)


def first(posterior: RingPosterior) -> RingPosterior:
    return RingPosterior(posterior.probability[:1], posterior.radius[:1], posterior.radius_variance[:1], SIGMA)


# What a Gaussian can reach, and what the refiner has to do ----------------------------------------------


@checks("eq-best-gaussian")
def test_no_gaussian_predicts_better_than_that_of_the_moments(batch: TaskBatch) -> None:
    posterior = first(LINES.exact_posterior(unlabelled(batch), transductive=True))
    x = batch.query_x[:1, :1]
    q = posterior.gaussian()
    loc, var = (float(v) for v in q.marginal(x))
    omega = var + SIGMA**2
    y = np.linspace(-14, 14, 6001)
    p = posterior.log_prob(x.expand(-1, len(y), -1), torch.from_numpy(y)[None]).exp()[0].numpy() * (y[1] - y[0])
    close([p.sum(), p @ y, p @ (y - loc) ** 2], [1.0, loc, omega])
    for a, b in ((loc, omega), (loc + 0.3, omega), (loc, 1.4 * omega), (loc - 0.2, 0.5 * omega)):
        score = -p @ stats.norm(a, math.sqrt(b)).logpdf(y)
        close(score, (math.log(2 * math.pi * b) + (omega + (loc - a) ** 2) / b) / 2)
        least = math.log(2 * math.pi * math.e * omega) / 2
        assert score >= least - 1e-9
        assert (abs(score - least) < 1e-8) == (a == loc and b == omega)


@checks("eq-ring-score")
def test_the_score_of_the_inputs(batch: TaskBatch) -> None:
    v = LINES.evidence(batch.query_x, batch.query_mask)[0]
    w = torch.tensor([0.8, -1.1], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(w @ v / w.norm(), w)
    e = (w / w.norm()).detach()
    close(slope, (v - e * (e @ v)) / float(w.detach().norm()))
    angle = math.atan2(-1.1, 0.8)
    step, x = 1e-5, batch.query_x[0].numpy()
    turn = np.diff(log_inputs(x, -(angle + step * np.array([-1, 1])) / 2))[0] / (2 * step)
    across = torch.tensor([-e[1], e[0]])
    close(float(slope @ across) * float(w.detach().norm()), turn, 1e-5)  # the derivative of log p(x | alpha) itself


@checks("eq-ring-precision")
def test_the_precision_turns_with_the_data(batch: TaskBatch) -> None:
    q = LINES.exact_posterior(unlabelled(batch), transductive=True).gaussian()
    for t, v in enumerate(LINES.evidence(batch.query_x, batch.query_mask).numpy()):
        kappa = np.linalg.norm(v)
        e, a1, a2 = v / kappa, *(special.ive(n, kappa) / special.ive(0, kappa) for n in (1, 2))
        total = (R**2 + TAU**2) / 2
        along = 1 / (total * (1 + a2) - R**2 * a1**2)
        across = 1 / (total * (1 - a2))
        close(q.precision[t, 0], along * np.outer(e, e) + across * (np.eye(2) - np.outer(e, e)), 1e-7)
        close(q.loc[t, 0], R * a1 * e)
