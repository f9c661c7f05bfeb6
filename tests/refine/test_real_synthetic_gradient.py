"""The synthetic gradient for real labels against its formula, written out."""

from __future__ import annotations

import math
from types import SimpleNamespace

import torch
from builders import close, generator, perturb, random_precision, real_tasks
from torch import nn

from ebmeta.parts.gaussian import FullGaussian
from ebmeta.refine.real_synthetic_gradient import RealSyntheticGradient


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def moved(module):
    perturb(module.double(), scale=0.5)
    return module


def test_the_real_residual_is_a_shift_of_the_weights():
    batch = real_tasks()
    xi, x = moved(RealSyntheticGradient(3, 4)), batch.query_x
    q = FullGaussian(normal(4, 1, 3), random_precision((4, 1), 3, generator(5)))
    curvature = normal(4, 7, 1, seed=2).square()
    s = SimpleNamespace(q=q, x=x, setting=SimpleNamespace(query_mask=batch.query_mask), curvature=curvature)
    residual, (score, information) = xi(s), xi.inputs(s)
    for t in range(4):
        rows = x[t][batch.query_mask[t]]
        u = torch.cat([rows.mean(0), rows.square().mean(0), q.loc[t, 0]])
        left, right = xi.left.weight, xi.right.weight
        moments = ((rows @ left.T) * (rows @ right.T)).mean(0)
        spread = (left @ q.covariance()[t, 0] @ left.T).diagonal().log()
        count = torch.tensor([math.log(len(rows))], dtype=torch.float64)
        h = nn.functional.silu(xi.hidden(torch.cat([u, moments, spread, count])))
        shift, slope, turn = (0.3 * xi.readout(h)).split([3, 3, 9])
        close(residual[t, :, 0], -curvature[t, :, 0] * (x[t] @ shift))
        close(score[t, 0], len(rows) * (xi.score(u) + slope))
        root = xi.factor + turn.view(3, 3)
        close(information[t, 0], len(rows) * root @ root.T)
