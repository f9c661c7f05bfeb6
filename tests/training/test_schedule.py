"""Learning rates are a pure function of the iteration; a step goes as far as they say."""

import math

import pytest
import torch

import ebmeta
from ebmeta.training.schedule import Schedule


def test_rates_rise_in_a_line_and_fall_in_half_a_cosine():
    schedule = Schedule(100, 0.004)
    shares = [schedule.share(n) for n in range(101)]
    assert shares[:10] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    assert shares[10] == 1.0
    assert shares[40] == pytest.approx((1 + math.cos(math.pi / 3)) / 2)
    assert shares[55] == pytest.approx(0.5)
    assert shares[100] == pytest.approx(0.0)
    assert Schedule(1, 0.004).share(0) == 1.0


def test_the_few_numbers_of_the_refiner_have_their_own_peak():
    model = ebmeta.EmpiricalBayes.classifier(4)
    for rate, quick in ((0.002, 0.02), (0.05, 0.05)):
        groups = Schedule(10, rate).optimizer(model).param_groups
        assert [group["peak"] for group in groups] == [rate, quick]
        assert {id(p) for p in groups[1]["params"]} == {id(p) for p in model.fast()}
        assert sum(len(group["params"]) for group in groups) == len(list(model.trainable()))
    regressor = ebmeta.EmpiricalBayes.regressor(2, num_steps=0)
    assert len(Schedule(10, 0.1).optimizer(regressor).param_groups) == (2 if list(regressor.fast()) else 1)


def test_a_step_cuts_the_gradient_and_refuses_one_that_is_not_finite():
    model = ebmeta.EmpiricalBayes.classifier(4, synthetic_gradient="mixture")
    schedule = Schedule(20, 0.01)
    optimizer, before = schedule.optimizer(model), model.prior.log_scale.detach().clone()
    (100 * model.prior.log_scale.sum()).backward()
    rate = schedule.step(model, optimizer, 1.0, 0)
    assert rate == pytest.approx(0.005)  # half way through a warm-up of two iterations
    gradients = [p.grad for p in model.trainable() if p.grad is not None]
    assert torch.cat([g.flatten() for g in gradients]).norm().item() == pytest.approx(5.0)
    assert (before - model.prior.log_scale).detach().tolist() == pytest.approx([0.005] * before.numel(), rel=1e-4)
    now = model.prior.log_scale.detach().clone()
    with pytest.raises(ValueError, match=r"the loss became -?inf .* at iteration 3; expected finite: .*\(0.01\)"):
        schedule.step(model, optimizer, math.inf, 3)
    assert torch.equal(model.prior.log_scale, now)


def test_a_step_refuses_parameters_of_which_none_has_a_gradient():
    model, other = ebmeta.EmpiricalBayes.classifier(4), ebmeta.EmpiricalBayes.classifier(4)
    schedule = Schedule(20, 0.01)
    optimizer, before = schedule.optimizer(model), [p.detach().clone() for p in model.trainable()]
    torch.stack([p.sum() for p in other.trainable()]).sum().backward()  # of another model
    number = len(before)
    with pytest.raises(ValueError, match=rf"gradient: expected one for some of the {number} .* iteration 7, got none"):
        schedule.step(model, optimizer, 1.0, 7)
    assert all(map(torch.equal, before, model.trainable()))
    model.prior.volume.square().backward()  # one has a gradient, of zero: enough
    assert schedule.step(model, optimizer, 1.0, 7) > 0
    assert all(map(torch.equal, before, model.trainable()))
