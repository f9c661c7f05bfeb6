r"""Rows of a task that borrow from their nearest neighbours.

Classes of weak features are seldom round: they lie along curves, of which a mean knows little, while near rows are
mostly of one class. So every row takes some of its neighbours before any mean is taken. With $c_{ij}$ the cosine of
two rows, and $t_i$ that of row $i$ with its $(k + 1)$-th nearest,

$$ w_{ij} = [c_{ij} - t_i]_+ + [c_{ij} - t_j]_+ , \qquad S = D^{-1/2} W D^{-1/2} , \qquad D_{ii} = \sum_j w_{ij} , $$

$$ z = \sum_{n=0}^{4} (\alpha S)^n u , \qquad
   \alpha = \frac{2}{5 \sqrt{n}} \min \Big( 1, \frac{N / C - 1}{k} \Big) . $$

Of $N$ rows in $C$ classes each has $N / C - 1$ others of its class; where these are fewer than $k$, it borrows less. It
does, too, where classes have more labelled rows, $n$ on average: these tell where a class lies.

The mean of all rows stays where it was: the error of the centre of a task is common to its rows, and would grow where
what they have of their own is averaged away. Lengths stay, too.

The weights are the same for any order of the rows, and change little where rows do; but copies of a row that fill its
list have no weight for it, nor have rows of its very direction, as all are in one dimension. Where a task has more than
4,096 rows, neighbours are looked for among so many, evenly spaced by their cosine with the mean.

Source: Rodríguez, Laradji, Drouin and Lacoste 2020, Embedding propagation, whose neighbours are all rows.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ebmeta.parts.task_features import evenly_spaced, taken
from ebmeta.tasks.batch import TaskBatch

__all__ = ["borrowed"]

NEAREST = 8  # k
BORROWED = 0.4  # of neighbours, by a row of a class of one labelled row
STEPS = 4
CANDIDATES = 4096  # rows of a task among which neighbours are looked for
ROUNDING = 8  # units in the last place, by which cosines of rows in one direction differ
CELLS = 2**24  # pairs of rows that are compared at a time


def borrowed(support: Tensor, query: Tensor, batch: TaskBatch) -> tuple[Tensor, Tensor]:
    """Return labelled rows and queries after borrowing.

    Args:
        support: labelled rows $u$, zero for padding, shape `(T, S, D)`.
        query: queries, shape `(T, Q, D)`.
        batch: the tasks.
    """
    u, mask = torch.cat([support, query], 1), torch.cat([batch.support_mask, batch.query_mask], 1)
    share = share_of(batch).to(u.dtype)
    if not bool((share > 0).any()):
        return support, query
    step = share.repeat_interleave(u.shape[1]).unsqueeze(-1)
    near = graph(functional.normalize(u.detach(), dim=-1, eps=1e-6), mask)
    flat = z = u.flatten(0, 1)
    for _ in range(STEPS):
        z = flat + step * torch.sparse.mm(near, z)
    z = z.view_as(u)
    common = (z - u).sum(1, keepdim=True) / mask.sum(1)[:, None, None]
    z = functional.normalize(z - common, dim=-1, eps=1e-6) * u.norm(dim=-1, keepdim=True)
    return z[:, : support.shape[1]], z[:, support.shape[1] :]


def share_of(batch: TaskBatch) -> Tensor:
    r"""Return what rows of each task borrow, $\alpha$, shape `(T,)`."""
    ways, labelled, rows = batch.way_mask.sum(1), batch.support_mask.sum(1), batch.query_mask.sum(1)
    others = ((labelled + rows) / ways - 1) / NEAREST
    return BORROWED * others.clamp(0, 1) / (labelled / ways).clamp(min=1).sqrt()


@torch.no_grad()
def graph(unit: Tensor, mask: Tensor) -> Tensor:
    r"""Return $S$ of all rows of all tasks, sparse, shape `(T N, T N)`.

    Args:
        unit: rows, unit vectors, shape `(T, N, D)`.
        mask: True where a row is real, shape `(T, N)`.
    """
    tasks, rows, _ = unit.shape
    number = mask.sum(1)
    chosen, real = evenly_spaced(unit, mask, unit.sum(1), CANDIDATES)
    others = taken(unit, chosen) if rows > CANDIDATES else unit
    kept = min(NEAREST + 1, chosen.shape[1])
    values, places = [], []
    block = max(1, CELLS // (tasks * chosen.shape[1]))
    for start in range(0, rows, block):
        cosine = unit[:, start : start + block] @ others.mT
        own = chosen.unsqueeze(1) == torch.arange(start, start + cosine.shape[1], device=unit.device).unsqueeze(-1)
        cosine.masked_fill_(own | ~real.unsqueeze(1), -2.0)
        found = cosine.topk(kept, -1)
        values.append(found.values)
        places.append(found.indices)
    near, place = torch.cat(values, 1), torch.cat(places, 1)
    last = (torch.minimum(number, real.sum(1)) - 2).clamp(0, kept - 1)
    edge = near.gather(-1, last[:, None, None].expand(-1, rows, 1))
    alike = near - edge <= ROUNDING * torch.finfo(near.dtype).eps
    over = (near - edge).masked_fill(alike | ~mask.unsqueeze(-1) | (near <= -2), 0.0)
    offset = rows * torch.arange(tasks, device=unit.device)[:, None, None]
    column = (chosen.unsqueeze(1).expand(-1, rows, -1).gather(-1, place) + offset).flatten()
    row = torch.arange(tasks * rows, device=unit.device).repeat_interleave(kept)
    pairs = torch.stack([torch.cat([row, column]), torch.cat([column, row])])
    weight = over.flatten().repeat(2)
    degree = weight.new_zeros(tasks * rows).index_add_(0, pairs[0], weight)
    scale = torch.where(degree > 0, degree.clamp(min=1e-9).rsqrt(), 0.0)
    weight = weight * scale[pairs[0]] * scale[pairs[1]]
    some = weight > 0
    size = (tasks * rows, tasks * rows)
    # Said aloud, since some versions of torch warn where it is not.
    with torch.sparse.check_sparse_tensor_invariants(False):  # type: ignore[no-untyped-call]
        return torch.sparse_coo_tensor(pairs[:, some], weight[some], size).coalesce()
