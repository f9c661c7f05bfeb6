"""The gradient of a batch is that of its shares, and of its parts of similar size."""

from __future__ import annotations

import pytest
import torch
from builders import class_tasks, classifier, close, generator, real_tasks, regressor

from ebmeta import Objective
from ebmeta.foundation.seeding import stream
from ebmeta.training.batch_gradient import BatchGradient
from ebmeta.training.world import World

KINDS = pytest.mark.parametrize(
    ("model", "batch", "kind"),
    [(classifier(), class_tasks(), "gibbs"), (regressor(), real_tasks(), "evidence")],
    ids=["classes", "numbers"],
)


def gradients(model, batch, kind, shares):
    found = BatchGradient(Objective(kind), model, 3, World(), shares).of(batch, 7)
    return found, {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


@KINDS
@pytest.mark.parametrize("shares", [2, 3, 4])
def test_shares_add_up_to_the_batch(model, batch, kind, shares):
    one, slopes = gradients(model, batch, kind, 1)
    found, sums = gradients(model, batch, kind, shares)
    for name, value in one.items():
        close(torch.as_tensor(found[name]), torch.as_tensor(value), 1e-10)
    for name, slope in slopes.items():
        assert (slope is None) == (sums[name] is None), name
        if slope is not None:
            close(sums[name], slope, 1e-10)


@KINDS
def test_values_are_those_of_the_objective(model, batch, kind):
    found, slopes = gradients(model, batch, kind, 1)
    goal = Objective(kind)
    terms = goal.terms(model, batch, noise=goal.noise(model, batch, stream(3, 0, 7)))
    loss = goal.total(terms) / terms.num_queries.sum()
    close(torch.as_tensor(found["loss"]), loss.detach(), 1e-12)
    for name, value in terms.means().items():
        close(torch.as_tensor(found[name]), torch.as_tensor(value), 1e-12)
    wanted = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    for slope, value in zip(slopes.values(), wanted, strict=True):
        assert (slope is None) == (value is None)
        if slope is not None:
            close(slope, value, 1e-12)


def test_draws_of_a_task_do_not_depend_on_its_share():
    model, batch = classifier(), class_tasks()
    goal = Objective("gibbs", num_draws=2)
    noise = goal.noise(model, batch, generator(1))
    assert noise.shape == (2, *batch.query_y.shape, batch.way_mask.shape[1])
    whole = goal.terms(model, batch, noise=noise)
    for t in range(len(batch)):
        part = goal.terms(model, batch[[t]].trimmed(), noise=noise[:, [t]])
        close(part.nll[:, 0], whole.nll[:, t], 1e-10)
