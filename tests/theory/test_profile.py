"""Numerical checks of theory/profile.md: exact, so that none can fail by chance."""

from __future__ import annotations

import math

import pytest
import torch
from builders import classifier, close
from equations import checks
from torch.nn.functional import normalize

from ebmeta.parts.heads import CONSTANT
from ebmeta.parts.profile import ClassProfile

D, G = 4, 6


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def directions(rng: torch.Generator, count: int) -> torch.Tensor:
    return normalize(torch.randn(count, D, generator=rng, dtype=torch.float64), dim=-1)


@pytest.fixture
def profile(rng: torch.Generator) -> ClassProfile:
    made = ClassProfile(D, G).double()
    made.weight.copy_(3 * torch.randn(G, D, generator=rng, dtype=torch.float64))
    made.bias.copy_(torch.randn(G, generator=rng, dtype=torch.float64))
    made.center.copy_(probabilities(made, directions(rng, 50)).sqrt().mean(0))
    return made


def probabilities(profile: ClassProfile, u: torch.Tensor) -> torch.Tensor:
    """Return $p(u)$ one class after the other."""
    size = torch.stack([(u @ profile.weight[g] + profile.bias[g]).exp() for g in range(G)], -1)
    return size / size.sum(-1, keepdim=True)


@checks("eq-class-profile")
def test_a_profile_is_the_centred_root_of_class_probabilities(profile: ClassProfile, rng: torch.Generator) -> None:
    u = directions(rng, 7)
    root = probabilities(profile, u).sqrt() - profile.center
    close(profile(u), root / root.square().sum(-1, keepdim=True).sqrt())


@checks("eq-bhattacharyya")
def test_roots_multiply_to_the_bhattacharyya_coefficient(profile: ClassProfile, rng: torch.Generator) -> None:
    p, q = probabilities(profile, directions(rng, 2))
    coefficient = sum(math.sqrt(float(a) * float(b)) for a, b in zip(p, q, strict=True))
    assert 0.05 < coefficient < 0.95
    assert abs(float(p.sqrt() @ q.sqrt()) - coefficient) < 1e-12
    assert abs(1 - float((p.sqrt() - q.sqrt()).square().sum()) / 2 - coefficient) < 1e-12


@checks("eq-profile-slope")
def test_the_slope_of_a_root(profile: ClassProfile, rng: torch.Generator) -> None:
    u = directions(rng, 1)[0]
    slope = torch.autograd.functional.jacobian(lambda v: torch.softmax(profile.weight @ v + profile.bias, -1).sqrt(), u)
    p = probabilities(profile, u)
    close(slope, p.sqrt()[:, None] / 2 * (profile.weight - p @ profile.weight))


@checks("eq-profile-information")
def test_a_small_change_is_a_quarter_of_the_fisher_information(profile: ClassProfile, rng: torch.Generator) -> None:
    u, delta = directions(rng, 2)
    step = 1e-5
    moved = probabilities(profile, u + step * delta).sqrt() - probabilities(profile, u - step * delta).sqrt()
    p = probabilities(profile, u)
    score = (profile.weight - p @ profile.weight) @ delta
    close((moved / (2 * step)).square().sum(), (p * score.square()).sum() / 4, 1e-7)
    sure = ClassProfile(D, G).double()  # one class takes all: nothing moves
    sure.weight.copy_(profile.weight)
    sure.bias[2] = 60.0
    assert float((sure(u + 0.1 * delta) - sure(u)).norm()) < 1e-9


@checks("eq-profile-features")
def test_direction_and_profile_share_a_unit_vector() -> None:
    model = classifier(D, profile=G)
    predictor = model.predictor
    x = torch.randn(1, 2, D, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    one, other = predictor.features(x)[0]
    u = normalize((x[0] - predictor.center) @ predictor.metric, dim=-1)
    pi, omega = predictor.profile(u), min(math.sqrt(G / 256), 0.5)
    whole = torch.cat([u, omega * pi], -1) / math.sqrt(1 + omega**2)
    close(predictor.features(x)[0], torch.cat([whole, torch.full((2, 1), CONSTANT, dtype=x.dtype)], -1))
    close(one @ other, (u[0] @ u[1] + omega**2 * pi[0] @ pi[1]) / (1 + omega**2) + CONSTANT**2)
    close(one[:-1].norm(), one.new_ones(()))
