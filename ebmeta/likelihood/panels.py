r"""Integrals over a normal linear predictor of functions that may have kinks and spikes, by adaptive panels.

A range of many standard deviations is cut into panels, each with a Gauss-Legendre rule. The panel whose rule differs
most from those of its two halves is halved, for each row of its own, until nothing is left to gain:

$$ \int f(\eta)\, d\eta \approx \sum_p \frac{b_p - a_p}{2} \sum_k w_k f\Big(\frac{a_p + b_p}{2}
   + \frac{b_p - a_p}{2} x_k\Big) . $$

Source: Davis and Rabinowitz 1984, Methods of numerical integration, section 6.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from scipy import special
from torch import Tensor

from ebmeta.likelihood.base import Given

__all__ = ["Rows", "cells", "log_mean", "mean", "settled"]

AGREE = 1e-5  # nats, by which two rules may differ
AT_ONCE = 2048  # rows
MIDDLE, FAR, WIDTH = 2.0, 6.0, 0.2  # of a standard normal number: where tails begin and end, and steps in them
CELLS = 36  # on each side of the middle
POINTS = 8  # of a panel
HALVINGS = 80  # at most, for each row
CLOSE = 1e-7  # in nats, or as a share of a mean: what is left to gain
LEAST = 1e-20  # of a variance
ENDS = 38.0  # standard deviations, from which on a normal density is 0
PLACES = torch.tensor([0.0, 0.5, 1.0, 2.0, 3.0, 4.5, 6.0, 8.0, 12.0, 18.0, 26.0, ENDS], dtype=torch.float64)


@cache
def cells() -> tuple[Tensor, Tensor]:
    """Return a standard normal number in the middle of each of many cells, and the probabilities of these."""
    tail, middle = special.ndtr(np.arange(-FAR, -MIDDLE, WIDTH)), np.linspace(special.ndtr(-MIDDLE), 0.5, CELLS + 1)
    edges = np.concatenate([[0.0], tail, middle])
    nodes, weights = special.ndtri((edges[:-1] + edges[1:]) / 2), np.diff(edges)
    return torch.from_numpy(np.concatenate([nodes, -nodes])), torch.from_numpy(np.tile(weights, 2))


class _Panels(NamedTuple):
    """Panels of every row, shapes `(P, T, Q)`: where they begin and end, and what is in them and may be wrong."""

    low: Tensor
    high: Tensor
    value: Tensor
    error: Tensor

    def within(self, chosen: Tensor) -> _Panels:
        """Return one panel of every row, by numbers of shape `(1, T, Q)`."""
        return _Panels(*(v.gather(0, chosen) for v in self))


@cache
def _rule() -> tuple[Tensor, Tensor]:
    points, weights = np.polynomial.legendre.leggauss(POINTS)
    return torch.from_numpy(points), torch.from_numpy(np.log(weights / 2))


def _weighed(log: bool, f: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """Return what each point of each panel adds, in logs where a function's values are logs, shape `(K, P, T, Q)`."""
    points, log_weight = (v.to(low).view(-1, 1, 1, 1) for v in _rule())
    eta = (low + high) / 2 + (high - low) / 2 * points
    values, log_weight = f(eta.flatten(0, 1)).view_as(eta), log_weight + (high - low).log()
    return values + log_weight if log else values * log_weight.exp()


