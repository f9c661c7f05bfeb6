"""The sines family: its sampling statement, its exact answers by brute force, and a basis that finds its frequency."""

import math

import numpy as np
import pytest
import torch
from builders import close

import ebmeta
from ebmeta.parts.basis import FourierBasis
from ebmeta.simulate.sines import SineTasks


def polar_grid(family, points=700):
    """Amplitudes and phases at the middles of equal cells, and the mass of each."""
    middles = (np.arange(points) + 0.5) / points
    a = family.amplitude[0] + middles * (family.amplitude[1] - family.amplitude[0])
    phase = family.phase[0] + middles * (family.phase[1] - family.phase[0])
    a, phase = (torch.from_numpy(v.ravel()) for v in np.meshgrid(a, phase))
    return a, phase, -2 * math.log(points)


def log_joint(family, grid, x, y):
    """Return log p(y, cell) of one task, shape (cells,)."""
    a, phase, mass = grid
    eta = a[:, None] * torch.sin(x[:, 0] + phase[:, None])
    return torch.distributions.Normal(eta, family.noise).log_prob(y).sum(-1) + mass


def test_samples_follow_the_sampling_statement():
    family = SineTasks(n_support=2, n_query=1, noise=0.5, seed=1)
    batch = family.sample(20_000)
    x, y = (
        torch.cat([a, b], 1).double() for a, b in ((batch.support_x, batch.query_x), (batch.support_y, batch.query_y))
    )
    assert x.min() > -5
    assert x.max() < 5
    # x: mean 0, variance 100 / 12; y given x = 0: a sin(phase), mean 2.55 * 2 / pi. 5 sigma, false alarm below 1e-5.
    assert abs(x.mean()) < 5 * math.sqrt(100 / 12 / x.numel())
    # products of the labels of a task: E[a^2] / 2 * cos(x - x') - a known half of cos(x + x' + 2 phase), which is
    # zero on average over a whole period of 2 phase
    a2 = (5.0**3 - 0.1**3) / 3 / 4.9
    gap = y[:, 0] * y[:, 1] - a2 / 2 * torch.cos(x[:, 0, 0] - x[:, 1, 0])
    assert abs(gap.mean()) < 5 * gap.std() / math.sqrt(len(gap))
    square = y[:, 2].square() - a2 / 2 - 0.25
    assert abs(square.mean()) < 5 * square.std() / math.sqrt(len(square))


def test_the_published_setting_is_the_default():
    family = SineTasks()
    assert (family.n_support, family.n_support + family.n_query) == (5, 200)
    assert (family.amplitude, family.phase, family.noise) == ((0.1, 5.0), (0.0, math.pi), 0.1)
    assert family.x_range == (-5.0, 5.0)
    train = family.training().sample(3)
    assert (train.support_x.shape[1], train.query_x.shape[1]) == (5, 5)
    far = SineTasks(x_range=(-5.0, 10.0)).sample(100)
    assert far.support_x.max() > 5
    assert torch.equal(family.sample(3, 7).query_y, family.sample(3, 7).query_y)
    assert not torch.equal(family.sample(3, 7).query_y, family.sample(3, 8).query_y)


def test_truth_is_the_curve_under_the_noise():
    family = SineTasks(noise=1e-6, seed=5)
    batch = family.sample(7, index=3)
    close(family.curves(family.truth(7, index=3), batch.query_x.double())[:, 0], batch.query_y.double(), 1e-4)


@pytest.mark.parametrize("support", [0, 1, 2, 5])
def test_exact_answers_equal_a_sum_over_amplitudes_and_phases(support):
    family = SineTasks(n_support=support, n_query=4, noise=0.5, seed=2)
    batch = family.sample(6).to(torch.float64)
    mean, nll = family.exact(batch, 400)
    evidence = family.log_evidence(batch.support_x, batch.support_y, 400)
    grid = polar_grid(family)
    for t in range(6):
        joint = log_joint(family, grid, batch.support_x[t], batch.support_y[t])
        weight = torch.softmax(joint, 0)
        eta = grid[0][:, None] * torch.sin(batch.query_x[t, :, 0] + grid[1][:, None])
        score = torch.distributions.Normal(eta, 0.5).log_prob(batch.query_y[t])
        close(evidence[t], joint.logsumexp(0), 5e-3)
        close(mean[t], weight @ eta, 1e-2)
        close(nll[t], -(weight.log()[:, None] + score).logsumexp(0), 1e-2)


def test_evidence_obeys_the_chain_rule():
    family = SineTasks(n_support=5, n_query=1, seed=3)
    batch = family.sample(50)
    x, y = torch.cat([batch.support_x, batch.query_x], 1), torch.cat([batch.support_y, batch.query_y], 1)
    gain = family.log_evidence(x, y, 200) - family.log_evidence(batch.support_x, batch.support_y, 200)
    close(family.exact(batch, 200)[1][:, 0], -gain, 0.02)
    assert abs((family.exact(batch, 200)[1][:, 0] + gain).mean()) < 2e-3


def test_a_learned_basis_finds_the_frequency_and_predicts_almost_exactly():
    family = SineTasks(seed=0)
    basis = FourierBasis(num_frequencies=4, learned=True)
    basis.measure(family.training().sample(200).support_x)
    model = ebmeta.EmpiricalBayes.regressor(basis.num_features, num_steps=0, embedder=basis)
    start = basis.angular_frequencies[0].tolist()
    assert min(abs(f - 1) for f in start) > 0.05
    ebmeta.fit(
        model, family.training(), 500, 64, objective="evidence", learning_rate=2e-2, device="cpu", progress=False
    )
    found = basis.angular_frequencies[0].tolist()
    assert min(abs(f - 1) for f in found) < 0.01
    for x_range, bound in (((-5.0, 5.0), 0.018), ((-5.0, 10.0), 0.026)):
        test = SineTasks(x_range=x_range, seed=1).sample(300)
        mean = ebmeta.predict(model, test, num_draws=0)["predictive"]["mean"].values[-1]
        assert np.square(test.query_y.numpy() - mean).mean() < bound


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x_range": (1.0, 1.0)}, "x_range: expected low < high, got"),
        ({"amplitude": (-1.0, 1.0)}, "amplitude: expected numbers above 0, got"),
        ({"phase": (0.0, 4.0)}, r"phase: expected a range within \(-pi, pi\), got"),
        ({"noise": 0.0}, "noise: expected a finite number above 0, got 0.0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        SineTasks(**arguments)
    with pytest.raises(ValueError, match="exact: expected query labels, numbers, got unlabelled tasks or classes"):
        SineTasks().exact(SineTasks().sample(2).unlabelled())
