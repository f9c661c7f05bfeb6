"""The geometry of a task says how its rows lie, whatever their order, unit, frame and number."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from builders import class_tasks, close, regressor

from ebmeta import TaskBatch
from ebmeta.parts import neighbours
from ebmeta.parts.clusters import find_clusters
from ebmeta.parts.task_features import DESIGN, MOST, MOST_COUNTED, UNKNOWN, embedded, geometry_of
from ebmeta.parts.task_head import TaskHead

SIDES = ("support_x", "query_x")


def read(batch: TaskBatch) -> torch.Tensor:
    """The design, log s, log k and the log of the share of queries, shape `(T, 7)`."""
    found = TaskHead().double().of_task(batch).geometry
    assert found is not None
    others = [found.clusters.within, found.clusters.coordinates, found.share]
    return torch.cat([found.design, torch.stack(others, -1).log()], -1)


def one_task(queries: int, features: int = 6, seed: int = 0) -> TaskBatch:
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(queries + 4, features, generator=rng, dtype=torch.float64)
    y = torch.tensor([0, 1, 0, 1])
    return TaskBatch(x[None, :4], y[None], x[None, 4:])


def test_each_number_is_the_one_that_is_stated():
    batch = one_task(7)
    features = TaskHead().double().of_task(batch)
    u = features.query[0, :, :-1]
    s = features.support[0, :, :-1]
    sums = torch.stack([s[0] + s[2], s[1] + s[3]])
    two = torch.ones(1, 2, dtype=torch.float64)
    clusters = find_clusters(u[None], torch.ones(1, 7).bool(), sums[None], 2 * two, two.bool())
    design = [math.log(2) - 1.6, math.log(2.1), math.log(3.6) - 1, 1.0]
    assert len(design) == DESIGN
    wanted = [*design, float(clusters.within.log()), float(clusters.coordinates.log()), 0.0]
    close(read(batch)[0], torch.tensor(wanted, dtype=torch.float64))


@pytest.mark.parametrize("queries", [7, MOST + 100])
def test_order_unit_and_frame_change_nothing(queries):
    batch, rng = one_task(queries), torch.Generator().manual_seed(1)
    order = torch.randperm(queries, generator=rng)
    turned, _ = torch.linalg.qr(torch.randn(6, 6, generator=rng, dtype=torch.float64))
    for other in (
        replace(batch, query_x=batch.query_x[:, order]),
        replace(batch, support_y=1 - batch.support_y),
        replace(batch, support_x=1e6 * batch.support_x + 3e6, query_x=1e6 * batch.query_x + 3e6),
        replace(batch, support_x=batch.support_x @ turned, query_x=batch.query_x @ turned),
    ):
        close(read(other), read(batch), 1e-6)


def test_tasks_of_other_sizes_change_nothing():
    batch = class_tasks()
    alone = [read(part) for _, part in batch.parts(1)]
    rows = torch.cat([index for index, _ in batch.parts(1)])
    close(read(batch)[rows], torch.cat(alone))


def test_an_anchor_is_so_many_labelled_rows():
    batch = one_task(9)
    features = TaskHead().double().of_task(batch)
    s, u = features.support[..., :-1], features.query[..., :-1]
    x, y = batch.support_x, batch.support_y
    expected = geometry_of(s[:, :2], u, TaskBatch(x[:, :2], y[:, :2], batch.query_x))
    ways = torch.ones(1, 2, dtype=torch.bool)
    anchored = TaskBatch(
        x[:, :0], y[:, :0], batch.query_x, way_mask=ways, anchor=x[:, :2], anchor_size=torch.ones(1, 2)
    )
    got = geometry_of(s[:, :0], u, anchored, s[:, :2])
    for name in ("within", "coordinates"):
        close(getattr(got.clusters, name), getattr(expected.clusters, name), 0.0)
    close(got.design, expected.design, 0.0)
    twice = geometry_of(s[:, [0, 1, 0, 1]], u, batch)
    got = geometry_of(s[:, :0], u, replace(anchored, anchor_size=torch.full((1, 2), 2.0)), s[:, :2])
    close(got.clusters.within, twice.clusters.within)
    close(got.design[:, :3], twice.design[:, :3])
    assert (got.design[0, 3], twice.design[0, 3]) == (0.0, 1.0)  # the spread within a class stays unseen
    assert TaskHead().double().of_task(anchored).geometry.design[0, 1] == expected.design[0, 1]


def test_many_rows_are_like_some_of_them():
    many, few = read(one_task(5000, 20))[0], read(one_task(MOST, 20))[0]
    assert (many - few)[-3:-1].abs().max() < 0.1


def test_so_many_rows_of_a_class_count_and_more_together_as_so_many():
    for queries in (7, int(2 * MOST_COUNTED), 5000):  # of two classes
        share = read(one_task(queries, 20))[0, -1].exp()
        close(share, torch.tensor(min(1.0, 2 * MOST_COUNTED / queries)).double())


def test_rows_that_may_be_of_none_have_rough_clusters_of_their_own(monkeypatch):
    """Those begin at the rows that are farthest from all classes and from each other."""
    batch = one_task(9)
    other = replace(batch, outliers=torch.tensor([True]))
    monkeypatch.setattr(neighbours, "BORROWED", 0.0)
    features = TaskHead().double().of_task(batch)
    u, s = features.query[0, :, :-1], features.support[0, :, :-1]
    sums = [s[0] + s[2], s[1] + s[3]]
    for _ in range(UNKNOWN):
        nearest = torch.stack([u @ (c / c.norm()) for c in sums]).amax(0)
        sums.append(u[nearest.argmin()])
    counts = torch.tensor([[2.0, 2.0, 1.0, 1.0, 1.0]]).double()
    found = find_clusters(u[None], torch.ones(1, 9).bool(), torch.stack(sums)[None], counts, counts > 0)
    wanted = [found.within.log(), found.coordinates.log()]
    close(read(other)[0, DESIGN:-1], torch.cat(wanted))


def test_a_task_without_outliers_is_read_alike_beside_one_that_may_have_some():
    alone, beside = one_task(9), one_task(9, seed=1)
    both = TaskBatch(
        *(
            torch.cat([getattr(task, name) for task in (alone, beside)])
            for name in ("support_x", "support_y", "query_x")
        ),
        outliers=torch.tensor([False, True]),
    )
    close(read(both)[0], read(alone)[0])
    close(read(both)[1], read(replace(beside, outliers=torch.tensor([True])))[0])


def test_constant_features_change_nothing():
    """Two features say as much beside five that are constant, and no column is a coordinate that does not vary."""
    batch = one_task(9, features=2)
    still = torch.full((1, 13, 5), 0.1, dtype=torch.float64)
    more = {side: torch.cat([getattr(batch, side), still[:, : getattr(batch, side).shape[1]]], -1) for side in SIDES}
    close(read(replace(batch, **more)), read(batch))
    found = TaskHead().double().of_task(replace(batch, **more)).geometry
    assert found is not None
    assert found.clusters.features.tolist() == [2]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x: x.tolist(), r"a tensor of shape \(5, D\) for inputs of shape \(5, 3\), got list"),
        (lambda x: x[:-1], r"a tensor of shape \(5, D\) for inputs of shape \(5, 3\), got shape \(4, 3\)"),
        (lambda x: x.unsqueeze(-1), r"a tensor of shape \(5, D\) for inputs of shape \(5, 3\), got shape \(5, 3, 1\)"),
        (lambda x: x / 0, "finite features, got NaN or infinity"),
    ],
    ids=["list", "fewer", "three axes", "infinite"],
)
def test_an_embedder_returns_features(answer, message):
    class Own(torch.nn.Module):
        def forward(self, x):
            return answer(x)

    with pytest.raises(ValueError, match=f"embedder: expected {message}"):
        embedded(Own().eval(), torch.ones(5, 3))


def test_an_embedder_that_writes_into_its_input_leaves_the_tasks_alone():
    """Each prediction was made from what the one before had left of the inputs."""
    batch = one_task(7)
    before = batch.query_x.clone()
    model = regressor(6, embedder=torch.nn.Sequential(torch.nn.ReLU(inplace=True), torch.nn.Linear(6, 6)))
    tasks = TaskBatch(batch.support_x, batch.support_y.double(), batch.query_x)
    first, second = (model.posterior(tasks)[-1].loc for _ in range(2))
    assert torch.equal(batch.query_x, before)
    assert torch.equal(first, second)
