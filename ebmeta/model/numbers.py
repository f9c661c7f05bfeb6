"""The type of the numbers of a model: 32 or 64 bits, one for all parts but an embedder."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = ["EMBEDDER", "number_type", "own_numbers"]

EMBEDDER = "predictor.embedder."  # before the names of tensors of a network from outside, which may have any type


def own_numbers(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters of a model by name, without those of an embedder, and what the head knows the type by."""
    found = {name: p for name, p in model.named_parameters() if not name.startswith(EMBEDDER)}
    return found | {"predictor": model.get_buffer("predictor.like")}


def number_type(place: str, numbers: Mapping[str, Tensor]) -> torch.dtype:
    """Return the type that all numbers have.

    Args:
        place: what an error begins with.
        numbers: tensors by name.

    Raises:
        ValueError: if there are several types, or it is none that predictions are made in: others were rounded.

    Examples:
        >>> number_type("model", {"loc": torch.zeros(2)})
        torch.float32
    """
    first: dict[torch.dtype, str] = {}
    for name, value in numbers.items():
        first.setdefault(value.dtype, name)
    if len(first) == 1 and (only := next(iter(first))) in (torch.float32, torch.float64):
        return only
    words = " and ".join(f"{dtype} ({name})" if len(first) > 1 else f"{dtype}" for dtype, name in first.items())
    raise ValueError(
        f"{place}: expected parameters all of 32 or all of 64 bits, got {words}; model.float() or .double() does it"
    )
