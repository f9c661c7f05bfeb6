r"""The prior of a general classifier, whose few numbers are functions of how the rows of a task lie.

$$ m_c \sim \mathcal N\Big(0, \frac{b}{k} I\Big), \qquad \pi \sim \mathrm{Dir}(\alpha), \qquad
   x \mid y = c \sim \mathcal N\Big(m_c, \frac{s}{k} I\Big), \qquad
   \log (b, s, k, \alpha) = \theta_0 + f_\theta(\gamma(x)), $$

for unit vectors $x$ about the centre of the task (`ebmeta.parts.task_head.TaskHead`). There $b$ and $s$ are total
variances between and within classes, $k$ is how many independent coordinates the features have, and $\gamma$ the
geometry of the task (`ebmeta.parts.task_features`). Where `ClassPrior` takes its moments from training classes of the
same features, this prior has learned over many encoders what the rows of a task say of them: hyperpriors in place of
values. Beliefs take back the share $1 - k / D$ of the volume of a predictive density, so that it counts $k$
coordinates, too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ebmeta.foundation.checks import above, at_least, checked
from ebmeta.foundation.seeding import linear, stream
from ebmeta.parts.class_gaussian import ClassGaussian
from ebmeta.parts.class_prior import EQUAL
from ebmeta.parts.gaussian import DiagonalGaussian
from ebmeta.parts.prior import Prior
from ebmeta.parts.task_features import GEOMETRY
from ebmeta.tasks.training_rows import TrainingRows

__all__ = ["GeneralPrior"]

#: Values before training, chosen once for unit vectors of many encoders.
BETWEEN, WITHIN, COORDINATES, CONCENTRATION = 0.3, 0.7, 20.0, 3.0


@checked(width=at_least(1), constant=above(0))
class GeneralPrior(Prior):
    r"""The prior of class means and proportions, and the spread of inputs, of tasks of any features.

    Args:
        width: hidden units of $f$.
        constant: the last feature of the head.
        generator: source of the initial weights; that of seed 0 by default.

    Raises:
        ValueError: if an argument is not positive.
    """

    joint = True
    reads_geometry = True

    def __init__(self, width: int = 16, constant: float = 1.0, generator: torch.Generator | None = None) -> None:
        super().__init__(1)
        del self.log_scale
        self.loc.requires_grad_(False)
        self.constant = float(constant)
        source = stream(0) if generator is None else generator
        self.level = nn.Parameter(torch.tensor([BETWEEN, WITHIN, COORDINATES, CONCENTRATION], device="cpu").log())
        self.hidden, self.readout = linear(GEOMETRY, width, source), linear(width, 4, source)
        nn.init.zeros_(self.readout.weight)
        nn.init.zeros_(self.readout.bias)

    def fast(self) -> Iterator[nn.Parameter]:
        yield self.level

    def measure(self, rows: TrainingRows) -> TrainingRows:
        return rows

    def gaussian(self) -> DiagonalGaussian:
        return DiagonalGaussian(self.loc, (self.level[2] - self.level[0]).exp().expand_as(self.loc))

    def of_task(
        self, geometry: Tensor, num_features: int, way_mask: Tensor, concentration: Tensor | None
    ) -> ClassGaussian:
        r"""Return the prior of every task.

        Args:
            geometry: $\gamma$, shape `(T, 12)`.
            num_features: features without the constant, $D$.
            way_mask: True where a class exists, shape `(T, C)`.
            concentration: what is known of class proportions, shape `(T,)` (see `TaskBatch`), or None.
        """
        read = nn.functional.silu(self.hidden(geometry.to(self.level.dtype)))
        b, s, k, a = (self.level + self.readout(read)).unsqueeze(1).unsqueeze(2).unbind(-1)
        k = torch.minimum(k, torch.full_like(k, math.log(num_features)))
        precision = (k - b).exp().expand(*way_mask.shape, num_features)
        own = a.exp()[:, 0, 0]
        if concentration is not None:
            own = torch.where(concentration.isnan(), own, concentration.to(own.dtype).clamp(max=EQUAL))
        shares = torch.where(way_mask, own.unsqueeze(1), 0.0)
        volume = 1 - k.exp() / num_features
        zero = torch.zeros_like(precision)
        return ClassGaussian(zero, precision, shares, (s - k).exp(), self.constant, volume=volume)
