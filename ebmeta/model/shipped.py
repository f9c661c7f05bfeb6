"""The weights that ship with the package, as the start of a model of one's own features."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ebmeta.foundation.tensor_files import read_tensors
from ebmeta.model.recipes import ClassifierRecipe, GeneralRecipe, Parts

__all__ = ["FOLDER", "pretrained_parts"]

FOLDER = Path(__file__).parent / "weights" / "general"


def pretrained_parts(wanted: ClassifierRecipe, embedder: nn.Module | None) -> tuple[GeneralRecipe, Parts]:
    """Return the parts of the general classifier for features of one number, and their recipe.

    Args:
        wanted: what was asked for; number of features and steps are free.
        embedder: None; features are taken as they come.

    Raises:
        ValueError: if anything else than features and steps differs from the defaults.
        OSError: if the package was installed without its weights.
    """
    plain = ClassifierRecipe(num_features=wanted.num_features, num_steps=wanted.num_steps)
    if wanted != plain or embedder is not None:
        raise ValueError("pretrained: expected no arguments but num_features, num_steps and beta beside it, got others")
    tensors = read_tensors(FOLDER / "model.safetensors", "model").tensors
    width = len(tensors["prior.hidden.bias"])
    steps = len(tensors["refiner.temperature.bias"]) if wanted.num_steps is None else wanted.num_steps
    recipe = GeneralRecipe(num_features=wanted.num_features, num_steps=steps, width=width)
    parts = recipe.build()
    for name, part in {"prior": parts.prior, "refiner": parts.refiner}.items():
        part.load_state_dict({key: _own(tensors[f"{name}.{key}"], key, steps) for key in part.state_dict()})
    return recipe, parts


def _own(value: Tensor, key: str, steps: int) -> Tensor:
    """Return the weights of as many steps, where each has its own; further ones repeat the last."""
    own = torch.arange(steps).clamp(max=len(value) - 1) if key.startswith("temperature.") else ...
    return value[own]