def _sums(log: bool, f: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """Return the integral over each panel of a function, in logs where its values are logs, shape `(P, T, Q)`."""
    each = _weighed(log, f, low, high)
    return torch.logsumexp(each, 0) if log else each.sum(0)


def _gap(log: bool, coarse: Tensor, fine: Tensor, whole: Tensor) -> Tensor:
    """Return by how much sums over panels differ, in nats of the whole, or as a share of it."""
    gap = (coarse - whole).exp() - (fine - whole).exp() if log else (coarse - fine) / (1 + whole.abs())
    return gap.abs().nan_to_num(0.0, math.inf)


@torch.no_grad()
def _refined(log: bool, f: Callable[[Tensor], Tensor], edges: Tensor) -> _Panels:
    """Return panels between edges, shape `(K, T, Q)` and rising, that are halved where the function needs it."""

    def halves(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        middle = (low + high) / 2
        first, second = _sums(log, f, low, middle), _sums(log, f, middle, high)
        return middle, first, second, torch.logaddexp(first, second) if log else first + second

    def total(value: Tensor) -> Tensor:
        return torch.logsumexp(value, 0) if log else value.sum(0)

    low, high = edges[:-1], edges[1:]
    coarse, (middle, first, second, fine) = _sums(log, f, low, high), halves(low, high)
    error = _gap(log, coarse, fine, total(fine)) / 2
    parts = _Panels(*(torch.cat(v) for v in ((low, middle), (middle, high), (first, second), (error, error))))
    for _ in range(HALVINGS):
        if bool((parts.error.sum(0) < CLOSE).all()):
            break
        worst = parts.error.argmax(0, keepdim=True)
        old = parts.within(worst)
        middle, first, second, fine = halves(old.low, old.high)
        whole = total(parts.value.scatter(0, worst, fine))
        error = _gap(log, old.value, fine, whole) / 2
        kept = (old.low, middle, first, error)
        parts = _Panels(
            *(
                torch.cat([v.scatter(0, worst, one), two])
                for v, one, two in zip(parts, kept, (middle, old.high, second, error), strict=True)
            )
        )
    return parts


def _edges(loc: Tensor, var: Tensor, more: Sequence[Tensor]) -> Tensor:
    """Return the edges of the first panels, of normal predictors of shape `(T, Q)` and at other places too."""
    places = torch.cat([-PLACES.flip(0)[:-1], PLACES]).to(loc).view(-1, 1, 1)
    around = loc + var.sqrt() * places
    inside = [torch.minimum(torch.maximum(v, around[0]), around[-1]).nan_to_num().unsqueeze(0) for v in more]
    return torch.cat([around, *inside]).sort(0).values


def log_mean(log_f: Callable[[Tensor], Tensor], loc: Tensor, var: Tensor, more: Sequence[Tensor] = ()) -> Tensor:
    r"""Return $\log \int e^{f(\eta)} \mathcal N(\eta; m, v)\, d\eta$ in nats, shape `(T, Q)`.

    Args:
        log_f: $f$, from shape `(K, T, Q)` to the same.
        loc: $m$, shape `(T, Q)`.
        var: $v$, the same, above 0.
        more: places where the function may be largest, each of that shape.

    Examples:
        >>> one = torch.ones(1, 1, dtype=torch.float64)
        >>> round(log_mean(lambda eta: -eta.abs(), 0 * one, one).item(), 6)  # the log of 2 e^{1/2} Phi(-1)
        -0.647874
    """

    def f(eta: Tensor) -> Tensor:
        log_q = -((eta - loc).square() / var + torch.log(2 * math.pi * var)) / 2
        return (log_f(eta) + log_q).nan_to_num(-math.inf, math.inf, -math.inf)

    parts = _refined(True, f, _edges(loc.detach(), var.detach(), more))
    return torch.logsumexp(_weighed(True, f, parts.low, parts.high), (0, 1))


def mean(function: Callable[[Tensor], Tensor], loc: Tensor, var: Tensor, more: Sequence[Tensor] = ()) -> Tensor:
    r"""Return $\int f(\eta) \mathcal N(\eta; m, v)\, d\eta$, shape `(T, Q)`; arguments as of `log_mean`.

    Examples:
        >>> one = torch.ones(1, 1, dtype=torch.float64)
        >>> round(mean(torch.abs, 0 * one, one).item() ** 2, 6)  # 2 / pi
        0.63662
    """

    def f(eta: Tensor) -> Tensor:
        q = (-((eta - loc).square() / var) / 2).exp() / torch.sqrt(2 * math.pi * var)
        return torch.where(q > 0, function(eta) * q, 0.0)

    parts = _refined(False, f, _edges(loc.detach(), var.detach(), more))
    return _weighed(False, f, parts.low, parts.high).sum((0, 1))


class Rows(NamedTuple):
    """Labels, shape `(T, Q)`, and what is known of each; see `Likelihood.predictive_log_prob`."""

    y: Tensor
    loc: Tensor
    var: Tensor
    way_mask: Tensor
    given: Given | None

    def of(self, tasks: slice, queries: slice) -> Rows:
        """Return some queries of some tasks."""
        given, each = self.given or Given(), (tasks, queries)
        size = None if given.size is None else given.size[each]
        own = Given(size, None if given.level is None else given.level[tasks])
        return Rows(self.y[each], self.loc[each], self.var[each], self.way_mask[tasks], own)


def settled(
    fine: Tensor,
    coarse: Tensor,
    integral: Callable[..., Tensor],
    log_prob: Callable[..., Tensor],
    rows: Rows,
    places: Sequence[Tensor],
) -> Tensor:
    """Return averages of rows, by panels where those of two rules differ: there a density has a kink.

    Args:
        fine: averages by many nodes, shape `(T, Q)`.
        coarse: by fewer.
        integral: `log_mean` or `mean`.
        log_prob: log density, as of `Likelihood.log_prob`.
        rows: what they are of.
        places: where the density may be largest, each of shape `(T, Q)`.
    """
    off = (fine - coarse).detach().abs() > AGREE  # and not of padding, whose label may be none
    if not bool(off.any()):
        return fine

    def of_block(tasks: slice, queries: slice) -> Tensor:
        if not bool(off[tasks, queries].any()):
            return fine[tasks, queries]
        own = rows.of(tasks, queries)
        likely = [place[tasks, queries].to(own.loc) for place in places]
        density = lambda eta: log_prob(own.y, eta.unsqueeze(-1), own.way_mask, own.given)  # noqa: E731
        return integral(density, own.loc.squeeze(-1), own.var.squeeze(-1).clamp(min=LEAST), likely)

    wide = min(fine.shape[1], AT_ONCE)
    parts = [
        torch.cat([of_block(tasks, queries) for queries in _slices(fine.shape[1], wide)], 1)
        for tasks in _slices(len(fine), AT_ONCE // wide)
    ]
    return torch.where(off, torch.cat(parts), fine)


def _slices(length: int, step: int) -> list[slice]:
    return [slice(first, first + step) for first in range(0, length, step)]
