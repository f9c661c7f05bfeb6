"""The model and its guide are ordinary Pyro programs: each idiom works, and agrees with the closed forms."""

from __future__ import annotations

import copy
import functools
import math
import pickle
import warnings

import pyro
import pytest
import torch
from builders import class_tasks, classifier, close, generator, real_tasks, regressor
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.inspect import get_model_relations
from pyro.infer.mcmc.util import initialize_model
from pyro.ops.stats import effective_sample_size
from torch import nn
from torch.distributions import Normal

from ebmeta import EmpiricalBayes, Objective, TaskBatch
from ebmeta.simulate import conjugate

FRESH = {"scale": 0.0, "dtype": torch.float32, "num_steps": 1}


def class_batch(seed=0) -> TaskBatch:
    return class_tasks((3,) * 6, (2,) * 6, (6,) * 6, dtype=torch.float32, seed=seed)


def real_batch(seed=0) -> TaskBatch:
    return real_tasks((4,) * 6, (6,) * 6, dtype=torch.float32, seed=seed)


FAMILIES = pytest.mark.parametrize(
    ("build", "batch"), [(classifier, class_batch()), (regressor, real_batch())], ids=["classifier", "regressor"]
)


def svi(model, batch, loss=None, steps=25, lr=0.1):
    """Train by plain SVI, in the parameter store as it is."""
    trainer = SVI(model.model, model.guide, pyro.optim.Adam({"lr": lr}), loss or Trace_ELBO())
    for _ in range(steps):
        trainer.step(batch)


def by_module(model, batch, loss=None, steps=25, lr=0.1):
    """Train through an ELBO module and an optimiser of torch."""
    elbo = (loss or Trace_ELBO())(model.model, model.guide)
    optimizer = torch.optim.Adam(elbo.parameters(), lr)
    for _ in range(steps):
        optimizer.zero_grad()
        elbo(batch).backward()
        optimizer.step()


