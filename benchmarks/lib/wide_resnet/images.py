"""CIFAR-FS images: reading them, augmenting them where they lie, turning them.

A file `images_<part>.npz` holds `images`, `(classes, members, H, W, 3)` unsigned bytes, and `classes`, their
names. The train classes come in two files.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

__all__ = ["FILES", "augment", "missing", "read", "rotate", "standardise"]

FILES = {
    "train": ("images_train_0.npz", "images_train_1.npz"),
    "val": ("images_val.npz",),
    "test": ("images_test.npz",),
}
PAD = 4
JITTER = 0.4
LUMA = (0.299, 0.587, 0.114)


def missing(folder: Path, split: str) -> list[str]:
    """Return the names of the files of a split that are not in the folder."""
    return [name for name in FILES[split] if not (folder / name).is_file()]


def read(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read one split.

    Returns:
        Images, shape `(classes, members, H, W, 3)`, unsigned bytes, and the names of the classes.

    Raises:
        ValueError: if a file does not hold such images.
    """
    parts, names = [], []
    for name in FILES[split]:
        with np.load(folder / name) as file:
            images, classes = file["images"], file["classes"]
        square = images.ndim == 5 and images.shape[2] == images.shape[3]
        if images.dtype != np.uint8 or not square or images.shape[-1] != 3 or len(classes) != len(images):
            raise ValueError(
                f"{name}: expected uint8 images (classes, members, H, H, 3) and a name for each class, got "
                f"{images.dtype} {images.shape} and {len(classes)} names"
            )
        parts.append(images)
        names.append(classes)
    return np.concatenate(parts), np.concatenate(names)


def standardise(pixels: Tensor) -> Tensor:
    """Turn pixels in [0, 1], `(N, H, W, 3)`, into the network's input `(N, 3, H, W)`, channels last in memory."""
    return ((pixels - 0.5) / 0.25).permute(0, 3, 1, 2)


def augment(images: Tensor, index: Tensor, rng: np.random.Generator) -> Tensor:
    """Crop after reflection at the border, flip, and jitter brightness, contrast and saturation, in this order.

    Args:
        images: all images, shape `(M, H, H, 3)`, bytes, on the device where the result is wanted.
        index: which of them, shape `(N,)`.
        rng: source of every draw; the same draws whatever the device.

    Returns:
        Standardised images, shape `(N, 3, H, H)`.
    """
    count, side, device = len(index), images.shape[1], images.device
    places = rng.integers(-PAD, PAD, (2, count, 1), endpoint=True) + np.arange(side)
    places = side - 1 - np.abs(side - 1 - np.abs(places))
    places[1] = np.where(rng.random((count, 1)) < 0.5, places[1, :, ::-1], places[1])
    rows, columns = torch.from_numpy(places).to(device)
    strengths = rng.uniform(1 - JITTER, 1 + JITTER, (3, count, 1, 1, 1)).astype(np.float32)
    brightness, contrast, saturation = torch.from_numpy(strengths).to(device)

    pixels = images[index[:, None, None], rows[:, :, None], columns[:, None, :]].float() / 255
    pixels = (brightness * pixels).clamp(0, 1)
    pixels = _blend(pixels, _grey(pixels).mean((1, 2, 3), keepdim=True), contrast)
    return standardise(_blend(pixels, _grey(pixels), saturation))


def _grey(pixels: Tensor) -> Tensor:
    return (pixels * pixels.new_tensor(LUMA)).sum(-1, keepdim=True)


def _blend(pixels: Tensor, base: Tensor, strength: Tensor) -> Tensor:
    return (strength * pixels + (1 - strength) * base).clamp(0, 1)


def rotate(images: Tensor) -> tuple[Tensor, Tensor]:
    """Turn every image by 0, 1, 2 and 3 quarters, counterclockwise.

    Args:
        images: shape `(N, C, H, H)`.

    Returns:
        All images unturned, then all after one quarter, ..., shape `(4 N, C, H, H)`, and the number of
        quarters of each, shape `(4 N,)`.
    """
    turned = torch.cat([torch.rot90(images, quarters, (2, 3)) for quarters in range(4)])
    labels = torch.arange(4, device=images.device).repeat_interleave(len(images))
    return turned.contiguous(memory_format=torch.channels_last), labels
