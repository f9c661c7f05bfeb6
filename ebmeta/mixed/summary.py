"""The words and tables of a summary."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ebmeta.formula.design import Design
from ebmeta.random_effects.boundary import Boundary
from ebmeta.random_effects.engine import Engine

__all__ = ["narrow", "number", "shown", "sizes", "text_of", "warnings_of"]

Array = NDArray[np.float64]
UNCLEAR = 0.05  # p-value above which a spread cannot be told from 0
LARGE = 100.0  # of a parameter that ran off to its end
FEW = 30  # groups for each term of theirs, below which normal intervals are narrow
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


def sizes(design: Design, engine: Engine) -> list[tuple[str, str]]:
    """Return how many rows and groups were fitted, and why rows were not, by name."""
    told = ((design.num_dropped, "lack a value"), (design.num_unlabelled, "have no label"))
    left = ", ".join(f"{count} {words}" for count, words in told if count)
    groups = [f"{f.name} {len(g.labels)}" for f, g in zip(engine.factors, engine.rows.groupings, strict=True)]
    rows = f"{len(engine.rows)}" + (f" of {design.num_rows} ({left})" if left else "")
    return [("rows", rows), ("groups", ", ".join(groups))]


def warnings_of(boundary: Sequence[Boundary], spreads: pd.DataFrame, converged: bool) -> list[str]:
    """Return what the data cannot tell, in sentences.

    Args:
        boundary: tests of the spreads against 0.
        spreads: table of the components.
        converged: whether the optimiser ended at a maximum.
    """
    out = [
        f"{test.factor}: the spread of {test.term} cannot be told from 0 (it gains {test.gain:.2f} nats, "
        f"p = {test.p_value:.2g})."
        for test in boundary
        if test.p_value > UNCLEAR
    ]
    rest = spreads.loc[[key[0] == "residual" for key in spreads.index]]
    for name, estimate in rest.droplevel("factor")["estimate"][rest["std_error"].isna().to_numpy()].items():
        where = "very small" if estimate < 1 else "very large" if estimate > LARGE else f"next to {estimate:.3g}"
        out.append(f"residual {name}: the labels say no more than that it is {where}.")
    return out if converged else [*out, "The optimiser did not end at a maximum: trust no number here."]


def narrow(engine: Engine, at: Array) -> list[str]:
    """Return that intervals of coefficients are narrow, in a sentence, where groups are few and these are normal.

    Args:
        engine: the criterion.
        at: its maximum.
    """
    pairs = zip(engine.rows.groupings, engine.factors, strict=True)
    groups, terms, name = max((len(g.labels), len(f.terms), f.name) for g, f in pairs)
    if groups >= FEW * terms or engine.freedom(at) is not None:
        return []
    return [
        f"{name}: of {groups} groups, these intervals of the common terms are narrow; propagate() and confint() have "
        "better ones."
    ]


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
