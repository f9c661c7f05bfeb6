r"""An encoder of Omniglot drawings, trained on the train classes of Vinyals et al. (2016) on one CPU core.

Four convolutions and a linear map to 128 features, trained to tell 4 x 1,028 classes apart (a train class turned
by a quarter is another class) by a cosine classifier: logits $s \cos(f(x), w_c)$, label smoothing, AdamW under a
one-cycle schedule, drawings shifted, scaled, turned, sheared and bent at random. Batch $n$ is a pure function of the
seed and $n$, so a run that was stopped continues from its checkpoint. The shape was chosen on
the validation classes.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import trange

from lib.common import data_folder

SIDE = 28
FEATURES = 128
SCALE = 10.0


def drawings(split: str, num_classes: int | None = None) -> np.ndarray:
    """Return the drawings of one split, shape `(classes, 20, 28, 28)`, strokes 255 on 0."""
    folder = data_folder() / "omniglot"
    with np.load(folder / "omniglot_28.npz") as file:
        row = {name: i for i, name in enumerate(file["classes"].tolist())}
        chosen = (folder / f"vinyals_{split}.txt").read_text().split()[:num_classes]
        return file["X"][[row[name] for name in chosen]]


def turned(X: np.ndarray) -> np.ndarray:
    """Return every class turned by 0, 1, 2 and 3 quarters: four times as many classes."""
    return np.concatenate([np.rot90(X, quarters, (2, 3)) for quarters in range(4)])


def _block(inputs: int, outputs: int, pool: bool = True) -> nn.Sequential:
    # Pooling first leaves normalisation and ReLU a quarter of the work.
    shrink = [nn.MaxPool2d(2)] if pool else []
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return nn.Sequential(convolution, *shrink, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class Encoder(nn.Sequential):
    """Four convolutions, the layout of the last (3 x 3) kept, and a linear map to the features."""

    def __init__(self) -> None:
        super().__init__(
            *(_block(1, 32), _block(32, 64), _block(64, 128), _block(128, 128, pool=False)),
            *(nn.Flatten(), nn.Linear(128 * 9, FEATURES, bias=False), nn.BatchNorm1d(FEATURES)),
        )
        self.to(memory_format=torch.channels_last)


def _images(X: Tensor) -> Tensor:
    return X.unsqueeze(1).float().div_(255).contiguous(memory_format=torch.channels_last)


def augment(x: Tensor, rng: torch.Generator) -> Tensor:
    """Move every drawing of `x`, shape `(N, 1, 28, 28)`, by a random affine map and a smooth random field."""
    n = len(x)
    angle, across, up, shear, right, down = (torch.rand(6, n, generator=rng) * 2 - 1) * torch.tensor(
        [[0.2], [0.16], [0.16], [0.2], [0.17], [0.17]]  # radians; factors; shift in half sides
    )
    cos, sin, across, up = angle.cos(), angle.sin(), 1 + across, 1 + up
    affine = torch.stack([cos * across, shear - sin * up, right, sin * across, cos * up, down], 1).view(n, 2, 3)
    field = torch.randn(n, 2, 5, 5, generator=rng) * 0.05
    field = functional.interpolate(field, size=(SIDE, SIDE), mode="bicubic", align_corners=True)
    grid = functional.affine_grid(affine, [n, 1, SIDE, SIDE], align_corners=False) + field.permute(0, 2, 3, 1)
    return functional.grid_sample(x, grid, align_corners=False)


def train(
    X: np.ndarray,
    path: Path,
    iterations: int,
    batch_size: int = 128,
    *,
    learning_rate: float = 3e-3,
    seed: int = 0,
    checkpoint_every: int = 200,
) -> tuple[Encoder, float]:
    """Train an encoder, or continue to.

    Args:
        X: drawings, shape `(classes, members, 28, 28)`.
        path: checkpoint, read where it exists.
        iterations: optimiser steps.
        batch_size: drawings per step.
        learning_rate: peak of the schedule.
        seed: seed of weights, batches and augmentation.
        checkpoint_every: steps between checkpoints.

    Returns:
        The encoder in evaluation mode, and the processor seconds that its training took.

    Raises:
        ValueError: if the checkpoint is of a run with other settings.
    """
    images = torch.from_numpy(np.ascontiguousarray(X)).flatten(0, 1)
    classes, members = X.shape[:2]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        encoder, weights = Encoder(), nn.Parameter(torch.randn(classes, FEATURES))
    decay: list[dict[str, Any]] = [{"params": encoder.parameters()}, {"params": [weights], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(decay, lr=learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=iterations, pct_start=0.15)
    settings = [classes, iterations, batch_size, learning_rate, seed]
    start, seconds = 0, 0.0
    if path.exists():
        saved = torch.load(path, weights_only=True)
        if saved["settings"] != settings:
            raise ValueError(f"{path.name}: expected an encoder of settings {settings}, got {saved['settings']}")
        start, seconds = saved["iteration"], saved["seconds"]
        encoder.load_state_dict(saved["encoder"])
        weights.data = saved["weights"]
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
    begun = time.process_time() - seconds
    encoder.train()
    bar = trange(start, iterations, initial=start, total=iterations, desc="encoder", disable=not sys.stderr.isatty())
    for n in bar:
        rng = torch.Generator().manual_seed(int(np.random.SeedSequence((seed, n)).generate_state(1)[0]))
        rows = torch.randint(len(images), (batch_size,), generator=rng)
        f = functional.normalize(encoder(augment(_images(images[rows]), rng)), dim=-1)
        logits = SCALE * f @ functional.normalize(weights, dim=-1).T
        loss = functional.cross_entropy(logits, rows // members, label_smoothing=0.1)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if (n + 1) % checkpoint_every == 0 or n + 1 == iterations:
            bar.set_postfix(loss=f"{loss.item():.3f}")
            seconds = time.process_time() - begun
            state = {
                "settings": settings,
                "iteration": n + 1,
                "seconds": seconds,
                "encoder": encoder.state_dict(),
                "weights": weights.data,
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
            }
            torch.save(state, path.with_suffix(".part"))
            os.replace(path.with_suffix(".part"), path)
    return encoder.eval(), seconds


@torch.no_grad()
def features(encoder: Encoder, X: np.ndarray) -> np.ndarray:
    """Return the features of drawings, shape `(classes, members, 128)`."""
    images = torch.from_numpy(np.ascontiguousarray(X)).flatten(0, 1)
    parts = [encoder(_images(part)) for part in images.split(512)]
    return torch.cat(parts).unflatten(0, X.shape[:2]).numpy()
