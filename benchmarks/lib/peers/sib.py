"""SIB as its authors released it: point-estimate class weights, refined by per-query synthetic gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from lib.peers.base import Peer, class_means

BLOCK = 100  # training tasks drawn at a time


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
class SIB(Peer):
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
        self.trained = 0

    def scores(self, support_x: Tensor, support_y: Tensor, query_x: Tensor, n_way: int) -> Tensor:
        if n_way != self.n_way:
            raise ValueError(f"n_way: expected {self.n_way}, for which the network was made, got {n_way}")
        return self.network(support_x, support_y, query_x, n_way)

    def train(
        self,
        sampler: Any,
        steps: int = 50_000,
        validate: Callable[[SIB], float] | None = None,
        every: int = 1000,
        checkpoint: Path | None = None,
    ) -> list[tuple[int, float]]:
        """Train up to step number `steps`, one task per step, and keep the best parameters on validation.

        Args:
            sampler: source of labelled tasks of `n_way` classes, `sampler.sample(num_tasks, index)`.
            steps: number of the last step; steps taken before, here or in the checkpoint, count.
            validate: returns the validation accuracy of this peer; without it the last parameters are kept.
            every: steps between validations, a multiple of 100.
            checkpoint: file to go on from where it exists, written at every validation.

        Returns:
            Step and validation accuracy at every validation of this call; empty without `validate`.

        Raises:
            ValueError: if `every` is no multiple of 100.
        """
        if every % BLOCK:
            raise ValueError(f"every: expected a multiple of {BLOCK}, got {every}")
        history: list[tuple[int, float]] = []
        best, top = self.network.state_dict(), -math.inf
        if checkpoint is not None and checkpoint.is_file():
            best, top = self._restore(load_file(checkpoint))
        while self.trained < steps:
            index, first = divmod(self.trained, BLOCK)
            batch = sampler.sample(BLOCK, index)
            for i in range(first, min(BLOCK, first + steps - self.trained)):
                self.step(batch.support_x[i], batch.support_y[i], batch.query_x[i], batch.query_y[i])
            if self.trained % every and self.trained < steps:
                continue
            accuracy = self.trained if validate is None else validate(self)
            if validate is not None:
                history.append((self.trained, accuracy))
            if accuracy > top:
                best, top = {k: v.clone() for k, v in self.network.state_dict().items()}, accuracy
            if checkpoint is not None:
                save_file(self._state(best, top), checkpoint)
        self.network.load_state_dict(best)
        return history

    def step(self, support_x: Tensor, support_y: Tensor, query_x: Tensor, query_y: Tensor) -> float:
        """Take one step of SGD on the cross-entropy of one labelled task, which is returned, in nats."""
        self.optimizer.zero_grad()
        scores = self.network(support_x.unsqueeze(0), support_y.unsqueeze(0), query_x.unsqueeze(0), self.n_way)
        loss = cross_entropy(scores.squeeze(0), query_y)
        loss.backward()
        self.optimizer.step()
        self.trained += 1
        return float(loss.detach())

    def _state(self, best: dict[str, Tensor], top: float) -> dict[str, Tensor]:
        state = {f"best.{k}": v for k, v in best.items()}
        for key, parameter in self.network.named_parameters():
            state[f"last.{key}"] = parameter.detach()
            state[f"momentum.{key}"] = self.optimizer.state[parameter]["momentum_buffer"]
        return state | {"trained": torch.tensor(self.trained), "top": torch.tensor(top, dtype=torch.double)}

    def _restore(self, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], float]:
        parameters = dict(self.network.named_parameters())
        self.network.load_state_dict({key: state[f"last.{key}"] for key in parameters})
        for key, parameter in parameters.items():
            self.optimizer.state[parameter]["momentum_buffer"] = state[f"momentum.{key}"]
        self.trained = int(state["trained"])
        return {key: state[f"best.{key}"] for key in parameters}, float(state["top"])
