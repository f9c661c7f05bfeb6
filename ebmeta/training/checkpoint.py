"""Checkpoints, which hold all that changes during training in one file.

The file is replaced whole, so a run that is killed while writing leaves the last complete state.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebmeta.foundation.fingerprint import fingerprint
from ebmeta.foundation.optimizers import Adam
from ebmeta.foundation.tensor_files import checksum, load_tensors, read_tensors, write_tensors
from ebmeta.foundation.writing import check_target, to_json
from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.model.settings import settings
from ebmeta.tasks.source import TaskSource
from ebmeta.training.objective import Objective
from ebmeta.training.validation import Validation
from ebmeta.training.world import World

__all__ = ["Checkpoint", "RunSettings", "TrainingState"]

COUNTERS = ("best_loss", "best_iteration", "stale", "stopped")  # of validation


#: What a run started from, as checksums, and its name in errors.
ORIGINS = {
    "parts": "this model (its arguments, kinds, settings and sizes of its parts, and which parameters are trained)",
    "tasks": "these tasks (data, settings and seed of their source)",
    "validation": "these validation tasks (data, settings and seed of their source, or none)",
    "embedder": "this embedder",
}


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """The arguments of a run that its parameters depend on, besides model and tasks; see `ebmeta.fit`.

    Args:
        num_iterations: optimiser steps.
        batch_size: tasks per step.
        validate_every: iterations between validations.
        validation_tasks: tasks per validation.
        objective: what is minimised.
        learning_rate: peak learning rate.
        seed: seed of the draws.
        harder: how much harder training tasks are made.
        patience: validations without improvement before stopping.
    """

    num_iterations: int
    batch_size: int
    validate_every: int
    validation_tasks: int
    objective: Objective
    learning_rate: float
    seed: int
    harder: float
    patience: int | None

    def identity(self, model: EmpiricalBayes, tasks: TaskSource, validation: TaskSource | None) -> dict[str, Any]:
        """Return the identity of a run, its settings and the checksums of what it starts from.

        A source of tasks is known by its own fingerprint, where it has one, and by its first batch. Of an embedder
        that is trained the weights are in the checkpoint; those of a frozen one are compared.

        Args:
            model: the model.
            tasks: source of training tasks.
            validation: source of validation tasks, or None.
        """
        settings = {each.name: getattr(self, each.name) for each in fields(self)}
        goal = self.objective
        embedder = model.predictor.embedder
        frozen = embedder is not None and not any(p.requires_grad for p in embedder.parameters())
        return settings | {
            "objective": [goal.kind, goal.num_draws, goal.anytime],
            "beta": model.beta,
            "parts": _parts(model),
            "tasks": _source(tasks, self.batch_size),
            "validation": None if validation is None else _source(validation, self.batch_size),
            "embedder": None
            if embedder is None
            else [type(embedder).__name__, checksum(embedder.state_dict()) if frozen else None],
        }


def _parts(model: EmpiricalBayes) -> str:
    """Return a checksum of the arguments and the structure of a model without its seed and the values of parameters."""
    recipe = {} if model.recipe is None else asdict(model.recipe)
    known = {k: m for k, m in model.named_modules() if k and not f"{k}.".startswith("predictor.embedder.")}
    modules = [[k, type(m).__name__, sorted(settings(m).items())] for k, m in known.items()]
    sizes = [[k, list(v.shape), str(v.dtype)] for k, v in model.state_dict().items()]
    trained = [k for k, p in model.named_parameters() if p.requires_grad]
    return fingerprint({k: v for k, v in recipe.items() if k != "seed"}, modules, sizes, trained)


def _source(tasks: TaskSource, batch_size: int) -> list[str | None]:
    first = tasks.sample(batch_size, 0)
    tensors = {f.name: v for f in fields(first) if isinstance(v := getattr(first, f.name), Tensor)}
    return [tasks.fingerprint(), checksum(tensors)]


@dataclass
class TrainingState:
    """All that changes during training, with its conversion to and from a file.

    Args:
        model: the model in training.
        optimizer: its optimiser.
        validation: the best parameters so far.
        shares: how many shares a batch has (`ebmeta.training.batch_gradient`).
        iteration: iterations done.
        rows: the history, a list of values per name.
    """

    model: EmpiricalBayes
    optimizer: Adam
    validation: Validation
    shares: int = 1
    iteration: int = 0
    rows: dict[str, list[NDArray[np.float64]]] = field(default_factory=dict)

    def copy_first(self, world: World) -> None:
        """Take over shares, iteration, optimiser, history and validation of the first process."""
        held = self.validation
        known = {name: getattr(held, name) for name in (*COUNTERS, "best")}
        state = world.of_first((self.optimizer.state_dict(), self.shares, self.iteration, self.rows, known))
        if not world.first:
            slopes, self.shares, self.iteration, self.rows, known = state
            self.optimizer.load_state_dict(slopes)
            for name, value in known.items():
                setattr(held, name, value)

    def record(self, values: Mapping[str, Any]) -> None:
        """Append values to the history."""
        for name, value in values.items():
            self.rows.setdefault(name, []).append(np.asarray(value, dtype=np.float64))


@dataclass(frozen=True)
class Checkpoint:
    """The file to which the state of a run goes, and from which the run continues.

    Args:
        path: the file.
        every: iterations between checkpoints.
        identity: what the run is recognised by.
    """

    path: Path
    every: int
    identity: dict[str, Any]

    def due(self, iteration: int, last: bool) -> bool:
        """Return whether to save after an iteration."""
        return last or iteration % self.every == 0

    def resume(self, state: TrainingState) -> bool:
        """Continue the run of the file where it exists, and return whether it does.

        A run in shares goes on in as many, whatever continues it.

        Raises:
            ValueError: if the file is truncated, or of another run or model.
            OSError: if it could not be written.
        """
        if not self.path.exists():
            check_target(self.path, "checkpoint")
            return False
        stored = read_tensors(self.path, "checkpoint")
        if stored.checksum is None or "shares" not in stored.header:
            raise ValueError(
                f"{self.path}: expected a checkpoint of this version, got one of an older ebmeta; start again"
            )
        self._recognise(stored.header["settings"])
        groups: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "adam": {}, "rows": {}}
        for name, tensor in stored.tensors.items():
            group, _, rest = name.partition(".")
            groups[group][rest] = tensor
        load_tensors(state.model, groups["model"], self.path)
        slots: dict[int, dict[str, Tensor]] = {}
        for name, tensor in groups["adam"].items():
            index, _, slot = name.partition(".")
            slots.setdefault(int(index), {})[slot] = tensor
        state.optimizer.load_state_dict({**state.optimizer.state_dict(), "state": slots})
        state.rows = {k: list(v.numpy()) for k, v in groups["rows"].items()}
        state.iteration = stored.header["iteration"]
        state.shares = stored.header["shares"] if stored.header["shares"] > 1 else state.shares
        for name in COUNTERS:
            setattr(state.validation, name, stored.header[name])
        lowest = stored.header["best_loss"]
        state.validation.best_loss = math.inf if lowest is None else lowest  # JSON has no infinity
        state.validation.best = groups["best"]
        return True

    def _recognise(self, theirs: dict[str, Any]) -> None:
        for name, mine in json.loads(to_json(self.identity)).items():
            if theirs.get(name) == mine:
                continue
            if name in ORIGINS:
                raise ValueError(
                    f"{self.path}: expected a checkpoint of a run with {ORIGINS[name]}, got one with others; continue "
                    "that run with its own model and data, or choose another file"
                )
            raise ValueError(
                f"{self.path}: expected a checkpoint of a run with {name}={mine}, got {theirs.get(name)}; "
                "continue that run with its own arguments, or choose another file"
            )

    def save(self, state: TrainingState) -> None:
        """Write everything to the file.

        Raises:
            OSError: if it cannot be written.
        """
        best = state.validation
        tensors = {f"model.{k}": v for k, v in state.model.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in best.best.items()}
        for i, slots in state.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{i}.{k}": v for k, v in slots.items()}
        tensors |= {f"rows.{k}": torch.from_numpy(np.stack(v)) for k, v in state.rows.items()}
        header = {"settings": self.identity, "iteration": state.iteration, "shares": state.shares}
        header |= {k: getattr(best, k) for k in COUNTERS}
        header["best_loss"] = None if math.isinf(best.best_loss) else best.best_loss
        write_tensors(self.path, tensors, header, "checkpoint")
