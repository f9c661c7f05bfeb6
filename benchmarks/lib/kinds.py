"""Kinds of task on CIFAR-FS features, and the tasks of each that every method is given."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import ebmeta
from lib.common import cifar_fs

CHUNK = 64  # tasks of a batch
RECIPE = 9  # raised when training changes, so that no result of another recipe is taken for one of this
VALIDATION_WAYS = 16  # classes of the validation split


@dataclass(frozen=True)
class Kind:
    """A kind of task: a column of the tables."""

    n_way: int
    n_shot: int
    imbalance: float | None = None
    n_query: int = 15

    @property
    def name(self) -> str:
        """Key in the JSON file."""
        proportions = "balanced" if self.imbalance is None else f"dirichlet{self.imbalance:g}"
        single = "" if self.n_query == 15 else f"_{self.n_query}query"
        return f"{self.n_way}way_{self.n_shot}shot_{proportions}{single}"

    def sampler(self, split: str, seed: int) -> ebmeta.EpisodeSampler:
        """Return a source of such tasks; with imbalance, `n_query` per class on average.

        There are 16 validation classes, so that what is chosen for 20 ways is chosen on 16.
        """
        ways = min(self.n_way, VALIDATION_WAYS) if split == "val" else self.n_way
        queries = self.n_query if self.imbalance is None else self.n_query * ways
        episode = {"n_way": ways, "n_shot": self.n_shot, "n_query": queries, "imbalance": self.imbalance}
        return cifar_fs(split, seed=seed, **episode)


FIVE = [Kind(5, shots, imbalance) for shots in (1, 5) for imbalance in (None, 2.0)]
FEW = [Kind(5, shots, None, 1) for shots in (1, 5)]
MANY = [Kind(ways, shots) for ways in (10, 20) for shots in (1, 5)]
DEFAULT = [*FIVE, Kind(5, 1, None, 1), Kind(5, 5, 2.0, 2)]
WAYS = [Kind(ways, shots, None, queries) for ways, queries in ((5, 15), (10, 10), (20, 5)) for shots in (1, 5)]


def mixture(kinds: list[Kind], split: str, seed: int) -> ebmeta.MixedSampler:
    """Return a mixture of kinds of task."""
    return ebmeta.MixedSampler([kind.sampler(split, seed) for kind in kinds])


def draw(kind: Kind, split: str, num_tasks: int, seed: int) -> list[ebmeta.TaskBatch]:
    """Return the tasks that every method is given."""
    sampler = kind.sampler(split, seed)
    return [sampler.sample(min(CHUNK, num_tasks - s), i) for i, s in enumerate(range(0, num_tasks, CHUNK))]


def labels(batches: list[ebmeta.TaskBatch]) -> Tensor:
    """Return the true classes of the queries, shape `(T, Q)`."""
    return torch.cat([batch.query_y for batch in batches])


def class_numbers(batches: list[ebmeta.TaskBatch]) -> Tensor:
    """Return the numbers of the classes of each task, shape `(T, C)`."""
    return torch.cat([batch.way_class for batch in batches])
