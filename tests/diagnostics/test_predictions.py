"""Predictions against labels: coverage and the probability integral transform."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

import ebmeta
from ebmeta import TaskBatch
from ebmeta.diagnostics.predictions import _mean, pit
from tests.diagnostics.test_report import TASKS, exact


def test_coverage_and_transform_are_those_of_the_exact_prediction():
    batch = TASKS.sample(5)
    model = exact()
    loc, var = model.posterior(batch.to(torch.float64))[0].marginal(
        torch.nn.functional.pad(batch.query_x.double(), (0, 1), value=1.0)
    )
    expected = stats.norm.cdf(
        batch.query_y.numpy(), loc[..., 0].detach().numpy(), (var[..., 0].detach().numpy() + 0.25) ** 0.5
    )
    np.testing.assert_allclose(pit(model, [batch]), expected, atol=1e-6)


def test_counts_have_a_uniform_transform():
    rng = np.random.default_rng(0)
    y = torch.from_numpy(rng.poisson(2.0, (300, 10)).astype(float))
    none = torch.zeros(300, 10, 0, dtype=torch.float64)
    model = ebmeta.EmpiricalBayes.regressor(0, "poisson", num_steps=0, standardize=False).double()
    with torch.no_grad():
        model.prior.loc.fill_(float(np.log(2.0)))
        model.prior.log_scale.fill_(-8.0)
    u = pit(model, [TaskBatch(none[:, :0], y[:, :0], none, y)])
    assert stats.kstest(u.ravel(), "uniform").pvalue > 1e-4  # false alarms at 1e-4


def test_groups_drawn_again_and_again_count_once_in_an_interval():
    """Four times as many draws as groups: twice the half width."""
    values = np.array([0.0, 2.0, 1.0, 5.0])
    assert _mean(values) == pytest.approx((2.0, 1.959964 * values.std(ddof=1) / 2))
    assert _mean(values, 4.0) == pytest.approx((2.0, 1.959964 * values.std(ddof=1)))
