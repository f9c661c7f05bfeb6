"""The prior of class means takes the moments of training classes, and says how far the model is from them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import close, generator

import ebmeta
from ebmeta.likelihood import Categorical
from ebmeta.parts.class_prior import EQUAL, POWER, ClassPrior
from ebmeta.parts.heads import LinearHead
from ebmeta.parts.initializer import ClassInitializer
from ebmeta.refine.belief import BeliefRefiner
from ebmeta.refine.class_synthetic_gradient import ClassSyntheticGradient
from ebmeta.simulate.gaussian_classes import GaussianClasses
from ebmeta.tasks.training_rows import TrainingRows

WITHIN, BETWEEN, CLASSES, EACH, SIZE = 0.5, 2.0, 400, 25, 6


def simulated() -> TrainingRows:
    g = generator(0)
    m = 1.0 + math.sqrt(BETWEEN) * torch.randn(CLASSES, SIZE, generator=g)
    y = torch.arange(CLASSES).repeat_interleave(EACH)
    x = m[y] + math.sqrt(WITHIN) * torch.randn(len(y), SIZE, generator=g)
    phi = torch.nn.functional.pad(x, (0, 1), value=1.0)
    return replace(TrainingRows(x, y.double(), y), features=lambda: phi)


def test_it_begins_at_the_moments_of_training_classes():
    """Relative errors of the moments are some 3% between classes and 1% within; bounds are five times that."""
    prior = ClassPrior(SIZE)
    prior.measure(simulated())
    assert abs(float(prior.within) / WITHIN - 1) < 0.05
    assert abs(float(prior.between) / BETWEEN - 1) < 0.15
    close(prior.loc.detach(), torch.ones(SIZE), 0.4)
    p = prior(1, 1)
    close(p.spread.detach(), prior.within / POWER, 1e-6)
    close(p.precision.detach(), (1 / prior.between).expand(1, 1, SIZE), 1e-6)


def test_a_prior_that_was_not_measured_has_full_power():
    p = ClassPrior(3, between=4.0, within=0.5)(1, 2)
    assert torch.equal(p.precision, torch.full((1, 2, 3), 0.25))
    assert p.spread.item() == 0.5


def test_known_proportions_take_the_place_of_the_learned_concentration():
    prior, ways = ClassPrior(2), torch.tensor([[True, True, True], [True, True, False], [True, True, True]])
    p = prior(3, 3, way_mask=ways, concentration=torch.tensor([math.nan, 0.5, math.inf]))
    learned = prior.log_concentration.exp().item()
    close(p.shares.detach(), torch.tensor([[learned] * 3, [0.5, 0.5, 0.0], [EQUAL] * 3]), 1e-6)


def test_rows_all_alike_leave_it_as_it_was():
    prior, x = ClassPrior(SIZE), torch.zeros(10, SIZE)
    before = {k: v.clone() for k, v in prior.state_dict().items()}
    phi = torch.nn.functional.pad(x, (0, 1), value=1.0)
    prior.measure(replace(TrainingRows(x, torch.zeros(10), torch.arange(10)), features=lambda: phi))
    assert all(torch.equal(v, before[k]) for k, v in prior.state_dict().items())


def test_features_as_they_come_keep_a_known_prior():
    """As of a regressor: what the parts were built with stays, and a second training goes on from the first."""
    family = GaussianClasses(SIZE, between=4.0, concentration=2.0, n_way=3, n_query=5)
    parts = ClassPrior(SIZE, 4.0, 1.0), Categorical(), LinearHead(SIZE, standardize=False), ClassInitializer()
    model = ebmeta.EmpiricalBayes(*parts, BeliefRefiner(ClassSyntheticGradient(4), 1), beta=0.1)
    for _ in range(2):
        before = model.prior.power.item()
        ebmeta.fit(model, family, 1, learning_rate=1e-4, harder=0, progress=False)
        assert torch.equal(model.prior.loc, torch.zeros(SIZE))
        close(torch.stack([model.prior.between, model.prior.within]), torch.tensor([4.0, 1.0]), 1e-6)
        assert abs(model.prior.power.item() / before - 1) < 0.1
    measured = ebmeta.EmpiricalBayes(
        *parts[:2], LinearHead(SIZE), *parts[3:], BeliefRefiner(ClassSyntheticGradient(4), 1), 0.1
    )
    ebmeta.fit(measured, family, 1, learning_rate=1e-4, harder=0, progress=False)
    assert abs(measured.prior.power.item() / POWER - 1) < 0.1


def test_parts_of_a_joint_model_go_together():
    mixture, joint = (ebmeta.EmpiricalBayes.classifier(4, synthetic_gradient=kind) for kind in ("mixture", "joint"))
    assert (mixture.joint, joint.joint) == (False, True)
    with pytest.raises(ValueError, match="parts: expected all or none of a joint model of inputs and labels, got"):
        ebmeta.EmpiricalBayes(joint.prior, joint.likelihood, joint.predictor, mixture.initializer, joint.refiner, 0.1)


def test_training_recovers_the_power_of_a_model_that_is_right():
    """Labels alone set the power; it goes to 1 where classes are normal and isotropic, and inference is exact."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(60), 30)
    X = rng.normal(size=(60, SIZE))[y] * 2.0 + rng.normal(size=(len(y), SIZE))
    parts = ClassPrior(SIZE, 4.0, 1.0), Categorical(), LinearHead(SIZE, standardize=False), ClassInitializer()
    model = ebmeta.EmpiricalBayes(*parts, BeliefRefiner(ClassSyntheticGradient(4), 0), beta=0.0)
    model.prior.log_power.data.fill_(math.log(POWER))
    ebmeta.fit(model, ebmeta.EpisodeSampler(X, y, 5, 1, 5), 200, learning_rate=0.02, harder=0, progress=False)
    assert 0.8 < model.prior.power.item() < 1.25
