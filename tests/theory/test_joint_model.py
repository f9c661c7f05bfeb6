"""Numerical checks of theory/joint_model.md: exact sums over labellings, or quadratures in few dimensions."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np
import pyro
import pytest
import torch
from builders import class_tasks, classifier, close
from equations import checks
from pyro import poutine
from torch import Tensor
from torch.autograd.functional import hessian, jacobian
from torch.distributions import Beta, Dirichlet, MultivariateNormal, Normal
from torch.nn.functional import one_hot, pad
from torch.utils._python_dispatch import TorchDispatchMode

from ebmeta import EmpiricalBayes
from ebmeta.parts.class_gaussian import ClassGaussian
from ebmeta.parts.class_prior import ClassPrior
from ebmeta.refine.belief import BeliefRefiner
from ebmeta.refine.equal_counts import by_moments, with_equal_counts
from ebmeta.refine.equal_shares import equal_shares
from ebmeta.refine.state import QueryState
from tests.theory.tools import constant, equal, kl, probabilities, randn

B, S, KAPPA, ALPHA, CONSTANT = 1.4, 0.8, 0.6, 1.3, 0.3


def made(size: int, kappa: float = KAPPA, alpha: float = ALPHA) -> ClassPrior:
    """The package's prior, with a location that is not zero."""
    prior = ClassPrior(size, B, S, CONSTANT).double()
    with torch.no_grad():
        prior.log_between.fill_(math.log(B))  # again, in 64 bits
        prior.log_within.fill_(math.log(S))
        prior.loc.copy_(torch.linspace(-0.5, 0.7, size))
        prior.log_power.fill_(math.log(kappa))
        prior.log_concentration.fill_(math.log(alpha))
    return prior.requires_grad_(False)


@dataclass
class World:
    """One task: the prior, labelled rows of classes 0, 1, 1, ..., the posterior given them, and queries."""

    prior: ClassGaussian
    support: Tensor
    support_y: Tensor
    q0: ClassGaussian
    x: Tensor

    @property
    def rows(self) -> Tensor:
        """The queries with their constant."""
        return pad(self.x, (0, 1), value=CONSTANT)

    @property
    def size(self) -> int:
        return self.x.shape[-1]

    @property
    def queries(self) -> int:
        return self.x.shape[1]

    def given(self, r: Tensor) -> ClassGaussian:
        return self.q0.given_beliefs(self.x, r)

    def bound(self, r: Tensor) -> Tensor:
        return self.given(r).input_evidence(self.q0, self.rows)[0]

    def log_joint(self) -> tuple[Tensor, Tensor]:
        """All labellings (n, Q) and log p(x, y | support) of each (n,), summed by no formula of beliefs."""
        ways = self.prior.loc.shape[1]
        every = torch.tensor(list(itertools.product(range(ways), repeat=self.queries)))
        return every, torch.stack([self.density(y) for y in every])

    def density(self, y: Tensor) -> Tensor:
        """log p(x, y | support): each feature of a class is jointly normal, and labels come from an urn."""
        ways = self.prior.loc.shape[1]
        total = torch.zeros((), dtype=torch.float64)
        seen = torch.zeros(ways, dtype=torch.float64)
        for i, c in enumerate(y):
            total = total + ((ALPHA + seen[c]) / (ways * ALPHA + i)).log()
            seen[c] += 1
        for c in range(ways):
            own = self.x[0, y == c]
            n = len(own)
            if n:
                variance = 1 / self.q0.precision[0, c, 0]
                covariance = variance.expand(n, n) + S / KAPPA * torch.eye(n, dtype=torch.float64)
                law = MultivariateNormal(torch.zeros(n, dtype=torch.float64), covariance)
                total = total + law.log_prob((own - self.q0.loc[0, c]).mT).sum()
        return total


def world(rng: torch.Generator, ways: int = 2, queries: int = 3, size: int = 2, *, kappa: float = KAPPA) -> World:
    prior = made(size, kappa)(1, ways)
    assert isinstance(prior, ClassGaussian)
    y = torch.cat([torch.arange(ways), torch.tensor([1])])
    support, x = randn(rng, 1, len(y), size), 1.5 * randn(rng, 1, queries, size)
    return World(prior, support, y, prior.given(support, one_hot(y[None], ways).double()), x)


def beliefs(rng: torch.Generator, queries: int = 3, ways: int = 2) -> Tensor:
    return probabilities(rng, 1, queries, ways)


def certain(y: Tensor, ways: int = 2) -> Tensor:
    return one_hot(y[None], ways).double()


def log_normal(x: Tensor, loc: Tensor, variance: Tensor | float) -> Tensor:
    return Normal(loc, torch.as_tensor(variance, dtype=torch.float64).sqrt()).log_prob(x).sum(-1)


def log_softmax_is(got: Tensor, wanted: Tensor, atol: float = 1e-10) -> None:
    """Assert that two tables of log odds are equal up to a constant of each row."""
    equal(got.log_softmax(-1), wanted.log_softmax(-1), atol)


# The model


@checks("eq-joint-model")
def test_the_program_generates_means_proportions_labels_and_inputs() -> None:
    model, batch = classifier(4, synthetic_gradient="joint", scale=0.2).eval(), class_tasks()
    prior = model.prior
    assert isinstance(prior, ClassPrior)
    with torch.no_grad():
        prior.log_between.fill_(math.log(B))
        prior.log_within.fill_(math.log(S))
        prior.log_power.fill_(math.log(KAPPA))
        prior.log_concentration.fill_(math.log(ALPHA))
        pyro.set_rng_seed(0)
        trace = poutine.trace(model.model).get_trace(batch)
    trace.compute_log_prob()
    m, pi = (trace.nodes[name]["value"] for name in ("m", "pi"))
    for t in range(len(batch)):
        ways = int(batch.way_mask[t].sum())
        real = slice(ways)
        means = log_normal(m[t], prior.loc, B).sum()  # padding of classes scores too
        shares = Dirichlet(torch.full((ways,), ALPHA, dtype=torch.float64)).log_prob(pi[t, real])
        queries = batch.query_mask[t]
        x, y = model.predictor.features(batch.query_x)[t, queries, :-1], batch.query_y[t, queries]
        drawn = pi[t, y].log() + log_normal(x, m[t, y], S / KAPPA)
        chosen = batch.support_mask[t]
        x, y = model.predictor.features(batch.support_x)[t, chosen, :-1], batch.support_y[t, chosen]
        wanted = means + shares + drawn.sum() + log_normal(x, m[t, y], S / KAPPA).sum()
        sites = [trace.nodes[name]["log_prob"][t] for name in ("m", "pi", "support_x", "query_x", "query_y")]
        close(torch.stack(sites).sum(), wanted)
    assert "support_y" not in trace.nodes


