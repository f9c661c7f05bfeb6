"""What diagnostics share is counted over real rows and over tasks."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import class_tasks, classifier, close, real_tasks, regressor

import ebmeta
from ebmeta.diagnostics import (
    check_posteriors,
    generalization_gap,
    mutual_information,
    posterior_updates,
    simulate_tasks,
    simulation_based_calibration,
    synthetic_gradients,
)
from ebmeta.diagnostics.common import labelled, mean_of, one_posterior, per_query, predictive_nll, summarise


def test_batches_of_a_source_come_with_their_labels():
    tasks = real_tasks()
    ((batch, y),) = labelled(regressor(), tasks, 600, "score")
    torch.testing.assert_close(y, tasks.query_y)
    assert batch.num_tasks == tasks.num_tasks
    with pytest.raises(ValueError, match="score: expected query labels, got unlabelled tasks"):
        list(labelled(regressor(), tasks.unlabelled(), 600, "score"))


def test_tasks_with_outliers_are_refused():
    """No label says that a row is of none of the classes."""
    batch = replace(class_tasks(), outliers=torch.tensor([False, True, False, False]))
    model = classifier(synthetic_gradient="joint")
    for function in (check_posteriors, mutual_information, posterior_updates, synthetic_gradients):
        with pytest.raises(ValueError, match=f"{function.__name__}: expected tasks without outliers, got some"):
            function(model, batch)


def test_a_mixture_is_not_one_posterior():
    assert len(one_posterior(regressor(num_steps=2), real_tasks(), 1, "score").path) == 2
    with pytest.raises(ValueError, match="score: expected one Gaussian posterior per task, got a mixture"):
        one_posterior(regressor(likelihood="normal_per_task"), real_tasks(), None, "score")


@pytest.mark.parametrize("model", [regressor(), classifier()], ids=["real", "classes"])
def test_losses_are_those_that_evaluation_reports(model):
    batch = class_tasks() if model.likelihood.categorical else real_tasks()
    inferred = model.infer(batch)
    noise = batch.query_x.new_zeros(1)
    losses = [
        per_query(predictive_nll(inferred, k, batch.query_y, noise), batch.query_mask)
        for k in range(len(inferred.path))
    ]
    scores = ebmeta.evaluate(model, batch)
    np.testing.assert_allclose(torch.stack(losses).mean(1).detach(), scores["nll"], rtol=1e-9)


def test_padded_rows_count_for_nothing():
    values = torch.tensor([[1.0, 3.0, math.inf], [2.0, math.nan, math.nan]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    close(per_query(values, mask), torch.tensor([2.0, 2.0]))


def test_means_and_intervals_are_over_tasks():
    values = torch.tensor([[0.0, 2.0, 4.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
    mean, half = mean_of(values)
    np.testing.assert_allclose(mean, [2.0, 1.0])
    np.testing.assert_allclose(half, [1.959964 * 2 / math.sqrt(3), 0.0], rtol=1e-6)
    with pytest.raises(ValueError, match="tasks: expected at least 2, got 1"):
        mean_of(values[:, :1])


def test_summaries_name_means_and_half_widths():
    values = {"rate": torch.arange(6.0).view(2, 3), "risk": torch.ones(2, 3)}
    found = summarise(values, "nats", "step")
    assert list(found) == ["rate", "rate_half_width", "risk", "risk_half_width"]
    assert {(array.dims, array.attrs["units"]) for array in found.values()} == {(("step",), "nats")}
    for key, array in zip(("rate", "rate_half_width"), mean_of(values["rate"]), strict=True):
        np.testing.assert_array_equal(found[key], array)


def test_what_needs_rows_that_stand_alone_refuses_a_general_classifier():
    model, batch = ebmeta.general_classifier(), class_tasks()
    for name, ask in (
        ("generalization_gap", generalization_gap),
        ("mutual_information", mutual_information),
        ("simulate_tasks", simulate_tasks),
        ("simulation_based_calibration", simulation_based_calibration),
    ):
        with pytest.raises(ValueError, match=f"{name}: expected features that do not depend on other rows"):
            ask(model, batch)
