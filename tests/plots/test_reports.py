"""Figures of the report draw what its findings say."""

from __future__ import annotations

import numpy as np
import pytest

from ebmeta.plots.reports import BETTER, WORSE, effective_draws, factor_histogram, promises


def heights(ax, color=None):
    from matplotlib.colors import to_hex

    return sum(bar.get_height() for bar in ax.patches if color is None or to_hex(bar.get_facecolor()) == color)


def test_tasks_that_lose_are_red_and_all_are_drawn():
    gain = np.log([0.5, 0.9, 1.0, 1.5, 2.0, 1e9])
    ax = factor_histogram(gain, "before")
    assert heights(ax, WORSE) == 2
    assert heights(ax, BETTER) == 4
    assert [t.get_text() for t in ax.texts] == ["33% of tasks worse off", "67% of tasks better off, or as before"]
    assert ax.get_xlabel() == "times the probability before"
    assert ax.get_xlim()[0] < 0.5
    assert ax.get_xlim()[1] >= 1000  # the largest is drawn as that


def test_no_bar_is_both():
    edges = {bar.get_x() for bar in factor_histogram(np.array([-0.1, 0.1]), "before").patches}
    assert any(edge == pytest.approx(1.0) for edge in edges)


def test_a_promise_reaches_from_its_bound_to_all():
    ax = promises(0.8, 0.01, 0.05, 0.4)
    bars = [line.get_xdata() for line in ax.lines[:3]]
    np.testing.assert_allclose(bars, [[79, 81], [75, 85], [40, 100]])
    np.testing.assert_allclose(ax.lines[3].get_xdata(), 80)
    assert len(ax.texts) == 0


def test_what_is_unknown_is_said():
    ax = promises(0.8, 0.01, None, None)
    assert [t.get_text() for t in ax.texts] == ["too few classes to say"] * 2
    assert len(ax.lines) == 2


def test_draws_that_count_are_percents():
    ax = effective_draws(np.array([0.02, 0.97, 0.98]), 0.95)
    counted = {round(bar.get_x()): bar.get_height() for bar in ax.patches if bar.get_height()}
    assert counted == {0: 1, 95: 2}
    assert ax.lines[0].get_xdata()[0] == pytest.approx(95)
