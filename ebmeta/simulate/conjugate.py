r"""The linear-Gaussian case in closed form, with which everything else is compared.

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

from ebmeta.foundation.checks import checked
from ebmeta.parts.gaussian import FullGaussian, Gaussian

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

    Raises:
        ValueError: if shapes or types do not go together, or the numbers leave their type.
    """
    _check(prior, x, y, mask, noise_variance)
    x = torch.where(mask.unsqueeze(-1), x, 0.0)
    residual = torch.where(mask, y - torch.einsum("tnp,tp->tn", x, prior.loc[:, 0]), 0.0)
    precision = prior.precision[:, 0] + x.mT @ x / noise_variance
    weighted = torch.einsum("tnp,tn->tp", x, residual) / noise_variance
    shift, singular = torch.linalg.solve_ex(_finite(precision), _finite(weighted))
    loc = torch.where(singular.bool().unsqueeze(-1), math.nan, prior.loc[:, 0] + shift)
    return FullGaussian(_finite(loc).unsqueeze(1), precision.unsqueeze(1))


@checked()
def log_evidence(prior: Gaussian, x: Tensor, y: Tensor, mask: Tensor, noise_variance: Tensor) -> Tensor:
    r"""Return $\log p(y \mid x)$ of every task in nats, shape `(T,)`; arguments as for `posterior`."""
    q = posterior(prior, x, y, mask, noise_variance)
    m, mu, precision = q.loc[:, 0], prior.loc[:, 0], prior.precision[:, 0]
    error = torch.where(mask, y - torch.einsum("tnp,tp->tn", x, m), 0.0)
    fit = error.square().sum(1) / noise_variance
    penalty = torch.einsum("tp,tpr,tr->t", m - mu, precision, m - mu)
    log_det = torch.logdet(q.precision[:, 0]) - torch.logdet(precision)
    rows = mask.sum(1) * (math.log(2 * math.pi) + torch.log(noise_variance))
    return _finite(-(rows + log_det + fit + penalty) / 2)


def _check(prior: Gaussian, x: Tensor, y: Tensor, mask: Tensor, noise_variance: Tensor) -> None:
    tasks, _, size = prior.loc.shape
    if x.dim() != 3 or (x.shape[0], x.shape[2]) != (tasks, size):
        raise ValueError(f"x: expected shape ({tasks}, N, {size}), as prior, got {tuple(x.shape)}")
    for name, value, dtype in (("y", y, x.dtype), ("mask", mask, torch.bool)):
        if value.shape != x.shape[:2] or value.dtype != dtype:
            wanted = f"shape {tuple(x.shape[:2])} of {dtype}"
            raise ValueError(f"{name}: expected {wanted}, as x, got {tuple(value.shape)} of {value.dtype}")
    if x.dtype != prior.loc.dtype:
        raise ValueError(f"x: expected {prior.loc.dtype}, as prior, got {x.dtype}")
    if not x[mask].isfinite().all() or not y[mask].isfinite().all():
        raise ValueError("x, y: expected finite numbers in rows that are real, got others")
    if noise_variance.dim() or not 0 < float(noise_variance.detach()) < math.inf:
        raise ValueError("noise_variance: expected a finite number above 0, got another, or several")


def _finite(value: Tensor) -> Tensor:
    if not value.isfinite().all():
        raise ValueError(f"x, y: expected numbers whose posterior {value.dtype} holds, got larger ones")
    return value
