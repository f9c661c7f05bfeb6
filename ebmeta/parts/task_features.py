r"""The features of the rows of tasks, and the geometry that they have together, whatever the encoder that they are of.

A task shows how its rows lie: how far they are from the centres of rough clusters, and in how many directions. The
`Geometry` says it in one way for features of any number and unit. With the design of the task they are what
the prior of a general classifier is a function of (`ebmeta.parts.general_prior`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from ebmeta.parts.clusters import Clusters, find_clusters, told_between
from ebmeta.tasks.batch import TaskBatch

__all__ = ["DESIGN", "Geometry", "TaskFeatures", "counted", "embedded", "evenly_spaced", "geometry_of", "taken"]

DESIGN = 4  # numbers of a task that no row has a part in
MOST = 512  # queries of a task that are compared with each other
UNKNOWN = 3  # classes for rows of none
MANY = 100.0  # rows of a class, from which on more of them say the same
MOST_COUNTED = 40.0  # queries of a class that count; more count together as so many


@dataclass(frozen=True, eq=False)
class Geometry:
    """The design of each task and how its rows lie, the same for any order of rows and classes.

    Args:
        design: how many classes, labelled rows of a class and queries of a class there are, all in logs, and whether
            any class has several labelled rows, shape `(T, 4)`.
        clusters: of a rough clustering of up to 512 queries (`ebmeta.parts.clusters`).
        share: how much each query counts: what 40 of a class are of all, 1 where there are no more, shape `(T,)`.
    """

    design: Tensor
    clusters: Clusters
    share: Tensor


@dataclass(frozen=True, eq=False)
class TaskFeatures:
    r"""The features of all rows of tasks, with the constant last.

    Args:
        support: those of labelled rows, shape `(T, S, P)`.
        query: those of the queries, shape `(T, Q, P)`.
        anchor: those of the anchors of classes, shape `(T, C, P)`; None where there are none.
        geometry: how the rows of each task lie; None of heads whose priors do not ask for it.
    """

    support: Tensor
    query: Tensor
    anchor: Tensor | None = None
    geometry: Geometry | None = None


def embedded(embedder: nn.Module, rows: Tensor) -> Tensor:
    """Return what an embedder makes of inputs of shape `(N, ...)`, features of shape `(N, D)`.

    It may write into the inputs, as layers with `inplace=True` do.

    Raises:
        ValueError: if it returns something else, or out of training a number that is not finite.
    """
    out = embedder(rows)
    if not isinstance(out, Tensor) or out.dim() != 2 or len(out) != len(rows):
        got = f"shape {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
        wanted = f"a tensor of shape ({len(rows)}, D) for inputs of shape {tuple(rows.shape)}"
        raise ValueError(f"embedder: expected {wanted}, got {got}")
    if not embedder.training and not bool(out.isfinite().all()):
        raise ValueError("embedder: expected finite features, got NaN or infinity")
    return out


def counted(batch: TaskBatch, dtype: torch.dtype) -> Tensor:
    """Return how much each query counts: what 40 of a class are of all, 1 where there are no more, shape `(T,)`.

    Rows of real classes are not independent, and beliefs about thousands of them would outweigh any label.
    """
    queries = batch.query_mask.sum(1) / batch.way_mask.sum(1).to(dtype).clamp(min=2)
    return (MOST_COUNTED / queries).clamp(max=1)


@torch.no_grad()
def geometry_of(support: Tensor, query: Tensor, batch: TaskBatch, anchor: Tensor | None = None) -> Geometry:
    """Return the geometry of tasks, with more clusters than classes where rows may be of none of the classes.

    Args:
        support: unit vectors of the labelled rows, zero for padding, shape `(T, S, D)`.
        query: those of the queries, shape `(T, Q, D)`.
        batch: the tasks.
        anchor: unit vectors of anchors, shape `(T, C, D)`, each of which is so many labelled rows; None without any.
    """
    member = functional.one_hot(batch.support_y.clamp(min=0), batch.way_mask.shape[1]).to(support.dtype)
    member = member * batch.support_mask.unsqueeze(-1)
    sums, counts = member.mT @ support, member.sum(1)
    ways = batch.way_mask.sum(1).to(support.dtype).clamp(min=2)
    repeated = ((counts * (counts - 1)).sum(1) > 0).to(support.dtype)
    if anchor is not None and batch.anchor_size is not None:
        size = batch.anchor_size.to(support.dtype)
        sums, counts = sums + size.unsqueeze(-1) * anchor, counts + size
    shots, queries = counts.sum(1) / ways, batch.query_mask.sum(1) / ways
    design = [
        ways.log() - 1.6,
        (shots.clamp(max=MANY) + 0.1).log(),
        (queries.clamp(max=MANY) + 0.1).log() - 1,
        repeated,
    ]
    chosen, there = evenly_spaced(query * batch.query_mask.unsqueeze(-1), batch.query_mask, sums.sum(1), MOST)
    rows = taken(query, chosen) * there.unsqueeze(-1)
    found = find_clusters(rows, there, *_with_unknown(rows, there, sums, counts, batch))
    within = torch.minimum(found.within, 1 - told_between(support, member, found.coordinates))
    found = replace(found, within=within)
    return Geometry(torch.stack(design, -1), found, counted(batch, support.dtype))


def _with_unknown(
    rows: Tensor, mask: Tensor, sums: Tensor, counts: Tensor, batch: TaskBatch
) -> tuple[Tensor, Tensor, Tensor]:
    """Return sums, counts and mask of classes, with unknown ones about rows far from all where there may be such."""
    ways = batch.way_mask
    if batch.outliers is None or not bool(batch.outliers.any()):
        return sums, counts, ways
    near = functional.normalize(sums, dim=-1, eps=1e-6) @ rows.mT
    nearest = near.masked_fill(~(ways & (counts > 0)).unsqueeze(-1), -1.0).amax(1)
    for _ in range(UNKNOWN):
        chosen = nearest.masked_fill(~mask, 2.0).argmin(1)
        seed = rows.gather(1, chosen[:, None, None].expand(-1, -1, rows.shape[2]))
        nearest = torch.maximum(nearest, (seed @ rows.mT).squeeze(1))
        here = batch.outliers.unsqueeze(1)
        sums, counts = torch.cat([sums, seed * here.unsqueeze(-1)], 1), torch.cat([counts, here.to(counts)], 1)
        ways = torch.cat([ways, here], 1)
    return sums, counts, ways


def evenly_spaced(rows: Tensor, mask: Tensor, toward: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Return the places of up to so many rows of each task, evenly spaced in the order of their product with a vector.

    Args:
        rows: shape `(T, N, D)`.
        mask: True where a row is real, shape `(T, N)`.
        toward: the vector of each task, shape `(T, D)`.
        most: how many there are at most, $M$; where there are no more rows in the batch, all are taken as they lie.

    Returns:
        Places, and whether a row is there, both of shape `(T, min(M, N))`.
    """
    if rows.shape[1] <= most:
        return torch.arange(rows.shape[1], device=rows.device).expand(mask.shape), mask
    order = (rows @ toward.unsqueeze(-1)).squeeze(-1).masked_fill(~mask, math.inf).argsort(1)
    count = mask.sum(1, keepdim=True)
    place = torch.arange(most, device=rows.device).unsqueeze(0)
    spaced = torch.where(count > most, place * count // most, place)
    return order.gather(1, spaced.clamp(max=rows.shape[1] - 1)), place < count


def taken(rows: Tensor, places: Tensor) -> Tensor:
    """Return the rows `(T, N, D)` at places `(T, M)`, shape `(T, M, D)`."""
    return rows.gather(1, places.unsqueeze(-1).expand(-1, -1, rows.shape[2]))
