r"""What refinement knows: the facts of a batch of tasks, and what they make of the queries under one posterior.

No module of refinement ever sees a query label: the inputs are features and masks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from ebmeta.foundation.anywhere import anywhere
from ebmeta.foundation.lazy import lazy
from ebmeta.foundation.softmax import log_softmax, probabilities
from ebmeta.likelihood import Given, Likelihood
from ebmeta.parts.class_prior import EQUAL
from ebmeta.parts.gaussian import Gaussian
from ebmeta.tasks.rows import Rows

__all__ = ["DESIGN", "PILE", "QueryState", "Setting"]

Read = TypeVar("Read")
LEAST = 1e-12  # of a variance
DESIGN = 3  # numbers of `Setting.design`
PILE = 100, 1500  # queries of a task: as many are a pile, and no more were looked at where temperatures are fitted


@dataclass(frozen=True, eq=False)
class Setting:
    r"""The facts of a batch of tasks that refinement and predictions need, the same for every step.

    Args:
        q0: $q_0$, shape `(T, C, P)`.
        prior: $p_\psi$, shape `(T, C, P)`.
        likelihood: $p(y \mid \eta)$.
        x: features of the queries, of any value for padding, shape `(T, Q, P)`.
        query_mask: True where a query is real, shape `(T, Q)`.
        way_mask: True where a class exists, shape `(T, C)`.
        beta: information-bottleneck weight $\beta$.
        given: what else is known of the queries.
        concentration: what is known of their class proportions, shape `(T,)` (see `TaskBatch`), or None.
        unknown: how many of the last classes are unknown ones, for queries of none of the others.
        support: labelled rows, with features `(T, S, P)` for inputs, or None.
    """

    q0: Gaussian
    prior: Gaussian
    likelihood: Likelihood
    x: Tensor
    query_mask: Tensor
    way_mask: Tensor
    beta: float
    given: Given = field(default_factory=Given)
    concentration: Tensor | None = None
    unknown: int = 0
    support: Rows | None = None

    @lazy
    def real_x(self) -> Tensor:
        """Features of the queries, zero for padding, shape `(T, Q, P)`."""
        padded = torch.compiler.is_compiling() or anywhere(~self.query_mask)
        return self.x * self.query_mask.unsqueeze(-1) if padded else self.x

    @lazy
    def square(self) -> Tensor:
        """Squared lengths of the features of the queries without their constant, shape `(T, Q)`."""
        return self.real_x[..., :-1].square().sum(-1)

    @lazy
    def strength(self) -> Tensor:
        """Information in the support set: mean log ratio of the precisions of q_0 and prior, shape `(T,)`."""
        ratio = (self.q0.scale / self.prior.scale).log().mean(-1) * -2
        return (ratio * self.way_mask).sum(1) / self.way_mask.sum(1)

    @lazy
    def equal(self) -> Tensor | None:
        """Whether queries are known to be as many of every class, and can be by their number, shape `(T,)`, or None."""
        if self.concentration is None:
            return None
        return (self.query_mask.sum(1) % self.way_mask.sum(1) == 0) & (self.concentration >= EQUAL)

    @lazy
    def design(self) -> Tensor:
        r"""Numbers that no row has a part in, shape `(T, 3)`.

        They are whether shares are `equal`; and of $Q$ queries $1 / Q$, and the logarithm of $Q / 100$ within 1 and 15.
        """
        number = self.query_mask.sum(1).clamp(min=1).to(self.real_x.dtype)
        equal = torch.zeros_like(number) if self.equal is None else self.equal.to(number.dtype)
        return torch.stack([equal, 1 / number, (number.clamp(*PILE) / PILE[0]).log()], -1)

    @lazy
    def balance(self) -> tuple[Tensor, Tensor]:
        r"""Whether the concentration $a$ of class proportions is known, and $a / (1 + a)$ or 0; shape `(T, 1)`."""
        unknown = self.strength.new_full(self.strength.shape, math.nan)
        a = (unknown if self.concentration is None else self.concentration.to(unknown)).unsqueeze(1)
        known = (~a.isnan()).to(self.strength.dtype)
        return known, torch.where(a.isnan(), 0.0, 1 - 1 / (1 + a))


@dataclass(frozen=True, eq=False)
class QueryState:
    r"""What is known of the queries under one posterior, without labels. Each value is computed at its first use.

    Args:
        setting: the facts that do not change.
        q: the posterior so far, shape `(T, C, P)`.
    """

    setting: Setting
    q: Gaussian
    _path: dict[Callable[[QueryState], Any], Any] = field(default_factory=dict, repr=False)
    _known: dict[Callable[[QueryState], Any], Any] = field(init=False, default_factory=dict, repr=False)

    @property
    def x(self) -> Tensor:
        r"""Query features $\phi(x^q)$, zero for padding, shape `(T, Q, P)`."""
        return self.setting.real_x

    @lazy
    def log_odds(self) -> tuple[Tensor, Tensor] | None:
        """What a joint model says of each query from all other rows (`Gaussian.log_odds`); None for other models."""
        return self.q.log_odds(self.x, self.distance)

    @lazy
    def distance(self) -> Tensor | None:
        """Squared distances of the queries from the means of classes, shape `(T, Q, C)`; None for models of weights."""
        return self.q.distances(self.x[..., :-1], self.setting.square)

    @lazy
    def log_var(self) -> Tensor:
        r"""Log variance of $\eta$, shape `(T, Q, C)`."""
        return self.var.clamp(min=LEAST).log()

    @lazy
    def marginal(self) -> tuple[Tensor, Tensor]:
        r"""Location and variance of $\eta$, both of shape `(T, Q, C)`; those of `log_odds` in a joint model."""
        return self.q.marginal(self.x) if self.log_odds is None else self.log_odds

    @lazy
    def moments(self) -> tuple[Tensor, Tensor]:
        r"""$\mathbb E[A'(\eta)]$ and $\mathbb E[A''(\eta)]$, both of shape `(T, Q, C)`."""
        if self.log_odds is not None:
            return self.mean, self.mean * (1 - self.mean)
        mean, curvature = self.setting.likelihood.moments(*self.marginal, self.setting.way_mask, self.setting.given)
        return mean.to(self.loc.dtype), curvature.to(self.loc.dtype)

    @lazy
    def log_mean(self) -> Tensor:
        """Log of `mean` where labels are classes, shape `(T, Q, C)`."""
        return self.mean.clamp(min=LEAST).log() if self.log_odds is None else log_softmax(self.log_odds[0])

    @property
    def loc(self) -> Tensor:
        r"""Location of $\eta$, shape `(T, Q, C)`."""
        return self.marginal[0]

    @property
    def var(self) -> Tensor:
        r"""Variance of $\eta$, shape `(T, Q, C)`."""
        return self.marginal[1]

    @lazy
    def mean(self) -> Tensor:
        r"""$\mathbb E[A'(\eta)]$, shape `(T, Q, C)`."""
        return self.moments[0] if self.log_odds is None else probabilities(self.log_mean)

    @property
    def curvature(self) -> Tensor:
        r"""$\mathbb E[A''(\eta)]$, shape `(T, Q, C)`."""
        return self.moments[1]

    def once(self, read: Callable[[QueryState], Read]) -> Read:
        """Return the value of a function of this state, which is called once."""
        return _once(self._known, read, self)

    def once_a_path(self, read: Callable[[QueryState], Read]) -> Read:
        """Return the value of a function that is the same for all states of a path, which is called once."""
        return _once(self._path, read, self)

    def then(self, q: Gaussian) -> QueryState:
        """Return the next state of the path, under another posterior."""
        return QueryState(self.setting, q, self._path)


def _once(known: dict[Callable[[QueryState], Any], Any], read: Callable[[QueryState], Read], state: QueryState) -> Read:
    if read not in known:
        known[read] = read(state)
    return known[read]  # type: ignore[no-any-return]
