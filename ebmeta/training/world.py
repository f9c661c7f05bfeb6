"""The processes of a training run, which take the shares of a batch by turns.

A batch has a number of shares that depends on the number of processes only beyond four of them. All processes draw the
whole batch and the numbers of all its tasks, compute the shares that are theirs, and sum all in the same order
(`ebmeta.training.batch_gradient`). So one to four processes reach the same parameters, to the bit where they have as
many threads each.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from ebmeta.model.empirical_bayes import EmpiricalBayes

__all__ = ["ALONE", "World", "check_world", "joined", "mixes", "own_device"]

Value = TypeVar("Value")
SHARES = 4  # of a batch at least, where it has as many tasks
#: Layers whose output for a row depends on the other rows of a batch, or on chance.
MIXING: tuple[type[nn.Module], ...] = (_BatchNorm, _DropoutNd)


class World:
    """The processes of a run; one alone by default.

    Args:
        rank: number of this process.
        size: how many there are, $N$.
        in_shares: whether batches are divided, so that their number does not matter.

    Examples:
        >>> World(1, 2).mine(5), World().sum(3, lambda share: torch.tensor(2.0**share))
        ([1, 3], tensor(7.))
    """

    def __init__(self, rank: int = 0, size: int = 1, in_shares: bool = True) -> None:
        self.rank, self.size, self.in_shares = rank, size, in_shares

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def shares(self, model: EmpiricalBayes, batch_size: int) -> int:
        """Return into how many shares a run divides its batches: as many for one to four processes."""
        if not self.in_shares or mixes(model):
            return 1
        return min(batch_size, max(SHARES, 1 << (self.size - 1).bit_length()))

    def mine(self, count: int) -> list[int]:
        """Return which of so many shares are those of this process; it may be none."""
        return list(range(self.rank, count, self.size))

    def sum(self, count: int, share: Callable[[int], Tensor]) -> Tensor:
        """Return the sum of all shares of a batch, added in their order.

        Args:
            count: how many there are.
            share: returns a share by its number, all of one shape, on the device of the model.
        """
        if self.size == 1:
            return functools.reduce(torch.add, map(share, range(count)))
        mine = self.mine(count)
        own = {number: share(number) for number in mine or [self.rank % count]}  # one at least, to know the shape
        total = torch.zeros_like(next(iter(own.values())))
        for number in range(count):
            part = own[number] if number in mine else torch.empty_like(total)
            self._together(functools.partial(dist.broadcast, part, number % self.size))
            total = part if number == 0 else total + part
        return total

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
    if found := mixes(model):
        raise ValueError(
            f"embedder: expected layers that look at each row by itself and draw nothing, for {world.size} processes, "
            f"got {found}: freeze the embedder, or train it in one process"
        )


def mixes(model: EmpiricalBayes) -> str:
    """Return the kind of a trained layer whose output for a row depends on other rows or on chance, "" for none."""
    embedder = model.predictor.embedder
    if embedder is None or not any(p.requires_grad for p in embedder.parameters()):
        return ""
    return next((type(each).__name__ for each in embedder.modules() if isinstance(each, MIXING)), "")


@contextmanager
def joined(distributed: Literal["auto"] | None, device: torch.device) -> Iterator[World]:
    """Join the processes that `torchrun` started, or those that the caller has joined; leave the former at the end.

    Args:
        distributed: "auto" joins them where there are some; None is this process alone.
        device: of the model, on which gradients are summed: by gloo on a CPU, by NCCL on CUDA.
    """
    if distributed is None or not dist.is_available():
        yield World(in_shares=distributed is not None)
        return
    ours = not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1
    if ours:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else World()
    finally:
        if ours:
            dist.destroy_process_group()
