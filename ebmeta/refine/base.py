r"""Refinement: $q_0 \to q_1 \to \dots \to q_K$ on the unlabelled queries.

`Refiner` unrolls the path; a member says what one step is. `GradientRefiner`, below, is the general one;
`ebmeta.refine.mixture.MixtureRefiner` is made for classes. No module of refinement ever sees a query label: the
inputs are features and masks.

Step $k$ of `GradientRefiner` descends
$F(q) = \sum_i \mathbb E_q[-\log p(y_i \mid \eta_i)] + \beta\,\mathrm{KL}(q \Vert p_\psi)$ along its
natural gradient, with the synthetic $\xi$ in place of the gradient that would need the labels:

$$ G_k = s_k \Big[ \sum_i \tfrac{1}{\varphi} \mathbb E[A''(\eta_i)]\, x_i x_i^\top
   + \beta\,(\Lambda_0 - \Lambda_k) \Big] + \nu_k J_k, \qquad
   \Lambda_{k+1} = \Lambda_k + G_k + \tfrac12 G_k \Lambda_k^{-1} G_k, $$

$$ m_{k+1} = m_k - \rho_k \Lambda_{k+1}^{-1} \Big[ \sum_i \tfrac{1}{\varphi} x_i\, \xi_i
   + \beta \kappa_k\, \Lambda_0 (m_k - \mu) - \zeta_k \Big]. $$

By the theorems of Bonnet and Price these are the gradients of $F$ with respect to the mean and the
covariance (for classes up to the approximation of $\mathbb E[A']$ and $\mathbb E[A'']$ by `moments`); the
second does not contain the labels, so only the first needs a synthetic gradient. The quadratic term
keeps the precision positive definite for a step of any size and sign (Lin, Schmidt and Khan 2020,
Handling the positive-definite constraint in the Bayesian learning rule).
$\rho_k, \kappa_k, s_k, \nu_k$ are learned. $\zeta_k$ and $J_k$ are what the inputs themselves say about $w$,
for synthetic gradients that read them. $\kappa_k = s_k = \nu_k = 0$ and $\xi = \zeta = 0$ at the start, so
zero training means no refinement.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from ebmeta.likelihood import Given, Likelihood
from ebmeta.parts.gaussian import Gaussian
from ebmeta.refine.synthetic_gradient import QueryState, SyntheticGradient
from ebmeta.tasks.training_rows import TrainingRows

__all__ = ["GradientRefiner", "Refiner", "Setting"]


@dataclass(frozen=True, eq=False)
class Setting:
    r"""What stays the same over the steps.

    Args:
        q0: $q_0$, shape `(T, C, P)`.
        prior: $p_\psi$, shape `(T, C, P)`.
        likelihood: $p(y \mid \eta)$.
        x: features of the queries, zero for padding, shape `(T, Q, P)`.
        query_mask: True where a query is real, shape `(T, Q)`.
        way_mask: True where a class exists, shape `(T, C)`.
        beta: information-bottleneck weight $\beta$.
        given: what else is known of the queries.
        concentration: what is known of their class proportions, shape `(T,)` (see `TaskBatch`), or None.
    """

    q0: Gaussian
    prior: Gaussian
    likelihood: Likelihood
    x: Tensor
    query_mask: Tensor
    way_mask: Tensor
    beta: float
    given: Given | None = None
    concentration: Tensor | None = None

    def state(self, q: Gaussian) -> tuple[QueryState, Tensor]:
        r"""Return what the synthetic gradient is told of the queries under `q`, and $\mathbb E[A''(\eta)]$."""
        loc, var = q.marginal(self.x)
        mean, curvature = (v.to(loc.dtype) for v in self.likelihood.moments(loc, var, self.way_mask, self.given))
        masks = self.query_mask, self.way_mask
        return QueryState(q, self.x, loc, var, mean, *masks, self.strength, curvature, self.concentration), curvature

    @cached_property
    def strength(self) -> Tensor:
        """How much the support set has said: mean log ratio of the precisions of q_0 and prior, shape `(T,)`."""
        ratio = (self.q0.scale / self.prior.scale).log().mean(-1) * -2
        return (ratio * self.way_mask).sum(1) / self.way_mask.sum(1)


def _steps(value: int) -> int:
    try:
        steps = operator.index(value)
    except TypeError:
        raise ValueError(f"num_steps: expected an integer, got {value!r}") from None
    if steps < 0:
        raise ValueError(f"num_steps: expected at least 0, got {steps}")
    return steps


class Refiner(nn.Module):
    r"""Base class: K unrolled refinement steps.

    Args:
        synthetic_gradient: the network $\xi$.
        num_steps: number of steps in training, $K$.

    Raises:
        ValueError: if `num_steps` is negative.
    """

    def __init__(self, synthetic_gradient: SyntheticGradient, num_steps: int) -> None:
        super().__init__()
        self.num_steps = _steps(num_steps)
        self.synthetic_gradient = synthetic_gradient

    def forward(
        self,
        q: Gaussian,
        prior: Gaussian,
        likelihood: Likelihood,
        query_x: Tensor,
        query_mask: Tensor,
        way_mask: Tensor,
        beta: float,
        num_steps: int | None = None,
        given: Given | None = None,
        concentration: Tensor | None = None,
    ) -> list[Gaussian]:
        r"""Return the whole path $q_0, \dots, q_K$.

        Args:
            q: $q_0$, shape `(T, C, P)`.
            prior: $p_\psi$, shape `(T, C, P)`.
            likelihood: $p(y \mid \eta)$.
            query_x: features of the queries, shape `(T, Q, P)`.
            query_mask: True where a query is real, shape `(T, Q)`.
            way_mask: True where a class exists, shape `(T, C)`.
            beta: information-bottleneck weight $\beta$.
            num_steps: $K$; that of training by default. Steps beyond those trained repeat the last.
            given: what else is known of the queries.
            concentration: what is known of their class proportions, shape `(T,)`, or None.

        Returns:
            $K + 1$ Gaussians, the initializer's first.

        Raises:
            ValueError: if `num_steps` is negative, or positive where none was trained.
        """
        steps = self.num_steps if num_steps is None else _steps(num_steps)
        if steps and not self.num_steps:
            raise ValueError(f"num_steps: this model was built with no refinement steps, got {steps}")
        x = query_x * query_mask.unsqueeze(-1)
        setting = Setting(q, prior, likelihood, x, query_mask, way_mask, beta, given, concentration)
        return self.unroll(q, setting, steps)

    def measure(self, rows: TrainingRows) -> TrainingRows:
        """Take what the refiner needs of training rows; nothing by default."""
        return rows

    def forget(self) -> None:
        """Forget what the end of an earlier training has fitted; nothing by default."""

    def quick(self) -> Iterator[nn.Parameter]:
        """Iterate over the few numbers that training may move in larger steps than a network's weights; none here."""
        return iter(())

    def unroll(self, q: Gaussian, setting: Setting, steps: int) -> list[Gaussian]:
        """Return the path of so many steps from `q`: what predictions are made of."""
        return self.trail(q, setting, steps)

    def trail(self, q: Gaussian, setting: Setting, steps: int) -> list[Gaussian]:
        """Return the posteriors from which the steps start, and the last: the path, but for what changes it alone."""
        path = [q]
        for k in range(steps):
            path.append(self.step(min(k, self.num_steps - 1), path[-1], setting))
        return path

    def step(self, k: int, q: Gaussian, setting: Setting) -> Gaussian:
        """Return the next posterior, after step number `k` of those trained."""
        raise NotImplementedError


