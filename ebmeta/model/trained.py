"""Whether a model was trained, found by comparison with its initial values."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from ebmeta.foundation.telling import tell

__all__ = ["Sums", "is_same", "say_untrained", "sums"]

ROUNDING = 1e-9  # of the size of a tensor: sums in another order, or on another device, differ by less

#: Three sums over each tensor by its name.
Sums = dict[str, tuple[float, float, float]]


class _Trained(Protocol):
    @property
    def fitted(self) -> bool: ...


def sums(model: nn.Module) -> Sums:
    """Return the sums over each parameter and buffer, without those of an embedder, which may be trained already.

    Args:
        model: a model; one on torch's "meta" device has no values, and so no sums.
    """
    return {name: _of(value) for name, value in _own(model).items() if not value.is_meta}


def is_same(model: nn.Module, known: Sums) -> bool:
    """Return whether a model has the parameters behind these sums, in any floating-point type.

    Examples:
        >>> part = nn.ParameterList([torch.tensor([0.1, 0.2, 0.3])])
        >>> known = sums(part)
        >>> is_same(part.double(), known)
        True
        >>> part[0].data = part[0].data.flip(0)
        >>> is_same(part, known)
        False
    """
    own = _own(model)
    return own.keys() == known.keys() and all(_equal(_of(value), known[name]) for name, value in own.items())


def say_untrained(model: _Trained) -> None:
    """Warn where a model that still has its initial parameters is asked for predictions.

    A warning and no refusal: such a model is a prior like any other, which laws hold for, and with which a trained one
    may be compared.
    """
    if not model.fitted:
        tell("model: expected a trained one, got one with its initial parameters: ebmeta.fit trains it")


def _own(model: nn.Module) -> dict[str, Tensor]:
    return {k: v for k, v in model.state_dict().items() if not k.startswith("predictor.embedder.")}


def _of(values: Tensor) -> tuple[float, float, float]:
    flat = values.detach().double().flatten().nan_to_num()  # what a basis has not measured yet is NaN
    weights = torch.arange(1, len(flat) + 1, dtype=flat.dtype, device=flat.device).cos()
    return float(flat.abs().sum()), float(flat.sum()), float(flat @ weights)


def _equal(new: tuple[float, float, float], old: tuple[float, float, float]) -> bool:
    return all(abs(a - b) <= ROUNDING * (new[0] + old[0]) for a, b in zip(new, old, strict=True))
