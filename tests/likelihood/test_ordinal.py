"""Ordered categories: thresholds, probabilities, and labels that are refused."""

import math

import numpy as np
import pytest
import torch
from scipy import special

from ebmeta.likelihood import Bernoulli, Ordinal, Poisson, ScalarLikelihood

WAYS = torch.ones(1, 1, dtype=torch.bool)
ETA = torch.tensor([-1.5, 0.3, 2.0, 0.9], dtype=torch.float64)
Y = torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=torch.float64)


def four() -> Ordinal:
    likelihood = Ordinal(4).double()
    for gap, distance in zip(likelihood.log_gaps, (0.7, 1.2), strict=True):
        gap.data.fill_(math.log(distance))
    return likelihood


def test_thresholds_are_ordered_whatever_the_parameters():
    likelihood = four()
    torch.testing.assert_close(likelihood.thresholds, torch.tensor([0.0, 0.7, 1.9], dtype=torch.float64))
    assert likelihood.numbers() == pytest.approx({"threshold(1|2)": 0.7, "threshold(2|3)": 1.9})
    likelihood.log_gaps[0].data.fill_(-50.0)
    assert bool((likelihood.thresholds.diff() > 0).all())


def test_two_categories_are_yes_and_no():
    one, two, y = Ordinal(2), Bernoulli(), torch.tensor([0.0, 1.0, 1.0, 0.0]).double()
    assert not list(one.parameters())
    assert one.numbers() == {}
    laid = ETA.view(1, -1, 1)
    torch.testing.assert_close(one.log_prob(y, laid, WAYS), two.log_prob(y, laid, WAYS))
    for found, exact in zip(one.expansion(y.numpy(), ETA.numpy()), two.expansion(y.numpy(), ETA.numpy()), strict=True):
        np.testing.assert_allclose(found, exact)
    assert one.intercept(y, None) == pytest.approx(two.intercept(y, None))


def test_a_kernel_is_the_log_probability_and_its_expansion_is_that_of_differentiation():
    likelihood = four()
    torch.testing.assert_close(likelihood.kernel(Y, ETA), likelihood.log_prob(Y, ETA.view(1, -1, 1), WAYS)[0])
    y, at = Y[:, None].numpy(), np.stack([ETA, 1 - ETA], 1)
    both = (likelihood.expansion(y, at), ScalarLikelihood.expansion(likelihood, y, at))
    for closed, differentiated in zip(*both, strict=True):
        np.testing.assert_allclose(closed, differentiated, rtol=1e-10, atol=1e-12)
    assert all(np.isfinite(part).all() for part in likelihood.expansion(y, np.array([[-2000.0, 2000.0]])))


def test_the_information_is_the_mean_square_of_the_score():
    likelihood = four()
    for eta in (-1.0, 0.5, 3.0):
        at = np.full(4, eta)
        value, slope, _ = likelihood.expansion(Y.numpy(), at)
        assert np.exp(value).sum() == pytest.approx(1.0)
        assert likelihood.information(torch.tensor(eta)).item() == pytest.approx(np.exp(value) @ slope**2)


def test_thresholds_start_at_the_log_odds_of_the_labels():
    y = np.repeat([0.0, 1.0, 2.0], [500, 300, 200])
    likelihood = Ordinal.of(y)
    assert likelihood.num_labels == 3
    below = special.logit(np.array([500.5, 801.0]) / 1001.5)
    assert likelihood.numbers()["threshold(1|2)"] == pytest.approx(below[1] - below[0], rel=1e-6)
    assert likelihood.intercept(torch.from_numpy(y), None) == pytest.approx(math.log(500.5 / 500.5))
    assert isinstance(Poisson.of(y), Poisson)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0.0, 1.5], "labels: expected categories 0, 1, 2, ... for an ordinal likelihood, got 1.5 at row 1"),
        ([0.0, -1.0], "labels: expected categories 0, 1, 2, ... for an ordinal likelihood, got -1 at row 1"),
        (
            [1.0, 2.0],
            "labels: expected rows of each of the categories 0, ..., 2 for an ordinal .*, got no row of 0",
        ),
        (
            [0.0, 3.0, 1.0],
            "categories 0, ..., 3 for an ordinal likelihood, got no row of 2 .number them from 0",
        ),
        (
            [0.0, 0.0],
            "labels: expected rows of each of the categories 0, ..., 1 for an ordinal .*, got 0 in every",
        ),
    ],
)
def test_labels_with_gaps_or_between_categories_are_refused(y, message):
    with pytest.raises(ValueError, match=message):
        Ordinal.of(np.array(y))


def test_labels_at_an_end_tell_nothing():
    assert four().extreme(np.zeros(3), np.ones(3))
    assert four().extreme(np.full(3, 3.0), np.ones(3))
    assert not four().extreme(np.full(3, 1.0), np.ones(3))
    assert four().alone(np.ones(3))
    with pytest.raises(ValueError, match=r"y: expected categories 0, ..., 3 for an ordinal .* of 4 .*, got 4 at"):
        four().check("y", torch.tensor([[4.0]]), WAYS, None)
