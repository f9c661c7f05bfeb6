"""Figures of diagnostics draw the numbers that diagnostics return."""

from __future__ import annotations

import numpy as np
import pytest
from builders import class_tasks, classifier, real_tasks, regressor

from ebmeta.diagnostics import (
    check_posteriors,
    generalization_gap,
    posterior_updates,
    rate_distortion,
    synthetic_gradients,
)
from ebmeta.plots import gap_plot, khat_by_step, rate_distortion_plot, synthetic_gradient_plot, update_plot


def test_distortion_stands_against_rate_in_order_of_beta():
    models = {"dear": classifier(num_steps=2, beta=2.0, seed=1), "free": classifier(num_steps=1, beta=0.0)}
    data = rate_distortion(models, class_tasks())
    ax = rate_distortion_plot(data)
    np.testing.assert_allclose(ax.lines[-1].get_xdata(), [data["rate"].values[1, 1], data["rate"].values[0, 2]])
    assert [t.get_text() for t in ax.texts] == [r"$\beta$ = 0", r"$\beta$ = 2"]
    assert ax.get_ylabel() == "predictive NLL (nats per query)"
    with pytest.raises(ValueError, match="distortion: expected 'predictive_nll' or 'expected_nll', got 'nll'"):
        rate_distortion_plot(data, "nll")


def test_the_gap_stands_against_its_bound():
    data = generalization_gap(classifier(num_steps=2), class_tasks((4,) * 30, (2,) * 30, (10,) * 30))
    ax = gap_plot(data, "query")
    np.testing.assert_allclose(ax.lines[0].get_ydata(), data["bound_rate"].sel(rows="query"))
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["bound by the rate", "gap"]
    ax = gap_plot(data, "query", bounds=False)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["gap"]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), data["gap"].sel(rows="query"))
    with pytest.raises(ValueError, match="rows: expected 'support' or 'query', got 'new'"):
        gap_plot(data, "new")


def test_cosines_are_shown_for_every_step():
    data = synthetic_gradients(classifier(num_steps=2), class_tasks())
    ax = synthetic_gradient_plot(data)
    gains = [f"{k}\n{gain:+.3f} nats" for k, gain in zip((1, 2), data["gain"].values, strict=True)]
    assert [t.get_text() for t in ax.get_xticklabels()] == gains
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["synthetic gradient", "move of the location"]
    assert synthetic_gradient_plot(data, ax) is ax


def test_moves_stand_against_expected_moves_of_the_last_step():
    data = posterior_updates(classifier(num_steps=2), class_tasks())
    ax = update_plot(data)
    assert ax.get_xscale() == "log"
    assert ax.get_yscale() == "log"
    last = data.isel(step=-1)
    wanted = np.sqrt(np.stack([np.maximum(last["expected"], 1e-12), np.maximum(last["moved"], 1e-12)], 1))
    np.testing.assert_allclose(ax.collections[0].get_offsets(), wanted)
    means = np.array([line.get_xydata()[0] for line in ax.lines if line.get_marker() == "o"])
    fifths = np.array_split(wanted[np.argsort(wanted[:, 0], kind="stable")], 5)
    np.testing.assert_allclose(means, [np.sqrt((part**2).mean(0)) for part in fifths if len(part) > 1])


def test_importance_weights_have_a_box_for_each_step():
    checks = check_posteriors(regressor(2, num_steps=2), real_tasks(features=2), num_draws=100)
    ax = khat_by_step(checks)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "1", "2"]
    assert {0.5, 0.7} <= {float(np.atleast_1d(line.get_ydata())[0]) for line in ax.lines}
    assert khat_by_step(checks, "khat_rows", ax=ax) is ax
    with pytest.raises(ValueError, match="variable: expected 'khat' or 'khat_rows', got 'gaps'"):
        khat_by_step(checks, "gaps")
