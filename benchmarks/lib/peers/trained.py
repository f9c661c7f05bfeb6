"""What peers share that learn parameters from labelled tasks: the loop, its stopping, and a file to go on from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ebmeta import TaskBatch
from lib.peers.base import Peer, guesses

BLOCK = 100  # training tasks drawn at a time


class TrainedPeer(Peer):
    """The abstract peer whose scores are those of a network, to be trained before it is called.

    A subclass sets `network` and `optimizer`.
    """

    learns: ClassVar[bool] = True
    per_step: ClassVar[int]  # tasks behind a step, a divisor of 100
    steps: ClassVar[int]  # of the recipe
    every: ClassVar[int]  # steps between validations

    network: nn.Module
    optimizer: torch.optim.Optimizer
    trained: int = 0  # steps taken

    def scores(self, support_x: Tensor, support_y: Tensor, query_x: Tensor, n_way: int) -> Tensor:
        scores: Tensor = self.network(support_x, support_y, query_x, n_way)
        return scores

    def train(
        self,
        sampler: Any,
        stopping: Sequence[TaskBatch] = (),
        steps: int | None = None,
        every: int | None = None,
        checkpoint: Path | None = None,
    ) -> list[tuple[int, float]]:
        """Train up to step number `steps`, and keep the parameters of the best validation.

        Args:
            sampler: source of labelled tasks of equal size, `sampler.sample(num_tasks, index)`.
            stopping: labelled tasks of equal size, of validation classes, whose accuracy says which parameters are
                kept; the last ones where there are none.
            steps: number of the last step, by default that of the recipe; steps taken before, here or in the
                checkpoint, count.
            every: steps between validations, by default those of the recipe; a multiple of the steps that 100 tasks
                make.
            checkpoint: file to go on from where it exists, written at every validation.

        Returns:
            Step and validation accuracy at every validation of this call; empty without `stopping`.

        Raises:
            ValueError: if `every` is no such multiple.
        """
        steps, every = steps or self.steps, every or self.every
        block = BLOCK // self.per_step
        if every % block:
            raise ValueError(f"every: expected a multiple of {block}, got {every}")
        history: list[tuple[int, float]] = []
        best, top = self.network.state_dict(), -math.inf
        if checkpoint is not None and checkpoint.is_file():
            best, top = self._restore(load_file(checkpoint))
        while self.trained < steps:
            index, first = divmod(self.trained, block)
            batch = sampler.sample(BLOCK, index)
            for i in range(first, min(block, first + steps - self.trained)):
                tasks = slice(i * self.per_step, (i + 1) * self.per_step)
                self.step(batch.support_x[tasks], batch.support_y[tasks], batch.query_x[tasks], batch.query_y[tasks])
            if self.trained % every and self.trained < steps:
                continue
            accuracy = self._accuracy(stopping) if stopping else self.trained
            if stopping:
                history.append((self.trained, accuracy))
            if accuracy > top:
                best, top = {k: v.clone() for k, v in self.network.state_dict().items()}, accuracy
            if checkpoint is not None:
                save_file(self._state(best, top), checkpoint)
        self.network.load_state_dict(best)
        return history

    def step(self, support_x: Tensor, support_y: Tensor, query_x: Tensor, query_y: Tensor) -> float:
        """Take one step on the mean cross-entropy of labelled tasks, which is returned, in nats per query."""
        self.optimizer.zero_grad()
        scores = self.network(support_x, support_y, query_x, int(support_y.max()) + 1)
        loss = cross_entropy(scores.flatten(0, 1), query_y.flatten())
        loss.backward()
        self.optimizer.step()
        self.trained += 1
        return float(loss.detach())

    def _accuracy(self, batches: Sequence[TaskBatch]) -> float:
        return float((guesses(self, batches) == torch.cat([b.query_y for b in batches])).float().mean())

    def _state(self, best: dict[str, Tensor], top: float) -> dict[str, Tensor]:
        state = {f"best.{k}": v for k, v in best.items()}
        for key, parameter in self.network.named_parameters():
            state[f"last.{key}"] = parameter.detach()
            state |= {f"optimizer.{key}.{part}": value for part, value in self.optimizer.state[parameter].items()}
        return state | {"trained": torch.tensor(self.trained), "top": torch.tensor(top, dtype=torch.double)}

    def _restore(self, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], float]:
        parameters = dict(self.network.named_parameters())
        self.network.load_state_dict({key: state[f"last.{key}"] for key in parameters})
        for key, parameter in parameters.items():
            start = f"optimizer.{key}."
            self.optimizer.state[parameter] = {
                name.removeprefix(start): value for name, value in state.items() if name.startswith(start)
            }
        self.trained = int(state["trained"])
        return {key: state[f"best.{key}"] for key in parameters}, float(state["top"])
