"""Widths measured on training classes: those within and between classes, and kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ebmeta import EmpiricalBayes, fit
from ebmeta.tasks.training_rows import TrainingRows
from ebmeta.training.preparation import prepare
from tests.training.test_preparation import episodes


def clustered(classes: int = 300, rows: int = 12) -> tuple[torch.Tensor, torch.Tensor, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    within, between = np.array([0.3, 0.1, 0.2]), np.array([0.1, 0.4, 0.2])
    centre = between * rng.standard_normal((classes, 3))
    label = np.repeat(np.arange(classes), rows)
    phi = centre[label] + within * rng.standard_normal((len(label), 3))
    return torch.from_numpy(np.c_[phi, np.ones(len(phi))]), torch.from_numpy(label), within, between


def test_measured_widths_are_those_within_and_between_classes():
    model = EmpiricalBayes.classifier(3, widths="measured", synthetic_gradient="mixture").double()
    phi, label, within, between = clustered()
    constant = model.initializer.log_precision[-1].item(), model.prior.log_scale[-1].item()
    rows = TrainingRows(phi, label.double(), label, features=lambda: phi)
    for part in (model.prior, model.initializer, model.refiner):
        assert part.measure(rows) is rows
    amplitude = model.initializer.log_amplitude.exp().item()
    # 300 classes and 3,300 degrees of freedom: standard errors of 4.1% and 1.2%; five of them, false alarms at 6e-7.
    np.testing.assert_allclose((-model.initializer.log_precision[:-1] / 2).exp() / amplitude, within, rtol=0.062)
    np.testing.assert_allclose(model.prior.log_scale[:-1].exp() / amplitude, between, rtol=0.21)
    assert constant == (model.initializer.log_precision[-1].item(), model.prior.log_scale[-1].item())


def test_training_keeps_measured_widths_and_trains_the_rest():
    models = {
        widths: EmpiricalBayes.classifier(4, widths=widths, synthetic_gradient="mixture")
        for widths in ("measured", "trained")
    }
    for widths, model in models.items():
        prepare(model, episodes(1.0), 4, torch.device("cpu"))
        before = model.prior.log_scale.clone(), model.initializer.log_precision.clone(), model.refiner.share.item()
        fit(model, episodes(1.0), 5, batch_size=4, harder=0.0, device="cpu", progress=False)
        kept = torch.equal(before[0], model.prior.log_scale) and torch.equal(before[1], model.initializer.log_precision)
        assert kept == (widths == "measured")
        assert before[2] != model.refiner.share.item()


def test_widths_are_measured_of_a_mixture_alone():
    with pytest.raises(ValueError, match="widths: expected 'trained', or 'measured' of a mixture, got 'measured'"):
        EmpiricalBayes.classifier(4, widths="measured", synthetic_gradient="residual")
