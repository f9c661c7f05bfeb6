"""The page of `ebmeta classify`, of one screen: how many rows of each class, which are sure and which are not."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ebmeta.app.classify_files import Classified, counted, share
from ebmeta.estimators.rows import unlike
from ebmeta.foundation.pages import render
from ebmeta.foundation.writing import write
from ebmeta.plots.axes import embedded

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ClassPage", "plane", "write_page"]

TEMPLATE = Path(__file__).with_name("classify.html")
GREY = "#8a929e"
ROWS, FEW = 3, 6  # surest and least sure ones of each of so many classes; of more classes, one less
SUGGESTED = 5  # rows to label next
MOST = 2000  # unlabelled rows in the picture
NAMED = 12  # classes whose names stand in the picture


@dataclass(frozen=True, eq=False)
class ClassPage:
    """What the page shows.

    Args:
        found: rows and their classes.
    """

    found: Classified

    grey = GREY

    @property
    def by(self) -> str:
        """What rows are named by."""
        names = self.found.result["columns"]["ids"]
        return f"column {names[0]!r}" if names and names[0] else "their number in the file, from 0"

    @property
    def colors(self) -> list[str]:
        """The colour of each class."""
        import seaborn as sns

        count = len(self.found.clf.classes_)
        return list((sns.color_palette("deep") if count <= 10 else sns.husl_palette(count, s=0.8, l=0.55)).as_hex())

    @property
    def headline(self) -> str:
        """What was found, in a sentence."""
        rows, classes = counted(len(self.found.rows), "row"), counted(len(self.found.clf.classes_), "class")
        whose = "those of the classes" if self.found.clf.outliers else "them"
        return f"{rows} in {classes}; {share(self.found.right)} of {whose} probably right"

    @property
    def sentences(self) -> list[str]:
        """What the headline rests on."""
        found = self.found
        labelled = counted(int(found.labelled.sum()), "labelled row")
        out = [
            f"Learned from {labelled} and from how all rows lie. The "
            "share is what the probabilities say of themselves, the mean of the largest ones."
        ]
        if found.clf.outliers:
            out.append(f"About {found.outlier.sum():.0f} rows are of none of the classes.")
        if (sets := found.result.get("sets")) is not None:
            out.append(
                f"Sets hold the true class in {sets['level']:.0%} of rows that are drawn like the labelled ones; they "
                f"have {sets['mean_size']:.1f} classes on average."
            )
        if names := self.suggested:
            out.append(f"Labels of these rows would tell most of the others: {', '.join(names)}.")
        return out

    @cached_property
    def suggested(self) -> list[str]:
        """The rows whose labels would tell most."""
        found = self.found
        rows = torch.from_numpy(np.array(found.rows, dtype=np.float64))
        number = min(SUGGESTED, int(unlike(rows, found.clf.support_X_).sum()))
        return [str(found.ids[row]) for row in found.clf.suggest(found.rows, number)] if number else []

    @property
    def best(self) -> np.ndarray:
        """The likeliest class of each row, or their number where it is likelier of none of them."""
        found = self.found
        return np.where(found.outlier > 0.5, len(found.clf.classes_), found.probs.argmax(1))

    @property
    def classes(self) -> list[dict[str, Any]]:
        """The classes: numbers of rows, the surest of them and the least sure ones."""
        found = self.found
        best = self.best
        sure = (1 - found.outlier) * found.probs.max(1)
        out = []
        for c, (name, color) in enumerate(zip(found.clf.classes_, self.colors, strict=False)):
            own = np.flatnonzero(best == c)
            order = own[np.argsort(-sure[own], kind="stable")]
            shown = ROWS if len(found.clf.classes_) <= FEW else ROWS - 1
            surest, rest = order[:shown], order[shown:]
            out.append(
                {
                    "name": str(name),
                    "color": color,
                    "labelled": int(found.labelled[c]),
                    "expected": f"{found.expected[c]:.0f}",
                    "surest": [self._row(row) for row in surest],
                    "doubtful": [self._row(row) for row in rest[::-1][:shown]],
                }
            )
        return out

    @property
    def outliers(self) -> dict[str, Any] | None:
        """Rows of none of the classes; None where nobody asked."""
        outlier = self.found.outlier
        if not self.found.clf.outliers:
            return None
        first = [row for row in np.argsort(-outlier, kind="stable")[:ROWS] if outlier[row] > 0.5]
        rows = [{"id": str(self.found.ids[row]), "share": _short(outlier[row])} for row in first]
        return {"expected": f"{outlier.sum():.0f}", "surest": rows}

    def _row(self, row: int) -> dict[str, str]:
        found = self.found
        probs = (1 - found.outlier[row]) * found.probs[row]
        order = np.argsort(-probs, kind="stable")
        other, name = (probs[order[1]], str(found.clf.classes_[order[1]])) if len(order) > 1 else (0.0, "")
        if found.outlier[row] > other:
            other, name = found.outlier[row], "none of them"
        return {"id": str(found.ids[row]), "share": _short(probs[order[0]]), "other": f"{name} {_short(other)}"}

    @property
    def caption(self) -> str:
        """What the picture shows."""
        shown = min(MOST, len(self.found.rows))
        some = "" if shown == len(self.found.rows) else f", {shown:,} of them drawn at even steps"
        names = "" if self.named else " Colours are those of the table."
        return (
            f"Directions of all rows from their centre{some}, in the plane in which they spread most (principal "
            f"components). Colour: likeliest class. Size: how sure. Diamonds: labelled rows.{names}"
        )

    @cached_property
    def named(self) -> bool:
        """Whether names of classes stand in the picture: they are few, and its font has their characters."""
        from matplotlib.font_manager import FontProperties, findfont, get_font

        has = get_font(findfont(FontProperties())).get_charmap()
        names = [str(c) for c in self.found.clf.classes_]
        return len(names) <= NAMED and all(ord(c) in has for name in names for c in name)

    @property
    def used(self) -> str:
        """What the classes were learned from."""
        return self.found.used[0].upper() + self.found.used[1:]

    @property
    def picture(self) -> str:
        """The picture, as a data address."""
        return embedded(self.figure())

    def figure(self) -> Figure:
        """Draw the rows in the plane in which their directions spread most."""
        from matplotlib import patheffects
        from matplotlib.figure import Figure

        found = self.found
        with warnings.catch_warnings(action="ignore"):  # predictions have told of doubts, and count copies once
            task = found.clf.tasks(found.rows)
        of_task = found.clf.model_.predictor.of_task(task)
        some = np.unique(np.linspace(0, len(found.rows) - 1, min(MOST, len(found.rows))).astype(int))
        labelled, unlabelled = of_task.support[0, :, :-1].numpy(), of_task.query[0, some, :-1].numpy()
        at = plane(np.concatenate([labelled, unlabelled]))
        of_labelled, of_rows = at[: len(labelled)], at[len(labelled) :]
        colors = np.array([*self.colors, GREY])
        sure = ((1 - found.outlier) * found.probs.max(1))[some]
        best = self.best[some]
        figure = Figure(figsize=(5.4, 4.9), layout="constrained")
        ax = figure.subplots()
        size = 60 * sure**2 * min(1.0, (300 / len(some)) ** 0.5) + 4
        ax.scatter(of_rows[:, 0], of_rows[:, 1], s=size, c=colors[best], alpha=0.65, linewidths=0, rasterized=True)
        own = colors[found.clf.support_y_.numpy()]
        x, y = of_labelled.T
        ax.scatter(x, y, s=55, c=own, marker="D", edgecolors="black", linewidths=1.3, zorder=3)
        halo = [patheffects.withStroke(linewidth=3, foreground="white")]
        for c, name in enumerate(found.clf.classes_ if self.named else ()):
            if (best == c).any():
                x, y = _outside(of_rows[best == c], of_rows)
                text = ax.text(x, y, f"{name!s:.18}", ha="center", va="center", weight="bold", color=colors[c])
                text.set(path_effects=halo, zorder=4, parse_math=False)
        ax.set(xticks=[], yticks=[], aspect="equal")
        ax.spines[:].set_color("#d9dde3")
        return figure

    def to_html(self) -> str:
        """Return one self-contained page, which needs no other file or address."""
        return render(TEMPLATE, self)


def plane(rows: np.ndarray) -> np.ndarray:
    """Return rows in their first two principal components, shape `(N, 2)`, with the largest number of each positive.

    Args:
        rows: shape `(N, D)`.

    Examples:
        >>> plane(np.array([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0], [1.0, 1.0, 0.0], [1.0, -1.0, 0.0]])).shape
        (4, 2)
    """
    from scipy.linalg import eigh

    off = rows.astype(np.float64) - rows.mean(0)
    last = [max(0, len(rows) - 2), len(rows) - 1]
    values, vectors = eigh(off @ off.T, subset_by_index=last)
    at = (vectors * np.sqrt(values.clip(0)))[:, ::-1]
    at = np.pad(at, ((0, 0), (0, 2 - at.shape[1])))
    largest = np.take_along_axis(at, np.abs(at).argmax(0)[None], 0)
    out: np.ndarray = at * np.where(largest < 0, -1, 1)
    return out


def _outside(own: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return a place for the name of a class, on the side of its rows that is away from all."""
    middle = np.median(own, 0)
    away = middle - np.median(rows, 0)
    away /= max(float(np.linalg.norm(away)), 1e-12)
    place: np.ndarray = middle + away * np.quantile((own - middle) @ away, 0.9)
    return place


def _short(value: float) -> str:
    return share(value).replace("over ", ">")


def write_page(found: Classified, path: Path, overwrite: bool) -> None:
    """Write the page.

    Args:
        found: rows and their classes.
        path: the page.
        overwrite: replace also a file that ebmeta did not write.

    Raises:
        OSError: if it cannot be written, or may not be replaced.
    """
    write(path, ClassPage(found).to_html().encode(), "page", overwrite)
