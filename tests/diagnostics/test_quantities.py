"""Test quantities: ranks, places among classes, and surprise, against arithmetic by hand."""

from __future__ import annotations

import numpy as np
import torch
from builders import generator
from scipy import stats

from ebmeta.diagnostics.quantities import among, class_position, randomised_rank, surprise


def testsurprise_counts_labels_in_predictive_standard_deviations():
    summary = {"mean": torch.tensor([[1.0, 2.0, 0.0]]), "std": torch.tensor([[0.5, 4.0, 1.0]])}
    labels, mask = torch.tensor([[[2.0, 2.0, 9.0]], [[1.0, -6.0, 9.0]]]), torch.tensor([[True, True, False]])
    assert surprise(summary, labels, mask).tolist() == [[4.0], [4.0]]
    probs = torch.tensor([[[0.5, 0.5], [0.2, 0.8]]])
    found = surprise({"probs": probs}, torch.tensor([[[0, 1]], [[1, 0]]]), torch.ones(1, 2, dtype=torch.bool))
    np.testing.assert_allclose(found, -np.log([[0.5 * 0.8], [0.5 * 0.2]]), rtol=1e-6)


def test_a_class_has_its_piece_of_the_unit_interval():
    probs = torch.tensor([[[0.2, 0.5, 0.3]]], dtype=torch.float64)
    for y, low, own in ((0, 0.0, 0.2), (1, 0.2, 0.5), (2, 0.7, 0.3)):
        for v in (0.0, 0.25, 1.0):
            got = class_position(probs, torch.tensor([[y]]), torch.tensor([[v]], dtype=torch.float64))
            assert abs(float(got) - (low + v * own)) < 1e-12


def test_ranks_are_uniform_with_ties_and_without():
    """20,000 first values among four others of the same law, on a grid of three: false alarms at 1e-6 for each."""
    for values in (
        torch.randn(5, 20_000, generator=generator(0)),
        torch.randint(3, (5, 20_000), generator=generator(1)).double(),
    ):
        assert stats.kstest(randomised_rank(values, generator(2)), "uniform").pvalue > 1e-6
    first = torch.tensor([[9.0], [1.0], [2.0]])
    assert 2 / 3 < float(randomised_rank(first, generator(3))) < 1


def test_few_weights_are_spread_over_all():
    assert among(8).tolist() == list(range(8))
    assert among(100).tolist()[::7] == [0, 99]
