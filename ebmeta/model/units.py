"""Weights in the units of features and labels, for readers of a fitted prior or posterior."""

from __future__ import annotations

import torch
from torch import Tensor

from ebmeta.foundation.checks import checked
from ebmeta.model.base import PredictiveModel
from ebmeta.parts.gaussian import Gaussian

__all__ = ["in_units"]


@checked()
def in_units(model: PredictiveModel, q: Gaussian) -> tuple[Tensor, Tensor]:
    r"""Return location and covariance of weights in the units of features and labels.

    $$ \eta = w^\top \frac{x - \bar x}{s} + w_0, \quad y = a + b \eta \quad \Rightarrow \quad
       v = \frac{b w}{s}, \quad v_0 = a + b \Big( w_0 - \sum_p \frac{w_p \bar x_p}{s_p} \Big) $$

    Args:
        model: a model for numbers.
        q: weights of a model for numbers, shape `(T, C, P)`; the intercept is the last.

    Returns:
        Location, shape `(T, C, P)`, and covariance, shape `(T, C, P, P)`, in 64 bits.

    Raises:
        ValueError: if the head is not linear.
    """
    change = model.predictor.to_units()
    q = q.with_(q.loc.double(), q.precision.double())
    if q.loc.shape[-1] != model.predictor.num_weights:
        raise ValueError(f"q: expected {model.predictor.num_weights} weights, got shape {tuple(q.loc.shape)}")
    change = change * model.likelihood.unit
    shift = torch.zeros_like(q.loc)
    shift[..., -1] = model.likelihood.center
    root = q.color(torch.eye(len(change), dtype=q.loc.dtype, device=q.loc.device).view(len(change), 1, 1, -1))
    half = torch.einsum("pr,ktcr->tcpk", change, root)
    return q.loc @ change.mT + shift, half @ half.mT
