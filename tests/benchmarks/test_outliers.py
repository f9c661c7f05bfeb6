"""The benchmark of outliers: unknown classes have no labelled row, absent ones no query."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import outliers
from lib.common import cifar_fs

pytestmark = pytest.mark.usefixtures("shared_data")


def classes(rows: torch.Tensor) -> torch.Tensor:
    """Return the class of the split that each row is of, by its features."""
    sampler = cifar_fs("val")
    number = {x.tobytes(): int(c) for x, c in zip(np.asarray(sampler.X), np.repeat(np.arange(16), 600), strict=True)}
    return torch.tensor([[number[x.tobytes()] for x in task] for task in rows.numpy()])


def test_queries_of_unknown_classes_come_last_and_no_labelled_row_is_of_one():
    ((batch, y),) = outliers.with_unknown("val", 2, 6, 0)
    assert batch.query_y is None
    assert batch.way_mask.tolist() == [[True] * 5] * 6
    assert y.tolist() == [np.repeat(np.arange(8), 15).tolist()] * 6
    support, query = classes(batch.support_x), classes(batch.query_x)
    for t in range(6):
        of = {int(label): int(c) for label, c in zip(batch.support_y[t], support[t], strict=True)}
        assert len(set(of.values())) == 5
        assert query[t, :75].tolist() == [of[int(label)] for label in y[t, :75]]
        assert not set(query[t, 75:].tolist()) & set(of.values())
    assert torch.equal(outliers.clean(batch).query_x, batch.query_x[:, :75])


def test_queries_are_of_two_of_ten_classes():
    (batch,) = outliers.Absent("val", 1, 0).draw(5)
    assert batch.concentration is None
    assert batch.way_mask.sum(1).tolist() == [10] * 5
    assert batch.query_y.tolist() == [np.repeat([0, 1], 15).tolist()] * 5
    support, query = classes(batch.support_x), classes(batch.query_x)
    for t in range(5):
        of = {int(label): int(c) for label, c in zip(batch.support_y[t], support[t], strict=True)}
        assert sorted(of) == list(range(10))
        assert query[t].tolist() == [of[int(label)] for label in batch.query_y[t]]


def test_areas_are_those_of_pairs():
    outlier = torch.tensor([[False, False, True], [False, True, True]])
    scores = torch.tensor([[0.1, 0.6, 0.5], [0.2, 0.3, 0.9]])
    found = outliers.area(outlier, scores)
    assert found["pooled"] == pytest.approx(7 / 9)
    assert found["each"][0] == pytest.approx((0.5 + 1.0) / 2)


def test_rows_of_unknown_classes_are_known_where_classes_are_of_unequal_sizes():
    sizes = [8, 14, 20, 30, 18, 16, 40, 19, 12]
    rows = [np.full((size, 2), c, dtype=np.float32) for c, size in enumerate(sizes)]
    batch = outliers.some(rows, 2, 3, np.random.default_rng(0))
    assert len(set(batch.query_mask.sum(1).tolist())) > 1  # some tasks have fewer queries than others
    for t, none in enumerate(outliers.of_none(batch, 3)):
        labelled = set(batch.support_x[t, :, 0].tolist())
        assert none.tolist() == [
            real and value not in labelled
            for real, value in zip(batch.query_mask[t].tolist(), batch.query_x[t, :, 0].tolist(), strict=True)
        ]
