"""The groups of the demo: what was measured is what was predicted, and what they have in common helps."""

import numpy as np
import pytest

from ebmeta.app.demo_groups import BETWEEN, DRAWN, LEVEL, WITHIN, Patients, learn_patients


def test_predictions_are_nearly_the_best_ones():
    """With spreads as they are, the best prediction is known; learned ones are near it, and intervals hold 90%."""
    found = learn_patients(1)
    weight = BETWEEN**2 / (BETWEEN**2 + WITHIN**2 / 3)
    best = LEVEL + weight * (found.known.mean(1) - LEVEL)
    assert np.abs(found.mean - best).mean() < 0.3 * np.abs(best - found.truth).mean()
    numbers = found.numbers
    assert numbers["error"] == pytest.approx(np.abs(found.mean - found.truth).mean())
    assert numbers["error"] < numbers["error_of_own_mean"]
    width = 2 * 1.645 * (WITHIN**2 + 1 / (1 / BETWEEN**2 + 3 / WITHIN**2)) ** 0.5
    np.testing.assert_allclose((found.high - found.low).mean(), width, rtol=0.1)


def test_coverage_is_counted():
    own = Patients(
        np.zeros((2, 3)), np.array([[0.0, 2.0], [1.0, 9.0]]), np.zeros(2), np.ones(2), -np.ones(2), np.ones(2)
    )
    assert own.numbers["coverage"] == 0.5
    assert own.numbers["error"] == 1


def test_the_picture_shows_readings_and_intervals():
    found = learn_patients(0, 20)
    (ax,) = found.figure().axes
    assert len(ax.patches) == DRAWN
    order = np.argsort(found.truth[:DRAWN])
    shown = {line.get_label(): line.get_ydata() for line in ax.lines}
    np.testing.assert_allclose(shown["prediction"], found.mean[order])
    np.testing.assert_allclose(shown["three readings"], found.known[order].ravel())
    np.testing.assert_allclose([p.get_height() for p in ax.patches], (found.high - found.low)[order])


def test_the_seed_decides():
    np.testing.assert_array_equal(learn_patients(2, 5).mean, learn_patients(2, 5).mean)
    with pytest.raises(ValueError, match="num_patients: expected at least 2, got 1"):
        learn_patients(0, 1)
