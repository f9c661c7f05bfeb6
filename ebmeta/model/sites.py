"""Sample sites of the Pyro programs, which refuse values of another shape or type that a handler has put there."""

from __future__ import annotations

from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.ops.provenance import detach_provenance
from torch import Tensor

from ebmeta.foundation.checks import found
from ebmeta.foundation.kinds import is_tracing
from ebmeta.likelihood import Likelihood
from ebmeta.tasks.rows import Rows

__all__ = ["fitting", "sample", "sample_labels"]


class _Look(poutine.messenger.Messenger):  # type: ignore[misc]  # Pyro ships no types
    """A handler that knows whether the value of a site was given, by the program or by another handler."""

    given = False

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        self.given = bool(msg["is_observed"])


def sample(name: str, law: TorchDistributionMixin, num_tasks: int, obs: Tensor | None = None) -> Tensor:
    """Sample a site within the plate of tasks.

    Args:
        name: of the site.
        law: its distribution, of batch shape `(T,)` or `()`.
        num_tasks: $T$.
        obs: the value where it is observed.

    Raises:
        ValueError: if a handler has put a value of another shape there: Pyro itself repeats values that are too small.
    """
    return fitting(name, pyro.sample(name, law, obs=obs), (num_tasks, *law.event_shape))


def fitting(name: str, value: Any, shape: tuple[int, ...]) -> Tensor:
    """Return the value of a site, whose last axes have this shape; outer plates may stand before them.

    Raises:
        ValueError: if it has another shape, or is no tensor.
    """
    if not isinstance(value, Tensor):
        raise ValueError(f"site {name!r}: expected a tensor, got {found(value)}")
    if not is_tracing() and value.shape[max(0, value.dim() - len(shape)) :] != shape:
        got = tuple(value.shape)
        raise ValueError(f"site {name!r}: expected a value of shape {shape}, or outer plates before it, got {got}")
    return value


def sample_labels(name: str, law: TorchDistributionMixin, rows: Rows, likelihood: Likelihood, way_mask: Tensor) -> None:
    """Sample the labels of rows, or observe them where they are known.

    Args:
        name: of the site.
        law: distribution of labels, shape `(T, N)`.
        rows: the rows; padding does not count.
        likelihood: what kind of labels they are.
        way_mask: True where a class exists, shape `(T, C)`.

    Raises:
        ValueError: if a handler has put labels there that the likelihood cannot have.
    """
    law = law.mask(rows.mask).to_event(1)
    with _Look() as look:
        value = sample(name, law, len(rows.mask), rows.y)
    if not look.given or is_tracing() or detach_provenance(value) is rows.y:
        return
    if value.is_floating_point() == likelihood.categorical:
        wanted = "whole numbers of classes" if likelihood.categorical else "real numbers"
        raise ValueError(f"site {name!r}: expected {wanted}, got {value.dtype}")
    for y in value.detach().reshape(-1, *rows.mask.shape):
        if likelihood.categorical:
            there = torch.cat([way_mask, way_mask.new_zeros(len(y), 1)], 1)
            known = there.gather(1, torch.where(y < 0, way_mask.shape[1], y.clamp(max=way_mask.shape[1])))
            if bool((rows.mask & ~known).any()):
                raise ValueError(f"site {name!r}: expected numbers of classes that a task has, got others")
        likelihood.check(f"site {name!r}", y, rows.mask, rows.size)
