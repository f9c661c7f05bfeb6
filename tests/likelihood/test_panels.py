"""Averages of densities with kinks, compared with SciPy's adaptive quadrature and with closed forms."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from builders import close
from pyro.distributions import Laplace as PyroLaplace, Normal as PyroNormal
from scipy import integrate, special

from ebmeta.likelihood import Given, ScalarLikelihood, panels
from ebmeta.likelihood.panels import Rows, cells, log_mean, mean, settled
from tests.likelihood.test_scalar import Waiting

WAYS = torch.ones(2, 1, dtype=torch.bool)
ROWS = [(y, v) for v in (0.01, 0.2, 0.3, 4.0, 25.0) for y in (0.0, 0.3, -2.0, 5.0)]
Y = torch.tensor([[y for y, _ in ROWS]] * 2, dtype=torch.float64)
VAR = torch.tensor([[v for _, v in ROWS]] * 2, dtype=torch.float64).unsqueeze(-1)
LOC = torch.tensor([[0.0], [0.7]], dtype=torch.float64).expand(2, len(ROWS)).unsqueeze(-1)
NONE = torch.zeros(1)


class Quantile(ScalarLikelihood):
    """Asymmetric Laplace labels, and those of Huber's loss up to a constant for a bend."""

    name = "quantile"

    def __init__(self, level=0.5, scale=1.0, bend=0.0):
        super().__init__()
        self.level, self.scale, self.bend = level, scale, bend

    def mean(self, eta, given=None):
        return eta

    def variance(self, eta, given=None):
        return torch.ones_like(eta)

    def distribution(self, eta, way_mask, given=None):
        return PyroNormal(eta.squeeze(-1), 1.0)

    def of(self, off):
        size = np.abs(off)
        lean = np.where(off > 0, self.level, 1 - self.level) * 2
        return -np.where(size < self.bend, size**2 / 2 / max(self.bend, 1e-9), size - self.bend / 2) * lean / self.scale

    def log_prob(self, y, eta, way_mask, given=None):
        off = y - eta.squeeze(-1)
        size, lean = off.abs(), torch.where(off > 0, self.level, 1 - self.level) * 2
        soft = size.square() / 2 / max(self.bend, 1e-9)
        out = -torch.where(size < self.bend, soft, size - self.bend / 2) * lean / self.scale
        return out if given is None or given.size is None else out * given.size

    def gradients(self, y, loc, var, way_mask, given=None):
        sd = var.clamp(min=1e-20).sqrt()
        z = (y.unsqueeze(-1) - loc) / sd
        above = torch.special.ndtr(z)
        slope = 2 * (self.level * above - (1 - self.level) * (1 - above)) / self.scale
        return -slope, (-z.square() / 2).exp() / sd / self.scale

    def peak(self, y):
        return y


def exact(likelihood, y, loc, var, size=1.0):
    """Return the log of the mean density, and the mean of the log density, by SciPy."""
    sd = var**0.5
    grid = np.linspace(loc - 36 * sd, loc + 36 * sd, 145)
    ends = np.unique(np.round([*grid, y - likelihood.bend, y, y + likelihood.bend], 9))
    top = max(size * likelihood.of(y - e) - (e - loc) ** 2 / 2 / var for e in ends)
    scale = math.sqrt(2 * math.pi * var)

    def each(f):
        return sum(integrate.quad(f, a, b, epsrel=1e-8, epsabs=1e-12)[0] for a, b in itertools.pairwise(ends))

    log = top + math.log(each(lambda e: math.exp(size * likelihood.of(y - e) - (e - loc) ** 2 / 2 / var - top)) / scale)
    return log, each(lambda e: size * likelihood.of(y - e) * math.exp(-((e - loc) ** 2) / 2 / var) / scale)


@pytest.mark.parametrize(
    "likelihood",
    [Quantile(), Quantile(scale=0.02), Quantile(0.9, 0.3), Quantile(scale=0.5, bend=0.5)],
    ids=["laplace", "narrow laplace", "asymmetric", "huber"],
)
@pytest.mark.parametrize("at_once", [2048, 3])
def test_scores_of_a_density_with_kinks_are_those_of_adaptive_quadrature(likelihood, at_once, monkeypatch):
    """Twenty nodes were up to eight nats off."""
    monkeypatch.setattr(panels, "AT_ONCE", at_once)
    size = torch.linspace(1, 2, 2 * len(ROWS)).double().view(2, -1)
    given = Given(size)
    got = likelihood.predictive_log_prob(Y, LOC, VAR, WAYS, NONE, given)
    inner = likelihood.expected_log_prob(Y, LOC, VAR, WAYS, NONE, given)
    for t in range(2):
        for i, (y, var) in enumerate(ROWS):
            log, expected = exact(likelihood, y, float(LOC[t, 0]), var, float(size[t, i]))
            assert abs(float(got[t, i]) - log) < 3e-5
            assert abs(float(inner[t, i]) - expected) < 3e-5 * (1 + abs(expected))


