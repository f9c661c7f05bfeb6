"""Groups in chunks of some thousands, each of which any process can predict by itself."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ebmeta.estimators.regressor import FewShotRegressor
from ebmeta.estimators.rows import check_groups
from ebmeta.foundation.buckets import by_group
from ebmeta.foundation.threads import one_thread
from ebmeta.scoring.batches import opened

__all__ = ["GROUPS", "Chunk", "answer", "chunks"]

GROUPS = 2000  # of a chunk: seconds of work, megabytes of rows
NONE, NEAR = "groups: none of the", "groups: .* as new, and differs"  # warnings of `check_groups`


@dataclass(frozen=True, eq=False)
class Chunk:
    """Some groups to predict, with all that a process needs but the model.

    Args:
        folder: of the model.
        reg: an estimator without a model, which knows the labelled rows of these groups.
        x: rows to predict, shape `(Q, ...)`.
        groups: group of each row, or None for one group.
        size: size of each row, shape `(Q,)`, or None.
        levels: of the quantiles, or None.
        at: which rows these are of all, shape `(Q,)`.
    """

    folder: Path
    reg: FewShotRegressor
    x: NDArray[Any]
    groups: list[Any] | None
    size: NDArray[Any] | None
    levels: list[float] | None
    at: NDArray[np.int64]


def answer(chunk: Chunk) -> NDArray[np.float64]:
    """Return mean, standard deviation, quantiles and probabilities of ordered categories, shape `(2 + L + C, Q)`.

    One thread computes them, so that they are the same to the bit in every process.
    """
    reg = copy.copy(chunk.reg)
    reg.model = opened(chunk.folder)[0]
    with one_thread(), warnings.catch_warnings():
        for known in NONE, NEAR:  # a chunk may have no labelled group, and what is near was told of all
            warnings.filterwarnings("ignore", known, UserWarning)
        ordered = reg.model_.likelihood.num_labels is not None
        return reg.summaries(chunk.x, chunk.levels, groups=chunk.groups, size=chunk.size, probs=ordered)


def chunks(
    folder: Path,
    reg: FewShotRegressor,
    x: NDArray[Any],
    groups: list[Any] | None,
    size: NDArray[Any] | None = None,
    levels: list[float] | None = None,
) -> Iterator[Chunk]:
    """Divide rows by whole groups, in the order in which the rows name them; warn of names near those of labelled rows.

    Args:
        folder: of the model.
        reg: an estimator that knows the labelled rows.
        x: rows to predict, shape `(Q, ...)`.
        groups: group of each row, or None for one group.
        size: size of each row, shape `(Q,)`, or None.
        levels: of the quantiles, or None.
    """
    if groups is None:
        alone = copy.copy(reg)
        alone.model = None
        yield Chunk(folder, alone, x, None, size, levels, np.arange(len(x)))
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", NONE, UserWarning)  # that is for the caller to say
        check_groups(groups, reg.groups_, len(reg.support_y_))
    number = {name: n // GROUPS for n, name in enumerate(dict.fromkeys(groups))}
    keys = list(range(1 + max(number.values(), default=-1)))
    asked = by_group([number[g] for g in groups], keys, len(x))
    known = reg.groups_ or []
    owned = by_group([number.get(g, -1) for g in known], keys, len(known))
    for rows, own in zip(asked, owned, strict=True):
        at = rows.numpy()
        names = [groups[row] for row in at]
        part = _of(reg, own.numpy(), set(names))
        yield Chunk(folder, part, x[at], names, None if size is None else size[at], levels, at)


def _of(reg: FewShotRegressor, rows: NDArray[np.int64], names: set[Any]) -> FewShotRegressor:
    """Return an estimator without a model that knows some of the labelled rows alone."""
    part = copy.copy(reg)
    part.model = None
    part.support_X_, part.support_y_ = reg.support_X_[rows], reg.support_y_[rows]
    part.size_ = None if reg.size_ is None else reg.size_[rows]
    part.groups_ = None if reg.groups_ is None else [reg.groups_[row] for row in rows]
    if isinstance(reg.group_x_, Mapping):
        part.group_x_ = {name: value for name, value in reg.group_x_.items() if name in names}
    return part
