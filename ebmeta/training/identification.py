"""What grouped data cannot identify, found before a fit and with advice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import linalg

from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.doubts import BEYOND, far_rows

__all__ = ["alike_within_groups", "refuse_extreme", "refuse_extreme_labels", "weak_points"]

ALIKE = 1e-3  # standard deviation within groups, of that overall, below which a feature counts as one of the group
COLLINEAR = 1e-8  # of a standard deviation: what others leave of a feature that they determine
FEW = 2  # groups


class _Rows:
    """All labelled rows of some batches, groups numbered."""

    def __init__(self, parts: Sequence[TaskBatch]) -> None:
        x: list[NDArray[np.float64]] = []
        y, size, group, start = list(x), list(x), list(x), 0
        for part in parts:
            rows = part.to("cpu").labelled()
            x.append(rows.x.double().numpy())
            y.append(rows.y.double().numpy())
            size.append(rows.size.double().numpy())
            group.append(start + rows.task.numpy())
            start += len(part)
        self.x, self.y, self.size, self.group = (np.concatenate(v) for v in (x, y, size, group))


def refuse_extreme_labels(model: EmpiricalBayes, parts: Sequence[TaskBatch]) -> None:
    """Raise `ValueError` where the likelihood of labels has no maximum; see `Likelihood.extreme`."""
    rows = _Rows(parts)
    refuse_extreme(model, rows.y, rows.size)


def refuse_extreme(model: EmpiricalBayes, y: NDArray[np.float64], size: NDArray[np.float64]) -> None:
    """As `refuse_extreme_labels`, of labels and sizes as arrays, shape `(N,)`."""
    if model.likelihood.extreme(y, size):
        got = f"{y[0]:g}" if bool((y == y[0]).all()) else "as many successes as trials"
        raise ValueError(
            f"y: expected labels that differ, got {got} in all {len(y)} rows, for which no "
            f"{model.likelihood.name} likelihood is the best"
        )


def weak_points(model: EmpiricalBayes, parts: Sequence[TaskBatch]) -> list[str]:
    """Return notes on what labelled groups cannot identify.

    Args:
        model: a model for numbers.
        parts: the groups.

    Examples:
        >>> import torch
        >>> x = torch.tensor([[[0.0, 1.0], [2.0, 1.0]], [[3.0, 4.0], [1.0, 4.0]], [[0.0, 6.0], [1.0, 6.0]]])
        >>> batch = TaskBatch(x[:, :0], x[:, :0, 0], x, x[..., 0])
        >>> for note in weak_points(EmpiricalBayes.regressor(2), [batch]):
        ...     print(note)
        feature 1 never varies within a group, so that its weight and the intercept of a group cannot be told apart: \
