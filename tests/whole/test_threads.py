"""Threads: what eight of them find at once is what one finds alone, bit for bit."""

from __future__ import annotations

import random
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from builders import number_tasks

import ebmeta
from ebmeta import EmpiricalBayes, EpisodeSampler, FewShotRegressor, GroupSampler
from ebmeta.diagnostics import check_posteriors
from ebmeta.diagnostics.simulation import simulate_tasks
from ebmeta.foundation.seeding import linear, stream
from ebmeta.model.members import Members
from ebmeta.prediction.trees import evaluating

THREADS = 8
pytestmark = pytest.mark.filterwarnings("ignore:fit_evidence")  # stopped early on purpose


def at_once(work: Callable[[int], Any]) -> list[Any]:
    """Return what eight threads find that begin together, with the seeds 0 and 1 in turn."""
    barrier = threading.Barrier(THREADS)

    def begin(index: int) -> Any:
        barrier.wait()
        return work(index % 2)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(begin, range(THREADS)))


def groups(likelihood: str = "normal", seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(8), rng.integers(2, 5, 8))
    x = rng.normal(size=(len(group), 2))
    eta = 0.5 * rng.normal(size=8)[group] + 0.3 * x[:, 0]
    y = rng.poisson(np.exp(eta)) if likelihood == "poisson" else eta + 0.3 * rng.normal(size=len(group))
    return x, y, group


