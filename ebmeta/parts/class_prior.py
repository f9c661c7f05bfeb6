r"""The learned prior of the joint model, for class means, class proportions and inputs.

$$ m_c \sim \mathcal N(\mu, b I), \qquad \pi \sim \mathrm{Dir}(\alpha), \qquad x \mid y = c \sim \mathcal N(m_c, s I) $$

in the space of the head's features. $\mu$ is the mean of the training rows and stays; $b$, $s$ and $\alpha$ begin at
moments of training classes, $b$ and $s$ enlarged by $1 / \kappa$, and are trained. The coordinates of real features are
correlated and not normal, so that $D$ of them carry the evidence of fewer independent ones. How many says the one
visible number of this misfit, the power $\kappa = s_{\text{moments}} / s$ of the likelihood, 1 for a model that is right
(theory: "One model of inputs and labels").
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ebmeta.foundation.checks import above, at_least, checked
from ebmeta.parts.class_gaussian import ClassGaussian
from ebmeta.parts.gaussian import DiagonalGaussian
from ebmeta.parts.prior import Prior
from ebmeta.tasks.training_rows import TrainingRows

__all__ = ["EQUAL", "ClassPrior"]

EQUAL = 1e4  # concentration of class proportions, from which on they count as equal
POWER = 0.25  # of the likelihood, before training
CONCENTRATION = 3.0  # of unknown class proportions, before training
LEAST = 1e-12  # variance between or within classes, relative to that of all rows


@checked(num_features=at_least(1), between=above(0), within=above(0))
class ClassPrior(Prior):
    r"""The prior of class means and proportions, and the spread of inputs about their class mean.

    Args:
        num_features: features of the head without its constant, $D$.
        between: initial $b$, variance of class means.
        within: initial $s$, variance of an input about its class mean.
        constant: the last feature of the head.

    Raises:
        ValueError: if an argument is not positive.
    """

    joint = True

    measured_within: Tensor
    constant: Tensor

    def __init__(self, num_features: int, between: float = 1.0, within: float = 1.0, constant: float = 1.0) -> None:
        super().__init__(num_features)
        self.log_scale = nn.Parameter(torch.tensor(math.log(between) / 2))
        self.log_within = nn.Parameter(torch.tensor(math.log(within)))
        self.log_concentration = nn.Parameter(torch.tensor(math.log(CONCENTRATION)))
        self.loc.requires_grad_(False)
        self.register_buffer("measured_within", torch.tensor(0.0))
        self.register_buffer("constant", torch.tensor(float(constant)))

    @property
    def between(self) -> Tensor:
        """Variance of a feature of class means, $b$."""
        return torch.exp(2 * self.log_scale)

    @property
    def within(self) -> Tensor:
        """Variance of a feature of an input about its class mean, $s$."""
        return self.log_within.exp()

    @property
    def power(self) -> float:
        r"""Power $\kappa$ of the likelihood: variance within training classes over $s$; 1 for a model not measured."""
        measured = float(self.measured_within)
        return measured / float(self.within.detach()) if measured else 1.0

    def fast(self) -> Iterator[nn.Parameter]:
        yield from (self.log_scale, self.log_within, self.log_concentration)

    @torch.no_grad()
    def measure(self, rows: TrainingRows) -> TrainingRows:
        """Take the moments of training classes, in the features of the head."""
        phi = rows.features()[:, :-1]
        within, between = (float(v[:-1].mean()) for v in rows.variances)
        size = float((phi - phi.mean(0)).square().mean())
        if size > 0:
            self.loc.copy_(phi.mean(0))
            self.measured_within.fill_(max(within, LEAST * size))
            self.log_within.fill_(math.log(max(within, LEAST * size) / POWER))
            self.log_scale.fill_(math.log(max(between, LEAST * size) / POWER) / 2)
        return rows

    def gaussian(self) -> DiagonalGaussian:
        return DiagonalGaussian(self.loc, (1 / self.between).expand_as(self.loc))

    def forward(
        self,
        num_tasks: int,
        num_ways: int,
        task_x: Tensor | None = None,
        way_mask: Tensor | None = None,
        concentration: Tensor | None = None,
    ) -> ClassGaussian:
        means = super().forward(num_tasks, num_ways, task_x)
        a = self.log_concentration.exp().expand(num_tasks)
        if concentration is not None:
            a = torch.where(concentration.isnan(), a, concentration.to(a.dtype).clamp(max=EQUAL))
        ways = torch.ones_like(means.loc[..., 0], dtype=torch.bool) if way_mask is None else way_mask
        shares = torch.where(ways, a.unsqueeze(1), 0.0)
        return ClassGaussian(means.loc, means.precision, shares, self.within, self.constant)
