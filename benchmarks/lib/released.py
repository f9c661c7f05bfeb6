"""Scripts that authors released, imported from a clone."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

__all__ = ["module_in"]


@contextmanager
def module_in(folder: Path, name: str) -> Iterator[Any]:
    """Import a script from a folder, on the CPU and without its notebook progress bars."""
    bar = types.ModuleType("tqdm.notebook")
    bar.tqdm = lambda x: x  # type: ignore[attr-defined]
    with (
        patch.object(sys, "path", [str(folder), *sys.path]),
        patch.dict(sys.modules, {"tqdm.notebook": bar}),
        patch.object(torch.Tensor, "cuda", lambda self: self),
    ):
        if not (folder / f"{name}.py").is_file():
            raise FileNotFoundError(f"{folder.name}/{name}.py not found")
        yield importlib.import_module(name)
