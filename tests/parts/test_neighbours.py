"""Rows that borrow from their nearest neighbours."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from builders import class_tasks, close
from torch import Tensor
from torch.nn import functional

from ebmeta import TaskBatch
from ebmeta.parts import neighbours
from ebmeta.parts.neighbours import borrowed, share_of


def by_hand(u: Tensor, share: float, k: int = 8) -> Tensor:
    """Return what the rows of one task are after borrowing, shape `(N, D)`, pair by pair."""
    unit = functional.normalize(u, dim=-1)
    cosine = (unit @ unit.T).tolist()
    n = len(u)
    others = [sorted((cosine[i][j] for j in range(n) if j != i), reverse=True) for i in range(n)]
    edge = [near[min(k, n - 2)] for near in others]
    weight = torch.zeros(n, n, dtype=u.dtype)
    for i in range(n):
        for j in range(n):
            if i != j:
                weight[i, j] = max(cosine[i][j] - edge[i], 0) + max(cosine[i][j] - edge[j], 0)
    degree = weight.sum(1)
    step = share * weight / (degree.unsqueeze(0) * degree.unsqueeze(1)).sqrt()
    z = sum(torch.linalg.matrix_power(step, m) @ u for m in range(5))
    z = z - z.mean(0) + u.mean(0)
    return functional.normalize(z, dim=-1) * u.norm(dim=-1, keepdim=True)


def tasks(**sizes: tuple[int, ...]) -> TaskBatch:
    return class_tasks(**{"ways": (2, 3), "shots": (1, 2), "queries": (14, 30), "features": 5} | sizes)


def zeroed(batch: TaskBatch) -> tuple[Tensor, Tensor]:
    return (
        batch.support_x * batch.support_mask.unsqueeze(-1),
        batch.query_x * batch.query_mask.unsqueeze(-1),
    )


def test_rows_borrow_as_the_formula_says():
    batch = tasks()
    share, got = share_of(batch), borrowed(*zeroed(batch), batch)
    for t in range(2):
        masks = batch.support_mask[t], batch.query_mask[t]
        rows = torch.cat([batch.support_x[t][masks[0]], batch.query_x[t][masks[1]]])
        close(torch.cat([got[0][t][masks[0]], got[1][t][masks[1]]]), by_hand(rows, float(share[t])))
        assert (got[1][t][~masks[1]] == 0).all()


def test_order_and_blocks_do_not_matter(monkeypatch):
    batch = tasks(ways=(3,), shots=(2,), queries=(20,))
    support, query = borrowed(*zeroed(batch), batch)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    turned = borrowed(batch.support_x.flip(1), batch.query_x[:, order], batch)
    close(turned[0], support.flip(1))
    close(turned[1], query[:, order])
    monkeypatch.setattr(neighbours, "CELLS", 100)
    close(borrowed(*zeroed(batch), batch)[1], query)


@pytest.mark.parametrize(
    ("ways", "shots", "queries", "wanted"),
    [
        (5, 1, 75, 0.4),
        (5, 4, 75, 0.2),
        (5, 1, 5, 0.4 / 8),
        (2, 1, 8, 0.4 / 2),
        (2, 1, 1, 0.4 / 16),
        (2, 9, 2, 0.4 / 3),
    ],
)
def test_the_share(ways, shots, queries, wanted):
    batch = class_tasks(ways=(ways,), shots=(shots,), queries=(queries,), features=3)
    close(share_of(batch).double(), torch.tensor([wanted], dtype=torch.float64), 1e-6)


def test_without_labelled_rows_there_are_as_many_classes_as_anchors():
    batch = tasks(ways=(2,), shots=(1,), queries=(32,))
    none = replace(batch, support_mask=torch.zeros_like(batch.support_mask))
    close(share_of(none).double(), torch.tensor([0.4], dtype=torch.float64), 1e-6)
    assert not borrowed(torch.zeros_like(batch.support_x), batch.query_x, none)[0].any()


def test_copies_get_one_answer_and_rows_change_little_where_others_do():
    """Nine copies of a row fill the list of each; a small step of all rows is a small step of the answers."""
    batch = tasks(ways=(2,), shots=(1,), queries=(30,))
    copies = batch.query_x.clone()
    copies[0, :10] = copies[0, 0]
    query = borrowed(batch.support_x, copies, batch)[1]
    close(query[0, :10], query[0, :1].expand(10, -1))
    step = torch.randn(copies.shape, dtype=copies.dtype, generator=torch.Generator().manual_seed(0))
    before, after = (borrowed(batch.support_x, x, batch)[1] for x in (batch.query_x, batch.query_x + 1e-7 * step))
    close(after, before, 1e-5)


def test_rows_along_a_line_borrow_nothing():
    """Their cosines are all 1 or -1 but for rounding, which is no likeness."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(1, 300, 1, generator=rng) * torch.rand(7, generator=rng)
    unit = functional.normalize(x, dim=-1)
    assert (unit @ unit.mT).abs().unique().numel() > 1
    assert neighbours.graph(unit, torch.ones(1, 300, dtype=torch.bool))._nnz() == 0


def test_of_many_rows_some_are_neighbours(monkeypatch):
    """They are spread along the mean, whatever the order of the rows; each row borrows from these alone."""
    batch = tasks(ways=(2,), shots=(1,), queries=(60,))
    monkeypatch.setattr(neighbours, "CANDIDATES", 20)
    query = borrowed(*zeroed(batch), batch)[1]
    close(borrowed(batch.support_x.flip(1), batch.query_x.flip(1), batch)[1].flip(1), query)
    step = neighbours.graph(
        functional.normalize(torch.cat([batch.support_x, batch.query_x], 1), dim=-1),
        torch.ones(1, 62, dtype=torch.bool),
    )
    to = step.to_dense() > 0
    assert (to == to.T).all()
    assert sum(bool(row.sum() > 9) for row in to) <= 20  # a row that is no candidate has its own list alone


def test_rows_of_an_arc_come_nearer_to_their_own():
    """Two classes along arcs: the mean of one labelled row tells more of them after borrowing."""
    rng = torch.Generator().manual_seed(0)
    angle = torch.rand(200, generator=rng, dtype=torch.float64) * 2.2
    y = torch.arange(200) % 2
    arc = torch.stack([angle.cos(), angle.sin()], 1)
    x = torch.cat([arc * (1 - y).unsqueeze(1), arc * y.unsqueeze(1)], 1)
    x = torch.cat([x, 0.35 * torch.randn(200, 12, generator=rng, dtype=torch.float64)], 1)
    batch = TaskBatch(x[None, :2], y[None, :2], x[None, 2:], y[None, 2:])

    def right(support: Tensor, query: Tensor) -> float:
        support, query = (functional.normalize(v, dim=-1) for v in (support, query))
        return float(((query @ support.mT).argmax(-1) == batch.query_y).double().mean())

    before, after = right(batch.support_x, batch.query_x), right(*borrowed(batch.support_x, batch.query_x, batch))
    assert after > before + 0.08
