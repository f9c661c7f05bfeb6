r"""The linear-Gaussian case in closed form: the oracle that everything else is measured against.

With $w \sim \mathcal N(\mu, \Lambda_0^{-1})$ and $y_i = x_i^\top w + \sigma \varepsilon_i$,

$$ \Lambda = \Lambda_0 + X^\top X / \sigma^2, \qquad m = \mu + \Lambda^{-1} X^\top (y - X\mu) / \sigma^2, $$

$$ \log p(y) = -\tfrac12 \big[ n \log 2\pi\sigma^2 + \log |\Lambda| - \log |\Lambda_0|
   + \lVert y - X m \rVert^2 / \sigma^2 + (m - \mu)^\top \Lambda_0 (m - \mu) \big]. $$

Written apart from the code that it checks: nothing of the initializer, the refiner or the objective
is used here.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ebmeta.checks import checked
from ebmeta.gaussian import FullGaussian, Gaussian

__all__ = ["log_evidence", "posterior"]


@checked()
def posterior(prior: Gaussian, x: Tensor, y: Tensor, mask: Tensor, noise_variance: Tensor) -> FullGaussian:
    r"""Return the exact posterior $p(w \mid x, y)$ of every task.

    Args:
        prior: $p(w)$, shape `(T, 1, P)`.
        x: features $X$, shape `(T, N, P)`.
        y: labels, shape `(T, N)`.
        mask: True where a row is real, shape `(T, N)`.
        noise_variance: $\sigma^2$, a scalar.

    Returns:
        A Gaussian of shape `(T, 1, P)`.
    """
    x = x * mask.unsqueeze(-1)
    residual = torch.where(mask, y - torch.einsum("tnp,tp->tn", x, prior.loc[:, 0]), 0.0)
    precision = prior.precision[:, 0] + x.mT @ x / noise_variance
    shift = torch.linalg.solve(precision, torch.einsum("tnp,tn->tp", x, residual) / noise_variance)
    return FullGaussian((prior.loc[:, 0] + shift).unsqueeze(1), precision.unsqueeze(1))


@checked()
def log_evidence(prior: Gaussian, x: Tensor, y: Tensor, mask: Tensor, noise_variance: Tensor) -> Tensor:
    r"""Return $\log p(y \mid x)$ of every task in nats, shape `(T,)`; arguments as for `posterior`."""
    q = posterior(prior, x, y, mask, noise_variance)
    m, mu, precision = q.loc[:, 0], prior.loc[:, 0], prior.precision[:, 0]
    error = torch.where(mask, y - torch.einsum("tnp,tp->tn", x, m), 0.0)
    fit = error.square().sum(1) / noise_variance
    penalty = torch.einsum("tp,tpr,tr->t", m - mu, precision, m - mu)
    log_det = torch.logdet(q.precision[:, 0]) - torch.logdet(precision)
    return -(mask.sum(1) * (math.log(2 * math.pi) + torch.log(noise_variance)) + log_det + fit + penalty) / 2
