"""Moments of weighted draws against a reference, and those over noise levels."""

import math

import numpy as np
import pytest
import torch
import xarray as xr
from builders import close, generator, joint_model, real_tasks, regressor

from ebmeta import reference
from ebmeta.diagnostics import against_reference
from ebmeta.diagnostics.updates import _moments, _units
from ebmeta.simulate.gaussian_classes import GaussianClasses


def test_moments_against_a_reference():
    """Half the scale and one standard deviation off: the three numbers are known."""
    model, batch = regressor(2, num_steps=0), real_tasks(features=2)
    q = model.posterior(batch)[0]
    noise = torch.randn(1, 40_000, *q.loc.shape, generator=generator(1), dtype=torch.float64)
    w = (q.loc + 2 * q.color(noise)).detach()
    tree = xr.DataTree.from_dict({"/posterior": xr.Dataset({"w": (("chain", "draw", "task", "way", "feature"), w)})})
    near = against_reference(model, batch, tree)
    np.testing.assert_allclose(near["scale_ratio"], 0.5, rtol=0.02)
    np.testing.assert_allclose(near["mean_error"], 0, atol=0.02)
    np.testing.assert_allclose(near["kl"], (0.25 - 1) / 2 + math.log(2), rtol=0.02)
    assert "its scale is 0.50 times the reference's" in near.attrs["verdict"]
    exact = reference.nuts(model, batch, num_draws=1000)
    near = against_reference(model, batch, exact)
    assert float(near["kl"].max()) < 0.01
    for bad, message in (
        (xr.DataTree(), r"tree: expected draws 'w' in a group 'posterior', got groups \[\]"),
        (exact.isel(task=[0]), r"tree: expected draws of \(task, way, feature\) \(4, 1, 3\), got"),
        (exact.isel(chain=[0], draw=[0]), "tree: expected at least 2 draws, got 1"),
    ):
        with pytest.raises(ValueError, match=message):
            against_reference(model, batch, bad)
    levels = regressor(2, num_steps=0, likelihood="normal_per_task")
    with pytest.raises(ValueError, match="likelihood: expected one without noise levels, got 'normal_per_task'"):
        against_reference(levels, batch, exact)


def test_predictors_of_class_means_have_the_moments_of_their_draws():
    """Of 40,000 draws on one side: means within .03 standard deviations, scales within 2%."""
    family = GaussianClasses(2, concentration=2.0, n_way=3, n_query=4)
    model, batch = joint_model(family, 1, scale=0.1), family.sample(3).to(torch.float64)
    with torch.no_grad():
        q = model.posterior(batch)[1]
        w = q.weights(q.draw(40_000, generator(1))).unsqueeze(0)
    tree = xr.DataTree.from_dict({"/posterior": xr.Dataset({"w": (("chain", "draw", "task", "way", "feature"), w)})})
    near = against_reference(model, batch, tree).isel(step=1)
    np.testing.assert_allclose(near["scale_ratio"], 1, rtol=0.02)
    np.testing.assert_allclose(near["mean_error"], 0, atol=0.03)


def test_moments_over_noise_levels_follow_the_law_of_total_variance():
    inferred = regressor(likelihood="normal_per_task").infer(real_tasks())
    q, prior, shape = inferred.path[-1], inferred.setting.prior, inferred.log_weight.shape
    weight = inferred.log_weight.exp()[..., None]
    loc, var = (v.view(*shape, -1) for v in (q.loc[:, 0] / prior.scale[:, 0], (q.scale / prior.scale)[:, 0].square()))
    mean = (weight * loc).sum(1)
    got = _moments(inferred, -1, _units(inferred.prior, joint=False))
    close(got[0].squeeze(-1), mean)
    close(got[1].squeeze(-1), (weight * (var + loc.square())).sum(1) - mean.square())
