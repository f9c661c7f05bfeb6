r"""The prior of a general classifier, whose few numbers are functions of how the rows of a task lie.

$$ m_c \sim \mathcal N\Big(0, \frac{b}{k} I\Big), \qquad \pi \sim \mathrm{Dir}(\alpha), \qquad
   x \mid y = c \sim \mathcal N\Big(m_c, \frac{s}{k} I\Big) $$

for unit vectors $x$ about the centre of the task (`ebmeta.parts.task_head.TaskHead`). There $b$ and $s$ are total
variances between and within classes, and $k$ is how many independent coordinates the features have. They are what a
rough clustering of the rows finds (`ebmeta.parts.clusters`), $\hat s$, $\hat b = 1 - \hat s$ and $\hat k$, times
factors that depend on the design $\delta$ of the task: its classes, labelled rows and queries
(`ebmeta.parts.task_features`),

$$ \log \frac{(b, s, k)}{(\hat b, \hat s, \hat k)} = \theta + \tanh f_\theta(\delta), \qquad
   \log \alpha = \theta_\alpha + f_\alpha(\delta) . $$

Where `ClassPrior` takes its moments from training classes of the same features, this prior has learned over many
encoders how far to believe what the rows of a task say of them: hyperpriors in place of values. The factors of what is
found are bounded, and look at no row: what more readings of rows say of one encoder misleads on another.

A predictive density leaves out the share $1 - k / D$ of its volume, so that it counts $k$ coordinates, too.
An unlabelled row counts as $w < 1$ of a labelled one, since the rows of an encoder cluster less well by class than the
model says. It is one number for all tasks, learned with the rest. More than 40 queries of a class count together as so
many: a pile without end must not outweigh the labels.

Source: Nigam, McCallum, Thrun and Mitchell 2000, Text classification from labeled and unlabeled documents using EM, for
the weight of unlabelled rows.
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
from ebmeta.parts.task_features import DESIGN, Geometry
from ebmeta.tasks.training_rows import TrainingRows

__all__ = ["GeneralPrior"]

#: Factors of $b$, $s$ and $k$, the concentration and $w$ before training.
BETWEEN, WITHIN, COORDINATES, CONCENTRATION, TRUST = 1.0, 1.0, 0.37, 3.0, 0.6


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
        self.trust = nn.Parameter(torch.tensor(math.log(TRUST / (1 - TRUST)), device="cpu"))
        self.hidden, self.readout = linear(DESIGN, width, source), linear(width, 4, source)
        nn.init.zeros_(self.readout.weight)
        nn.init.zeros_(self.readout.bias)

    def fast(self) -> Iterator[nn.Parameter]:
        yield self.level

    def measure(self, rows: TrainingRows) -> TrainingRows:
        return rows

    def gaussian(self) -> DiagonalGaussian:
        return DiagonalGaussian(self.loc, (self.level[2] - self.level[0]).exp().expand_as(self.loc))

    def of_task(
        self, geometry: Geometry, num_features: int, way_mask: Tensor, concentration: Tensor | None
    ) -> ClassGaussian:
        r"""Return the prior of every task.

        Args:
            geometry: $\delta$, $\hat s$, $\hat k$, how many features vary, and the share of the queries that counts.
            num_features: features without the constant, $D$.
            way_mask: True where a class exists, shape `(T, C)`.
            concentration: what is known of class proportions, shape `(T,)` (see `TaskBatch`), or None.
        """
        found, dtype = geometry.clusters, self.level.dtype
        read = self.readout(torch.tanh(self.hidden(geometry.design.to(dtype))))
        log_s, log_k, log_share = (v.log().to(dtype) for v in (found.within, found.coordinates, geometry.share))
        rough = torch.stack([torch.log1p(-log_s.exp()), log_s, log_k], -1)
        b, s, k = (rough + self.level[:3] + torch.tanh(read[:, :3])).view(-1, 3, 1, 1).unbind(1)
        own = (self.level[3] + read[:, 3]).exp()
        k = torch.minimum(k, found.features.log().to(dtype).view_as(k))
        precision = (k - b).exp().expand(*way_mask.shape, num_features)
        if concentration is not None:
            own = torch.where(concentration.isnan(), own, concentration.to(own.dtype).clamp(max=EQUAL))
        shares = torch.where(way_mask, own.unsqueeze(1), 0.0)
        volume = 1 - k.exp() / num_features
        zero = torch.zeros_like(precision)
        trust = torch.sigmoid(self.trust) * log_share.exp().view_as(k)
        return ClassGaussian(zero, precision, shares, (s - k).exp(), self.constant, volume=volume, trust=trust)
