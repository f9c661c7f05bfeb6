"""The result of a check, with a status, a finding in plain words, its meaning and advice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ebmeta.foundation.checks import checked

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ORDER", "Check", "Status", "interval", "worst"]

Status = Literal["good", "unclear", "caution", "bad"]
ORDER: tuple[Status, ...] = ("good", "unclear", "caution", "bad")


@checked()
@dataclass(frozen=True, eq=False)
class Check:
    """One check of a model.

    Args:
        name: short name, the key in files.
        question: what it asks.
        status: "good"; "unclear", where the tasks are too few to tell; "caution"; or "bad".
        finding: what was found, in a sentence or two, with figures.
        meaning: what the check is, for readers who do not know it.
        advice: what to do about it; empty where there is nothing to do.
        numbers: what was measured, by name.
        figure: its picture, if it has one.
        caption: what the picture shows.
    """

    name: str
    question: str
    status: Status
    finding: str
    meaning: str
    advice: str = ""
    numbers: Mapping[str, Any] = field(default_factory=dict)
    figure: Figure | None = None
    caption: str = ""


@checked()
def worst(checks: Sequence[Check]) -> Status:
    """Return the gravest status of some checks.

    Examples:
        >>> worst([Check("a", "?", "good", "", ""), Check("b", "?", "caution", "", "")])
        'caution'
    """
    return max((check.status for check in checks), key=ORDER.index, default="good")


@checked()
def interval(low: float, high: float, near: float, far: float) -> Status:
    """Judge an interval of something that should be 0.

    Args:
        low: lower end of its 95% interval.
        high: upper end.
        near: size that does no harm.
        far: size that does much.

    Returns:
        "bad" where all of the interval is beyond `far`, "caution" where all of it is beyond `near`, "unclear" where it
        is so wide that it reaches beyond `far`, and "good" otherwise.

    Examples:
        >>> interval(0.00, 0.02, 0.03, 0.08), interval(0.04, 0.06, 0.03, 0.08), interval(-0.2, 0.2, 0.03, 0.08)
        ('good', 'caution', 'unclear')
    """
    least = max(low, -high, 0.0)
    if least > far:
        return "bad"
    if least > near:
        return "caution"
    return "unclear" if max(abs(low), abs(high)) > far else "good"
