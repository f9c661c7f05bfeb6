"""Weights in the units of features and labels: the same line, written without centre and unit."""

import pytest
import torch
from builders import close

from ebmeta import EmpiricalBayes, in_units
from ebmeta.parts.gaussian import FullGaussian
from ebmeta.tasks.training_rows import TrainingRows


@pytest.fixture
def model() -> EmpiricalBayes:
    """A regressor of two features that has met rows far from unit scale."""
    g = torch.Generator().manual_seed(0)
    x = torch.tensor([5.0, -200.0]) + torch.tensor([2.0, 30.0]) * torch.randn(50, 2, generator=g)
    y = 1000 + 40 * torch.randn(50, generator=g)
    model = EmpiricalBayes.regressor(2).double()
    rows = TrainingRows(x.double(), y.double(), torch.zeros(50, dtype=torch.long))
    model.predictor.measure(rows)
    model.likelihood.center.fill_(1000.0)
    model.likelihood.unit.fill_(40.0)
    return model


def test_the_line_is_the_same_in_both_units(model):
    w = torch.tensor([0.5, -2.0, 0.3], dtype=torch.float64)
    q = FullGaussian(w.view(1, 1, 3), torch.eye(3, dtype=torch.float64).view(1, 1, 3, 3))
    loc, _ = in_units(model, q)
    x = torch.tensor([[[0.0, 0.0], [1.0, 7.0], [-3.0, 250.0]]], dtype=torch.float64)
    close(x[0] @ loc[0, 0, :2] + loc[0, 0, 2], 1000 + 40 * (model.predictor.features(x)[0] @ w))


def test_the_covariance_is_that_of_transformed_weights(model):
    root = torch.tensor([[1.0, 0.0, 0.0], [0.4, 0.7, 0.0], [-0.3, 0.2, 0.5]], dtype=torch.float64)
    q = FullGaussian(torch.zeros(1, 1, 3, dtype=torch.float64), torch.linalg.inv(root @ root.T).view(1, 1, 3, 3))
    _, covariance = in_units(model, q)
    center, unit = model.predictor.center, model.predictor.unit
    change = torch.eye(3, dtype=torch.float64)
    change[:2, :2] = torch.diag(1 / unit)
    change[2, :2] = -center / unit
    close(covariance[0, 0], 40**2 * change @ root @ root.T @ change.T, 1e-6)


def test_weights_of_another_model_are_refused(model):
    q = FullGaussian(torch.zeros(1, 1, 2), torch.eye(2).view(1, 1, 2, 2))
    with pytest.raises(ValueError, match=r"q: expected 3 weights, got shape \(1, 1, 2\)"):
        in_units(model, q)