@checks("eq-joint-softmax")
def test_labels_given_inputs_are_softmax(rng: torch.Generator) -> None:
    task = world(rng, ways=3, queries=4)
    values = {"m": randn(rng, 1, 3, 2), "pi": probabilities(rng, 1, 3)}
    joint = values["pi"].log() + log_normal(task.x[0].unsqueeze(1), values["m"], S / KAPPA)
    one = torch.ones(1, 1, dtype=torch.bool)
    of_label = torch.einsum("tnp,tcp->tnc", task.rows, task.prior.weights(values)).log_softmax(-1)
    for i in range(4):
        mixture = task.prior.inputs(values, one, None).log_prob(task.x[:, i : i + 1])
        equal(mixture + of_label[0, i], joint[i])


# Posteriors


def log_complete(task: World, values: dict[str, Tensor], r: Tensor) -> Tensor:
    """Expected log density of means, proportions, all inputs and query labels, (n,) for n values."""
    m, pi = values["m"][:, 0], values["pi"][:, 0]
    prior = log_normal(m, task.prior.loc[0], B).sum(-1) + task.prior.sites()["pi"].log_prob(values["pi"])[:, 0]
    labelled = log_normal(task.support[0], m[:, task.support_y], S / KAPPA).sum(-1)
    each = log_normal(task.x[0, :, None], m.unsqueeze(1), S / KAPPA) + pi.log().unsqueeze(1)
    return prior + labelled + (r * each).sum((1, 2))


def log_density(q: ClassGaussian, values: dict[str, Tensor]) -> Tensor:
    sites = q.sites()
    return (sites["m"].log_prob(values["m"]) + sites["pi"].log_prob(values["pi"]))[:, 0]


@checks("eq-joint-posterior")
def test_any_belief_has_a_conjugate_posterior(rng: torch.Generator) -> None:
    task, r = world(rng), beliefs(rng)
    q = task.given(r)
    for c in range(2):
        own = task.support[0, task.support_y == c]
        count = len(own) + r[0, :, c].sum()
        precision = 1 / B + KAPPA * count / S
        pull = task.prior.loc[0, c] / B + KAPPA / S * (own.sum(0) + r[0, :, c] @ task.x[0])
        equal(q.precision[0, c], precision)
        equal(q.loc[0, c], pull / precision)
        equal(q.shares[0, c], ALPHA + r[0, :, c].sum())
    values = {"m": randn(rng, 20, 1, 2, 2), "pi": probabilities(rng, 20, 1, 2)}
    constant(log_complete(task, values, r) - log_density(q, values))


@checks("eq-joint-chosen")
def test_chosen_labels_tell_nothing_of_proportions(rng: torch.Generator) -> None:
    task = world(rng)
    assert task.support_y.bincount().tolist() == [1, 2]
    values = {"m": randn(rng, 20, 1, 2, 2), "pi": probabilities(rng, 20, 1, 2)}
    rows = torch.ones(1, 3, dtype=torch.bool)
    labelled = task.prior.inputs(values, rows, task.support_y[None]).log_prob(task.support)
    constant(log_density(task.prior, values) + labelled[:, 0] - log_density(task.q0, values))
    equal(task.q0.shares, task.prior.shares)


# The bound


@checks("eq-joint-bound")
def test_the_bound_is_a_product_of_integrals_and_below_the_evidence(rng: torch.Generator) -> None:
    task, r = world(rng, size=1), beliefs(rng)
    grid = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    total = -(r * r.log()).sum()
    for c in range(2):
        log_q0 = log_normal(grid[:, None], task.q0.loc[0, c], 1 / task.q0.precision[0, c])
        looks = log_normal(task.x[0][:, None], grid[:, None], S / KAPPA)
        total = total + torch.trapezoid((log_q0 + r[0, :, c] @ looks).exp(), grid).log()
    nodes, weights = np.polynomial.legendre.leggauss(200)
    share = torch.from_numpy(nodes + 1) / 2
    power = share ** r[0, :, 0].sum() * (1 - share) ** r[0, :, 1].sum()
    law = Beta(torch.tensor(ALPHA).double(), torch.tensor(ALPHA).double()).log_prob(share).exp()
    total = total + (torch.from_numpy(weights) / 2 * law * power).sum().log()
    equal(task.bound(r), total, 1e-6)
    evidence = task.log_joint()[1].logsumexp(0)
    for _ in range(50):
        assert task.bound(beliefs(rng)) < evidence


def divergence(task: World, r: Tensor) -> Tensor:
    """KL of q(m, pi | r) and independent labels from the exact posterior, labelling by labelling."""
    q, (every, density) = task.given(r), task.log_joint()
    total = torch.zeros((), dtype=torch.float64)
    for y, log_p in zip(every, density.log_softmax(0), strict=True):
        of_labels = r[0].gather(1, y.unsqueeze(1)).prod()
        known = task.given(certain(y, r.shape[-1]))
        total = total + of_labels * (of_labels.log() - log_p + q.kl(known)[0])
    return total


@checks("eq-joint-gap")
def test_what_the_bound_misses_is_a_divergence(rng: torch.Generator) -> None:
    task = world(rng)
    for _ in range(3):
        r = beliefs(rng)
        equal(task.log_joint()[1].logsumexp(0) - task.bound(r), divergence(task, r))


@checks("eq-joint-closed")
def test_the_bound_in_closed_form(rng: torch.Generator) -> None:
    task, r = world(rng, ways=3, queries=5), beliefs(rng, 5, 3)

    def normaliser(q: ClassGaussian) -> Tensor:
        one = [q.precision[0, c, 0] * q.loc[0, c].square().sum() / 2 - q.precision[0, c, 0].log() for c in range(3)]
        return torch.stack(one).sum() + q.shares.lgamma().sum() - q.shares.sum().lgamma()  # D = 2

    q = task.given(r)
    equal(q.log_normalizer()[0], normaliser(q))
    each = log_normal(task.x[0], torch.zeros(2, dtype=torch.float64), S / KAPPA).unsqueeze(1) - r[0].log()
    equal(task.bound(r), normaliser(q) - normaliser(task.q0) + (r[0] * each).sum())


