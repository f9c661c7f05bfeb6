r"""Likelihoods of one number per row: what they share, by quadrature over a Gaussian linear predictor.

A member states the mean, the variance and the distribution of a label given $\eta$; everything that asks for an
average over $\eta \sim \mathcal N(m, v)$ follows by Gauss-Hermite rules. The predictive density is the average of a
function that may be much narrower than $q(\eta)$, so its rule is centred where the integrand is,

$$ \log p(y) = \log \int p(y \mid \eta)\, \mathcal N(\eta; m, v)\, d\eta
   \approx \log \sum_k w_k\, s\, \frac{p(y \mid \eta_k)\, \mathcal N(\eta_k; m, v)}{\mathcal N(z_k; 0, 1)}, \qquad
   \eta_k = \hat\eta + s z_k, $$

with $\hat\eta$ the mode of the integrand and $s$ its width there. Source: Naylor and Smith 1982, Applications of a
method for the efficient computation of posterior distributions.
"""

from __future__ import annotations

import math
from functools import cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ebmeta.likelihood.base import Given, Likelihood

__all__ = ["ScalarLikelihood"]

NODES = 20
MODE_STEPS = 12


@cache
def _rule(num_nodes: int) -> tuple[Tensor, Tensor]:
    """Return nodes and log weights of a standard normal average."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(num_nodes)
    return torch.from_numpy(nodes), torch.from_numpy(np.log(weights / weights.sum()))


def spread(loc: Tensor, var: Tensor, num_nodes: int = NODES) -> tuple[Tensor, Tensor]:
    r"""Return Gauss-Hermite values of $\eta \sim \mathcal N(m, v)$ and their weights, shape `(nodes, ...)`."""
    nodes, log_weights = (v.to(loc).view(-1, *[1] * loc.dim()) for v in _rule(num_nodes))
    return loc + var.clamp(min=1e-20).sqrt() * nodes, log_weights.exp()


class ScalarLikelihood(Likelihood):
    r"""Base class of likelihoods with one number per row; `eta` below has any shape `(..., T, Q)`.

    Labels and sizes come in their own precision, and scores are asked for in 64 bits.

    For a canonical link (the linear predictor is the natural parameter) `mean` and `variance` are $A'$ and $A''$,
    and `distribution` is all that is left to say. See docs: "A likelihood of your own".
    """

    #: True where labels are counts.
    discrete: ClassVar[bool] = False

    def mean(self, eta: Tensor, given: Given | None = None) -> Tensor:
        r"""Return $\mathbb E[y \mid \eta]$."""
        raise NotImplementedError

    def variance(self, eta: Tensor, given: Given | None = None) -> Tensor:
        r"""Return $\mathrm{Var}[y \mid \eta]$."""
        raise NotImplementedError

    def cdf(self, y: Tensor, eta: Tensor, given: Given | None = None) -> Tensor:
        r"""Return $P(Y \le y \mid \eta)$: what quantiles and intervals ask for."""
        raise ValueError(f"quantiles: expected a likelihood with a cdf, got {self.name}")

    def information(self, eta: Tensor, given: Given | None = None) -> Tensor:
        r"""Return the Fisher information of $\eta$; $A''(\eta)$ for a canonical link."""
        return self.variance(eta, given)

    def statistic(self, y: Tensor, num_ways: int) -> Tensor:
        return y.unsqueeze(-1)

    def moments(self, loc: Tensor, var: Tensor, way_mask: Tensor, given: Given | None = None) -> tuple[Tensor, Tensor]:
        eta, weight = spread(loc.squeeze(-1), var.squeeze(-1))
        out = ((weight * f(eta, given)).sum(0).unsqueeze(-1) for f in (self.mean, self.information))
        mean, information = out
        return mean, information

    def predict(self, loc: Tensor, var: Tensor, way_mask: Tensor, given: Given | None = None) -> dict[str, Tensor]:
        """Return `mean` and `std` of a new label, shape `(T, Q)`, noise included."""
        eta, weight = spread(loc.squeeze(-1), var.squeeze(-1))
        of_eta = self.mean(eta, given)
        mean = (weight * of_eta).sum(0)
        total = (weight * (self.variance(eta, given) + (of_eta - mean).square())).sum(0)
        return {"mean": mean, "std": total.sqrt()}

    def predictive_cdf(self, y: Tensor, loc: Tensor, var: Tensor, given: Given | None = None) -> Tensor:
        """Return the probability of a label up to `y`, shape `(T, Q)`; `loc` and `var` of shape `(T, Q, 1)`.

        Averages over equally likely values of the linear predictor, because a cdf may be a narrow step in it.
        """
        probs = (torch.arange(101, dtype=torch.float64) + 0.5) / 101
        nodes = torch.special.ndtri(probs).to(loc).view(-1, 1, 1)
        eta = loc.squeeze(-1) + var.squeeze(-1).clamp(min=0).sqrt() * nodes
        return self.cdf(y.expand(eta.shape), eta, given).mean(0)

    def expected_log_prob(
        self, y: Tensor, loc: Tensor, var: Tensor, way_mask: Tensor, noise: Tensor, given: Given | None = None
    ) -> Tensor:
        eta, weight = spread(loc, var)
        return (weight.squeeze(-1) * self.log_prob(y, eta, way_mask, given)).sum(0)

    def predictive_log_prob(
        self, y: Tensor, loc: Tensor, var: Tensor, way_mask: Tensor, noise: Tensor, given: Given | None = None
    ) -> Tensor:
        var = var.clamp(min=(64 * torch.finfo(loc.dtype).eps) ** 2 * (1 + loc.detach().square()))  # its rounding
        mode, width = self._peak(y, loc, var, way_mask, given)
        nodes, log_weight = (v.to(loc).view(-1, *[1] * loc.dim()) for v in _rule(NODES))
        eta = mode + width * nodes
        log_q = -((eta - loc).square() / var + torch.log(2 * math.pi * var)) / 2
        back = log_weight + (nodes.square() + math.log(2 * math.pi)) / 2 + width.log()
        return torch.logsumexp(self.log_prob(y, eta, way_mask, given) + (log_q + back).squeeze(-1), 0)

    @torch.no_grad()
    def _peak(
        self, y: Tensor, loc: Tensor, var: Tensor, way_mask: Tensor, given: Given | None
    ) -> tuple[Tensor, Tensor]:
        r"""Return mode and width of $p(y \mid \eta) \mathcal N(\eta; m, v)$, by Newton steps of at most 2."""
        eta, none = loc, torch.zeros_like(loc)
        for _ in range(MODE_STEPS):
            g, h = self.gradients(y, eta, none, way_mask, given)
            eta = eta - ((g + (eta - loc) / var) / (h + 1 / var)).clamp(-2, 2)
        _, h = self.gradients(y, eta, none, way_mask, given)
        return eta, (h + 1 / var).rsqrt()


def size_of(given: Given | None) -> Tensor | float:
    """Return the sizes of the rows, 1 where there are none."""
    return 1.0 if given is None or given.size is None else given.size
