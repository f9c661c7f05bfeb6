r"""Wide residual networks (Zagoruyko and Komodakis 2016) with a head for classes and one for rotations.

A block normalises before it convolves, $\phi = \mathrm{ReLU} \circ \mathrm{BN}$:

$$ h' = s(h) + W_2 * \phi(W_1 * \phi(h)), $$

with $s(h) = h$, or a 1 x 1 convolution of $\phi(h)$ where the shape changes. The class head is a cosine,
$\eta_c = \kappa \cos(z, v_c)$ with learned $\kappa$, of the features $z$ averaged over the image; the
rotation head is linear in $z$.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, normalize, relu

__all__ = ["Mixup", "WideResNet"]

GROUPS = 3
START_SCALE = 10.0


class Mixup(NamedTuple):
    r"""Manifold mixup (Verma et al. 2019) of one batch: $h_i \to \lambda h_i + (1 - \lambda) h_{\pi(i)}$ at one depth.

    Args:
        layer: where: 0 the images, $g$ what group $g$ of blocks returns.
        order: the partner of every image, $\pi$, shape `(N,)`.
        weight: $\lambda$ in [0, 1].
    """

    layer: int
    order: Tensor
    weight: float

    @staticmethod
    def draw(size: int, alpha: float, rng: np.random.Generator, device: torch.device) -> Mixup:
        r"""Draw $\lambda \sim \mathrm{Beta}(\alpha, \alpha)$, a depth and a permutation."""
        weight, layer = float(rng.beta(alpha, alpha)), int(rng.integers(GROUPS + 1))
        return Mixup(layer, torch.from_numpy(rng.permutation(size)).to(device), weight)

    def hidden(self, values: Tensor) -> Tensor:
        """Mix the rows of `values`, shape `(N, ...)`."""
        return self.weight * values + (1 - self.weight) * values[self.order]

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Return the cross entropy of scores `(N, C)` with the labels `(N,)` mixed alike, nats per image."""
        theirs = cross_entropy(scores, labels[self.order])
        return self.weight * cross_entropy(scores, labels) + (1 - self.weight) * theirs


class Block(nn.Module):
    """Two 3 x 3 convolutions, each after normalisation, and a way past them."""

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(out_channels)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        same = channels == out_channels and stride == 1
        self.shortcut = None if same else nn.Conv2d(channels, out_channels, 1, stride, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map `(N, channels, H, W)` to `(N, out_channels, H / stride, W / stride)`."""
        ready = relu(self.norm1(hidden))
        past = hidden if self.shortcut is None else self.shortcut(ready)
        return past + self.conv2(relu(self.norm2(self.conv1(ready))))


class WideResNet(nn.Module):
    """WRN-`depth`-`width` with its two heads.

    Args:
        depth: convolutions on the longest way through, $6 n + 4$ with $n$ blocks in each of three groups.
        width: factor on 16, 32 and 64 channels.
        num_classes: classes of the training set, $C$.
        seed: seed of the initial weights; the global generator is left alone.

    Raises:
        ValueError: if the depth is not $6 n + 4$, or a count is below 1.
    """

    def __init__(self, depth: int = 28, width: int = 10, num_classes: int = 64, seed: int = 0) -> None:
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"depth: expected 10, 16, 22, 28, ..., got {depth}")
        for name, count in (("width", width), ("num_classes", num_classes)):
            if count < 1:
                raise ValueError(f"{name}: expected at least 1, got {count}")
        super().__init__()
        self.num_features = 64 * width
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.groups, channels = nn.ModuleList(), 16
            for group in range(GROUPS):
                layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False)] if group == 0 else []
                for block in range((depth - 4) // 6):
                    layers.append(Block(channels, 16 * 2**group * width, 2 if group and not block else 1))
                    channels = 16 * 2**group * width
                self.groups.append(nn.Sequential(*layers))
            self.norm = nn.BatchNorm2d(channels)
            # Of unit norm at first: what a step turns them by falls with the square of their norm.
            self.classes = nn.Parameter(normalize(torch.randn(num_classes, channels), dim=1))
            self.scale = nn.Parameter(torch.tensor(START_SCALE))
            self.rotation = nn.Linear(channels, 4)
            for module in self.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def embed(self, images: Tensor, mixup: Mixup | None = None) -> Tensor:
        """Return the features of images `(N, 3, H, W)`, shape `(N, num_features)`, mixed at one depth where asked."""
        hidden = images
        for layer in range(GROUPS + 1):
            if mixup is not None and mixup.layer == layer:
                hidden = mixup.hidden(hidden)
            if layer < GROUPS:
                hidden = self.groups[layer](hidden)
        return relu(self.norm(hidden)).float().mean((2, 3))

    def forward(self, images: Tensor, mixup: Mixup | None = None) -> tuple[Tensor, Tensor]:
        """Return the class scores `(N, C)` and the rotation scores `(N, 4)` of images `(N, 3, H, W)`."""
        features = self.embed(images, mixup)
        with torch.autocast(features.device.type, enabled=False):  # scores need more than 8 bits
            cosine = linear(normalize(features, dim=1), normalize(self.classes, dim=1))
            return self.scale * cosine, self.rotation(features)
