"""The baselines of benchmarks/lib: exact values, and tasks that each must solve."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from lib.baselines import BASELINES, STRENGTH, prototypes, regression, soft_k_means


def tasks(shots: int, noise: float = 0.3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return two tasks of three classes in 30 dimensions, eight queries of each."""
    source = torch.Generator().manual_seed(0)
    means = torch.nn.functional.normalize(torch.randn(2, 3, 30, generator=source), dim=-1)
    y, truth = (torch.arange(3).repeat_interleave(n).expand(2, -1) for n in (shots, 8))

    def rows(labels: Tensor) -> Tensor:
        x = means.gather(1, labels.unsqueeze(-1).expand(-1, -1, 30))
        return torch.nn.functional.normalize(x + noise * torch.randn(x.shape, generator=source) / 30**0.5, dim=-1)

    return rows(y), y, rows(truth), truth


@pytest.mark.parametrize("shots", [1, 4])
@pytest.mark.parametrize("name", BASELINES)
def test_clear_tasks_are_solved(name: str, shots: int) -> None:
    support, y, query, truth = tasks(shots)
    p = BASELINES[name](support, y, query, 3)
    torch.testing.assert_close(p.sum(-1), torch.ones(2, 24))
    assert torch.equal(p.argmax(-1), truth)


def test_a_regression_in_the_span_of_its_rows_is_that_of_all_features() -> None:
    support, y, query, _ = tasks(4, 3.0)
    found = regression(support, y, query, 3)
    for s, labels, q, p in zip(support.numpy(), y.numpy(), query.numpy(), found.numpy(), strict=True):
        whole = LogisticRegression(C=STRENGTH, max_iter=1000, tol=1e-8).fit(s.astype(float), labels)
        np.testing.assert_allclose(p, whole.predict_proba(q.astype(float)), atol=5e-3)  # its solver stops early


def test_a_strength_is_cross_validated_where_classes_have_two_labels() -> None:
    """One label a class leaves nothing to hold out; labels of rows without any signal ask for equal chances."""
    support, y, query, _ = tasks(1, 3.0)
    assert torch.equal(BASELINES["logistic_regression_cv"](support, y, query, 3), regression(support, y, query, 3))
    support, y, query, _ = tasks(6, 1000.0)
    chosen, given = BASELINES["logistic_regression_cv"](support, y, query, 3), regression(support, y, query, 3)
    off = [float((p[0] - 1 / 3).abs().max()) for p in (chosen, given)]
    assert off[0] < 0.2
    assert off[1] > 0.3


def test_soft_k_means_begins_at_prototypes_and_moves_them_by_its_shares() -> None:
    support, y, query, _ = tasks(2, 2.0)
    first = soft_k_means(support, y, query, 3, sharpness=1.0, steps=0)
    torch.testing.assert_close(first, prototypes(support, y, query, 3))
    rows = torch.cat([support, query], 1)
    weight = torch.cat([torch.nn.functional.one_hot(y, 3).float(), first], 1)
    means = torch.stack(
        [(weight[..., c, None] * rows).sum(1) / weight[..., c].sum(1, keepdim=True) for c in range(3)], 1
    )
    second = torch.softmax(-(query.unsqueeze(2) - means.unsqueeze(1)).square().sum(-1), -1)
    torch.testing.assert_close(soft_k_means(support, y, query, 3, sharpness=1.0, steps=1), second)
