r"""The amortized initializer $q_0 = \lambda(d^s)$: a posterior from the support set alone.

Two members, both exact for a linear-Gaussian model, both sums over support points and therefore
permutation-invariant, and both equal to the prior where a class has no support:

- `PrototypeInitializer` (class weights): each labelled feature vector is a noisy look at its
  class's weight vector, so the location is a prototype shrunk towards the learned prior.
- `ConjugateInitializer` (real labels): Bayesian linear regression under the learned prior.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ebmeta.gaussian import Gaussian
from ebmeta.likelihood import Likelihood

__all__ = ["ConjugateInitializer", "Initializer", "PrototypeInitializer"]


class Initializer(nn.Module):
    """Base class: a map from prior and support set to a Gaussian."""

    def forward(self, prior: Gaussian, likelihood: Likelihood, x: Tensor, y: Tensor, mask: Tensor) -> Gaussian:
        r"""Return $q_0$.

        Args:
            prior: $p_\psi(w_t)$, shape `(T, C, P)`.
            likelihood: $p(y \mid \eta)$.
            x: support features, shape `(T, S, P)`.
            y: support labels, shape `(T, S)`.
            mask: True where a support row is real, shape `(T, S)`.

        Returns:
            A Gaussian of the prior's family, shape `(T, C, P)`.
        """
        raise NotImplementedError


class PrototypeInitializer(Initializer):
    r"""Class weights seen through their examples, each a noisy look at its class's weights.

    $$ a\,\phi(x_i) \mid w \sim \mathcal N(w_{y_i}, \mathrm{diag}(\lambda)^{-1}), $$

    $$ \Lambda_c = \Lambda_0 + n_c \lambda, \qquad
       m_c = \Lambda_c^{-1} \Big( \Lambda_0 \mu + \lambda\, a \sum_{i : y_i = c} \phi(x_i) \Big) $$

    Args:
        num_weights: weights per class, $P$.
        amplitude: initial value of $a$.
        precision: initial value of every $\lambda_p$.
    """

    def __init__(self, num_weights: int, amplitude: float = 10.0, precision: float = 4.0) -> None:
        super().__init__()
        self.log_amplitude = nn.Parameter(torch.tensor(math.log(amplitude)))
        self.log_precision = nn.Parameter(torch.full((num_weights,), math.log(precision)))

    def forward(self, prior: Gaussian, likelihood: Likelihood, x: Tensor, y: Tensor, mask: Tensor) -> Gaussian:
        member = likelihood.statistic(y, prior.loc.shape[1]).to(x.dtype) * mask.unsqueeze(-1)
        looks = self.log_precision.exp()
        total = self.log_amplitude.exp() * torch.einsum("tsc,tsp->tcp", member, x)
        precision = prior.precision + member.sum(1).unsqueeze(-1) * looks
        return prior.with_((prior.times(prior.loc) + looks * total) / precision, precision)


class ConjugateInitializer(Initializer):
    r"""One natural-gradient step of size 1 from the prior, which is exact for a normal likelihood.

    $$ \Lambda = \Lambda_0 + X^\top A'' X / \varphi, \qquad m = \mu + \Lambda^{-1} X^\top (T(y) - A') / \varphi $$

    with $A'$ and $A''$ averaged over the prior; for a normal likelihood $A' = X \mu$ and $A'' = 1$.

    Source: equal to `ebmeta.conjugate.posterior` (tested).
    """

    def forward(self, prior: Gaussian, likelihood: Likelihood, x: Tensor, y: Tensor, mask: Tensor) -> Gaussian:
        weight = mask.unsqueeze(-1) / likelihood.dispersion()
        ways = torch.ones(prior.loc.shape[:2], dtype=torch.bool, device=x.device)
        mean, curvature = likelihood.moments(*prior.marginal(x), ways)
        statistic = likelihood.statistic(y, prior.loc.shape[1]).to(x.dtype)
        q = prior.with_(prior.loc, prior.precision + prior.gram(x, curvature * weight))
        return q.with_(q.loc + q.solve(torch.einsum("tsp,tsc->tcp", x, (statistic - mean) * weight)), q.precision)