@checks("eq-joint-certain")
def test_the_bound_of_certain_beliefs_is_exact(rng: torch.Generator) -> None:
    task = world(rng, ways=3)
    every, density = task.log_joint()
    equal(torch.stack([task.bound(certain(y, 3)) for y in every]), density)
    q = task.q0  # and what q_0 has of the support inputs is exact too: one row after the other
    wanted, seen = torch.zeros((), dtype=torch.float64), task.prior
    for i, c in enumerate(task.support_y):
        row = task.support[:, i : i + 1]
        wanted = wanted + log_normal(row[0, 0], seen.loc[0, c], S / KAPPA + 1 / seen.precision[0, c])
        seen = seen.given(row, certain(c[None], 3))
    equal(q.input_evidence(task.prior, pad(task.support, (0, 1)))[0], wanted)


# Beliefs


@checks("eq-joint-slope")
def test_the_slope_of_the_bound(rng: torch.Generator) -> None:
    task, r = world(rng), beliefs(rng).requires_grad_(True)
    (slope,) = torch.autograd.grad(task.bound(r), r)
    q, r = task.given(r.detach()), r.detach()
    share = torch.digamma(q.shares) - torch.digamma(q.shares.sum())
    off = (task.x[0].unsqueeze(1) - q.loc[0]).square() + 1 / q.precision[0]
    density = (-off * KAPPA / (2 * S) - math.log(2 * math.pi * S / KAPPA) / 2).sum(-1)
    equal(slope[0], share + density - r[0].log() - 1)


@checks("eq-two-beliefs")
def test_mean_field_and_leave_one_out(rng: torch.Generator) -> None:
    task, r = world(rng), beliefs(rng)
    q = task.given(r)
    leaning, (odds, variance) = q.marginal(task.rows)[0][0], q.log_odds(task.rows)
    near = (task.x[0].unsqueeze(1) - q.loc[0]).square().sum(-1) * KAPPA / (2 * S)
    log_softmax_is(leaning, torch.digamma(q.shares[0]) - near - task.size * KAPPA / (2 * S * q.precision[0, :, 0]))
    for i in range(task.queries):
        others = [j for j in range(task.queries) if j != i]
        rest = task.q0.given_beliefs(task.x[:, others], r[:, others])
        wide = S / KAPPA + 1 / rest.precision[0]
        log_softmax_is(odds[0, i], rest.shares[0].log() + log_normal(task.x[0, i], rest.loc[0], wide))
        equal(variance[0, i], wide[:, 0])


@checks("eq-average-slope")
def test_leave_one_out_is_the_average_slope(rng: torch.Generator) -> None:
    task, r = world(rng), beliefs(rng)
    odds, (mean, variance) = task.given(r).log_odds(task.rows)[0][0], task.given(r).marginal(task.rows)
    slope, curvature = (f(lambda v: task.given(v).log_normalizer()[0], r) for f in (jacobian, hessian))
    equal(slope, mean)
    equal(curvature.flatten(0, 2).flatten(1).diagonal(), variance.flatten())
    nodes, weights = np.polynomial.legendre.leggauss(40)
    for i in range(task.queries):
        compared, average = [], []
        for c in range(2):

            def put(z: float, i: int = i, c: int = c) -> ClassGaussian:
                moved = r.clone()
                moved[0, i] = 0.0
                moved[0, i, c] = z
                return task.given(moved)

            compared.append(put(1.0).log_normalizer()[0] - put(0.0).log_normalizer()[0])
            slopes = [float(put((z + 1) / 2).marginal(task.rows)[0][0, i, c]) for z in nodes]
            average.append(torch.tensor(float(weights @ np.array(slopes) / 2), dtype=torch.float64))
        log_softmax_is(odds[i], torch.stack(compared))
        equal(torch.stack(average), torch.stack(compared), 1e-9)


@checks("eq-self-confirmation")
def test_mean_field_adds_to_beliefs_above_one_half(rng: torch.Generator) -> None:
    task, r = world(rng), beliefs(rng)
    sizes, missing = [], []
    for many in (1e2, 4e2, 16e2):  # the more is known, the less one query changes
        shares = task.q0.shares * many
        known = ClassGaussian(task.q0.loc, task.q0.precision * many, shares, task.q0.spread, CONSTANT)
        q = known.given_beliefs(task.x, r)
        mean, variance = q.marginal(task.rows)
        gap = (mean - q.log_odds(task.rows)[0])[0]
        gap, wanted = gap[:, 1] - gap[:, 0], ((r - 0.5) * (variance + torch.polygamma(1, q.shares.sum())))[0]
        sizes.append(float(gap.abs().max()))
        missing.append(float((gap - (wanted[:, 1] - wanted[:, 0])).abs().max()))
    assert sizes[-1] > 20 * missing[-1]
    for before, after in itertools.pairwise(missing):
        assert after < before / 12  # of second order: 16 times less for 4 times as much knowledge
    sure = torch.tensor([[[0.9, 0.1]] * 3], dtype=torch.float64)  # and at once, where much is unknown
    q = task.given(sure)
    mean, odds = q.marginal(task.rows)[0].log_softmax(-1), q.log_odds(task.rows)[0].log_softmax(-1)
    assert bool((mean - odds)[..., 0].gt(0).all())


@checks("eq-collapsed-bound")
def test_the_collapsed_bound_lies_between(rng: torch.Generator) -> None:
    task = world(rng)
    every, density = task.log_joint()

    def collapsed(r: Tensor) -> Tensor:
        of_labels = r[0, torch.arange(3), every].prod(-1)
        return (of_labels * density).sum() - (r * r.log()).sum()

    for _ in range(20):
        r = beliefs(rng)
        assert task.bound(r) < collapsed(r) < density.logsumexp(0)
    for _ in range(200):  # one query after the other: normalised exponentials of average log conditionals
        for i in range(3):
            rest = r[0, torch.arange(3), every] * (torch.arange(3) != i) + (torch.arange(3) == i)
            of_class = [(rest.prod(-1) * density)[every[:, i] == c].sum() for c in range(2)]
            r[0, i] = torch.stack(of_class).softmax(-1)
    free = r.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(collapsed(free), free)
    equal(slope[..., 0] - slope[..., 1], 0.0, 1e-8)


