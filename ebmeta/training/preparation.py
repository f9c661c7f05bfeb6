"""What training does before its first step, from checks of the tasks to the measures that parts take of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch

from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.prediction.foreign import tell_of_other_units
from ebmeta.prediction.trees import evaluating
from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.columns import check_names
from ebmeta.tasks.doubts import notes_on_numbers, notes_on_rows
from ebmeta.tasks.drawing import exact
from ebmeta.tasks.held_out import check_shared_groups
from ebmeta.tasks.leaks import note_on_leaks
from ebmeta.tasks.marks import Marks
from ebmeta.tasks.source import TaskSource
from ebmeta.tasks.training_rows import TrainingRows
from ebmeta.training.identification import alike_within_groups, refuse_extreme

__all__ = [
    "check_columns",
    "check_groups",
    "check_labels",
    "hardening",
    "keep_marks",
    "measure",
    "notes_on_classes",
    "notes_on_groups",
    "prepare",
    "trains",
]

EXCESS = 2.4  # times the excess difficulty of the validation classes; chosen on the validation classes of CIFAR-FS
ROWS = 20  # rows per feature behind the metric
MOST_BATCHES = 64
PART = 8192  # rows of a part of grouped data
LOOKED_AT = 1 << 24  # numbers of grouped data that are all looked at for notes; of more, those of random groups
GROUPS = 64  # of a draw of them
PROFILE_ROWS = 40_000  # training rows behind a profile, at most
UNIT_SCALE = 10.0  # root mean square beyond which linear features or labels are refused
LEAST_REACH = 0.05  # largest distance from the mean below which varying features or labels are refused


def hardening(
    model: EmpiricalBayes, tasks: TaskSource, validation: TaskSource | None, harder: float | Literal["auto"]
) -> float:
    """Return how much harder the training tasks are made; see `fit`.

    Raises:
        ValueError: if that is asked for other tasks than those of class features.
    """
    known = tasks.difficulty if model.predictor.embedder is None else None
    if harder != "auto":
        if harder and known is None:
            raise ValueError(f"harder: expected 0 for tasks that are not drawn from class features, got {harder}")
        return float(harder)
    new = None if validation is None else validation.difficulty
    if known is None or new is None:
        return 0.0
    excess = new / known - 1
    return EXCESS * min(max(excess, 0.0), 1.0) if math.isfinite(excess) else 0.0


def check_columns(model: EmpiricalBayes, tasks: TaskSource, validation: TaskSource | None = None) -> None:
    """Let a model remember the names of its columns; refuse others.

    Raises:
        ValueError: if a model trained before knows other names, or training and validation differ in them.
    """
    names, covariates = tasks.feature_names, tasks.covariate_names
    if validation is not None:
        check_names(names, validation.feature_names, "for training")
    check_names(model.feature_names, names, "when the model was trained")
    if names is not None and (model.predictor.embedder is not None or len(names) == model.predictor.num_features):
        model.feature_names = list(names)
    if validation is not None:
        check_names(covariates, validation.covariate_names, "for training", "covariate")
    check_names(model.covariate_names, covariates, "when the model was trained", "covariate")
    if covariates is not None and len(covariates) == model.prior.num_covariates:
        model.covariate_names = list(covariates)


def keep_marks(model: EmpiricalBayes, sources: Sequence[TaskSource]) -> None:
    """Let a model keep the sizes of its tasks, and marks of the classes or groups that it is trained or chosen on.

    Args:
        model: the model; marks that it has stay.
        sources: tasks of training, and those of validation after them.
    """
    model.task_sizes = sources[0].task_sizes()
    for marks in filter(None, map(Marks.of, sources)):
        model.marks = marks if model.marks is None else model.marks | marks


def check_groups(model: EmpiricalBayes, tasks: TaskSource, validation: TaskSource | None = None) -> None:
    """Check all rows of grouped data before training, so that training does not fail in the middle.

    Raises:
        ValueError: if a label is impossible for the likelihood, or training and validation share groups.
    """
    for source in (tasks, validation):
        if source is not None and (labels := source.labels()) is not None:
            _check_rows(model, *labels)
    check_shared_groups(tasks, validation)


def check_labels(model: EmpiricalBayes, tasks: TaskSource) -> None:
    """Raise `ValueError` where the labels of groups leave nothing to learn, such as constant labels."""
    if (labels := tasks.labels()) is not None:
        y, size = (None if v is None else np.asarray(v, dtype=np.float64) for v in labels)
        assert y is not None  # for the type checker
        refuse_extreme(model, y, np.ones_like(y) if size is None else size)


def notes_on_classes(model: EmpiricalBayes, tasks: TaskSource) -> list[str]:
    """Return notes on features of classes; see `ebmeta.tasks.doubts`, and `ebmeta.tasks.leaks` for copies of rows."""
    if not tasks.class_rows:
        return []
    leaks = note_on_leaks(tasks.sample(GROUPS))
    notes = [f"tasks: {leaks}"] if leaks else []
    if model.predictor.embedder is not None:
        return notes
    return notes + [note for source in tasks.class_rows for note in notes_on_rows(source.X, tasks.feature_names)]


def notes_on_groups(model: EmpiricalBayes, tasks: TaskSource) -> list[str]:
    """Return notes on labels or features that never vary within a group; see `ebmeta.training.identification`.

    Features that number the rows are told of too.
    """
    if not tasks.has_fixed_rows or model.predictor.embedder is not None:
        return []
    labels = tasks.labels()
    large = labels is not None and len(labels[0]) * model.predictor.num_features > LOOKED_AT
    parts = list(_some(tasks) if large else tasks.parts(PART))
    rows = torch.cat([part.labelled().x for part in parts])
    return [*alike_within_groups(model, parts), *notes_on_numbers(rows.detach().cpu().numpy(), tasks.feature_names)]


def _some(tasks: TaskSource) -> Iterator[TaskBatch]:
    """Yield draws of groups until their rows are as many as are looked at."""
    seen = 0
    while seen < LOOKED_AT:
        batch = tasks.sample(GROUPS, seen)
        yield batch
        seen += batch.support_x.numel() + batch.query_x.numel()


def _check_rows(model: EmpiricalBayes, y: np.ndarray, size: np.ndarray | None) -> None:
    labels = torch.from_numpy(exact(y))[None]
    sizes = None if size is None else torch.from_numpy(exact(size))[None]
    try:
        model.likelihood.check("y", labels, torch.ones_like(labels, dtype=torch.bool), sizes)
    except ValueError as error:
        raise ValueError(str(error).replace(" at task 0, row ", " at row ")) from None


def trains(model: EmpiricalBayes) -> bool:
    """Return whether training changes any parameter; where none, it measures a new model, and no more."""
    return any(True for _ in model.trainable())


def prepare(model: EmpiricalBayes, tasks: TaskSource, batch_size: int, device: torch.device) -> None:
    """Measure a model on the training tasks; refuse data far from unit scale where the model is not measured."""
    first = tasks.sample(batch_size, 0)
    model.check(first)
    if trains(model):
        model.refiner.forget()
    if model.measured:
        tell_of_other_units(model, first)
        return
    some = (tasks.sample(batch_size, index) for index in range(MOST_BATCHES))
    rows = TrainingRows.of(some, device, ROWS * max(model.predictor.num_features, 1))
    _measure(model, replace(rows, classes=lambda: tasks.rows(PROFILE_ROWS)))


def measure(model: EmpiricalBayes, batches: list[TaskBatch]) -> None:
    """Measure a model of numbers on all rows of some batches, unless it was measured."""
    if model.measured:
        tell_of_other_units(model, batches[0])
    else:
        _measure(model, TrainingRows.of(batches, batches[0].query_x.device))


def _measure(model: EmpiricalBayes, rows: TrainingRows) -> None:
    if model.predictor.raw:
        _refuse_far_from_unit_scale(model, rows)
    with evaluating(model), torch.no_grad():
        model.measure(replace(rows, columns=model.feature_names or (), covariates=model.covariate_names or ()))


def _refuse_far_from_unit_scale(model: EmpiricalBayes, rows: TrainingRows) -> None:
    names, discrete = model.feature_names, model.likelihood.discrete
    real, labels = rows.x.flatten(1).square().mean(0).sqrt(), float(rows.y.square().mean().sqrt())
    real = torch.cat([real, real.new_zeros(1)])  # there may be no feature
    if float(real.max()) > UNIT_SCALE or labels > UNIT_SCALE:
        column = int(real.argmax())
        raise ValueError(
            f"expected features and labels of about unit scale, got a root mean square of "
            f"{float(real[column]):.3g} in {_called(column, names)} and of {labels:.3g} in the labels; "
            "standardise them, or build the model with standardize=True"
        )
    columns = rows.x.flatten(1) if discrete else torch.cat([rows.x.flatten(1), rows.y.unsqueeze(1)], 1)
    reach = (columns.double() - columns.double().mean(0)).abs().amax(0)
    small = (columns.amax(0) > columns.amin(0)) & (reach < LEAST_REACH)
    if bool(small.any()):
        column = int(small.nonzero()[0])
        called = "the labels" if column == rows.x.flatten(1).shape[1] else _called(column, names)
        raise ValueError(
            f"expected features and labels of about unit scale, got numbers within {float(reach[column]):.3g} of their "
            f"mean in {called}; standardise them, or build the model with standardize=True"
        )


def _called(column: int, names: list[str] | None) -> str:
    return f"feature {column}" if names is None else f"feature {names[column]!r}"
