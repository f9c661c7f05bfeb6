r"""Where the predictive probabilities of many labels reach a level, all of them at once."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from scipy import special
from torch import Tensor

from ebmeta.likelihood.base import Likelihood

__all__ = ["quantile"]

Scale = Callable[[Tensor], Tensor]

FAR = 8.0  # standard deviations of a step towards an end that is not known
PACE, SECANTS, MOST = 5, 20, 200  # turns of which one halves the bracket, after which all do, and at most


@torch.no_grad()
def quantile(
    below: Callable[[Tensor, Tensor], Tensor],
    level: float,
    mean: Tensor,
    std: Tensor,
    likelihood: Likelihood | type[Likelihood],
) -> Tensor:
    r"""Return where the probability of labels up to a number reaches a level, of counts the smallest that does.

    Secants where the cdf of a normal distribution is a line, within a bracket that is halved now and then. On a scale
    $u$ without ends, the logarithm or the log odds of labels that have one or two,

    $$ u \leftarrow u + \big(\Phi^{-1}(p) - z\big) \frac{u - u'}{z - z'} , \qquad z = \Phi^{-1}\big(F(u)\big) . $$

    Args:
        below: from labels, shape `(R,)`, and the numbers of their rows, same shape, to the probabilities up to them.
        level: the probability $p$.
        mean: of the labels, any shape; its elements in order are the rows.
        std: of the same.
        likelihood: of the labels, or its class.

    Returns:
        Labels, shape of the mean; NaN where a probability is NaN.

    Examples:
        >>> from ebmeta.likelihood import Gamma
        >>> mean = torch.tensor([2.0, 3.0], dtype=torch.float64)
        >>> quantile(lambda y, rows: 1 - torch.exp(-y / mean[rows]), 0.5, mean, mean, Gamma) / mean
        tensor([0.6931, 0.6931], dtype=torch.float64)
    """
    whole, info = likelihood.discrete, torch.finfo(mean.dtype)
    level = min(level, 1 - info.eps / 2)  # the last probability below 1
    aim, close, more = float(special.ndtri(level)), math.sqrt(info.eps), float(whole)
    (to, back), ends = _scale(likelihood, info.eps)
    start, spread = _guess(mean.flatten() + more / 2, std.flatten(), to)  # a count begins half below itself
    none = torch.full_like(start, math.nan)
    known = (torch.full_like(start, end) for end in ends)
    state = torch.stack([start + aim * spread, *known, none, none, 1 / spread])
    rows = torch.arange(len(start), device=start.device)
    for turn in range(MOST):
        (u, low, high, last, z, slope), far = state[:, rows], FAR * 2.0**turn * spread[rows]
        y = back(_inside(u, to(low), to(high), far, turn >= SECANTS or turn % PACE == PACE - 1)).clamp(max=info.max)
        y = torch.minimum(torch.maximum(y.ceil(), low + 1), high - 1) if whole else y
        found, u = below(y - more, rows), to(y)
        low, high = torch.where(found >= level, low, y), torch.where(found >= level, y, high)
        here = torch.special.ndtri(found.clamp(info.tiny, 1 - info.eps / 2)).to(y)
        steep = (here - z) / (u - last)  # none where the cdf is flat, and then the middle is next
        slope = torch.where(steep.isfinite() & (steep > 0), steep, torch.where(steep == 0, math.inf, slope))
        u, last = u + ((aim - here) / slope).clamp(-far, far), u
        state[:, rows] = torch.stack([u, low, high, last, here, slope])
        wide = high - low > (4 * info.eps * y.abs()).clamp(min=more)
        rows = rows[wide & (found.isfinite() if whole else (here - aim).abs() > close)]
        if not len(rows):
            break
    u, low, high = state[:3]
    out = torch.where(u.isnan(), u, high - more) if whole else back(u).clamp(low, high)
    return out.view_as(mean)


def _scale(likelihood: Likelihood | type[Likelihood], eps: float) -> tuple[tuple[Scale, Scale], tuple[float, float]]:
    """Return the scale on which labels, or counts and one more, have no ends, the way back, and their ends."""
    if likelihood.discrete:
        return ((torch.clone, torch.clone) if likelihood.bounded else (torch.log, torch.exp)), (0.0, math.inf)
    if likelihood.ends == (0.0, 1.0):
        return (torch.logit, torch.sigmoid), (0.0, 1 - eps / 2)  # the last number that has log odds
    if likelihood.ends == (0.0, math.inf):
        return (torch.log, torch.exp), likelihood.ends
    return (torch.clone, torch.clone), (-math.inf, math.inf)


def _guess(mean: Tensor, std: Tensor, to: Scale) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation on a scale, from those of labels."""
    if to is torch.log:  # those of a log-normal distribution
        spread = (std / mean).square().log1p().sqrt()
        middle = mean.log() - spread.square() / 2
    elif to is torch.logit:
        middle, spread = mean.logit(), std / (mean * (1 - mean))
    else:
        middle, spread = mean, std
    return middle, torch.where(spread.isfinite() & (spread > 0), spread, 1.0)


def _inside(u: Tensor, low: Tensor, high: Tensor, far: Tensor, halve: bool) -> Tensor:
    """Return numbers in brackets: those that are given where they are and no half is asked for, else the middles.

    Where one end is infinite the middle is so far from the other one.
    """
    no_low, no_high = low.isinf(), high.isinf()
    middle = torch.where(no_low, high - far, torch.where(no_high, low + far, low / 2 + high / 2))
    kept = (u > low) & (u < high) & (no_low | no_high | (not halve))
    return torch.where(kept, u, torch.where(no_low & no_high, 0.0, middle))
