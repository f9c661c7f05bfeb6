"""A figure of the path of a posterior in the plane of two weights, over the exact density."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ebmeta.foundation.checks import between, checked
from ebmeta.parts.gaussian import Gaussian
from ebmeta.plots.axes import axes_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["ellipse", "posterior_path"]

POINTS = 200  # of an ellipse, and of each side of the grid under it


@checked(mass=between(0, 1))
def ellipse(q: Gaussian, task: int = 0, weights: tuple[int, int] = (0, 1), mass: float = 0.9) -> np.ndarray:
    r"""Return the ellipse that holds a share of the joint marginal of two weights.

    $$ (v - m)^\top \Sigma^{-1} (v - m) = -2 \log(1 - \text{mass}) $$

    Args:
        q: a Gaussian of one output, shape `(T, 1, P)`.
        task: which task.
        weights: which two weights.
        mass: probability inside, in (0, 1).

    Returns:
        Points $v$ on the ellipse, shape `(200, 2)`.

    Raises:
        ValueError: if `mass` is not in (0, 1).
    """
    tasks, _, size = q.loc.shape
    if not 0 <= task < tasks:
        raise ValueError(f"task: expected a number below {tasks}, got {task}")
    if not (all(0 <= w < size for w in weights) and weights[0] != weights[1]):
        raise ValueError(f"weights: expected two of {size} weights, numbered from 0, got {weights}")
    chosen = list(weights)
    with torch.no_grad():
        columns = [q.solve(torch.eye(q.loc.shape[-1], dtype=q.loc.dtype)[k].expand_as(q.loc)) for k in chosen]
        covariance = torch.stack([c[task, 0, chosen] for c in columns], -1).double().numpy()
        loc = q.loc[task, 0, chosen].double().numpy()
    angle = np.linspace(0, 2 * math.pi, POINTS)
    circle = math.sqrt(-2 * math.log1p(-mass)) * np.stack([np.cos(angle), np.sin(angle)], -1)
    return np.asarray(loc + circle @ np.linalg.cholesky(covariance).T)


@checked(mass=between(0, 1))
def posterior_path(
    path: Sequence[Gaussian],
    log_density: Callable[[Tensor], Tensor] | None = None,
    task: int = 0,
    weights: tuple[int, int] = (0, 1),
    mass: float = 0.9,
    ax: Axes | None = None,
) -> Axes:
    r"""Plot the ellipses of $q_0, \dots, q_K$ for two weights of one task, over the exact posterior's density.

    Args:
        path: what `EmpiricalBayes.posterior` returned, of one output.
        log_density: the exact log density of the two weights for points of shape `(T, N, 2)`, shape `(T, N)`.
        task: which task.
        weights: which two weights.
        mass: probability inside each ellipse.
        ax: where to draw; a new figure by default.

    Returns:
        The axes, with a dot at each location.

    Raises:
        ValueError: if the path is empty.
    """
    import seaborn as sns

    if not path:
        raise ValueError("path: expected at least one Gaussian, got none")
    ax = axes_or_new(ax, height=4.4)
    rings = [ellipse(q, task, weights, mass) for q in path]
    low, high = np.concatenate(rings).min(0), np.concatenate(rings).max(0)
    margin = 0.05 * (high - low)
    if log_density is not None:
        x, y = (np.linspace(a, b, POINTS) for a, b in zip(low - margin, high + margin, strict=True))
        grid = torch.from_numpy(np.stack(np.meshgrid(x, y), -1).reshape(1, -1, 2))
        value = log_density(grid.expand(len(path[0].loc), -1, -1))[task].reshape(POINTS, POINTS).numpy()
        levels = np.linspace(0.05, 1, 8)
        ax.contourf(x, y, np.exp(value - value.max()), levels=levels, cmap=sns.light_palette("0.35", as_cmap=True))
    for k, (q, ring, color) in enumerate(zip(path, rings, sns.color_palette("flare", len(path)), strict=True)):
        loc = q.loc[task, 0].detach().double().numpy()[list(weights)]
        ax.plot(*ring.T, color=color, linewidth=1.5, label=f"$q_{{{k}}}$")
        ax.plot(*loc, "o", color=color, markersize=4)
    ax.set(xlabel=f"$w_{weights[0] + 1}$", ylabel=f"$w_{weights[1] + 1}$", aspect="equal")
    ax.legend(frameon=False, loc="upper right")
    sns.despine(ax=ax)
    return ax
