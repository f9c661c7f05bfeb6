"""Tasks of counts, and of yes and no, drawn from a prior that the model knows."""

from __future__ import annotations

import numpy as np
import torch

import ebmeta

SUPPORT, QUERY, FEATURES = 4, 20, 2


def count_tasks(likelihood: str, num_tasks: int, seed: int) -> tuple[ebmeta.EmpiricalBayes, ebmeta.TaskBatch]:
    """Return a model that knows the true prior, and tasks drawn from it."""
    model = ebmeta.EmpiricalBayes.regressor(FEATURES, likelihood, num_steps=0, standardize=False)
    model.prior.log_scale.data.fill_(float(np.log(1.0 if likelihood == "bernoulli" else 0.8)))
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(num_tasks, SUPPORT + QUERY, FEATURES, generator=g)
    w = model.prior.log_scale.exp().detach() * torch.randn(num_tasks, FEATURES + 1, generator=g)
    eta = torch.einsum("tnd,td->tn", x, w[:, :-1]) + w[:, -1:]
    y = torch.bernoulli(eta.sigmoid(), generator=g) if likelihood == "bernoulli" else torch.poisson(eta.exp(), g)
    return model, ebmeta.TaskBatch(x[:, :SUPPORT], y[:, :SUPPORT], x[:, SUPPORT:], y[:, SUPPORT:])
