"""Table and figure of the page on counts, made from benchmark results before each build."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from groups import table

__all__ = ["figure", "log_scores", "seconds", "setup"]

METHODS = {"ebmeta": "ebmeta", "ebmeta_maximum": "ebmeta, prior at its maximum"}


def log_scores(sets: dict[str, Any]) -> str:
    """Return log scores of each set in nats per query, and differences from NUTS with their standard errors."""
    rows = []
    for name, found in sets.items():
        row = [name, str(found["groups"]), str(found["queries"]), f"{found['nuts']['score']:.3f}"]
        for method in METHODS:
            row += [
                f"{found[method]['score']:.3f}",
                f"{found[method]['difference']:+.3f} ± {found[method]['error']:.3f}",
            ]
        rows.append(row)
    header = ["set", "new groups", "queries", "NUTS"]
    return table(header + [text for name in METHODS.values() for text in (name, "difference")], rows)


def seconds(sets: dict[str, Any]) -> str:
    """Return processor seconds of each set: per new group, and of training."""
    rows = []
    for name, found in sets.items():
        row = [name, f"{found['nuts']['cpu_seconds_per_group']:.2g}"]
        for method in METHODS:
            each = found[method]
            row += [f"{each['cpu_seconds_per_group']:.2g}", f"{each['times_faster']:,.0f}"]
        rows.append([*row, f"{found['ebmeta']['train_cpu_seconds']:.0f}"])
    header = ["set", "NUTS"]
    header += [text for name in METHODS.values() for text in (name, "times faster")]
    return table([*header, "training of ebmeta"], rows)


def figure(sets: dict[str, Any], folder: Path) -> None:
    """Draw differences from NUTS with two standard errors, and the band of 0.01 nats."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    figure, axis = plt.subplots(figsize=(7, 3), layout="constrained")
    for offset, (method, label) in enumerate(METHODS.items()):
        at = [i + 0.2 * (offset - 0.5) for i in range(len(sets))]
        found = [s[method] for s in sets.values()]
        errors = [2 * f["error"] for f in found]
        axis.errorbar([f["difference"] for f in found], at, xerr=errors, fmt="o", ms=4, label=label)
    axis.axvline(0, color="grey", lw=0.8)
    axis.axvline(-0.01, color="grey", lw=0.8, ls=":")
    axis.set(yticks=range(len(sets)), yticklabels=list(sets), xlabel="log score beyond that of NUTS, nats per query")
    axis.legend(fontsize=8)
    figure.savefig(folder / "counts.png", dpi=120)
    plt.close(figure)


def _generate(app: Any) -> None:
    sets = json.loads((Path(app.config.results_folder) / "counts.json").read_text(encoding="utf-8"))["sets"]
    folder = Path(app.srcdir) / "_generated" / "counts"
    figure(sets, folder)
    for name, text in {"scores": log_scores(sets), "seconds": seconds(sets)}.items():
        (folder / f"{name}.md").write_text(text, encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    """Make the tables and the figure before each build."""
    app.connect("builder-inited", _generate)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
