"""BD-CSPN: prototypes rectified with pseudo-labelled queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lib.peers.base import Peer, class_means, cosine, one_hot, weighted_means


def rectify(support_x: Tensor, support_y: Tensor, query_x: Tensor, n_way: int, sharpness: float) -> Tensor:
    r"""Return class means of the support and of the queries that the support calls that class.

    $$\mu_c = \frac{\sum_i w_{ic} x_i}{\sum_i w_{ic}}, \qquad
      w_{ic} = 1[c = \hat y_i] \exp(\epsilon \cos(x_i, \mu^0_c)),$$

    with $\hat y$ the label of a support row and the nearest support mean $\mu^0$ of a query row.

    Args:
        support_x: support features, shape `(T, S, D)`.
        support_y: support labels, shape `(T, S)`.
        query_x: query features, shifted to the mean of the support, shape `(T, Q, D)`.
        n_way: number of classes $C$.
        sharpness: $\epsilon$.

    Returns:
        $\mu$, shape `(T, C, D)`.
    """
    first = class_means(support_x, support_y, n_way)
    x = torch.cat([support_x, query_x], 1)
    similarity = cosine(x, first)
    labels = torch.cat([support_y, similarity[:, support_y.shape[1] :].argmax(-1)], 1)
    return weighted_means(one_hot(labels, n_way) * (sharpness * similarity).exp(), x)


def shift(support_x: Tensor, query_x: Tensor) -> Tensor:
    """Move the queries so that their mean is the mean of the support."""
    return query_x + support_x.mean(1, keepdim=True) - query_x.mean(1, keepdim=True)


@dataclass(eq=False)
class BDCSPN(Peer):
    r"""Cosine with prototypes rectified by label propagation and feature shift.

    Args:
        center: mean of the base classes, subtracted first, shape `(D,)`; None leaves it out.
        unit: normalise the features first.
        sharpness: $\epsilon$ of the weights in `rectify`.
        shifted: also classify the shifted queries, as the paper does; False keeps the shift to the
            prototypes, as easyfsl does.
        scale: of the final cosines.

    The defaults are easyfsl's; centring, normalising, sharper weights and shifted queries were no better on the
    validation classes.

    Source: Liu, Song and Qin (2020), "Prototype rectification for few-shot learning".
    """

    name: ClassVar[str] = "bd_cspn"
    center: Tensor | None = None
    unit: bool = False
    sharpness: float = 1.0
    shifted: bool = False
    scale: float = 10.0

    def scores(self, support_x: Tensor, support_y: Tensor, query_x: Tensor, n_way: int) -> Tensor:
        if self.center is not None:
            support_x, query_x = support_x - self.center, query_x - self.center
        if self.unit:
            support_x, query_x = normalize(support_x, dim=-1), normalize(query_x, dim=-1)
        moved = shift(support_x, query_x)
        means = rectify(support_x, support_y, moved, n_way, self.sharpness)
        return self.scale * cosine(moved if self.shifted else query_x, means)
