"""Axes to draw on, and figures written to files or into pages."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING

from ebmeta.foundation.checks import above, at_least, check, checked
from ebmeta.foundation.writing import marked, write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["axes_or_new", "embedded", "save_figure"]


@checked(width=above(0), height=above(0))
def axes_or_new(ax: Axes | None, width: float = 4.8, height: float = 4.0) -> Axes:
    """Return the given axes, or those of a new figure.

    Args:
        ax: axes of the user's, or None.
        width: width of a new figure, in inches.
        height: its height, in inches.

    Returns:
        The axes to draw on.
    """
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    ax = check("ax", ax, Axes | None)
    return Figure(figsize=(width, height), layout="constrained").subplots() if ax is None else ax


@checked()
def save_figure(figure: Axes | Figure, path: Path, overwrite: bool = False, dpi: int = 150) -> None:
    """Write a figure, or that of some axes, to a PNG file, and make its folder where there is none.

    Args:
        figure: what to write.
        path: the file.
        overwrite: replace also a file that ebmeta did not write.
        dpi: points per inch.

    Raises:
        OSError: if the file cannot be written, or may not be replaced.
    """
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    check("figure", figure, Axes | Figure)
    whole = figure.get_figure(root=True) if isinstance(figure, Axes) else figure
    assert whole is not None  # axes that were removed from their figure have none
    buffer = io.BytesIO()
    whole.savefig(buffer, format="png", dpi=dpi, metadata={"Software": marked("picture")})
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, buffer.getvalue(), "picture", overwrite)


@checked(dpi=at_least(1))
def embedded(figure: Axes | Figure, dpi: int = 150) -> str:
    """Return a figure, or that of some axes, as the address of an SVG that the address itself contains.

    Args:
        figure: what to show.
        dpi: points per inch of what is drawn in points.
    """
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    check("figure", figure, Axes | Figure)
    whole = figure.get_figure(root=True) if isinstance(figure, Axes) else figure
    assert whole is not None  # axes that were removed from their figure have none
    buffer = io.BytesIO()
    whole.savefig(buffer, format="svg", dpi=dpi, metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()
