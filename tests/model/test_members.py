"""Many values of a model's parameters at once, beside copies of the model one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from builders import close, number_tasks

import ebmeta
from ebmeta import EmpiricalBayes
from ebmeta.model.members import Members
from ebmeta.training.ensemble import PriorEnsemble
from ebmeta.training.evidence import Evidence

LIKELIHOODS = ("normal", "normal_per_task", "student_t", "bernoulli", "binomial", "poisson", "negative_binomial")


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


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
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
