"""Numerical checks of theory/mixture.md: exact, so that none can fail by chance."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from builders import class_tasks, classifier, close
from equations import checks
from scipy import integrate, special
from torch import Tensor
from torch.nn.functional import normalize

from ebmeta import EmpiricalBayes, TaskBatch
from ebmeta.parts.heads import CONSTANT
from ebmeta.refine.belief import TOLD, BeliefRefiner
from ebmeta.refine.mixture import MixtureRefiner
from ebmeta.refine.state import QueryState, Setting
from ebmeta.refine.temperature import LEAST_SCALE, RIDGE
from ebmeta.training.temperature import fit_task_temperature


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def randn(rng: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def log_vmf(x: Tensor, u: Tensor, kappa: float) -> Tensor:
    """Log density of the von Mises-Fisher distribution in three dimensions, at every pair of rows."""
    return kappa * x @ u.T + math.log(kappa / (4 * math.pi * math.sinh(kappa)))


def mixture(rng: torch.Generator, ways: int = 3, rows: int = 40, kappa: float = 4.0):
    """Unit vectors of three unequal clusters, the labelled first of each, and wrong starting directions."""
    u = normalize(randn(rng, ways, 3), dim=-1)
    pi = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    y = torch.multinomial(pi, rows, True, generator=rng)
    x = normalize(kappa**0.5 * u[y] + randn(rng, rows, 3) / 2, dim=-1)
    support = normalize(u + randn(rng, ways, 3) / 2, dim=-1)
    return x, support, normalize(u + randn(rng, ways, 3), dim=-1), pi


@checks("eq-vmf-posterior")
def test_the_mixture_is_a_linear_predictor(rng: torch.Generator) -> None:
    kappa = 3.0
    x, _, u, pi = mixture(rng)
    total, _ = integrate.dblquad(  # the density is one
        lambda angle, z: math.exp(kappa * z) * kappa / (4 * math.pi * math.sinh(kappa)), -1, 1, 0, 2 * math.pi
    )
    assert abs(total - 1) < 1e-9
    joint = pi * log_vmf(x, u, kappa).exp()
    w = torch.cat([kappa * u, pi.log().unsqueeze(-1) / CONSTANT], -1)
    features = torch.cat([x, torch.full((len(x), 1), CONSTANT, dtype=torch.float64)], -1)
    close(joint / joint.sum(-1, keepdim=True), torch.softmax(features @ w.T, -1))


def start(model: EmpiricalBayes, batch: TaskBatch) -> QueryState:
    """Return what is known of the queries before the first step."""
    setting = model.infer(batch, 0).setting
    return QueryState(setting, setting.q0)


def completed(x: Tensor, support: Tensor, r: Tensor, u: Tensor, pi: Tensor, kappa: float) -> Tensor:
    """Expected complete-data log likelihood, from its definition."""
    queries = (r * (pi.log() + log_vmf(x, u, kappa))).sum()
    return queries + log_vmf(support, u, kappa).diagonal().sum()


@checks("eq-complete")
def test_the_complete_likelihood_has_two_statistics(rng: torch.Generator) -> None:
    x, support, u, pi = mixture(rng)
    r = torch.softmax(randn(rng, len(x), 3), -1)
    resultant, claimed = support + r.T @ x, r.sum(0)
    other, flat = normalize(randn(rng, 3, 3), dim=-1), torch.full((3,), 1 / 3, dtype=torch.float64)
    got = [4.0 * (v * resultant).sum() + (claimed * p.log()).sum() for v, p in ((u, pi), (other, flat))]
    wanted = [completed(x, support, r, v, p, 4.0) for v, p in ((u, pi), (other, flat))]
    close(got[0] - got[1], wanted[0] - wanted[1])


@checks("eq-direction")
def test_directions_maximise_the_complete_likelihood(rng: torch.Generator) -> None:
    x, support, _, pi = mixture(rng)
    r = torch.softmax(randn(rng, len(x), 3), -1)
    best = normalize(support + r.T @ x, dim=-1)
    top = completed(x, support, r, best, pi, 4.0)
    for _ in range(200):
        assert completed(x, support, r, normalize(best + randn(rng, 3, 3) / 3, dim=-1), pi, 4.0) < top
    free = best.clone().requires_grad_(True)  # no slope along the sphere
    (slope,) = torch.autograd.grad(completed(x, support, r, free, pi, 4.0), free)
    close(slope - (slope * best).sum(-1, keepdim=True) * best, torch.zeros(3, 3, dtype=torch.float64))


@checks("eq-proportions")
def test_proportions_of_a_step(rng: torch.Generator) -> None:
    alpha, six, one = 1.7, 6.0, 1.0
    beta, counts = special.beta(alpha + six, alpha + one), torch.tensor([six, one], dtype=torch.float64)
    mean, _ = integrate.quad(lambda p: p * p ** (alpha + six - 1) * (1 - p) ** (alpha + one - 1) / beta, 0, 1)
    best = (alpha + counts) / (2 * alpha + counts.sum())
    assert abs(mean - best[0]) < 1e-10
    for _ in range(20):  # the posterior mean is where the counts and alpha log proportions are at their best
        other = torch.softmax(best.log() + randn(rng, 2) / 5, -1)
        assert ((counts + alpha) * other.log()).sum() < ((counts + alpha) * best.log()).sum()
    # The package's untrained refiner, stepped until nothing moves: the shares behind its posterior are those it claims.
    model, batch = classifier(4, 1, scale=0.0), class_tasks((3,), (2,), (40,), spread=0.5)
    keep = (batch.query_y[0] != 0) | (torch.arange(40) % 4 == 0)  # few queries of one class
    refiner, x = model.refiner, model.predictor.features(batch.query_x[:, keep])
    assert isinstance(refiner, MixtureRefiner)
    q = model.posterior(batch, 0)[0]
    mask = torch.ones(1, x.shape[1], dtype=torch.bool)
    setting = Setting(q, model.prior_of(batch), model.likelihood, x, mask, batch.way_mask, model.beta)
    with torch.no_grad():
        for _ in range(400):
            q = refiner.step(0, QueryState(setting, q))
        claimed = QueryState(setting, q).mean[0].sum(0)
        alpha, rows = float(refiner.log_concentration.exp()), len(x[0])
        proportion = (CONSTANT * q.loc[0, :, 4] / refiner.share).exp() / 3
    close(proportion, (alpha + claimed) / (3 * alpha + rows), 1e-6)
    assert claimed.max() > 1.5 * claimed.min()


@checks("eq-mixture-step")
def test_the_refiner_takes_the_step() -> None:
    model, stated = classifier(4, 1), torch.tensor([0.5, torch.inf, torch.nan, 2.0], dtype=torch.float64)
    batch = replace(class_tasks(), concentration=stated)
    q0 = model.posterior(batch, 0)[0]
    refiner, x = model.refiner, model.predictor.features(batch.query_x)
    assert isinstance(refiner, MixtureRefiner)
    prior = model.prior(len(batch), batch.way_mask.shape[1])
    setting = Setting(
        q0, prior, model.likelihood, x, batch.query_mask, batch.way_mask, model.beta, concentration=stated
    )
    state = QueryState(setting, q0)
    q1 = refiner.step(0, state)
    belief = refiner.synthetic_gradient.belief(state)
    adapted = torch.tanh(refiner.adapt(refiner.synthetic_gradient.read(state).by_class))
    assert adapted.abs().max() > 0.05
    for t in range(len(batch)):
        rows, ways = batch.query_mask[t], int(batch.way_mask[t].sum())
        r, phi = belief[t][rows], x[t][rows]
        for c in range(ways):
            weight = (refiner.log_weight + adapted[t, c, 2]).exp()
            resultant = q0.precision[t, c, :4] * q0.loc[t, c, :4] + weight * (r[:, c] @ phi[:, :4])
            scale = (refiner.log_scale + adapted[t, c, 0]).exp()
            close(q1.loc[t, c, :4], scale * resultant / resultant.norm())
            alpha = refiner.log_concentration.exp() if stated[t].isnan() else stated[t].clamp(max=1e12)
            mean = (alpha + r[:, c].sum()) / (ways * alpha + len(phi))
            close(q1.loc[t, c, 4], (refiner.share * (ways * mean).log() + adapted[t, c, 1]) / CONSTANT)
            close(q1.precision[t, c], q0.precision[t, c] + refiner.log_information.exp() * r[:, c].sum())
    assert {name for name, p in refiner.named_parameters() if "." not in name} == {
        *("log_scale", "log_weight", "log_concentration", "share", "log_information")
    }
    untrained = classifier(4, 3, scale=0.0)
    setting = untrained.infer(batch).setting
    states = [QueryState(setting, q) for q in untrained.posterior(batch)]
    for before, after in itertools.pairwise(states):  # its synthetic gradient is zero, and its steps move
        close(untrained.refiner.synthetic_gradient(before), torch.zeros_like(before.mean))
        assert float((after.mean - before.mean).detach().abs().max()) > 0.01


def likelihood_of_steps(weight: float, concentration: float, num_steps: int = 12) -> Tensor:
    """Return what expectation-maximisation raises, before and after steps of the package, `(steps + 1, tasks)`.

    Args:
        weight: of a query, relative to that of a labelled row.
        concentration: of class proportions.
        num_steps: taken from scattered directions.
    """
    model, batch = classifier(4, 1, scale=0.0), class_tasks((3,) * 40, (1,) * 40, (30,) * 40, spread=2.0)
    refiner, q0 = model.refiner, model.posterior(batch, 0)[0]
    assert isinstance(refiner, MixtureRefiner)
    with torch.no_grad():
        row = (q0.times(q0.loc)[..., :4] - model.prior.gaussian().precision[:4] * model.prior.loc[:4]).norm(dim=-1)
        refiner.log_weight.fill_(math.log(weight * float(row[0, 0])))  # one labelled row, of length one
        refiner.log_scale.fill_(math.log(4.0))
        refiner.log_concentration.fill_(math.log(concentration))
        refiner.share.fill_(1.0)
        x, support = (model.predictor.features(v)[..., :-1] for v in (batch.query_x, batch.support_x))
        phi = model.predictor.features(batch.query_x)
        setting = Setting(q0, q0, model.likelihood, phi, batch.query_mask, batch.way_mask, 0.0)
        start = normalize(randn(torch.Generator().manual_seed(1), 40, 3, 4), dim=-1)
        q = q0.with_(torch.cat([4.0 * start, torch.zeros(40, 3, 1, dtype=torch.float64)], -1), q0.precision)
        values = []
        for _ in range(num_steps + 1):
            logits = torch.einsum("tnp,tcp->tnc", phi, q.loc)
            log_pi = CONSTANT * q.loc[..., 4] - math.log(3)
            of_support = torch.einsum("tnp,tcp->tnc", support, q.loc[..., :4])
            own = of_support.gather(-1, batch.support_y.unsqueeze(-1)).sum((1, 2))
            value = (logits - math.log(3)).logsumexp(-1).sum(1) + own + concentration * log_pi.sum(1)
            values.append(value)
            sure = q.with_(q.loc, torch.full_like(q.loc, 1e12))  # a posterior without width
            q = refiner.step(0, QueryState(setting, sure))
        assert x.shape[-1] == 4
    return torch.stack(values)


@checks("eq-em-ascent")
def test_steps_without_learning_raise_the_likelihood() -> None:
    for concentration in (1e-9, 0.7, 3.0):
        rises = likelihood_of_steps(1.0, concentration).diff(dim=0)
        assert rises[0].mean() > 0.1
        assert float(rises.min()) > -1e-7
    assert float(likelihood_of_steps(1 / 40, 1e-9).diff(dim=0).min()) < -0.1  # a query that counts for less: no ascent


@checks("eq-vmf-normaliser")
def test_a_concentration_of_its_own_needs_a_bias() -> None:
    def log_c(kappa: float, d: int) -> float:
        order = d / 2 - 1
        return order * math.log(kappa) - math.log(special.ive(order, kappa)) - kappa

    for kappa, ratio in ((1.0, 2.0), (5.0, 1.5), (20.0, math.e)):
        got = log_c(kappa * ratio, 256) - log_c(kappa, 256)
        assert abs(got - kappa**2 * (1 - ratio**2) / 512) < 0.06 * abs(got)
    assert -5.1 < got < -4.7
    model, batch = classifier(4, 1), class_tasks()  # and what the package allows
    refiner, before = model.refiner, start(model, batch)
    assert isinstance(refiner, MixtureRefiner)
    with torch.no_grad():
        refiner.adapt.weight.zero_()
        refiner.adapt.bias.copy_(torch.tensor([100.0, -100.0, 0.0]))
        most = refiner.step(0, before).loc[batch.way_mask]
        refiner.adapt.bias.zero_()
        plain = refiner.step(0, before).loc[batch.way_mask]
    close(most[:, :4].norm(dim=-1), math.e * plain[:, :4].norm(dim=-1))
    close(CONSTANT * (most[:, 4] - plain[:, 4]), -torch.ones(len(most), dtype=torch.float64))


@checks("eq-task-temperature")
def test_a_common_factor_is_a_temperature(rng: torch.Generator) -> None:
    logits, t = randn(rng, 20, 4), 1.7
    power = torch.softmax(logits, -1) ** t
    close(torch.softmax(t * logits, -1), power / power.sum(-1, keepdim=True))
    model, batch = classifier(4, 2), class_tasks()
    refiner = model.refiner
    assert isinstance(refiner, MixtureRefiner)
    assert float(torch.tanh(refiner.adapt(100 * randn(rng, 50, 8))).detach().abs().max()) <= 1.0
    extreme = refiner.temperature(0, 100 * randn(rng, 50, refiner.synthetic_gradient.num_with_products)).log()
    assert 0.99 < float(extreme.abs().max()) <= 1.0 + 1e-12
    inferred, state = model.infer(batch), start(model, batch)
    path, raw = inferred.path, [state.q]
    for k in range(2):
        raw.append(refiner.step(k, state))
        state = QueryState(state.setting, raw[-1])
        factor = refiner.temperature(k, refiner.synthetic_gradient.read(state).with_products)
        assert float(factor.detach().log().abs().max()) > 0.1
        scaled = factor[:, None, None] * raw[-1].loc
        close(path[k + 1].loc, torch.where(batch.way_mask.unsqueeze(-1), scaled, raw[-1].loc))
        close(path[k + 1].precision, raw[-1].precision)


@checks("eq-temperature-fit")
def test_fitted_temperatures_leave_nothing_to_gain(rng: torch.Generator) -> None:
    model, batch = classifier(4, 1), class_tasks(ways=(4,) * 64, shots=(2,) * 64, queries=(8,) * 64)
    refiner = model.refiner
    assert isinstance(refiner, MixtureRefiner)
    fit_task_temperature(model, [batch[:32], batch[32:]])
    features, before = model.predictor.features(batch.query_x), start(model, batch)
    after = QueryState(before.setting, refiner.step(0, before))
    reading = refiner.synthetic_gradient.read(after).with_products.detach()
    mean, scale, temperature = reading.mean(0), reading.std(0) + LEAST_SCALE, refiner.temperature
    weight = temperature.weight[0] * scale
    found = torch.cat([weight, (temperature.bias[0] + mean @ temperature.weight[0]).unsqueeze(0)])

    def objective(a: Tensor) -> float:
        temperature.weight[0] = a[:-1] / scale
        temperature.bias[0] = a[-1] - mean @ temperature.weight[0]
        p, _ = model.likelihood.moments(*model.posterior(batch)[-1].marginal(features), batch.way_mask)
        return float((RIDGE * a.square().sum() - p.gather(-1, batch.query_y.unsqueeze(-1)).log().mean()).detach())

    least = objective(found)
    assert least < objective(torch.zeros_like(found)) - 0.1
    rises = [objective(found + 0.3 * normalize(randn(rng, len(found)), dim=0)) - least for _ in range(50)]
    assert min(rises) > -1e-4  # what is left after a bounded number of iterations
    assert sum(rises) / 50 > 1e-3


@checks("eq-labelled-temperature")
def test_labelled_rows_lead_to_the_likeliest_temperature() -> None:
    model = classifier(4, 2, scale=0.1, synthetic_gradient="joint").eval()
    refiner, batch = model.refiner, class_tasks(ways=(3,) * 4, shots=(1, 2, 4, 9))
    assert isinstance(refiner, BeliefRefiner)
    with torch.no_grad():
        inferred = model.infer(batch)
        state = QueryState(inferred.setting, inferred.iterates[-1].q)
        t = refiner.temperature(1, refiner.reading(state))
        own = torch.nn.functional.one_hot(batch.support_y, 3) * batch.support_mask.unsqueeze(-1).double()
        odds, count = refiner.odds(refiner.of_labelled(state, own)), own.sum(1, keepdim=True)
    log_p = (t[:, None, None] * odds).log_softmax(-1)
    part = (own * (count - 1) / count).sum(-1)

    def density(v: Tensor) -> Tensor:
        said = ((v.exp()[:, None, None] * log_p).log_softmax(-1) * own).sum(-1)
        return (part * said).sum(1) - v.square() / (2 * TOLD[False] ** 2)

    log_u = (refiner.told(t, state)[0]).log().requires_grad_()
    (slope,) = torch.autograd.grad(density(log_u).sum(), log_u)
    close(slope, torch.zeros_like(slope), 1e-4)
    for off in (-0.1, 0.1):
        assert bool((density(log_u) > density(log_u + off)).all())
    assert log_u[0] == 0
    assert float(log_u.detach().abs()[1:].min()) > 0.005
    used = ((t * log_u.detach().exp())[:, None, None] * refiner.sharp(state)).log_softmax(-1)
    close(refiner.log_probs(1, state).exp()[batch.query_mask], used.exp()[batch.query_mask])
