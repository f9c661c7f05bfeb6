"""The synthetic gradient for classes: a belief, and what its network sees, written out."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from builders import class_tasks, classifier, close, perturb

from ebmeta.refine.class_synthetic_gradient import CELL, CLASS, LOG_QUERIES, TASK, ClassSyntheticGradient, Reading
from ebmeta.refine.state import QueryState


def moved(module):
    perturb(module.double(), scale=0.5)
    return module


def state(batch, model, concentration=None):
    setting = replace(model.infer(batch).setting, concentration=concentration)
    return QueryState(setting, setting.q0)


def test_the_class_belief_is_a_distribution_over_real_classes():
    batch = class_tasks()
    s, xi = state(batch, classifier()), moved(ClassSyntheticGradient(8))
    belief = xi.belief(s)
    close(belief.sum(-1), torch.ones(4, 7, dtype=torch.float64), 1e-12)
    assert bool((belief.masked_select(~batch.way_mask.unsqueeze(1)) == 0).all())
    close(xi(s), s.mean - belief, 1e-15)
    assert (belief - s.mean).abs().max() > 0.01


def test_the_class_network_sees_its_features():
    batch, model = class_tasks(), classifier()
    s = state(batch, model, torch.tensor([2.0, math.inf, math.nan, 0.5]).double())
    known = [[1, 2 / 3], [1, 1], [0, 0], [1, 1 / 3]]
    h = ClassSyntheticGradient.features(s)
    assert [v.shape[-1] for v in h] == [CELL, CLASS, TASK]
    for t in range(4):
        ways, rows = int(batch.way_mask[t].sum()), batch.query_mask[t]
        p, x, n = s.mean[t][rows][:, :ways], s.x[t][rows], int(rows.sum())
        mean = p.T @ x / p.sum(0).unsqueeze(-1)
        unit = mean / mean.norm(dim=-1, keepdim=True)
        share = ways * (p.sum(0) + 1) / (n + ways)
        spread = (share - 1).square().mean()
        entropy = -(p * p.log()).sum(1).mean() / math.log(ways)
        of_class = [share.log(), 3 * mean.norm(dim=-1), 3 * ((unit @ unit.T).sum(1) - 1) / (ways - 1)]
        of_task = [spread, (spread + 1e-3).log(), entropy, math.log(ways), math.log(n / ways)]
        of_task += [s.setting.strength[t], *known[t]]
        logit = s.loc[t][rows][:, :ways]
        cell = [p.log() / 3, p, (logit - logit.mean(1, keepdim=True)) / 5, s.var[t][rows][:, :ways].log()]
        close(h.cells[t, :ways].transpose(0, 1)[rows], torch.stack(cell, -1), 1e-6)
        close(h.of_class[t, :ways], torch.stack(of_class, -1), 1e-6)
        close(h.of_task[t], torch.stack([torch.as_tensor(v).double() for v in of_task]), 1e-6)
    assert not ClassSyntheticGradient.features(state(batch, model)).of_task[:, -2:].any()


def test_classes_and_queries_that_do_not_exist_change_no_reading():
    batch, network = class_tasks(), moved(ClassSyntheticGradient(8))
    s = state(batch, classifier())
    whole = network.read(s)
    for t in range(4):
        ways, rows = int(batch.way_mask[t].sum()), batch.query_mask[t]
        alone = network.read(state(batch[[t]].trimmed(), classifier()))
        real = alone.cells[0, :ways, : int(rows.sum())]
        close(whole.cells[t, :ways][:, rows], real)
        close(whole.by_class[t, :ways], alone.by_class[0, :ways])
        close(whole.by_task[t], alone.by_task[0])


def test_a_temperature_reads_more_than_forty_queries_of_a_class_as_forty():
    """What the network sees of their number, and its products."""
    batch, model = class_tasks(), classifier()
    seen = state(batch, model).once(model.refiner.synthetic_gradient.read)
    close(seen.by_task[:, LOG_QUERIES], (batch.num_queries.double() / batch.way_mask.sum(1)).log())

    def told(number: float) -> torch.Tensor:
        by_task = seen.by_task.clone()
        by_task[:, LOG_QUERIES] = math.log(number)
        return Reading(seen.cells, seen.by_class, by_task).with_products

    close(told(400.0), told(40.0), 0.0)
    wanted = seen.by_task[:, LOG_QUERIES - 1] * math.log(30)  # with the logarithm of the ways
    assert bool(((told(30.0) - wanted.unsqueeze(1)).abs().amin(1) < 1e-12).all())
    assert not torch.equal(told(30.0), told(40.0))
