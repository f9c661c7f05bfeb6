"""Small models and tasks that many tests share."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from ebmeta import EmpiricalBayes, TaskBatch
from ebmeta.likelihood import ScalarLikelihood
from ebmeta.likelihood.categorical import Categorical
from ebmeta.parts.class_prior import ClassPrior
from ebmeta.parts.heads import LinearHead
from ebmeta.parts.initializer import ClassInitializer
from ebmeta.refine.belief import BeliefRefiner
from ebmeta.refine.class_synthetic_gradient import ClassSyntheticGradient
from ebmeta.simulate.gaussian_classes import GaussianClasses


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def perturb(module: nn.Module, seed: int = 0, scale: float = 0.3) -> None:
    """Move every parameter and stored buffer at random: an untrained gradient refiner would make laws vacuous.

    Centre and unit of labels stay, so that exact answers can be stated in the labels' own units.
    """
    g = generator(seed)
    kept = {id(b) for m in module.modules() if isinstance(m, ScalarLikelihood) for b in m.buffers()}
    with torch.no_grad():
        moved = {id(v) for v in module.state_dict(keep_vars=True).values()} - kept
        for p in (p for p in (*module.parameters(), *module.buffers()) if p.is_floating_point() and id(p) in moved):
            p.add_(scale * torch.randn(p.shape, generator=g, dtype=p.dtype))


def class_tasks(
    ways=(3, 5, 2, 4), shots=(2, 1, 3, 1), queries=(6, 4, 7, 5), features=4, seed=0, dtype=torch.float64, spread=1.0
) -> TaskBatch:
    """Ragged classification tasks: a normal cloud around each class's random centre, shuffled."""
    g = generator(seed)
    support_x, support_y, query_x, query_y = [], [], [], []
    for way, shot, query in zip(ways, shots, queries, strict=True):
        centre = 2 * torch.randn(way, features, generator=g, dtype=dtype)
        for xs, ys, y in (
            (support_x, support_y, torch.arange(way).repeat(shot)),
            (query_x, query_y, torch.randint(way, (query,), generator=g)),
        ):
            xs.append(centre[y] + spread * torch.randn(len(y), features, generator=g, dtype=dtype))
            ys.append(y)
    return TaskBatch.from_tasks(support_x, support_y, query_x, query_y, list(ways))


def real_tasks(
    supports=(4, 2, 6, 3), queries=(6, 4, 7, 5), features=3, noise=0.5, seed=0, dtype=torch.float64
) -> TaskBatch:
    """Ragged linear-Gaussian tasks: weights around (1, ..., 1) of standard deviation 1/2, intercept included."""
    g = generator(seed)
    support_x, support_y, query_x, query_y = [], [], [], []
    for s, q in zip(supports, queries, strict=True):
        w = 1 + torch.randn(features + 1, generator=g, dtype=dtype) / 2
        for xs, ys, n in ((support_x, support_y, s), (query_x, query_y, q)):
            x = torch.randn(n, features, generator=g, dtype=dtype)
            xs.append(x)
            ys.append(x @ w[:-1] + w[-1] + noise * torch.randn(n, generator=g, dtype=dtype))
    return TaskBatch.from_tasks(support_x, support_y, query_x, query_y)


UNSIZED = ("bernoulli", "beta", "ordinal")  # whose rows have no sizes


def number_tasks(likelihood, supports=(4, 2, 6, 3), queries=(6, 4, 7, 5), seed=0, sizes=True, **kwargs) -> TaskBatch:
    """Ragged tasks whose labels suit a likelihood, with trials or exposure where it takes any."""
    batch = real_tasks(supports, queries, seed=seed, **kwargs)
    g = generator(seed + 100)
    parts = {}
    for side in ("support", "query"):
        y, mask = getattr(batch, f"{side}_y"), getattr(batch, f"{side}_mask")
        size = torch.randint(1, 6, y.shape, generator=g).to(y.dtype)
        if likelihood == "bernoulli":
            y = (y > 0).to(y.dtype)
        elif likelihood == "binomial":
            y = torch.minimum((y.clamp(min=0) * 1.5).round(), size)
        elif likelihood in ("poisson", "negative_binomial"):
            y = (y.abs() * size).round()
        elif likelihood in ("zero_inflated_poisson", "zero_inflated_negative_binomial"):
            y = (y.abs() * size).round() * (torch.rand(y.shape, generator=g) < 0.9)
        elif likelihood == "ordinal":
            y = (y > 0).to(y.dtype) + (y > 1)
        elif likelihood == "beta":
            y = (y / 2).sigmoid()
        elif likelihood in ("log_normal", "gamma"):
            y = (y / 2).exp()
        parts |= {f"{side}_y": y * mask, f"{side}_size": size if sizes and likelihood not in UNSIZED else None}
    return replace(batch, **parts)


def classifier(features=4, num_steps=3, *, seed=0, scale=0.3, dtype=torch.float64, **kwargs) -> EmpiricalBayes:
    """Build a perturbed classifier, a model of labels alone by default; `scale=0` leaves it as built."""
    kwargs.setdefault("synthetic_gradient", "mixture")
    model = EmpiricalBayes.classifier(features, num_steps, width=8, **kwargs).to(dtype)
    perturb(model, seed, scale)
    return model


def regressor(features=3, num_steps=3, *, seed=0, scale=0.3, dtype=torch.float64, **kwargs) -> EmpiricalBayes:
    """Build a perturbed regressor; `scale=0` leaves it as built."""
    model = EmpiricalBayes.regressor(features, num_steps=num_steps, width=8, **kwargs).to(dtype)
    perturb(model, seed, scale)
    return model


def joint_model(family: GaussianClasses, num_steps=4, *, scale=0.0, dtype=torch.float64) -> EmpiricalBayes:
    """Build the joint model whose prior is that of a family; `scale=0` leaves its steps as mean-field inference."""
    prior = ClassPrior(family.num_features, family.between, family.within)
    refiner = BeliefRefiner(ClassSyntheticGradient(8), num_steps)
    perturb(refiner, scale=scale)
    head = LinearHead(family.num_features, standardize=False)
    return EmpiricalBayes(prior, Categorical(), head, ClassInitializer(), refiner, beta=1.0).to(dtype)


def random_precision(shape: tuple[int, ...], size: int, g: torch.Generator) -> Tensor:
    """Draw symmetric positive definite matrices, shape `(*shape, size, size)`."""
    a = torch.randn(*shape, size, size, generator=g, dtype=torch.float64)
    return a @ a.mT + torch.eye(size, dtype=torch.float64)


def close(got: Tensor, expected: Tensor, tol: float = 1e-9) -> None:
    torch.testing.assert_close(got, expected, atol=tol, rtol=tol)
