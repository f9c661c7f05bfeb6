r"""Training on several processes, each of which takes every N-th task of a batch.

$$ \nabla \frac{\sum_t \mathcal L_t}{\sum_t Q_t}
   = \sum_{r=1}^N \nabla \frac{\sum_{t \in T_r} \mathcal L_t}{\sum_t Q_t}, \qquad T_1 \cup \dots \cup T_N = T . $$

Losses are divided by the queries of the whole batch, so that the sum of the gradients of all processes is that of one
process, whatever the number of processes. All of them draw the whole batch and the numbers of all its tasks, and use
their own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from ebmeta.model.empirical_bayes import EmpiricalBayes

__all__ = ["ALONE", "World", "check_world", "joined", "own_device"]

Value = TypeVar("Value")
#: Layers whose output for a row depends on the other rows of a batch, or on chance.
MIXING: tuple[type[nn.Module], ...] = (_BatchNorm, _DropoutNd)


class World:
    """The processes of a run; one alone by default.

    Args:
        rank: number of this process.
        size: how many there are, $N$.

    Examples:
        >>> World().share(0, 3).tolist(), World(1, 2).share(0, 5).tolist(), World(1, 2).share(5, 5).tolist()
        ([0, 1, 2], [1, 3], [0, 2, 4])
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def share(self, first: int, count: int) -> Tensor:
        """Return which of some tasks are those of this process.

        Args:
            first: tasks of the batch before them.
            count: how many they are.
        """
        return torch.arange(count)[(self.rank - first) % self.size :: self.size]

    def total(self, value: Tensor) -> Tensor:
        """Return the sum of a value of every process."""
        if self.size == 1:
            return value
        out = value.detach().clone()
        self._together(lambda: dist.all_reduce(out))
        return out

    def add_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Give every parameter the sum of its gradients; one that no process used keeps none."""
        if self.size == 1 or not parameters:
            return
        slopes = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        used = torch.tensor([float(p.grad is not None) for p in parameters])
        flat = torch.cat([*(s.double().flatten() for s in slopes), used.to(slopes[0]).double()])
        self._together(lambda: dist.all_reduce(flat))
        *sums, counts = torch.split(flat, [*(p.numel() for p in parameters), len(parameters)])
        for parameter, own, count in zip(parameters, sums, counts.tolist(), strict=True):
            parameter.grad = own.view_as(parameter).to(parameter.dtype) if count else None

    def of_first(self, value: Value) -> Value:
        """Return what the first process has, on the devices of this one."""
        if self.size == 1:
            return value
        held: list[Any] = [value if self.first else None]
        self._together(lambda: dist.broadcast_object_list(held))
        found: Value = value if self.first else held[0]
        return found

    def copy_first(self, model: nn.Module) -> None:
        """Give a model the parameters and buffers of the first process."""
        state = self.of_first({name: value.cpu() for name, value in model.state_dict().items()})
        if not self.first:
            model.load_state_dict(state)

    def all_of(self, values: list[Value]) -> list[Value]:
        """Return the values of all processes by turns: the first of each, the second of each, and so on."""
        if self.size == 1:
            return values
        held: list[Any] = [None] * self.size
        self._together(lambda: dist.all_gather_object(held, values))
        return [own[i] for i in range(max(map(len, held))) for own in held if i < len(own)]

    def _together(self, step: Callable[[], Any]) -> None:
        """Do what all processes do together.

        Raises:
            ChildProcessError: if one of them has ended.
        """
        try:
            step()
        except RuntimeError as error:
            raise ChildProcessError(
                f"distributed: expected {self.size} processes to the end, got word of one that ended (process "
                f"{self.rank} says: {str(error).splitlines()[0]:.200}); run again to continue from the checkpoint"
            ) from None


#: This process by itself.
ALONE = World()


def own_device(device: torch.device, distributed: Literal["auto"] | None) -> torch.device:
    """Return the CUDA device of this process, where `torchrun` numbers the processes of a machine."""
    number = os.environ.get("LOCAL_RANK")
    if distributed is None or number is None or device != torch.device("cuda"):
        return device
    return torch.device("cuda", int(number))


def check_world(model: EmpiricalBayes, batch_size: int, world: World) -> None:
    """Refuse what several processes cannot train as one does.

    Raises:
        ValueError: if there are fewer tasks in a batch than processes, or the embedder mixes the rows of a batch or
            draws random numbers.
    """
    if world.size == 1:
        return
    if batch_size < world.size:
        raise ValueError(f"batch_size: expected at least a task for each of {world.size} processes, got {batch_size}")
    embedder = model.predictor.embedder
    layers: list[nn.Module] = [] if embedder is None else list(embedder.modules())
    mixing = [type(each).__name__ for each in layers if isinstance(each, MIXING)]
    if mixing and embedder is not None and any(p.requires_grad for p in embedder.parameters()):
        raise ValueError(
            f"embedder: expected layers that look at each row by itself and draw nothing, for {world.size} processes, "
            f"got {mixing[0]}: freeze the embedder, or train it in one process"
        )


@contextmanager
def joined(distributed: Literal["auto"] | None, device: torch.device) -> Iterator[World]:
    """Join the processes that `torchrun` started, or those that the caller has joined; leave the former at the end.

    Args:
        distributed: "auto" joins them where there are some; None is this process alone.
        device: of the model, on which gradients are summed: by gloo on a CPU, by NCCL on CUDA.
    """
    if distributed is None or not dist.is_available():
        yield World()
        return
    ours = not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1
    if ours:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else World()
    finally:
        if ours:
            dist.destroy_process_group()