def evaluate(model, batch) -> float:
    """Return Pyro's own loss of a fixed batch, averaged over 200 fixed draws of `w`."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        return Trace_ELBO(num_particles=200, vectorize_particles=True).loss(model.model, model.guide, batch)


def values(model) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def falls(model, batch, train, **kwargs):
    """Train, and demand that the loss, evaluated on fixed draws, falls by a third."""
    before = evaluate(model, batch)
    train(model, batch, **kwargs)
    assert evaluate(model, batch) < 2 / 3 * before


@FAMILIES
@pytest.mark.parametrize("train", [svi, by_module])
@pytest.mark.parametrize("loss", [Trace_ELBO, Objective])
def test_training_lowers_the_loss(build, batch, train, loss):
    falls(build(**FRESH), batch, train, loss=loss())


@FAMILIES
def test_the_elbo_module_finds_every_trainable_parameter(build, batch):
    model = build(**FRESH)
    elbo = Trace_ELBO()(model.model, model.guide)
    assert {id(p) for p in elbo.parameters()} == {id(p) for p in model.trainable()}
    assert len(list(elbo.parameters())) == len(list(model.parameters())) > 8


@FAMILIES
def test_two_models_train_one_after_the_other(build, batch):
    falls(build(**FRESH), batch, svi)
    falls(build(**FRESH), batch, svi)


def test_models_of_both_kinds_train_in_turns():
    first, second = classifier(**FRESH), regressor(**FRESH)
    before = evaluate(first, class_batch()), evaluate(second, real_batch())
    for _ in range(3):
        svi(first, class_batch(), steps=9)
        svi(second, real_batch(), steps=9)
    assert evaluate(first, class_batch()) < 2 / 3 * before[0]
    assert evaluate(second, real_batch()) < 2 / 3 * before[1]


@pytest.mark.parametrize("train", [svi, by_module])
@pytest.mark.parametrize("freeze", [True, False])
def test_only_a_frozen_embedder_stays_as_it_is(train, freeze):
    torch.manual_seed(0)
    embedder = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5))
    model = classifier(5, embedder=embedder, freeze_embedder=freeze, **FRESH)
    before = copy.deepcopy(embedder.state_dict())
    rest = {k: v.clone() for k, v in model.state_dict().items() if "embedder" not in k}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.train()
        train(model, class_batch(), steps=5)
    assert [str(w.message) for w in caught] == []
    assert all(torch.equal(v, before[k]) == freeze for k, v in embedder.state_dict().items())
    assert not all(torch.equal(v, model.state_dict()[k]) for k, v in rest.items())


def test_a_frozen_embedder_asks_for_no_gradient():
    embedder = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5))
    model = classifier(5, embedder=embedder, freeze_embedder=True, **FRESH)
    elbo = Trace_ELBO()(model.model, model.guide)
    elbo(class_batch()).backward()
    assert all(p.grad is None and not p.requires_grad for p in embedder.parameters())
    assert {id(p) for p in elbo.parameters() if p.requires_grad} == {id(p) for p in model.trainable()}


@pytest.mark.parametrize("module_local", [False, True])
@pytest.mark.parametrize("train", [svi, by_module])
@FAMILIES
def test_training_works_under_both_parameter_scopes(module_local, train, build, batch):
    with pyro.settings.context(module_local_params=module_local):
        falls(build(**FRESH), batch, train)


def test_training_goes_on_after_a_change_of_type():
    model = regressor(**FRESH)
    svi(model, real_batch(), steps=3)
    falls(model.double(), real_batch().to(torch.float64), svi)


def test_training_goes_on_after_parameters_are_replaced():
    model = regressor(**FRESH)
    state = copy.deepcopy(model.state_dict())
    svi(model, real_batch(), steps=3)
    model.load_state_dict(state, assign=True)
    falls(model, real_batch(), svi)


def test_svi_trains_a_parameter_of_any_memory_layout():
    torch.manual_seed(0)
    weight = nn.Linear(4, 4, bias=False)
    weight.weight = nn.Parameter(weight.weight.detach().T)
    assert not weight.weight.is_contiguous()
    model = classifier(4, embedder=weight, **FRESH)
    before = weight.weight.detach().clone()
    svi(model, class_batch(), steps=3)
    assert bool((weight.weight != before).all())


@FAMILIES
def test_a_copy_is_another_model(build, batch):
    model = build(**FRESH)
    svi(model, batch, steps=1)  # known to Pyro, and far from trained
    twin = copy.deepcopy(model)
    assert not {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in twin.parameters()}
    before = values(model)
    falls(twin, batch, svi, steps=40, lr=0.03)
    assert all(torch.equal(a, b) for a, b in zip(values(model), before, strict=True))
    falls(model, batch, svi, steps=40, lr=0.03)


def test_a_trained_model_can_be_sent_to_another_process():
    model = regressor(**FRESH)
    svi(model, real_batch(), steps=3)
    twin = pickle.loads(pickle.dumps(model))
    assert all(torch.equal(a, b) for a, b in zip(values(twin), values(model), strict=True))


def test_predictive_draws_agree_with_predicted_probabilities():
    model, batch, draws = classifier(), class_tasks(), 4000
    for parameter, value in ((model.refiner.log_scale, -1.0), (model.refiner.share, 0.1)):
        nn.init.constant_(parameter, value)  # undecided predictions
    nn.init.zeros_(model.refiner.adapt.bias)
    nn.init.zeros_(model.refiner.adapt.weight)
    out = Predictive(model.model, guide=model.guide, num_samples=draws, parallel=True)(batch.unlabelled())
    assert out["w"].shape == (draws, 4, 5, 5)
    assert out["query_y"].shape == (draws, 4, 7)
    q = model.posterior(batch)[-1]
    probs = model.likelihood.predict(*q.marginal(model.predictor.features(batch.query_x)), batch.way_mask)["probs"]
    frequency = nn.functional.one_hot(out["query_y"], 5).double().mean(0)
    # A 5-sigma bound (6e-7) on each of 96 cells: false alarms at 6e-5; one draw's worth of slack for rare classes.
    bound = 5 * (probs * (1 - probs) / draws).sqrt() + 1 / draws
    assert bool(((frequency - probs).abs() < bound)[batch.query_mask].all())
    assert bool((probs.amax(-1) < 0.95)[batch.query_mask].all())
    z = (out["w"].mean(0) - q.loc) / (q.scale / draws**0.5)
    assert z.abs().max() < 5.5  # 80 weights at 4e-8 each: 3e-6


def test_predictive_draws_agree_with_predicted_mean_and_std():
    model, batch, draws = regressor(), real_tasks(), 4000
    out = Predictive(model.model, guide=model.guide, num_samples=draws, parallel=True)(batch.unlabelled())
    q = model.posterior(batch)[-1]
    want = model.likelihood.predict(*q.marginal(model.predictor.features(batch.query_x)), batch.way_mask)
    # 22 queries, 5.5 sigma each (4e-8): false alarms at 1e-6 for the mean, and the same for the deviation.
    mean = (out["query_y"].mean(0) - want["mean"]) / want["std"] * draws**0.5
    std = (out["query_y"].std(0) / want["std"] - 1) * (2 * draws) ** 0.5
    assert mean[batch.query_mask].abs().max() < 5.5
    assert std[batch.query_mask].abs().max() < 5.5


def nuts(model, batch, num_samples, warmup):
    kernel = NUTS(functools.partial(model.model, observe="support"))
    chain = MCMC(kernel, num_samples=num_samples, warmup_steps=warmup, disable_progbar=True)
    chain.run(batch)
    return chain.get_samples(group_by_chain=True)["w"]


def test_nuts_on_the_model_finds_the_exact_posterior():
    model, batch = regressor(2), real_tasks((4, 3), (2, 2), features=2)
    w = nuts(model, batch, 300, 100)
    q = conjugate.posterior(
        model.prior(2, 1),
        model.predictor.features(batch.support_x),
        batch.support_y,
        batch.support_mask,
        model.likelihood.dispersion(),
    )
    ess = effective_sample_size(w, 0, 1).clamp(max=300)
    assert bool((ess > 50).all())
    # Six weights, 5 Monte-Carlo standard errors each (6e-7): false alarms at 4e-6, for the mean and for the deviation.
    assert bool(((w.mean((0, 1)) - q.loc).abs() < 5 * q.scale / ess.sqrt()).all())
    assert bool(((w.std((0, 1)) / q.scale - 1).abs() < 5 / (2 * ess).sqrt()).all())


def test_nuts_runs_on_a_classifier():
    model, batch = classifier(2), class_tasks((2, 3), (2, 2), (2, 2), features=2)
    w = nuts(model, batch, 40, 30)
    assert bool(w.isfinite().all())
    assert bool((w.std((0, 1)) > 0.05).all())


@pytest.mark.parametrize("beta", [1.0, 0.3])
@pytest.mark.parametrize("categorical", [True, False])
def test_conditioning_sets_the_weights(beta, categorical):
    model, batch = (classifier(beta=beta), class_tasks()) if categorical else (regressor(beta=beta), real_tasks())
    prior = model.prior(4, batch.way_mask.shape[1])
    w = prior.loc + torch.randn(prior.loc.shape, generator=generator(1), dtype=torch.float64)
    trace = poutine.trace(poutine.condition(model.model, data={"w": w})).get_trace(batch)
    assert trace.nodes["w"]["value"] is w
    eta = torch.einsum("tqp,tcp->tqc", model.predictor.features(batch.query_x), w)
    expected = beta * prior.distribution().log_prob(w).sum()
    for t in range(4):
        for i in range(int(batch.num_queries[t])):
            y = batch.query_y[t, i]
            if categorical:
                expected = expected + eta[t, i, : batch.way_mask[t].sum()].log_softmax(-1)[y]
            else:
                noise = model.likelihood.log_noise.exp()
                expected = expected + torch.distributions.Normal(eta[t, i, 0], noise).log_prob(y)
    close(trace.log_prob_sum(), expected)


@pytest.mark.parametrize("build", [lambda: joint(), lambda: regressor(random=[0])])
def test_labels_follow_weights_of_a_posterior_where_these_are_deterministic(build):
    """Draws of `predict`, whose only site is w, were ignored by programs where w follows from other sites."""
    model = build()
    batch = (class_tasks() if model.joint else real_tasks()).unlabelled()
    with torch.no_grad():
        w = model.infer(batch).draw(-1, 800)[0]
        pyro.set_rng_seed(0)
        drawn = Predictive(model.model, posterior_samples={"w": w})(batch, "query")["query_y"].reshape(800, 4, -1)
        eta = torch.einsum("tnp,stcp->stnc", model.predictor.features(batch.query_x), w)
    if model.joint:
        probs = eta.masked_fill(~batch.way_mask.unsqueeze(1), -torch.inf).softmax(-1).mean(0)
        got, want = torch.nn.functional.one_hot(drawn, 5).double().mean(0), probs
        error = 5 * (probs * (1 - probs) / 800).sqrt() + 1e-3
    else:
        got, want = drawn.double().mean(0), model.likelihood.mean(eta).squeeze(-1).mean(0)
        error = 5 * drawn.double().std(0) / 800**0.5
    assert bool(((got - want).abs() < error)[batch.query_mask].all())


@FAMILIES
def test_a_program_observes_the_labels_that_it_is_asked_to(build, batch):
    """Given the weights, the log density of each side's labels is that of the rows of the side."""
    model, sides = build(**FRESH), ("support", "query")
    w = model.posterior(batch)[-1].loc
    for observe in (*sides, "both"):
        program = poutine.condition(model.model, {"w": w})
        nodes = poutine.trace(program).get_trace(batch, observe).nodes
        seen = [side for side in sides if f"{side}_y" in nodes and nodes[f"{side}_y"]["is_observed"]]
        assert seen == (list(sides) if observe == "both" else [observe])
        for side in seen:
            x, y, mask = (getattr(batch, f"{side}_{part}") for part in ("x", "y", "mask"))
            eta = model.predictor(model.predictor.features(x, mask), w)
            logp = torch.where(mask, model.likelihood.log_prob(y, eta, batch.way_mask), 0.0).sum(1)
            node = nodes[f"{side}_y"]
            close(node["fn"].log_prob(node["value"]), logp, 1e-4)


