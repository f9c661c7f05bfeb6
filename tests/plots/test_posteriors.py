"""The ellipses hold the mass that they claim, and the picture shows every step."""

import math

import numpy as np
import pytest
import torch
from builders import generator, random_precision

from ebmeta.parts.gaussian import DiagonalGaussian, FullGaussian
from ebmeta.plots.posteriors import ellipse, posterior_path
from ebmeta.simulate.spinning_lines import SpinningLines


def gaussian(seed=0, tasks=2):
    g = generator(seed)
    return FullGaussian(torch.randn(tasks, 1, 3, generator=g, dtype=torch.float64), random_precision((tasks, 1), 3, g))


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("mass", [0.5, 0.9])
def test_an_ellipse_holds_its_mass(mass, diagonal):
    q = gaussian()
    if diagonal:
        q = DiagonalGaussian(q.loc, q.precision.diagonal(dim1=-2, dim2=-1))
        covariance = torch.diag(1 / q.precision[1, 0])
    else:
        covariance = q.covariance()[1, 0]
    block = covariance[[2, 0]][:, [2, 0]].numpy()
    off = ellipse(q, 1, (2, 0), mass) - q.loc[1, 0, [2, 0]].numpy()
    distance = (off @ np.linalg.inv(block) * off).sum(1)
    np.testing.assert_allclose(distance, -2 * math.log(1 - mass), rtol=1e-9)
    with pytest.raises(ValueError, match=r"mass: expected a number between 0 and 1, got 1"):
        ellipse(q, mass=1)


def test_the_picture_shows_every_step_over_the_density():
    path = [gaussian(seed, 1) for seed in range(3)]
    tasks = SpinningLines()
    posterior = tasks.exact_posterior(tasks.sample(1), transductive=True)
    ax = posterior_path(path, posterior.log_density, weights=(0, 1))
    for k, q in enumerate(path):
        np.testing.assert_allclose(np.stack(ax.lines[2 * k].get_data(), -1), ellipse(q))
        np.testing.assert_allclose(np.stack(ax.lines[2 * k + 1].get_data(), -1), q.loc[0, :, :2])
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["$q_{0}$", "$q_{1}$", "$q_{2}$"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("$w_1$", "$w_2$")
    assert len(ax.collections) > 0
    assert len(posterior_path(path).collections) == 0
    with pytest.raises(ValueError, match="path: expected at least one Gaussian"):
        posterior_path([])
