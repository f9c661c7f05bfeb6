"""SIB as its authors released it: point-estimate class weights, refined by per-query synthetic gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from lib.peers.base import class_means
from lib.peers.trained import TrainedPeer


class QueryNorm(nn.Module):
    """Batch normalization over the queries of each task: the released code keeps its batch statistics at test."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, -2, correction=0, keepdim=True)
        return (x - mean) * ((variance + 1e-5).rsqrt() * self.weight) + self.bias


class Network(nn.Module):
    r"""Cosine classifier with a scale, averaged-support weights, and the synthetic-gradient network.

    $\theta_0 = d \odot \mu$, with $\mu$ the class means of the normalised support;
    $s_{ic} = a (\cos(x_i, \theta_c) + b)$;
    $\theta_{k+1} = \theta_k - \eta \sum_i (\partial s_i / \partial \theta)^\top \xi(s_i)$.

    Args:
        n_way: classes $C$, inputs and outputs of $\xi$; its two hidden layers have $8 C$ units.
        features: width $D$ of the features.
        steps: number $K$ of refinement steps.
        rate: $\eta$, the learning rate of the optimizer as well.
    """

    def __init__(self, n_way: int, features: int, steps: int, rate: float) -> None:
        super().__init__()
        self.steps, self.rate = steps, rate
        self.bias, self.scale = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.full((1,), 10.0))
        self.diagonal = nn.Parameter(torch.ones(features))
        hidden = 8 * n_way
        self.gradient = nn.Sequential(
            *(nn.Linear(n_way, hidden), nn.ReLU(), QueryNorm(hidden)),
            *(nn.Linear(hidden, hidden), nn.ReLU(), QueryNorm(hidden)),
            nn.Linear(hidden, n_way),
        )

    def forward(self, support_x: Tensor, support_y: Tensor, query_x: Tensor, n_way: int) -> Tensor:
        """Return the scores of the queries after the last step, shape `(T, Q, C)`."""
        unit = normalize(query_x, dim=-1)
        theta = self.diagonal * class_means(normalize(support_x, dim=-1), support_y, n_way)
        for _ in range(self.steps):
            length = theta.norm(dim=-1, keepdim=True)
            direction = theta / length
            synthetic = self.gradient(self.scale * (unit @ direction.mT + self.bias))
            pulled = synthetic.mT @ unit
            # The derivative of the cosine, written out: no second pass of autograd.
            tangent = pulled - direction * (direction * pulled).sum(-1, keepdim=True)
            theta = theta - self.rate * self.scale * tangent / length
        return self.scale * (unit @ normalize(theta, dim=-1).mT + self.bias)


@dataclass(eq=False)
class SIB(TrainedPeer):
    r"""Empirical Bayes transductive meta-learning with synthetic gradients, the released code.

    The posterior is a point and the prior is weight decay. The network has a fixed number of ways.

    Args:
        n_way: classes $C$ of training and test tasks.
        features: width $D$ of the features.
        refinements: number $K$ of synthetic-gradient steps.
        rate: learning rate, of the optimizer and of the refinement.
        momentum: of SGD, Nesterov's.
        weight_decay: of every parameter.
        seed: of the initial parameters.

    The published values are the defaults (K = 3; 50,000 steps of one task).

    Source: Hu, Moreno, Xiao, Shen, Obozinski, Lawrence and Damianou (2020), "Empirical Bayes transductive
    meta-learning with synthetic gradients".
    """

    name: ClassVar[str] = "sib"
    per_step: ClassVar[int] = 1
    steps: ClassVar[int] = 50_000
    every: ClassVar[int] = 2500
    n_way: int = 5
    features: int = 256
    refinements: int = 3
    rate: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 5e-4
    seed: int = 0

    def __post_init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.network = Network(self.n_way, self.features, self.refinements, self.rate)
        self.optimizer = torch.optim.SGD(
            self.network.parameters(),
            self.rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            nesterov=True,
            fused=True,
        )

    def scores(self, support_x: Tensor, support_y: Tensor, query_x: Tensor, n_way: int) -> Tensor:
        if n_way != self.n_way:
            raise ValueError(f"n_way: expected {self.n_way}, for which the network was made, got {n_way}")
        return super().scores(support_x, support_y, query_x, n_way)
