r"""Rows that lie where no training rows did: in another unit, or encoded or scaled otherwise.

A trained model knows centre and spread of its features, and takes them for those of new rows. Rows in another unit are
then far from the centre, in one column of their own, or all in one direction $u$, whatever their class: with

$$ R = \Big\lVert \frac{1}{N} \sum_i u_i \Big\rVert $$

over all rows of a task, $1 - R$ is about half of the squared angle between them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ebmeta.foundation.telling import tell
from ebmeta.model.base import PredictiveModel
from ebmeta.tasks.batch import TaskBatch

__all__ = ["tell_of_foreign", "tell_of_other_units"]

FAR = 50.0  # standard deviations of training rows, from their mean
ALIKE = 0.95  # R, from which on all rows lie within some 18 degrees
SOME = 32  # tasks that are looked at, of more
FEWEST = 8  # rows of a task, and features, with which none are alike by chance


@torch.no_grad()
def tell_of_foreign(model: PredictiveModel, batch: TaskBatch, x: Tensor) -> bool:
    """Warn of rows or labels that are in another unit than those of training, and return whether there are some.

    Args:
        model: the model.
        batch: tasks.
        x: features of their queries, shape `(T, Q, P)`.
    """
    head = model.predictor
    if not model.fitted or not head.measured or head.by_task or head.raw:
        return False
    if len(batch) > SOME:
        some = torch.arange(0, len(batch), -(-len(batch) // SOME))
        batch, x = batch[some], x[some]
    notes = [_in_columns(model, batch, x) if head.own_units else _in_one_direction(model, batch, x)]
    notes.append(_labels(model, batch))
    for said in filter(None, notes):
        tell(said)
    return any(notes)


@torch.no_grad()
def tell_of_other_units(model: PredictiveModel, batch: TaskBatch) -> None:
    """Warn of labelled rows to train on in another unit than that in which a model was measured, which it keeps.

    Args:
        model: the model.
        batch: labelled tasks.
    """
    head = model.predictor
    if not head.measured or head.raw or not head.own_units:
        return
    rows = batch.to(str(next(model.parameters()).device)).labelled()
    column = ""
    if head.by_column:  # an embedder in training counts what it is asked
        every = torch.ones_like(rows.y, dtype=torch.bool)
        column = _far_column(model, head.features(rows.x.unsqueeze(0), every.unsqueeze(0))[0])
    for said in filter(None, (column, _far_labels(model, rows.y))):
        tell(f"{said}, or train a new model: one that was trained keeps its units")


def _in_columns(model: PredictiveModel, batch: TaskBatch, x: Tensor) -> str:
    """Say which column lies far from the training rows."""
    return _far_column(model, x[batch.query_mask])


def _far_column(model: PredictiveModel, x: Tensor) -> str:
    """Say which column of some rows, shape `(N, P)`, lies far from the training rows."""
    rows = x[:, :-1].abs()
    if not model.predictor.by_column or not rows.numel():
        return ""
    middle = rows.median(0).values
    column = int(middle.argmax())
    if not float(middle[column]) > FAR:
        return ""
    called = f"column {column}" if model.feature_names is None else f"column {model.feature_names[column]!r}"
    away = f"{float(middle[column]):.0f} standard deviations of training rows from their mean"
    return f"X: half of the rows are at least {away} in {called}; give features in the units of training"


def _in_one_direction(model: PredictiveModel, batch: TaskBatch, x: Tensor) -> str:
    """Say whether the rows of most tasks lie in one direction from the centre of training, whatever their class."""
    size = model.predictor.num_features
    if size < FEWEST or not batch.support_mask.any():
        return ""
    support = model.predictor.features(batch.support_x, batch.support_mask)
    masks = batch.support_mask, batch.query_mask
    parts = zip((support, x), masks, strict=True)
    total = sum((functional.normalize(v[..., :size], dim=-1) * mask.unsqueeze(-1)).sum(1) for v, mask in parts)
    number = masks[0].sum(1) + masks[1].sum(1)
    ways = functional.one_hot(batch.support_y * masks[0], batch.way_mask.shape[1]).mul(masks[0].unsqueeze(-1)).amax(1)
    counted = (number >= FEWEST) & (ways.sum(1) > 1)
    alike = (torch.as_tensor(total).norm(dim=-1) / number)[counted]
    if not len(alike) or not float(alike.median()) > ALIKE:
        return ""
    said = "X: all rows lie in one direction from the centre of training rows, whatever their class"
    return f"{said}; encode and scale rows as in training, or use FewShotClassifier() without a model"


def _labels(model: PredictiveModel, batch: TaskBatch) -> str:
    """Say whether labels lie far from those of training."""
    return _far_labels(model, batch.support_y[batch.support_mask])


def _far_labels(model: PredictiveModel, y: Tensor) -> str:
    likelihood = model.likelihood
    if likelihood.categorical or not likelihood.located or not len(y) or not float(likelihood.center):
        return ""
    middle = float(likelihood.statistic(y, 1).abs().median())
    away = f"{middle:.0f} standard deviations of training labels from their mean"
    return f"y: half of the labels are at least {away}; give them in the unit of training" if middle > FAR else ""
