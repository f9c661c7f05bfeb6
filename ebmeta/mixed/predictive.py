r"""Means, standard deviations and intervals of new labels, given what is known of the linear predictor.

The effects of a group with few labels are skewed: of one that has had no successes, as far below the mean as there are
spreads, and hardly above. Two normal distributions have the mean $m$, the variance $v$ and the skewness $\gamma$ of a
linear predictor,

$$ p \, \mathcal N\big(m \pm \sqrt{v b (1 - p) / p},\ v (1 - b)\big)
   + (1 - p) \, \mathcal N\big(m \mp \sqrt{v b\, p / (1 - p)},\ v (1 - b)\big), \qquad
   \frac{1 - 2 p}{\sqrt{p (1 - p)}} = \kappa, \quad b = (|\gamma| / \kappa)^{2/3} , $$

the signs those of $\gamma$ and $\kappa = 2$ the skewness of two points as far apart; a larger one where $b$ would
leave them no width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special, stats

from ebmeta.likelihood.base import Given, Likelihood

__all__ = ["cdf", "chances", "intervals", "mean_ends", "moments", "skewed"]

Array = NDArray[np.float64]
BISECTIONS = 60
POINTS, MOST = 2.0, 0.9  # skewness of two points, and how much of the variance is between them at most
SURE = 1 - 1e-6  # a larger share of a part leaves nothing that could be measured
TINY, ROUNDING = 1e-300, 1e-16  # least probability, and what 1 lacks
CLOSE = 1e-9  # of a probability on the scale of standard normal numbers: an end is found
PACE = 4  # steps, of which one halves what is left
AT_ONCE = 1 << 17  # predictions of one call
TAIL = np.arange(-9, -4, 0.25)
EDGES = np.concatenate([TAIL, np.linspace(-4, 4, 161), -TAIL[::-1]])  # of cells, in standard deviations
FARTHEST = 64.0  # standard deviations from the mean, where a quantile is sought at most


def skewed(
    members: Sequence[Likelihood], weight: Array, linear: Array
) -> tuple[Sequence[Likelihood], Array, Array, Array]:
    """Return members, weights, location and variance as for `moments`, two for each member where it is skewed.

    Args:
        members: likelihoods, one for each draw of the parameters, $D$ of them.
        weight: of the draws, shape `(D,)`, in all 1.
        linear: mean, variance and third central moment of the linear predictor, shape `(D, 3, N)`, and what follows
            where labels may be silent (`Engine.linear`).
    """
    (loc, var, third), silent = linear.transpose(1, 0, 2)[:3], linear.transpose(1, 0, 2)[3:]
    if len(silent) and silent[0].any():  # a part is that of any group, and two normals have the moments of the rest
        share, own, width = np.minimum(silent[0], SURE), *silent[1:]
        found = skewed(members, weight, _without(share, own, width, linear).transpose(1, 0, 2))
        shares = np.tile(share, (len(found[0]) // len(members), 1))
        rest = found[1].reshape(len(found[0]), -1) * (1 - shares)
        return (
            [*found[0], *members],
            np.concatenate([rest, weight[:, None] * share]),
            np.concatenate([found[2], own]),
            np.concatenate([found[3], width]),
        )
    if not third.any():
        return members, weight, loc, var
    skew = np.abs(third) / np.where(var > 0, var, 1.0) ** 1.5
    between = np.minimum((skew / POINTS) ** (2 / 3), MOST)
    points = np.maximum(POINTS, skew / MOST**1.5)
    rare = (1 - points / np.sqrt(4 + points**2)) / 2
    step, width = np.sign(third) * np.sqrt(var * between), var * (1 - between)
    odds = np.sqrt((1 - rare) / rare)
    weights = weight[:, None] * np.stack([rare, 1 - rare])
    return (
        [*members, *members],
        weights.reshape(-1, loc.shape[1]),
        np.concatenate([loc + step * odds, loc - step / odds]),
        np.concatenate([width, width]),
    )


def _without(share: Array, own: Array, width: Array, linear: Array) -> Array:
    """Return the three moments of what is left of a distribution without a normal part, shape `(3, D, N)`.

    Args:
        share: of the part, shape `(D, N)`.
        own: its mean.
        width: its variance.
        linear: moments of the whole, shape `(D, 3, N)`.
    """
    loc, var, third = linear[:, :3].transpose(1, 0, 2)
    gap, left = own - loc, 1 - share
    mean = -share * gap / left  # all about the mean of the whole
    square = np.maximum((var - share * (width + gap**2)) / left - mean**2, 0.0)
    cube = (third - share * (gap**3 + 3 * gap * width)) / left - mean**3 - 3 * mean * square
    return np.stack([loc + mean, square, np.where(square > 0, cube, 0.0)])


def moments(
    members: Sequence[Likelihood], weight: Array, loc: Array, var: Array, size: Array | None
) -> tuple[Array, Array]:
    """Return means and standard deviations of new labels, each of shape `(N,)`.

    Args:
        members: likelihoods, $D$ of them.
        weight: of each, in all 1, shape `(D,)`, or `(D, N)` for each row.
        loc: location of the linear predictor, shape `(D, N)`.
        var: variance of it, of that shape.
        size: sizes of the rows, shape `(N,)`, or None.
    """
    parts = []
    step = max(1, AT_ONCE // loc.shape[1]) if _alike(members) else 1
    for first in range(0, len(members), step):
        some = slice(first, first + step)
        with torch.no_grad():
            found = members[first].predict(*_laid_out(loc[some], var[some]), _given(size))
        parts.append([found[name].double().numpy() for name in ("mean", "std")])
    each, std = (np.concatenate(values) for values in zip(*parts, strict=True))
    weight = weight.reshape(len(weight), -1)
    mean = (weight * each).sum(0)
    variance = (weight * (std**2 + (each - mean) ** 2)).sum(0)  # about the mean, or large labels would cancel it
    return mean, np.sqrt(variance)


def mean_ends(
    linear: tuple[Sequence[Likelihood], Array, Array, Array],
    size: Array | None,
    coverage: float,
    freedom: Array | None = None,
) -> tuple[Array, Array]:
    """Return both ends of the interval of each row's mean label: the means at the ends of the linear predictor.

    Args:
        linear: likelihoods, weights, and location and variance of the linear predictor, as for `moments`; the variance
            is that of all that is not known.
        size: sizes of the rows, or None.
        coverage: of the intervals.
        freedom: degrees of freedom of the variance of one member, shape `(N,)`, where the interval is Student's.
    """
    members, weight, loc, var = linear
    weight = np.broadcast_to(weight.reshape(len(weight), -1), loc.shape)
    flat, ends = np.zeros_like(loc), []
    for level in ((1 - coverage) / 2, (1 + coverage) / 2):
        reach = np.full(loc.shape[1], special.ndtri(level)) if freedom is None else stats.t.ppf(level, freedom)
        each = loc + reach * np.sqrt(var)
        end = each[0] if len(loc) == 1 else _quantile(level, weight, loc, np.sqrt(var), each)
        ends.append(moments(members, weight, flat + end, flat, size)[0])
    return ends[0], ends[1]


def _quantile(level: float, weight: Array, loc: Array, sd: Array, each: Array) -> Array:
    """Return the quantile of each mixture of normals, shape `(N,)`, which lies between those of its members."""
    low, high = each.min(0), each.max(0)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        above = _below(middle, weight, loc, sd) >= level
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    out: Array = (low + high) / 2
    return out


def _below(at: Array, weight: Array, loc: Array, sd: Array) -> Array:
    """Return the probability of each mixture of normals up to a number, shape `(N,)`."""
    with np.errstate(divide="ignore", invalid="ignore"):  # a member without width is a step
        z = np.where(sd > 0, (at - loc) / sd, np.where(at >= loc, np.inf, -np.inf))
    out: Array = (weight * special.ndtr(z)).sum(0)
    return out


def _cells(weight: Array, loc: Array, var: Array) -> tuple[Array, Array]:
    """Return the middles of narrow cells of each mixture of normals, and their probabilities, shape `(cells, N)`.

    Args:
        weight: of the members, in all 1 for each row, shape `(D, N)`.
        loc: their means.
        var: their variances.
    """
    mean = (weight * loc).sum(0)
    scale, sd = np.sqrt((weight * (var + (loc - mean) ** 2)).sum(0)), np.sqrt(var)
    below = [_below(mean + scale * edge, weight, loc, sd) for edge in EDGES]
    ends = np.zeros_like(mean), np.ones_like(mean)
    middles = np.concatenate([EDGES[:1], (EDGES[1:] + EDGES[:-1]) / 2, EDGES[-1:]])
    return mean + scale * middles[:, None], np.diff(np.stack([ends[0], *below, ends[1]]), axis=0)


def cdf(y: Array, members: Sequence[Likelihood], weight: Array, loc: Array, var: Array, size: Array | None) -> Array:
    """Return the probability of a label up to `y`, shape `(N,)`; arguments as for `moments`."""
    out = np.zeros(loc.shape[1])
    for w, likelihood, m, v in zip(weight, members, loc, var, strict=True):
        laid, spread, _ = _laid_out(m, v)
        with torch.no_grad():
            out += w * likelihood.predictive_cdf(torch.from_numpy(y)[None], laid, spread, _given(size)).numpy()[0]
    return out


def chances(members: Sequence[Likelihood], weight: Array, loc: Array, var: Array, size: Array | None) -> list[Array]:
    """Return the probability of each label, of shape `(N,)`, where there is an end of them; arguments as for `moments`.

    Where there is none, the list is empty.
    """
    if members[0].num_labels is None:
        return []
    out = np.zeros((loc.shape[1], members[0].num_labels))
    for w, likelihood, m, v in zip(weight, members, loc, var, strict=True):
        with torch.no_grad():
            probs = likelihood.predictive_probs(*_laid_out(m, v)[:2], _given(size)).numpy()[0]
        out += np.broadcast_to(w, loc.shape[1:])[:, None] * probs
    return list(out.T)


def intervals(
    members: Sequence[Likelihood], weight: Array, loc: Array, var: Array, size: Array | None, coverage: float
) -> tuple[Array, Array]:
    """Return both ends of the central interval of each new label, of shape `(N,)`; arguments as for `moments`.

    For counts an end is the smallest count that reaches its probability.
    """
    mean, std = moments(members, weight, loc, var, size)
    weight = np.broadcast_to(weight.reshape(len(weight), -1), loc.shape)
    cells = _cells(weight, loc, var) if _alike(members) else None

    def below(y: Array, some: NDArray[np.int64]) -> Array:
        own = None if size is None else size[some]
        if cells is None:
            return cdf(y, members, weight[:, some], loc[:, some], var[:, some], own)
        eta, mass = (part[:, some] for part in cells)
        with torch.no_grad():
            each = members[0].cdf(torch.from_numpy(y).expand(eta.shape), torch.from_numpy(eta), _given(own)).numpy()
        return np.asarray((mass * each).sum(0))

    low, high = (_reached((1 + sign * coverage) / 2, below, members[0], mean, std) for sign in (-1, 1))
    return low, high


def _reached(
    level: float, below: Callable[[Array, NDArray[np.int64]], Array], likelihood: Likelihood, mean: Array, std: Array
) -> Array:
    """Return where the probability of smaller labels reaches a level, for counts the smallest that does, shape `(N,)`.

    By secants on the scale where the cdf of a normal distribution is a line, within two ends that close in.

    Args:
        level: of the quantile.
        below: the probability of labels up to a number, of some rows.
        likelihood: of the labels.
        mean: of the labels.
        std: of the same.
    """
    whole, aim = likelihood.discrete, special.ndtri(level)
    reach = FARTHEST * (1 + whole) * std
    low, high = (np.full_like(mean, -1.0), np.ceil(mean + reach) + 1) if whole else (mean - reach, mean + reach)
    x, slope = mean + aim * std, 1 / np.where(std > 0, std, 1.0)
    last, last_z, open_rows = np.full_like(mean, np.nan), np.full_like(mean, np.nan), np.arange(len(mean))
    for turn in range(PACE * BISECTIONS):
        at, a, b = x[open_rows], low[open_rows], high[open_rows]
        middle = (a + b) / 2
        inside = np.clip(np.ceil(at), a + 1, b - 1) if whole else np.where((at > a) & (at < b), at, middle)
        at = np.where(np.isnan(inside) | (turn % PACE == PACE - 1), np.floor(middle) if whole else middle, inside)
        found = below(at, open_rows)
        above = found >= level
        low[open_rows], high[open_rows] = np.where(above, a, at), np.where(above, at, b)
        z = special.ndtri(found.clip(TINY, 1 - ROUNDING))
        with np.errstate(divide="ignore", invalid="ignore"):
            steep = (z - last_z[open_rows]) / (at - last[open_rows])
        slope[open_rows] = np.where(np.isfinite(steep) & (steep > 0), steep, slope[open_rows])
        last[open_rows], last_z[open_rows] = at, z
        x[open_rows] = at + (aim - z) / slope[open_rows]
        wide = high[open_rows] - low[open_rows]
        least = CLOSE * std[open_rows] if likelihood.bounded else ROUNDING * np.abs(at)  # no label is far beyond others
        open_rows = open_rows[wide > 1 if whole else (np.abs(z - aim) > CLOSE) & (wide > least)]
        if not len(open_rows):
            break
    if whole:
        return high
    inner = np.where((level > 0.5) & np.isfinite(low), low, high)  # a label that there is
    return np.where(np.abs(last_z - aim) <= CLOSE, last, inner)


def _alike(members: Sequence[Likelihood]) -> bool:
    """Whether there are several likelihoods that are one: nothing that differs between draws is a part of them."""
    return len(members) > 1 and not members[0].state_dict()


def _laid_out(loc: Array, var: Array) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    tensors = (torch.from_numpy(np.ascontiguousarray(np.atleast_2d(v))).unsqueeze(-1) for v in (loc, var))
    return *tensors, torch.ones(1, 1, dtype=torch.bool)  # type: ignore[return-value]


def _given(size: Array | None) -> Given:
    return Given(None if size is None else torch.from_numpy(size)[None])
