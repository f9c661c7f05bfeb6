r"""Sine waves, the usual example of few-shot regression, with their exact Bayesian predictions.

$$ y_{ti} = a_t \sin(x_{ti} + \varphi_t) + \sigma \varepsilon_{ti}, \qquad a_t \sim \mathcal U(0.1, 5), \quad
   \varphi_t \sim \mathcal U(0, \pi), \quad \sigma = 0.1, \quad x_{ti} \sim \mathcal U(-5, 5). $$

Source: `sines/train_DKT.py` in the code of Patacchiola et al. 2020, Bayesian meta-learning for the few-shot setting
via deep kernels (a task is 200 points, 5 drawn at random are the support; training tasks have 10 points; out of
range, all 200 points lie in $(-5, 10)$, the support too). In $w = (a \cos\varphi, a \sin\varphi)$ the curve is
linear, $y = w_1 \sin x + w_2 \cos x + \sigma\varepsilon$, and $w$ has the density $1 / (4.9\,\pi\,|w|)$ on half an
annulus. So the likelihood is a Gaussian in two dimensions, and every exact answer is the limit of a sum over a grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ebmeta.foundation.checks import above, at_least, checked
from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.drawing import generator
from ebmeta.tasks.source import TaskSource

__all__ = ["SineTasks"]

REACH = 7.0  # standard deviations of the likelihood that the grid covers
CHUNK = 4  # tasks per pass of the exact predictions


@checked(n_support=at_least(0), n_query=at_least(1), noise=above(0))
@dataclass(frozen=True)
class SineTasks(TaskSource):
    r"""Sine tasks in the published setting; a source of tasks for `fit`.

    Args:
        n_support: support rows per task.
        n_query: query rows per task.
        x_range: range of the inputs; `(-5, 10)` is "out of range".
        amplitude: range of $a$.
        phase: range of $\varphi$, within $(-\pi, \pi)$.
        noise: $\sigma$, in units of the label.
        seed: first half of the key of every batch.

    Raises:
        ValueError: if a range is empty, the amplitude or the noise is not positive, or the phase leaves its range.

    Examples:
        >>> SineTasks().sample(4)
        TaskBatch(tasks=4, ways<=1, support<=5, queries<=195, features=(1,), labelled)
    """

    n_support: int = 5
    n_query: int = 195
    x_range: tuple[float, float] = (-5.0, 5.0)
    amplitude: tuple[float, float] = (0.1, 5.0)
    phase: tuple[float, float] = (0.0, math.pi)
    noise: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("x_range", "amplitude", "phase"):
            low, high = getattr(self, name)
            if not low < high:
                raise ValueError(f"{name}: expected low < high, got {(low, high)}")
        if not self.amplitude[0] > 0:
            raise ValueError(f"amplitude: expected numbers above 0, got {self.amplitude}")
        if not -math.pi <= self.phase[0] < self.phase[1] <= math.pi:
            raise ValueError(f"phase: expected a range within (-pi, pi), got {self.phase}")

    def training(self) -> SineTasks:
        """Return the same family with the 10 points of a training task: 5 of support, 5 of query."""
        return replace(self, n_support=5, n_query=5)

    @checked(num_tasks=at_least(1))
    def sample(self, num_tasks: int, index: int = 0) -> TaskBatch:
        """Draw batch number `index`, a pure function of (seed, index)."""
        rng = generator(self.seed, index)
        a = rng.uniform(*self.amplitude, (num_tasks, 1))
        phase = rng.uniform(*self.phase, (num_tasks, 1))
        x = rng.uniform(*self.x_range, (num_tasks, self.n_support + self.n_query))
        y = a * np.sin(x + phase) + self.noise * rng.standard_normal(x.shape)
        inputs, labels = torch.from_numpy(x).float().unsqueeze(-1), torch.from_numpy(y).float()
        s = self.n_support
        return TaskBatch(inputs[:, :s], labels[:, :s], inputs[:, s:], labels[:, s:])

    @checked(num_tasks=at_least(1))
    def truth(self, num_tasks: int, index: int = 0) -> Tensor:
        r"""Return the weights $(a \cos\varphi, a \sin\varphi)$ behind batch number `index`, shape `(T, 1, 2)`."""
        rng = generator(self.seed, index)
        a, phase = (rng.uniform(*range_, (num_tasks, 1)) for range_ in (self.amplitude, self.phase))
        return torch.from_numpy(np.stack([a * np.cos(phase), a * np.sin(phase)], -1))

    def curves(self, w: Tensor, x: Tensor) -> Tensor:
        r"""Return $w_1 \sin x + w_2 \cos x$, shape `(T, G, N)`, for weights `(T, G, 2)` and inputs `(T, N, 1)`."""
        return w @ torch.cat([x.sin(), x.cos()], -1).mT

    def posterior_grid(self, x: Tensor, y: Tensor, num_points: int = 64) -> tuple[Tensor, Tensor]:
        r"""Return weights on a grid, and the logarithm of their joint mass with the labels.

        The grid covers the likelihood's ellipse, as far as the amplitude allows: $G =$ `num_points`$^2$ points. The sum
        is exact to rounding where the ellipse lies within the ranges of amplitude and phase. Where few rows let it
        reach beyond, errors fall in proportion to 1 / `num_points`.

        Args:
            x: inputs of the labelled rows, shape `(T, N, 1)`, in 64-bit floats.
            y: their labels, shape `(T, N)`.
            num_points: points along each axis of the ellipse.

        Returns:
            $w$, shape `(T, G, 2)`, and $\log p(y \mid w)\, p(w)\, \Delta w$ in nats, shape `(T, G)`, whose
            log-sum-exp is $\log p(y)$.
        """
        design = torch.cat([x.sin(), x.cos()], -1)
        values, vectors = torch.linalg.eigh(design.mT @ design / self.noise**2)
        values = values.clamp(min=1e-12)
        target = torch.einsum("tnp,tn->tp", design, y) / self.noise**2
        centre = torch.einsum("tpk,tp->tk", vectors, target) / values  # along the axes of the ellipse
        reach, limit = REACH / values.sqrt(), self.amplitude[1]
        low, high = (centre - reach).clamp(-limit, limit), (centre + reach).clamp(-limit, limit)
        step = (high - low) / num_points
        middles = torch.arange(num_points, dtype=x.dtype, device=x.device) + 0.5
        axis = low.unsqueeze(-1) + step.unsqueeze(-1) * middles  # (T, 2, num_points)
        first, second = axis[:, 0].repeat_interleave(num_points, -1), axis[:, 1].repeat(1, num_points)
        w = torch.stack([first, second], -1) @ vectors.mT
        radius, angle = w.square().sum(-1).sqrt(), torch.atan2(w[..., 1], w[..., 0])
        inside = (radius > self.amplitude[0]) & (radius < limit) & (angle > self.phase[0]) & (angle < self.phase[1])
        area = (self.amplitude[1] - self.amplitude[0]) * (self.phase[1] - self.phase[0])
        prior = torch.where(inside, -torch.log(area * radius), -math.inf)
        likelihood = self._log_density(y, self.curves(w, x)).sum(-1)
        return w, prior + likelihood + step.log().sum(-1, keepdim=True)

    def _log_density(self, y: Tensor, mean: Tensor) -> Tensor:
        z = (y.unsqueeze(1) - mean) / self.noise
        return -z.square() / 2 - math.log(self.noise * math.sqrt(2 * math.pi))

    @checked(num_points=at_least(2))
    def exact(self, batch: TaskBatch, num_points: int = 64) -> tuple[Tensor, Tensor]:
        r"""Return the exact prediction of every query for a known family, as far as the grid goes (`posterior_grid`).

        Args:
            batch: $T$ labelled tasks without padding.
            num_points: points along each axis of the grid.

        Returns:
            The predictive mean $\mathbb E[y \mid d^s]$, and the negative log likelihood $-\log p(y \mid d^s)$ of
            the query's label in nats; both of shape `(T, Q)`, in 64-bit floats.

        Raises:
            ValueError: if the tasks are unlabelled.
        """
        if batch.query_y is None or not batch.query_y.is_floating_point():
            raise ValueError("exact: expected query labels, numbers, got unlabelled tasks or classes")
        if batch.support_x.shape[2:] != (1,):
            raise ValueError(f"batch: expected one input per row, got shape {tuple(batch.support_x.shape[2:])}")
        means, scores = [], []
        for start in range(0, len(batch), CHUNK):
            part = batch[start : start + CHUNK].to(torch.float64)
            w, mass = self.posterior_grid(part.support_x, part.support_y, num_points)
            log_weight = (mass - mass.logsumexp(1, keepdim=True)).unsqueeze(-1)
            mean = self.curves(w, part.query_x)
            assert part.query_y is not None  # for the type checker
            means.append((log_weight.exp() * mean).sum(1))
            scores.append(-(log_weight + self._log_density(part.query_y, mean)).logsumexp(1))
        return torch.cat(means), torch.cat(scores)

    @checked(num_points=at_least(2))
    def log_evidence(self, x: Tensor, y: Tensor, num_points: int = 64) -> Tensor:
        r"""Return $\log p(y \mid x)$ of every task in nats, shape `(T,)`.

        Args:
            x: inputs, shape `(T, N, 1)`.
            y: labels, shape `(T, N)`.
            num_points: points along each axis of the grid.
        """
        parts = zip(torch.split(x.double(), CHUNK), torch.split(y.double(), CHUNK), strict=True)
        return torch.cat([self.posterior_grid(a, b, num_points)[1].logsumexp(1) for a, b in parts])