def test_the_slope_of_a_score_is_that_of_the_closed_form():
    """A Laplace label under a normal predictor has a closed form, and so have its derivatives."""
    loc, var = LOC[:1].clone().requires_grad_(), VAR[:1].clone().requires_grad_()
    got = Quantile().predictive_log_prob(Y[:1], loc, var, WAYS[:1], NONE)
    z = (Y[:1] - loc.squeeze(-1), var.squeeze(-1))
    parts = [z[1] / 2 + s * z[0] + torch.special.log_ndtr(-(s * z[0] + z[1]) / z[1].sqrt()) for s in (-1.0, 1.0)]
    want = torch.logaddexp(*parts)
    close(got, want, 3e-5)
    for a, b in zip(
        torch.autograd.grad(got.sum(), [loc, var]), torch.autograd.grad(want.sum(), [loc, var]), strict=True
    ):
        close(a, b, 2e-3)


def test_a_smooth_density_is_left_to_its_nodes(monkeypatch):
    monkeypatch.setattr(panels, "log_mean", lambda *_: pytest.fail("panels"))
    y, loc = torch.tensor([[0.5, 2.0, 4.0]]).double(), torch.zeros(1, 3, 1).double()
    for var in (0.01, 0.2, 1.0, 9.0):
        got = Waiting().predictive_log_prob(y, loc, torch.full_like(loc, var), WAYS[:1], NONE)
        f = lambda e: math.exp(-e - float(y[0, 1]) * math.exp(-e) - e**2 / 2 / var) / math.sqrt(2 * math.pi * var)  # noqa: E731, B023
        want = math.log(sum(integrate.quad(f, k * var**0.5, (k + 1) * var**0.5)[0] for k in range(-12, 12)))
        assert abs(float(got[0, 1]) - want) < 1e-6


def test_rows_on_which_two_rules_agree_are_left_alone():
    rows = Rows(Y, LOC, VAR, WAYS, None)
    fine = torch.zeros_like(Y)
    coarse = fine.clone()
    coarse[1, 2] = 1.0
    likelihood = Quantile()
    got = settled(fine, coarse, log_mean, likelihood.log_prob, rows, [Y])
    assert float(got[1, 2]) == pytest.approx(exact(likelihood, *ROWS[2][:1], 0.7, ROWS[2][1])[0], abs=1e-6)
    got[1, 2] = 0.0
    close(got, fine, 0.0)


def test_a_spike_far_out_is_found():
    one = torch.ones(1, 1, dtype=torch.float64)
    law = PyroLaplace(11 * one, 1e-3)
    got = log_mean(lambda eta: law.log_prob(eta), 0 * one, one)
    assert float(got) == pytest.approx(-(11**2) / 2 - math.log(2 * math.pi) / 2, abs=1e-3)
    assert float(mean(lambda eta: (eta > 0.3).double(), 0 * one, one)) == pytest.approx(special.ndtr(-0.3), abs=1e-5)


@pytest.mark.parametrize("sd", [1e-6, 1.0, 1e6])
def test_panels_are_as_wide_as_the_predictor(sd):
    """The mean of a normal number's size has a closed form, and so has that of its exponential."""
    one = torch.ones(1, 1, dtype=torch.float64)
    var = one * sd**2
    assert float(mean(torch.abs, 0 * one, var)) == pytest.approx(sd * math.sqrt(2 / math.pi), rel=1e-6, abs=1e-7)
    want = 0.5 + math.log(2) + special.log_ndtr(-1)
    assert float(log_mean(lambda eta: -eta.abs() / sd, 0 * one, var)) == pytest.approx(want, abs=1e-6)


def test_a_narrow_step_is_found_at_the_place_that_is_named():
    """It lies between the points of the rule; the place named makes two panels of one, whose ends are near it."""
    one, place, half = torch.ones(1, 1, dtype=torch.float64), 9.3, 0.03
    step = lambda eta: ((eta - place).abs() < half).double() * 1e19  # noqa: E731
    want = 1e19 * (special.ndtr(-place + half) - special.ndtr(-place - half))
    assert float(mean(step, 0 * one, one, [place * one])) == pytest.approx(want, rel=1e-4)


def test_the_half_of_a_panel_that_has_the_kink_is_halved_again():
    """A kink is in one of two halves, so that each round looks at two panels, and the error falls by a power of two."""
    one, rounds = torch.ones(1, 1, dtype=torch.float64), []

    def kinked(eta):
        rounds.append(len(eta))
        return (eta - 0.3).abs()

    got = float(mean(kinked, 0 * one, one))
    assert got == pytest.approx(math.sqrt(2 / math.pi) * math.exp(-0.045) + 0.3 * math.erf(0.3 / 2**0.5), abs=1e-6)
    assert len(rounds) < 32


def test_cells_are_those_of_a_normal_number():
    nodes, weight = cells()
    assert float(weight.sum()) == pytest.approx(1, abs=1e-12)
    assert float((weight * nodes.square()).sum()) == pytest.approx(1, abs=3e-3)
