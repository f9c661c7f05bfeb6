"""The words and tables of a summary."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

__all__ = ["number", "shown", "text_of"]

DIGITS = 4  # significant ones in a table


def text_of(facts: Sequence[tuple[str, str]], tables: Sequence[tuple[str, pd.DataFrame]], notes: Sequence[str]) -> str:
    """Return a summary as text.

    Args:
        facts: names and values, one a line.
        tables: titles and tables.
        notes: sentences.

    Examples:
        >>> print(text_of([("rows", "180")], [("Spreads", pd.DataFrame({"estimate": [24.74]}, index=["sd"]))], ["So."]))
        rows  180
        <BLANKLINE>
        Spreads
           estimate
        sd    24.74
        <BLANKLINE>
        So.
    """
    width = max(len(name) for name, _ in facts)
    parts = ["\n".join(f"{name:<{width}}  {value}" for name, value in facts)]
    parts += [f"{title}\n{shown(table).to_string()}" for title, table in tables]
    return "\n\n".join([*parts, *(["\n".join(notes)] if notes else [])])


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table as it is shown: one name a row, and numbers as text."""
    out = table.copy()
    if isinstance(out.index, pd.MultiIndex):
        out.index = [" ".join(str(v) for v in key) for key in out.index]
    out.index.name = None
    return out.map(number)


def number(value: float) -> str:
    """Return a number with some significant digits, and no exponent where it needs none."""
    if not np.isfinite(value):
        return "-"
    return f"{value:.0f}" if abs(value) >= 10**DIGITS and abs(value) < 1e9 else f"{value:.{DIGITS}g}"
