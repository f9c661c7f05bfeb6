"""Numerical checks of theory/diagnostics.md: quadrature and closed forms, so that none can fail by chance."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import torch
from builders import random_precision
from equations import checks
from scipy import integrate, stats
from torch import Tensor
from torch.nn import functional

from ebmeta import TaskBatch
from ebmeta.parts.class_gaussian import ClassGaussian
from ebmeta.parts.gaussian import FullGaussian
from ebmeta.simulate.conjugate import log_evidence, posterior
from ebmeta.simulate.linear_gaussian import LinearGaussianTasks


def close(got: Tensor, wanted: Tensor, atol: float = 1e-9) -> None:
    torch.testing.assert_close(got, wanted, atol=atol, rtol=1e-8)


def linear_task(rows: int = 2, weights: int = 3) -> tuple[FullGaussian, FullGaussian, Tensor, Tensor, Tensor]:
    """Prior, some q, features and labels of one linear-Gaussian task, and its noise variance."""
    g = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    prior, q = (FullGaussian(randn(1, 1, weights), random_precision((1, 1), weights, g)) for _ in range(2))
    return prior, q, randn(1, rows, weights), randn(1, rows), torch.tensor(0.4, dtype=torch.float64)


def log_joint(prior: FullGaussian, x: Tensor, y: Tensor, noise: Tensor, w: Tensor) -> Tensor:
    fit = torch.distributions.Normal(w[:, 0] @ x[0].T, noise.sqrt()).log_prob(y[0]).sum(-1)
    return prior.distribution().log_prob(w.unsqueeze(1))[:, 0] + fit


def restricted(q: FullGaussian, basis: Tensor) -> FullGaussian:
    covariance = basis.T @ q.covariance()[0, 0] @ basis
    return FullGaussian(q.loc @ basis, torch.linalg.inv(covariance)[None, None])


def gauss(dims: int, nodes: int = 60) -> tuple[Tensor, Tensor]:
    x, weight = np.polynomial.hermite_e.hermegauss(nodes)
    points = np.stack(np.meshgrid(*[x] * dims), -1).reshape(-1, dims)
    share = np.prod(np.stack(np.meshgrid(*[weight / weight.sum()] * dims), -1).reshape(-1, dims), 1)
    return torch.from_numpy(points), torch.from_numpy(share)


def wide(q: FullGaussian, exact: FullGaussian) -> FullGaussian:
    """Keep the location and take a covariance that covers the target, so that quadrature converges."""
    return FullGaussian(exact.loc + 0.2, exact.precision / 1.5)


@checks("eq-ratio")
def test_ratios_average_to_the_evidence() -> None:
    prior, _, x, y, noise = linear_task(weights=2)
    mask = torch.ones(1, 2, dtype=torch.bool)
    q = wide(prior, posterior(prior, x, y, mask, noise))
    z, share = gauss(2)
    w = q.loc + q.color(z[:, None, None])
    ratio = log_joint(prior, x, y, noise, w[:, 0]) - q.distribution().log_prob(w)[:, 0]
    close(torch.logsumexp(ratio + share.log(), 0), log_evidence(prior, x, y, mask, noise)[0], 1e-6)


@checks("eq-ratio-span")
def test_the_ratio_of_marginals_is_a_conditional_average() -> None:
    prior, _, x, y, noise = linear_task(rows=1, weights=2)
    q = wide(prior, posterior(prior, x, y, torch.ones(1, 1, dtype=torch.bool), noise))
    basis = torch.linalg.qr(x[0].T, mode="complete")[0]
    u_axis, other = basis[:, :1], basis[:, 1:]
    q_u, p_u = restricted(q, u_axis), restricted(prior, u_axis)
    joint_q = restricted(q, basis)
    for u in (-1.0, 0.3, 2.0):
        at = torch.tensor([[[u]]], dtype=torch.float64)
        precision = joint_q.precision[0, 0]
        loc = joint_q.loc[0, 0, 1] - precision[1, 0] / precision[1, 1] * (u - joint_q.loc[0, 0, 0])
        z, share = gauss(1)
        rest = loc + z[:, 0] / precision[1, 1].sqrt()
        w = (u * u_axis[:, 0] + rest.unsqueeze(-1) * other[:, 0])[:, None, None]
        ratio = log_joint(prior, x, y, noise, w[:, 0]) - q.distribution().log_prob(w)[:, 0]
        fit = torch.distributions.Normal(u * x[0, 0] @ u_axis[:, 0], noise.sqrt()).log_prob(y[0, 0])
        wanted = p_u.distribution().log_prob(at) + fit - q_u.distribution().log_prob(at)
        close(torch.logsumexp(ratio + share.log(), 0), wanted[0], 1e-6)


@checks("eq-gap-split")
def test_the_divergence_splits() -> None:
    prior, q, x, y, noise = linear_task()
    exact = posterior(prior, x, y, torch.ones(1, 2, dtype=torch.bool), noise)
    basis = torch.linalg.qr(x[0].T)[0]
    seen = restricted(q, basis).kl(restricted(exact, basis))
    unseen = q.kl(prior) - restricted(q, basis).kl(restricted(prior, basis))
    close(q.kl(exact), seen + unseen)
    assert float(unseen) > 0.1


@checks("eq-amortization-gap")
def test_the_gap_is_a_divergence() -> None:
    prior, q, x, y, noise = linear_task()
    mask = torch.ones(1, 2, dtype=torch.bool)
    loc, var = q.marginal(x)
    fit = torch.distributions.Normal(loc[..., 0], noise.sqrt()).log_prob(y) - var[..., 0] / (2 * noise)
    bound = fit.sum(1) - q.kl(prior)
    close(log_evidence(prior, x, y, mask, noise) - bound, q.kl(posterior(prior, x, y, mask, noise)))


@checks("eq-tail")
def test_the_tail_of_a_narrow_normal() -> None:
    for s in (0.4, 0.55, 0.9):

        def ratio(w: float, s: float = s) -> float:
            return float(stats.norm.pdf(w) / stats.norm.pdf(w, scale=s))

        t = 30.0
        edge = math.sqrt(2 * math.log(t / s) / (1 - s**2))  # in units of q
        assert abs(ratio(edge * s) - t) < 1e-9 * t
        assert ratio(1.01 * edge * s) > t > ratio(0.99 * edge * s)
        # The index is minus the slope of log t against log P; its correction falls as log log t / log t.
        level = np.array([1e40, 1e60])
        cut = np.sqrt(2 * np.log(level / s) / (1 - s**2))
        slope = np.diff(np.log(level)) / -np.diff(stats.norm.logsf(cut))
        assert abs(slope.item() - (1 - s**2)) < 0.02
    assert abs(1 - math.sqrt(0.3) ** 2 - 0.7) < 1e-12


@checks("eq-lognormal")
def test_log_normal_ratios() -> None:
    delta = 0.8  # a shift of a standard normal: log r is linear, and its variance delta^2
    q, p = stats.norm(0, 1), stats.norm(delta, 1)
    ratio = [
        integrate.quad(lambda w, k=k: q.pdf(w) * math.exp(k * (p.logpdf(w) - q.logpdf(w))), -15, 15)[0] for k in (1, 2)
    ]
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    divergence = float(FullGaussian(0 * one, one[None]).kl(FullGaussian(delta * one, one[None])))
    assert abs(divergence - delta**2 / 2) < 1e-9
    assert abs(ratio[0] ** 2 / ratio[1] - math.exp(-(delta**2))) < 1e-9


@checks("eq-dimension")
def test_small_errors_add_up() -> None:
    for epsilon in (-0.02, 0.01, 0.03):
        q, p = (
            FullGaussian(torch.zeros(1, 1, 5).double(), torch.eye(5).double()[None, None] / v**2)
            for v in (1 + epsilon, 1.0)
        )
        exact = 5 / 2 * ((1 + epsilon) ** 2 - 1 - 2 * math.log1p(epsilon))
        assert abs(float(q.kl(p)) - exact) < 1e-12
        assert abs(exact / (5 * epsilon**2) - 1) < abs(epsilon)


def coupled(seed: int = 0) -> LinearGaussianTasks:
    return LinearGaussianTasks(
        np.array([1.0, 0.0]), np.diag([1.0, 0.7]), 0.5, np.array([[1.0, 0.3]]), n_support=2, n_query=6, seed=seed
    )


@checks("eq-departure")
def test_what_inputs_add_to_the_posterior() -> None:
    tasks = coupled()
    batch = tasks.sample(3).to(torch.float64)
    full, given = (tasks.exact_posterior(batch, transductive=t).distribution() for t in (True, False))
    w = torch.randn(7, 3, 1, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = torch.cat([batch.support_x, batch.query_x], 1)
    mean = w[:, :, 0] @ torch.from_numpy(tasks.coupling).T
    of_inputs = torch.distributions.Normal(mean.unsqueeze(2), 1.0).log_prob(x).sum((2, 3))
    left = full.log_prob(w) - given.log_prob(w) - of_inputs
    close(left, left[:1].expand_as(left), 1e-8)


@checks("eq-departure-information")
def test_the_gap_of_the_exact_answer_is_information_less_what_ignoring_it_costs() -> None:
    """Given the inputs of a task, and on average over its labels, which are normal; no mutual information by itself."""
    tasks = coupled()
    batch = tasks.sample(6).to(torch.float64)
    x = torch.cat([batch.support_x, batch.query_x], 1)
    told = tasks.exact_posterior(TaskBatch(x[:, :0], x[:, :0, 0], x), transductive=True)  # p(w | x)
    prior = tasks.exact_posterior(TaskBatch(x[:, :0], x[:, :0, 0], x), transductive=False)
    phi = functional.pad(batch.support_x, (0, 1), value=1.0)

    def labels(q: FullGaussian) -> torch.distributions.MultivariateNormal:
        covariance = phi @ q.covariance()[:, 0] @ phi.mT + tasks.noise**2 * torch.eye(2, dtype=torch.float64)
        return torch.distributions.MultivariateNormal(torch.einsum("tsp,tp->ts", phi, q.loc[:, 0]), covariance)

    of_labels, z = labels(told), np.sqrt(2) * torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]], dtype=torch.float64)
    gap = torch.zeros(6, dtype=torch.float64)
    for point in z:  # exact for the mean of a quadratic function of the labels
        y = of_labels.mean + of_labels.scale_tril @ point
        seen = replace(batch, support_y=y)
        exact, given = (tasks.exact_posterior(seen, transductive=t) for t in (True, False))
        gap += exact.kl(given) / 4
    ignorance = torch.distributions.kl_divergence(of_labels, labels(prior))
    close(gap, told.kl(prior) - ignorance)
    assert float(ignorance.min()) > 0.05
    # Information beyond the labels is another number, above the gap in some finite worlds and below it in others.
    above = [finite_departure(seed) for seed in range(40)]
    assert min(above) < -0.01 < 0.01 < max(above)


def finite_departure(seed: int) -> float:
    """Return the gap less I(w; x | y), in a finite world; check the equation there too."""
    rng = np.random.default_rng(seed)
    prior, inputs, labels = rng.dirichlet(np.ones(3)), rng.dirichlet(np.ones(3), 3), rng.dirichlet(np.ones(2), (3, 3))
    joint = prior[:, None, None] * inputs[..., None] * labels  # (w, x, y)
    assumed = prior[:, None, None] * labels  # inputs taken as given: the prior and the labels alone
    exact, given = joint / joint.sum(0), assumed / assumed.sum(0)
    gap = (joint * np.log(exact / given)).sum()
    pair = joint.sum(2)
    information = (pair * np.log(pair / (pair.sum(0) * pair.sum(1)[:, None]))).sum()
    wrong = (joint.sum(0) * np.log(joint.sum(0) / pair.sum(0)[:, None] / assumed.sum(0))).sum()
    assert abs(gap - (information - wrong)) < 1e-12
    conditional = (joint * np.log(joint * joint.sum((0, 1)) / (joint.sum(0) * joint.sum(1)[:, None]))).sum()
    return float(gap - conditional)


@checks("eq-departure-gap")
def test_the_gap_of_the_exact_answer() -> None:
    tasks = coupled()
    batch = tasks.sample(50)
    full, given = (tasks.exact_posterior(batch, transductive=t) for t in (True, False))
    ratio = torch.linalg.solve(full.precision[:, 0], given.precision[:, 0])
    off = (full.loc - given.loc)[:, 0]
    distance = torch.einsum("tp,tpr,tr->t", off, given.precision[:, 0], off)
    log_det = torch.logdet(full.precision[:, 0]) - torch.logdet(given.precision[:, 0])
    each = (log_det + ratio.diagonal(dim1=1, dim2=2).sum(1) - 2 + distance) / 2
    close(each, full.kl(given))
    assert float(each.mean()) > 0.3  # an exact answer, and yet far from the target


@checks("eq-departure-tail")
def test_the_tail_of_the_exact_answer() -> None:
    """In the narrowest direction the exact answer is a narrow normal beside its target, as in eq-tail."""
    tasks = coupled()
    batch = tasks.sample(1)
    full, given = (tasks.exact_posterior(batch, transductive=t) for t in (True, False))
    values, vectors = torch.linalg.eigh(_whitened(full, given))
    narrow = float(values[0])
    product = torch.linalg.eigvals(given.precision[0, 0] @ torch.linalg.inv(full.precision[0, 0])).real.min()
    assert abs(narrow - float(product)) < 1e-9
    # Along that direction the log ratio grows as z^2 (1 - s^2) / 2, z in units of the exact answer.
    root = torch.linalg.cholesky(given.precision[0, 0])
    line = torch.linalg.solve(root.T, vectors[:, 0]) * narrow**0.5
    z = torch.tensor([0.0, 1e3, 2e3], dtype=torch.float64)
    w = (full.loc[0, 0] + z[:, None] * line)[:, None, None]
    log_ratio = (given.distribution().log_prob(w) - full.distribution().log_prob(w))[:, 0]
    curvature = (log_ratio[2] - 2 * log_ratio[1] + log_ratio[0]) / 1e6
    assert abs(float(curvature) - (1 - narrow)) < 1e-6
    assert 1 - narrow > 0.7  # perfect, and it fails the check


def _whitened(q: FullGaussian, p: FullGaussian) -> Tensor:
    """Return the covariance of `q` in units of `p`."""
    root = torch.linalg.cholesky(p.precision[0, 0])
    return root.T @ q.covariance()[0, 0] @ root


def joint_task() -> tuple[ClassGaussian, Tensor]:
    """Return $q_0$ of a task of two classes with one feature, and three queries with their constant."""
    loc = torch.tensor([[[-1.0], [0.8]]], dtype=torch.float64)
    shares, spread = torch.full((1, 2), 3.0, dtype=torch.float64), torch.tensor(0.6, dtype=torch.float64)
    q0 = ClassGaussian(loc, torch.full_like(loc, 1.5), shares, spread, 1.0)
    return q0, functional.pad(torch.tensor([[[-0.9], [0.1], [1.5]]], dtype=torch.float64), (0, 1), value=1.0)


def log_ratio_on_grid(q0: ClassGaussian, q: ClassGaussian, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return log ratios of the target to q on a grid of means and proportions, and the mass of q there."""
    side, cells = torch.linspace(-5, 5, 61, dtype=torch.float64), 150
    share = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells
    points = torch.cartesian_prod(side, side, share)
    values = {"m": points[:, None, :2, None], "pi": torch.stack([points[:, 2:], 1 - points[:, 2:]], -1)}
    of = [sum(site.log_prob(values[name])[:, 0] for name, site in g.sites().items()) for g in (q0, q)]
    mask = torch.ones(1, rows.shape[1], dtype=torch.bool)
    inputs = q0.inputs(values, mask, None).log_prob(rows[..., :-1])[:, 0]
    return of[0] + inputs - of[1], of[1].exp() * (side[1] - side[0]) ** 2 / cells


