"""The mean of a softmax of Gaussian logits by a mean-field approximation."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

__all__ = ["NEVER", "mean_field_softmax"]

NEVER = -1e30  # a logit that no class can win with, finite so that 0 * NEVER stays 0
CACHE = 2**17  # pairs of classes per pass: fits a processor's cache
MOST = 2**22  # pairs of classes whose gradients are kept; beyond, they are computed again when asked for


def mean_field_softmax(loc: Tensor, var: Tensor, way_mask: Tensor) -> Tensor:
    r"""Return an approximation of $\mathbb E[\mathrm{softmax}(\eta)]$ for independent $\eta_c \sim N(m_c, v_c)$.

    $$ p_c \propto \Big[ \sum_j \exp \frac{m_j - m_c}{\sqrt{1 + \pi (v_j + v_c) / 8}} \Big]^{-1} $$

    Source: Lu, Ie and Sha 2020, Mean-field approximation to Gaussian-softmax integral.

    Args:
        loc: $m$, shape `(T, Q, C)`.
        var: $v$, shape `(T, Q, C)`.
        way_mask: True where a class exists, shape `(T, C)`.

    Returns:
        Probabilities of the same shape; zero for padded ways.

    Examples:
        >>> p = mean_field_softmax(torch.tensor([[[2.0, 0.0]]]), torch.zeros(1, 1, 2), torch.ones(1, 2).bool())
        >>> round(p[0, 0, 0].item(), 4)  # 1 / (1 + exp(-2))
        0.8808
    """
    real = way_mask.unsqueeze(-2).expand(loc.shape)
    ways = loc.shape[-1]
    with_gradients = torch.is_grad_enabled() and (loc.requires_grad or var.requires_grad)
    if with_gradients and loc.numel() * ways <= MOST:
        score = _score(loc, var, real, slice(None))
    else:
        rows = tuple(v.reshape(-1, ways) for v in (loc, var, real))
        score = (_again(*rows) if with_gradients else _in_passes(*rows)).view(loc.shape)
    return torch.softmax(score.masked_fill(~real, NEVER), -1)


def _score(loc: Tensor, var: Tensor, real: Tensor, own: slice) -> Tensor:
    """Return the log of the brackets' inverse for some classes, shape `(..., len(own))`, or for all, `(..., C)`."""
    gap = loc.unsqueeze(-2) - loc[..., own].unsqueeze(-1)
    gap = gap * torch.rsqrt(1 + math.pi / 8 * (var.unsqueeze(-2) + var[..., own].unsqueeze(-1)))
    if torch.compiler.is_compiling() or not bool(real.all()):
        gap = gap.masked_fill(~real.unsqueeze(-2), NEVER)
    return -torch.logsumexp(gap, -1)


def _in_passes(loc: Tensor, var: Tensor, real: Tensor) -> Tensor:
    ways, out = loc.shape[-1], torch.empty_like(loc)
    rows, classes = max(1, CACHE // ways**2), max(1, min(ways, CACHE // ways))
    for i in range(0, len(loc), rows):
        m, v, exists = (value[i : i + rows] for value in (loc, var, real))
        for j in range(0, ways, classes):
            out[i : i + rows, j : j + classes] = _score(m, v, exists, slice(j, j + classes))
    return out


def _again(loc: Tensor, var: Tensor, real: Tensor) -> Tensor:
    rows = max(1, MOST // loc.shape[-1] ** 2)
    parts = zip(*(torch.split(v, rows) for v in (loc, var, real)), strict=True)
    each = [checkpoint(_score, *p, slice(None), use_reentrant=False, preserve_rng_state=False) for p in parts]
    return torch.cat(each)