@checks("eq-exact-conditional")
def test_leave_one_out_is_exact_where_the_others_are_known(rng: torch.Generator) -> None:
    task = world(rng, ways=3)
    every, density = task.log_joint()
    for y in every[::4]:
        for i in range(task.queries):
            r = certain(y, 3)
            r[0, i] = probabilities(rng, 3)
            same = (every == y).sum(-1) - (every[:, i] == y[i]).long() == 2
            log_softmax_is(task.given(r).log_odds(task.rows)[0][0, i], density[same])


# Steps


def beliefs_of(model: EmpiricalBayes, steps: int) -> tuple[list[ClassGaussian], list[Tensor], list[Tensor]]:
    """Return posteriors, leave-one-out beliefs and corrected beliefs of some steps, of unpadded tasks."""
    batch = class_tasks((3, 3), (2, 1), (6, 6), spread=2.0)
    with torch.no_grad():
        inferred = model.infer(batch, steps)
        states = [QueryState(inferred.setting, iterate.q) for iterate in inferred.iterates]
        probs = [inferred.predict(k)["probs"] for k in range(steps + 1)]
        means = [s.mean for s in states]
    return [s.q for s in states], means, probs  # type: ignore[misc]


@checks("eq-joint-step")
def test_steps_count_corrected_beliefs(rng: torch.Generator) -> None:
    model = classifier(4, 3, scale=0.2, synthetic_gradient="joint").eval()
    refiner, batch = model.refiner, class_tasks((3, 3), (2, 1), (6, 6), spread=2.0)
    assert isinstance(refiner, BeliefRefiner)
    refiner.forget()  # without a temperature, what is predicted is the belief
    path, odds, probs = beliefs_of(model, 3)
    inferred = model.infer(batch, 3)
    for k in range(3):
        state = QueryState(inferred.setting, inferred.iterates[k].q)
        reading = refiner.synthetic_gradient.read(state)
        t = refiner.confidence(reading.by_task).tanh().exp().unsqueeze(-1)
        exact = replace(inferred.iterates[k].q, volume=None).log_odds(inferred.setting.real_x)[0]
        close(odds[k], (exact + model.prior.volume * 4 / 2 * state.var.log()).softmax(-1))
        r = (t * odds[k].log() + refiner.synthetic_gradient.correction(reading)).softmax(-1).detach()
        equal(probs[k], r if k else odds[0])  # before any step, no network
        close(path[k + 1].loc, path[0].given_beliefs(inferred.setting.x[..., :-1], r).loc)
        assert float((odds[k] - r).detach().abs().max()) > 0.01
    _, odds, probs = beliefs_of(classifier(4, 3, scale=0.0, synthetic_gradient="joint").eval(), 300)
    for before, after in itertools.pairwise(odds[:4]):  # untrained: xi is zero, and the steps move
        assert float((before - after).abs().max()) > 1e-3
    for r_star, r in zip(odds, probs, strict=True):
        equal(r_star - r, 0.0)
    equal(odds[-1] - probs[-2], 0.0, 1e-8)  # the residual of the step vanishes where it has converged
    _, odds, probs = beliefs_of(model, 300)
    equal(odds[-1] - probs[-2], odds[-1] - probs[-1], 1e-8)  # and of trained steps it is xi
    assert float((odds[-1] - probs[-1]).abs().max()) > 0.01


@checks("eq-mean-of-steps")
def test_a_trained_model_predicts_by_a_mean_over_its_steps() -> None:
    model = classifier(4, 3, scale=0.3, synthetic_gradient="joint").eval()
    refiner, batch = model.refiner, class_tasks((3, 3), (2, 1), (6, 6), spread=2.0)
    assert isinstance(refiner, BeliefRefiner)
    refiner.forget()
    refiner.temperature.bias += torch.tensor([0.2, -0.1, 0.3], dtype=torch.float64)  # fitted, once it is not zero
    inferred = model.infer(batch, 3)
    states = [QueryState(inferred.setting, iterate.q) for iterate in inferred.iterates]
    parts = [refiner.log_probs(k, states[k + 1]).exp().detach() for k in range(3)]
    for k in range(1, 4):
        weight = [2 * j / (k * (k + 1)) for j in range(1, k + 1)]
        assert sum(weight) == pytest.approx(1.0)
        probs = inferred.predict(k)["probs"].detach()
        close(probs, sum(w * p for w, p in zip(weight, parts[:k], strict=True)))
        loss = sum(-w * p.log() for w, p in zip(weight, parts[:k], strict=True))
        assert bool((-probs.log() <= loss + 1e-12).all())
    assert float((parts[2] - probs).abs().max()) > 0.01


@checks("eq-joint-price")
def test_the_price_of_a_correction_is_a_difference_of_divergences(rng: torch.Generator) -> None:
    task = world(rng)
    r_star = task.q0.log_odds(task.rows)[0].softmax(-1)
    for _ in range(3):
        r = (r_star.log() + randn(rng, 1, 3, 2)).softmax(-1)
        equal(task.bound(r_star) - task.bound(r), divergence(task, r) - divergence(task, r_star))


@checks("eq-missing-information")
def test_inputs_hold_the_information_of_rows_less_that_of_labels(rng: torch.Generator) -> None:
    """The Hessian of the program's density, in each class's own mean."""
    task = world(rng)
    m, pi = task.q0.loc[0].detach(), torch.tensor([[0.3, 0.7]], dtype=torch.float64)
    mask = torch.ones(1, task.rows.shape[1], dtype=torch.bool)

    def density(means: Tensor) -> Tensor:
        values = {"m": means[None], "pi": pi}
        inputs = task.q0.inputs(values, mask, None).log_prob(task.rows[..., :-1])
        return (inputs + task.q0.distribution().log_prob(means[None])).sum()

    hessian = torch.autograd.functional.hessian(density, m)
    s = task.q0.spread
    off = (task.rows[0, :, None, :-1] - m).square().sum(-1)
    r = (pi.log() - off / (2 * s)).softmax(-1)
    size = m.shape[-1]
    for c in range(len(m)):
        wanted = task.q0.precision[0, c, 0] + (r[:, c] / s - r[:, c] * (1 - r[:, c]) * off[:, c] / (size * s**2)).sum()
        equal(-hessian[c, :, c].diagonal().mean(), wanted)