def log_evidence_of_inputs(q0: ClassGaussian, rows: Tensor) -> Tensor:
    """Return log p(x) of the queries, summed over all their labellings."""
    every = [
        q0.given_beliefs(rows[..., :-1], r).input_evidence(q0, rows)
        for y in itertools.product((0, 1), repeat=rows.shape[1])
        for r in [functional.one_hot(torch.tensor([y]), 2).double()]
    ]
    return torch.cat(every).logsumexp(0)


BELIEFS = [[0.9, 0.3, 0.1], [0.99, 0.7, 0.01], [0.5, 0.5, 0.5]]


@checks("eq-ratio-joint")
def test_ratios_of_a_joint_model_average_to_the_evidence_of_inputs() -> None:
    q0, rows = joint_task()
    wanted = log_evidence_of_inputs(q0, rows)
    first = torch.tensor(BELIEFS, dtype=torch.float64)
    for r in torch.stack([first, 1 - first], -1):
        log_ratio, mass = log_ratio_on_grid(q0, q0.given_beliefs(rows[..., :-1], r[None]), rows)
        close((mass * log_ratio.exp()).sum().log(), wanted, 1e-4)


@checks("eq-ratio-bounds")
def test_two_averages_bound_the_evidence_of_inputs() -> None:
    q0, rows = joint_task()
    exact = log_evidence_of_inputs(q0, rows)
    first = torch.tensor(BELIEFS, dtype=torch.float64)
    for r in torch.stack([first, 1 - first], -1):
        q = q0.given_beliefs(rows[..., :-1], r[None])
        log_ratio, mass = log_ratio_on_grid(q0, q, rows)
        assert float(q.input_evidence(q0, rows)) + 0.01 < float((mass * log_ratio).sum()) < float(exact) - 0.01