@pytest.mark.parametrize("likelihood", ["normal", "poisson"])
def test_a_model_with_uncertain_parameters_serves_threads(likelihood):
    x, y, group = groups(likelihood)
    tasks = GroupSampler(x, y, group, n_support=1)
    model = EmpiricalBayes.regressor(2, likelihood, num_steps=1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(.|\n)*(not converged|not at a maximum)")  # one iteration is enough here
        ebmeta.fit_evidence(model, tasks, boundary=False, max_iterations=1)
        unsure = ebmeta.propagate(model, tasks, num_draws=2)

    def serve(index: int) -> list[np.ndarray]:
        part = group % 2 == index
        reg = FewShotRegressor(unsure).fit(x[part][::2], y[part][::2], groups=group[part][::2])
        rows, own = x[part][1::2], group[part][1::2]
        return [*reg.predict(rows, return_std=True, groups=own), reg.interval(rows, groups=own)[1]]

    alone = [serve(i) for i in range(2)]
    for found, expected in zip(at_once(serve), alone * (THREADS // 2), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("likelihood", ["normal", "poisson", "negative_binomial"])
def test_mixed_models_are_fitted_at_once(likelihood):
    """Formulas with what is learned of columns, and nothing of the process is changed for good."""
    checks, filters = torch.distributions.Distribution._validate_args, list(warnings.filters)

    def work(seed: int) -> list[np.ndarray]:
        x, y, group = groups("normal" if likelihood == "normal" else "poisson", seed)
        rows = pd.DataFrame({"y": y, "a": x[:, 0], "b": x[:, 1], "g": group})
        fit = ebmeta.mixed_model("y ~ scale(a) + poly(b, 2) + (1 | g)", rows, likelihood)
        tables = fit.fixed_effects, fit.variance_components, fit.group_effects, fit.residuals, fit.predict(rows)
        return [np.array([fit.log_likelihood]), *(table.to_numpy() for table in tables)]

    alone = [work(i) for i in range(2)]
    for found, expected in zip(at_once(work), alone * (THREADS // 2), strict=True):
        assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(found, expected, strict=True))
    assert torch.distributions.Distribution._validate_args == checks
    assert warnings.filters == filters


@pytest.mark.parametrize("likelihood", ["normal", "poisson"])
def test_a_mixed_model_serves_threads(likelihood):
    x, y, group = groups(likelihood)
    rows = pd.DataFrame({"y": y, "x": x[:, 0], "g": group})
    unsure = ebmeta.mixed_model("y ~ x + (1 | g)", rows, likelihood).propagate(4)
    new = [rows.assign(g=group + 4), rows.assign(x=rows["x"] + 1, y=np.nan)]

    def serve(index: int) -> list[np.ndarray]:
        return [unsure.predict(new[index]).to_numpy(), unsure.group_effects.to_numpy()]

    alone = [serve(i) for i in range(2)]
    for found, expected in zip(at_once(serve), alone * (THREADS // 2), strict=True):
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


def classes(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(6), 10)
    return rng.normal(size=(6, 4))[y] + 0.5 * rng.normal(size=(len(y), 4)), y


def state(model: torch.nn.Module) -> list[torch.Tensor]:
    return [v.clone() for v in model.state_dict().values()]


def fit_classes(index: int) -> list[torch.Tensor]:
    """Train with dropout, whose masks are the one thing that nobody can hand a generator."""
    embedder = torch.nn.Sequential(linear(4, 4, stream(index)), torch.nn.Dropout(0.3))
    model = EmpiricalBayes.classifier(4, embedder=embedder, seed=index)
    tasks, others = (EpisodeSampler(*classes(s), n_way=3, n_shot=1, n_query=4, seed=index) for s in (0, 1))
    options = {"validation_tasks": 4, "validate_every": 2, "progress": False}
    result = ebmeta.fit(model, tasks, 2, 2, validation=others, seed=index, **options)
    return [*state(model), torch.from_numpy(result.history["nll"].values)]


def fit_numbers(index: int) -> list[torch.Tensor]:
    model = EmpiricalBayes.regressor(2, "poisson", num_steps=2, seed=index)
    tasks = GroupSampler(*groups("poisson", index), n_support=1, seed=index)
    ebmeta.fit(model, tasks, 2, 2, seed=index, progress=False)
    return state(model)


def fit_evidence(index: int) -> list[torch.Tensor]:
    tasks, model = GroupSampler(*groups("poisson", index), n_support=1), EmpiricalBayes.regressor(2, "poisson")
    found = ebmeta.fit_evidence(model, tasks, boundary=False, max_iterations=1, num_draws=4, seed=index)
    return [*state(model), torch.tensor(found.log_evidence)]


def propagate(index: int) -> list[torch.Tensor]:
    tasks, model = GroupSampler(*groups(seed=index), n_support=1), EmpiricalBayes.regressor(2, seed=index)
    ebmeta.fit_evidence(model, tasks, hyperprior=True, boundary=False)
    return state(ebmeta.propagate(model, tasks, num_draws=2, seed=index))


SERVED = EmpiricalBayes.regressor(2, "normal_per_task", num_steps=1)  # never told to evaluate: it is in training mode
CLASSIFIER = EmpiricalBayes.classifier(4)


def serve(index: int) -> list[torch.Tensor]:
    """Ask everything of two models that all threads share."""
    x, y, group = groups(seed=index % 2)
    reg = FewShotRegressor(SERVED).fit(x[::2], y[::2], groups=group[::2])
    asked = [*reg.predict(x, return_std=True, groups=group), reg.sample(x, 5, seed=index, groups=group)]
    tasks = GroupSampler(x, y, group, n_support=1, seed=index)
    tree = ebmeta.predict(SERVED, tasks.sample(4), num_draws=3, seed=index)
    asked += [tree["posterior/w"].values, tree["posterior_predictive/query_y"].values]
    asked.append(ebmeta.evaluate(SERVED, tasks, 3)["nll"].values)
    X, labels = classes()
    asked.append(ebmeta.FewShotClassifier(CLASSIFIER).fit(X[::5], labels[::5]).predict_proba(X[index::3]))
    episodes = EpisodeSampler(X, labels, n_way=3, n_shot=1, n_query=4, seed=index)
    simulated, w = simulate_tasks(CLASSIFIER, episodes.sample(3), seed=index)
    checks = check_posteriors(CLASSIFIER, episodes.sample(1), num_draws=25, seed=index)
    return [*map(torch.from_numpy, asked), simulated.query_y, w, torch.from_numpy(checks["khat"].values)]


@pytest.mark.usefixtures("rng_untouched")
@pytest.mark.parametrize("work", [fit_classes, fit_numbers, fit_evidence, propagate, serve], ids=lambda f: f.__name__)
def test_eight_threads_find_what_one_finds(work):
    alone, found = [work(i) for i in range(2)], at_once(work)
    for here, there in zip(alone * (THREADS // 2), found, strict=True):
        assert len(here) == len(there)
        assert all(torch.equal(a.nan_to_num(-1e9), b.nan_to_num(-1e9)) for a, b in zip(here, there, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(found[0], found[1], strict=True))  # the seeds do differ
    assert all(m.training for m in (*SERVED.modules(), *CLASSIFIER.modules()))


def test_a_user_draws_the_same_numbers_while_models_train():
    def draws() -> list[Any]:
        random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002  # the user's global generators
        return [(random.random(), np.random.rand(), torch.rand(()).item()) for _ in range(2000)]  # noqa: NPY002

    def train() -> None:
        for index in range(2):
            fit_classes(index)
            serve(index)

    expected = draws()
    kept = random.getstate(), np.random.get_state()  # noqa: NPY002
    with ThreadPoolExecutor(1) as pool:
        training, found = pool.submit(train), []
        while not training.done():
            found.append(draws())
    training.result()
    random.setstate(kept[0]), np.random.set_state(kept[1])  # noqa: NPY002
    assert len(found) > 5
    assert all(f == expected for f in found)
