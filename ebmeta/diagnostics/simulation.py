r"""Simulation-based calibration, which tests over simulated tasks whether the truth lies where the posterior says.

Draw weights from the prior and labels given them, infer, and ask of test quantities $f$ of weights and data where the
true value lies in the posterior,

$$ w \sim p_\psi, \quad y \sim p(y \mid x, w), \qquad
   u = P_{w' \sim q(\cdot\, ; d^s, x^q)} \big( f(w') < f(w) \big) + V\, P \big( f(w') = f(w) \big), \quad
   V \sim \mathrm U(0, 1) . $$

If $q$ is the exact posterior, $u$ is uniform for every $f$ (`ebmeta.diagnostics.quantities`; theory: "Simulation-based
calibration", which also says what the test cannot see).

A joint model generates inputs as well: $x \sim p(x \mid y, m)$ is drawn with the class means $m$, for support and
queries, and refined posteriors are tested where queries tell of them. What it generates are features of its head, from
which inference starts then (`ebmeta.model.features`).

Source: Talts et al. 2018, Validating Bayesian inference algorithms with simulation-based calibration; Modrák et al.
2025, Simulation-based calibration checking for Bayesian computation: the choice of test quantities shapes sensitivity.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import cast

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ebmeta.diagnostics.class_quantities import ClassQuantities
from ebmeta.diagnostics.common import refuse_general, refuse_outliers
from ebmeta.diagnostics.quantities import Quantities
from ebmeta.diagnostics.simulation_result import SimulationCalibration
from ebmeta.foundation.checks import at_least, between, check, checked
from ebmeta.foundation.kinds import found
from ebmeta.foundation.seeding import Drawing, stream
from ebmeta.likelihood import Given
from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.model.features import on_features
from ebmeta.parts.class_gaussian import ClassGaussian
from ebmeta.parts.class_prior import EQUAL
from ebmeta.parts.gaussian import Gaussian
from ebmeta.refine.base import Iterate
from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.source import TaskSampler, as_source

__all__ = ["Posterior", "Simulator", "simulate_tasks", "simulation_based_calibration"]

CHUNK = 100  # tasks at a time
LEAST_TASKS = 10

#: Maps a number of tasks and the index of a batch to labelled tasks and their weights `(T, C, P)`.
Simulator = Callable[[int, int], tuple[TaskBatch, Tensor]]
#: Maps tasks to a Gaussian of shape `(T, C, P)`.
Posterior = Callable[[TaskBatch], Gaussian]


@checked()
def simulate_tasks(model: EmpiricalBayes, batch: TaskBatch, seed: int = 0) -> tuple[TaskBatch, Tensor]:
    r"""Draw weights from the learned prior, and labels for the inputs of given tasks; the inputs stay.

    $$ w_t \sim p_\psi(w), \qquad y_{ti} \sim p(y \mid \phi(x_{ti})^\top w_t) $$

    Noise levels are drawn too, where tasks have some. The law is that of the program `EmpiricalBayes.model`.

    A joint model draws everything but the labels of the support set, which are there by design: class means and
    proportions, labels of the queries, and all inputs. These are features of its head: infer from them with
    `ebmeta.model.features.on_features`. Queries known to be balanced are as many of every class.

    Args:
        model: the fitted model.
        batch: $T$ tasks; their query labels are not looked at, and those of the support set by a joint model alone.
        seed: seed of the draws.

    Returns:
        The tasks with new labels of support and query, and the weights, shape `(T, C, P)`; of a joint model with new
        inputs of shape `(T, N, P - 1)`.

    Raises:
        ValueError: if the inputs do not fit the model, a label is too large a number for a task, tasks may have
            outliers, or the model is a general classifier, whose prior is a function of the rows.

    Examples:
        >>> from ebmeta.simulate.linear_gaussian import LinearGaussianTasks
        >>> given = LinearGaussianTasks(np.zeros(3), np.eye(3)).sample(4)
        >>> tasks, w = simulate_tasks(EmpiricalBayes.regressor(2), given)
        >>> tasks, tuple(w.shape)
        (TaskBatch(tasks=4, ways<=1, support<=3, queries<=10, features=(2,), labelled), (4, 1, 3))
    """
    source, sides = stream(seed), []
    refuse_general(model, "simulate_tasks")
    model.check(batch)
    if model.joint:
        return _simulate_inputs(model, batch, source)
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


@torch.no_grad()
def _simulate_inputs(model: EmpiricalBayes, batch: TaskBatch, source: torch.Generator) -> tuple[TaskBatch, Tensor]:
    """Draw tasks of a joint model, in the space of its features."""
    refuse_outliers(batch, "simulate_tasks")
    prior = cast(ClassGaussian, model.prior_of(batch))
    values = {name: value[0] for name, value in prior.draw(1, source).items()}
    with Drawing(source):
        y = torch.multinomial(values["pi"], batch.query_mask.shape[1], replacement=True)
        if batch.concentration is not None:
            balanced = (batch.concentration >= EQUAL).unsqueeze(1)
            y = torch.where(balanced, _equal_numbers(batch.query_mask, batch.way_mask), y)
        support, query = (
            prior.inputs(values, rows.mask, labels).sample()
            for rows, labels in ((batch.support, batch.support_y), (batch.query, y))
        )
    anchor = None if batch.anchor is None else model.predictor.features(batch.anchor)[..., :-1]
    tasks = replace(batch, support_x=support, query_x=query, query_y=y, anchor=anchor)
    return tasks, prior.weights(values)


def _equal_numbers(query_mask: Tensor, way_mask: Tensor) -> Tensor:
    """Return random labels of the queries, as many of every class, or one more of some, shape `(T, Q)`."""
    order = torch.rand(query_mask.shape, device=query_mask.device).masked_fill(~query_mask, 2.0).argsort(1).argsort(1)
    ways = way_mask.sum(1, keepdim=True)
    first = (torch.rand(ways.shape, device=ways.device) * ways).long()
    return (order + first) % ways


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

    A joint model draws the inputs itself (see `simulate_tasks`); `tasks` say how many rows and classes there are, and
    what is known of proportions. Its $q_0$ is exact given the support set, and is asked nothing about other inputs; its
    $q_K$ is tested with all inputs. A network that was trained on other tasks corrects what is right in these: train it
    in this world (`ebmeta.simulate.GaussianClasses`), or take it for a measure of what it adds.

    Test quantities: up to eight weights of the first output, the sum of all weights, the linear predictor of the first
    query (and, for classes, its difference between the first two), the log likelihood of the support labels, the mass
    of the region of highest density that just holds the truth, the label of the first query, and the surprise at all
    query labels. Of a joint model, class means take the place of weights, the proportion of the first class comes on
    top, and the likelihood is that of inputs.

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
            simulator or a posterior returns what does not fit; or the model is a general classifier.

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
    refuse_general(model, "simulation_based_calibration")
    step = (0 if simulator is None else -1) if step is None else step
    exact = copy.deepcopy(model).double().eval()
    inferring = on_features(exact) if exact.joint and simulator is None else exact
    parts: list[dict[str, Tensor]] = []
    kinds: dict[str, str] = {}
    for i, (batch, w) in enumerate(_draws(exact, tasks, simulator, num_tasks, seed)):
        with torch.no_grad():
            inferred = inferring.infer(batch, None if step < 0 else step)
            if posterior is not None:
                own = Iterate(_checked(posterior(batch), inferred.path[0]))
                inferred = replace(inferred, iterates=[own])
            rest = num_draws, stream(_key(seed, i) + 2**62)
            if exact.joint:
                of_queries = step != 0 or posterior is not None
                found = ClassQuantities(inferring, batch, w, inferred, of_queries, *rest).quantities()
            else:
                found = Quantities(exact, batch, w, inferred, *rest).quantities()
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
        sizes, before = [min(CHUNK, num_tasks - start) for start in range(0, num_tasks, CHUNK)], None
        for i, size in enumerate(sizes):
            drawn = simulator(size, seed * len(sizes) + i)
            if not isinstance(drawn, tuple) or len(drawn) != 2:
                raise ValueError(f"simulator: expected a TaskBatch and a tensor of weights, got {found(drawn)}")
            batch, w = check("simulator, tasks", drawn[0], TaskBatch), check("simulator, weights", drawn[1], Tensor)
            if before is not None and torch.equal(before[:size], w):
                raise ValueError("simulator: expected other tasks for another index, got the same ones")
            before = w
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
    q, wanted = check("posterior", q, Gaussian), tuple(own.loc.shape)
    if tuple(q.loc.shape) != wanted:
        raise ValueError(f"posterior: expected a Gaussian of shape {wanted}, got {tuple(q.loc.shape)}")
    if not bool(q.loc.isfinite().all() & q.precision.isfinite().all()):
        raise ValueError("posterior: expected finite numbers, got NaN or infinity")
    return q.with_(q.loc.to(own.loc), q.precision.to(own.loc))