@checks("eq-update")
def test_the_mean_moves_by_what_was_uncertain() -> None:
    """Covariance of the update over labels drawn from the predictive, in the linear-Gaussian family."""
    rng = np.random.default_rng(5)
    x, y = (torch.from_numpy(rng.standard_normal(s)) for s in ((1, 4, 2), (1, 4)))
    tasks = LinearGaussianTasks(np.array([0.3, -0.2, 1.0]), np.diag([1.0, 0.7, 0.5]), noise=0.6)
    batch = TaskBatch(x, y, torch.from_numpy(rng.standard_normal((1, 5, 2))), torch.zeros(1, 5, dtype=torch.float64))
    phi = functional.pad(batch.query_x, (0, 1), value=1.0)[0]
    q = tasks.exact_posterior(batch, transductive=False)
    covariance = torch.linalg.inv(q.precision[0, 0])
    predictive = phi @ covariance @ phi.mT + 0.36 * torch.eye(5, dtype=torch.float64)

    def mean(labels: torch.Tensor) -> torch.Tensor:
        told = replace(batch, query_y=labels.unsqueeze(0))
        return tasks.exact_posterior(told.pooled(), transductive=False).loc[0, 0]

    still = mean(phi @ q.loc[0, 0])
    torch.testing.assert_close(still, q.loc[0, 0], atol=1e-9, rtol=0)  # labels as expected move nothing
    gain = torch.stack([mean(phi @ q.loc[0, 0] + e) - still for e in torch.eye(5, dtype=torch.float64)], 1)
    after = tasks.exact_posterior(batch.pooled(), transductive=False).precision[0, 0]
    wanted = covariance - torch.linalg.inv(after)
    torch.testing.assert_close(gain @ predictive @ gain.mT, wanted, atol=1e-9, rtol=0)
