r"""Training by stochastic variational inference over batches of tasks.

$$ \min_{\psi, \lambda, \xi, \rho, \kappa, s} \frac{1}{\sum_t Q_t} \sum_t \mathcal L_t \quad \text{(nats per query)} $$

by Adam with a linear warm-up and a cosine decay. Iteration $n$ is a pure function of the parameters,
the seed and $n$: batch, draws and learning rate depend on nothing else, so a run that was killed
continues from its checkpoint to the same parameters, bit for bit on a CPU.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from tqdm import tqdm

from ebmeta.foundation.checks import above, at_least, checked, found, within
from ebmeta.foundation.guarding import undisturbed
from ebmeta.foundation.telling import tell
from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.tasks.held_out import check_classes
from ebmeta.tasks.source import TaskSampler, TaskSource, as_source
from ebmeta.training.batch_gradient import BatchGradient
from ebmeta.training.checkpoint import Checkpoint, RunSettings, TrainingState
from ebmeta.training.objective import Kind, Objective
from ebmeta.training.preparation import (
    check_columns,
    check_groups,
    check_labels,
    hardening,
    keep_marks,
    notes_on_classes,
    notes_on_groups,
    prepare,
    trains,
)
from ebmeta.training.rising import still_rising
from ebmeta.training.schedule import Schedule
from ebmeta.training.temperature import fit_task_temperature, unseen
from ebmeta.training.undoing import unchanged_after_error
from ebmeta.training.validation import Validation
from ebmeta.training.world import World, check_world, joined, own_device

__all__ = ["Callback", "FitResult", "fit", "resolve_device"]

#: Told of an iteration: its number, and what was measured, by name.
Callback = Callable[[int, Mapping[str, float]], None]


@checked(best_iteration=at_least(0), seconds=at_least(0))
@dataclass(frozen=True)
class FitResult:
    """The result of training.

    Args:
        model: the trained model: the one given, at its best validation where there was one.
        history: every term of the objective. Over `iteration` and refinement `step`: `nll` (nats per
            query), `kl` (nats per task); over `iteration`: `loss` (nats per query), `learning_rate`.
            With validation, the same terms over `validation_iteration` as `validation_nll`,
            `validation_kl` and `validation_loss`.
        best_iteration: iterations after which the returned parameters were reached.
        stopped_early: whether validation ended the run.
        seconds: wall time of this call.
        notes: what else there is to say of the result, each a warning too.
    """

    model: EmpiricalBayes = field(repr=False)
    history: xr.Dataset = field(repr=False)
    best_iteration: int
    stopped_early: bool
    seconds: float
    notes: tuple[str, ...] = ()


@checked()
def resolve_device(device: str | torch.device) -> torch.device:
    """Turn "auto" into a CUDA device where there is one and the CPU elsewhere.

    Raises:
        ValueError: if the device is unknown or not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device: expected 'auto', 'cpu' or 'cuda', got {found(device)}") from None
    if resolved.type not in ("cpu", "cuda"):
        raise ValueError(f"device: expected 'auto', 'cpu' or 'cuda', got {str(device)!r}")
    visible = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if resolved.type == "cuda" and (resolved.index or 0) >= visible:
        raise ValueError(f"device: expected one of {visible} visible CUDA devices, got {str(device)!r}")
    return resolved


