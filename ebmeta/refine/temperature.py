r"""A temperature for every task, computed from its unlabelled queries.

$$ \log t_k = \tanh\big( a_k^\top \psi(x^q, q_k) + b_k \big), \qquad q_k \leftarrow q_k \text{ with mean } t_k\, m_k, $$

where $\psi$ holds the means over queries and classes of what the synthetic gradient's network reads and of its last
layer, or numbers of the task's design where features may be of any encoder (`ebmeta.refine.belief`). It changes how
sure a prediction is and, classes being compared with each other alone, hardly which class wins. The steps of refinement
go on from the posterior as it was.

The network that takes the steps could learn the same, and does not: presumably the gain is too small compared with
the noise of batches. Fitted by itself, to tasks that training has not drawn and to validation tasks, it is a smooth
problem of a few dozen unknowns. It begins at zero, and what does not vary between training tasks keeps no weight.

Labelled rows tell more. Each is left out of the posterior and predicted as if it were a query, with log odds
$\log p_{ic}$ that have the factor $t_k$ already. The factor $a$ that is missing has the density

$$ \log p(a) = \sum_i \frac{n_{y_i} - 1}{n_{y_i}} \log \frac{p_{i y_i}^a}{\sum_c p_{ic}^a}
   - \frac{(\log a)^2}{2 \tau^2} + \text{const}, $$

with $n_c$ labelled rows of a class, and $\tau$ how far the factors of tasks lie from $t_k$. Its mode is taken
(`given_labels`). A row that is left out has still helped to say which unlabelled rows are of its class, the more the
fewer labelled ones there are. So it counts in part, and the only one of its class not at all.

Source: Guo, Pleiss, Sun and Weinberger 2017, On calibration of modern neural networks, who fit one temperature.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ebmeta.foundation.optimizers import LBFGS
from ebmeta.foundation.softmax import softmax

__all__ = ["TaskTemperature", "given_labels", "joined"]

RIDGE = 1e-4  # nats per unit of a squared coefficient, readings of unit variance
LEAST_SCALE = 1e-2  # of a reading: what varies less counts less
ITERATIONS = 40
MOST = 2**16  # numbers of a value of joined batches: enough to keep a processor busy, and few enough for its cache
STEPS, FURTHEST = 8, 0.5  # of Newton's method, and the longest step
LEAST, FLATTEST = -100.0, 0.1  # of a log probability in nats; curvature over that of the prior


class TaskTemperature(nn.Module):
    r"""The factor $t_k$ of every task after every step; 1 until fitted.

    Args:
        num_steps: number of steps, $K$; further ones repeat the last.
        num_readings: readings of a task, $F$.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, num_steps: int, num_readings: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(num_steps, num_readings))
        self.register_buffer("bias", torch.zeros(num_steps))

    @property
    def fitted(self) -> bool:
        """Whether any factor differs from 1."""
        return bool(self.weight.any() or self.bias.any())

    def forward(self, k: int, reading: Tensor) -> Tensor:
        """Return the factors after step `k`, counted from 0.

        Args:
            k: which step.
            reading: shape `(T, F)`.

        Returns:
            $t$, between $e^{-1}$ and $e$, shape `(T,)`.
        """
        return torch.tanh(reading @ self.weight[k] + self.bias[k]).exp()

    def forget(self) -> None:
        """Set every factor to 1."""
        self.weight.zero_()
        self.bias.zero_()

    def fit(self, k: int, reading: Tensor, nll: Callable[[Tensor], Tensor]) -> None:
        """Find the coefficients of one step by L-BFGS.

        Args:
            k: which step, counted from 0.
            reading: of all tasks, shape `(T, F)`.
            nll: what to minimise, in nats: a function of the factors of all tasks, shape `(T,)`.

        Examples:
            >>> temperature, reading = TaskTemperature(1, 1), torch.linspace(-1, 1, 9).unsqueeze(1)
            >>> temperature.fit(0, reading, lambda t: (t.log() - reading[:, 0] / 2).square().mean())
            >>> [round(v, 2) for v in temperature(0, reading).log()[[0, 8]].tolist()]
            [-0.49, 0.49]
        """
        center, scale = reading.mean(0), reading.std(0) + LEAST_SCALE
        z = torch.cat([(reading - center) / scale, torch.ones_like(reading[:, :1])], 1)
        unknown = reading.new_zeros(z.shape[1], requires_grad=True)
        optimizer = LBFGS([unknown], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = nll(torch.tanh(z @ unknown).exp()) + RIDGE * unknown.square().sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        with torch.enable_grad():
            optimizer.step(closure)  # type: ignore[no-untyped-call]
        self.weight[k] = unknown.detach()[:-1] / scale
        self.bias[k] = unknown.detach()[-1] - center @ self.weight[k]


def joined(batches: Iterable[Sequence[Tensor | None]]) -> list[tuple[Any, ...]]:
    """Return batches of tasks, those of the same shapes in one, as long as no value has more than 65,536 numbers.

    Args:
        batches: of each batch as many values, with one row for each task, or None.

    Examples:
        >>> batches = [[torch.zeros(tasks, rows)] for tasks, rows in ((2, 3), (1, 2), (4, 3))]
        >>> [len(x) for (x,) in joined(batches)]
        [6, 1]
    """
    alike: dict[tuple[Any, ...], list[Sequence[Tensor | None]]] = {}
    for batch in batches:
        alike.setdefault(tuple(None if v is None else v.shape[1:] for v in batch), []).append(batch)
    found = []
    for group in alike.values():
        together = max(1, MOST // max(v.numel() for v in group[0] if v is not None))
        for i in range(0, len(group), together):
            of_each = zip(*group[i : i + together], strict=True)
            found.append(tuple(None if values[0] is None else torch.cat(values) for values in of_each))
    return found


def given_labels(log_p: Tensor, y: Tensor, weight: Tensor, spread: float) -> tuple[Tensor, Tensor]:
    r"""Return the factor $a$ of log odds that labelled rows ask for, and how much they leave to $t_k$, both `(T,)`.

    Args:
        log_p: log probabilities of the classes of labelled rows, each left out, in nats, shape `(T, S, C)`.
        y: classes of these, shape `(T, S)`.
        weight: how much each counts, shape `(T, S)`.
        spread: standard deviation $\tau$ of $\log a$ before any label.

    Returns:
        $a$, 1 where no row counts; and the share of a small change of $\log t_k$ that is left in $\log t_k a$, the
        variance of $\log a$ given the labels over $\tau^2$.

    Examples:
        >>> sure = torch.tensor([0.9, 0.1]).log().expand(1, 20, 2)
        >>> right, half = torch.zeros(1, 20, dtype=torch.long), torch.arange(20).unsqueeze(0) % 2
        >>> [round(float(given_labels(sure, y, torch.ones(1, 20), 0.3)[0]), 2) for y in (right, half)]
        [1.32, 0.55]
    """
    log_p = log_p.clamp(min=LEAST)
    z = weight.new_zeros(len(weight))
    with torch.no_grad():
        for _ in range(STEPS):
            slope, fisher, bend = _slope(z, log_p, y, weight, spread)
            z = z + (slope / (fisher + bend.clamp(min=0))).clamp(-FURTHEST, FURTHEST)
        _, fisher, bend = _slope(z, log_p, y, weight, spread)
        curvature = (fisher + bend).clamp(min=FLATTEST / spread**2)
    # the slope is zero here, and its gradient over the curvature that of the mode
    z = z + _slope(z, log_p, y, weight, spread)[0] / curvature
    return z.exp(), 1 / (spread**2 * curvature)


def _slope(z: Tensor, log_p: Tensor, y: Tensor, weight: Tensor, spread: float) -> tuple[Tensor, Tensor, Tensor]:
    r"""Return the slope of the log density of $\log a$ at `z`, and the two parts of its curvature, each `(T,)`."""
    a = z.exp().unsqueeze(1)
    p = softmax(a.unsqueeze(2) * log_p)
    mean = (p * log_p).sum(-1)
    pull = (weight * a * (log_p.gather(-1, y.unsqueeze(-1)).squeeze(-1) - mean)).sum(1)
    variance = (p * log_p.square()).sum(-1) - mean.square()
    return pull - z / spread**2, (weight * a.square() * variance).sum(1) + 1 / spread**2, -pull
