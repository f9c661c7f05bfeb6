"""Threads: what eight of them find at once is what one finds alone, bit for bit."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from builders import number_tasks

import ebmeta
from ebmeta import EmpiricalBayes, FewShotRegressor, GroupSampler
from ebmeta.members import Members
from ebmeta.predict import evaluating

THREADS = 8


def at_once(work: Callable[[int], Any]) -> list[Any]:
    """Return what eight threads find that begin together."""
    barrier = threading.Barrier(THREADS)

    def begin(index: int) -> Any:
        barrier.wait()
        return work(index)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(begin, range(THREADS)))


def groups(likelihood: str = "normal", seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(12), rng.integers(2, 9, 12))
    x = rng.normal(size=(len(group), 2))
    eta = 0.5 * rng.normal(size=12)[group] + 0.3 * x[:, 0]
    y = rng.poisson(np.exp(eta)) if likelihood == "poisson" else eta + 0.3 * rng.normal(size=len(group))
    return x, y, group


@pytest.mark.parametrize("likelihood", ["normal", "poisson"])
def test_a_model_with_uncertain_parameters_serves_threads(likelihood):
    x, y, group = groups(likelihood)
    tasks = GroupSampler(x, y, group, n_support=1)
    model = EmpiricalBayes.regressor(2, likelihood, num_steps=1)
    with pytest.warns(UserWarning, match="not converged"):  # three iterations are enough here
        ebmeta.fit_evidence(model, tasks, boundary=False, max_iterations=3)
    unsure = ebmeta.propagate(model, tasks, num_draws=4)

    def serve(index: int) -> list[np.ndarray]:
        part = (group % THREADS) == index % 4
        reg = FewShotRegressor(unsure).fit(x[part][::2], y[part][::2], groups=group[part][::2])
        rows, own = x[part][1::2], group[part][1::2]
        return [*reg.predict(rows, return_std=True, groups=own), reg.interval(rows, groups=own)[1]]

    alone = [serve(i) for i in range(THREADS)]
    for found, expected in zip(at_once(serve), alone, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_members_are_looked_at_without_writing_to_the_model():
    model = torch.nn.Linear(2, 1, bias=False)
    members, seen = Members(model, ("weight",), torch.tensor([[1.0, 2.0], [3.0, 4.0]])), []

    def look(own: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
        seen.append(model.weight is parameter and own is not model)
        return own(x)

    parameter, x = model.weight, torch.eye(2)
    assert torch.equal(members.map(look, x), torch.tensor([[1.0], [4.0]]))
    assert torch.equal(torch.stack(members.each(look, x)), torch.tensor([[1.0], [4.0]]))
    assert seen == [True] * 3


def test_members_of_a_likelihood_whose_checks_know_no_batches_are_done_one_by_one():
    def look(own: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
        return torch.distributions.Normal(own.weight[0], 1.0, validate_args=True).log_prob(x)

    members = Members(torch.nn.Linear(2, 1), ("weight",), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    found = members.map(look, torch.zeros(2, 2))
    assert torch.equal(found, torch.distributions.Normal(members.values, 1.0).log_prob(torch.zeros(2, 2)))
    with pytest.raises(ValueError, match="Expected value argument"):  # and what is wrong is still said
        members.map(look, torch.full((2, 2), torch.nan))


def test_blocks_of_evaluation_may_overlap_and_an_evaluating_model_is_not_written_to():
    model = EmpiricalBayes.regressor(1).train()
    first, second = evaluating(model), evaluating(model)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not any(m.training for m in model.modules())  # the second block is still open
    second.__exit__(None, None, None)
    assert all(m.training for m in model.modules())

    class Guarded(torch.nn.Identity):
        def __setattr__(self, name: str, value: Any) -> None:
            assert name != "training" or not getattr(self, "closed", False)
            super().__setattr__(name, value)

    batch = number_tasks("normal", supports=(2,), queries=(2,), features=2, dtype=torch.float32)
    served = EmpiricalBayes.regressor(2, embedder=Guarded()).eval()
    served.predictor.embedder.closed = True
    assert ebmeta.predict(served, batch, num_draws=2)["predictive/mean"].notnull().all()
