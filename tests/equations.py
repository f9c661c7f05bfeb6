"""The register of numerical checks: one for every labelled equation of theory/*.md.

A check that runs no line of the package checks algebra: it cannot see that the library does something else. Such
checks are listed in `ALGEBRA`, and every check is held to that list as it runs, so that none becomes one unseen.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import ebmeta

CHECKS: dict[str, Callable[..., None]] = {}
PACKAGE = str(Path(ebmeta.__file__).parent)

#: Checks that run no line of the package, by why there is none to run.
REASONS = {
    "a step of a derivation, whose result has a check that runs the package": (
        "eq-cdf eq-tails eq-log-pool eq-pool eq-pointwise eq-donsker eq-decouple eq-complete eq-direction "
        "eq-tail eq-gaussian-tail eq-sbc-exchange eq-vmf-posterior"
    ),
    "a statement about information in any world, summed over small ones": (
        "eq-task-information eq-split-information eq-blind eq-risks eq-budget eq-priced-risk"
    ),
    "what the package does not do, and why it does something else": "eq-sign eq-james-stein",
}
ALGEBRA = frozenset(label for labels in REASONS.values() for label in labels.split())


def checks(label: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a test as the check of an equation, and see that it runs the package unless it is listed."""

    def register(test: Callable[..., None]) -> Callable[..., None]:
        assert label not in CHECKS, label

        @functools.wraps(test)
        def check(*args: Any, **kwargs: Any) -> None:
            with _calls() as calls:
                test(*args, **kwargs)
            if calls:
                assert label not in ALGEBRA, f"{label} runs {calls[0]} now: take it off ALGEBRA"
            else:
                assert label in ALGEBRA, f"{label} runs no line of the package: make it do so, or list it in ALGEBRA"

        CHECKS[label] = check
        return check

    return register


@contextmanager
def _calls() -> Iterator[list[str]]:
    """Yield a list that will hold the name of the first function of the package that the block calls."""
    calls: list[str] = []

    def profile(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            calls.append(frame.f_code.co_name)
            sys.setprofile(None)

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        yield calls
    finally:
        sys.setprofile(before)