@checks("eq-doubt")
def test_reported_widths_lack_what_labels_would_add() -> None:
    """Distances are averages over 20,000 draws of the posterior by counts, right within 1%."""
    model = classifier(4, 2, scale=0.1, synthetic_gradient="joint").eval()
    batch = class_tasks((3, 3), (2, 1), (6, 6), spread=2.0)
    with torch.no_grad():
        inferred = model.infer(batch)
    q0, x = inferred.path[0], inferred.setting.real_x[..., :-1]
    assert isinstance(q0, ClassGaussian)
    for iterate in inferred.iterates[1:]:
        counts, reported = iterate.q, iterate.posterior
        assert isinstance(counts, ClassGaussian)
        assert isinstance(reported, ClassGaussian)
        assert counts.counted is not None
        r, s = counts.counted, q0.spread
        draws = counts.draw(20_000, torch.Generator().manual_seed(0))["m"]
        off = torch.stack([(x[:, i, None] - draws).square().mean((0, -1)) for i in range(x.shape[1])], 1)
        usual = ((r * off).sum((1, 2)) / r.sum((1, 2))).clamp(max=s)
        rows = r.sum(1) - (r * (1 - r) * off).sum(1) / usual.unsqueeze(1)
        equal(reported.precision[..., 0], q0.precision[..., 0] + rows.clamp(min=0) / s, 1e-2)
        share, before = (q.shares / q.shares.sum(1, keepdim=True) for q in (reported, counts))
        equal(share, before)
        told = r.sum((1, 2)) - (r * (1 - r)).sum((1, 2)) / (1 - share.square().sum(1))
        equal(reported.shares.sum(1), q0.shares.sum(1) + told.clamp(min=0))
        equal(reported.loc, counts.loc)


@checks("eq-joint-first")
def test_the_first_belief_is_the_exact_prediction_of_one_query(rng: torch.Generator) -> None:
    task = world(rng, size=1, queries=1)
    side, share = torch.linspace(-7, 7, 71, dtype=torch.float64), torch.linspace(0, 1, 42, dtype=torch.float64)
    points = torch.cartesian_prod(side, side, (share[1:] + share[:-1]) / 2)
    values = {"m": points[:, None, :2, None], "pi": torch.stack([points[:, 2:], 1 - points[:, 2:]], -1)}
    rows = torch.ones(1, 3, dtype=torch.bool)
    weight = log_density(task.prior, values)
    weight = weight + task.prior.inputs(values, rows, task.support_y[None]).log_prob(task.support)[:, 0]
    weight = weight + task.prior.inputs(values, rows[:, :1], None).log_prob(task.x)[:, 0]
    labels = torch.einsum("np,stcp->sc", task.rows[0], task.prior.weights(values)).softmax(-1)
    equal(weight.softmax(0) @ labels, task.q0.log_odds(task.rows)[0][0, 0].softmax(-1), 1e-4)


# Proportions


@checks("eq-joint-urn")
def test_labels_come_from_an_urn(rng: torch.Generator) -> None:
    task = world(rng, ways=3, queries=4)
    known = task.q0.with_(0 * task.q0.loc, 1e15 + 0 * task.q0.precision)  # known means, all the same: counts alone
    y = torch.tensor([1, 1, 0, 2])
    odds = known.given_beliefs(task.x, certain(y, 3)).log_odds(task.rows)[0][0].softmax(-1)
    for i in range(4):
        count = one_hot(y[torch.arange(4) != i], 3).sum(0).double()
        equal(odds[i], (ALPHA + count) / (3 * ALPHA + 3), 1e-9)
        law = Dirichlet(torch.full((3,), ALPHA, dtype=torch.float64) + count)
        equal(odds[i], law.mean, 1e-9)


@checks("eq-equal-shares")
def test_known_shares_hold_for_posteriors_and_beliefs(rng: torch.Generator) -> None:
    task = world(rng, queries=4)
    every, density = task.log_joint()
    balanced = every.sum(-1) == 2
    exact = density[balanced].softmax(0) @ certain(every[balanced].flatten())[0].view(-1, 8)
    equal(exact.view(4, 2).sum(0), 2.0)
    mask, ways = torch.ones(1, 4, dtype=torch.bool), torch.ones(1, 2, dtype=torch.bool)
    r_star = task.q0.log_odds(task.rows)[0].softmax(-1)
    r = equal_shares(r_star.log(), mask, ways, 500).softmax(-1)
    equal(r.sum(1), 2.0)
    multiplier = (r / r_star)[0, :, 1] / (r / r_star)[0, :, 0]  # e^u, the same for all queries
    constant(multiplier)
    assert abs(float(multiplier[0].log())) > 0.1
    for _ in range(50):  # moves that keep rows and columns
        i, j = torch.randperm(4, generator=rng)[:2]
        move = torch.zeros(1, 4, 2, dtype=torch.float64)
        move[0, i], move[0, j] = torch.tensor([1.0, -1.0]), torch.tensor([-1.0, 1.0])
        assert kl(r + 0.2 * float(r.min()) * move, r_star).sum() > kl(r, r_star).sum()
    for _ in range(300):  # the bound under the constraint: its slope is one multiplier of each class and query
        r = equal_shares(task.given(r).marginal(task.rows)[0], mask, ways, 100).softmax(-1)
    free = r.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(task.bound(free), free)
    constant(slope[0, :, 1] - slope[0, :, 0], 1e-7)


