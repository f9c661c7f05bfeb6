"""Checkpoints: all that changes during training, to and from one file.

The file is replaced whole, so a run that is killed while writing leaves the last complete state.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ebmeta.foundation.tensor_files import checksum, load_tensors, read_tensors, write_tensors
from ebmeta.foundation.writing import to_json
from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.tasks.episodes import RowSampler, TaskSampler

__all__ = ["TrainingState", "origins"]

COUNTERS = ("iteration", "best_loss", "best_iteration", "stale", "stopped")


#: What a run started from, as checksums, and how an error calls it.
ORIGINS = {
    "tasks": "these tasks (data, settings and seed of their source)",
    "validation": "these validation tasks (data, settings and seed of their source, or none)",
    "embedder": "this embedder",
}


def origins(
    model: EmpiricalBayes, tasks: TaskSampler, validation: TaskSampler | None, batch_size: int
) -> dict[str, Any]:
    """Return checksums of all that a run starts from besides its settings.

    A source of tasks is known by its own fingerprint, where it has one, and by its first batch. Of an embedder that
    is trained the weights are in the checkpoint; those of a frozen one are compared.

    Args:
        model: the model.
        tasks: source of training tasks.
        validation: source of validation tasks, or None.
        batch_size: tasks per step.
    """
    embedder = model.predictor.embedder
    frozen = embedder is not None and not any(p.requires_grad for p in embedder.parameters())
    return {
        "tasks": _source(tasks, batch_size),
        "validation": None if validation is None else _source(validation, batch_size),
        "embedder": None
        if embedder is None
        else [type(embedder).__name__, checksum(embedder.state_dict()) if frozen else None],
    }


def _source(tasks: TaskSampler, batch_size: int) -> list[str | None]:
    first = tasks.sample(batch_size, 0)
    tensors = {f.name: v for f in fields(first) if isinstance(v := getattr(first, f.name), Tensor)}
    return [tasks.fingerprint() if isinstance(tasks, RowSampler) else None, checksum(tensors)]


@dataclass
class TrainingState:
    """All that changes during training, and its way to and from a file.

    Args:
        model: the model in training.
        optimizer: its optimiser.
        settings: arguments of the run, by which a checkpoint is recognised.
        iteration: iterations done.
        best_loss: lowest validation loss so far.
        best_iteration: iterations after which it was reached.
        stale: validations since then.
        stopped: whether validation has ended the run.
        best: the parameters of the lowest validation loss.
        rows: the history, a list of values per name.
    """

    model: EmpiricalBayes
    optimizer: torch.optim.Adam
    settings: dict[str, Any]
    iteration: int = 0
    best_loss: float = math.inf
    best_iteration: int = 0
    stale: int = 0
    stopped: bool = False
    best: dict[str, Tensor] = field(default_factory=dict)
    rows: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def record(self, **values: Any) -> None:
        """Append values to the history."""
        for name, value in values.items():
            self.rows.setdefault(name, []).append(np.asarray(value, dtype=np.float64))

    def save(self, path: Path) -> None:
        """Write everything to a file.

        Raises:
            OSError: if the file cannot be written.
        """
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in self.best.items()}
        for i, slots in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{i}.{k}": v for k, v in slots.items()}
        tensors |= {f"rows.{k}": torch.from_numpy(np.stack(v)) for k, v in self.rows.items()}
        header = {"settings": self.settings, **{k: getattr(self, k) for k in COUNTERS}}
        header["best_loss"] = None if math.isinf(self.best_loss) else self.best_loss  # JSON has no infinity
        write_tensors(path, tensors, header, "checkpoint")

    def load(self, path: Path) -> None:
        """Take everything from a file.

        Raises:
            ValueError: if it is truncated, or of another run or model.
        """
        stored = read_tensors(path, "checkpoint")
        if stored.checksum is None:
            raise ValueError(f"{path}: expected a checkpoint with a checksum, got one of an older ebmeta; start again")
        tensors, header = stored.tensors, stored.header
        theirs = header["settings"]
        for name, mine in json.loads(to_json(self.settings)).items():
            if theirs.get(name) != mine:
                if name in ORIGINS:
                    raise ValueError(
                        f"{path}: expected a checkpoint of a run with {ORIGINS[name]}, got one with others; continue "
                        "that run with its own data, or choose another file"
                    )
                raise ValueError(
                    f"{path}: expected a checkpoint of a run with {name}={mine}, got {theirs.get(name)}; "
                    "continue that run with its own arguments, or choose another file"
                )
        groups: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "adam": {}, "rows": {}}
        for name, tensor in tensors.items():
            group, _, rest = name.partition(".")
            groups[group][rest] = tensor
        load_tensors(self.model, groups["model"], path)
        slots: dict[int, dict[str, Tensor]] = {}
        for name, tensor in groups["adam"].items():
            index, _, slot = name.partition(".")
            slots.setdefault(int(index), {})[slot] = tensor
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": slots})
        self.best = groups["best"]
        self.rows = {k: list(v.numpy()) for k, v in groups["rows"].items()}
        for name in COUNTERS:
            setattr(self, name, header[name])
        self.best_loss = math.inf if self.best_loss is None else self.best_loss
