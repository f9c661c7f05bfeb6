"""Validation scores the same tasks every time, keeps the best parameters and says when to stop."""

import pytest
import torch
from builders import class_tasks

import ebmeta
from ebmeta.foundation.seeding import stream
from ebmeta.training.objective import Objective
from ebmeta.training.validation import Validation


class Counted:
    """Sixteen tasks at most, the same for every index; how many were asked for is known."""

    def __init__(self):
        self.asked = []

    def sample(self, num_tasks, index=0):
        self.asked.append((num_tasks, index))
        n = min(num_tasks, 16)
        return class_tasks((3,) * n, (1,) * n, (4,) * n, dtype=torch.float32)


def watch(tasks, **changes) -> Validation:
    settings = {"objective": Objective(), "num_tasks": 40, "every": 5, "patience": 2, "seed": 3}
    return Validation(tasks=tasks, **{**settings, **changes})


def test_it_is_due_every_so_often_and_at_the_end():
    assert [n for n in range(1, 13) if watch(Counted()).due(n, last=n == 12)] == [5, 10, 12]
    assert not any(watch(None).due(n, last=n == 12) for n in range(1, 13))


def test_the_row_of_a_look_is_the_objective_of_the_fixed_tasks():
    model, tasks = ebmeta.EmpiricalBayes.classifier(4).train(), Counted()
    found = watch(tasks)
    row = found.look(model, 5)
    assert tasks.asked == [(32, 0), (8, 1)]
    assert model.training
    with torch.no_grad():
        sharp, model = Objective(num_draws=64), model.eval()
        parts = [sharp.terms(model, tasks.sample(n, i), generator=stream(3, 1, i)) for n, i in ((32, 0), (8, 1))]
    queries = sum(p.num_queries.sum() for p in parts)
    expected = sum(p.nll.sum(1) for p in parts) / queries
    assert row["validation_iteration"] == 5
    assert row["validation_nll"] == pytest.approx(expected.numpy(), rel=1e-6)
    assert row["validation_kl"] == pytest.approx(torch.cat([p.kl for p in parts], 1).mean(1).numpy(), rel=1e-6)
    assert row["validation_loss"] == pytest.approx(float(sum(sharp.total(p) for p in parts) / queries), rel=1e-6)
    assert found.best_loss == pytest.approx(float(expected[-1]), rel=1e-6)


@pytest.mark.parametrize(("patience", "stopped"), [(2, [False, False, False, True]), (None, [False] * 4)])
def test_the_best_parameters_are_kept_until_patience_ends(patience, stopped):
    model, found = ebmeta.EmpiricalBayes.classifier(4), watch(Counted(), patience=patience)
    power = model.prior.log_power
    losses = {}
    for scale in (-3.0, 0.0, 3.0):
        torch.nn.init.constant_(power, scale)
        terms = found.terms(model)
        losses[scale] = float(terms.nll[-1].sum() / terms.num_queries.sum())
    best, middle, worst = sorted(losses, key=losses.__getitem__)
    ends = []
    for iteration, scale in enumerate((middle, best, worst, worst)):
        torch.nn.init.constant_(power, scale)
        found.look(model, iteration)
        ends.append(found.stopped)
    assert ends == stopped
    assert (found.best_iteration, found.stale) == (1, 2)
    assert found.best_loss == pytest.approx(losses[best], rel=1e-6)
    assert float(found.best["prior.log_power"]) == best
    found.restore(model)
    assert power.item() == best


def test_nothing_is_restored_where_nothing_was_seen():
    model = ebmeta.EmpiricalBayes.classifier(4)
    torch.nn.init.constant_(model.prior.log_power, 3.0)
    watch(Counted()).restore(model)
    assert model.prior.log_power.item() == 3.0
