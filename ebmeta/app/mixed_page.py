"""The page of `ebmeta mixed`: what was fitted, its tables and its figures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ebmeta.app.classify_files import counted
from ebmeta.foundation.pages import render
from ebmeta.foundation.writing import write
from ebmeta.mixed.result import MixedModel
from ebmeta.mixed.summary import shown
from ebmeta.plots.axes import embedded, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["FIGURES", "MixedPage", "draw_figures", "save_figures"]

TEMPLATE = Path(__file__).with_name("mixed.html")
#: Files of figures, and what they show.
FIGURES = {
    "effects": "What each group says by itself, and where the model draws it: {term}.",
    "lines": "Rows of some groups, and the mean of a new label of each along {column}.",
    "fitted": "Rows against their fitted means, and the line on which both are equal.",
    "residuals": "Quantile residuals of rows given the others of their group. A right model stays in the band with "
    "probability 95%.",
}
MOST_GROUPS = 300  # in a figure of effects
LINES = 12  # groups in the figure of lines


@dataclass(frozen=True, eq=False)
class MixedPage:
    """What the page shows.

    Args:
        fit: the fitted model.
        figures: axes and caption of each figure, by name.
        files: what else was written.
    """

    fit: MixedModel
    figures: dict[str, tuple[Axes, str]]
    files: str

    @property
    def headline(self) -> str:
        """What was fitted, in a line."""
        rows = counted(len(self.fit.engine.rows), "row")
        groups = [
            f"{len(g.labels):,} of {f.name}"
            for f, g in zip(self.fit.engine.factors, self.fit.engine.rows.groupings, strict=True)
        ]
        return f"{self.fit.formula}: {rows}, groups {', '.join(groups)}"

    @property
    def sentences(self) -> list[str]:
        """What the data cannot tell, or that they tell all."""
        return self.fit.notes() or ["The optimiser ended at a maximum, and every spread is above 0 beyond doubt."]

    @property
    def facts(self) -> list[tuple[str, str]]:
        """What the summary says before its tables."""
        return self.fit.facts()

    @property
    def tables(self) -> list[dict[str, Any]]:
        """The tables of the summary."""
        return [
            {
                "title": title,
                "columns": [str(c) for c in table],
                "rows": [{"name": str(name), "cells": cells} for name, *cells in shown(table).itertuples()],
            }
            for title, table in self.fit.tables().items()
        ]

    @property
    def pictures(self) -> list[dict[str, str]]:
        """The figures, as data addresses."""
        return [{"address": embedded(ax), "caption": caption} for ax, caption in self.figures.values()]

    def write(self, path: Path, overwrite: bool) -> None:
        """Write the page.

        Args:
            path: the page.
            overwrite: replace also a file that ebmeta did not write.

        Raises:
            OSError: if it cannot be written, or may not be replaced.
        """
        write(path, render(TEMPLATE, self).encode(), "page", overwrite)


def draw_figures(fit: MixedModel, rows: pd.DataFrame) -> dict[str, tuple[Axes, str]]:
    """Return the figures that there are for a fit, with their captions.

    Args:
        fit: the fitted model.
        rows: what it was fitted to.
    """
    from ebmeta.plots.groups import caterpillar, group_lines, shrinkage
    from ebmeta.plots.residuals import observed_against_fitted, residual_quantiles

    out: dict[str, tuple[Axes, str]] = {}
    factor, term = fit.engine.factors[0], fit.engine.factors[0].terms[-1]
    alone = len(fit.engine.factors) == 1
    if len(fit.engine.rows.groupings[0].labels) <= MOST_GROUPS:
        if alone:
            out["effects"] = shrinkage(fit, term), FIGURES["effects"].format(term=term)
        else:
            out["effects"] = caterpillar(fit, term), f"Effects of {factor.name} on {term}, with 95% intervals."
    columns = [c for c in fit.design.numeric if c in rows]
    response = rows.get(fit.design.formula.response)
    if columns and response is not None and pd.api.types.is_numeric_dtype(response):
        ax = group_lines(fit, rows, columns[0], num_groups=LINES)
        out["lines"] = ax, FIGURES["lines"].format(column=columns[0])
    out["fitted"] = observed_against_fitted(fit), FIGURES["fitted"]
    out["residuals"] = residual_quantiles(fit), FIGURES["residuals"]
    return out


def save_figures(figures: dict[str, tuple[Axes, str]], folder: Path, overwrite: bool) -> None:
    """Write the figures to a folder, as PNG files."""
    for name, (ax, _) in figures.items():
        save_figure(ax, folder / f"{name}.png", overwrite)
