r"""The abstract refiner, whose steps $q_0 \to q_1 \to \dots \to q_K$ use the unlabelled queries.

`Setting` holds the facts of a batch of tasks that stay the same over the steps, `QueryState` what they make of the
queries under one posterior, and `Refiner` unrolls the path; a member of that class says what one step is. No module of
refinement ever sees a query label: the inputs are features and masks.

`SyntheticGradient` is what a refiner learns: what the gradient of the query loss would be, were the labels known.
For an exponential family the true gradient with respect to the linear predictor is $A'(\eta_i) - T(y_i)$ (over the
dispersion). Its expectation given what is known is $A'(\eta_i) - r_i$ with
$r_i = \mathbb E[T(y_i) \mid \text{what is known}]$, so the residual form learns the *belief* $r$. Every member starts
at $\xi = 0$, that is $r = A'(\eta)$: an untrained network changes nothing.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from ebmeta.foundation.checks import check
from ebmeta.foundation.softmax import log_softmax, probabilities
from ebmeta.likelihood import Given, Likelihood
from ebmeta.parts.class_prior import EQUAL
from ebmeta.parts.gaussian import Gaussian
from ebmeta.tasks.rows import Rows
from ebmeta.tasks.training_rows import TrainingRows

__all__ = ["DESIGN", "PILE", "Iterate", "QueryState", "Refiner", "Setting", "SyntheticGradient"]

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

    @cached_property
    def real_x(self) -> Tensor:
        """Features of the queries, zero for padding, shape `(T, Q, P)`."""
        return self.x if bool(self.query_mask.all()) else self.x * self.query_mask.unsqueeze(-1)

    @cached_property
    def square(self) -> Tensor:
        """Squared lengths of the features of the queries without their constant, shape `(T, Q)`."""
        return self.real_x[..., :-1].square().sum(-1)

    @cached_property
    def strength(self) -> Tensor:
        """Information in the support set: mean log ratio of the precisions of q_0 and prior, shape `(T,)`."""
        ratio = (self.q0.scale / self.prior.scale).log().mean(-1) * -2
        return (ratio * self.way_mask).sum(1) / self.way_mask.sum(1)

    @cached_property
    def equal(self) -> Tensor | None:
        """Whether queries are known to be as many of every class, and can be by their number, shape `(T,)`, or None."""
        if self.concentration is None:
            return None
        return (self.query_mask.sum(1) % self.way_mask.sum(1) == 0) & (self.concentration >= EQUAL)

    @cached_property
    def design(self) -> Tensor:
        r"""Numbers that no row has a part in, shape `(T, 3)`.

        They are whether shares are `equal`; and of $Q$ queries $1 / Q$, and the logarithm of $Q / 100$ within 1 and 15.
        """
        number = self.query_mask.sum(1).clamp(min=1).to(self.real_x.dtype)
        equal = torch.zeros_like(number) if self.equal is None else self.equal.to(number.dtype)
        return torch.stack([equal, 1 / number, (number.clamp(*PILE) / PILE[0]).log()], -1)

    @cached_property
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

    @cached_property
    def log_odds(self) -> tuple[Tensor, Tensor] | None:
        """What a joint model says of each query from all other rows (`Gaussian.log_odds`); None for other models."""
        return self.q.log_odds(self.x, self.distance)

    @cached_property
    def distance(self) -> Tensor | None:
        """Squared distances of the queries from the means of classes, shape `(T, Q, C)`; None for models of weights."""
        return self.q.distances(self.x[..., :-1], self.setting.square)

    @cached_property
    def log_var(self) -> Tensor:
        r"""Log variance of $\eta$, shape `(T, Q, C)`."""
        return self.var.clamp(min=LEAST).log()

    @cached_property
    def marginal(self) -> tuple[Tensor, Tensor]:
        r"""Location and variance of $\eta$, both of shape `(T, Q, C)`; those of `log_odds` in a joint model."""
        return self.q.marginal(self.x) if self.log_odds is None else self.log_odds

    @cached_property
    def moments(self) -> tuple[Tensor, Tensor]:
        r"""$\mathbb E[A'(\eta)]$ and $\mathbb E[A''(\eta)]$, both of shape `(T, Q, C)`."""
        if self.log_odds is not None:
            p = probabilities(self.log_mean)
            return p, p * (1 - p)
        mean, curvature = self.setting.likelihood.moments(*self.marginal, self.setting.way_mask, self.setting.given)
        return mean.to(self.loc.dtype), curvature.to(self.loc.dtype)

    @cached_property
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

    @property
    def mean(self) -> Tensor:
        r"""$\mathbb E[A'(\eta)]$, shape `(T, Q, C)`."""
        return self.moments[0]

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


@dataclass(frozen=True, eq=False)
class Iterate:
    r"""One posterior of the path.

    Args:
        q: $q_k$, from which the next step goes on.
        reported: what predictions are made of, where that is another posterior (see `ebmeta.refine.temperature`).
        log_probs: log probabilities of the classes of queries in nats, where a refiner corrects those of a joint
            model, shape `(T, Q, C)`.
    """

    q: Gaussian
    reported: Gaussian | None = None
    log_probs: Tensor | None = None

    @property
    def posterior(self) -> Gaussian:
        """The posterior that predictions use."""
        return self.q if self.reported is None else self.reported


class SyntheticGradient(nn.Module):
    r"""The abstract synthetic gradient, a map from the state of the queries to $\xi$."""

    def forward(self, state: QueryState) -> Tensor:
        r"""Return $\xi$, shape `(T, Q, C)`: the stand-in for $A'(\eta) - T(y)$."""
        raise NotImplementedError

    #: Whether `inputs` is defined.
    reads_inputs: ClassVar[bool] = False

    def inputs(self, state: QueryState) -> tuple[Tensor, Tensor]:
        r"""Return what the inputs themselves say about $w$, where `reads_inputs`.

        Returns:
            The score $\zeta \approx \sum_i \nabla_w \log p(x_i \mid w)$, shape `(T, C, P)`, and its
            information $J$, in the shape of the precision.
        """
        raise NotImplementedError


class Refiner(nn.Module):
    r"""The abstract refiner, with $K$ unrolled steps.

    Args:
        synthetic_gradient: the network $\xi$.
        num_steps: number of steps in training, $K$.

    Raises:
        ValueError: if `num_steps` is negative.
    """

    #: Whether it is a part of a joint model of inputs and labels, whose latent variables are class means.
    joint: ClassVar[bool] = False

    def __init__(self, synthetic_gradient: SyntheticGradient, num_steps: int) -> None:
        super().__init__()
        self.num_steps = _steps(num_steps)
        self.synthetic_gradient = synthetic_gradient

    def forward(self, setting: Setting, num_steps: int | None = None) -> list[Iterate]:
        r"""Return the whole path $q_0, \dots, q_K$.

        Args:
            setting: the facts of the tasks, $q_0$ among them.
            num_steps: $K$; that of training by default. Steps beyond those trained repeat the last.

        Returns:
            $K + 1$ posteriors, the initializer's first.

        Raises:
            ValueError: if `num_steps` is negative, or positive where none was trained, or a step has another shape.
        """
        steps = self.num_steps if num_steps is None else _steps(num_steps)
        if steps and not self.num_steps:
            raise ValueError(f"num_steps: this model was built with no refinement steps, got {steps}")
        state = QueryState(setting, self.start(setting))
        path = [Iterate(setting.q0, log_probs=self.first_log_probs(state) if steps else None)]
        for k in range(steps):
            trained = min(k, self.num_steps - 1)
            state = state.then(_fitting(self.step(trained, state), Gaussian, setting.q0.loc, f"step {k}", "loc"))
            path.append(Iterate(state.q, self.report(trained, state), self.log_probs(trained, state)))
        return path

    def start(self, setting: Setting) -> Gaussian:
        """Return the posterior that the first step looks at the queries with; $q_0$ by default."""
        return setting.q0

    def first_log_probs(self, state: QueryState) -> Tensor | None:
        """Return log probabilities of classes under $q_0$, `(T, Q, C)`, where the first step computes them too."""
        known = state.q is state.setting.q0 and state.log_odds is not None
        return state.log_mean if known else None

    def measure(self, rows: TrainingRows) -> TrainingRows:
        """Take what the refiner needs of training rows; nothing by default."""
        return rows

    def forget(self) -> None:
        """Reset what the end of an earlier training has fitted; nothing by default."""

    def finish(self, tasks: Iterable[tuple[Sequence[QueryState], Tensor]]) -> None:
        """Fit what is left when all else is trained; nothing by default, and then without reading the tasks.

        Args:
            tasks: labelled tasks that training has not drawn, some at a time: the state of their queries after each
                step, and their labels, shape `(T, Q)`.
        """

    def fast(self) -> Iterator[nn.Parameter]:
        """Iterate over the few numbers that training may move in larger steps than a network's weights; none here."""
        return iter(())

    def synthetic(self, state: QueryState) -> Tensor:
        r"""Return $\xi$ as a step uses it, shape `(T, Q, C)`."""
        out: Tensor = _fitting(self.synthetic_gradient(state), Tensor, state.loc, "synthetic gradient")
        return out

    def step(self, k: int, state: QueryState) -> Gaussian:
        """Return the next posterior, by step number `k` of those trained."""
        raise NotImplementedError

    def report(self, k: int, state: QueryState) -> Gaussian | None:
        """Return the posterior for predictions after step `k`, or None where it is that of the state."""
        return None

    def log_probs(self, k: int, state: QueryState) -> Tensor | None:
        """Return log probabilities of classes after step `k`, `(T, Q, C)`, or None where the posterior says them."""
        return None


def _steps(value: int) -> int:
    try:
        steps = operator.index(value)
    except TypeError:
        raise ValueError(f"num_steps: expected an integer, got {value!r}") from None
    if steps < 0:
        raise ValueError(f"num_steps: expected at least 0, got {steps}")
    return steps


def _fitting(found: Any, kind: type, like: Tensor, where: str, part: str = "") -> Any:
    value, wanted = check(f"refiner, {where}", found, kind), tuple(like.shape)
    if (got := tuple((getattr(value, part) if part else value).shape)) != wanted:
        raise ValueError(f"refiner, {where}: expected a {kind.__name__} of shape {wanted}, got {got}")
    return value


def _once(known: dict[Callable[[QueryState], Any], Any], read: Callable[[QueryState], Read], state: QueryState) -> Read:
    if read not in known:
        known[read] = read(state)
    return known[read]  # type: ignore[no-any-return]
