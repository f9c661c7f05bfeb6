"""The register of numerical checks: one for every labelled equation of theory/*.md."""

from __future__ import annotations

from collections.abc import Callable

CHECKS: dict[str, Callable[..., None]] = {}


def checks(label: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a test as the check of an equation."""

    def register(test: Callable[..., None]) -> Callable[..., None]:
        assert label not in CHECKS, label
        CHECKS[label] = test
        return test

    return register
