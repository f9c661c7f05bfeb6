r"""Class tasks with a known truth, the world of the joint model of inputs and labels.

`GaussianClasses` draws

$$ m_c \sim \mathcal N(0, b I), \qquad \pi \sim \mathrm{Dir}(a), \qquad x_i \mid y_i \sim \mathcal N(m_{y_i}, s I), $$

with as many support rows of every class as are asked for, and $y_i \sim \mathrm{Cat}(\pi)$ for queries. With $a$
infinite the queries are as many of every class; where their number leaves a rest, any of the classes have one more.
Given all labels the rows of a class are normal in every coordinate, with variance $b + s$ and covariance $b$. The
labels of a few queries can then be summed out one labelling after another, which gives evidence and class probabilities
exactly.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ebmeta.foundation.checks import above, at_least, checked
from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.drawing import generator
from ebmeta.tasks.source import TaskSource

__all__ = ["GaussianClasses"]

MOST = 2**16  # labellings that are summed over


@checked(
    num_features=at_least(1),
    between=above(0),
    within=above(0),
    concentration=above(0, finite=False),
    n_way=at_least(1),
    n_shot=at_least(0),
    n_query=at_least(1),
)
@dataclass(frozen=True, eq=False)
class GaussianClasses(TaskSource):
    r"""Tasks of normal classes around normal centres; a source of tasks for `fit`.

    Args:
        num_features: features per input, $D$.
        between: $b$, variance of a feature between classes.
        within: $s$, variance of a feature within a class.
        concentration: $a$ of the class proportions of queries, which tasks state; infinite for equal numbers.
        n_way: classes per task.
        n_shot: support rows per class.
        n_query: queries of a task.
        seed: first half of the key of every batch.

    Raises:
        ValueError: if a variance, the concentration or a number of rows is out of range.

    Examples:
        >>> GaussianClasses(2, n_way=3, n_query=4).sample(5)
        TaskBatch(tasks=5, ways<=3, support<=3, queries<=4, features=(2,), labelled)
    """

    num_features: int
    between: float = 1.0
    within: float = 1.0
    concentration: float = math.inf
    n_way: int = 5
    n_shot: int = 1
    n_query: int = 30
    seed: int = 0

    def sample(self, num_tasks: int, index: int = 0) -> TaskBatch:
        """Draw batch number `index`, a pure function of (seed, index)."""
        return self.simulate(num_tasks, index)[0]

    @checked(num_tasks=at_least(1))
    def simulate(self, num_tasks: int, index: int = 0) -> tuple[TaskBatch, Tensor]:
        r"""Draw the same batch together with its weights, shape `(T, C, D + 1)`.

        They are those of the features and a constant of 1: $m_c / s$ and $\log \pi_c - \lVert m_c \rVert^2 / 2s$.
        """
        rng, ways = generator(self.seed, index), self.n_way
        means = rng.standard_normal((num_tasks, ways, self.num_features)) * self.between**0.5
        shares = np.full((num_tasks, ways), 1 / ways)
        if math.isfinite(self.concentration):
            shares = rng.dirichlet(np.full(ways, self.concentration), num_tasks)
            labels = (rng.random((num_tasks, self.n_query, 1)) > shares.cumsum(1)[:, None, :-1]).sum(-1)
        else:
            equal = np.tile(np.arange(self.n_query) % ways, (num_tasks, 1))
            labels = rng.permuted((equal + rng.integers(ways, size=(num_tasks, 1))) % ways, axis=1)
            if 1 < self.n_query % ways < ways - 1:  # any classes may have one more, and not neighbours alone
                order = rng.permuted(np.tile(np.arange(ways), (num_tasks, 1)), axis=1)
                labels = np.take_along_axis(order, labels, 1)
        chosen = np.tile(np.repeat(np.arange(ways), self.n_shot), (num_tasks, 1))
        sides = []
        for y in (chosen, labels):
            noise = rng.standard_normal((*y.shape, self.num_features)) * self.within**0.5
            x = np.take_along_axis(means, y[..., None], 1) + noise
            sides.append((torch.from_numpy(x).float(), torch.from_numpy(y)))
        known = torch.full((num_tasks,), self.concentration, dtype=torch.float64)
        way_mask = torch.ones(num_tasks, ways, dtype=torch.bool)
        batch = TaskBatch(*sides[0], *sides[1], way_mask=way_mask, concentration=known)
        bias = np.log(shares.clip(min=1e-300)) - np.square(means).sum(-1) / (2 * self.within)
        return batch, torch.from_numpy(np.concatenate([means / self.within, bias[..., None]], -1))

    @checked()
    def exact(self, batch: TaskBatch) -> tuple[Tensor, Tensor]:
        r"""Return the log evidence of the queries and their class probabilities, by a sum over all labellings.

        Args:
            batch: $T$ tasks of equal numbers of rows.

        Returns:
            $\log p(x^q \mid d^s)$ in nats, shape `(T,)`, and $p(y_i = c \mid d^s, x^q)$, shape `(T, Q, C)`.

        Raises:
            ValueError: if there are more than 65,536 labellings, or tasks are padded.
        """
        ways, queries = self.n_way, batch.query_x.shape[1]
        if ways**queries > MOST:
            raise ValueError(f"exact: expected at most {MOST} labellings, got {ways} ** {queries}")
        if not bool(batch.support_mask.all() & batch.query_mask.all()):
            raise ValueError("exact: expected tasks of equal numbers of rows, got padded ones")
        if batch.support_y.is_floating_point():
            raise ValueError(f"exact: expected tasks of classes, got labels of type {batch.support_y.dtype}")
        every = torch.tensor(list(itertools.product(range(ways), repeat=queries)))
        x = torch.cat([batch.support_x, batch.query_x], 1).double()
        chosen = batch.support_y.unsqueeze(1).expand(-1, len(every), -1)
        labels = torch.cat([chosen, every.expand(len(x), -1, -1)], -1)
        joint = self._log_prior(every) + self._log_likelihood(x, labels)
        total = torch.logsumexp(joint, 1)
        member = torch.nn.functional.one_hot(every, ways).double()
        probs = torch.einsum("tl,lqc->tqc", torch.softmax(joint, 1), member)
        first = self._log_likelihood(x[:, : chosen.shape[2]], batch.support_y.unsqueeze(1))[:, 0]
        return total - first, probs

    def _log_prior(self, labels: Tensor) -> Tensor:
        """Return the log probability of labellings of the queries in nats, shape `(L,)`."""
        count = torch.nn.functional.one_hot(labels, self.n_way).sum(1).double()
        if math.isinf(self.concentration):
            spread = count.amax(1) - count.amin(1)
            return torch.log_softmax(torch.where(spread <= 1, 0.0, -math.inf).double(), 0)
        a = torch.tensor(self.concentration, dtype=torch.float64)
        total = torch.lgamma(a * self.n_way) - torch.lgamma(a * self.n_way + labels.shape[1])
        return (torch.lgamma(a + count) - torch.lgamma(a)).sum(1) + total

    def _log_likelihood(self, x: Tensor, labels: Tensor) -> Tensor:
        """Return the log density of rows `(T, N, D)` given labellings `(T, L, N)` in nats, shape `(T, L)`."""
        member = torch.nn.functional.one_hot(labels, self.n_way).double()
        count = member.sum(2)
        square = x.square().sum((1, 2)).unsqueeze(1) / self.within
        pooled = (member.mT @ x.unsqueeze(1)).square().sum(-1)
        shrunk = self.between / (self.within * (self.within + self.between * count))
        log_det = (1 + self.between * count / self.within).log().sum(-1)
        constant = labels.shape[-1] * math.log(2 * math.pi * self.within)
        return -(square - (shrunk * pooled).sum(-1) + self.num_features * (log_det + constant)) / 2
