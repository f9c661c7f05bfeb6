r"""Inference of the weights of new tasks, from the support set first and then by refinement on the unlabelled queries.

Where tasks have noise levels of their own, all is done at every one of $J$ levels (`ebmeta.parts.levels`), which are
weighted by

$$ \log p(z_j \mid y^s) = \log p(y^s \mid z_j) + \log c_j \mathcal N(z_j; 0, 1) - \log p(y^s), $$

with $\log p(y^s \mid z) = \mathbb E_{q_0}[\log p(y^s \mid w, z)] - \mathrm{KL}(q_0 \Vert p_\psi)$.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from ebmeta.likelihood import Given, Likelihood
from ebmeta.model.conditional import repeat
from ebmeta.model.posterior import Inference
from ebmeta.model.recipes import Parts
from ebmeta.parts.class_gaussian import ClassGaussian
from ebmeta.parts.class_prior import EQUAL
from ebmeta.parts.gaussian import Gaussian
from ebmeta.parts.levels import Levels, place_levels
from ebmeta.parts.prior import Prior
from ebmeta.parts.task_features import TaskFeatures, counted
from ebmeta.refine.state import Setting
from ebmeta.tasks.batch import TaskBatch

__all__ = ["check_labels", "infer", "prior_of"]

UNKNOWN = 3  # classes for rows of none of a task's; chosen on the validation classes of CIFAR-FS


def infer(
    parts: Parts,
    beta: float,
    batch: TaskBatch,
    num_steps: int | None,
    level: Tensor | None,
    own: Tensor | None = None,
) -> Inference:
    r"""Return the path of the posterior of every task, and all that predictions need.

    Args:
        parts: of a model that the tasks fit.
        beta: $\beta$.
        batch: $T$ tasks.
        num_steps: $K$, or None for that of training.
        level: the noise level of each task where it is given, shape `(T,)`; inferred by default.
        own: in training, numbers of the training classes of each task, shape `(T, C)` (see `Head.features`).
    """
    features = parts.predictor.of_task(batch, own)
    support_x, query_x = features.support, features.query
    levels = None
    if level is not None:
        levels = Levels(level.unsqueeze(1), torch.zeros_like(level).unsqueeze(1), level, torch.zeros_like(level))
    elif parts.likelihood.has_level:
        wide = support_x.double()  # differences of evidences have few digits left in 32 bits
        levels = place_levels(lambda z: _initialize(parts, batch, features, wide, z)[2], batch.num_tasks, support_x)
    z = None if levels is None else levels.z
    prior, q0, evidence = _initialize(parts, batch, features, support_x, z)
    times = evidence.shape[1]
    none, ways = _may_be_of_none(batch), batch.way_mask
    if none is not None:
        ways = torch.cat([ways, none.unsqueeze(1).expand(-1, UNKNOWN)], 1)
    known = _known(batch)
    setting = Setting(
        q0,
        prior,
        parts.likelihood,
        repeat(query_x, times),
        repeat(batch.query_mask, times),
        repeat(ways, times),
        beta,
        _given(batch.query_size, z),
        None if known is None else repeat(known, times),
        0 if none is None else UNKNOWN,
        replace(batch.support, x=support_x) if times == 1 else None,
    )
    log_mass = torch.zeros_like(evidence) if levels is None else levels.log_mass
    total = torch.logsumexp(evidence + log_mass, 1)
    log_weight = evidence + log_mass - total.unsqueeze(1)
    if not parts.prior.training:
        parts.prior.tell_of_rounding()
    return Inference(log_weight, log_mass, parts.refiner(setting, num_steps), setting, total, levels)


def check_labels(likelihood: Likelihood, dtype: torch.dtype, batch: TaskBatch) -> None:
    """Raise `ValueError` where labels have the wrong type, are impossible, or too coarse for numbers of a type.

    Sizes of rows without labels are checked too, and tasks of numbers have no class proportions.
    """
    if batch.support_y.is_floating_point() == likelihood.categorical:
        wanted = "integer class" if likelihood.categorical else "real-valued"
        raise ValueError(
            f"support_y: expected {wanted} labels for a {likelihood.name} likelihood, got {batch.support_y.dtype}"
        )
    known = batch.concentration
    if not likelihood.categorical and known is not None and not bool(known.isnan().all()):
        raise ValueError(f"concentration: expected none of tasks with a {likelihood.name} likelihood, got some")
    for name, rows in (("support_y", batch.support), ("query_y", batch.query)):
        if rows.y is None:
            likelihood.check_size(name.replace("_y", "_size"), rows.mask, rows.size)
        else:
            likelihood.check(name, rows.y, rows.mask, rows.size)
            likelihood.check_precision(name, rows.y, dtype)


def prior_of(prior: Prior, features: TaskFeatures, batch: TaskBatch, levels: int) -> Gaussian:
    """Return the prior of every task of a batch with these features, each `levels` times.

    Raises:
        ValueError: if tasks have anchors or outliers, and the prior is not that of a joint model, or covariates that it
            does not take.
    """
    task_x = None if batch.task_x is None else repeat(batch.task_x, levels)
    ways, known = repeat(batch.way_mask, levels), _known(batch)
    concentration = None if known is None else repeat(known, levels)
    if features.geometry is not None:
        if task_x is not None:
            raise ValueError(f"task_x: expected 0 covariates per task, got {task_x.shape[-1]}")
        out = prior.of_task(features.geometry, features.query.shape[-1] - 1, batch.way_mask, known)
    else:
        out = prior(batch.num_tasks * levels, batch.way_mask.shape[1], task_x, ways, concentration)
    none = _may_be_of_none(batch)
    if not prior.joint:
        if none is None and batch.anchor is None:
            return out
        what = "anchors" if none is None else "outliers"
        raise ValueError(f"{what}: expected none but for a joint model of inputs and labels, got some")
    classes, share = cast(ClassGaussian, out), counted(batch, out.loc.dtype)
    if classes.trust is None and bool((share < 1).any()):
        classes = replace(classes, trust=share[:, None, None])
    if none is not None:
        classes = classes.with_unknown(none, UNKNOWN, share)
    if features.anchor is not None and batch.anchor_size is not None:
        stands = features.anchor[..., :-1].to(classes.loc.dtype)
        classes = classes.anchored(*_for_all(classes, stands, batch.anchor_size))
    return classes


def _for_all(classes: ClassGaussian, anchor: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """Return anchors and their sizes for all classes, unknown ones too, which have none."""
    more = classes.loc.shape[1] - anchor.shape[1]
    return functional.pad(anchor, (0, 0, 0, more)), functional.pad(size.to(anchor.dtype), (0, more))


def _may_be_of_none(batch: TaskBatch) -> Tensor | None:
    """Return in which tasks queries may be of none of the classes, shape `(T,)`; None where in no task."""
    return batch.outliers if batch.outliers is not None and bool(batch.outliers.any()) else None


def _known(batch: TaskBatch) -> Tensor | None:
    """Return what is known of class proportions; equal ones are not known where some queries are of no class."""
    none, known = _may_be_of_none(batch), batch.concentration
    if known is None or none is None:
        return known
    return known.masked_fill(none & (known >= EQUAL), math.nan)


def _initialize(
    parts: Parts, batch: TaskBatch, features: TaskFeatures, support_x: Tensor, z: Tensor | None
) -> tuple[Gaussian, Gaussian, Tensor]:
    """Return prior and $q_0$ at each of the levels `z`, `(T, J)`, and the log evidence of each in nats, same shape."""
    times, likelihood = 1 if z is None else z.shape[1], parts.likelihood
    prior, ways = prior_of(parts.prior, features, batch, times), repeat(batch.way_mask, times)
    given = _given(batch.support_size, z)
    x, y, mask = (repeat(v, times) for v in (support_x, batch.support_y, batch.support_mask))
    prior = prior.with_(prior.loc.to(x.dtype), prior.precision.to(x.dtype))
    q = parts.initializer(prior, likelihood, x, y, mask, given)
    if likelihood.categorical:
        return prior, q, q.input_evidence(prior, x * mask.unsqueeze(-1)).double().unsqueeze(1)
    loc, var = (v.double() for v in q.marginal(x))
    none = loc.new_zeros(1)
    fit = likelihood.expected_log_prob(y, loc, var, ways, none, given)
    return prior, q, (torch.where(mask, fit, 0.0).sum(1) - q.kl(prior)).view(batch.num_tasks, times)


def _given(size: Tensor | None, z: Tensor | None) -> Given:
    """Return what is given of each row, tasks repeated over their levels `z`."""
    if z is None:
        return Given(size)
    return Given(None if size is None else repeat(size, z.shape[1]), z.flatten())