class GradientRefiner(Refiner):
    r"""Natural-gradient steps with the synthetic $\xi$; step sizes are learned, one of each kind per step.

    Args:
        synthetic_gradient: the network $\xi$.
        num_steps: number of steps in training, $K$.
        step: initial size of the mean's step, $\rho_k$.

    Raises:
        ValueError: if `num_steps` is negative.
    """

    def __init__(self, synthetic_gradient: SyntheticGradient, num_steps: int, step: float = 1.0) -> None:
        super().__init__(synthetic_gradient, num_steps)
        self.log_step = nn.Parameter(torch.full((num_steps,), step).log())
        self.prior_pull = nn.Parameter(torch.zeros(num_steps))
        self.precision_step = nn.Parameter(torch.zeros(num_steps))
        self.input_step = nn.Parameter(torch.zeros(num_steps)) if synthetic_gradient.reads_inputs else None

    def step(self, k: int, q: Gaussian, setting: Setting) -> Gaussian:
        (state, curvature), beta, prior = setting.state(q), setting.beta, setting.prior
        weight = (setting.query_mask.unsqueeze(-1) / setting.likelihood.dispersion(setting.given)).to(setting.x.dtype)
        xi = self.synthetic_gradient(state)
        growth = q.gram(setting.x, curvature * weight) + beta * (prior.precision - q.precision)
        growth = self.precision_step[k] * growth
        slope = (xi * weight).mT @ setting.x
        if self.input_step is not None:
            score, information = self.synthetic_gradient.inputs(state)
            growth, slope = growth + self.input_step[k] * information, slope - score
        q_next = q.with_(q.loc, q.retract(growth))
        slope = slope + beta * self.prior_pull[k] * prior.times(q.loc - prior.loc)
        return q.with_(q.loc - self.log_step[k].exp() * q_next.solve(slope), q_next.precision)
