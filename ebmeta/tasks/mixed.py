"""Batches of several kinds of tasks in turn, for one model of them all."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import torch

from ebmeta.foundation.checks import at_least, checked, within
from ebmeta.foundation.fingerprint import fingerprint
from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.classes import ClassRows
from ebmeta.tasks.columns import check_names
from ebmeta.tasks.episodes import EpisodeSampler
from ebmeta.tasks.source import TaskSource

__all__ = ["MixedSampler"]


@checked()
class MixedSampler(TaskSource):
    """Draw batches from several episode samplers in turn: batch n comes from sampler n modulo their number.

    For one model of many kinds of task: few and many shots, balanced and not, few and many classes. Classes have the
    numbers of the first sampler (`TaskBatch.way_class`), and none where a sampler draws from other rows.

    Args:
        samplers: the samplers.

    Raises:
        ValueError: if there is none.

    Examples:
        >>> import numpy as np
        >>> X, y = np.arange(60.0).reshape(30, 2), np.repeat(["a", "b", "c"], 10)
        >>> tasks = MixedSampler([EpisodeSampler(X, y, 2, shots, 3) for shots in (1, 5)])
        >>> [tasks.sample(1, index).support_y.shape[1] for index in range(3)]
        [2, 10, 2]
    """

    def __init__(self, samplers: Sequence[EpisodeSampler]) -> None:
        self.samplers = tuple(samplers)
        if not self.samplers:
            raise ValueError("samplers: expected at least one, got none")
        self.feature_names = self.samplers[0].feature_names
        for sampler in self.samplers[1:]:
            check_names(self.feature_names, sampler.feature_names, "for the first sampler")

    @cached_property
    def class_rows(self) -> Sequence[ClassRows]:
        every = [rows for sampler in self.samplers for rows in sampler.class_rows]
        return [rows for i, rows in enumerate(every) if not any(rows.numbered_as(other) for other in every[:i])]

    @cached_property
    def _numbered(self) -> Sequence[bool]:
        """Whether the classes of each sampler have the numbers of the first one's."""
        return [s.class_rows[0].numbered_as(self.class_rows[0]) for s in self.samplers]

    @property
    def difficulty(self) -> float:
        """Of the first sampler; see `EpisodeSampler.difficulty`."""
        return self.samplers[0].difficulty

    @checked(most=at_least(1))
    def rows(self, most: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the first sampler; see `EpisodeSampler.rows`."""
        return self.samplers[0].rows(most)

    def fingerprint(self) -> str:
        """Of all samplers, in order; see `EpisodeSampler.fingerprint`."""
        return fingerprint(*(sampler.fingerprint() for sampler in self.samplers))

    @checked(strength=within(0, 1e6))
    def harder(self, strength: float = 1.0) -> MixedSampler:
        """Return the same mixture, made harder; see `EpisodeSampler.harder`."""
        return self._of([sampler.harder(strength) for sampler in self.samplers])

    def with_unknown_proportions(self) -> MixedSampler:
        """Return the same mixture with random class proportions; see `EpisodeSampler.with_unknown_proportions`."""
        return self._of([sampler.with_unknown_proportions() for sampler in self.samplers])

    def with_random_sizes(self) -> MixedSampler:
        """Return the same mixture with tasks of other sizes; see `EpisodeSampler.with_random_sizes`."""
        return self._of([sampler.with_random_sizes() for sampler in self.samplers])

    def _of(self, samplers: Sequence[EpisodeSampler]) -> MixedSampler:
        """Return this mixture of other samplers; a subclass stays what it is."""
        other = copy.copy(self)
        other.samplers = tuple(samplers)
        return other

    @checked(num_tasks=at_least(1))
    def sample(self, num_tasks: int, index: int = 0) -> TaskBatch:
        """Draw batch number `index`; arguments and errors as for `EpisodeSampler.sample`."""
        which = index % len(self.samplers)
        batch = self.samplers[which].sample(num_tasks, index)
        return batch if self._numbered[which] else replace(batch, way_class=None)
