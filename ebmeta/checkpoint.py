"""Checkpoints: all that changes during training, to and from one file.

The file is replaced whole, so a run that is killed while writing leaves the last complete state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ebmeta.model import EmpiricalBayes
from ebmeta.tensor_files import load_tensors, read_tensors, write_tensors

__all__ = ["TrainingState"]

COUNTERS = ("iteration", "best_loss", "best_iteration", "stale", "stopped")


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
        tensors, header = stored.tensors, stored.header
        theirs = header.get("settings", {})
        for name, mine in self.settings.items():
            if theirs.get(name) != mine:
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
