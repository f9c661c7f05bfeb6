"""Many values of a model's parameters at once, beside copies of the model one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from builders import class_tasks, classifier, close, number_tasks, regressor

import ebmeta
from ebmeta import EmpiricalBayes
from ebmeta.likelihood import LIKELIHOODS, Given
from ebmeta.model.members import Members, pack, unpack
from ebmeta.training.ensemble import PriorEnsemble
from ebmeta.training.evidence import Evidence

NUMBERS = [name for name, kind in LIKELIHOODS.items() if not kind.categorical]


def ensemble(likelihood: str, batch: ebmeta.TaskBatch) -> PriorEnsemble:
    """Return five members about a model of two refinement steps that have learned something."""
    model = EmpiricalBayes.regressor(2, likelihood, num_steps=2).double()
    draw = torch.Generator().manual_seed(0)
    for parameter in model.refiner.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
    names = Evidence(model, batch, hyperprior=False).names
    center = torch.cat([model.get_parameter(name).detach().flatten() for name in names])
    values = center + 0.3 * torch.randn(5, len(center), generator=draw, dtype=torch.float64)
    return PriorEnsemble(model, names, values, torch.log_softmax(torch.arange(5.0, dtype=torch.float64), 0))


@pytest.mark.parametrize("likelihood", NUMBERS)
def test_a_batch_of_members_is_each_of_them(likelihood):
    batch = number_tasks(likelihood, supports=(4, 0, 3), queries=(3, 2, 4), features=2)
    together = ensemble(likelihood, batch)
    with torch.no_grad():
        inferred = together.infer(batch)
        parts = [member.infer(batch) for member in together.members]
        assert len(parts) == 5
        evidence = torch.stack([p.log_evidence for p in parts], 1)
        assert (evidence.std(1)[[0, 2]] > 1e-3).all()  # the members do differ
        log_weight = torch.log_softmax(evidence + together.log_weight, 1)
        close(inferred.log_weight, log_weight, 1e-9)
        weight, none = log_weight.exp().T, torch.zeros(1, dtype=torch.float64)
        for k in (0, 2):
            each = torch.stack([p.log_prob(k, batch.query_y, none, predictive=True) for p in parts])
            close(
                inferred.log_prob(k, batch.query_y, none, predictive=True),
                torch.logsumexp(each + weight.log().unsqueeze(-1), 0),
                1e-8,
            )
            mean = torch.stack([p.predict(k)["mean"] for p in parts])
            close(inferred.predict(k)["mean"], (weight.unsqueeze(-1) * mean).sum(0), 1e-8)
            cdf = torch.stack([p.cdf(k, batch.query_y) for p in parts])
            close(inferred.cdf(k, batch.query_y), (weight.unsqueeze(-1) * cdf).sum(0), 1e-8)
        close(inferred.kl(), torch.einsum("skt,st->kt", torch.stack([p.kl() for p in parts]), weight), 1e-8)


@pytest.mark.parametrize("likelihood", NUMBERS)
def test_members_are_computed_together(likelihood, monkeypatch):
    """One by one they take as many times as long, and give the same numbers: nothing else would tell. A cdf is."""
    batch = number_tasks(likelihood, supports=(4, 0, 3), queries=(3, 2, 4), features=2)
    together = ensemble(likelihood, batch)

    def one_by_one(*arguments):
        raise AssertionError("expected all members at once, got one by one")

    monkeypatch.setattr(Members, "each", one_by_one)
    tree = ebmeta.predict(together, batch, num_draws=0)
    with torch.no_grad():
        inferred = together.infer(batch)
        nll = -inferred.log_prob(-1, batch.query_y, torch.zeros(1), predictive=True)[batch.query_mask]
    assert bool(nll.isfinite().all())
    assert tree["predictive/kl"].shape == (3, 3)


@pytest.mark.parametrize("likelihood", ["normal", "poisson"])
def test_the_evidence_of_many_values_is_that_of_each(likelihood):
    batch = number_tasks(likelihood, supports=(4, 2, 3), queries=(3, 2, 4), features=2)
    model = EmpiricalBayes.regressor(2, likelihood, num_steps=0).double()
    evidence = Evidence(model, batch, hyperprior=True)
    before = evidence.read()
    noise = torch.randn(6, len(before), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = evidence.values(before + 0.2 * noise)
    close(evidence.read(), before, 0.0)
    close(found, torch.tensor([evidence.value(row) for row in before + 0.2 * noise], dtype=torch.float64), 1e-8)


def test_values_that_cannot_be_computed_are_infinite_and_spoil_no_other():
    batch = number_tasks("normal", supports=(4, 2), queries=(3, 2), features=2)
    model = EmpiricalBayes.regressor(2, num_steps=0).double()
    evidence = Evidence(model, batch, hyperprior=True)
    good = evidence.read()
    bad = torch.where(evidence.mask(model.prior.log_scale), 1e3, good)
    found = evidence.values(torch.stack([good, bad]))
    assert found[0].item() == pytest.approx(evidence.value(good), abs=1e-9)
    assert not np.isfinite(found[1].item())


def test_members_leave_the_model_alone():
    model = torch.nn.Linear(2, 1, bias=False)
    kept = model.weight.detach().clone()
    members = Members(model, ("weight",), torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    x = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    close(members.map(lambda own, row: own(row)[0], x, chunk=2), torch.tensor([3.0, 3.0, 6.0]))
    close(model.weight.detach(), kept)


def test_an_ensemble_of_classifiers_averages_probabilities():
    model, batch = classifier(num_steps=1), class_tasks()
    center = model.prior.loc.detach()
    values = center + 0.3 * torch.randn(3, len(center), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    log_weight = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64).log()
    together = PriorEnsemble(model, ("prior.loc",), values, log_weight)
    with torch.no_grad():
        probs = torch.stack([m.infer(batch).predict(-1)["probs"] for m in together.members])
        assert probs.std(0).max() > 1e-3
        close(together.infer(batch).predict(-1)["probs"], torch.einsum("s,s...->...", log_weight.exp(), probs))
        close(together.infer(batch).weight, log_weight.exp().expand(len(batch), -1))  # classes have no evidence
    averaged = together.infer(batch).predict(-1)["probs"]  # with gradients, which are written out for one model
    close(averaged.detach(), torch.einsum("s,s...->...", log_weight.exp(), probs))


def test_one_member_is_the_model():
    batch = number_tasks("normal_per_task")
    model = regressor(likelihood="normal_per_task")
    loc = model.prior.loc.detach()
    one = PriorEnsemble(model, ("prior.loc",), loc.unsqueeze(0), torch.zeros(1, dtype=torch.float64))
    none = torch.zeros(1, dtype=torch.float64)
    with torch.no_grad():
        ours, plain = one.infer(batch), model.infer(batch)
        assert ours.num_steps == plain.num_steps == 3
        close(ours.x, plain.x)
        close(ours.kl(), plain.kl())
        for name, value in plain.predict(-1).items():
            close(ours.predict(-1)[name], value)
        for predictive in (False, True):
            close(*(v.log_prob(-1, batch.query_y, none, predictive=predictive) for v in (ours, plain)))
        close(ours.cdf(-1, batch.query_y), plain.cdf(-1, batch.query_y))


def test_what_stands_twice_is_packed_once():
    shared, other = torch.ones(2), torch.zeros(2)
    value = [shared, Given(other, shared)]
    assert [t is w for t, w in zip(pack(value), (shared, other), strict=True)] == [True, True]
    again = unpack(value, [shared + 1, other - 1])
    assert again[0] is again[1].level
    close(again[1].size, other - 1)
