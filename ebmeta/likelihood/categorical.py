"""The likelihood of class labels."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from ebmeta.likelihood.base import Given, Likelihood
from ebmeta.likelihood.mean_field import NEVER, mean_field_softmax
from ebmeta.likelihood.softmax_integral import gaussian_softmax

__all__ = ["NEVER", "Categorical"]


class Categorical(Likelihood):
    r"""Classes: $A(\eta) = \log \sum_c e^{\eta_c}$, $T(y)$ one-hot, $A' = \mathrm{softmax}(\eta)$."""

    name = "categorical"
    categorical = True
    discrete = True
    no_size = "class labels, whose rows have no sizes"

    def check(self, name: str, y: Tensor, mask: Tensor, size: Tensor | None) -> None:
        self.check_size(name, mask, size)

    def statistic(self, y: Tensor, num_ways: int) -> Tensor:
        return torch.nn.functional.one_hot(y, num_ways).to(torch.get_default_dtype())

    def moments(self, loc: Tensor, var: Tensor, way_mask: Tensor, given: Given | None = None) -> tuple[Tensor, Tensor]:
        r"""Mean-field approximation of $\mathbb E[\mathrm{softmax}(\eta)]$ and $p (1 - p)$.

        Deterministic and equivariant to relabelling (`mean_field_softmax`). Refinement uses it in every step;
        predictions use the integral itself (`gaussian_softmax`).
        """
        p = mean_field_softmax(loc, var, way_mask)
        return p, p * (1 - p)

    def distribution(self, eta: Tensor, way_mask: Tensor, given: Given | None = None) -> TorchDistributionMixin:
        return dist.Categorical(logits=eta.masked_fill(~way_mask.unsqueeze(-2), NEVER), validate_args=False)

    def log_prob(self, y: Tensor, eta: Tensor, way_mask: Tensor, given: Given | None = None) -> Tensor:
        logp = torch.log_softmax(eta.masked_fill(~way_mask.unsqueeze(-2), NEVER), -1)
        return logp.gather(-1, y.expand(logp.shape[:-1]).unsqueeze(-1)).squeeze(-1)

    def predict(self, loc: Tensor, var: Tensor, way_mask: Tensor, given: Given | None = None) -> dict[str, Tensor]:
        """Return `probs`, the predictive class probabilities, shape `(T, Q, C)`."""
        return {"probs": gaussian_softmax(loc, var, way_mask)}
