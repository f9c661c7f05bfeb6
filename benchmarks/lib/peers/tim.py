"""TIM: class weights fitted by gradient descent to the support labels and the queries' mutual information."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lib.peers.base import Peer, class_means, one_hot, softmax

SMALL = 1e-12


def adam(weights: Tensor, gradient: Tensor, moments: tuple[Tensor, Tensor], step: int, rate: float) -> None:
    """Take Adam step number `step` (from 1) in place, with the usual decay rates 0.9 and 0.999."""
    first, second = moments
    first.lerp_(gradient, 0.1)
    second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
    size = (second / (1 - 0.999**step)).sqrt_().add_(1e-8)
    weights.addcdiv_(first, size, value=-rate / (1 - 0.9**step))


@dataclass
class TIM(Peer):
    r"""Transductive information maximization, gradient version (TIM-GD).

    Class weights $w$ start at the support means; Adam minimises

    $$\lambda\, \mathrm{CE}(y^s, p^s) - \alpha\, H\Big(\frac1Q \sum_i p_i\Big) + \gamma\, \frac1Q \sum_i H(p_i),$$

    with $p_i = \mathrm{softmax}(\tau \cos(x_i, w))$, or $\mathrm{softmax}(-\tau |x_i - w|^2 / 2)$ on unit features.
    The gradient with respect to the logits is written out: no graph is recorded.

    Args:
        metric: "cosine" on the features as they are (easyfsl), "euclidean" on unit features (the authors).
        steps: number of Adam steps.
        rate: learning rate of Adam.
        temperature: $\tau$.
        support: $\lambda$.
        marginal: $\alpha$.
        conditional: $\gamma$.

    The defaults are easyfsl's. The authors: "euclidean", 1,000 steps (150 in their code) of rate 1e-4,
    temperature 15, weights 0.1, 1, 0.1. Chosen for the benchmark's features, whose norms are near 14: "cosine",
    rate 0.1, and in `registry` the temperature and the weights.

    Source: Boudiaf, Ziko, Rony, Dolz, Piantanida and Ben Ayed (2020), "Transductive information maximization".
    """

    name: ClassVar[str] = "tim"
    metric: Literal["cosine", "euclidean"] = "cosine"
    steps: int = 50
    rate: float = 1e-4
    temperature: float = 10.0
    support: float = 1.0
    marginal: float = 1.0
    conditional: float = 0.1

    def query_gradient(self, p: Tensor, shots: float) -> Tensor:
        r"""Return the gradient of the query terms in $p$, up to a constant per query, shape `(T, Q, C)`."""
        marginal = self.marginal * p.mean(1, keepdim=True).clamp(min=SMALL).log()
        return (marginal - self.conditional * (p + SMALL).log()) / p.shape[1]

    def gradient(self, unit: Tensor, weights: Tensor, labels: Tensor) -> Tensor:
        """Return the gradient of every task's loss with respect to its class weights.

        Args:
            unit: normalised features, the support first, shape `(T, S + Q, D)`.
            weights: $w$, shape `(T, C, D)`.
            labels: support labels as rows of an identity matrix, shape `(T, S, C)`.

        Returns:
            Shape `(T, C, D)`, in nats per unit of $w$.
        """
        rows, n_way = labels.shape[1:]
        p = softmax(self.class_scores(unit, weights))
        slope = torch.empty_like(p)
        slope[:, :rows] = (self.support / rows) * (p[:, :rows] - labels)
        query = p[:, rows:]
        by_p = self.query_gradient(query, rows / n_way)
        slope[:, rows:] = query * (by_p - (query * by_p).sum(-1, keepdim=True))
        pulled = self.temperature * (slope.mT @ unit)
        if self.metric == "euclidean":
            return pulled - self.temperature * slope.sum(1).unsqueeze(-1) * weights
        length = weights.norm(dim=-1, keepdim=True)
        direction = weights / length
        return (pulled - direction * (direction * pulled).sum(-1, keepdim=True)) / length

    def class_scores(self, unit: Tensor, weights: Tensor) -> Tensor:
        """Return the logits of normalised features under class weights, shape `(T, N, C)`."""
        if self.metric == "cosine":
            return self.temperature * (unit @ normalize(weights, dim=-1).mT)
        return self.temperature * (unit @ weights.mT - weights.square().sum(-1).unsqueeze(1) / 2)

    def scores(self, support_x: Tensor, support_y: Tensor, query_x: Tensor, n_way: int) -> Tensor:
        rows = support_x.shape[1]
        unit = normalize(torch.cat([support_x, query_x], 1), dim=-1)
        weights = class_means(support_x if self.metric == "cosine" else unit[:, :rows], support_y, n_way)
        labels = one_hot(support_y, n_way)
        moments = torch.zeros_like(weights), torch.zeros_like(weights)
        for step in range(1, self.steps + 1):
            adam(weights, self.gradient(unit, weights, labels), moments, step, self.rate)
        return self.class_scores(unit[:, rows:], weights)
