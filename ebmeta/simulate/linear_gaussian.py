r"""Task families with known truth, whose exact posterior is in closed form.

`LinearGaussianTasks` draws

$$ w \sim \mathcal N(\mu, \Sigma), \qquad x_i \mid w \sim \mathcal N(B w, I), \qquad
   y_i \mid x_i, w \sim \mathcal N([x_i; 1]^\top w, \sigma^2). $$

With $B = 0$ the inputs say nothing about $w$ and unlabelled queries cannot help; with $B \ne 0$ every
input is a noisy look at $w$ (theory: "What refinement targets").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ebmeta.foundation.checks import above, array, at_least, checked
from ebmeta.parts.gaussian import FullGaussian
from ebmeta.simulate.conjugate import posterior
from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.drawing import generator
from ebmeta.tasks.source import TaskSource

__all__ = ["LinearGaussianTasks"]


@checked(
    loc=array(ndim=1),
    scale_tril=array(ndim=2),
    noise=above(0),
    coupling=array(ndim=2),
    n_support=at_least(0),
    n_query=at_least(1),
)
@dataclass(frozen=True, eq=False)
class LinearGaussianTasks(TaskSource):
    r"""Regression tasks with a linear-Gaussian truth; a source of tasks for `fit`.

    Args:
        loc: $\mu$, shape `(P,)`; the last weight is the intercept's, so inputs have $P - 1$ features.
        scale_tril: Cholesky factor of $\Sigma$, shape `(P, P)`.
        noise: $\sigma$, in units of the label.
        coupling: $B$, shape `(P - 1, P)`; zero where None.
        n_support: support rows per task.
        n_query: query rows per task.
        seed: first half of the key of every batch.

    Raises:
        ValueError: if shapes do not match.

    Examples:
        >>> tasks = LinearGaussianTasks(np.zeros(3), np.eye(3), noise=0.5)
        >>> tasks.sample(4)
        TaskBatch(tasks=4, ways<=1, support<=3, queries<=10, features=(2,), labelled)
    """

    loc: np.ndarray
    scale_tril: np.ndarray
    noise: float = 1.0
    coupling: np.ndarray | None = None
    n_support: int = 3
    n_query: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        weights = len(self.loc)
        if self.scale_tril.shape != (weights, weights):
            raise ValueError(f"scale_tril: expected shape {(weights, weights)}, got {self.scale_tril.shape}")
        if self.coupling is not None and self.coupling.shape != (weights - 1, weights):
            raise ValueError(f"coupling: expected shape {(weights - 1, weights)}, got {self.coupling.shape}")

    def sample(self, num_tasks: int, index: int = 0) -> TaskBatch:
        """Draw batch number `index`, a pure function of (seed, index)."""
        return self.simulate(num_tasks, index)[0]

    @checked(num_tasks=at_least(1))
    def simulate(self, num_tasks: int, index: int = 0) -> tuple[TaskBatch, Tensor]:
        """Draw the same batch together with its weights, shape `(T, 1, P)`."""
        rng = generator(self.seed, index)
        weights, rows = len(self.loc), self.n_support + self.n_query
        w = self.loc + rng.standard_normal((num_tasks, weights)) @ self.scale_tril.T
        x = rng.standard_normal((num_tasks, rows, weights - 1))
        if self.coupling is not None:
            x = x + (w @ self.coupling.T)[:, None]
        mean = np.einsum("tnp,tp->tn", x, w[:, :-1]) + w[:, -1:]
        y = mean + self.noise * rng.standard_normal(mean.shape)
        inputs, labels = torch.from_numpy(x).float(), torch.from_numpy(y).float()
        s = self.n_support
        batch = TaskBatch(inputs[:, :s], labels[:, :s], inputs[:, s:], labels[:, s:])
        return batch, torch.from_numpy(w).unsqueeze(1)

    @checked()
    def exact_posterior(self, batch: TaskBatch, *, transductive: bool) -> FullGaussian:
        r"""Return $p(w \mid d^s, x^q)$, or $p(w \mid y^s; x^s)$ where inputs are taken as given.

        The transductive posterior uses what every input, of support and query, says about $w$; the
        inductive one treats inputs as given, as the model $p(y \mid x, w)$ alone does.

        Args:
            batch: $T$ tasks.
            transductive: whether the inputs inform $w$.

        Returns:
            A Gaussian in 64-bit floats, shape `(T, 1, P)`.
        """
        batch = batch.to(torch.float64)
        precision = torch.linalg.inv(torch.from_numpy(self.scale_tril @ self.scale_tril.T))
        loc = torch.from_numpy(np.asarray(self.loc, dtype=np.float64)).expand(batch.num_tasks, -1)
        prior = FullGaussian(loc.unsqueeze(1), precision.expand(batch.num_tasks, 1, -1, -1))
        if transductive and self.coupling is not None:
            b = torch.from_numpy(self.coupling)
            x = torch.cat([batch.support_x, batch.query_x], 1)
            mask = torch.cat([batch.support_mask, batch.query_mask], 1).to(x.dtype)
            shift = torch.einsum("tnd,tn->td", x, mask) @ b + prior.times(prior.loc)[:, 0]
            precision = prior.precision + (mask.sum(1)[:, None, None] * (b.T @ b)).unsqueeze(1)
            prior = FullGaussian(torch.linalg.solve(precision, shift[:, None, :, None]).squeeze(-1), precision)
        x = functional.pad(batch.support_x, (0, 1), value=1.0)
        return posterior(prior, x, batch.support_y, batch.support_mask, torch.tensor(self.noise**2).double())

    @checked()
    def exact_nll(self, batch: TaskBatch, *, transductive: bool) -> Tensor:
        """Return the exact predictive negative log likelihood of every query in nats, shape `(T, Q)`.

        Raises:
            ValueError: if the tasks are unlabelled.
        """
        batch = batch.to(torch.float64)
        if batch.query_y is None:
            raise ValueError("exact_nll: expected query labels, got unlabelled tasks")
        q = self.exact_posterior(batch, transductive=transductive)
        loc, var = q.marginal(functional.pad(batch.query_x, (0, 1), value=1.0))
        total = var.squeeze(-1) + self.noise**2
        error = batch.query_y - loc.squeeze(-1)
        return (error.square() / total + torch.log(2 * torch.pi * total)) / 2
