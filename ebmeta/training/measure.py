"""What training does before its first step: measures the metric of the features, and how hard tasks should be."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

import numpy as np
import torch

from ebmeta.likelihood import ScalarLikelihood
from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.parts.heads import CosineHead
from ebmeta.parts.initializer import PrototypeInitializer
from ebmeta.prediction.trees import evaluating
from ebmeta.refine.mixture import MixtureRefiner
from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.columns import check_names
from ebmeta.tasks.episodes import EpisodeSampler, TaskSampler, covariates_of, exact, names_of
from ebmeta.tasks.frames import FrameEncoder
from ebmeta.tasks.groups import GroupSampler
from ebmeta.tasks.mixed import MixedSampler
from ebmeta.training.identification import alike_within_groups, refuse_extreme

__all__ = [
    "check_columns",
    "check_groups",
    "check_labels",
    "half_told",
    "hardening",
    "measure",
    "measure_widths",
    "start",
    "untold",
]

EXCESS = 2.4  # times the excess difficulty of the validation classes; chosen on the validation classes of CIFAR-FS
WIDE = 60.0  # amplitude of measured widths: the softmax then sees logits of about the right size
KAPPA, INFORMATION = 1.3, 0.05  # of the mixture, relative to q_0: size of its weights, and what a query adds
LEAST_VARIANCE = 1e-5  # of a feature of unit vectors
ROWS = 20  # rows per feature behind the metric
MOST_BATCHES = 64
PART = 8192  # rows of a part of grouped data
PROFILE_ROWS = 40_000  # training rows behind a profile, at most
MANY_WAYS = 10**6  # more than the classes of any task
UNIT_SCALE = 10.0  # root mean square beyond which linear features or labels are refused
LEAST_REACH = 0.05  # largest distance from the mean below which those that vary at all are


def hardening(
    model: EmpiricalBayes, tasks: TaskSampler, validation: TaskSampler | None, harder: float | Literal["auto"]
) -> float:
    """Return how much harder the training tasks are made; see `fit`.

    Raises:
        ValueError: if that is asked for other tasks than those of class features.
    """
    possible = isinstance(tasks, (EpisodeSampler, MixedSampler)) and model.predictor.embedder is None
    if harder != "auto":
        if harder and not possible:
            raise ValueError(f"harder: expected 0 for tasks that are not drawn from class features, got {harder}")
        return float(harder)
    if not (possible and isinstance(validation, (EpisodeSampler, MixedSampler))):
        return 0.0
    excess = validation.difficulty / tasks.difficulty - 1  # type: ignore[attr-defined]
    return EXCESS * min(max(excess, 0.0), 1.0) if math.isfinite(excess) else 0.0


def check_columns(model: EmpiricalBayes, tasks: object, validation: object = None) -> None:
    """Let a model remember the names of its columns; refuse others.

    Raises:
        ValueError: if a model trained before knows other names, or training and validation differ in them.
    """
    names = names_of(tasks)
    check_names(names, names_of(validation), "for training")
    check_names(model.feature_names, names, "when the model was trained")
    if names is not None and (model.predictor.embedder is not None or len(names) == model.predictor.num_features):
        model.feature_names = list(names)
    covariates = covariates_of(tasks)
    check_names(covariates, covariates_of(validation), "for training", "covariate")
    check_names(model.covariate_names, covariates, "when the model was trained", "covariate")
    if covariates is not None and len(covariates) == model.prior.num_covariates:
        model.covariate_names = list(covariates)


def check_groups(model: EmpiricalBayes, tasks: TaskSampler, validation: TaskSampler | None = None) -> None:
    """Look at all rows of grouped data before training, so that no bad one is met in the middle of it.

    Raises:
        ValueError: if a label is impossible for the likelihood, or training and validation share groups.
    """
    for source in (tasks, validation):
        if isinstance(source, GroupSampler):
            _check_rows(model, source)
    if isinstance(tasks, GroupSampler) and isinstance(validation, GroupSampler):
        known = set(tasks.groups)
        if shared := [g for g in validation.groups if g in known]:
            more = f" (and {len(shared) - 1} more)" if len(shared) > 1 else ""
            raise ValueError(
                f"validation: expected groups that training does not have, got {shared[0]!r}{more} in both; number "
                "groups alike only where they are the same"
            )


def check_labels(model: EmpiricalBayes, tasks: TaskSampler) -> None:
    """Raise `ValueError` where all labels of groups are such that there is nothing to learn, as constant ones."""
    if isinstance(tasks, GroupSampler):
        y = np.asarray(tasks.y, dtype=np.float64)
        size = np.ones_like(y) if tasks.size is None else np.asarray(tasks.size, dtype=np.float64)
        refuse_extreme(model, y, size)


def untold(model: EmpiricalBayes, tasks: TaskSampler) -> list[str]:
    """Return what to say of labels or features that never vary within a group; see `ebmeta.training.identification`."""
    if not isinstance(tasks, GroupSampler) or tasks.transform is not None or model.predictor.embedder is not None:
        return []
    return alike_within_groups(model, list(tasks.parts(PART)))


def _check_rows(model: EmpiricalBayes, source: GroupSampler) -> None:
    y = torch.from_numpy(exact(source.y))[None]
    size = None if source.size is None else torch.from_numpy(exact(source.size))[None]
    try:
        model.likelihood.check("y", y, torch.ones_like(y, dtype=torch.bool), size)
    except ValueError as error:
        raise ValueError(str(error).replace(" at task 0, row ", " at row ")) from None


def half_told(batch: TaskBatch, index: int) -> TaskBatch:
    """Hide from every second task what is known of its class proportions: one model learns to do with and without.

    Args:
        batch: tasks.
        index: number of the batch; its parity says which half.
    """
    if batch.concentration is None:
        return batch
    hidden = (torch.arange(len(batch)) + index).to(batch.concentration.device) % 2 == 1
    return replace(batch, concentration=batch.concentration.masked_fill(hidden, math.nan))


def start(model: EmpiricalBayes, tasks: TaskSampler, batch_size: int, device: torch.device) -> None:
    """Let a model take its measure of the training tasks; refuse data far from the unit scale where it may not."""
    model.check(tasks.sample(batch_size, 0))
    if isinstance(model.refiner, MixtureRefiner):
        model.refiner.temperature.forget()
    predictor = model.predictor
    rows = None
    if not predictor.measured:
        some = (tasks.sample(batch_size, index) for index in range(MOST_BATCHES))
        rows = _Rows(some, device, ROWS * max(predictor.num_features, 1))
        _take(model, rows, _encoder(tasks))
    if isinstance(predictor, CosineHead) and predictor.profile is not None and not predictor.profile.fitted:
        _learn_profile(model, tasks, device)
    if rows is not None and (model.config or {}).get("widths") == "measured":
        with evaluating(model), torch.no_grad():
            measure_widths(model, predictor.features(rows.x.unsqueeze(0))[0], rows.cluster)


def _learn_profile(model: EmpiricalBayes, tasks: TaskSampler, device: torch.device) -> None:
    predictor = model.predictor
    assert isinstance(predictor, CosineHead)  # for the type checker, as the next line
    assert predictor.profile is not None
    if not isinstance(tasks, (EpisodeSampler, MixedSampler)):
        raise ValueError(f"profile: expected tasks of an EpisodeSampler or MixedSampler, got {type(tasks).__name__}")
    x, y = tasks.rows(PROFILE_ROWS)
    with evaluating(model), torch.no_grad():
        raw = torch.cat([predictor.embed(part.to(device).unsqueeze(0))[0] for part in torch.split(x, 1000)])
        predictor.profile.fit(predictor.direction(raw), y.to(device))


def measure(model: EmpiricalBayes, batches: list[TaskBatch], tasks: TaskSampler | TaskBatch | None = None) -> None:
    """Let a model of numbers take its units from all rows of some batches, unless it has some.

    Args:
        model: the model.
        batches: all rows.
        tasks: where they come from, which may know the names of columns.
    """
    if not model.predictor.measured:
        _take(model, _Rows(batches, batches[0].query_x.device), _encoder(tasks))


def _encoder(tasks: TaskSampler | TaskBatch | None) -> FrameEncoder | None:
    return tasks.encoder if isinstance(tasks, GroupSampler) else None


def measure_widths(model: EmpiricalBayes, phi: torch.Tensor, cluster: torch.Tensor) -> None:
    r"""Give prior and $q_0$ of a model of classes the widths that training classes have.

    $$ \lambda_p^{-1} = a^2 s_p^2, \qquad \Lambda_{0p}^{-1} = a^2 t_p^2, $$

    with $s_p^2$ and $t_p^2$ the variances of feature $p$ within and between classes. The weights of the refiner's
    mixture start in proportion.

    Args:
        model: a model of classes with a mixture refiner.
        phi: features of training rows, shape `(N, P)`; the last is constant.
        cluster: class of each row, any integers, shape `(N,)`.

    Source: theory "The amortized initializer".
    """
    initializer, prior, refiner = model.initializer, model.prior, model.refiner
    assert isinstance(initializer, PrototypeInitializer)  # for the type checker, as the next line
    assert isinstance(refiner, MixtureRefiner)
    _, index, count = torch.unique(cluster, return_inverse=True, return_counts=True)
    mean = phi.new_zeros(len(count), phi.shape[1]).index_add_(0, index, phi) / count.unsqueeze(-1)
    within = (phi - mean[index]).square().sum(0) / max(int((count - 1).sum()), 1)
    between = mean.var(0) - within * (1 / count.to(phi.dtype)).mean()
    unit = WIDE**2
    looks, spread = (unit * v[:-1].clamp(min=LEAST_VARIANCE) for v in (within, between))
    initializer.log_amplitude.fill_(math.log(WIDE))
    initializer.log_precision[:-1] = -looks.log()
    prior.log_scale[:-1] = spread.log() / 2
    refiner.log_scale.fill_(math.log(WIDE * KAPPA * float((spread / (spread + looks)).mean())))
    refiner.log_weight.fill_(math.log(WIDE) - float(looks.log().mean()))
    refiner.log_information.fill_(math.log(INFORMATION) - float(looks.log().mean()))


def _take(model: EmpiricalBayes, rows: _Rows, encoder: FrameEncoder | None) -> None:
    predictor = model.predictor
    names, group_names = model.feature_names or [], [] if encoder is None else encoder.group_names
    with evaluating(model), torch.no_grad():
        if predictor.raw:
            discrete = isinstance(model.likelihood, ScalarLikelihood) and model.likelihood.discrete
            _refuse_far_from_unit_scale(rows, model.feature_names, not (discrete or model.likelihood.categorical))
        predictor.measure(rows.x, rows.cluster, names)
        if predictor.own_units and not predictor.raw:
            if rows.task_x is not None:
                model.prior.measure(rows.task_x, group_names)
            model.prior.loc[-1] = model.likelihood.measure(rows.y, rows.size)


class _Rows:
    """Rows of as many training batches as it takes, with labels as real numbers and a number for each cluster."""

    def __init__(self, batches: Iterable[TaskBatch], device: torch.device, wanted: float = math.inf) -> None:
        x: list[torch.Tensor] = []
        y: list[torch.Tensor] = []
        size: list[torch.Tensor] = []
        cluster: list[torch.Tensor] = []
        task_x: list[torch.Tensor] = []
        for index, drawn in enumerate(batches):
            batch = drawn.to(device)
            rows = batch.labelled()
            x.append(rows.x)
            y.append(rows.y if rows.y.is_floating_point() else rows.y.double())
            size.append(rows.size)
            cluster.append((index * len(batch) + rows.task) * MANY_WAYS + rows.y.long())
            wanted -= len(rows.x)
            if batch.task_x is not None:
                task_x.append(batch.task_x)
            if wanted <= 0:
                break
        self.x, self.y, self.size, self.cluster = (torch.cat(v) for v in (x, y, size, cluster))
        self.task_x = torch.cat(task_x) if task_x else None


def _refuse_far_from_unit_scale(rows: _Rows, names: list[str] | None, located: bool) -> None:
    real, labels = rows.x.flatten(1).square().mean(0).sqrt(), float(rows.y.square().mean().sqrt())
    real = torch.cat([real, real.new_zeros(1)])  # there may be no feature
    if float(real.max()) > UNIT_SCALE or labels > UNIT_SCALE:
        column = int(real.argmax())
        raise ValueError(
            f"expected features and labels of about unit scale, got a root mean square of "
            f"{float(real[column]):.3g} in {_called(column, names)} and of {labels:.3g} in the labels; "
            "standardise them, or build the model with standardize=True"
        )
    columns = torch.cat([rows.x.flatten(1), rows.y.unsqueeze(1)], 1) if located else rows.x.flatten(1)
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
