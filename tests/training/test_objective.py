"""The objective: its terms by hand, its faces, and that it can be trained on ragged tasks."""

from __future__ import annotations

import pytest
import torch
from builders import class_tasks, classifier, close, generator, real_tasks, regressor

from ebmeta import EmpiricalBayes, Objective, TaskBatch
from ebmeta.training.objective import Terms

BOTH = pytest.mark.parametrize(
    ("model", "batch"), [(classifier(), class_tasks()), (regressor(), real_tasks())], ids=["classifier", "regressor"]
)


@pytest.mark.parametrize("kind", ["gibbs", "predictive"])
def test_the_terms_are_what_they_are_called(kind):
    model, batch = regressor(beta=0.3), real_tasks()
    terms = Objective(kind).terms(model, batch)
    inferred = model.infer(batch)
    path, prior, x = inferred.path, inferred.prior, inferred.x
    noise = model.likelihood.dispersion()
    for k, q in enumerate(path):
        close(terms.kl[k], q.kl(prior))
        for t in range(4):
            nll = torch.tensor(0.0, dtype=torch.float64)
            for i in range(int(batch.num_queries[t])):
                loc, var = (v[t, i, 0] for v in q.marginal(x))
                error = batch.query_y[t, i] - loc
                if kind == "gibbs":
                    nll = nll + (error**2 + var) / (2 * noise) + torch.log(2 * torch.pi * noise) / 2
                else:
                    nll = nll - torch.distributions.Normal(loc, (var + noise).sqrt()).log_prob(batch.query_y[t, i])
            close(terms.nll[k, t], nll)
    close(terms.loss, terms.nll + 0.3 * terms.kl, 0.0)
    assert terms.num_queries.tolist() == [6, 4, 7, 5]


@BOTH
def test_the_predictive_score_is_never_the_worse_of_the_two(model, batch):
    """Jensen: -log E[p] is at most E[-log p], draw by draw where the draws are shared."""
    gibbs, predictive = (Objective(k).terms(model, batch, generator=generator(1)) for k in ("gibbs", "predictive"))
    assert bool((predictive.nll <= gibbs.nll + 1e-12).all())  # equal, up to rounding, where p is 1
    assert bool((predictive.nll < gibbs.nll).any())
    close(predictive.kl, gibbs.kl, 0.0)


def test_earlier_steps_weigh_as_told():
    nll, kl = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), torch.tensor([[10.0, 0.0], [20.0, 0.0], [30.0, 0.0]])
    terms = Terms(nll, kl, torch.tensor([1, 1]), 0.1)
    assert Objective(anytime=0.0).total(terms).item() == pytest.approx(14)  # 5 + 6 + 3
    assert Objective(anytime=0.5).total(terms).item() == pytest.approx(14 + 0.5 * (4 + 9) / 2)
    first = Terms(nll[:1], kl[:1], torch.tensor([1, 1]), 0.1)
    assert Objective(anytime=0.5).total(first).item() == pytest.approx(4)


@BOTH
def test_all_faces_return_one_number(model, batch):
    objective = Objective(num_draws=3)
    expected = objective.total(objective.terms(model, batch, generator=generator(1)))
    gradient = torch.autograd.grad(expected, list(model.parameters()), allow_unused=True, materialize_grads=True)
    args = model.model, model.guide, batch
    close(objective.differentiable_loss(*args, generator=generator(1)), expected, 0.0)
    close(objective(model.model, model.guide)(batch, generator=generator(1)), expected, 0.0)
    assert objective.loss(*args, generator=generator(1)) == expected.item()
    model.zero_grad()
    assert objective.loss_and_grads(*args, generator=generator(1)) == expected.item()
    for p, g in zip(model.parameters(), gradient, strict=True):
        close(torch.zeros_like(p) if p.grad is None else p.grad, g, 1e-12)


def test_its_own_generator_leaves_the_global_one_alone(rng_untouched):
    model, batch = classifier(), class_tasks()
    loss = Objective().loss(model.model, model.guide, batch, generator=generator(1))
    assert loss == Objective().loss(model.model, model.guide, batch, generator=generator(1))
    assert loss != Objective().loss(model.model, model.guide, batch, generator=generator(2))


def test_the_evidence_of_a_classifier_looks_at_the_first_step_alone():
    model, batch = classifier(beta=0.3), class_tasks()
    terms = Objective("evidence").terms(model, batch)
    assert terms.nll.shape == (1, 4)
    q, prior = model.posterior(batch.pooled(), 0)[0], model.prior(4, 5)
    close(terms.kl[0], q.kl(prior))
    assert terms.beta == 1.0
    assert terms.num_queries.tolist() == (batch.support_mask.sum(1) + batch.num_queries).tolist()


@pytest.mark.parametrize("kind", ["predictive", "gibbs", "evidence"])
def test_an_untrained_model_learns_from_tasks_of_unequal_size(kind):
    """Rows of padding are all zero, and so is the centre of an untrained cosine head."""
    model, batch = EmpiricalBayes.classifier(4, width=8, synthetic_gradient="mixture"), class_tasks(dtype=torch.float32)
    assert not bool(batch.query_mask.all())
    Objective(kind).loss_and_grads(model.model, model.guide, batch, generator=generator(0))
    bad = [n for n, p in model.named_parameters() if p.grad is not None and not bool(p.grad.isfinite().all())]
    assert bad == []
    assert float(model.prior.loc.grad.abs().sum()) > 0


def test_an_input_at_the_centre_has_a_finite_gradient():
    model = EmpiricalBayes.classifier(2, width=8, synthetic_gradient="mixture")
    batch = TaskBatch(torch.eye(2)[None], torch.tensor([[0, 1]]), torch.zeros(1, 1, 2), torch.tensor([[1]]))
    Objective().loss_and_grads(model.model, model.guide, batch, generator=generator(0))
    assert bool(model.initializer.log_precision.grad.isfinite().all())


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"kind": "elbo"}, "kind: expected 'predictive', 'gibbs' or 'evidence', got 'elbo'"),
        ({"num_draws": 0}, "num_draws: expected at least 1, got 0"),
        ({"anytime": -0.5}, "anytime: expected a finite number of at least 0, got -0.5"),
        ({"anytime": float("inf")}, "anytime: expected a finite number of at least 0, got inf"),
        ({"anytime": float("nan")}, "anytime: expected a finite number of at least 0, got nan"),
    ],
)
def test_bad_settings_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        Objective(**kwargs)


def test_unlabelled_tasks_and_strangers_are_refused():
    model, other, batch = classifier(), classifier(), class_tasks()
    with pytest.raises(ValueError, match="objective: expected query labels, got unlabelled tasks"):
        Objective().terms(model, batch.unlabelled())
    with pytest.raises(ValueError, match="expected model and guide of one EmpiricalBayes, got two owners"):
        Objective().loss(model.model, other.guide, batch)
