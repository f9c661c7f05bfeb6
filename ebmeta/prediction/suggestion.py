r"""Which queries to label next, by what their labels would say of those of all others.

In a joint model the label of row $i$ moves the class means, and these move what is believed of row $j$. To first order,
with beliefs $r$ and the posterior's means $m_c$, their precision $\Lambda_c$, the spread $s$ and the counts $a_c$,

$$ \delta_c = k_c \big( [y_i = c] - r_{ic} \big), \qquad
   k_c = \frac{(x_i - m_c)^\top (x_j - m_c)}{s^2 \Lambda_c} + \frac{1}{a_c}, $$

is what the label adds to $\log r_{jc}$, up to a constant. The mean divergence of the new belief from the old one is the
information that the two labels share, to second order,

$$ I_{ij} = \tfrac12\, \mathbb E_{y_i \sim r_i} \big[ \delta^\top (\mathrm{diag}\, r_j - r_j r_j^\top) \delta \big]
   = \tfrac12 \sum_c k_c^2\, r_{ic} r_{jc} (1 - r_{ic} - r_{jc}) + \tfrac12 \Big( \sum_c k_c\, r_{ic} r_{jc} \Big)^2, $$

and it is at most the entropy of either, $H_i$ and $H_j$. The first row to be labelled has the largest
$\sum_{j \ne i} I_{ij}$. Rows that follow add to it what is left: of $H_j$ the rows before them take $I_{ij}$ each, and
they count by the share of their own entropy that is left. So of two rows that are alike one is enough.

Source: Bickford Smith, Kirsch, Farquhar, Gal, Foster and Rainforth 2023, Prediction-oriented Bayesian active learning,
whose expected predictive information gain this is, for the unlabelled rows of a task.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from ebmeta.foundation.checks import at_least, checked
from ebmeta.model.conditional import Conditional
from ebmeta.model.posterior import Mixture
from ebmeta.parts.class_gaussian import ClassGaussian

__all__ = ["entropy", "shared_information", "suggest"]

OTHERS = 512  # rows that information is about; of more, so many in even steps
CELLS = 2**23  # pairs of rows times classes per pass


@torch.no_grad()
@checked(number=at_least(1))
def suggest(inferred: Mixture, candidates: Tensor, number: int = 1) -> Tensor:
    r"""Return which queries of each task to label next, best first, shape `(T, n)`.

    Args:
        inferred: inference of tasks by a joint model.
        candidates: True where a query may be chosen, shape `(T, Q)`.
        number: how many of them, $n$.

    Raises:
        ValueError: if a task has fewer candidates.
    """
    tasks, rows = candidates.shape
    fewest, candidates = int(candidates.sum(1).min()), candidates.to(inferred.x.device)
    if number > fewest:
        raise ValueError(f"number: expected at most as many as there are candidates, {fewest}, got {number}")
    every = torch.arange(rows, device=candidates.device).expand(tasks, -1)
    others = torch.linspace(0, rows - 1, min(rows, OTHERS)).round().long().to(every.device)

    def shared(with_: Tensor) -> Tensor:
        return inferred.average(inferred.each(lambda part: shared_information(part, every, with_)))

    whole = inferred.average(inferred.each(entropy))
    information, left = shared(every[:, others]), whole
    free, chosen = candidates.clone(), []
    for _ in range(number):
        gain = torch.minimum(information, left[:, others].unsqueeze(1)).sum(-1) * left / whole.clamp(min=1e-30)
        best = gain.masked_fill(~free, -1.0).argmax(1, keepdim=True)
        free = free.scatter(1, best, False)
        chosen.append(best)
        if len(chosen) < number:
            left = (left - shared(best).squeeze(-1)).clamp(min=0).scatter(1, best, 0.0)
    return torch.cat(chosen, 1)


def entropy(part: Conditional) -> Tensor:
    """Return the entropy of the class of each query in nats, zero for padding, shape `(T, Q)`."""
    r = _beliefs(part)
    return -torch.xlogy(r, r).sum(-1)


def shared_information(part: Conditional, first: Tensor, second: Tensor) -> Tensor:
    """Return the information that the labels of some queries share with those of others in nats, shape `(T, I, J)`.

    Args:
        part: inference of tasks by a joint model.
        first: numbers of queries of each task, shape `(T, I)`.
        second: likewise, shape `(T, J)`.
    """
    q, x, r = cast(ClassGaussian, part.path[-1]), part.setting.real_x[..., :-1], _beliefs(part)
    uncertain = entropy(part)
    size = max(1, CELLS // (second.numel() * r.shape[-1]))
    out = []
    for some in torch.split(first, size, 1):
        (x_i, r_i, h_i), (x_j, r_j, h_j) = (
            [_rows(values, index) for values in (x, r, uncertain.unsqueeze(-1))] for index in (some, second)
        )
        k, r_i, r_j = _link(q, x_i, x_j), r_i.unsqueeze(2), r_j.unsqueeze(1)
        both = r_i * r_j
        found = ((k.square() * both * (1 - r_i - r_j)).sum(-1) + (k * both).sum(-1).square()) / 2
        same = some.unsqueeze(2) == second.unsqueeze(1)
        out.append(torch.minimum(found, torch.minimum(h_i, h_j.mT)).masked_fill(same, 0.0))
    return torch.cat(out, 1)


def _link(q: ClassGaussian, x: Tensor, others: Tensor) -> Tensor:
    r"""Return $k_c(i, j)$, shape `(T, I, J, C)`."""
    square = q.loc.square().sum(-1)[:, None, None]
    off = (x @ others.mT).unsqueeze(-1) - (x @ q.loc.mT).unsqueeze(2) - (others @ q.loc.mT).unsqueeze(1) + square
    scale = (q.spread.square() * q.precision)[..., 0]
    return off / scale[:, None, None] + 1 / torch.where(q.real, q.shares, 1.0)[:, None, None]


def _beliefs(part: Conditional) -> Tensor:
    """Return the beliefs about the classes of queries, unknown ones among them, zero for padding, `(T, Q, C)`."""
    log_probs = part.log_probs(-1)
    assert log_probs is not None  # for the type checker: a joint model says them
    return log_probs.exp() * part.setting.query_mask.unsqueeze(-1)


def _rows(values: Tensor, index: Tensor) -> Tensor:
    """Return some rows of each task, shape `(T, I, ...)`."""
    return values.gather(1, index.unsqueeze(-1).expand(-1, -1, values.shape[-1]))
