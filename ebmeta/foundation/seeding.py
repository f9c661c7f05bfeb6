"""Random numbers that depend on a seed alone, because every draw has a generator of its own.

The generators of Python, NumPy and torch are the user's: nothing here reads or moves them. Code that cannot be handed
a generator (a distribution of Pyro, dropout inside an embedder) runs inside `Drawing`, which hands it one. Only Pyro's
own programs under Pyro's own algorithms (SVI, Predictive, NUTS) draw from the global generator, as Pyro's users expect.
"""

from __future__ import annotations

import random
import sys
import threading
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ebmeta.foundation.extras import need

__all__ = ["Drawing", "blank_linear", "linear", "quietly", "stream"]

_LOCK = threading.Lock()


def quietly(name: str) -> None:
    """Import a library that moves a global generator when it is first imported, and put that back.

    Raises:
        MissingPackageError: if an extra brings the library, and is not installed.
    """
    if name in sys.modules:
        return
    with _LOCK:
        of_python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  # the global state is the point
        try:
            need(name)
        finally:
            random.setstate(of_python)
            np.random.set_state(of_numpy)  # noqa: NPY002


with suppress(ImportError):
    quietly("rich.style")  # parts of scikit-learn import it later, in the middle of a user's run


def stream(*key: int) -> torch.Generator:
    """Return a generator on the CPU that depends on the key alone.

    Args:
        key: non-negative integers; one alone seeds the generator as it is.

    Examples:
        >>> [torch.rand(1, generator=stream(*key)).item() for key in ((0, 1), (0, 1))]
        [0.5167286992073059, 0.5167286992073059]
    """
    if len(key) == 1:
        return torch.Generator().manual_seed(int(key[0]))  # of NumPy too
    number = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))
    return torch.Generator().manual_seed(number)


def blank_linear(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    """Return torch's linear layer without initial weights; only shapes where the default device is "meta"."""
    layer = nn.Linear(inputs, outputs, bias, device="meta")
    if torch.get_default_device().type != "meta":
        for name, shape in [(name, parameter.shape) for name, parameter in layer.named_parameters()]:
            setattr(layer, name, nn.Parameter(torch.empty(shape, device="cpu")))
    return layer


def linear(inputs: int, outputs: int, generator: torch.Generator, bias: bool = True) -> nn.Linear:
    """Return torch's linear layer with torch's initial weights, drawn from a generator."""
    layer = blank_linear(inputs, outputs, bias)
    if layer.weight.is_meta:
        return layer
    reach = inputs**-0.5
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-reach, reach, generator=generator)
    return layer


class Drawing(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch states no types here, nor below
    """A block in which all random numbers of torch come from generators of the block, in any caller.

    Like every mode of torch it holds for the present thread alone.

    Args:
        generator: source of the numbers on the CPU; those on other devices have generators that it seeds.

    Examples:
        >>> with Drawing(stream(0)):
        ...     first = torch.distributions.Poisson(torch.ones(3)).sample()
        >>> bool((first == torch.poisson(torch.ones(3), stream(0))).all())
        True
    """

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.generators = {torch.device("cpu"): generator}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or torch loads its compiler at the first draw, to be told to leave this class out

    def _key(self) -> int:
        key = torch.randint(2**62, (), generator=self.generators[torch.device("cpu")])
        return int(key)

    def _of(self, device: torch.device) -> torch.Generator:
        if device not in self.generators:
            self.generators[device] = torch.Generator(device).manual_seed(self._key())
        return self.generators[device]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags or kwargs.get("generator") is not None:
            return func(*args, **kwargs)
        device = next((v.device for v in args if isinstance(v, Tensor)), kwargs.get("device")) or torch.device("cpu")
        for other in (func, *(getattr(func.overloadpacket, name) for name in func.overloadpacket.overloads())):
            takes = [a.name for a in other._schema.arguments]  # for instance randint.low_generator for randint.low
            rest = [name for name in takes if name != "generator"]
            if rest != takes and rest == [a.name for a in func._schema.arguments if a.name != "generator"]:
                named = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
                return other(**(named | {"generator": self._of(device)}))
        with _LOCK, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.default_generator.manual_seed(self._key())  # a kernel of a GPU that takes no generator
            if device.type == "cuda":
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(self._key())
            return func(*args, **kwargs)
