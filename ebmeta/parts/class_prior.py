r"""The learned prior of the joint model, for class means, class proportions and inputs.

$$ m_c \sim \mathcal N(\mu, b I), \qquad \pi \sim \mathrm{Dir}(\alpha), \qquad
   x \mid y = c \sim \mathcal N\Big(m_c, \frac s\kappa I\Big) $$

in the space of the head's features. $\mu$, $b$ and $s$ are moments of the training classes, and stay: labels of tasks
say little of $b$, and a training that moves it fits the training classes alone. Trained are $\alpha$, for tasks of
unknown proportions, and $\kappa$. The coordinates of real features are correlated and not normal, so that $D$ of them
carry the evidence of fewer independent ones. How many says $\kappa$, a visible number of this misfit: the power that
the likelihood of inputs is raised to, 1 for a model that is right. Trained is also $\omega$, 0 for a model that is
right: the predictive density of a class has a factor $v^{-D/2}$, of which the power $1 - \omega$ counts (theory: "One
model of inputs and labels").
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
        between: $b$, until it is measured; a head of inputs as they come (`LinearHead(standardize=False)`) keeps it.
        within: $s$, likewise.
        constant: the last feature of the head.

    Raises:
        ValueError: if an argument is not positive.
    """

    exact = ("center", "unit", "log_between", "log_within")
    joint = True

    log_between: Tensor
    log_within: Tensor

    def __init__(self, num_features: int, between: float = 1.0, within: float = 1.0, constant: float = 1.0) -> None:
        super().__init__(num_features)
        del self.log_scale
        self.log_power = nn.Parameter(torch.zeros(()))
        self.log_concentration = nn.Parameter(torch.tensor(math.log(CONCENTRATION)))
        self.loc.requires_grad_(False)
        self.volume = nn.Parameter(torch.zeros(()))
        self.register_buffer("log_between", torch.tensor(math.log(between), dtype=torch.float64))
        self.register_buffer("log_within", torch.tensor(math.log(within), dtype=torch.float64))
        self.constant = float(constant)

    @property
    def between(self) -> Tensor:
        """Variance of a feature of class means, $b$."""
        return self.log_between.exp().to(self.loc.dtype)

    @property
    def within(self) -> Tensor:
        """Variance of a feature of an input about its class mean, where the likelihood has full power, $s$."""
        return self.log_within.exp().to(self.loc.dtype)

    @property
    def power(self) -> Tensor:
        r"""Power of the likelihood, $\kappa$, a scalar."""
        return self.log_power.exp()

    def fast(self) -> Iterator[nn.Parameter]:
        yield from (self.log_power, self.log_concentration, self.volume)

    @torch.no_grad()
    def measure(self, rows: TrainingRows) -> TrainingRows:
        """Take the moments of training classes in the features of the head, unless these are inputs as they come."""
        if rows.raw:
            return rows
        phi = rows.features()[:, :-1]
        within, between = (float(v[:-1].mean()) for v in rows.variances)
        size = float((phi - phi.mean(0)).square().mean())
        if size > 0:
            self.loc.copy_(phi.mean(0))
            self.log_within.fill_(math.log(max(within, LEAST * size)))
            self.log_between.fill_(math.log(max(between, LEAST * size)))
            self.log_power.fill_(math.log(POWER))
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
        volume = self.volume.expand(num_tasks, 1, 1)
        return ClassGaussian(means.loc, means.precision, shares, self.within / self.power, self.constant, volume=volume)
