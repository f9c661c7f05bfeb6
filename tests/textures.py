"""Images with class structure for the tests of the image pipeline."""

from __future__ import annotations

import numpy as np


def textures(num_classes: int, members: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """Waves of a class's colour, direction and wavelength, of random phase, under noise."""
    colour = rng.uniform(0.2, 1.0, (num_classes, 1, 1, 1, 3))
    angle, cycles = rng.uniform(0, np.pi, num_classes), rng.uniform(1, 4, num_classes)
    y, x = np.mgrid[:side, :side] / side
    along = np.einsum("ck,khw->chw", np.stack([np.cos(angle), np.sin(angle)], 1) * cycles[:, None], np.stack([x, y]))
    phase = rng.uniform(0, 1, (num_classes, members, 1, 1))
    wave = (1 + np.sin(2 * np.pi * (along[:, None] + phase))) / 2
    pixels = wave[..., None] * colour + 0.1 * rng.standard_normal((num_classes, members, side, side, 3))
    return (255 * pixels.clip(0, 1)).astype(np.uint8)
