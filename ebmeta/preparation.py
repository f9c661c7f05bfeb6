"""What training does before its first step: measures the metric of the features, and how hard tasks should be."""

from __future__ import annotations

import math
from typing import Literal

import torch

from ebmeta.model import EmpiricalBayes
from ebmeta.predict import evaluating
from ebmeta.sampling import EpisodeSampler, MixedSampler, TaskSampler

__all__ = ["hardening", "start"]

EXCESS = 2.4  # times the excess difficulty of the validation classes; chosen on the validation classes of CIFAR-FS
ROWS = 20  # rows per feature behind the metric
MOST_BATCHES = 64
MANY_WAYS = 10**6  # more than the classes of any task
UNIT_SCALE = 10.0  # root mean square beyond which linear features or labels are refused


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


def start(model: EmpiricalBayes, tasks: TaskSampler, batch_size: int, device: torch.device, dtype: torch.dtype) -> None:
    """Measure centre and metric of a cosine head; refuse data far from the unit scale of a linear one."""
    batch = tasks.sample(batch_size, 0).to(dtype)
    model.check(batch)
    predictor = model.predictor
    if predictor.head == "cosine":
        if not predictor.measured:
            _measure(model, tasks, batch_size, device, dtype)
    elif predictor.embedder is None:
        real = batch.query_x[batch.query_mask].flatten(1).square().mean(0).sqrt()
        labels = 0.0 if batch.query_y is None else float(batch.query_y[batch.query_mask].square().mean().sqrt())
        if float(real.max()) > UNIT_SCALE or labels > UNIT_SCALE:
            column = int(real.argmax())
            raise ValueError(
                f"expected features and labels of about unit scale, got a root mean square of "
                f"{float(real[column]):.3g} in feature {column} and of {labels:.3g} in the labels; standardise them"
            )


def _measure(
    model: EmpiricalBayes, tasks: TaskSampler, batch_size: int, device: torch.device, dtype: torch.dtype
) -> None:
    """Give a cosine head the centre and the metric of as many training batches as those take."""
    rows: list[torch.Tensor] = []
    clusters: list[torch.Tensor] = []
    index = 0
    while sum(map(len, rows)) < ROWS * model.predictor.num_features and index < MOST_BATCHES:
        batch = tasks.sample(batch_size, index).to(device).to(dtype)
        number = (index * len(batch) + torch.arange(len(batch), device=device)[:, None]) * MANY_WAYS
        for x, y, mask in (
            (batch.support_x, batch.support_y, batch.support_mask),
            (batch.query_x, batch.query_y, batch.query_mask),
        ):
            if y is not None:
                rows.append(x[mask])
                clusters.append((number + y)[mask])
        index += 1
    with evaluating(model):
        model.predictor.measure(torch.cat(rows), torch.cat(clusters))
