r"""Tasks without labels whose inputs determine the weights, which turn with a line through the origin.

`SpinningLines` draws, with $u(\theta) = (\cos\theta, \sin\theta)$,

$$ \alpha \sim \mathrm U[0, 2\pi), \quad \rho \sim \mathcal N(r, \tau^2), \quad w = \rho\, u(\alpha), \quad
   x_i \mid \alpha \sim \mathcal N(0,\, s^2 I + \ell^2 u(-\tfrac\alpha2) u(-\tfrac\alpha2)^\top), \quad
   y_i \mid x_i, w \sim \mathcal N(x_i^\top w, \sigma^2). $$

A line does not distinguish $u$ from $-u$. Half the angle of the weights is the angle of the line, so that weights and
lines correspond one to one (theory: "Zero-shot tasks").
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ebmeta.foundation.checks import above, at_least, checked
from ebmeta.parts.gaussian import FullGaussian
from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.drawing import generator
from ebmeta.tasks.source import TaskSource

__all__ = ["RingPosterior", "SpinningLines"]

NODES = 512  # the trapezoid rule on a circle, at least; more where angles are known better than to 0.02 radians
MOST = 2**16
A_RADIAN = 9  # nodes in a circle per radian by which an angle is known: errors are below 1e-12


def _unit(angle: Tensor) -> Tensor:
    return torch.stack([angle.cos(), angle.sin()], -1)


def _log_normal(x: Tensor, loc: Tensor, var: Tensor) -> Tensor:
    return -((x - loc).square() / var + torch.log(2 * math.pi * var)) / 2


@dataclass(frozen=True, eq=False)
class RingPosterior:
    r"""A distribution of $w = \rho\, u(\alpha)$: any weights on a grid of angles, and a normal radius at each.

    $$ w = \rho\, u(\alpha), \qquad \rho \mid \alpha \sim \mathcal N(\bar\rho(\alpha),\, v(\alpha)) $$

    Args:
        probability: probability of each angle of an even grid from 0, shape `(T, G)`.
        radius: $\bar\rho$, shape `(T, G)`.
        radius_variance: $v$, shape `(T, G)`.
        noise: $\sigma$, in units of the label.
    """

    probability: Tensor
    radius: Tensor
    radius_variance: Tensor
    noise: float

    @property
    def angle(self) -> Tensor:
        r"""The grid of $\alpha$ in radians, shape `(G,)`."""
        nodes = self.probability.shape[1]
        return torch.arange(nodes, dtype=self.probability.dtype) * (2 * math.pi / nodes)

    def gaussian(self) -> FullGaussian:
        r"""Return the Gaussian of the same mean and covariance, shape `(T, 1, 2)`.

        No Gaussian $q$ has a lower expected negative log likelihood of a label at any input: its predictive
        distribution is the normal one of the exact mean and variance.
        """
        u, p = _unit(self.angle), self.probability
        mean = torch.einsum("tg,gi->ti", p * self.radius, u)
        square = torch.einsum("tg,gi,gj->tij", p * (self.radius.square() + self.radius_variance), u, u)
        covariance = square - mean.unsqueeze(-1) * mean.unsqueeze(-2)
        return FullGaussian(mean.unsqueeze(1), torch.linalg.inv(covariance).unsqueeze(1))

    def log_prob(self, x: Tensor, y: Tensor) -> Tensor:
        r"""Return the log predictive density $\log \int p(y \mid x, w)\, p(w)\, dw$ in nats, shape `(T, Q)`.

        Args:
            x: inputs, shape `(T, Q, 2)`.
            y: labels, shape `(T, Q)`.
        """
        along = x @ _unit(self.angle).mT
        loc = along * self.radius.unsqueeze(1)
        var = along.square() * self.radius_variance.unsqueeze(1) + self.noise**2
        joint = self.probability.log().unsqueeze(1) + _log_normal(y.unsqueeze(-1), loc, var)
        return torch.logsumexp(joint, -1)

    def log_density(self, w: Tensor) -> Tensor:
        r"""Return the log density at the weights `w`, per unit of area, in nats; the angle is rounded to the grid.

        Args:
            w: weights, shape `(T, N, 2)`.

        Returns:
            Log densities, shape `(T, N)`. A negative radius is the opposite angle, so each `w` is reached twice.
        """
        nodes, length = self.probability.shape[1], torch.linalg.vector_norm(w, dim=-1)
        turn = nodes / (2 * math.pi)
        ways = []
        for sign in (1, -1):
            at = torch.remainder((torch.atan2(sign * w[..., 1], sign * w[..., 0]) * turn).round().long(), nodes)
            p, loc, var = (v.gather(1, at) for v in (self.probability, self.radius, self.radius_variance))
            ways.append((p * turn).log() + _log_normal(sign * length, loc, var))
        out: Tensor = torch.logaddexp(ways[0], ways[1]) - length.log()
        return out


@checked(
    radius_scale=above(0), length=above(0), width=above(0), noise=above(0), n_support=at_least(0), n_query=at_least(1)
)
@dataclass(frozen=True, eq=False)
class SpinningLines(TaskSource):
    r"""Zero-shot regression tasks with two features and inputs along a line whose direction determines the weights.

    Args:
        radius: mean length of the weights, $r$.
        radius_scale: its standard deviation $\tau$, which inputs do not tell.
        length: standard deviation of the inputs along the line, $\ell$.
        width: standard deviation of the inputs about the line, $s$.
        noise: $\sigma$, in units of the label.
        n_support: labelled rows per task.
        n_query: query rows per task.
        coupled: whether the line tells the weights; where not, it has a random direction of its own.
        seed: first half of the key of every batch.

    Raises:
        ValueError: if a scale is not above 0 or a number of rows is out of range.

    Examples:
        >>> SpinningLines().sample(4)
        TaskBatch(tasks=4, ways<=1, support<=0, queries<=20, features=(2,), labelled)
    """

    radius: float = 2.0
    radius_scale: float = 0.3
    length: float = 1.0
    width: float = 0.3
    noise: float = 0.5
    n_support: int = 0
    n_query: int = 20
    coupled: bool = True
    seed: int = 0

    def sample(self, num_tasks: int, index: int = 0) -> TaskBatch:
        """Draw batch number `index`, a pure function of (seed, index)."""
        return self.simulate(num_tasks, index)[0]

    @checked(num_tasks=at_least(1))
    def simulate(self, num_tasks: int, index: int = 0) -> tuple[TaskBatch, Tensor]:
        """Draw the same batch together with its weights and an intercept, which is 0, shape `(T, 1, 3)`."""
        rng = generator(self.seed, index)
        rows = self.n_support + self.n_query
        angle = rng.uniform(0, 2 * math.pi, (num_tasks, 1))
        other = rng.uniform(0, 2 * math.pi, (num_tasks, 1))
        radius = self.radius + self.radius_scale * rng.standard_normal((num_tasks, 1))
        line = -(angle if self.coupled else other) / 2
        along = self.length * rng.standard_normal((num_tasks, rows))
        x = np.stack([along * np.cos(line), along * np.sin(line)], -1)
        x = x + self.width * rng.standard_normal(x.shape)
        y = radius * (x[..., 0] * np.cos(angle) + x[..., 1] * np.sin(angle))
        y = y + self.noise * rng.standard_normal(y.shape)
        inputs, labels = torch.from_numpy(x).float(), torch.from_numpy(y).float()
        s = self.n_support
        batch = TaskBatch(inputs[:, :s], labels[:, :s], inputs[:, s:], labels[:, s:])
        w = np.concatenate([radius * np.cos(angle), radius * np.sin(angle), np.zeros_like(angle)], 1)
        return batch, torch.from_numpy(w).unsqueeze(1)

    def evidence(self, x: Tensor, mask: Tensor) -> Tensor:
        r"""Return what inputs say about the weights, as a vector: $\log p(x \mid \alpha) = u(\alpha)^\top v$ + const.

        $$ v = \frac{\ell^2}{4 s^2 (s^2 + \ell^2)} \sum_i \big( x_{i1}^2 - x_{i2}^2,\; -2 x_{i1} x_{i2} \big) $$

        so that $\alpha \mid x$ is von Mises with the direction and, as concentration, the length of $v$.

        Args:
            x: inputs, shape `(T, N, 2)`.
            mask: True where a row is real, shape `(T, N)`.

        Returns:
            $v$, shape `(T, 2)`.
        """
        x = x * mask.unsqueeze(-1)
        doubled = torch.stack([x[..., 0].square() - x[..., 1].square(), -2 * x[..., 0] * x[..., 1]], -1)
        narrow, long = self.width**2, self.length**2
        return doubled.sum(1) * (long / (4 * narrow * (narrow + long)))

    @checked()
    def exact_posterior(self, batch: TaskBatch, *, transductive: bool) -> RingPosterior:
        r"""Return $p(w \mid d^s, x^q)$, or $p(w \mid y^s; x^s)$ where inputs are taken as given.

        Args:
            batch: $T$ tasks.
            transductive: whether the inputs inform $w$; without effect where they are not coupled to it.

        Returns:
            The posterior in 64-bit floats: a quadrature over the angle, all else in closed form.

        Raises:
            ValueError: if rows tell an angle more exactly than 65,536 nodes can.
        """
        batch, told = batch.to(torch.float64), None
        if transductive and self.coupled:
            x = torch.cat([batch.support_x, batch.query_x], 1)
            told = self.evidence(x, torch.cat([batch.support_mask, batch.query_mask], 1))
        nodes = self._nodes(batch, told)
        u = _unit(torch.arange(nodes, dtype=torch.float64) * (2 * math.pi / nodes))
        weight = batch.support_mask.unsqueeze(-1)
        along = batch.support_x @ u.mT * weight  # (T, S, G): labels are along * radius + noise
        y = batch.support_y.unsqueeze(-1) * weight
        precision = 1 / self.radius_scale**2 + along.square().sum(1) / self.noise**2
        error = y - self.radius * along
        gain = (along * error).sum(1) / self.noise**2
        log_p = (gain.square() / precision - precision.log() - error.square().sum(1) / self.noise**2) / 2
        if told is not None:
            log_p = log_p + told @ u.mT
        return RingPosterior(torch.softmax(log_p, -1), self.radius + gain / precision, 1 / precision, self.noise)

    def _nodes(self, batch: TaskBatch, told: Tensor | None) -> int:
        """Return how many angles the sharpest task needs, given the evidence of inputs, `(T, 2)`, or None."""
        reach = abs(self.radius) + 4 * self.radius_scale
        square = (batch.support_x.square().sum(-1) * batch.support_mask).sum(1)
        information = square * (reach / self.noise) ** 2 + (0.0 if told is None else told.norm(dim=-1))
        wanted = A_RADIAN * math.sqrt(float(information.max()))
        if wanted > MOST:
            raise ValueError(
                f"batch: expected rows that leave an angle {A_RADIAN / MOST:.2g} radians or more, got "
                f"{A_RADIAN / wanted:.2g}: take fewer rows, or more noise"
            )
        return max(NODES, 1 << math.ceil(math.log2(max(wanted, 1.0))))

    @checked()
    def exact_nll(self, batch: TaskBatch, *, transductive: bool) -> Tensor:
        """Return the exact predictive negative log likelihood of every query in nats, shape `(T, Q)`.

        Raises:
            ValueError: if the tasks are unlabelled.
        """
        batch = batch.to(torch.float64)
        if batch.query_y is None:
            raise ValueError("exact_nll: expected query labels, got unlabelled tasks")
        return -self.exact_posterior(batch, transductive=transductive).log_prob(batch.query_x, batch.query_y)
