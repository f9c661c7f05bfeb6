"""Packages that are made absent for Python, as if they were not installed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


def without(finders: Sequence[Any], packages: Collection[str]) -> list[Any]:
    """Return finders, those of `sys.meta_path`, that find all but some packages."""

    class Finder(PathFinder):
        @classmethod
        def find_spec(
            cls, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
        ) -> ModuleSpec | None:
            return None if fullname.partition(".")[0] in packages else super().find_spec(fullname, path, target)

    return [Finder if finder is PathFinder else finder for finder in finders]
