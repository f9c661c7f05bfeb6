"""Penultimate features of a trained network."""

from __future__ import annotations

import numpy as np
import torch

from lib.wide_resnet.images import standardise
from lib.wide_resnet.network import WideResNet

__all__ = ["extract"]

BATCH = 500


def extract(network: WideResNet, images: np.ndarray, device: torch.device) -> np.ndarray:
    """Return the features of unaugmented images.

    Args:
        network: the trained network; it is moved to the device and left in evaluation mode.
        images: shape `(classes, members, H, H, 3)`, bytes.
        device: where to compute.

    Returns:
        Features, shape `(classes, members, num_features)`, 16-bit floats.
    """
    network.to(device, memory_format=torch.channels_last).eval()
    flat, parts = images.reshape(-1, *images.shape[2:]), []
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
        for start in range(0, len(flat), BATCH):
            pixels = torch.from_numpy(flat[start : start + BATCH]).to(device).float() / 255
            parts.append(network.embed(standardise(pixels)).half().cpu().numpy())
    return np.concatenate(parts).reshape(*images.shape[:2], -1)
