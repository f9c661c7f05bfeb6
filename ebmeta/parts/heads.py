r"""Heads, which turn an input into the features $\phi(x)$ that the weights of a task multiply.

$$ \eta_{ic} = \phi(x_i)^\top w_c $$

`CosineHead` looks at directions in a metric where classes differ and their members vary alike,

$$ \phi(x) = \Big( \frac{z}{\lVert z \rVert},\, c_0 \Big), \qquad z = M (x - \bar x), $$

with $M$ the fourth root of the inverse of the covariance within classes (`ebmeta.parts.metric`).
The constant carries the log proportion of a class. With a profile $\pi$ (`ebmeta.parts.profile`), which says what
training classes an input is like, a direction $u = z / \lVert z \rVert$ has more components and is a unit vector still,

$$ \phi(x) = \Big( \frac{(u,\; \omega\, \pi(u))}{\sqrt{1 + \omega^2}},\, c_0 \Big) . $$

`LinearHead` takes features in units of their training rows, or a basis of them, and appends the constant 1 of an
intercept:

$$ \phi(x) = \Big( \frac{x - \bar x}{s},\, 1 \Big) \quad \text{or} \quad \phi(x) = \big( b(x),\, 1 \big). $$
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from ebmeta.foundation.blocks import by_blocks
from ebmeta.foundation.checks import at_least, checked
from ebmeta.foundation.standardization import Exact, standard, summary
from ebmeta.parts.basis import Basis
from ebmeta.parts.metric import measured_frame
from ebmeta.parts.profile import ClassProfile
from ebmeta.parts.task_features import TaskFeatures, embedded
from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.training_rows import TrainingRows

__all__ = ["CONSTANT", "CosineHead", "Head", "LinearHead"]

CONSTANT = 0.3  # the constant feature of a cosine head; its square is the prior variance of a log proportion
PART = 1000  # inputs at a time behind a profile


class Head(Exact, ABC):
    r"""The abstract head, with features $\phi(x)$ and $\eta = \phi(x)^\top w$.

    Inputs of any floating-point type become features of the model's own.

    Args:
        num_features: features per input, $D$ (after the embedder, if there is one).
        embedder: optional network from raw inputs to `num_features` features.
        freeze_embedder: keep the embedder's parameters and its batch statistics as they are.
    """

    exact: ClassVar[tuple[str, ...]] = ("center", "unit")

    name: ClassVar[str]
    #: True where every column of the features may have a unit of its own; elsewhere all share one.
    own_units: ClassVar[bool]
    #: True where the features of a row depend on the other rows of its task.
    by_task: ClassVar[bool] = False

    center: Tensor
    like: Tensor

    def __init__(self, num_features: int, embedder: nn.Module | None, freeze_embedder: bool) -> None:
        super().__init__()
        self.num_features, self.freeze_embedder = num_features, freeze_embedder
        self.embedder = embedder
        if embedder is not None and freeze_embedder:
            embedder.requires_grad_(False).eval()
        self.register_buffer("center", torch.zeros(num_features, dtype=torch.float64))
        self.register_buffer("like", torch.zeros(()), persistent=False)  # knows type and device of the model

    @property
    @abstractmethod
    def num_weights(self) -> int:
        """Weights per output, $P$: one per feature that the head makes, and one for the constant."""

    @property
    @abstractmethod
    def measured(self) -> bool:
        """Whether the head was measured on training rows."""

    @property
    def any_features(self) -> bool:
        """Whether rows may have any number of features, which have a meaning within their task alone."""
        return False

    @property
    def by_column(self) -> bool:
        """Whether each weight but the constant's belongs to a column of the inputs."""
        return False

    @property
    def raw(self) -> bool:
        """Whether features and labels are not standardised, so they have to be at about unit scale."""
        return False

    @property
    def moving(self) -> bool:
        """Whether training moves the features."""
        return self.embedder is not None and not self.freeze_embedder

    def train(self, mode: bool = True) -> Head:
        """Set the training mode of everything but a frozen embedder."""
        super().train(mode)
        if self.embedder is not None and self.freeze_embedder:
            self.embedder.eval()
        return self

    def embed(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return raw features, shape `(T, N, D)`, of inputs of shape `(T, N, ...)`.

        The embedder sees real rows only, so that statistics over its batch are theirs.
        """
        if self.embedder is not None:
            rows = x.flatten(0, 1).to(self.like.dtype)
            mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask
            real = embedded(self.embedder, rows[mask.flatten()])  # a copy, so that the tasks stay as they are
            x = real.new_zeros(*mask.shape, real.shape[-1]).masked_scatter(mask.unsqueeze(-1), real)
        if x.dim() != 3 or x.shape[-1] != self.num_features:
            raise ValueError(f"x: expected {self.num_features} features per input, got shape {tuple(x.shape[2:])}")
        return x

    def features(self, x: Tensor, mask: Tensor | None = None, own: Tensor | None = None) -> Tensor:
        r"""Return $\phi(x)$, shape `(T, N, P)`.

        Args:
            x: inputs, shape `(T, N, ...)`.
            mask: True where a row is real, shape `(T, N)`; all by default.
            own: in training, numbers of the training classes that each task is made of, shape `(T, C)`; a profile
                leaves them out (`ebmeta.parts.profile`).

        Raises:
            ValueError: if an input does not have `num_features` features.
        """
        return self.of_embedded(self.embed(x, mask), own)

    def of_task(self, batch: TaskBatch, own: Tensor | None = None) -> TaskFeatures:
        """Return the features of all rows of tasks together; `own` as of `features`."""
        anchor = None
        if batch.anchor is not None and batch.anchor_size is not None:
            anchor = self.features(batch.anchor, batch.anchor_size > 0)
        query = self.features(batch.query_x, batch.query_mask, own)
        return TaskFeatures(self.features(batch.support_x, batch.support_mask, own), query, anchor)

    @abstractmethod
    def of_embedded(self, x: Tensor, own: Tensor | None = None) -> Tensor:
        r"""Return $\phi$ of raw features of shape `(..., D)`, shape `(..., P)`; `own` as of `features`."""

    def forward(self, features: Tensor, w: Tensor) -> Tensor:
        r"""Return $\eta$, shape `(..., T, N, C)`.

        Args:
            features: $\phi(x)$, shape `(T, N, P)`.
            w: weights, shape `(..., T, C, P)`.
        """
        return torch.einsum("tnp,...tcp->...tnc", features, w)

    def to_units(self) -> Tensor:
        """Return the matrix that takes weights of features to weights of columns in their units, shape `(P, P)`.

        Raises:
            ValueError: if the head is not linear.
        """
        raise ValueError(f"in_units: expected a linear head, got {self.name!r}")

    @torch.no_grad()
    def measure(self, rows: TrainingRows) -> TrainingRows:
        r"""Take the measure of training rows.

        Args:
            rows: training rows.

        Returns:
            The rows with their features $\phi(x)$, and whether the parts behind take their units of them.

        Raises:
            ValueError: if a feature (for a cosine head: all of them together) varies by too few roundings of its
                numbers, or a profile finds no training classes.
        """
        self._take(rows)

        def features() -> Tensor:
            return self.features(rows.x.unsqueeze(0))[0]

        return replace(rows, features=features, standardize=self.own_units and not self.raw, raw=self.raw)

    @abstractmethod
    def _take(self, rows: TrainingRows) -> None:
        """Take the measure of training rows."""


@checked(num_features=at_least(1), profile=at_least(0))
class CosineHead(Head):
    """Directions of features in the metric of the covariance within classes, and a constant.

    Args:
        num_features: features per input, $D$ (after the embedder, if there is one).
        embedder: optional network from raw inputs to `num_features` features.
        freeze_embedder: keep the embedder's parameters and its batch statistics as they are.
        profile: training classes, or groups of them, in a profile, $G$, without an embedder in training; 0 for none.

    Raises:
        ValueError: if `num_features` is below 1, or a profile is asked for where there can be none.
    """

    name = "cosine"
    own_units = False

    metric: Tensor

    def __init__(
        self, num_features: int, embedder: nn.Module | None = None, freeze_embedder: bool = False, *, profile: int = 0
    ) -> None:
        super().__init__(num_features, embedder, freeze_embedder)
        if profile and self.moving:
            raise ValueError(f"profile: expected 0 but for class features that training does not move, got {profile}")
        self.register_buffer("metric", torch.eye(num_features))
        self.profile = ClassProfile(num_features, profile) if profile else None

    @property
    def num_weights(self) -> int:
        """Weights per class, $P$: one per feature and class of the profile, and one for the constant."""
        return self.num_features + (0 if self.profile is None else self.profile.num_groups) + 1

    @property
    def measured(self) -> bool:
        return self._has_metric and (self.profile is None or self.profile.fitted)

    @property
    def _has_metric(self) -> bool:
        return bool(self.center.any())

    def of_embedded(self, x: Tensor, own: Tensor | None = None) -> Tensor:
        if self.profile is None and not x.requires_grad:
            return by_blocks(self.direction, x, CONSTANT)
        u = self.direction(x)
        if self.profile is not None:
            length = self.profile.length
            u = torch.cat([u, length * self.profile(u, own)], -1) / (1 + length**2) ** 0.5
        return functional.pad(u, (0, 1), value=CONSTANT)

    def direction(self, x: Tensor) -> Tensor:
        """Return $u$ of raw features, in the metric and from the centre, shape `(..., D)`."""
        rows = x.to(torch.promote_types(x.dtype, self.metric.dtype))
        center = self.center.to(rows.dtype)
        off = (rows - center).sub_((self.center - center).to(rows.dtype))  # what is cut off the centre counts, too
        reach = off.detach().abs().amax(-1, keepdim=True)  # the largest number becomes 1, whatever the unit
        z = off.div_(torch.where(reach > 0, reach, 1.0)).to(self.metric.dtype)
        return functional.normalize(z @ self.metric, dim=-1, eps=1e-6)

    def _take(self, rows: TrainingRows) -> None:
        device = self.center.device
        if not self._has_metric:
            center, metric = measured_frame(self.embed(rows.x.unsqueeze(0))[0], rows.cluster)
            self.center.copy_(center)
            if metric is not None:  # without a class of two rows the metric stays the identity
                self.metric.copy_(metric)
        if self.profile is not None and not self.profile.fitted:
            x, y = rows.classes()
            parts = [self.embed(part.to(device).unsqueeze(0))[0] for part in torch.split(x, PART)]
            self.profile.fit(self.direction(torch.cat(parts)), y.to(device))


@checked(num_features=at_least(0))
class LinearHead(Head):
    """Features in units of their training rows, or a basis of them, and the constant of an intercept.

    Args:
        num_features: features per input, $D$ (after the embedder, if there is one); 0 for an intercept alone.
        embedder: optional network from raw inputs to `num_features` features.
        freeze_embedder: keep the embedder's parameters and its batch statistics as they are.
        basis: optional functions $b$ of the features, which have a frame of their own; see `ebmeta.parts.basis`.
        standardize: let training take the units of features, covariates and labels from its rows; otherwise they have
            to come at about unit scale, but those of a basis.
        constant: the last feature, that of the intercept.

    Raises:
        ValueError: if `num_features` is too small.
    """

    name = "linear"
    own_units = True

    unit: Tensor
    taken: Tensor

    def __init__(
        self,
        num_features: int,
        embedder: nn.Module | None = None,
        freeze_embedder: bool = False,
        *,
        basis: Basis | None = None,
        standardize: bool = True,
        constant: float = 1.0,
    ) -> None:
        super().__init__(num_features, embedder, freeze_embedder)
        least = 0 if embedder is None and basis is None else 1
        if num_features < least:
            raise ValueError(f"num_features: expected at least {least}, got {num_features}")
        self.basis, self.standardize, self.constant = basis, standardize, float(constant)
        self.register_buffer("unit", torch.ones(num_features, dtype=torch.float64))
        self.register_buffer("taken", torch.tensor(False))

    @property
    def num_weights(self) -> int:
        """Weights per output, $P$: one per feature or function of the basis, and one for the intercept."""
        return (self.num_features if self.basis is None else self.basis.num_features) + 1

    @property
    def measured(self) -> bool:
        return bool(self.taken)

    @property
    def by_column(self) -> bool:
        return self.embedder is None and self.basis is None

    @property
    def raw(self) -> bool:
        return not self.standardize and self.basis is None

    def of_embedded(self, x: Tensor, own: Tensor | None = None) -> Tensor:
        x = standard(x, self.center, self.unit) if self.basis is None else self.basis(x.double())
        return functional.pad(x.to(self.like.dtype), (0, 1), value=self.constant)

    def to_units(self) -> Tensor:
        change = torch.eye(self.num_weights, dtype=torch.float64, device=self.unit.device)
        change[-1, -1] = self.constant
        if self.basis is None:
            change[:-1, :-1] /= self.unit.unsqueeze(1)
            change[-1, :-1] = -self.center / self.unit
        return change

    def _take(self, rows: TrainingRows) -> None:
        if self.raw:
            return
        if self.basis is not None or not self.moving:  # training sees to the scale of features that it moves
            x = self.embed(rows.x.unsqueeze(0))[0]
            center, unit = summary(x, "feature", rows.columns)  # one that never changes has the unit 1
            self.center.copy_(center)
            self.unit.copy_(unit)
            if self.basis is not None and not self.basis.measured:  # its period may have been given
                self.basis.measure(x)
        self.taken.fill_(True)
