r"""Refinement by natural-gradient steps with a synthetic gradient in place of the true one.

Step $k$ descends
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

Where a likelihood of numbers is not normal, the average of $A''$ over a wide $q$ can be any number of times that of its
middle, as of counts: $\mathbb E\, e^\eta = e^{m + v/2}$. The sum over queries then has the factor
$\min(1, 30 / (\max(|s_k|, 0.01)\, t))$ with
$t = \sum_i \tfrac{1}{\varphi} \mathbb E[A''(\eta_i)]\, \mathrm{Var}\, \eta_i$, the trace of what it adds relative to
$\Lambda_k$, and $\rho_k$ is cut so that no linear predictor moves by more than 2, as in the initializer.
"""

from __future__ import annotations

import torch
from torch import nn

from ebmeta.parts.gaussian import Gaussian
from ebmeta.refine.base import Refiner, SyntheticGradient
from ebmeta.refine.state import QueryState

__all__ = ["GradientRefiner"]

MOST = 30.0  # trace of what queries add relative to the precision
SMALL = 0.01  # least size of a step for that: sizes begin at 0
FARTHEST = 2.0  # that a linear predictor may move, as in the initializer


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

    def step(self, k: int, state: QueryState) -> Gaussian:
        q, setting, curvature = state.q, state.setting, state.curvature
        prior, beta = setting.prior, setting.beta
        weight = (setting.query_mask.unsqueeze(-1) / setting.likelihood.dispersion(setting.given)).to(state.x.dtype)
        bounded = not (setting.likelihood.conjugate or setting.likelihood.categorical)
        if bounded:
            told = (curvature * weight * state.var).sum(1, keepdim=True) * self.precision_step[k].abs().clamp(min=SMALL)
            weight = weight * (MOST / told.clamp(min=MOST))
        xi = self.synthetic(state)
        growth = q.gram(state.x, curvature * weight) + beta * (prior.precision - q.precision)
        growth = self.precision_step[k] * growth
        slope = (xi * weight).mT @ state.x
        if self.input_step is not None:
            score, information = self.synthetic_gradient.inputs(state)
            growth, slope = growth + self.input_step[k] * information, slope - score
        q_next = q.with_(q.loc, q.retract(growth))
        slope = slope + beta * self.prior_pull[k] * prior.times(q.loc - prior.loc)
        move = self.log_step[k].exp() * q_next.solve(slope)
        if bounded:
            reach = (state.x @ move.mT).abs().amax((1, 2))
            move = move * (FARTHEST / reach.clamp(min=FARTHEST))[:, None, None]
        return q.with_(q.loc - move, q_next.precision)
