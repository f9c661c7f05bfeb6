r"""The linear predictor $\eta_i = h(x_i; w)$: features of an input against the task's weights.

$$ \eta_{ic} = \phi(x_i)^\top w_c $$

A "cosine" head looks at directions in a metric where classes differ and their members vary alike,

$$ \phi(x) = \Big( \frac{z}{\lVert z \rVert},\, c_0 \Big), \qquad z = \tilde S^{-1/4} (x - \bar x), \qquad
   \tilde S = (1 - a)\, S + a\, \tfrac{\mathrm{tr} S}{D} I, $$

with $S$ the covariance within classes: partial whitening, chosen on validation classes (docs: "Design notes").
The constant carries the log proportion of a class. With a profile $\pi$ (`ebmeta.parts.profile`), which says what
training classes an input is like, a direction $u = z / \lVert z \rVert$ has more components and is a unit vector still,

$$ \phi(x) = \Big( \frac{(u,\; \omega\, \pi(u))}{\sqrt{1 + \omega^2}},\, c_0 \Big) . $$

A "linear" head takes features in units of their training rows, or a basis of them, and appends the constant 1 of an
intercept:

$$ \phi(x) = \Big( \frac{x - \bar x}{s},\, 1 \Big) \quad \text{or} \quad \phi(x) = \big( b(x),\, 1 \big). $$

Everything the rest of the library needs of an input is its feature vector $\phi(x)$: the weights
enter linearly, so a Gaussian over $w$ is a Gaussian over $\eta$.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ebmeta.foundation.checks import at_least, checked
from ebmeta.foundation.standard import Exact, centred, check_resolution, standard, summary
from ebmeta.parts.basis import Basis
from ebmeta.parts.profile import ClassProfile

__all__ = ["LinearPredictor"]

CONSTANT = 0.3  # the constant feature of a cosine head; its square is the prior variance of a log proportion
POWER = 0.25  # of the covariance within classes: 0 leaves the features alone, 1/2 whitens them
SHRINKAGE = 0.3  # of that covariance towards a multiple of the identity


@checked(num_features=at_least(0), profile=at_least(0))
class LinearPredictor(Exact):
    r"""Features $\phi(x)$, and $\eta = \phi(x)^\top w$.

    Inputs of any floating-point type become features of the model's own.

    Args:
        num_features: features per input, $D$ (after the embedder, if there is one); 0 for a linear head of an
            intercept alone.
        head: "cosine" or "linear" (see above; what they know of the features is measured by `measure`, and
            identity before that).
        embedder: optional network from raw inputs to `num_features` features.
        freeze_embedder: keep the embedder's parameters and its batch statistics as they are.
        basis: optional functions $b$ of the features, for a linear head; see `ebmeta.parts.basis`.
        profile: training classes, or groups of them, in a profile, $G$, for a cosine head without an embedder in
            training; 0 for none.

    Raises:
        ValueError: if `num_features` is too small, the head is unknown, or a basis or a profile is asked for where
            there can be none.
    """

    exact: ClassVar[tuple[str, ...]] = ("center", "unit")

    center: Tensor
    metric: Tensor
    unit: Tensor
    taken: Tensor
    like: Tensor

    def __init__(
        self,
        num_features: int,
        head: Literal["cosine", "linear"],
        embedder: nn.Module | None = None,
        freeze_embedder: bool = False,
        basis: Basis | None = None,
        profile: int = 0,
    ) -> None:
        super().__init__()
        least = 1 if head == "cosine" or embedder is not None or basis is not None else 0
        if num_features < least:
            raise ValueError(f"num_features: expected at least {least}, got {num_features}")
        if basis is not None and head != "linear":
            raise ValueError("basis: expected None for a cosine head, got a basis")
        if profile and (head != "cosine" or (embedder is not None and not freeze_embedder)):
            raise ValueError(f"profile: expected 0 but for class features that training does not move, got {profile}")
        self.basis = basis
        self.num_features, self.head, self.freeze_embedder = num_features, head, freeze_embedder
        self.embedder = embedder
        if embedder is not None and freeze_embedder:
            embedder.requires_grad_(False).eval()
        self.register_buffer("center", torch.zeros(num_features, dtype=torch.float64))
        self.register_buffer("like", torch.zeros(()), persistent=False)  # knows type and device of the model
        if head == "cosine":
            self.register_buffer("metric", torch.eye(num_features))
            self.profile = ClassProfile(num_features, profile) if profile else None
        else:
            self.profile = None
            self.register_buffer("unit", torch.ones(num_features, dtype=torch.float64))
            self.register_buffer("taken", torch.tensor(False))

    @property
    def num_weights(self) -> int:
        """Weights per output, $P$: one per feature, class of a profile or function of a basis; one for the constant."""
        if self.basis is not None:
            return self.basis.num_features + 1
        return self.num_features + (0 if self.profile is None else self.profile.num_groups) + 1

    @property
    def measured(self) -> bool:
        """Whether the head has taken its measure of the features."""
        return bool(self.taken) if self.head == "linear" else bool(self.center.any())

    def train(self, mode: bool = True) -> LinearPredictor:
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
            if mask is None or bool(mask.all()):
                x = self.embedder(rows).unflatten(0, x.shape[:2])
            else:
                real = self.embedder(rows[mask.flatten()])
                x = real.new_zeros(*mask.shape, real.shape[-1]).masked_scatter(mask.unsqueeze(-1), real)
        if x.dim() != 3 or x.shape[-1] != self.num_features:
            raise ValueError(f"x: expected {self.num_features} features per input, got shape {tuple(x.shape[2:])}")
        return x

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        r"""Return $\phi(x)$, shape `(T, N, P)`.

        Args:
            x: inputs, shape `(T, N, ...)`.
            mask: True where a row is real, shape `(T, N)`; all by default.

        Raises:
            ValueError: if an input does not have `num_features` features.
        """
        x = self.embed(x, mask)
        if self.head == "cosine":
            u = self.direction(x)
            if self.profile is not None:
                length = self.profile.length
                u = torch.cat([u, length * self.profile(u)], -1) / (1 + length**2) ** 0.5
            return functional.pad(u, (0, 1), value=CONSTANT)
        x = standard(x, self.center, self.unit) if self.basis is None else self.basis(x.double())
        return functional.pad(x.to(self.like.dtype), (0, 1), value=1.0)

    def direction(self, x: Tensor) -> Tensor:
        """Return $u$ of raw features, in the metric and from the centre of a cosine head, shape `(..., D)`."""
        off = x.double() - self.center
        reach = off.detach().abs().amax(-1, keepdim=True)  # the largest number becomes 1, whatever the unit
        z = (off / torch.where(reach > 0, reach, 1.0)).to(self.metric.dtype)
        return functional.normalize(z @ self.metric, dim=-1, eps=1e-6)

    def forward(self, features: Tensor, w: Tensor) -> Tensor:
        r"""Return $\eta$, shape `(..., T, N, C)`.

        Args:
            features: $\phi(x)$, shape `(T, N, P)`.
            w: weights, shape `(..., T, C, P)`.
        """
        return torch.einsum("tnp,...tcp->...tnc", features, w)

    @torch.no_grad()
    def measure(self, x: Tensor, cluster: Tensor, columns: Sequence[str] = ()) -> None:
        r"""Take the measure of training inputs: centre and metric, or centre and unit, or what a basis asks for.

        A feature that never changes keeps the unit 1: it then adds nothing that the intercept does not.

        Args:
            x: inputs, shape `(N, ...)`.
            cluster: class of each input for a cosine head, any integers, shape `(N,)`. Classes seen once say nothing
                of the metric, which stays the identity where no class is seen twice.
            columns: names of the features, for messages.

        Raises:
            ValueError: if a feature (for a cosine head: all of them together) varies by too few roundings of its
                numbers.
        """
        x = self.embed(x.unsqueeze(0))[0]
        if self.head == "linear":
            center, unit = summary(x, "feature", columns)
            self.center.copy_(center)
            self.unit.copy_(unit)
            self.taken.fill_(True)
            if self.basis is not None and not self.basis.measured:  # its period may have been given
                self.basis.measure(x)
            return
        center, off = centred(x)
        reach = off.abs().max()
        deviation = float(reach * (off / reach).square().mean().sqrt()) if float(reach) > 0 else 0.0
        check_resolution("features", deviation, x)
        self.center.copy_(center)
        _, index, count = torch.unique(cluster, return_inverse=True, return_counts=True)
        off = off / torch.where(reach > 0, reach, 1.0)
        off = off - (off.new_zeros(len(count), x.shape[1]).index_add_(0, index, off) / count.unsqueeze(-1))[index]
        freedom = int((count - 1).sum())
        within = off.mT @ off / max(freedom, 1)
        size = within.diagonal().mean()
        if float(size) > 0:
            values, vectors = torch.linalg.eigh(within / size)
            values = ((1 - SHRINKAGE) * values + SHRINKAGE) ** -POWER
            self.metric.copy_((vectors * values) @ vectors.mT)