give it as a covariate of groups (group_X or group_features, and num_covariates)
    """
    rows = _Rows(parts)
    count = np.bincount(rows.group)
    count = count[count > 0]
    notes = []
    if len(count) <= FEW:
        notes.append(
            f"{len(count)} group{'s' if len(count) > 1 else ''}: next to nothing is known of how groups differ"
        )
    if count.max() == 1 and model.likelihood.alone(rows.size):
        notes.append("no group has a second row, so that noise and the spread of the intercept cannot be told apart")
    names, x = _varying(model, rows)
    alike = _of_groups(rows, *_varying(model, rows, random=True))
    return [*notes, *_of_one_kind(model, rows), *_far_labels(model, rows), *alike, *_determined(rows, names, x)]


def alike_within_groups(model: EmpiricalBayes, parts: Sequence[TaskBatch]) -> list[str]:
    """Return notes on labels or features that never vary within a group, and on labels far beyond all others.

    Arguments as of `weak_points`.
    """
    rows = _Rows(parts)
    return [
        *_of_one_kind(model, rows),
        *_far_labels(model, rows),
        *_of_groups(rows, *_varying(model, rows, random=True)),
    ]


def _varying(model: EmpiricalBayes, rows: _Rows, random: bool = False) -> tuple[list[str], NDArray[np.float64]]:
    """Return names and values, centred and scaled, of the features that vary, where weights are of features.

    With `random` of those alone whose weights vary over groups.
    """
    if not model.predictor.by_column or not rows.x.shape[1]:
        return [], np.empty((len(rows.y), 0))
    names = [repr(n) for n in model.feature_names or []] or [f"feature {p}" for p in range(rows.x.shape[1])]
    x = rows.x - rows.x.mean(0)
    scale = np.abs(x).max(0)
    varies = np.flatnonzero(scale > 64 * np.finfo(float).eps * np.abs(rows.x).max(0))
    if random:
        varies = np.intersect1d(varies, model.prior.varying)
    return [names[p] for p in varies], x[:, varies] / scale[varies]


def _of_one_kind(model: EmpiricalBayes, rows: _Rows) -> list[str]:
    """Return a note where the labels of every group have no best intercept, such as all 0 or all 1."""
    likelihood = model.likelihood
    if not likelihood.discrete or (np.bincount(rows.group).max() == 1 and likelihood.alone(rows.size)):
        return []
    order = np.argsort(rows.group, kind="stable")
    starts = np.flatnonzero(np.diff(rows.group[order], prepend=-1))
    y, size = rows.y[order], rows.size[order]
    ends = [*starts[1:], len(order)]
    if not all(likelihood.extreme(y[i:j], size[i:j]) for i, j in zip(starts, ends, strict=True)):
        return []
    return [
        f"labels never vary within a group ({len(starts)} groups, each of the least or of the greatest alone), so that "
        "the spread of the intercept runs off: give more rows of a group, or the spreads a hyperprior"
    ]


def _far_labels(model: EmpiricalBayes, rows: _Rows) -> list[str]:
    """Return a note where a few labels lie far beyond all others, which normal noise takes at their word."""
    if not model.likelihood.conjugate:  # normal noise
        return []
    far = far_rows(model.likelihood.transformed(torch.from_numpy(rows.y)).numpy()[:, None])
    if not len(far):
        return []
    more = f" (and {len(far) - 1} more)" if len(far) > 1 else ""
    return [
        f"a label of {rows.y[far[0]]:.3g}{more} lies more than {BEYOND:.0f} times as far out as the others, and a "
        "normal likelihood follows it: leave it out where it is a mistake, or take likelihood='student_t'"
    ]


def _of_groups(rows: _Rows, names: list[str], x: NDArray[np.float64]) -> list[str]:
    count = np.bincount(rows.group)
    if count.max() == 1 or not names:
        return []
    mean = np.stack([np.bincount(rows.group, column) for column in x.T], 1) / count.clip(1)[:, None]
    within, total = np.square(x - mean[rows.group]).sum(0), np.square(x).sum(0)
    fixed = [name for name, w, t in zip(names, within, total, strict=True) if w < ALIKE**2 * t]
    if not fixed:
        return []
    one = len(fixed) == 1
    return [
        f"{_listed(fixed)} never {'varies' if one else 'vary'} within a group, so that "
        f"{'its weight' if one else 'their weights'} and the intercept of a group cannot be told apart: give "
        f"{'it as a covariate' if one else 'them as covariates'} of groups (group_X or group_features, and "
        "num_covariates)"
    ]


def _determined(rows: _Rows, names: list[str], x: NDArray[np.float64]) -> list[str]:
    if len(rows.y) <= len(names):
        return [f"{len(rows.y)} rows for {len(names) + 1} weights: their means cannot be told apart"]
    if len(names) < 2:
        return []
    factor, order = linalg.qr(x, mode="r", pivoting=True)
    size = np.abs(np.diag(factor))
    rank = int((size > COLLINEAR * size[0]).sum())
    of_others = linalg.solve_triangular(factor[:rank, :rank], factor[:rank, rank:])
    notes = []
    for k, column in enumerate(order[rank:]):
        others = [names[order[i]] for i in range(rank) if abs(of_others[i, k]) > COLLINEAR]
        notes.append(
            f"{names[column]} is determined by {_listed(others)}, so that their weights cannot be told apart: "
            "leave one out"
        )
    return notes


def _listed(names: list[str]) -> str:
    """Return names in a list, the first few of many."""
    shown, rest = names[:5], len(names) - 5
    return ", ".join(shown) + (f" and {rest} more" if rest > 0 else "")