@checked(
    num_iterations=at_least(1),
    batch_size=at_least(1),
    learning_rate=above(0),
    validate_every=at_least(1),
    validation_tasks=at_least(1),
    harder=within(0, 1e6),
    patience=at_least(1),
    checkpoint_every=at_least(1),
)
@undisturbed()
@torch.inference_mode(False)
@torch.enable_grad()
def fit(
    model: EmpiricalBayes,
    tasks: TaskSampler,
    num_iterations: int = 2000,
    batch_size: int = 16,
    *,
    validation: TaskSampler | None = None,
    objective: Kind | Objective = "predictive",
    learning_rate: float = 2e-3,
    seed: int = 0,
    device: str | torch.device = "auto",
    validate_every: int = 250,
    validation_tasks: int = 256,
    harder: float | Literal["auto"] = "auto",
    patience: int | None = 6,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 100,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
    distributed: Literal["auto"] | None = None,
) -> FitResult:
    """Train a model on a stream of tasks, in place.

    Every part is measured on the tasks first. Of a pretrained model (`EmpiricalBayes.classifier`) that is all.

    Args:
        model: the model; it comes back on the device where it was.
        tasks: source of training tasks; iteration n uses its batch number n. Every second task hides its class
            proportions and has random ones (`TaskSource.with_unknown_proportions`), so that the model learns to do
            with and without. So do tasks of validation.
        num_iterations: optimiser steps.
        batch_size: tasks per step, $T$.
        validation: source of validation tasks, of other classes or groups (shared ones are refused). With
            it, the parameters of the lowest validation loss are kept, and the run ends after `patience`
            validations without a lower one. The temperature of tasks is fitted to validation tasks too.
        objective: "predictive", "gibbs", "evidence", or an `Objective`. With "evidence" of groups, a warning says how
            far the end is from the maximum, where `fit_evidence` goes.
        learning_rate: Adam's peak learning rate; that of the refiner's few numbers (`Refiner.fast`) is at least 0.02.
        seed: seed of the objective's draws (the tasks have their sampler's own).
        device: "auto", "cpu", "cuda" or a `torch.device`.
        validate_every: iterations between validations.
        validation_tasks: tasks per validation, the same every time.
        harder: how much harder training tasks are made, see `EpisodeSampler.harder`; 0 leaves them as they are.
            "auto" measures it: 2.4 times the excess of the validation classes' `difficulty` over that
            of the training classes (0 without validation). For class features alone, not for the inputs
            of an embedder.
        patience: validations without improvement before stopping, or None to never stop early.
        checkpoint: file to which the whole state goes, and from which a run continues where it exists. It knows
            the tasks of its run, and is refused with others.
        checkpoint_every: iterations between checkpoints.
        callbacks: functions that are told of every iteration: its number, from 1 on, and the terms of the history by
            name, those after the last refinement step.
        progress: show a progress bar.
        distributed: "auto" trains on all processes that `torchrun` started. A batch is computed in four shares, and in
            more on more than four processes. So the parameters are the same, to the bit, for one to four processes
            with as many threads each, and up to rounding for more, and without. The first process writes the
            checkpoint, from which any number continues to the same parameters. None is this process alone, a batch
            at once, which is quicker.

    Returns:
        The trained model and the history of every term.

    Raises:
        ValueError: if an argument is out of range, the tasks do not fit the model, all labels of groups are the same,
            validation has the classes or groups of training, the checkpoint is of another run, or the loss stops
            being finite.
        OSError: if the checkpoint cannot be written.
        ChildProcessError: if another process of the run has ended.
    """
    started = time.perf_counter()
    drawn, other = as_source(tasks), None if validation is None else as_source(validation)
    with unchanged_after_error(model):
        for note in _look_at(model, drawn, other):
            tell(note)
        strength = hardening(model, drawn, other, harder)
        settings = RunSettings(
            num_iterations=num_iterations,
            batch_size=batch_size,
            validate_every=validate_every,
            validation_tasks=validation_tasks,
            objective=Objective(objective) if isinstance(objective, str) else objective,
            learning_rate=learning_rate,
            seed=seed,
            harder=strength,
            patience=patience,
        )
        source = (drawn.harder(strength) if strength else drawn).with_unknown_proportions()
        new = None if other is None else other.with_unknown_proportions()
        held_out, target = _held_out(settings, new), own_device(resolve_device(device), distributed)
        shown = partial(_bar, num_iterations, progress)
        with joined(distributed, target) as world, _training(model, target), shown(world) as bar:
            check_world(model, batch_size, world)
            state = TrainingState(model, Schedule(num_iterations, learning_rate).optimizer(model), held_out)
            file = None
            if checkpoint is not None:
                file = Checkpoint(Path(checkpoint), checkpoint_every, settings.identity(model, source, new))
            _start(state, file, drawn, batch_size, world, bar)
            _iterate(state, settings, source, file, bar, world=world, callbacks=callbacks)
            held_out.restore(model)
            sources = [source] if new is None else [source, new]
            if trains(model):
                fit_task_temperature(model, unseen(sources, num_iterations, batch_size), target)
            world.copy_first(model)
    model.eval()
    for note in (notes := tuple(still_rising(model, drawn, settings.objective))):
        tell(f"fit: {note}")
    best = held_out.best_iteration if held_out.best else state.iteration
    return FitResult(model, _history(state), best, held_out.stopped, time.perf_counter() - started, notes)


def _look_at(model: EmpiricalBayes, tasks: TaskSource, validation: TaskSource | None) -> list[str]:
    """Refuse tasks that a model cannot be trained on, let it remember the others, and return notes on them."""
    check_groups(model, tasks, validation)
    check_columns(model, tasks, validation)
    check_labels(model, tasks)
    notes = [f"fit: {note}" for note in (*notes_on_classes(model, tasks), *notes_on_groups(model, tasks))]
    notes += check_classes(tasks, validation)
    if model.measured and not trains(model):
        wanted = "fit: expected parameters to train, or a model that was not measured before"
        notes.append(f"{wanted}, got neither: its weights and its metric stay; a new model takes those of these tasks")
    keep_marks(model, [tasks] if validation is None else [tasks, validation])
    return notes


