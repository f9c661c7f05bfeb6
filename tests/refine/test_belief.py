"""Steps of beliefs are collapsed mean-field inference, corrected by a network."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import torch
from builders import class_tasks, classifier, close, joint_model, perturb
from laws import MEMBERS

from ebmeta import EmpiricalBayes
from ebmeta.diagnostics.class_passes import ClassPass
from ebmeta.model.conditional import Conditional
from ebmeta.model.recipes import ClassifierRecipe
from ebmeta.refine.belief import BeliefRefiner
from ebmeta.refine.class_synthetic_gradient import ClassSyntheticGradient
from ebmeta.refine.outliers import OF_NONE
from ebmeta.refine.state import QueryState
from ebmeta.simulate.gaussian_classes import GaussianClasses


def joint(scale=0.0, num_steps=3):
    return classifier(4, num_steps, scale=scale, synthetic_gradient="joint").eval()


def test_untrained_steps_are_collapsed_mean_field_inference():
    model, batch = joint(), class_tasks(spread=2.0)
    inferred = model.infer(batch)
    setting, path = inferred.setting, [iterate.q for iterate in inferred.iterates]
    x = setting.real_x[..., :-1]
    r = Conditional(inferred.iterates, setting).log_probs(0).exp() * setting.query_mask.unsqueeze(-1)
    for k in range(1, 4):
        want = path[0].given_beliefs(x, r)
        close(path[k].loc, want.loc)
        close(path[k].precision, want.precision)
        close(path[k].shares, want.shares)
        r = want.log_odds(setting.real_x)[0].softmax(-1) * setting.query_mask.unsqueeze(-1)
        close(inferred.predict(k)["probs"] * setting.query_mask.unsqueeze(-1), r)


def test_the_correction_of_the_network_is_the_synthetic_gradient():
    model, batch = joint(scale=0.1), class_tasks(spread=2.0)
    model.refiner.forget()
    inferred = model.infer(batch)
    state = QueryState(inferred.setting, inferred.iterates[1].q)
    network = model.refiner.synthetic_gradient
    reading = network.read(state)
    confidence = torch.tanh(model.refiner.confidence(reading.by_task)).exp().unsqueeze(-1)
    odds = confidence * state.loc.log_softmax(-1) + network.correction(reading)
    want = odds.masked_fill(~batch.way_mask.unsqueeze(1), -torch.inf).softmax(-1)
    mask = batch.query_mask.unsqueeze(-1)
    close(inferred.predict(1)["probs"] * mask, want * mask)
    counted = inferred.iterates[2].q.shares - inferred.path[0].shares
    close(counted, (want * mask).sum(1))
    assert float((state.mean - want).detach().abs().max()) > 1e-3


def test_what_is_reported_has_the_widths_of_unsure_beliefs():
    inferred = joint(scale=0.1).infer(class_tasks(spread=2.0))
    for iterate in inferred.iterates[1:]:
        want = iterate.q.with_doubt(inferred.path[0], inferred.setting.real_x[..., :-1])
        for name in ("loc", "precision", "shares"):
            close(getattr(iterate.posterior, name), getattr(want, name))
        assert bool((want.precision <= iterate.q.precision).all())


@torch.no_grad()
def test_doubt_brings_posteriors_nearer_to_the_exact_one():
    """Mean divergence over 40 tasks of overlapping classes, from the same draws: less than two thirds."""
    family = GaussianClasses(2, between=1.0, within=1.0, concentration=2.0, n_way=3, n_query=12)
    model, batch = joint_model(family), family.sample(40).to(torch.float64)
    inferred, gaps = model.infer(batch), {}
    for name, iterates in (
        ("with", inferred.iterates),
        ("without", [replace(i, reported=None) for i in inferred.iterates]),
    ):
        part = ClassPass(batch, replace(inferred, iterates=iterates), None, 2000, (0, 0))
        gaps[name] = part.elbo(4, part.draw(4))
        evidence = part.draw(4).log_ratio.logsumexp(0) - math.log(2000)
    assert float((evidence - gaps["with"]).mean()) < 2 / 3 * float((evidence - gaps["without"]).mean())


def test_steps_without_correction_raise_the_evidence_of_inputs():
    """Steps that leave one out climb the bound but for their own correction, in the sum over tasks."""
    model, gained = joint(num_steps=8), torch.zeros(8, dtype=torch.float64)
    for seed in range(8):
        evidence = model.infer(class_tasks(spread=3.0, seed=seed)).input_evidence().sum(1)
        gained += evidence[1:] - evidence[1]
    assert bool((gained[1:] > 0).all())


def test_the_first_prediction_uses_no_other_query():
    model, batch = joint(scale=0.1), class_tasks()
    alone = replace(batch, query_x=batch.query_x[:, :1], query_y=None, query_mask=batch.query_mask[:, :1])
    close(model.infer(batch).predict(0)["probs"][:, :1], model.infer(alone).predict(0)["probs"])


def test_known_equal_shares_hold_for_beliefs():
    batch = class_tasks(ways=(3, 2), shots=(1, 1), queries=(6, 4), spread=2.0)
    told = replace(batch, concentration=torch.tensor([math.inf, 2.0], dtype=torch.float64))
    model = joint(scale=0.1)
    model.refiner.forget()  # shares are of beliefs, before any temperature
    probs = model.infer(told).predict(-1)["probs"]
    close(probs[0, :6].sum(0), torch.full((3,), 2.0, dtype=torch.float64), 0.02)
    assert float((probs[1, :4].sum(0)[:2] - 2.0).detach().abs().max()) > 0.02


def test_few_queries_known_to_be_of_different_classes_are_predicted_so():
    """Three queries of three classes: a sum over their six orders says what a temperature acts on."""
    model, batch = joint(scale=0.1), class_tasks(ways=(3, 3), shots=(1, 1), queries=(3, 3), spread=2.0)
    told = replace(batch, concentration=torch.tensor([math.inf, math.nan], dtype=torch.float64))
    inferred = model.infer(told)
    state = QueryState(inferred.setting, inferred.iterates[2].q)
    odds, sharp = (f(state).detach() for f in (model.refiner.odds, model.refiner.sharp))
    orders = list(itertools.permutations(range(3)))
    weight = torch.stack([odds[0, range(3), order].sum() for order in orders]).softmax(0)
    want = sum(w * torch.eye(3, dtype=odds.dtype)[list(order)] for w, order in zip(weight, orders, strict=True))
    close(sharp[0].exp(), want)
    close(sharp[1], odds[1].log_softmax(-1))
    factor = model.refiner.temperature(1, model.refiner.reading(state))[:, None, None]
    close(model.refiner.log_probs(1, state).exp(), (factor * sharp).softmax(-1))
    close(inferred.predict(2)["probs"][0], (factor * sharp).softmax(-1)[0])


def test_a_fitted_temperature_changes_predictions_and_no_step():
    model, batch = joint(scale=0.1), class_tasks(spread=2.0)
    model.refiner.forget()
    before = model.infer(batch)
    states = [QueryState(before.setting, q) for q in before.path[1:]]
    wrong = (before.predict(-1)["probs"].argmax(-1) + 1) % batch.way_mask.sum(1, keepdim=True)
    model.refiner.finish(iter([(states, wrong)]))  # labels that are never the likeliest call for doubt
    after = model.infer(batch)
    for a, b in zip(after.path, before.path, strict=True):
        close(a.loc, b.loc, 0.0)
    close(after.predict(0)["probs"], before.predict(0)["probs"], 0.0)
    for k in (1, 2, 3):
        sure = [i.predict(k)["probs"].amax(-1)[batch.query_mask].mean().item() for i in (before, after)]
        assert sure[1] < sure[0] - 0.05
    model.refiner.forget()
    close(model.infer(batch).predict(-1)["probs"], before.predict(-1)["probs"], 0.0)


def test_tasks_of_equal_shares_and_untrained_models_predict_by_their_last_step():
    model, batch = joint(scale=0.3), class_tasks((3, 3), (2, 1), (6, 6), spread=2.0)
    known = replace(batch, concentration=torch.tensor([math.inf, math.nan]))
    rows = replace(batch, outliers=torch.tensor([True, True]))

    def apart(tasks):
        inferred = model.infer(tasks)
        last = model.refiner.log_probs(2, QueryState(inferred.setting, inferred.iterates[3].q))
        return (inferred.iterates[3].log_probs - last).detach().abs().amax((1, 2))

    model.refiner.forget()
    close(apart(known), torch.zeros(2).double(), 0.0)
    model.refiner.temperature.bias += 0.1
    assert apart(known)[0] == 0
    assert apart(known)[1] > 1e-3
    close(apart(rows), torch.zeros(2).double(), 0.0)


def general(scale: float = 0.1) -> EmpiricalBayes:
    """Return a model whose refiner is that of a general classifier."""
    parts = ClassifierRecipe(num_features=4, num_steps=3, width=8).build()
    refiner = BeliefRefiner(ClassSyntheticGradient(8), 3, general=True)
    model = EmpiricalBayes(*parts._replace(refiner=refiner), beta=1.0).double().eval()
    perturb(model, 0, scale)
    model.refiner.forget()
    return model


def test_beliefs_of_a_general_classifier_hold_equal_counts():
    """They are those of arrangements; a temperature acts on what is said of each query before."""
    model = general()
    batch = class_tasks(ways=(3, 3), shots=(1, 1), queries=(6, 5), spread=2.0)
    batch = replace(batch, concentration=torch.full((2,), math.inf, dtype=torch.float64))
    inferred = model.infer(batch)
    state = QueryState(inferred.setting, inferred.iterates[-1].q)
    odds, every = model.refiner.odds(state)[0], torch.tensor(list(itertools.product(range(3), repeat=6)))
    every = every[(torch.nn.functional.one_hot(every, 3).sum(1) == 2).all(1)]
    for bias in (0.0, 0.8):
        model.refiner.temperature.bias.fill_(bias)
        factor, after = math.exp(math.tanh(bias)), model.infer(batch).predict(-1)["probs"]
        weight = (factor * odds)[torch.arange(6), every].sum(1).softmax(0)
        wanted = torch.einsum("n,nic->ic", weight, torch.nn.functional.one_hot(every, 3).double())
        close(after[0], wanted, 1e-9)
        free = (factor * model.refiner.odds(state)[1, :5]).softmax(-1)
        close(model.refiner.log_probs(-1, state).exp()[1, :5], free, 1e-9)  # five of three classes cannot be shared


def test_a_general_classifier_predicts_by_a_mean_over_steps_where_shares_are_not_known_to_be_equal():
    model, batch = general(), class_tasks(ways=(3, 3), shots=(1, 1), queries=(6, 6), spread=2.0)
    batch = replace(batch, concentration=torch.tensor([math.inf, math.nan], dtype=torch.float64))
    model.refiner.temperature.bias.fill_(0.3)
    inferred = model.infer(batch)
    states = [QueryState(inferred.setting, iterate.q) for iterate in inferred.iterates[1:]]
    parts = [model.refiner.log_probs(k, state).exp() for k, state in enumerate(states)]
    probs = inferred.predict(2)["probs"]
    close(probs[0], parts[1][0])
    close(probs[1], (parts[0][1] + 2 * parts[1][1]) / 3)
    assert float((probs[1] - parts[1][1]).detach().abs().max()) > 1e-3


def test_the_temperature_of_a_general_classifier_is_fitted_to_what_its_steps_say():
    """No other factor of tasks with equal counts, and of those without, has a lower NLL."""
    model, batch = general(), class_tasks(spread=1.0)
    batch = replace(batch, concentration=torch.tensor([math.inf, 2.0] * 2, dtype=torch.float64))
    inferred = model.infer(batch)
    states = [QueryState(inferred.setting, q) for q in inferred.path[1:]]
    model.refiner.finish(iter([(states, batch.query_y)]))
    assert model.refiner.temperature.fitted

    def nll() -> float:
        log_p = model.refiner.log_probs(len(states) - 1, states[-1])
        return -float(log_p.gather(-1, batch.query_y.unsqueeze(-1)).squeeze(-1)[batch.query_mask].mean())

    with torch.no_grad():
        best, bias = nll(), model.refiner.temperature.bias.clone()
        for off in (-0.2, 0.2):
            model.refiner.temperature.bias.copy_(bias + off)
            assert nll() > best - 1e-3


def test_the_temperature_of_a_general_classifier_reads_the_coordinates_that_count():
    """Four features, a quarter of whose volume is left out, are three; without a share left out they are four."""
    model = general()
    setting = model.infer(class_tasks()).setting
    for volume, count in ((torch.full((4, 1, 1), 0.25, dtype=torch.float64), 3.0), (None, 4.0)):
        given = replace(setting, q0=replace(setting.q0, volume=volume))
        reading = model.refiner.reading(QueryState(given, given.q0))
        close(reading[:, :-1], setting.design)
        close(reading[:, -1], torch.full((4,), math.log(count), dtype=torch.float64))


def test_a_kept_general_network_keeps_its_temperature():
    model = general()
    model.refiner.temperature.bias.fill_(0.3)
    model.refiner.requires_grad_(False)
    model.refiner.forget()
    assert model.refiner.temperature.fitted
    model.refiner.requires_grad_(True)
    model.refiner.forget()
    assert not model.refiner.temperature.fitted


def test_a_labelled_row_is_predicted_as_a_query_that_never_was_one():
    """By the posterior of the other labelled rows and the same beliefs about the queries, classes being as frequent."""
    batch, model = class_tasks(shots=(3, 1, 2, 4), spread=2.0), joint()
    inferred = model.infer(batch)
    setting, q = inferred.setting, inferred.iterates[-1].q
    rows, own = setting.support, torch.nn.functional.one_hot(setting.support.y, 5) * setting.support.mask.unsqueeze(-1)
    got = model.refiner.of_labelled(QueryState(setting, q), own.double()).mean
    for i in range(rows.mask.shape[1]):
        others = own * (torch.arange(own.shape[1]) != i).unsqueeze(-1).double()
        without = setting.prior.given(rows.x[..., :-1], others).given_beliefs(setting.real_x[..., :-1], q.counted)
        odds = replace(without, counted=None).log_odds(rows.x[:, i : i + 1])[0][:, 0]
        want = torch.where(batch.way_mask, odds - without.shares.log(), -torch.inf).softmax(-1)
        close(got[rows.mask[:, i], i], want[rows.mask[:, i]], 1e-4)  # equal shares are those of 10,000 rows a class


def test_labelled_rows_correct_the_temperature_of_their_own_task():
    """Labels that rows nearby contradict make predictions less sure; those of one row a class say nothing."""
    model, batch = joint(scale=0.1), class_tasks(ways=(3,) * 4, shots=(6, 6, 6, 1), spread=0.5)
    wrong = torch.randint(3, batch.support_y.shape, generator=torch.Generator().manual_seed(0))
    wrong = torch.where(torch.tensor([[True], [False], [False], [False]]), wrong, batch.support_y)
    for y in (batch.support_y, wrong):
        inferred = model.infer(replace(batch, support_y=y))
        state = QueryState(inferred.setting, inferred.iterates[-1].q)
        sharp, base = model.refiner.sharp(state), model.refiner.temperature(2, model.refiner.reading(state))
        told, _ = model.refiner.told(base, state)
        want = ((base * told)[:, None, None] * sharp).masked_fill(~batch.way_mask.unsqueeze(1), -torch.inf).softmax(-1)
        close(model.refiner.log_probs(2, state).exp()[batch.query_mask], want[batch.query_mask])
        assert told[3] == 1
        assert (told[:3] > 1).tolist() == [y is not wrong, True, True]


def test_members_of_the_laws_are_joint():
    assert MEMBERS["joint"].build().joint
    assert not MEMBERS["classifier"].build().joint


def test_equal_shares_are_held_where_the_number_of_queries_allows():
    """One query of three classes is of one of them: what is said of it does not become the share of each."""
    model = joint(scale=0.1)
    batch = class_tasks(ways=(3, 3), shots=(2, 2), queries=(1, 6), spread=3.0)
    held, even = (
        model.infer(replace(batch, concentration=torch.full((2,), a, dtype=torch.float64))).predict(-1)["probs"]
        for a in (math.inf, 0.99e4)
    )
    close(held[0, :1], even[0, :1], 1e-3)
    assert even[0, 0].max() > 0.4
    close(held[1, :6].sum(0), torch.full((3,), 2.0, dtype=torch.float64), 0.05)
    assert not torch.allclose(even[1, :6].sum(0), held[1, :6].sum(0), atol=0.05)


@torch.no_grad()
def test_the_odds_of_none_of_the_classes_are_rated_once_a_model_is_fitted():
    """Known classes keep their odds, and tasks without unknown classes are as they were."""
    tasks = class_tasks(shots=(1, 1, 1, 1), spread=2.0)  # with a row a class, labels say nothing of the temperature
    batch = replace(tasks, outliers=torch.tensor([True, False, True, True]))
    model = joint(scale=0.1)
    model.refiner.forget()
    before = model.infer(batch).predict(-1)
    model.refiner.temperature.bias.fill_(1e-12)
    after, rated = model.infer(batch).predict(-1), OF_NONE[False]
    real = batch.query_mask & batch.outliers.unsqueeze(1)
    close(after["outlier"][real].logit(), rated.cluster * before["outlier"][real].logit() - rated.shift)
    close(after["probs"], before["probs"])
    assert after["outlier"][1].abs().max() == 0


@torch.no_grad()
def test_no_belief_is_a_number_too_small_for_full_precision():
    """Such numbers make a processor many times slower. Classes lie so far apart that log beliefs of -90 are common."""

    def too_small(r):
        return bool(((r > 0) & (r < torch.finfo(r.dtype).tiny)).any())

    family = GaussianClasses(8, between=1.0, within=0.1, concentration=3.0, n_way=5, n_shot=5, n_query=60)
    model = joint_model(family).float()
    inferred = model.infer(family.sample(8))
    states = [QueryState(inferred.setting, iterate.q) for iterate in inferred.iterates]
    assert all(too_small(model.refiner.belief(state).exp()) for state in states)
    assert not any(too_small(state.mean) for state in states)
    assert not any(too_small(iterate.q.counted) for iterate in inferred.iterates)
