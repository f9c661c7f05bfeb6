r"""The abstract refiner, whose steps $q_0 \to q_1 \to \dots \to q_K$ use the unlabelled queries.

`Refiner` unrolls the path; a member of that class says what one step makes of the state of the queries
(`ebmeta.refine.state`).

`SyntheticGradient` is what a refiner learns: what the gradient of the query loss would be, were the labels known.
For an exponential family the true gradient with respect to the linear predictor is $A'(\eta_i) - T(y_i)$ (over the
dispersion). Its expectation given what is known is $A'(\eta_i) - r_i$ with
$r_i = \mathbb E[T(y_i) \mid \text{what is known}]$, so the residual form learns the *belief* $r$. Every member starts
at $\xi = 0$, that is $r = A'(\eta)$: an untrained network changes nothing.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ebmeta.foundation.checks import check
from ebmeta.parts.gaussian import Gaussian
from ebmeta.refine.state import QueryState, Setting
from ebmeta.tasks.training_rows import TrainingRows

__all__ = ["Iterate", "Refiner", "SyntheticGradient"]


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

    _compiled: Callable[[Setting, int], list[Iterate]] | None = None

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
        compiled = self._compiled if torch.is_grad_enabled() and not self.calibrated else None
        return (compiled or self._path)(setting, steps)

    def _path(self, setting: Setting, steps: int) -> list[Iterate]:
        state = QueryState(setting, self.start(setting))
        path = [Iterate(setting.q0, log_probs=self.first_log_probs(state) if steps else None)]
        for k in range(steps):
            trained = min(k, self.num_steps - 1)
            state = state.then(_fitting(self.step(trained, state), Gaussian, setting.q0.loc, f"step {k}", "loc"))
            said, before = self.log_probs(trained, state), path[-1].log_probs
            if k and said is not None and before is not None:
                said = self.averaged(k + 1, said, before, state)
            path.append(Iterate(state.q, self.report(trained, state), said))
        return path

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the path of training, with the options of `torch.compile`; predictions and copies go on without."""
        self._compiled = torch.compile(self._path, *args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        kept: dict[str, Any] = super().__getstate__()  # type: ignore[no-untyped-call]  # torch states no type
        return {name: value for name, value in kept.items() if name != "_compiled"}

    @property
    def calibrated(self) -> bool:
        """Whether the end of a training has fitted a correction of predictions; never by default."""
        return False

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

    def averaged(self, number: int, log_probs: Tensor, before: Tensor, state: QueryState) -> Tensor:
        """Return what is predicted after some steps, `(T, Q, C)`; by default what the last of them says.

        Args:
            number: of steps, at least 2.
            log_probs: log probabilities of classes by the last step, in nats, shape `(T, Q, C)`.
            before: what was predicted after the step before, same shape.
            state: that of the queries.
        """
        return log_probs


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