def _held_out(settings: RunSettings, tasks: TaskSource | None) -> Validation:
    """Return the validation of a run, which does nothing without tasks."""
    return Validation(
        tasks=tasks,
        objective=settings.objective,
        num_tasks=settings.validation_tasks,
        every=settings.validate_every,
        patience=settings.patience,
        seed=settings.seed,
    )


def _start(
    state: TrainingState, file: Checkpoint | None, tasks: TaskSource, batch_size: int, world: World, bar: tqdm
) -> None:
    """Continue the run of a file where it exists, or else measure the model; the same in all processes."""
    state.shares = world.shares(state.model, batch_size)
    model, resumed = state.model, world.first and file is not None and file.resume(state)
    if resumed and file is not None and not bar.disable:
        bar.write(f"fit: continuing after {state.iteration} iterations of {file.path}", file=sys.stderr)
    if world.of_first(resumed):
        state.copy_first(world)
    else:
        prepare(model, tasks, batch_size, next(model.parameters()).device)
    world.copy_first(model)


def _bar(num_iterations: int, progress: bool, world: World) -> tqdm:
    often = 0.1 if sys.stderr.isatty() else 10.0  # seconds; in a file each is a line
    return tqdm(total=num_iterations, desc="fit", unit="it", mininterval=often, disable=not (progress and world.first))


def _iterate(
    state: TrainingState,
    settings: RunSettings,
    tasks: TaskSource,
    checkpoint: Checkpoint | None,
    bar: tqdm,
    *,
    world: World,
    callbacks: Sequence[Callback],
) -> None:
    """Train to the last iteration, or to where validation ends the run; nothing where no parameter is trained."""
    model, held_out = state.model, state.validation
    schedule = Schedule(settings.num_iterations, settings.learning_rate)
    device = next(model.parameters()).device
    gradient = BatchGradient(settings.objective, model, settings.seed, world, state.shares)
    bar.update(state.iteration)
    if not trains(model):
        return
    while state.iteration < settings.num_iterations and not held_out.stopped:
        n = state.iteration
        row: dict[str, Any] = gradient.of(tasks.sample(settings.batch_size, n).to(device), n)
        row["learning_rate"] = schedule.step(model, state.optimizer, float(row["loss"]), n)
        state.record(row)
        state.iteration = n + 1
        last = state.iteration == settings.num_iterations
        if held_out.due(state.iteration, last):
            state.record(seen := held_out.look(model, state.iteration, world))
            row |= {name: value for name, value in seen.items() if name != "validation_iteration"}
        for callback in callbacks if world.first else ():
            callback(state.iteration, {name: float(np.ravel(value)[-1]) for name, value in row.items()})
        bar.update()
        if n % 20 == 0:
            bar.set_postfix(nll=f"{state.rows['nll'][-1][-1]:.3f}", refresh=False)
        if checkpoint is not None and world.first and checkpoint.due(state.iteration, last or held_out.stopped):
            checkpoint.save(state)


@contextmanager
def _training(model: EmpiricalBayes, device: torch.device) -> Iterator[None]:
    """Move a model to a device in training mode, and back in any case; after an error restore its modes too."""
    home, modes = next(model.parameters()).device, {module: module.training for module in model.modules()}
    try:
        model.to(device).train()
        yield
    except BaseException:
        for module, mode in modes.items():
            module.training = mode
        raise
    finally:
        model.to(home)


def _history(state: TrainingState) -> xr.Dataset:
    units = {"loss": "nats per query", "nll": "nats per query", "kl": "nats per task", "learning_rate": "1"}
    variables = {}
    for name, rows in state.rows.items():
        if name == "validation_iteration":
            continue
        time_dim = "validation_iteration" if name.startswith("validation_") else "iteration"
        values = np.stack(rows)
        dims = (time_dim, "step") if values.ndim == 2 else (time_dim,)
        variables[name] = (dims, values, {"units": units[name.removeprefix("validation_")]})
    data = xr.Dataset(variables)
    coords = {"iteration": np.arange(1, state.iteration + 1)}
    if "step" in data.dims:
        coords["step"] = np.arange(data.sizes["step"])
    if "validation_iteration" in data.dims:
        coords["validation_iteration"] = np.array(state.rows["validation_iteration"], dtype=int)
    return data.assign_coords(coords)
