"""Priors: each against its formula, written out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from builders import close, generator, perturb

import ebmeta
from ebmeta.parts.prior import DiagonalPrior, FullPrior
from ebmeta.tasks.training_rows import TrainingRows


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def rows(x, cluster):
    return TrainingRows(x, cluster.double(), cluster)


def moved(module):
    perturb(module.double(), scale=0.5)
    return module


def test_the_full_prior_has_the_covariance_of_its_factor():
    prior = moved(FullPrior(3, scale=2.0))
    factor = prior.scale_tril()
    assert bool((factor.triu(1) == 0).all())
    close(factor.diagonal(), prior.log_scale.exp())  # no other parameter moves the sizes
    close(torch.linalg.inv(prior(2, 1).precision[1, 0]), factor @ factor.T)
    close(prior(2, 1).loc[1, 0], prior.loc)


def test_the_diagonal_prior_has_the_variance_of_its_scale():
    prior = moved(DiagonalPrior(3, scale=2.0))
    close(prior(2, 4).precision[1, 3], prior.log_scale.exp() ** -2)
    close(prior(2, 4).loc[1, 3], prior.loc)


@pytest.mark.parametrize("kind", [DiagonalPrior, FullPrior])
def test_covariates_move_the_location_in_units_of_the_training_tasks(kind):
    prior, seen = moved(kind(3, num_covariates=2)), 5.0 + 3.0 * normal(6, 2)
    tasks, center = replace(rows(normal(6, 1), torch.arange(6)), task_x=seen), prior.center.clone()
    prior.measure(tasks)
    assert torch.equal(prior.center, center)  # where the head takes numbers as they are
    prior.measure(replace(tasks, standardize=True))
    unit = (seen - seen.mean(0)) / seen.std(0, correction=0)
    p, plain = prior(6, 2, seen), prior.gaussian()
    close(p.loc, (prior.loc + unit @ prior.slope.T).unsqueeze(1).expand(-1, 2, -1))
    close(p.precision, plain.precision.expand_as(p.precision))


@pytest.mark.parametrize("kind", [DiagonalPrior, FullPrior])
def test_priors_start_at_their_scale_and_refuse_none(kind):
    close(kind(2, scale=3.0)(1, 1).scale, torch.full((1, 1, 2), 3.0), 1e-6)
    for bad, message in (
        ((0, 1.0), "num_weights: expected at least 1, got 0"),
        ((2, 0.0), "scale: expected .* 0, got 0"),
        ((2, -1.0), "scale: expected .* 0, got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            kind(*bad)


def test_weights_that_do_not_vary_have_a_mean_alone():
    prior = moved(FullPrior(4, varying=[0, 2], num_covariates=1))
    p, factor = prior(3, 2, normal(3, 1)), prior.scale_tril()
    assert factor.shape == (2, 2)
    close(p.scale[0, 1], torch.stack([factor[0].norm(), factor[0, 0] * 0, factor[1].norm(), factor[0, 0] * 0]))
    known = (normal(3, 1) - prior.center) / prior.unit
    close(p.loc[:, 0, 1], prior.loc[1] + known @ prior.slope[1])  # covariates move the means of all
    plain, everything = FullPrior(3), FullPrior(3, varying=range(3))
    assert all(tuple(p.varying) == (0, 1, 2) for p in (plain, everything, DiagonalPrior(3)))
    assert type(plain.gaussian()) is type(everything.gaussian())
    for bad in ([], [1, 0], [0, 0], [3], [-1]):
        with pytest.raises(ValueError, match="varying: expected rising numbers of 3 weights, got"):
            FullPrior(3, varying=bad)


def test_weights_that_nearly_determine_each_other_in_32_bits_are_told_of():
    """Predictions were a standard deviation off, silently."""
    model = ebmeta.EmpiricalBayes.regressor(1, num_steps=0)
    rows, y = torch.tensor([[0.5], [1.0], [-2.0]]), torch.tensor([0.3, 1.0, -1.0])
    with torch.no_grad():
        model.prior.lower[1, 0] = 0.9 / 7e-3
    ebmeta.FewShotRegressor(model).fit(rows, y).predict(rows)  # the spread of its own is large enough
    with torch.no_grad():
        model.prior.lower[1, 0] = 1.1 / 7e-3
    with pytest.warns(UserWarning, match="^model: expected 64 bits where weights nearly determine each other, got 32"):
        ebmeta.FewShotRegressor(model).fit(rows, y).predict(rows)
    ebmeta.FewShotRegressor(model.double()).fit(rows, y).predict(rows)
