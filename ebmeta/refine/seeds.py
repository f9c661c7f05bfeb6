r"""Queries that unknown classes start at, where rows may be of none of a task's classes.

Unknown classes are like the others, and no row tells them apart. Beliefs about them would stay equal. So steps begin
as if a query stood for each: one that explains others which the classes explain badly. With $\ell_i$ the best
log density of query $i$ under the classes so far, and $\ell_i(j)$ that under a class of which query $j$ is the one row,
the next is the query $j$ of the largest

$$ \sum_{i \ne j} \max \big( 0,\; \ell_i(j) - \ell_i \big) . $$

Where this is less than $30 / n$ nats, with $n$ labelled rows of a class on average, the class starts without a row, and
waits for rows that nothing else explains: few rows leave a known class at a wrong place, so that a query of its own
explains others better. Of a large pile a row counts less (`ebmeta.parts.general_prior`), and so do its nats. Only the
first look at the queries knows of seeds: what a step returns is the posterior given its beliefs and the prior.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ebmeta.likelihood import NEVER
from ebmeta.parts.class_gaussian import ClassGaussian

__all__ = ["find_seeds", "started"]

MOST = 256  # queries that may be seeds, those that the classes explain worst
LEAST = 30.0  # nats that a seed has to explain more of others, times n; chosen on the validation classes of CIFAR-FS


@torch.no_grad()
def find_seeds(q0: ClassGaussian, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the number of the query that each unknown class starts at, and what it explains in nats, both `(T, U)`.

    Args:
        q0: the posterior from the support set, with unknown classes.
        x: features of the queries, zero for padding, shape `(T, Q, P)`.
        mask: True where a query is real, shape `(T, Q)`.
    """
    odds, _ = q0.log_odds(x)
    explained = odds[..., : -q0.unknown].amax(-1)
    count = min(MOST, x.shape[1])
    each = explained.masked_fill(~mask, -NEVER).topk(count, largest=False).indices
    rows = x.gather(1, each.unsqueeze(-1).expand(-1, -1, x.shape[-1]))[..., :-1]
    shape = (-1, count, -1)
    alone = replace(
        q0,
        loc=q0.loc[:, -1:].expand(shape),
        precision=q0.precision[:, -1:].expand(shape),
        shares=q0.shares[:, -1:].expand(-1, count),
        unknown=0,
    ).anchored(rows, torch.ones_like(rows[..., 0]))
    odds, _ = alone.log_odds(x)
    other = torch.arange(x.shape[1], device=x.device)[:, None] != each.unsqueeze(1)
    table = odds.masked_fill(~(other & mask.unsqueeze(-1)), NEVER)
    possible = mask.gather(1, each)
    chosen, gained = [], []
    for _ in range(q0.unknown):
        gain = (table - explained.unsqueeze(-1)).clamp(min=0).sum(1)
        best = gain.masked_fill(~possible, -1.0).argmax(1, keepdim=True)
        chosen.append(each.gather(1, best))
        gained.append(gain.gather(1, best))
        explained = torch.maximum(explained, table.gather(2, best.unsqueeze(1).expand(-1, len(other[0]), 1))[..., 0])
        explained = explained.scatter(1, chosen[-1], -NEVER)
    return torch.cat(chosen, 1), torch.cat(gained, 1)


def started(q0: ClassGaussian, x: Tensor, mask: Tensor) -> ClassGaussian:
    """Return the posterior with unknown classes where the first step looks for them; arguments as of `find_seeds`."""
    known = q0.loc.shape[1] - q0.unknown
    seeds, gained = find_seeds(q0, x, mask)
    rows = x.gather(1, seeds.unsqueeze(-1).expand(-1, -1, x.shape[-1]))[..., :-1]
    stands = torch.cat([torch.zeros_like(q0.loc[:, :known]), rows], 1)
    real, spread = q0.real[:, :known], q0.spread.reshape(-1, 1)
    labelled = (q0.precision[:, :known, 0] - q0.precision[:, -1:, 0]) * spread * real  # rows of each class
    number = (labelled.sum(1, keepdim=True) / real.sum(1, keepdim=True)).clamp(min=1)
    counted = gained if q0.trust is None else q0.trust[..., 0] * gained
    worth = torch.cat([rows.new_zeros(len(rows), known), (counted > LEAST / number).to(rows.dtype)], 1)
    return q0.anchored(stands, worth * q0.real)
