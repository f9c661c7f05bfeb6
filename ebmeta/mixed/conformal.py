"""Conformal intervals of rows of new groups, calibrated by fits that leave out folds of the known groups."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from ebmeta.mixed.as_model import as_model, features_of
from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.prediction.conformal_intervals import ConformalIntervals
from ebmeta.random_effects.covariance import Factor
from ebmeta.random_effects.engine import Engine
from ebmeta.random_effects.rows import Rows
from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.groups import GroupSampler

__all__ = ["group_intervals"]

Array = NDArray[np.float64]
FOLDS = 10  # of the known groups, each with a fit of its own
SPLITS = 5  # of each left-out group into labelled and other rows


def group_intervals(engine: Engine, name: str, common: list[str], rows: Rows, coverage: float) -> tuple[Array, Array]:
    """Return both ends of the interval of a new label for each row of new groups, shape `(N,)`.

    A group with so many labelled rows is compared with known groups that keep as many labels.

    Args:
        engine: the criterion of the known groups, of one grouping factor.
        name: of the likelihood.
        common: names of the common terms.
        rows: rows whose new groups are numbered after the known ones.
        coverage: probability that a label of a new group is in its interval.

    Raises:
        ValueError: if a row is of a known group, or the model has offsets or weights.
    """
    known, codes = len(engine.rows.groupings[0].labels), rows.groupings[0].codes
    if (codes < known).any():
        label = rows.groupings[0].labels[codes[np.argmax(codes < known)]]
        raise ValueError(f"conformal: expected rows of new groups alone, got one of the known group {label!r}")
    if any(part.offset.any() or part.weights is not None for part in (engine.rows, rows)):
        raise ValueError("conformal: expected a model without offset and weights, got one with some")
    folds = list(_folds(engine, name, common))
    lower, upper = np.full(len(rows), -np.inf), np.full(len(rows), np.inf)
    told = np.bincount(codes[np.isfinite(rows.y)], minlength=codes.max() + 1)
    x = features_of(rows, common, engine.factors[0])
    for count in np.unique(told[codes]):
        parts = [(model, source) for model, part in folds if (source := _source(part, int(count))) is not None]
        if not parts:
            continue
        intervals = ConformalIntervals([model for model, _ in parts], coverage)
        intervals.calibrate([source for _, source in parts], num_splits=SPLITS)
        own = [np.flatnonzero(codes == code) for code in np.unique(codes) if told[code] == count]
        found = intervals.predict(_batch(rows, x, own))
        for t, place in enumerate(own):
            lower[place] = found["lower"].values[t, : len(place)]
            upper[place] = found["upper"].values[t, : len(place)]
    return lower, upper


def _folds(engine: Engine, name: str, common: list[str]) -> Iterator[tuple[EmpiricalBayes, tuple[Array, Rows]]]:
    """Yield, fold by fold, the model of the other groups, and the features and rows of the groups of the fold."""
    rows, factor = engine.rows, engine.factors[0]
    number, x = len(rows.groupings[0].labels), features_of(rows, common, factor)
    fold = np.random.default_rng(0).permutation(number) % min(FOLDS, number)
    for k in range(fold.max() + 1):
        out = fold[rows.groupings[0].codes] == k
        kept = rows.take(~out)
        labels, codes = np.unique(kept.groupings[0].codes, return_inverse=True)
        kept = kept.regrouped(0, codes, rows.groupings[0].labels[labels])
        part = engine.rebuild(kept, [Factor(factor.name, factor.terms, factor.blocks, kept.groupings[0].z)])
        yield as_model(part, part.maximise().at, name, common), (x[out], rows.take(out))


def _source(part: tuple[Array, Rows], labelled: int) -> GroupSampler | None:
    """Return the groups of a fold that have more rows than so many labelled ones; None where there are none."""
    x, rows = part
    codes = rows.groupings[0].codes
    large = np.bincount(codes)[codes] > labelled
    if not large.any():
        return None
    size = None if rows.size is None else rows.size[large]
    return GroupSampler(x[large], rows.y[large], codes[large], n_support=labelled, size=size)


def _batch(rows: Rows, x: Array, own: list[NDArray[np.int64]]) -> TaskBatch:
    """Return new groups as tasks: labelled rows are their support, and all rows are asked about."""
    told = [place[np.isfinite(rows.y[place])] for place in own]
    size = None if rows.size is None else torch.from_numpy(rows.size)
    values, labels = torch.from_numpy(x), torch.from_numpy(rows.y)
    return TaskBatch.from_tasks(
        [values[place] for place in told],
        [labels[place] for place in told],
        [values[place] for place in own],
        support_size=None if size is None else [size[place] for place in told],
        query_size=None if size is None else [size[place] for place in own],
    )
