"""Numerical checks of theory/profile.md: exact, so that none can fail by chance."""

from __future__ import annotations

import math

import pytest
import torch
from builders import classifier, close
from equations import checks
from scipy import special
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
    u = directions(rng, 2)  # of centred roots, as the package has them, it is the cosine
    one, other = probabilities(profile, u).sqrt() - profile.center
    close(profile(u)[0] @ profile(u)[1], one @ other / (one.norm() * other.norm()))


@checks("eq-profile-information")
def test_a_small_change_is_a_quarter_of_the_fisher_information(profile: ClassProfile, rng: torch.Generator) -> None:
    u, delta = directions(rng, 2)
    slope = torch.autograd.functional.jacobian(lambda v: torch.softmax(profile.weight @ v + profile.bias, -1).sqrt(), u)
    p = probabilities(profile, u)
    close(slope, p.sqrt()[:, None] / 2 * (profile.weight - p @ profile.weight))
    step = 1e-5
    moved = probabilities(profile, u + step * delta).sqrt() - probabilities(profile, u - step * delta).sqrt()
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


@checks("eq-profile-left-out")
def test_in_training_a_profile_leaves_its_own_classes_out(profile: ClassProfile, rng: torch.Generator) -> None:
    profile.one_each.fill_(True)
    u, own = directions(rng, 10).view(2, 5, D), torch.tensor([[1, 4, -1], [0, 2, 3]])
    got = profile(u, own)
    for t, left_out in enumerate(([1, 4], [0, 2, 3])):
        others = [g for g in range(G) if g not in left_out]
        p = probabilities(profile, u[t])[:, others]
        root = (p / p.sum(-1, keepdim=True)).sqrt() - profile.center[others]
        close(got[t][:, others], root / root.norm(dim=-1, keepdim=True))
        close(got[t][:, left_out], torch.zeros(5, len(left_out), dtype=torch.float64))
    assert float((got - profile(u)).norm(dim=-1).min()) > 0.05
    profile.one_each.fill_(False)  # groups of several classes
    close(profile(u, own), profile(u))


@checks("eq-profile-normaliser")
def test_the_normaliser_depends_on_the_direction() -> None:
    kappa, count = 20.0, 720
    angle = torch.arange(count, dtype=torch.float64) * 2 * math.pi / count
    u = torch.stack([angle.cos(), angle.sin()], -1)
    found = {}
    for groups in (0, 64):
        predictor = classifier(2, profile=groups).predictor
        if groups:
            near = torch.linspace(0, 1.5, groups, dtype=torch.float64)  # all training classes lie in one quarter
            predictor.profile.weight.copy_(40 * torch.stack([near.cos(), near.sin()], -1))
            predictor.profile.bias.zero_()
        x = predictor.center + u @ torch.linalg.inv(predictor.metric)
        phi = predictor.features(x[None])[0, :, :-1]
        theta = phi[:: count // 12]  # directions of twelve inputs, all of length one
        close(theta.norm(dim=-1), torch.ones(12, dtype=torch.float64))
        found[groups] = ((kappa * theta @ phi.mT).logsumexp(-1) + math.log(2 * math.pi / count)).detach()
    close(found[0].exp(), torch.full((12,), 2 * math.pi * float(special.i0(kappa)), dtype=torch.float64))
    assert float(found[64].max() - found[64].min()) > 0.1
