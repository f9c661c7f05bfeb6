"""Figure and table of the page on growth, made from benchmark results before each build."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from groups import table

__all__ = ["exponents", "figure", "setup"]

JOBS = {"predict": "a prediction", "train": "a step of training", "mixed_model": "a fit of a mixed model"}
UNITS = {"seconds": "processor seconds", "megabytes": "peak MB"}


def exponents(result: dict[str, Any]) -> str:
    """Return the fitted exponents of time and memory, with the reason of each above 1.1."""
    rows = []
    for job, axes in result["jobs"].items():
        for axis, found in axes.items():
            span = f"{found['sizes'][0]:,} to {found['sizes'][-1]:,}"
            powers = [f"{found['exponents'][name]:.2f}" for name in UNITS]
            others = ", ".join(f"{n:,} {name}" for name, n in found["others"].items())
            rows.append([JOBS[job], axis, span, others, *powers, result["reasons"].get(f"{job}.{axis}", "")])
    return table(["job", "grows", "from, to", "beside", "exponent of time", "of memory", "reason"], rows)


def figure(result: dict[str, Any], folder: Path) -> None:
    """Draw time and memory against sizes, both on logarithmic scales; dotted lines grow like the size."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullFormatter

    folder.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(len(UNITS), len(JOBS), figsize=(10, 6), layout="constrained")
    for column, (job, found) in zip(axes.T, result["jobs"].items(), strict=True):
        for axis, (name, unit) in zip(column, UNITS.items(), strict=True):
            for grows, curve in found.items():
                relative = [size / curve["sizes"][0] for size in curve["sizes"]]
                axis.plot(relative, curve[name], marker="o", ms=3, lw=1, label=grows)
            lowest, steps = (
                min(curve[name][0] for curve in found.values()),
                max(len(c["sizes"]) for c in found.values()),
            )
            axis.plot([1, 2**steps / 2], [lowest, lowest * 2**steps / 2], "k:", lw=0.8)
            axis.set_xscale("log", base=2)
            axis.set_yscale("log")
            axis.xaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_formatter(NullFormatter())
            axis.set_ylabel(unit)
        column[0].set_title(JOBS[job], fontsize=9)
        column[-1].set_xlabel("size over the least one")
        column[0].legend(fontsize=7)
    figure.savefig(folder / "growth.png", dpi=120)
    plt.close(figure)


def _generate(app: Any) -> None:
    result = json.loads((Path(app.config.results_folder) / "growth.json").read_text(encoding="utf-8"))
    folder = Path(app.srcdir) / "_generated" / "growth"
    figure(result, folder)
    (folder / "exponents.md").write_text(exponents(result), encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    """Make the table and the figure before each build."""
    app.connect("builder-inited", _generate)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