@checks("eq-equal-counts")
def test_given_equal_counts_arrangements_are_summed(rng: torch.Generator) -> None:
    for ways, queries in ((2, 2), (2, 6), (3, 6), (4, 4)):
        r = probabilities(rng, 1, queries, ways)
        every = torch.tensor(list(itertools.product(range(ways), repeat=queries)))
        counts = one_hot(every, ways).sum(1)
        some = (counts == queries // ways).all(1)
        weight = torch.stack([r[0, torch.arange(queries), y].prod() for y in every[some]])
        wanted = (weight / weight.sum()) @ one_hot(every[some], ways).double().flatten(1)
        mask, real = torch.ones(1, queries, dtype=torch.bool), torch.ones(1, ways, dtype=torch.bool)
        potential = randn(rng, 1, 1, ways)
        for odds in (r.log(), r.log() + potential):
            equal(with_equal_counts(odds, mask[:, 0], mask, real).exp().flatten(), wanted.flatten(), 1e-9)
        for i in range(queries):  # r_ic times the probability of what is left for the others
            others = one_hot(torch.tensor(list(itertools.product(range(ways), repeat=queries - 1))), ways).sum(1)
            rest = torch.cat([r[0, :i], r[0, i + 1 :]])
            each = torch.stack(
                [
                    rest[torch.arange(queries - 1), torch.tensor(y)].prod()
                    for y in itertools.product(range(ways), repeat=queries - 1)
                ]
            )
            left = torch.stack([each[(others == queries // ways - e).all(1)].sum() for e in torch.eye(ways).long()])
            equal(wanted.view(queries, ways)[i], r[0, i] * left / (r[0, i] * left).sum(), 1e-9)


@checks("eq-counts-by-moments")
def test_counts_of_the_other_queries_have_these_moments(rng: torch.Generator) -> None:
    """Draws have the mean and the covariance; the odds that these give are those of the package."""
    ways, queries, floor = 3, 9, 0.05
    mask, real = torch.ones(1, queries, dtype=torch.bool), torch.ones(1, ways, dtype=torch.bool)
    odds = equal_shares(2 * randn(rng, 1, queries, ways), mask, real, 500)
    r = odds.softmax(-1)[0]
    basis = torch.linalg.svd(torch.ones(1, ways, dtype=torch.float64))[2][1:]  # vectors whose entries add up to 0
    drawn = one_hot(torch.multinomial(r, 100_000, replacement=True, generator=rng), ways).double()
    wanted = []
    for i in range(queries):
        others = torch.cat([r[:i], r[i + 1 :]])
        equal(others.sum(0), queries / ways - r[i], 1e-9)
        covariance = torch.diag(others.sum(0)) - others.mT @ others
        counts = torch.cat([drawn[:i], drawn[i + 1 :]]).sum(0)
        equal(torch.cov(counts.mT), covariance, 0.03)  # 3 standard errors of the widest
        inverse = torch.linalg.inv(basis @ (covariance + floor * torch.eye(ways)) @ basis.mT)
        off = (torch.eye(ways, dtype=torch.float64) - r[i]) @ basis.mT
        wanted.append(odds[0, i] - (off @ inverse * off).sum(-1) / 2)
    log_softmax_is(by_moments(odds)[0], torch.stack(wanted), 1e-9)


# Misfit


@checks("eq-power")
def test_the_likelihood_is_raised_to_a_power(rng: torch.Generator) -> None:
    values = {"m": randn(rng, 20, 1, 2, 3), "pi": probabilities(rng, 20, 1, 2)}
    rows, x, y = torch.ones(1, 4, dtype=torch.bool), randn(rng, 1, 4, 3), torch.tensor([[0, 1, 1, 0]])
    tempered, plain = (made(3, k)(1, 2) for k in (KAPPA, 1.0))
    assert isinstance(tempered, ClassGaussian)
    assert isinstance(plain, ClassGaussian)
    laws = [q.inputs(values, rows, y).log_prob(x) for q in (tempered, plain)]
    constant(laws[0] - KAPPA * laws[1])
    equal(log_density(tempered, values), log_density(plain, values))


@checks("eq-power-shrinkage")
def test_a_row_counts_for_a_part_of_a_row(rng: torch.Generator) -> None:
    r = beliefs(rng)
    state = rng.get_state()
    for kappa in (KAPPA, 1.0, 0.05):
        rng.set_state(state)
        task = world(rng, kappa=kappa)
        q, weight = task.given(r), torch.cat([certain(task.support_y), r], 1)[0]
        mean = weight.mT @ torch.cat([task.support, task.x], 1)[0] / weight.sum(0).unsqueeze(1)
        rho = (1 + kappa * B / S * weight.sum(0)).unsqueeze(1)
        equal(q.precision[0], (rho / B).expand(2, 2))
        equal(q.loc[0], task.prior.loc[0] / rho + (1 - 1 / rho) * mean)


def distortion(task: World, r: Tensor, q: ClassGaussian) -> Tensor:
    """Expected squared distances of all rows from their class means, over 2 s."""
    weight = torch.cat([certain(task.support_y), r], 1)[0]
    off = (torch.cat([task.support, task.x], 1)[0].unsqueeze(1) - q.loc[0]).square() + 1 / q.precision[0]
    return (weight * off.sum(-1)).sum() / (2 * S)


@checks("eq-power-bottleneck")
def test_the_posterior_is_the_optimum_of_rate_and_distortion(rng: torch.Generator) -> None:
    task, r = world(rng), beliefs(rng)
    q = task.given(r)

    def price(law: ClassGaussian) -> Tensor:
        return distortion(task, r, law) + law.means.kl(task.prior.means)[0] / KAPPA

    for _ in range(10):  # what another Gaussian loses is its divergence from the optimum
        other = q.with_(q.loc + randn(rng, 1, 2, 2), q.precision * torch.exp(randn(rng, 1, 2, 1)))
        equal(price(other) - price(q), other.means.kl(q.means)[0] / KAPPA)


@checks("eq-power-rate")
def test_rate_and_distortion_over_the_power(rng: torch.Generator) -> None:
    r = beliefs(rng)
    state = rng.get_state()

    def curve(kappa: float) -> tuple[Tensor, Tensor]:
        rng.set_state(state)
        task = world(rng, kappa=kappa)
        q, rho = task.given(r), 1 + kappa * B / S * (task.support_y.bincount() + r[0].sum(0))
        moved = (q.loc - task.prior.loc)[0].square().sum(-1)
        rate = (task.size * (rho.log() + 1 / rho - 1) + moved / B).sum() / 2
        equal(q.means.kl(task.prior.means)[0], rate)
        return rate, distortion(task, r, q)

    assert float(curve(1e-9)[0]) < 1e-8
    for kappa in (0.1, 0.4, 1.0):
        low, high = curve(kappa - 1e-5), curve(kappa + 1e-5)
        rate, distorted = ((b - a) / 2e-5 for a, b in zip(low, high, strict=True))
        assert rate > 0
        equal(distorted, -rate / kappa, 1e-6)


def correlated(rng: torch.Generator, size: int) -> Tensor:
    """A covariance matrix, the mean of whose diagonal is one."""
    root = randn(rng, size, size) @ torch.diag(torch.linspace(0.2, 2, size, dtype=torch.float64))
    return size * root @ root.mT / (root @ root.mT).trace()


@checks("eq-effective-features")
def test_the_power_that_calibrates_log_odds(rng: torch.Generator) -> None:
    size = 5
    covariance, m = correlated(rng, size), randn(rng, 1, 2, size)
    delta = m[0, 1] - m[0, 0]
    kappa = float(delta.square().sum() / (delta @ covariance @ delta))
    assert kappa < 0.8
    known = made(size, kappa, alpha=1e9)(1, 2)
    assert isinstance(known, ClassGaussian)
    known = known.with_(m, 1e14 + 0 * m)

    def log_odds(x: Tensor) -> Tensor:
        odds = known.log_odds(pad(x[None], (0, 1), value=CONSTANT))[0][0]
        return odds[:, 1] - odds[:, 0]

    of_mean = log_odds(m[0])  # they are linear in the input: moments from its mean and a root of its covariance
    columns = log_odds(m[0, 1] + (S * torch.linalg.cholesky(covariance)).mT / S**0.5) - of_mean[1]
    variance = columns.square().sum()
    equal(of_mean, torch.tensor([-1.0, 1.0], dtype=torch.float64) * kappa * delta.square().sum() / (2 * S), 1e-6)
    equal(variance, 2 * of_mean[1], 1e-6)
    seen = torch.linspace(-4, 4, 9, dtype=torch.float64)
    densities = [Normal(v, variance.sqrt()).log_prob(seen) for v in of_mean]
    equal((densities[1] - densities[0]).sigmoid(), seen.sigmoid(), 1e-6)
    groups = torch.block_diag(*[torch.ones(g, g, dtype=torch.float64) for g in (4, 4, 4)])
    for spectrum in (covariance, groups):  # differences that scatter as rows do
        number = len(spectrum)
        average = number / (spectrum @ spectrum).trace()
        equal(average, spectrum.trace() / (spectrum * spectrum.mT).sum())
        equal(
            number * average,
            torch.linalg.eigvalsh(spectrum).sum() ** 2 / torch.linalg.eigvalsh(spectrum).square().sum(),
        )
    equal(number * average, 3.0)


@checks("eq-power-widths")
def test_widths_per_coordinate_and_along_inputs(rng: torch.Generator) -> None:
    size, rows = 6, 3
    covariance = torch.block_diag(*[torch.ones(2, 2, dtype=torch.float64)] * 3)  # pairs of equal coordinates
    for kappa in (0.5, 0.1):
        prior = made(size, kappa)(1, 1)
        assert isinstance(prior, ClassGaussian)
        at, one = prior.loc[0, 0], torch.ones(1, rows, 1, dtype=torch.float64)
        q = prior.given(at.expand(1, rows, size), one)
        equal(q.loc[0, 0], at)
        step = torch.eye(size, dtype=torch.float64)  # the location is affine in the rows: one feature at a time
        slope = prior.given(at + step[:, None] * one[:1], one.expand(size, rows, 1)).loc[:, 0] - at
        a = float(slope[0, 0])
        equal(slope, a * step)
        equal(1 / (B * q.precision[0, 0, 0]), 1 - a)
        error = (B * (1 - a) ** 2 + S * a**2 / rows) * covariance  # of the mean, and of the mean of the rows
        equal(error, (1 - a * (1 - kappa)) / q.precision[0, 0, 0] * covariance)
        equal((B + S / rows) * a**2 * covariance, (kappa + a * (1 - kappa)) * a * B * covariance)
    x = torch.tensor([0.7, 0.7, -1.2, -1.2, 0.1, 0.1], dtype=torch.float64)  # an input that scatters so
    equal(x @ covariance @ x, x.square().sum() / 0.5)


# Other rows


@checks("eq-outliers")
def test_rows_of_no_class_are_of_unknown_ones(rng: torch.Generator) -> None:
    prior = made(2)(1, 2)
    assert isinstance(prior, ClassGaussian)
    prior = prior.with_unknown(torch.tensor([True]), 2)
    q0 = prior.given(randn(rng, 1, 2, 2), certain(torch.tensor([0, 1]), 4))
    x, r = randn(rng, 1, 4, 2), beliefs(rng, 4, 4)
    odds = q0.given_beliefs(x, r).log_odds(pad(x, (0, 1)))[0][0]
    for i in range(4):
        others = [j for j in range(4) if j != i]
        rest = q0.given_beliefs(x[:, others], r[:, others])
        each = log_normal(x[0, i], rest.loc[0], S / KAPPA + 1 / rest.precision[0])
        each = each + (ALPHA + r[0, others].sum(0)).log()
        equal(odds[i].softmax(-1)[2:].sum(), each.softmax(-1)[2:].sum())
    empty = q0.log_odds(pad(x, (0, 1)))[0][0]  # an unknown class without a row has the prior predictive
    wide = log_normal(x[0], prior.loc[0, 2], B + S / KAPPA) - log_normal(
        x[0], q0.loc[0, 0], S / KAPPA + 1 / q0.precision[0, 0]
    )
    equal(empty[:, 2] - empty[:, 0], wide)
    grid = torch.linspace(-15, 15, 4001, dtype=torch.float64)
    both = log_normal(x[0, 0, :1], grid[:, None], S / KAPPA) + log_normal(grid[:, None], prior.loc[0, 2, :1], B)
    equal(torch.trapezoid(both.exp(), grid).log(), log_normal(x[0, 0, :1], prior.loc[0, 2, :1], B + S / KAPPA), 1e-8)


@checks("eq-anchors")
def test_an_anchor_is_a_row_that_counts_for_several(rng: torch.Generator) -> None:
    prior, anchor, nu = made(2)(1, 2), randn(rng, 1, 2, 2), torch.tensor([[2.5, 0.0]], dtype=torch.float64)
    assert isinstance(prior, ClassGaussian)
    q = prior.anchored(anchor, nu)
    for c in range(2):
        precision = 1 / B + KAPPA * nu[0, c] / S
        equal(q.precision[0, c], precision)
        equal(q.loc[0, c], (prior.loc[0, c] / B + KAPPA * nu[0, c] * anchor[0, c] / S) / precision)
    m = randn(rng, 20, 2)  # the conjugate posterior of one look
    look = log_normal(anchor[0, 0], m, S / (KAPPA * 2.5)) + log_normal(m, prior.loc[0, 0], B)
    constant(look - log_normal(m, q.loc[0, 0], 1 / q.precision[0, 0]))


class Sizes(TorchDispatchMode):
    """Keeps the largest number of elements of any tensor that an operation returns."""

    most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else (out,):
            if isinstance(value, Tensor):
                self.most = max(self.most, value.numel())
        return out


@checks("eq-two-products")
def test_a_step_keeps_tables_of_two_dimensions(rng: torch.Generator) -> None:
    ways, queries, size = 11, 40, 30
    task = world(rng, ways, queries, size)
    r = beliefs(rng, queries, ways)
    with Sizes() as sizes:
        odds = task.given(r).log_odds(task.rows)[0][0]
    assert sizes.most <= queries * (size + 1)
    q = task.given(r)
    gamma, whole = q.precision[0] * q.loc[0], q.precision[0, :, 0]
    for i in (0, 7):
        e, x = KAPPA * r[0, i] / S, task.x[0, i]
        length, dot = x.square().sum(), gamma @ x
        distance = length - 2 * (dot - e * length) / (whole - e)
        distance = distance + (gamma.square().sum(-1) - 2 * e * dot + e**2 * length) / (whole - e) ** 2
        others = [j for j in range(queries) if j != i]
        rest = task.q0.given_beliefs(task.x[:, others], r[:, others])
        equal(distance, (x - rest.loc[0]).square().sum(-1))
        wide = S / KAPPA + 1 / (whole - e)
        log_softmax_is(odds[i], (q.shares[0] - r[0, i]).log() - size / 2 * wide.log() - distance / (2 * wide))


# What other inputs are worth


def gains(queries: int, known: float = 1.0) -> tuple[float, float, float]:
    """Return the gain of one of some queries three ways: from labels, from inputs, and from knowing the means.

    All precisions and concentrations are multiplied by `known`.

    One feature, two classes, one labelled row each; inputs on a grid, and labels summed over by the package's evidence.
    """
    side = torch.linspace(-9, 9, 49, dtype=torch.float64)
    x = torch.cartesian_prod(*[side] * queries).view(-1, queries, 1)
    prior = made(1, 2.0)(1, 2)
    assert isinstance(prior, ClassGaussian)
    support = torch.tensor([[[-0.8], [1.4]]], dtype=torch.float64)
    q0 = prior.given(support, certain(torch.arange(2)))
    q0 = replace(q0, precision=known * q0.precision, shares=known * q0.shares)[torch.zeros(len(x), dtype=torch.long)]
    every = torch.tensor(list(itertools.product((0, 1), repeat=queries)))
    rows = pad(x, (0, 1), value=CONSTANT)
    density = (
        torch.stack(  # of inputs and labels, (points, labellings)
            [q0.given_beliefs(x, certain(y).expand(len(x), queries, 2)).input_evidence(q0, rows) for y in every],
            -1,
        ).exp()
        * (side[1] - side[0]) ** queries
    )
    equal(density.sum(), 1.0, 1e-6)
    label = torch.stack(
        [density[:, every[:, 0] == c].sum(-1) for c in range(2)], -1
    )  # of all inputs and the first label
    alone = label.view(len(side), -1, 2).sum(1)  # of the first input and label
    by_label = (label * (label / label.sum(-1, keepdim=True)).log()).sum()
    by_label = by_label - (alone * (alone / alone.sum(-1, keepdim=True)).log()).sum()
    table = label.view(len(side), -1, 2)
    given_both = table * (table / table.sum(1, keepdim=True)).log()
    pooled = table.sum(-1)
    given_input = pooled * (pooled / pooled.sum(1, keepdim=True)).log()
    total = _from_means(q0[:1], side, alone) if known == 1 else torch.zeros(())
    return float(by_label), float(given_both.sum() - given_input.sum()), float(total)


def _from_means(q0: ClassGaussian, side: Tensor, alone: Tensor) -> Tensor:
    """I(label; means, proportions | one input): the loss of not knowing them, by quadrature over all three."""
    share = torch.linspace(0, 1, 32, dtype=torch.float64)
    points = torch.cartesian_prod(side, side, (share[1:] + share[:-1]) / 2)
    values = {"m": points[:, None, :2, None], "pi": torch.stack([points[:, 2:], 1 - points[:, 2:]], -1)}
    weight = log_density(q0, values).softmax(0)
    rows = pad(side[:, None], (0, 1), value=CONSTANT)
    log_p = torch.einsum("np,stcp->snc", rows, q0.weights(values)).log_softmax(-1)
    total = torch.zeros((), dtype=torch.float64)
    for n in range(len(side)):
        law = q0.inputs(values, torch.ones(1, 1, dtype=torch.bool), None)
        mass = weight * law.log_prob(side[n].view(1, 1, 1))[:, 0].exp() * (side[1] - side[0])
        total = total + (mass.unsqueeze(-1) * log_p[:, n].exp() * log_p[:, n]).sum()
    return total - (alone * (alone / alone.sum(-1, keepdim=True)).log()).sum()


@checks("eq-joint-gain")
def test_other_inputs_are_worth_what_the_label_tells_of_them() -> None:
    two, three = gains(2), gains(3)
    for by_label, by_input, _ in (two, three):
        assert abs(by_label - by_input) < 1e-9
    assert 0.005 < two[0] < three[0] < two[2]
    assert abs(two[2] - three[2]) < 1e-9
    assert 0 <= gains(2, 1e5)[0] < 1e-6  # where means and proportions are known, other inputs are worth nothing


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)
