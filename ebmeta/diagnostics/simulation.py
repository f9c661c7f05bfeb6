r"""Simulation-based calibration, which tests over simulated tasks whether the truth lies where the posterior says.

Draw weights from the prior and labels given them, infer, and ask of test quantities $f$ of weights and data where the
true value lies in the posterior,

$$ w \sim p_\psi, \quad y \sim p(y \mid x, w), \qquad
   u = P_{w' \sim q(\cdot\, ; d^s, x^q)} \big( f(w') < f(w) \big) + V\, P \big( f(w') = f(w) \big), \quad
   V \sim \mathrm U(0, 1) . $$

If $q$ is the exact posterior, $u$ is uniform for every $f$. For weights, linear predictors and regions of highest
density $u$ is exact, because $q$ is Gaussian or a mixture of Gaussians; for the others it is the randomised rank of
the true value among draws (theory: "Simulation-based calibration", which also says what the test cannot see).

Source: Talts et al. 2018, Validating Bayesian inference algorithms with simulation-based calibration; Modrák et al.
2025, Simulation-based calibration checking for Bayesian computation: the choice of test quantities shapes sensitivity.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ebmeta.diagnostics.simulation_result import SimulationCalibration
from ebmeta.foundation.checks import at_least, between, checked
from ebmeta.foundation.seeding import stream
from ebmeta.likelihood import Given
from ebmeta.model.conditional import repeat
from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.model.posterior import Inference
from ebmeta.parts.gaussian import Gaussian
from ebmeta.refine.base import Iterate
from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.source import TaskSampler, as_source

__all__ = ["Posterior", "Simulator", "simulate_tasks", "simulation_based_calibration"]

CHUNK = 100  # tasks at a time
LEAST_TASKS = 10
MOST_WEIGHTS = 8  # single weights that are test quantities

#: Maps a number of tasks and the index of a batch to labelled tasks and their weights `(T, C, P)`.
Simulator = Callable[[int, int], tuple[TaskBatch, Tensor]]
#: Maps tasks to a Gaussian of shape `(T, C, P)`.
Posterior = Callable[[TaskBatch], Gaussian]


@checked()
def simulate_tasks(model: EmpiricalBayes, batch: TaskBatch, seed: int = 0) -> tuple[TaskBatch, Tensor]:
    r"""Draw weights from the learned prior, and labels for the inputs of given tasks; the inputs stay.

    $$ w_t \sim p_\psi(w), \qquad y_{ti} \sim p(y \mid \phi(x_{ti})^\top w_t) $$

    Noise levels are drawn too, where tasks have some. The law is that of the program `EmpiricalBayes.model`.

    Args:
        model: the fitted model.
        batch: $T$ tasks; their labels are not looked at.
        seed: seed of the draws.

    Returns:
        The tasks with new labels of support and query, and the weights, shape `(T, C, P)`.

    Raises:
        ValueError: if the inputs do not fit the model, or a label is too large a number for a task.

    Examples:
        >>> from ebmeta.simulate.linear_gaussian import LinearGaussianTasks
        >>> given = LinearGaussianTasks(np.zeros(3), np.eye(3)).sample(4)
        >>> tasks, w = simulate_tasks(EmpiricalBayes.regressor(2), given)
        >>> tasks, tuple(w.shape)
        (TaskBatch(tasks=4, ways<=1, support<=3, queries<=10, features=(2,), labelled), (4, 1, 3))
    """
    source, sides = stream(seed), []
    model.check(batch)
    with torch.no_grad():  # Pyro's handlers belong to the whole process: its programs do not run in threads
        prior, level = model.prior_of(batch), None
        if model.likelihood.has_level:
            level = torch.randn(len(batch), generator=source, dtype=prior.loc.dtype).to(prior.loc.device)
        noise = torch.randn(prior.loc.shape, generator=source, dtype=prior.loc.dtype)
        w = prior.loc + prior.color(noise.to(prior.loc.device))
        for rows in (batch.support, batch.query):
            if rows.width:
                eta, given = model.predictor(model.predictor.features(rows.x, rows.mask), w), Given(rows.size, level)
                rows = replace(rows, y=model.likelihood.sample(eta, batch.way_mask, given, generator=source))
            sides.append(rows)
    return batch.with_rows(*sides), w


@checked(step=at_least(-1), num_tasks=at_least(LEAST_TASKS), num_draws=at_least(2), alpha=between(0, 1))
def simulation_based_calibration(
    model: EmpiricalBayes,
    tasks: TaskBatch | TaskSampler | None = None,
    *,
    simulator: Simulator | None = None,
    posterior: Posterior | None = None,
    step: int | None = None,
    num_tasks: int = 1000,
    num_draws: int = 100,
    alpha: float = 0.05,
    seed: int = 0,
) -> SimulationCalibration:
    r"""Compare posteriors with simulated truth.

    With `tasks`, the inputs are given and do not depend on the weights, whatever they did in the task that they are
    from. Unlabelled queries then say nothing, the exact posterior is $p(w \mid d^s)$, and a refined one can only stay
    there. Where refinement is trained on tasks whose inputs do depend on the weights, test it by a `simulator` that
    draws the inputs too.

    Test quantities: up to eight weights of the first output, the sum of all weights, the linear predictor of the first
    query (and, for classes, its difference between the first two), the log likelihood of the support labels, the mass
    of the region of highest density that just holds the truth, the label of the first query, and the surprise at all
    query labels.

    Args:
        model: the fitted model; its prior and likelihood draw the tasks, and its features and likelihood are used
            throughout.
        tasks: where inputs come from: tasks, taken in turn, or a source of them.
        simulator: draws everything instead, inputs, labels and weights; the weights are those of the model's own
            features. An example is `LinearGaussianTasks.simulate`.
        posterior: the posterior to check; that of the model by default. It is given the tasks with all labels, and
            what it does with those of the queries is checked.
        step: $k$ of the model's $q_k$, -1 for the last of training; 0 with `tasks` and -1 with a simulator by
            default.
        num_tasks: simulated tasks, $N$.
        num_draws: draws behind each rank.
        alpha: probability that an exact posterior does not pass.
        seed: seed of all draws; with a source or a simulator, also which of its batches are used.

    Returns:
        The numbers that ought to be uniform, and what they say.

    Raises:
        ValueError: if not exactly one of `tasks` and `simulator` is given, an argument is out of range, or a
            simulator or a posterior returns what does not fit.

    Examples:
        >>> from ebmeta.simulate.linear_gaussian import LinearGaussianTasks
        >>> given = LinearGaussianTasks(np.zeros(3), np.eye(3)).sample(200)
        >>> found = simulation_based_calibration(EmpiricalBayes.regressor(2), given, num_tasks=200)
        >>> found.verdict
        'calibrated'
    """
    if (tasks is None) == (simulator is None):
        raise ValueError("tasks: expected either tasks or a simulator, got " + ("neither" if tasks is None else "both"))
    if step is not None and posterior is not None:
        raise ValueError(f"step: expected None with a posterior of your own, got {step}")
    step = (0 if simulator is None else -1) if step is None else step
    exact = copy.deepcopy(model).double().eval()
    parts: list[dict[str, Tensor]] = []
    kinds: dict[str, str] = {}
    for i, (batch, w) in enumerate(_draws(exact, tasks, simulator, num_tasks, seed)):
        with torch.no_grad():
            inferred = exact.infer(batch, None if step < 0 else step)
            if posterior is not None:
                own = Iterate(_checked(posterior(batch), inferred.path[0]))
                inferred = replace(inferred, iterates=[own])
            found = _Test(exact, batch, w, inferred, num_draws, stream(_key(seed, i) + 2**62)).quantities()
        kinds |= {name: kind for name, (kind, _) in found.items()}
        parts.append({name: u.cpu() for name, (_, u) in found.items()})
    pit = torch.stack([torch.cat([part[name] for part in parts]) for name in kinds]).numpy()
    coords = {"quantity": list(kinds), "kind": ("quantity", list(kinds.values())), "task": np.arange(num_tasks)}
    return SimulationCalibration(xr.DataArray(pit, coords, ("quantity", "task"), name="pit"), alpha)


def _draws(
    model: EmpiricalBayes,
    tasks: TaskBatch | TaskSampler | None,
    simulator: Simulator | None,
    num_tasks: int,
    seed: int,
) -> Iterator[tuple[TaskBatch, Tensor]]:
    """Yield simulated tasks and their weights in 64 bits, by chunks."""
    device = next(model.parameters()).device
    if tasks is not None:
        for i, batch in enumerate(as_source(tasks).draws(num_tasks, CHUNK, seed)):
            yield simulate_tasks(model, batch.to(device), _key(seed, i))
    elif simulator is not None:
        sizes = [min(CHUNK, num_tasks - start) for start in range(0, num_tasks, CHUNK)]
        for i, size in enumerate(sizes):
            batch, w = simulator(size, seed * len(sizes) + i)
            wanted = (size, batch.way_mask.shape[1], model.predictor.num_weights)
            if batch.query_y is None:
                raise ValueError("simulator: expected tasks with query labels, got unlabelled tasks")
            if tuple(w.shape) != wanted or len(batch) != size:
                got = f"{tuple(w.shape)} for {len(batch)} tasks"
                raise ValueError(f"simulator: expected weights of shape {wanted}, got {got}")
            yield batch.to(device), w.to(device, torch.float64)


def _key(seed: int, index: int) -> int:
    return (seed * 1_000_003 + index) % 2**62


def _checked(q: Gaussian, own: Gaussian) -> Gaussian:
    """Return a given posterior in 64 bits."""
    got = tuple(q.loc.shape) if isinstance(q, Gaussian) else type(q).__name__
    if got != tuple(own.loc.shape):
        raise ValueError(f"posterior: expected a Gaussian of shape {tuple(own.loc.shape)}, got {got}")
    if not bool(q.loc.isfinite().all() & q.precision.isfinite().all()):
        raise ValueError("posterior: expected finite numbers, got NaN or infinity")
    return q.with_(q.loc.to(own.loc), q.precision.to(own.loc))


class _Test(NamedTuple):
    """The test quantities of a chunk of tasks under the last Gaussian (or mixture over levels) of `inferred`."""

    model: EmpiricalBayes
    batch: TaskBatch
    w: Tensor
    inferred: Inference
    num_draws: int
    generator: torch.Generator

    def _uniform(self, like: Tensor) -> Tensor:
        return torch.rand(like.shape, generator=self.generator, dtype=torch.float64).to(like.device)

    def quantities(self) -> dict[str, tuple[str, Tensor]]:
        """Return the kind of each quantity and its $u$, shape `(T,)`."""
        batch, w, q = self.batch, self.w, self.inferred.path[-1]
        categorical = self.model.likelihood.categorical
        if categorical and not bool((batch.way_mask.sum(1) > 1).all()):
            raise ValueError("tasks: expected two classes or more in every task, got a task with fewer")
        out: dict[str, tuple[str, Tensor]] = {}
        scale = q.scale
        named = dict(enumerate(self.model.weight_columns or ()))
        for p in np.unique(np.linspace(0, w.shape[2] - 1, min(w.shape[2], MOST_WEIGHTS)).round().astype(int)):
            called = f"weight of {named[p]}" if p in named else f"weight {p}"
            out[called] = "weight", self._normal(w[:, 0, p], q.loc[:, 0, p], scale[:, 0, p])
        real = self.inferred.setting.way_mask.unsqueeze(-1).to(w.dtype).expand_as(q.loc)
        variance = (real * q.solve(real)).sum((1, 2))
        total = (w * batch.way_mask.unsqueeze(-1)).sum((1, 2))
        out["sum of weights"] = "weight", self._normal(total, (q.loc * real).sum((1, 2)), variance.sqrt())
        first = batch.query_mask.float().argmax(1)
        tasks = torch.arange(len(batch), device=w.device)
        x = self.inferred.x[tasks, first].unsqueeze(1)
        eta = self.model.predictor(x, w)[:, 0]
        loc, var = (v[:, 0] for v in q.marginal(repeat(x, self.inferred.num_levels)))
        out["predictor"] = "predictor", self._normal(eta[:, 0], loc[:, 0], var[:, 0].sqrt())
        if categorical:
            contrast = self._normal(eta[:, 0] - eta[:, 1], loc[:, 0] - loc[:, 1], (var[:, 0] + var[:, 1]).sqrt())
            out["predictor difference"] = "predictor", contrast
        draws, labels, _ = self.inferred.draw(-1, self.num_draws, generator=self.generator)
        out["log likelihood"] = "likelihood", self._rank(self._fit(torch.cat([w.unsqueeze(0), draws])))
        out["region"] = "region", self._region(draws)
        assert batch.query_y is not None  # for the type checker: simulated tasks are labelled
        summary = self.inferred.predict(-1)
        out["label"] = "label", self._label(summary, batch.query_y)[tasks, first]
        labels = torch.cat([batch.query_y.unsqueeze(0).to(labels), labels])
        out["surprise"] = "surprise", self._rank(_surprise(summary, labels, batch.query_mask))
        return out

    def _normal(self, value: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        """Return the probability of less than `value` `(T,)` under normals `(T * J,)` mixed over levels."""
        loc, scale = self.inferred.by_level(loc), self.inferred.by_level(scale)
        return self.inferred.average(torch.special.ndtr((value - loc) / scale))

    def _rank(self, values: Tensor) -> Tensor:
        """Return the randomised rank of the first of `values`, shape `(1 + draws, T)`, among the others, in (0, 1)."""
        below, ties = (values[1:] < values[0]).sum(0), (values[1:] == values[0]).sum(0)
        return (below + self._uniform(below) * (ties + 1)) / len(values)

    def _fit(self, w: Tensor) -> Tensor:
        """Return the log likelihood of the support labels in nats (at the mean noise level), shape `(..., T)`."""
        batch = self.batch
        if not batch.support_x.shape[1]:
            return w.new_zeros(w.shape[:2])
        eta = self.model.predictor(self.model.predictor.features(batch.support_x, batch.support_mask), w)
        each = self.model.likelihood.log_prob(batch.support_y, eta, batch.way_mask, Given(batch.support_size))
        return torch.where(batch.support_mask, each, 0.0).sum(-1)

    def _region(self, draws: Tensor) -> Tensor:
        """Return the mass of the region of highest density that just holds the truth."""
        q, levels = self.inferred.path[-1], self.inferred.num_levels
        if levels == 1:
            off = self.w - q.loc
            distance = (off * q.times(off)).sum(-1)
            ways = self.batch.way_mask
            dimension = ways.sum(1).double() * self.w.shape[-1]
            out: Tensor = torch.special.gammainc(dimension / 2, (distance * ways).sum(1) / 2)
            return out
        w = torch.cat([self.w.unsqueeze(0), draws]).repeat_interleave(levels, 1)
        log_q = q.distribution().log_prob(w).view(len(w), *self.inferred.log_weight.shape)
        return self._rank(-torch.logsumexp(log_q + self.inferred.log_weight, -1))

    def _label(self, summary: dict[str, Tensor], y: Tensor) -> Tensor:
        """Return the predictive probability of less than the label, randomised over ties, shape `(T, Q)`."""
        v = self._uniform(y)
        likelihood = self.model.likelihood
        if likelihood.categorical:
            below = summary["probs"].cumsum(-1) - summary["probs"]
            low, own = (p.gather(-1, y.unsqueeze(-1)).squeeze(-1) for p in (below, summary["probs"]))
            return (low + v * own).clamp(0, 1)
        cdf = self.inferred.cdf(-1, y)
        if likelihood.discrete:
            low = torch.where(y > 0, self.inferred.cdf(-1, y - 1), 0.0)
            return low + v * (cdf - low)
        return cdf


def _surprise(summary: dict[str, Tensor], labels: Tensor, mask: Tensor) -> Tensor:
    """Return how unlikely query labels `(..., T, Q)` are together, shape `(..., T)`.

    For classes minus the sum of their log probabilities; for numbers the sum of squares of their distances from the
    predictive means, in predictive standard deviations.
    """
    if "probs" in summary:
        log_p = summary["probs"].clamp(min=torch.finfo(torch.float64).tiny).log().expand(*labels.shape, -1)
        each = -log_p.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    else:
        each = ((labels - summary["mean"]) / summary["std"]).square()
    return torch.where(mask, each, 0.0).sum(-1)