def test_the_double_model_works_in_double_precision():
    model, batch = classifier(dtype=torch.float32), class_tasks(dtype=torch.float32)
    single = model.posterior(batch)
    for a, b in zip(model.double().posterior(batch.to(torch.float64)), single, strict=True):
        assert a.loc.dtype == a.precision.dtype == torch.float64
        torch.testing.assert_close(a.loc.float(), b.loc, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(a.precision.float(), b.precision, atol=1e-3, rtol=1e-3)


def moments(draw, repeats=30) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean and the squared standard error of an estimator."""
    draws = torch.stack([torch.as_tensor(draw(), dtype=torch.float64) for _ in range(repeats)])
    return draws.mean(0), draws.var(0) / repeats


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
@pytest.mark.parametrize("beta", [1.0, 0.3, 0.0])
@pytest.mark.parametrize("categorical", [True, False])
def test_the_gibbs_objective_is_the_elbo_of_the_program(elbo, beta, categorical):
    model, batch = (classifier(beta=beta), class_tasks()) if categorical else (regressor(beta=beta), real_tasks())
    program = elbo(num_particles=200, vectorize_particles=True)
    objective = Objective("gibbs", num_draws=100, anytime=0.0)
    with torch.no_grad():
        terms = objective.terms(model, batch)
        assert (terms.kl[-1] > 0.1).all()
        mean, variance = moments(lambda: program.loss(model.model, model.guide, batch))
        if categorical:
            closed, extra = moments(lambda: objective.loss(model.model, model.guide, batch))
        else:  # no random numbers: the closed form, and exactly E[nll] + beta * KL
            closed, extra = objective.total(terms), torch.tensor(0.0)
            close(closed, (terms.nll[-1] + beta * terms.kl[-1]).sum())
    # Student's t with 29 degrees of freedom beyond 6.5: false alarms at 4e-7.
    assert (mean - closed).abs() < 6.5 * (variance + extra).sqrt()
    assert (variance + extra).sqrt() < 0.01 * closed


@pytest.mark.parametrize("beta", [0.3, 0.0])
@pytest.mark.parametrize("categorical", [True, False])
def test_the_gibbs_gradient_is_the_gradient_of_the_program(beta, categorical):
    model, batch = (classifier(beta=beta), class_tasks()) if categorical else (regressor(beta=beta), real_tasks())
    parameters = list(model.parameters())
    program = Trace_ELBO(num_particles=50, vectorize_particles=True)
    objective = Objective("gibbs", num_draws=50, anytime=0.0)
    g = generator(3)
    directions = [[torch.randn(p.shape, generator=g, dtype=p.dtype) for p in parameters] for _ in range(3)]

    def slopes(loss) -> torch.Tensor:
        value = loss.differentiable_loss(model.model, model.guide, batch)
        gradient = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
        return torch.stack([sum((a * b).sum() for a, b in zip(gradient, d, strict=True)) for d in directions])

    (mean, variance), (closed, extra) = moments(lambda: slopes(program)), moments(lambda: slopes(objective))
    # Student's t with at least 29 degrees of freedom beyond 6.5, three directions: false alarms at 1e-6.
    assert bool(((mean - closed).abs() < 6.5 * (variance + extra).sqrt()).all())
    assert bool(((variance + extra).sqrt() < 0.05 * closed.norm()).all())


def test_the_evidence_objective_of_a_regressor_is_the_evidence():
    model, batch = regressor(beta=0.3), real_tasks()
    every = batch.pooled()
    x = model.predictor.features(every.query_x)
    exact = conjugate.log_evidence(model.prior(4, 1), x, every.query_y, every.query_mask, model.likelihood.dispersion())
    terms = Objective("evidence", anytime=0.0).terms(model, batch)
    close(terms.loss[-1], -exact, 1e-8)
    close(Objective("evidence", anytime=0.0).total(terms), -exact.sum(), 1e-8)


def test_the_guide_infers_weights_at_the_level_that_it_has_drawn():
    model, batch = regressor(likelihood="normal_per_task"), real_tasks()
    level = torch.linspace(-1.0, 2.0, batch.num_tasks, dtype=torch.float64)
    trace = poutine.trace(poutine.condition(model.guide, {"level": level})).get_trace(batch)
    drawn, wanted = trace.nodes["w"]["fn"], model.infer(batch, level=level).path[-1].distribution()
    w = trace.nodes["w"]["value"]
    close(drawn.log_prob(w), wanted.log_prob(w))
    assert not torch.allclose(
        wanted.log_prob(w), model.infer(batch, level=0 * level).path[-1].distribution().log_prob(w)
    )


def joint() -> EmpiricalBayes:
    return classifier(synthetic_gradient="joint", scale=0.1).eval()


def log_probs(program, batch, observe=None) -> dict[str, torch.Tensor]:
    trace = poutine.trace(program).get_trace(batch, observe)
    trace.compute_log_prob()
    names = ("m", "pi", "support_x", "query_x", "query_y", "support_y")
    return {name: trace.nodes[name]["log_prob"] for name in names if name in trace.nodes} | {
        f"{name}_value": trace.nodes[name]["value"] for name in ("m", "pi")
    }


def test_a_joint_model_scores_every_site():
    model, batch = joint(), class_tasks()
    pyro.set_rng_seed(0)
    found = log_probs(model.model, batch)
    m, pi = found["m_value"], found["pi_value"]
    prior = model.prior_of(batch)
    for t in range(len(batch)):
        ways = int(batch.way_mask[t].sum())
        normal = torch.distributions.Normal(prior.loc[t], prior.scale[t])
        close(found["m"][t], normal.log_prob(m[t]).sum())
        close(found["pi"][t], torch.distributions.Dirichlet(prior.shares[t, :ways]).log_prob(pi[t, :ways]))
        for side, rows in (("support", batch.support), ("query", batch.query)):
            x = model.predictor.features(rows.x)[t, rows.mask[t], :-1]
            y = rows.y[t, rows.mask[t]]
            each = torch.distributions.Normal(m[t, y], prior.spread.sqrt()).log_prob(x).sum(-1)
            got = found[f"{side}_x"][t]
            if side == "query":  # classes summed out of inputs, and given inputs, are classes and inputs given classes
                got, each = got + found["query_y"][t], each + pi[t, y].log()
            close(got, each.sum())
    assert "support_y" not in found  # it was chosen


def test_a_joint_model_without_query_labels_sums_them_out():
    found = log_probs(joint().model, class_tasks(), "support")
    assert "query_y" not in found
    assert bool((found["query_x"] != 0).all() & (found["support_x"] != 0).all())


def test_inputs_score_nothing_in_the_training_objective():
    model, batch = joint(), class_tasks()
    pyro.set_rng_seed(0)
    found = log_probs(model.model, batch, "query")
    assert not bool(found["query_x"].any() | found["support_x"].any())
    with torch.no_grad():
        terms = Objective("gibbs", num_draws=4000, anytime=0.0).terms(model, batch, generator=generator(0))
        pyros = [Trace_ELBO(500, vectorize_particles=True).loss(model.model, model.guide, batch, "query")]
    assert abs(pyros[0] - float(terms.loss[-1].sum())) < 0.05 * pyros[0]


def test_the_elbo_of_a_joint_model_is_below_its_evidence():
    """Inputs without labels: the bound in closed form lies above the sampled one, both below what labels would add."""
    model, batch = joint(), class_tasks(queries=(1, 1, 1, 1))
    with torch.no_grad():
        inferred = model.infer(batch)
        exact = inferred.log_evidence + torch.logsumexp(_of_one_query(inferred), -1)
        elbo = -Trace_ELBO(2000, vectorize_particles=True).loss(model.model, model.guide, batch.unlabelled(), "support")
    bound = inferred.log_evidence + inferred.input_evidence()[-1]
    assert bool((bound <= exact + 1e-9).all())
    assert elbo < float(exact.sum())
    assert elbo > float(exact.sum()) - 10


def _of_one_query(inferred) -> torch.Tensor:
    """Return log p(x, y = c) of the only query of each task, shape `(T, C)`."""
    q, x = inferred.path[0], inferred.setting.real_x[:, 0, :-1]
    v = q.spread + 1 / q.precision
    density = torch.distributions.Normal(q.loc, v.sqrt()).log_prob(x.unsqueeze(1)).sum(-1)
    return density + (q.shares / q.shares.sum(1, keepdim=True)).log()


def test_predictive_draws_labels_of_a_joint_model_given_inputs():
    """Mean frequencies of 4,000 draws of labels are those of draws of the weights, within 5 standard errors.

    Of 160 made one after the other the probabilities of all labels of a draw are added up: they deviate from what
    is expected by less than 5 standard errors (6e-7); with weights from the prior it would be 32.
    """
    model, batch = joint(), class_tasks().unlabelled()
    pyro.set_rng_seed(0)
    with torch.no_grad():
        drawn, few = (
            Predictive(model.model, guide=model.guide, num_samples=n, parallel=n > 1000)(batch, "query")["query_y"]
            for n in (4000, 160)
        )
        w = model.infer(batch).draw(-1, 4000)[0]
        eta = torch.einsum("tnp,stcp->stnc", model.predictor.features(batch.query_x), w)
        want = eta.masked_fill(~batch.way_mask.unsqueeze(1), -torch.inf).softmax(-1).mean(0)
    got = torch.nn.functional.one_hot(drawn, 5).double().mean(0)
    error = 5 * (want * (1 - want) / 4000 + want * (1 - want) / 4000).sqrt() + 1e-3
    assert bool(((got - want).abs() < error)[batch.query_mask].all())
    of_label = want.expand(160, -1, -1, -1).gather(-1, few.reshape(160, 4, -1, 1)).squeeze(-1)
    beyond = ((of_label - want.square().sum(-1)) * batch.query_mask).sum((1, 2))
    assert abs(float(beyond.mean())) < 5 * float(beyond.std()) / 160**0.5


def test_pyro_sees_what_depends_on_what():
    """As `pyro.render_model` draws it, which wraps every parameter."""
    found = get_model_relations(EmpiricalBayes.classifier(num_features=4).model, (class_batch(),))["sample_sample"]
    inputs = {"support_x": ["m"], "query_x": ["m", "pi"], "query_y": ["m", "pi", "query_x"]}
    assert {site: sorted(above) for site, above in found.items()} == {"m": [], "pi": [], "w": ["m", "pi"], **inputs}


@pytest.mark.parametrize("handler", ["lift", "substitute"])
def test_parameters_that_the_model_would_not_use_are_refused(handler):
    """They were sampled or put in place, and then ignored."""
    model, batch, name = regressor(), real_tasks(), "ebmeta.prior.loc"
    put = {
        "lift": {"prior": {name: pyro.distributions.Normal(torch.full((4,), 50.0), 1e-6).to_event(1)}},
        "substitute": {"data": {name: torch.full((4,), 50.0)}},
    }
    for program in (model.model, model.guide):
        with pyro.get_param_store().scope(), pytest.raises(ValueError, match=f"'{name}': expected the model's own val"):
            getattr(poutine, handler)(program, **put[handler])(batch)


def test_the_guide_infers_weights_at_many_levels_at_once():
    model, batch = regressor(likelihood="normal_per_task"), real_tasks()
    level = torch.linspace(-1.0, 2.0, 3 * batch.num_tasks, dtype=torch.float64).view(3, -1)
    with pyro.plate("particles", 3, dim=-2):
        node = poutine.trace(poutine.condition(model.guide, {"level": level})).get_trace(batch).nodes["w"]
    for k in range(3):
        wanted = model.infer(batch, level=level[k]).path[-1].distribution()
        close(node["fn"].log_prob(node["value"])[k], wanted.log_prob(node["value"][k]))
    with torch.no_grad():
        many = [Trace_ELBO(200, vectorize_particles=v).loss(model.model, model.guide, batch) for v in (True, False)]
    assert abs(many[0] - many[1]) < 0.05 * many[1]


def test_labels_follow_inputs_that_a_handler_has_put_in_place():
    model, batch = joint(), class_tasks()
    other = batch.with_rows(query=class_tasks(seed=5).query)
    x = model.predictor.features(other.query_x)[..., :-1]
    values = poutine.trace(model.guide).get_trace(batch).nodes
    drawn = {name: values[name]["value"] for name in ("m", "pi")}
    wanted = log_probs(poutine.condition(model.model, drawn), other)
    labels = {"query_y": other.query_y}
    got = log_probs(poutine.condition(model.model, drawn | labels | {"query_x": x}), batch)
    for name in ("query_x", "query_y"):
        close(got[name], wanted[name])
    node = poutine.trace(poutine.uncondition(model.model)).get_trace(batch).nodes
    eta = (
        torch.cat([node["query_x"]["value"], torch.full((4, 7, 1), model.prior.constant, dtype=torch.float64)], -1)
        @ node["w"]["value"].mT
    )
    each = eta.masked_fill(~batch.way_mask.unsqueeze(1), -1e30).log_softmax(-1)
    y = node["query_y"]["value"]
    close(
        node["query_y"]["fn"].log_prob(y),
        (each.gather(-1, y.unsqueeze(-1)).squeeze(-1) * batch.query_mask).sum(1),
    )


def test_the_potential_of_ragged_tasks_is_that_of_each():
    """Samplers gave shares to classes that do not exist, which had rows and took shares from the others."""
    model, batch = joint().requires_grad_(False), class_tasks()
    start, potential, to_free, _ = initialize_model(model.model, model_args=(batch, "support"))
    u = {name: torch.randn(v.shape, generator=generator(1), dtype=v.dtype) for name, v in start.items()}
    prior, each = model.prior_of(batch), torch.zeros((), dtype=torch.float64)
    for t, ways in enumerate((3, 5, 2, 4)):
        task = batch[[t]].trimmed()
        alone = TaskBatch(task.support_x, task.support_y, task.query_x, task.query_y, way_mask=task.way_mask[:, :ways])
        of_one = initialize_model(model.model, model_args=(alone, "support"))[1]
        each = each + of_one({"m": u["m"][[t], :ways], "pi": u["pi"][[t], : ways - 1]})
        none = u["pi"][t, ways - 1 :]  # of no class: a standard normal law
        each = each + (none.square() + math.log(2 * math.pi)).sum() / 2
        each = each - Normal(prior.loc[t, ways:], prior.scale[t, ways:]).log_prob(u["m"][t, ways:]).sum()
    close(potential(u), each)
    pi = to_free["pi"].inv(u["pi"])
    assert torch.equal(pi > 0, batch.way_mask)
    close(torch.where(batch.way_mask[:, 1:], u["pi"], 0.0), to_free["pi"](pi))


@pytest.mark.parametrize("observe", ["both", "support", "query"])
def test_a_joint_model_has_the_mean_field_elbo(observe):
    """Its proportions had no gradient, without which this ELBO is not defined."""
    model, batch = joint(), class_tasks()
    with torch.no_grad():
        pyro.set_rng_seed(0)
        losses = [
            elbo(2000, vectorize_particles=True).loss(model.model, model.guide, batch, observe)
            for elbo in (TraceMeanField_ELBO, Trace_ELBO)
        ]
    assert abs(losses[0] - losses[1]) < 0.01 * losses[1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_models_of_16_bits_are_refused(dtype):
    model = regressor(dtype=dtype)
    with pytest.raises(
        ValueError, match=f"model: expected parameters all of 32 or all of 64 bits, got {dtype}; model.float"
    ):
        model.guide(real_tasks(dtype=dtype))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("build", [regressor, classifier])
def test_a_compiled_potential_is_that_of_the_program(build):
    """It fell over shapes, which are tensors in a trace. Places far from that of the trace are looked at too."""
    batch = real_tasks() if build is regressor else class_tasks()
    model = build().requires_grad_(False)
    arguments = {"model_args": (batch,), "model_kwargs": {"observe": "support"}}
    start, plain, _, _ = initialize_model(model.model, **arguments)
    first, compiled, _, _ = initialize_model(model.model, jit_compile=True, skip_jit_warnings=True, **arguments)
    compiled(first)
    for step in (-3.0, 0.0, 0.5, 10.0):
        place = {name: value + step * torch.ones_like(value).cumsum(-1) for name, value in start.items()}
        close(compiled(place), plain(place), 1e-8)  # a trace rounds constants


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_model_that_cannot_be_compiled_says_what_can():
    batch = real_tasks()
    said = (
        r"jit_compile: expected a model of 64 bits whose parameters have no gradient, .* got prior.loc of torch.float"
    )
    for model in (regressor(), regressor(dtype=torch.float32).requires_grad_(False)):
        chain = MCMC(NUTS(model.model, jit_compile=True, ignore_jit_warnings=True), 1, 1, disable_progbar=True)
        before = [p.requires_grad for p in model.parameters()]
        with pytest.raises(ValueError, match=said):
            chain.run(batch)
        assert [p.requires_grad for p in model.parameters()] == before, "it can be trained as before"
