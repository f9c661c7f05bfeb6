"""A log density whose slopes are NaN is refused: NaN counted as a slope of 0, and a label as saying nothing."""

from __future__ import annotations

import pytest
import torch

from ebmeta.likelihood.curved import check_curved
from ebmeta.likelihood.scalar import ScalarLikelihood

WAYS = torch.ones(1, 1, dtype=torch.bool)
Y = torch.tensor([[0.5, -1.0, 2.0]]).double()
ETA = torch.zeros(1, 3, 1).double()
VAR = torch.full_like(ETA, 0.01)


class Split(ScalarLikelihood):
    """Residuals below 0 cost half their square, those above 0 a root's power and a slope."""

    name = "split"

    def mean(self, eta, given=None):
        return eta

    def variance(self, eta, given=None):
        return torch.ones_like(eta)

    def above(self, r):
        return r.sqrt() ** 4

    def log_prob(self, y, eta, way_mask, given=None):
        r = y - eta.squeeze(-1)
        return torch.where(r > 0, -self.above(r) / 2 - 0.2 * r, -(r**2) / 2)


class Clamped(Split):
    """The same, as it should be written."""

    name = "clamped"

    def above(self, r):
        return r.clamp(min=1e-12).sqrt() ** 4


class Tip(ScalarLikelihood):
    """A smoothed absolute value, whose slope at 0 alone is NaN."""

    name = "tip"

    def mean(self, eta, given=None):
        return eta

    def variance(self, eta, given=None):
        return torch.ones_like(eta)

    def log_prob(self, y, eta, way_mask, given=None):
        r = y - eta.squeeze(-1)
        return -(r**2) / 2 - (r**2).sqrt() ** 3


def test_a_branch_that_is_not_taken_may_have_no_slope_of_nan():
    said = r"split likelihood: expected a slope wherever the log density is a number, got NaN near 0 for label 0\.5"
    with pytest.raises(ValueError, match=said):
        Split().gradients(Y, ETA, VAR, WAYS)
    slope, curvature = Clamped().gradients(Y, ETA, VAR, WAYS)
    torch.testing.assert_close(slope[0, 1:, 0], torch.tensor([1.0, -2.2]).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(curvature, torch.ones_like(curvature), atol=1e-5, rtol=0)


def test_one_place_without_a_slope_is_in_order():
    slope, _ = Tip().gradients(torch.tensor([[0.0, 1.0]]).double(), ETA[:, :2], VAR[:, :2], WAYS)
    torch.testing.assert_close(slope[0, 0], torch.zeros(1).double(), atol=1e-6, rtol=0)


def test_what_no_density_has_a_slope_of_is_not_asked_for():
    """Padding may be a label that a likelihood cannot have: its density is none, and its slope neither."""

    def curvature(eta):
        return torch.full_like(eta, torch.nan), torch.full_like(eta, torch.nan)

    y, eta = torch.zeros(1, 1), torch.zeros(1, 1)
    with pytest.raises(ValueError, match="own likelihood: expected a log density, got NaN of every label"):
        check_curved("own", y, lambda eta: eta * torch.nan, curvature, eta)
    with pytest.raises(ValueError, match="expected a slope wherever the log density is a number"):
        check_curved("own", y, lambda eta: -eta, curvature, eta)

    def curved(eta):
        rows = torch.tensor([1.0, torch.nan]).expand_as(eta)
        return rows, rows

    both = torch.zeros(1, 2), torch.zeros(1, 2)
    assert check_curved("own", both[0], lambda eta: eta + torch.tensor([0.0, -torch.inf]), curved, both[1])
