r"""The metric of a head that looks at directions, where members of a class vary alike.

$$ M = \tilde S^{-1/4}, \qquad \tilde S = (1 - a)\, S + a\, \tfrac{\mathrm{tr} S}{D} I, $$

with $S$ the covariance within classes: partial whitening, chosen on validation classes (docs: "Design notes").
"""

from __future__ import annotations

import torch
from torch import Tensor

from ebmeta.foundation.standardization import centred, check_resolution

__all__ = ["measured_frame", "within_metric"]

POWER = 0.25  # of the covariance within classes: 0 leaves the features alone, 1/2 whitens them
SHRINKAGE = 0.3  # of that covariance towards a multiple of the identity


def within_metric(x: Tensor, cluster: Tensor) -> Tensor | None:
    """Return $M$ of rows, up to a factor; None where no class has two rows that differ.

    Args:
        x: rows, their largest number about 1, shape `(N, D)`.
        cluster: number of each row's class, shape `(N,)`.

    Examples:
        >>> x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        >>> within_metric(x, torch.tensor([0, 0, 1, 1])).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    _, index, count = torch.unique(cluster, return_inverse=True, return_counts=True)
    off = x - (x.new_zeros(len(count), x.shape[1]).index_add_(0, index, x) / count.unsqueeze(-1))[index]
    freedom = int((count - 1).sum())
    within = off.mT @ off / max(freedom, 1)
    size = within.diagonal().mean()
    if float(size) <= 0:
        return None
    values, vectors = torch.linalg.eigh(within / size)
    values = ((1 - SHRINKAGE) * values + SHRINKAGE) ** -POWER
    metric: Tensor = (vectors * values) @ vectors.mT
    return metric


def measured_frame(x: Tensor, cluster: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return centre and $M$ of rows of any unit; None for $M$ as of `within_metric`.

    Args:
        x: rows, shape `(N, D)`.
        cluster: number of each row's class, shape `(N,)`.

    Raises:
        ValueError: if the features, all of them together, vary by too few roundings of their numbers.
    """
    center, off = centred(x)
    reach = off.abs().max()
    deviation = float(reach * (off / reach).square().mean().sqrt()) if float(reach) > 0 else 0.0
    check_resolution("features", deviation, x)
    return center, within_metric(off / torch.where(reach > 0, reach, 1.0), cluster)
