r"""Probabilities of the classes of queries whose numbers of every class are known to be equal.

Beliefs about each query by itself, $r_i$, and $m$ queries of every class have the joint distribution

$$ p(y) \propto \prod_i r_{i y_i} \prod_c \mathbb 1 \Big[ \sum_i \mathbb 1[y_i = c] = m \Big] , \qquad
   p(y_i = c) \propto r_{ic}\; p_{-i} (m - e_c) , $$

with $p_{-i}(n)$ the probability that the other queries are $n$ of the classes. Few queries of few classes have few
such counts, and sums over them are exact (`exact`), forward over queries and back. Otherwise
(`by_moments`) potentials first give beliefs $\tilde r$ with equal shares (`ebmeta.refine.equal_shares`), which
have the same $p(y)$, and the numbers of the other queries are taken for Gaussian,

$$ \log p_{-i}(m - e_c) \approx -\tfrac12 (e_c - \tilde r_i)^\top \Sigma_{-i}^{-1} (e_c - \tilde r_i), \qquad
   \Sigma_{-i} = \sum_{j \ne i} \big( \operatorname{diag} \tilde r_j - \tilde r_j \tilde r_j^\top \big) . $$

Potentials alone leave beliefs too unsure: they do not know that, where one query takes the place of a class, another
cannot. Two queries of two classes have twice the log odds.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ebmeta.foundation.softmax import log_softmax
from ebmeta.likelihood import NEVER
from ebmeta.refine.equal_shares import equal_shares

__all__ = ["with_equal_counts"]

MOST = 2**15  # queries times classes times counts of a task whose sums are exact
FLOOR = 0.05  # added to variances of counts, which are whole numbers
AT_ONCE = 2**20  # numbers of matrices in memory


def with_equal_counts(
    odds: Tensor, equal: Tensor | None, query_mask: Tensor, way_mask: Tensor, many: Tensor | None = None
) -> Tensor:
    r"""Return log probabilities of log odds, given in some tasks that there are as many queries of every class.

    Args:
        odds: log odds, shape `(T, Q, C)`.
        equal: in which tasks, shape `(T,)`; None for none.
        query_mask: True where a query is real, shape `(T, Q)`.
        way_mask: True where a class exists, shape `(T, C)`.
        many: log probabilities where sums are not exact, or nothing is known, shape `(T, Q, C)`; None for those of
            `by_moments` and of the odds alone.

    Examples:
        >>> odds = torch.tensor([[[0.5, 0.0], [0.0, 0.5]]])
        >>> real = torch.ones(1, 2, dtype=torch.bool)
        >>> p = with_equal_counts(odds, real[:, 0], real, real)  # each is of its own class, or each of the other's
        >>> [round(v, 3) for v in (p[..., 0] - p[..., 1]).flatten().tolist()]
        [1.0, -1.0]
    """
    if equal is None or not bool(equal.any()):
        return log_softmax(odds) if many is None else many
    log_p = log_softmax(odds.masked_fill(~way_mask.unsqueeze(1), NEVER)) if many is None else many
    sizes = torch.stack([query_mask.sum(1) * equal, way_mask.sum(1)], 1)
    some = {tuple(pair) for pair in sizes.tolist() if pair[0]}
    for queries, ways in sorted(size for size in some if many is None or _few(*size)):  # each task by itself
        task = (sizes == sizes.new_tensor([queries, ways])).all(1).nonzero()
        query, way = (_first(mask[task[:, 0]], n) for mask, n in ((query_mask, queries), (way_mask, ways)))
        place = task.unsqueeze(2), query.unsqueeze(2), way.unsqueeze(1)
        log_p = log_p.index_put(place, _of_one_size(odds[place]))
    return log_p


def _first(mask: Tensor, number: int) -> Tensor:
    """Return the places of so many true values in each row."""
    return torch.argsort((~mask).byte(), dim=1, stable=True)[:, :number]


def _few(queries: int, ways: int) -> bool:
    """Return whether sums over the counts of so many queries are exact."""
    return int((queries // ways + 1) ** (ways - 1)) * queries * ways <= MOST


def _of_one_size(odds: Tensor) -> Tensor:
    """Return `with_equal_counts` of tasks without padding, shape `(T, Q, C)`."""
    queries, ways = odds.shape[1:]
    if _few(queries, ways):
        return exact(odds)
    return log_softmax(_shared(by_moments(_shared(odds))))


def _shared(odds: Tensor) -> Tensor:
    """Return log odds with equal shares, no row being padding."""
    real = torch.ones_like(odds, dtype=torch.bool)
    return equal_shares(odds, real[:, :, 0], real[:, 0])


def exact(odds: Tensor) -> Tensor:
    """Return log probabilities by sums over the numbers of queries of all classes but the last.

    Args:
        odds: log odds of tasks without padding, shape `(T, Q, C)`.
    """
    w = log_softmax(odds).double()
    queries, ways = odds.shape[1:]
    size = queries // ways + 1
    stride = size ** torch.arange(ways - 1, device=odds.device)
    number = torch.arange(size ** (ways - 1), device=odds.device)
    digit = number // stride.unsqueeze(1) % size
    none = torch.full_like(number[:1], len(number))  # stands for counts that cannot be
    more = torch.where(digit + 1 < size, number + stride.unsqueeze(1), none)
    more = torch.cat([more, number.unsqueeze(0)])  # the last class is not counted
    less = torch.where(digit > 0, number - stride.unsqueeze(1), none)
    less = torch.cat([less, number.unsqueeze(0)])
    start = w.new_full((len(w), len(number) + 1), NEVER)
    before, after = [start.index_fill(1, number[:1], 0.0)], [start.index_fill(1, number[-1:], 0.0)]
    for i in range(queries):
        before.append(_with_query(before[-1], less, w[:, i]))
        after.append(_with_query(after[-1], more, w[:, -1 - i]))
    by_class = [torch.logsumexp(before[i][:, None, :-1] + after[-2 - i][:, more], 2) + w[:, i] for i in range(queries)]
    return log_softmax(torch.stack(by_class, 1)).to(odds.dtype)


def _with_query(table: Tensor, move: Tensor, w: Tensor) -> Tensor:
    """Return log weights of counts, shape `(T, N + 1)`, with one more query."""
    moved = torch.logsumexp(table[:, move] + w.unsqueeze(2), 1)
    return torch.cat([moved, table[:, -1:]], 1)


def by_moments(odds: Tensor) -> Tensor:
    """Return log odds by a Gaussian law of the numbers of the other queries.

    Args:
        odds: log odds of tasks without padding, whose probabilities have equal shares, shape `(T, Q, C)`.
    """
    log_r = log_softmax(odds)
    r = log_r.double().exp()
    total = torch.diag_embed(r.sum(1)) - r.mT @ r
    some = max(1, AT_ONCE // (len(r) * r.shape[2] ** 2))  # queries whose matrices fit into memory
    odd = torch.cat([_oddity(part, total) for part in torch.split(r, some, 1)], 1)
    return log_r - (odd / 2).to(odds.dtype)


def _oddity(r: Tensor, total: Tensor) -> Tensor:
    """Return the quadratic form of each class, but for what is the same for all of them, shape `(T, Q, C)`."""
    others = total.unsqueeze(1) - torch.diag_embed(r) + r.unsqueeze(3) * r.unsqueeze(2)
    # numbers of all classes have no variance; any will do, as the form never looks there
    inverse: Tensor = torch.linalg.inv(others + FLOOR * torch.eye(r.shape[2], dtype=r.dtype, device=r.device) + 1)
    return inverse.diagonal(dim1=2, dim2=3) - 2 * (inverse @ r.unsqueeze(3)).squeeze(3)
