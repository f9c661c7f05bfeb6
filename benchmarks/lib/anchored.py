"""Joint models for tasks whose classes have an anchor each and not one labelled row, trained once and kept."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import ebmeta
from ebmeta.tasks.drawing import generator
from ebmeta.tasks.proportions import hidden, random_counts
from ebmeta.tasks.source import TaskSource
from lib.common import ROOT

Floats = NDArray[np.float32]
Centring = Callable[[Floats, Floats], tuple[Floats, Floats]]
BATCH = 8


def as_they_are(anchors: Floats, rows: Floats) -> tuple[Floats, Floats]:
    """Return anchors and rows as they are."""
    return anchors, rows


@dataclass(frozen=True, eq=False)
class Anchored:
    """Rows of some classes, and an anchor of each: `X` of shape `(N, D)`, the class of each row, anchors `(C, D)`."""

    X: Floats
    y: np.ndarray
    anchors: Floats


class AnchoredTasks(TaskSource):
    """Tasks of anchors and queries; every second one has random shares, the others equal ones, and none tells them.

    Args:
        sets: each task is of one of them.
        ways: least and most classes of a task, as far as there are so many.
        queries: least and most queries of a task, where its classes have as many.
        size: rows that an anchor counts for.
        seed: of the tasks.
        centring: what is done to the anchors and queries of a task.
    """

    def __init__(
        self,
        sets: Sequence[Anchored],
        ways: tuple[int, int],
        queries: tuple[int, int],
        size: float,
        seed: int,
        centring: Centring = as_they_are,
    ) -> None:
        self.sets, self.queries, self.size, self.seed, self.centring = sets, queries, size, seed, centring
        self.ways = tuple(min(number, len(sets[0].anchors)) for number in ways)
        self._members = [[np.flatnonzero(s.y == c) for c in range(len(s.anchors))] for s in sets]

    def with_unknown_proportions(self) -> AnchoredTasks:
        """Return the tasks as they are: their proportions are unknown."""
        return self

    def sample(self, num_tasks: int, index: int = 0) -> ebmeta.TaskBatch:
        """Draw batch number `index`."""
        rng = generator(self.seed, index)
        total = int(rng.integers(self.queries[0], self.queries[1] + 1))
        anchors, rows, labels = [], [], []
        for unequal in hidden(num_tasks, index):
            which, ways = int(rng.integers(len(self.sets))), int(rng.integers(self.ways[0], self.ways[1] + 1))
            source, classes = self.sets[which], rng.choice(len(self.sets[which].anchors), ways, replace=False)
            members = [self._members[which][c] for c in classes]
            room = np.array([len(m) for m in members])
            equal = np.minimum(round(total / ways), room)
            counts = random_counts(total, room, rng) if unequal else equal
            picked = np.concatenate([rng.choice(m, n, replace=False) for m, n in zip(members, counts, strict=True)])
            stands, asked = self.centring(source.anchors[classes], source.X[picked])
            anchors.append(torch.from_numpy(stands))
            rows.append(torch.from_numpy(asked))
            labels.append(torch.from_numpy(np.repeat(np.arange(ways), counts)))
        none, ways = torch.zeros(0, rows[0].shape[1]), [len(stands) for stands in anchors]
        batch = ebmeta.TaskBatch.from_tasks(
            [none] * num_tasks, [torch.zeros(0, dtype=torch.long)] * num_tasks, rows, labels, ways
        )
        anchor = torch.nn.utils.rnn.pad_sequence(anchors, batch_first=True)
        size = torch.full(batch.way_mask.shape, self.size)
        return replace(batch, anchor=anchor, anchor_size=size, concentration=torch.full((num_tasks,), math.nan))


def trained(
    name: str, tasks: AnchoredTasks, iterations: int, validation: AnchoredTasks | None = None
) -> ebmeta.EmpiricalBayes:
    """Train a joint model, or load it from the folder `EBMETA_CACHE` (by default `cache`, here) where it is there."""
    folder = Path(os.environ.get("EBMETA_CACHE", ROOT / "cache")) / f"anchored_{name}_{iterations}"
    if not (folder / "config.json").is_file():
        model = ebmeta.EmpiricalBayes.classifier(tasks.sets[0].X.shape[1], synthetic_gradient="joint")
        ebmeta.fit(model, tasks, iterations, BATCH, validation=validation, progress=False)
        ebmeta.save(model, folder)
    return ebmeta.load(folder)
