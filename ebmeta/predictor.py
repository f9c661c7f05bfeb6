r"""The linear predictor $\eta_i = h(x_i; w)$: features of an input against the task's weights.

$$ \eta_{ic} = \phi(x_i)^\top w_c $$

Everything the rest of the library needs of an input is its feature vector $\phi(x)$: the weights
enter linearly, so a Gaussian over $w$ is a Gaussian over $\eta$.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["LinearPredictor"]


class LinearPredictor(nn.Module):
    r"""Features $\phi(x)$, and $\eta = \phi(x)^\top w$.

    Args:
        num_features: features per input, $D$ (after the embedder, if there is one).
        head: "cosine" subtracts a learned centre and divides by the norm,
            $\phi(x) = (x - c) / \lVert x - c \rVert$; "linear" appends the constant 1.
        embedder: optional network from raw inputs to `num_features` features.
        freeze_embedder: keep the embedder's parameters and its batch statistics as they are.

    Raises:
        ValueError: if `num_features` is below 1 or the head is unknown.
    """

    def __init__(
        self,
        num_features: int,
        head: Literal["cosine", "linear"],
        embedder: nn.Module | None = None,
        freeze_embedder: bool = False,
    ) -> None:
        super().__init__()
        if num_features < 1:
            raise ValueError(f"num_features: expected at least 1, got {num_features}")
        if head not in ("cosine", "linear"):
            raise ValueError(f"head: expected 'cosine' or 'linear', got {head!r}")
        self.num_features, self.head, self.freeze_embedder = num_features, head, freeze_embedder
        self.embedder = embedder
        if embedder is not None and freeze_embedder:
            embedder.requires_grad_(False).eval()
        self.center = nn.Parameter(torch.zeros(num_features)) if head == "cosine" else None

    @property
    def num_weights(self) -> int:
        """Weights per output, $P$: one per feature, and one for the constant of a linear head."""
        return self.num_features + (self.head == "linear")

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
            rows = x.flatten(0, 1)
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
        if self.center is not None:
            return functional.normalize(x - self.center, dim=-1, eps=1e-6)
        return functional.pad(x, (0, 1), value=1.0)

    def forward(self, features: Tensor, w: Tensor) -> Tensor:
        r"""Return $\eta$, shape `(..., T, N, C)`.

        Args:
            features: $\phi(x)$, shape `(T, N, P)`.
            w: weights, shape `(..., T, C, P)`.
        """
        return torch.einsum("tnp,...tcp->...tnc", features, w)

    @torch.no_grad()
    def center_on(self, x: Tensor, mask: Tensor) -> None:
        """Start the centre $c$ of a cosine head at the mean of the features of real rows."""
        if self.center is not None:
            self.center.copy_(self.embed(x, mask)[mask].mean(0))
