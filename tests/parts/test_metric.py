"""The metric within classes is a power of their covariance."""

from __future__ import annotations

import pytest
import torch
from builders import close

from ebmeta.parts.metric import measured_frame, within_metric


def test_the_fourth_power_is_the_inverse_of_the_shrunk_covariance():
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(30, 3, generator=rng, dtype=torch.float64) * torch.tensor([1.0, 3.0, 0.2], dtype=torch.float64)
    cluster = torch.arange(30) // 10
    within = sum(torch.cov(x[cluster == c].T) for c in range(3)) / 3
    shrunk = 0.7 * within + 0.3 * within.trace() / 3 * torch.eye(3, dtype=torch.float64)
    close(
        torch.linalg.matrix_power(within_metric(x, cluster), 4) @ shrunk,
        within.trace() / 3 * torch.eye(3).double(),
        1e-8,
    )


def test_without_two_different_rows_of_a_class_there_is_none():
    x = torch.eye(3, dtype=torch.float64)
    assert within_metric(x, torch.arange(3)) is None
    assert within_metric(x[[0, 0]], torch.zeros(2, dtype=torch.long)) is None


def test_a_frame_is_the_same_in_any_unit_and_refuses_what_hardly_varies():
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cluster = torch.arange(8).repeat_interleave(5)
    center, metric = measured_frame(x, cluster)
    torch.testing.assert_close(center, x.mean(0))
    moved, same = measured_frame(1e6 * x - 3e5, cluster)
    torch.testing.assert_close(same, metric)
    torch.testing.assert_close(moved, 1e6 * x.mean(0) - 3e5)
    assert measured_frame(x, torch.arange(40))[1] is None
    with pytest.raises(ValueError, match="features"):
        measured_frame(1e12 + 1e-3 * x, cluster)
