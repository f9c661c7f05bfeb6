"""The temperature of tasks: 1 until fitted, bounded, and the factors that a smooth loss asks for."""

import math

import pytest
import torch
from scipy.optimize import minimize_scalar

from ebmeta.refine.temperature import MOST, TaskTemperature, given_labels, joined


def test_factors_are_one_until_fitted_and_after_being_forgotten():
    temperature, reading = TaskTemperature(2, 3), torch.ones(4, 3)
    assert not temperature.fitted
    assert temperature(1, reading).tolist() == [1.0] * 4
    temperature.bias[1] = 0.5
    assert temperature.fitted
    assert temperature(1, reading).tolist() == pytest.approx([math.exp(math.tanh(0.5))] * 4)
    temperature.forget()
    assert temperature(1, reading).tolist() == [1.0] * 4


def test_factors_stay_within_e():
    temperature = TaskTemperature(1, 1)
    temperature.weight.fill_(1e6)
    assert temperature(0, torch.tensor([[-1.0], [1.0]])).tolist() == pytest.approx([math.exp(-1), math.e])


def test_a_fit_finds_the_factors_of_least_loss_in_any_unit_of_the_readings():
    z = torch.randn(400, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    wanted = torch.tanh(0.4 * z[:, 0] - 0.3).exp()
    for unit in (1.0, 1000.0):
        temperature = TaskTemperature(2, 2).double()
        temperature.fit(1, 7 + unit * z, lambda t: (t.log() - wanted.log()).square().mean())
        assert (temperature(1, 7 + unit * z) / wanted).log().abs().max() < 0.01
        assert not temperature.weight[0].any()  # the other step is left alone


def test_a_reading_that_does_not_vary_keeps_no_weight():
    reading = torch.stack([torch.linspace(-1, 1, 50), torch.full((50,), 3.0)], 1).double()
    temperature = TaskTemperature(1, 2).double()
    temperature.fit(0, reading, lambda t: (t.log() - reading[:, 0] / 2).square().mean())
    assert abs(float(temperature.weight[0, 1])) < 1e-6
    assert float(temperature.weight[0, 0]) > 0.3


@pytest.mark.parametrize(("scale", "rows", "spread"), [(0.3, 4, 0.3), (3.0, 50, 0.3), (30.0, 50, 0.2), (3.0, 500, 0.5)])
def test_labels_give_the_likeliest_factor(scale, rows, spread):
    draw = torch.Generator().manual_seed(0)
    log_p = (scale * torch.randn(3, rows, 4, generator=draw).double()).log_softmax(-1)
    y = torch.multinomial((log_p[0] / 2).exp(), 3, replacement=True, generator=draw).T
    weight = torch.rand(3, rows, generator=draw).double()
    got = given_labels(log_p, y, weight, spread)[0].log().tolist()

    def loss(z: float, t: int) -> float:
        said = (math.exp(z) * log_p[t].clamp(min=-100)).log_softmax(-1)[torch.arange(rows), y[t]]
        return float(z**2 / (2 * spread**2) - (weight[t] * said).sum())

    for t in range(3):
        best = minimize_scalar(loss, args=(t,), bounds=(-4, 4), method="bounded", options={"xatol": 1e-9}).x
        assert got[t] == pytest.approx(best, abs=1e-4)


def test_labels_that_count_for_nothing_leave_the_factor():
    log_p, y = torch.tensor([[[-1e30, 0.0], [0.0, -1e30]]]), torch.zeros(1, 2, dtype=torch.long)
    for rows in (2, 0):
        factor, left = given_labels(log_p[:, :rows], y[:, :rows], torch.zeros(1, rows), 0.3)
        assert factor.tolist() == [1.0]
        assert left.tolist() == [pytest.approx(1.0)]


def test_what_labels_leave_is_the_slope_of_the_product_in_what_is_fitted():
    draw = torch.Generator().manual_seed(0)
    log_p = (2 * torch.randn(3, 20, 4, generator=draw).double()).log_softmax(-1)
    y, weight = torch.randint(4, (3, 20), generator=draw), torch.rand(3, 20, generator=draw).double()

    def product(log_t: float) -> torch.Tensor:
        return log_t + given_labels((math.exp(log_t) * log_p).log_softmax(-1), y, weight, 0.3)[0].log()

    left = given_labels(log_p, y, weight, 0.3)[1]
    slope = (product(1e-3) - product(-1e-3)) / 2e-3
    assert slope.tolist() == pytest.approx(left.tolist(), rel=1e-3)
    assert float(left.max()) < 0.9


def test_batches_of_the_same_shapes_are_joined_until_they_are_large():
    shapes = ((2, 3), (1, 2), (4, 3), (3, MOST // 3), (2, MOST // 3), (1, 2))
    batches = [(torch.rand(shape), None, torch.full(shape[:1], float(n))) for n, shape in enumerate(shapes)]
    found = joined(batches)
    assert [(len(x), nothing, number.unique().tolist()) for x, nothing, number in found] == [
        (6, None, [0.0, 2.0]),
        (2, None, [1.0, 5.0]),
        (3, None, [3.0]),
        (2, None, [4.0]),
    ]
    assert torch.equal(found[0][0], torch.cat([batches[0][0], batches[2][0]]))
    assert joined([]) == []
