"""Parts of tasks of like size: the same numbers as padding everything, at a cost that follows rows."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import class_tasks, classifier, close, number_tasks
from torch.utils._python_dispatch import TorchDispatchMode

import ebmeta
from ebmeta import EmpiricalBayes, FewShotRegressor, GroupSampler
from ebmeta.foundation.buckets import split
from ebmeta.likelihood import LIKELIHOODS
from ebmeta.training import evidence
from ebmeta.training.evidence import Evidence, log_hyperprior


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
        with pytest.warns(UserWarning, match="not converged|not at a maximum"):  # noqa: PT031
            ebmeta.fit_evidence(model, tasks, hyperprior=log_hyperprior, boundary=False, max_iterations=2)
            found.append(ebmeta.propagate(model, tasks, num_draws=2))
    close(found[0].values, found[1].values, 1e-6)


PREDICT, REGRESSOR, FIT = (
    importlib.import_module(f"ebmeta.{n}")
    for n in ("prediction.trees", "estimators.regressor", "training.batch_gradient")
)


@pytest.mark.parametrize("likelihood", ["normal_per_task", "poisson", "categorical"])
def test_predictions_are_those_of_padded_tasks_for_any_size_of_parts(likelihood, monkeypatch):
    if likelihood == "categorical":
        batch, model, asked = class_tasks(), classifier(), {}
    else:
        batch = number_tasks(likelihood, supports=(4, 0, 40, 3), queries=(3, 1, 20, 5), features=2)
        model, asked = EmpiricalBayes.regressor(2, likelihood, num_steps=2).double(), {"quantiles": [0.2, 0.9]}
    trees, scores = [], []
    for cells in (10**6, 64, 1):
        monkeypatch.setattr(PREDICT, "CELLS", cells)
        trees.append(ebmeta.predict(model, batch, num_draws=2000, **asked))
        scores.append(ebmeta.evaluate(model, batch))
        assert (len(PREDICT.marginals(model, batch)) > 1) == (cells < 100)
    for tree, score in zip(trees[1:], scores[1:], strict=True):
        for name, data in trees[0]["predictive"].items():
            np.testing.assert_allclose(tree["predictive"][name], data, rtol=1e-9, atol=1e-9)
        for name in score:
            np.testing.assert_allclose(score[name], scores[0][name], rtol=1e-9, atol=1e-9)
        for group in ("posterior", "log_likelihood"):  # drawn anew: 6 standard errors of the difference, 2e-9 each
            for name, data in tree[group].items():
                other = trees[0][group][name]
                error = np.sqrt((data.var("draw") + other.var("draw")) / 2000)
                off = np.abs(data.mean("draw") - other.mean("draw")) - 6 * error
                assert float(off.max()) < 1e-9
                assert (data.isnull() == other.isnull()).all()


@pytest.mark.parametrize("likelihood", ["normal_per_task", "binomial"])
def test_a_regressor_says_the_same_of_groups_for_any_size_of_parts(likelihood, monkeypatch):
    rng = np.random.default_rng(2)
    tasks = unequal(likelihood)
    group = np.empty(len(tasks.y), dtype=int)
    for g, rows in enumerate(tasks._members):
        group[rows] = g
    mixed = rng.permutation(len(group))  # rows of a group do not lie together
    x, y, group = tasks.X[mixed], tasks.y[mixed], group[mixed]
    size = {} if tasks.size is None else {"size": tasks.size[mixed]}
    model = EmpiricalBayes.regressor(2, likelihood, num_steps=1).double()
    known = rng.random(len(y)) < 0.5
    reg = FewShotRegressor(model).fit(x[known], y[known], groups=group[known], **{k: v[known] for k, v in size.items()})
    found = []
    for cells in (10**6, 16):
        monkeypatch.setattr(REGRESSOR, "CELLS", cells)
        given = {"groups": group, **size}
        found.append(
            [
                *reg.predict(x, return_std=True, **given),
                reg.quantiles(x, (0.1, 0.8), **given),
                reg.log_density(x, y, **given),
                reg.sample(x, 4000, **given).mean(0),
            ]
        )
    std = found[0][1]
    for a, b in zip(found[0][:-1], found[1][:-1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
    assert (np.abs(found[0][-1] - found[1][-1]) < 6 * std * np.sqrt(2 / 4000)).all()  # 6 standard errors
    whole = ebmeta.predict(model, reg.tasks(x, **{"groups": group, **size}), num_draws=0)["predictive/mean"].values[-1]
    order = list(dict.fromkeys(group))
    for t, g in enumerate(order):
        own = group == g
        np.testing.assert_allclose(found[1][0][own], whole[t, : own.sum()], rtol=1e-9)


def test_training_on_unequal_groups_takes_the_same_steps(monkeypatch):
    """A batch of fifteen groups of at most 4 rows and one of 60, whole and in parts."""
    tasks, found = unequal("poisson"), []
    for cells in (10**6, 64):
        monkeypatch.setattr(FIT, "CELLS", cells)
        model = EmpiricalBayes.regressor(2, "poisson", num_steps=1).double()
        with Largest() as seen:
            history = ebmeta.fit(model, tasks, 3, 16, progress=False).history
        found.append((torch.cat([p.detach().flatten() for p in model.parameters()]), history["nll"].values, seen.numel))
    close(found[1][0], found[0][0], 1e-9)
    np.testing.assert_allclose(found[1][1], found[0][1], rtol=1e-9)
    assert found[1][2] < found[0][2] / 4


class Largest(TorchDispatchMode):
    """Note the largest number of elements of any tensor that is made."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(value, torch.Tensor) and not value._is_view():
                self.numel = max(self.numel, value.untyped_storage().nbytes() // value.element_size())
        return out


def test_memory_follows_rows_and_not_the_largest_group(monkeypatch):
    """Forty groups of 3 rows and one of 400; a likelihood of 20 nodes per row, 101 in its quantiles."""
    group = np.repeat(np.arange(41), [*[3] * 40, 400])
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(520, 1)), rng.poisson(1.0, 520)
    model = EmpiricalBayes.regressor(1, "poisson", num_steps=0).double()
    monkeypatch.setattr(evidence, "ROWS", 600)
    monkeypatch.setattr(PREDICT, "CELLS", 600)
    monkeypatch.setattr(REGRESSOR, "CELLS", 600)
    one = Evidence(model, GroupSampler(x, y, group, n_support=0), hyperprior=False)
    batch = GroupSampler(x, y, group, n_support=0).everything()
    reg = FewShotRegressor(model).fit(x, y, groups=group)
    for call, most in (
        (lambda: one.gradient(one.read()), 20 * 600),
        (lambda: one.values(one.read().repeat(3, 1)), 3 * 20 * 600),
        (lambda: ebmeta.predict(model, batch, num_draws=3, quantiles=[0.5]), 101 * 600),
        (lambda: reg.quantiles(x, (0.5,), groups=group), 101 * 600),
    ):
        with Largest() as seen:
            call()
        assert 400 < seen.numel <= most  # padded: 16,400 rows, times the nodes


def test_the_measured_peaks_keep_their_limits():
    path = Path(__file__).parents[2] / "benchmarks" / "results" / "memory.json"
    cases = json.loads(path.read_text(encoding="utf-8"))["cases"]
    assert {name: case["limit_gb"] for name, case in cases.items()} == {
        "one_large_group": 0.5,
        "many_ways": 2.0,
        "large_pile": 2.0,
        "many_groups": 1.5,
        "many_groups_of_counts": 1.5,
        "larger_map": 0.7,
        "larger_parquet": 0.7,
    }
    assert all(0 < case["peak_gb"] < case["limit_gb"] for case in cases.values())
