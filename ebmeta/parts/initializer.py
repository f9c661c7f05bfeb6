r"""The amortized initializer $q_0 = \lambda(d^s)$, a posterior from the support set alone.

Three members, all exact for a linear-Gaussian model, all made of sums over support points and therefore
permutation-invariant, and all equal to the prior where a class has no support:

- `ClassInitializer` (class means): the posterior of the joint model of inputs and labels, exact.
- `PrototypeInitializer` (class weights): each labelled feature vector is a noisy look at its
  class's weight vector, so the location is a prototype shrunk towards the learned prior.
- `ConjugateInitializer` (one number per row): Bayesian linear regression under the learned prior, and where the
  likelihood is not normal the best Gaussian, by natural-gradient steps.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from ebmeta.likelihood import Given, Likelihood
from ebmeta.parts.class_gaussian import ClassGaussian
from ebmeta.parts.gaussian import Gaussian
from ebmeta.parts.widths import AMPLITUDE, Widths, class_widths
from ebmeta.tasks.training_rows import TrainingRows

__all__ = ["ClassInitializer", "ConjugateInitializer", "Initializer", "PrototypeInitializer"]


MODE_STEPS = 5  # steps that go to the mode, before those that find the best Gaussian


class Initializer(nn.Module, ABC):
    """The abstract initializer, a map from prior and support set to a Gaussian."""

    #: Whether it is a part of a joint model of inputs and labels, whose latent variables are class means.
    joint: ClassVar[bool] = False

    @abstractmethod
    def forward(
        self,
        prior: Gaussian,
        likelihood: Likelihood,
        x: Tensor,
        y: Tensor,
        mask: Tensor,
        given: Given | None = None,
    ) -> Gaussian:
        r"""Return $q_0$.

        Args:
            prior: $p_\psi(w_t)$, shape `(T, C, P)`.
            likelihood: $p(y \mid \eta)$.
            x: support features, shape `(T, S, P)`.
            y: support labels, shape `(T, S)`.
            mask: True where a support row is real, shape `(T, S)`.
            given: what else is known of the support rows.

        Returns:
            A Gaussian of the prior's family, shape `(T, C, P)`.
        """

    def measure(self, rows: TrainingRows) -> TrainingRows:
        """Take what the initializer needs of training rows; nothing by default."""
        return rows


class ClassInitializer(Initializer):
    r"""The exact posterior of class means given labelled inputs (`ebmeta.parts.class_gaussian`).

    $$ \Lambda_c = \frac1b + \frac{n_c}{s}, \qquad
       m_c = \Lambda_c^{-1} \Big( \frac{\mu}{b} + \frac1s \sum_{i : y_i = c} x_i \Big) $$

    Class proportions stay as in the prior: how many labelled rows a class has was chosen, and says nothing of them.
    """

    joint = True

    def forward(
        self,
        prior: Gaussian,
        likelihood: Likelihood,
        x: Tensor,
        y: Tensor,
        mask: Tensor,
        given: Given | None = None,
    ) -> Gaussian:
        real = mask.unsqueeze(-1)
        member = likelihood.statistic(y, prior.loc.shape[1]) * real
        return cast(ClassGaussian, prior).given(x[..., :-1] * real, member.to(x.dtype))


class PrototypeInitializer(Initializer):
    r"""Class weights inferred from their examples, each a noisy look at the weights of its class.

    $$ a\,\phi(x_i) \mid w \sim \mathcal N(w_{y_i}, \mathrm{diag}(\lambda)^{-1}), $$

    $$ \Lambda_c = \Lambda_0 + n_c \lambda, \qquad
       m_c = \Lambda_c^{-1} \Big( \Lambda_0 \mu + \lambda\, a \sum_{i : y_i = c} \phi(x_i) \Big) $$

    Args:
        num_weights: weights per class, $P$.
        amplitude: initial value of $a$.
        precision: initial value of every $\lambda_p$.
        widths: "trained", or "measured" on training classes and kept (`ebmeta.parts.widths`).
    """

    def __init__(
        self, num_weights: int, amplitude: float = 10.0, precision: float = 4.0, *, widths: Widths = "trained"
    ) -> None:
        super().__init__()
        self.widths = widths
        self.log_amplitude = nn.Parameter(torch.tensor(math.log(amplitude)))
        self.log_precision = nn.Parameter(torch.full((num_weights,), math.log(precision)))
        self.requires_grad_(widths == "trained")

    @torch.no_grad()
    def measure(self, rows: TrainingRows) -> TrainingRows:
        if self.widths == "measured":
            about, _ = class_widths(rows)
            self.log_amplitude.fill_(math.log(AMPLITUDE))
            self.log_precision[:-1] = -about.log()
        return rows

    def forward(
        self,
        prior: Gaussian,
        likelihood: Likelihood,
        x: Tensor,
        y: Tensor,
        mask: Tensor,
        given: Given | None = None,
    ) -> Gaussian:
        member = likelihood.statistic(y, prior.loc.shape[1]).to(x.dtype) * mask.unsqueeze(-1)
        looks = self.log_precision.exp()
        total = self.log_amplitude.exp() * (member.mT @ x)
        precision = prior.precision + member.sum(1).unsqueeze(-1) * looks
        return prior.with_((prior.times(prior.loc) + looks * total) / precision, precision)


class ConjugateInitializer(Initializer):
    r"""Natural-gradient steps from the prior; one is exact for a normal likelihood, other likelihoods take sixteen.

    $$ \Lambda \leftarrow \Lambda_0 + X^\top \mathrm{diag}(h) X, \qquad
       m \leftarrow m - \rho\, \Lambda^{-1} \big( X^\top g + \Lambda_0 (m - \mu) \big) $$

    with $g$ and $h$ the mean gradient and curvature of $-\log p(y \mid \eta)$ under the present Gaussian
    (`Likelihood.gradients`); the first five steps take them at its location alone, which goes to the mode. Their fixed
    point is the Gaussian of least $\mathbb E_q[-\log p(y \mid \eta)] + \mathrm{KL}(q \Vert p_\psi)$; least in $m$ alone
    where $h$ is not the true curvature, as for a Student-t. The step $\rho$ is 1 unless a linear predictor would move
    by more than 2.

    Args:
        num_steps: steps for likelihoods that are not conjugate.

    Source: for a normal likelihood equal to `ebmeta.simulate.conjugate.posterior` (tested); Khan and Lin 2017,
    Conjugate-computation variational inference.
    """

    def __init__(self, num_steps: int = 16) -> None:
        super().__init__()
        self.num_steps = num_steps

    def forward(
        self,
        prior: Gaussian,
        likelihood: Likelihood,
        x: Tensor,
        y: Tensor,
        mask: Tensor,
        given: Given | None = None,
    ) -> Gaussian:
        if not x.shape[1]:
            return prior
        ways = torch.ones(prior.loc.shape[:2], dtype=torch.bool, device=x.device)
        x, q = x * mask.unsqueeze(-1), prior
        for step in range(1 if likelihood.conjugate else self.num_steps):
            loc, var = q.marginal(x)
            searching = step < MODE_STEPS and not likelihood.conjugate
            if searching:
                var = torch.zeros_like(var)
            slope, curvature = (
                v.to(x.dtype) * mask.unsqueeze(-1) for v in likelihood.gradients(y, loc, var, ways, given)
            )
            total = slope.mT @ x + prior.times(q.loc - prior.loc)
            precision = prior.precision + prior.gram(x, curvature)
            if not (searching or likelihood.conjugate):
                precision = (3 * precision + q.precision) / 4  # damped: curvature and variance are coupled
            move = prior.with_(q.loc, precision).solve(total)
            if not likelihood.conjugate:
                reach = (x @ move.mT).abs().amax((1, 2))
                move = move * (2 / reach.clamp(min=2))[:, None, None]
            q = prior.with_(q.loc - move, precision)
        return q
