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
from ebmeta.likelihood.quantiles import quantile
from ebmeta.likelihood.real import Normal

__all__ = ["cdf", "chances", "intervals", "mean_ends", "moments", "skewed"]

Array = NDArray[np.float64]
POINTS, MOST = 2.0, 0.9  # skewness of two points, and how much of the variance is between them at most
SURE = 1 - 1e-6  # a larger share of a part leaves nothing that could be measured
AT_ONCE = 1 << 17  # predictions of one call
TAIL = np.arange(-9, -4, 0.25)
EDGES = np.concatenate([TAIL, np.linspace(-4, 4, 161), -TAIL[::-1]])  # of cells, in standard deviations


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
    weight, sd = np.broadcast_to(weight.reshape(len(weight), -1), loc.shape), np.sqrt(var)
    flat, ends = np.zeros_like(loc), []

    def below(y: Array, some: NDArray[np.int64]) -> Array:
        return _below(y, weight[:, some], loc[:, some], sd[:, some])

    for level in ((1 - coverage) / 2, (1 + coverage) / 2):
        if len(loc) == 1:
            end = loc[0] + sd[0] * (special.ndtri(level) if freedom is None else stats.t.ppf(level, freedom))
        else:
            end = _quantile(level, below, Normal, *_whole(weight, loc, var))
        ends.append(moments(members, weight, flat + end, flat, size)[0])
    return ends[0], ends[1]


def _whole(weight: Array, loc: Array, var: Array) -> tuple[Array, Array]:
    """Return mean and standard deviation of each mixture of normals, shape `(N,)`; arguments as for `_cells`."""
    mean = (weight * loc).sum(0)
    return mean, np.sqrt((weight * (var + (loc - mean) ** 2)).sum(0))


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
    (mean, scale), sd = _whole(weight, loc, var), np.sqrt(var)
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

    low, high = (_quantile((1 + sign * coverage) / 2, below, members[0], mean, std) for sign in (-1, 1))
    return low, high


def _quantile(
    level: float,
    below: Callable[[Array, NDArray[np.int64]], Array],
    kind: Likelihood | type[Likelihood],
    mean: Array,
    std: Array,
) -> Array:
    """Return the same as `quantile`, from arrays."""
    probability = lambda y, rows: torch.from_numpy(below(y.numpy(), rows.numpy()))  # noqa: E731
    out: Array = quantile(probability, level, torch.from_numpy(mean), torch.from_numpy(std), kind).numpy()
    return out


def _alike(members: Sequence[Likelihood]) -> bool:
    """Whether there are several likelihoods that are one: nothing that differs between draws is a part of them."""
    return len(members) > 1 and not members[0].state_dict()


def _laid_out(loc: Array, var: Array) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    tensors = (torch.from_numpy(np.ascontiguousarray(np.atleast_2d(v))).unsqueeze(-1) for v in (loc, var))
    return *tensors, torch.ones(1, 1, dtype=torch.bool)  # type: ignore[return-value]


def _given(size: Array | None) -> Given:
    return Given(None if size is None else torch.from_numpy(size)[None])
