"""Parts of tasks of like size: the same numbers as padding everything, at a cost that follows rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from builders import close, number_tasks

import ebmeta
from ebmeta import EmpiricalBayes, GroupSampler, evidence
from ebmeta.buckets import split
from ebmeta.evidence import Evidence
from ebmeta.likelihood import LIKELIHOODS


def test_every_task_is_in_one_part_of_bounded_padding():
    lengths = np.random.default_rng(0).geometric(0.02, 400)
    lengths[7] = 5000
    order = None
    for rows in (1, 64, 1000):
        parts = split(lengths, rows)
        assert sorted(np.concatenate(parts)) == list(range(400))
        order = np.concatenate(parts) if order is None else order
        assert (np.concatenate(parts) == order).all()  # whatever the size of the parts
        padded = [len(part) * lengths[part].max() for part in parts]
        assert all(p <= rows or len(part) == 1 for p, part in zip(padded, parts, strict=True))
        assert sum(padded) < 2 * lengths.sum()
    assert [part.tolist() for part in split(np.array([4, 1, 9]), 27)] == [[1, 0, 2]]


def test_parts_of_a_batch_are_its_tasks():
    batch = number_tasks("binomial", supports=(1, 9, 0, 2), queries=(2, 30, 1, 3), features=2)
    seen = []
    for numbers, part in batch.parts(20):
        for t, number in enumerate(numbers.tolist()):
            for name in ("support_x", "support_y", "query_x", "query_y", "support_size", "query_size"):
                mask = name.split("_")[0] + "_mask"
                own, whole = (getattr(b, name)[i][getattr(b, mask)[i]] for b, i in ((part, t), (batch, number)))
                close(own, whole, 0.0)
            seen.append(number)
        assert bool(part.query_mask.any(0)[-1])
    assert sorted(seen) == [0, 1, 2, 3]
    assert batch.parts(1000)[0][1] is batch


def unequal(likelihood: str) -> GroupSampler:
    """Fifteen groups of 1 to 4 rows and one of 60."""
    rng = np.random.default_rng(1)
    group = np.repeat(np.arange(16), [*rng.integers(1, 5, 15), 60])
    x = rng.normal(size=(len(group), 2))
    eta = 0.4 * rng.normal(size=16)[group] + 0.3 * x[:, 0]
    y = eta + 0.5 * rng.normal(size=len(group))
    if LIKELIHOODS[likelihood].discrete:
        y = rng.poisson(np.exp(eta)).clip(0, 1 if likelihood == "bernoulli" else 3)
    size = np.full(len(group), 4.0) if likelihood == "binomial" else None
    return GroupSampler(x, y, group, n_support=0, size=size)


@pytest.mark.parametrize("likelihood", ["normal", "normal_per_task", "student_t", "binomial"])
def test_the_evidence_is_that_of_padded_groups_for_any_size_of_parts(likelihood, monkeypatch):
    tasks, found = unequal(likelihood), []
    for rows, source in ((10**6, tasks.everything()), (10**6, tasks), (64, tasks), (8, tasks.everything())):
        monkeypatch.setattr(evidence, "ROWS", rows)
        one = Evidence(EmpiricalBayes.regressor(2, likelihood, num_steps=0).double(), source, hyperprior=True)
        at = one.read() + 0.1
        values = one.values(torch.stack([at, at - 0.2]))
        found.append(torch.cat([one.read(), torch.tensor([one.value(at)]), one.gradient(at), values]))
        assert (len(one.parts) > 1) == (rows < 100)
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-9, atol=1e-9)


def test_what_propagates_does_not_depend_on_the_size_of_parts(monkeypatch):
    tasks, found = unequal("poisson"), []
    for rows in (10**6, 64):
        monkeypatch.setattr(evidence, "ROWS", rows)
        model = EmpiricalBayes.regressor(2, "poisson", num_steps=0).double()
        ebmeta.fit_evidence(model, tasks, boundary=False, max_iterations=2)
        found.append(ebmeta.propagate(model, tasks, num_draws=2))
    close(found[0].values, found[1].values, 1e-6)
