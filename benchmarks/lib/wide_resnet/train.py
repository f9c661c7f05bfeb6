r"""Training in two stages: classes and rotations, then manifold mixup with rotations.

With $x^r$ the image after $r$ quarter turns and CE the cross entropy, stage one minimises

$$ L_1 = \tfrac12 \mathbb E_{x, y, r} [\mathrm{CE}(\eta(x^r), y) + \mathrm{CE}(\rho(x^r), r)] \quad \text{(nats)} $$

over all four turns of every image. Stage two adds the cross entropy of mixed features with labels mixed
alike to the same $L_1$ on a quarter of the batch. Source: Mangla et al. (2020); momentum instead of Adam.

Iteration $n$ is a pure function of the weights, the momentum, the seed and $n$: a run that was stopped
continues to the same weights, bit for bit on a CPU, and its state holds no generators and no scheduler.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lib.wide_resnet.images import augment, rotate
from lib.wide_resnet.network import Mixup, WideResNet

__all__ = ["Schedule", "Training"]

WARM_UP = 0.05
SECOND_STAGE = 0.2
SAVE_EVERY = 500  # iterations: some twenty seconds of an H200


@dataclass(frozen=True)
class Schedule:
    """How long and how fast.

    The default epochs fill one call of less than ten minutes of an H200, compiled. An epoch of 38,400 images is 153,600
    views in stage one, four of each image, and 76,800 in stage two.

    Args:
        rotation_epochs: passes over the images in stage one, four views of each.
        mixup_epochs: passes in stage two, two views of each.
        batch_size: images per step.
        learning_rate: peak of stage one; stage two peaks at a fifth. Each stage warms up linearly over a
            twentieth of its steps and decays to zero along a cosine.
        weight_decay: of every parameter.
        momentum: of Nesterov's kind.
        alpha: both parameters of the Beta distribution of the mixing weight.
        seed: seed of initial weights, order, augmentation and mixing.
    """

    rotation_epochs: int = 25
    mixup_epochs: int = 13
    batch_size: int = 128
    learning_rate: float = 0.1
    weight_decay: float = 5e-4
    momentum: float = 0.9
    alpha: float = 2.0
    seed: int = 0

    def rate(self, iteration: int, per_epoch: int) -> float:
        """Return the learning rate of one iteration."""
        first, second = self.rotation_epochs * per_epoch, self.mixup_epochs * per_epoch
        within, total, peak = iteration, first, self.learning_rate
        if iteration >= first:
            within, total, peak = iteration - first, second, SECOND_STAGE * self.learning_rate
        warm = max(1, int(WARM_UP * total))
        if within < warm:
            return peak * (within + 1) / warm
        return peak * 0.5 * (1 + math.cos(math.pi * (within - warm) / max(1, total - warm)))


class Training:
    """A network in training.

    Args:
        network: the network; it is moved to the device.
        images: shape `(M, H, H, 3)`, bytes.
        labels: class codes, shape `(M,)`.
        schedule: how long and how fast.
        device: where; the images are kept there too.
        compiled: compile each group of blocks with `torch.compile`.

    Raises:
        ValueError: if the schedule does not fit the images.
    """

    def __init__(
        self,
        network: WideResNet,
        images: np.ndarray,
        labels: np.ndarray,
        schedule: Schedule,
        device: torch.device,
        compiled: bool = False,
    ) -> None:
        if not 4 <= schedule.batch_size <= len(images):
            raise ValueError(f"batch_size: expected 4 to {len(images)} images, got {schedule.batch_size}")
        if min(schedule.rotation_epochs, schedule.mixup_epochs) < 0:
            raise ValueError(
                f"epochs: expected none below 0, got {schedule.rotation_epochs} and {schedule.mixup_epochs}"
            )
        self.network = network.to(device, memory_format=torch.channels_last).train()
        if compiled:
            for group in network.groups:
                group.compile(dynamic=False)  # each stage has one size of batch
        self.images, self.labels = torch.from_numpy(images).to(device), torch.from_numpy(labels).to(device)
        self.schedule, self.device = schedule, device
        self.per_epoch = len(images) // schedule.batch_size
        self.total = (schedule.rotation_epochs + schedule.mixup_epochs) * self.per_epoch
        self.optimizer = torch.optim.SGD(
            network.parameters(),
            schedule.learning_rate,
            schedule.momentum,
            weight_decay=schedule.weight_decay,
            nesterov=True,
        )
        self.iteration = 0
        self.losses = torch.zeros(self.total, 2, device=device)
        self._order: tuple[int, Tensor] = (-1, self.labels)

    def run(self, path: Path, may: Callable[[], bool] = lambda: True) -> bool:
        """Train until done or told to stop, then write the state.

        Args:
            path: file of the state, from which training continues where it exists.
            may: asked before each iteration whether it may be done.

        Returns:
            Whether training is done.

        Raises:
            ValueError: if the file is of another run, or a loss is not finite.
        """
        if path.exists():
            self.load(path)
        while self.iteration < self.total and may():
            self.step()
            if self.iteration % SAVE_EVERY == 0:
                self.save(path)
        self.save(path)
        return self.iteration == self.total

    def step(self) -> None:
        """Do one iteration."""
        n, plan = self.iteration, self.schedule
        rng = _generator(plan.seed, 1, n)
        index = self._index(n)
        images, labels = augment(self.images, index, rng), self.labels[index]
        for group in self.optimizer.param_groups:
            group["lr"] = plan.rate(n, self.per_epoch)
        with torch.autocast(self.device.type, torch.bfloat16):
            if n < plan.rotation_epochs * self.per_epoch:
                classes, turns = self._rotation_losses(images, labels)
                loss = (classes + turns) / 2
            else:
                mixup = Mixup.draw(len(images), plan.alpha, rng, self.device)
                classes = mixup.loss(self.network(images, mixup)[0], labels)
                quarter = len(images) // 4
                unmixed, turns = self._rotation_losses(images[:quarter], labels[:quarter])
                loss = classes + (unmixed + turns) / 2
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.losses[n, 0], self.losses[n, 1] = classes.detach(), turns.detach()
        self.iteration = n + 1

    def _rotation_losses(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        turned, quarters = rotate(images)
        classes, turns = self.network(turned)
        return cross_entropy(classes, labels.repeat(4)), cross_entropy(turns, quarters)

    def _index(self, iteration: int) -> Tensor:
        epoch, position = divmod(iteration, self.per_epoch)
        if self._order[0] != epoch:
            order = _generator(self.schedule.seed, 0, epoch).permutation(len(self.images))
            self._order = (epoch, torch.from_numpy(order).to(self.device))
        size = self.schedule.batch_size
        return self._order[1][position * size : (position + 1) * size]

    def stage_losses(self) -> dict[str, list[float]]:
        """Return the mean class and rotation loss of the last epoch of each stage, nats."""
        ends = {"rotation": self.schedule.rotation_epochs * self.per_epoch, "mixup": self.total}
        return {
            stage: [round(v, 4) for v in self.losses[end - self.per_epoch : end].mean(0).tolist()]
            for stage, end in ends.items()
            if end and getattr(self.schedule, f"{stage}_epochs")
        }

    def _settings(self) -> dict[str, Any]:
        shapes = {"images": list(self.images.shape), "features": self.network.num_features}
        return asdict(self.schedule) | shapes | {"parameters": sum(p.numel() for p in self.network.parameters())}

    def save(self, path: Path) -> None:
        """Write the whole state to one file, replacing it whole.

        Raises:
            ValueError: if a loss is not finite.
            OSError: if the file cannot be written.
        """
        if not bool(self.losses[: self.iteration].isfinite().all()):
            raise ValueError(f"loss: expected finite numbers, got NaN or infinity within {self.iteration} iterations")
        state = {
            "settings": self._settings(),
            "iteration": self.iteration,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "losses": self.losses,
        }
        temporary = path.with_suffix(".tmp")
        torch.save(state, temporary)
        os.replace(temporary, path)

    def load(self, path: Path) -> None:
        """Take the whole state from a file.

        Raises:
            ValueError: if it is of another run.
        """
        state = torch.load(path, map_location=self.device, weights_only=True)
        for name, mine in self._settings().items():
            if state["settings"].get(name) != mine:
                raise ValueError(
                    f"{path}: expected a run with {name}={mine}, got {state['settings'].get(name)}; "
                    "continue that run with its own options, or choose another folder"
                )
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.losses.copy_(state["losses"])
        self.iteration = state["iteration"]


def _generator(seed: int, stream: int, index: int) -> np.random.Generator:
    """Return the random generator of (seed, stream, index)."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, stream, index))))
