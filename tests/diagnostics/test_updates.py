"""How far posteriors move when labels become known: exact where the model is, and told where it is not."""

import numpy as np
import pytest
import torch

import ebmeta
from ebmeta.diagnostics.updates import posterior_updates
from tests.diagnostics.test_report import TASKS, exact


def test_an_exact_posterior_moves_as_far_as_it_says():
    data = posterior_updates(exact(), TASKS, 1500)
    spread, half = float(data["spread"][0]), float(data["spread_half_width"][0])
    assert abs(spread - 1) < 4.5 / 1.96 * half  # 4.5 sigma over 1,500 tasks: false alarms at 7e-6
    assert half < 0.05


def test_both_moves_are_those_of_the_closed_form():
    batch = TASKS.sample(3).to(torch.float64)
    data = posterior_updates(exact(), batch)
    x = torch.diag(torch.tensor([1.0, 2.0], dtype=torch.float64)).expand(3, 2, 2)  # prior deviations are 1 and 1/2
    few = TASKS.exact_posterior(batch, transductive=False)
    all_rows = TASKS.exact_posterior(batch.pooled(), transductive=False)
    (m, v), (after, left) = few.marginal(x), all_rows.marginal(x)
    np.testing.assert_allclose(data["moved"][0], (after - m).square().mean((1, 2)), rtol=1e-6)
    np.testing.assert_allclose(data["expected"][0], (v - left).mean((1, 2)), rtol=1e-6)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_wrong_noise_is_told_by_the_spread(factor):
    data = posterior_updates(exact(0.5 * factor), TASKS, 500)
    spread, half = float(data["spread"][0]), float(data["spread_half_width"][0])
    assert (spread > 1 + 3 * half) if factor < 1 else (spread < 1 - 3 * half)


def test_noise_levels_are_averaged():
    model = ebmeta.EmpiricalBayes.regressor(1, "normal_per_task", num_steps=0, standardize=False).double()
    with torch.no_grad():
        for name, value in exact().state_dict().items():
            if name.startswith("prior."):
                model.state_dict()[name].copy_(value)
        model.likelihood.log_noise.fill_(np.log(0.5))
        model.likelihood.log_ratio.fill_(-6.0)  # all tasks have the same noise, nearly
    batch = TASKS.sample(20).to(torch.float64)
    one, many = posterior_updates(exact(), batch), posterior_updates(model, batch)
    np.testing.assert_allclose(many["moved"], one["moved"], rtol=1e-3)
    np.testing.assert_allclose(many["expected"], one["expected"], rtol=1e-3)


def test_every_step_of_a_classifier_is_measured():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(20), 30)
    tasks = ebmeta.EpisodeSampler(rng.standard_normal((20, 8))[y] + rng.standard_normal((600, 8)), y, 5, 1, 5, seed=0)
    model = ebmeta.EmpiricalBayes.classifier(8, num_steps=2)
    data = posterior_updates(model, tasks, 70)
    assert dict(data.sizes) == {"step": 3, "task": 70}
    assert np.isfinite(data["spread"]).all()


def test_bad_input():
    with pytest.raises(ValueError, match="expected query labels, got unlabelled"):
        posterior_updates(exact(), TASKS.sample(3).unlabelled())
    with pytest.raises(ValueError, match="tasks: expected at least 2, got 1"):
        posterior_updates(exact(), TASKS.sample(1))
