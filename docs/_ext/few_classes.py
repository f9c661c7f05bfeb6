"""Table and figure of training on few classes, made from benchmark results before each build."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from groups import table

__all__ = ["figure", "rows", "setup"]

ENCODERS = {"conv4": "Conv-4, CIFAR-FS", "omniglot_pixels": "pixels, Omniglot"}
COLUMNS = {"5way_1shot": "5-way 1-shot", "5way_5shot": "5-way 5-shot"}
METHODS = {"general": "general, no training", "pretrained": "pretrained", "scratch": "from nothing"}


def rows(result: dict[str, Any]) -> str:
    """Return accuracy in percent, NLL in nats and calibration error by encoder, kind of task and training classes."""
    lines = []
    for encoder, name in ENCODERS.items():
        untrained, methods = result["pieces"][encoder]["general"], result["overall"][encoder]
        for column, kind in COLUMNS.items():
            first = " ".join(_shown(untrained[column]))
            for number in methods["scratch"][column]:
                each = [" ".join(_shown(methods[method][column][number])) for method in METHODS if method != "general"]
                lines.append([name, kind, number, first, *each])
    return table(["features", "tasks", "training classes", *METHODS.values()], lines)


def _shown(found: dict[str, list[float]]) -> list[str]:
    return [f"{100 * found['accuracy'][0]:.1f}%,", f"{found['nll'][0]:.3f},", f"{found['ece'][0]:.3f}"]


def figure(result: dict[str, Any], folder: Path) -> None:
    """Draw accuracy and NLL against the number of training classes, with bars of 95%."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    panels = [(encoder, column) for encoder in ENCODERS for column in COLUMNS]
    figure, axes = plt.subplots(2, len(panels), figsize=(11, 5), layout="constrained", sharex=True)
    for at, (encoder, column) in enumerate(panels):
        for axis, name, factor in ((axes[0, at], "accuracy", 100), (axes[1, at], "nll", 1)):
            for method in ("pretrained", "scratch"):
                found = result["overall"][encoder][method][column]
                means, widths = ([factor * v[name][k] for v in found.values()] for k in (0, 1))
                axis.errorbar(range(len(found)), means, widths, label=METHODS[method], marker="o", ms=3, capsize=2)
            untrained = factor * result["pieces"][encoder]["general"][column][name][0]
            axis.axhline(untrained, color="grey", lw=0.8, ls=":", label=METHODS["general"])
            axis.set_xticks(range(len(found)), list(found))
        axes[0, at].set_title(f"{ENCODERS[encoder]}, {COLUMNS[column]}", fontsize=9)
        axes[1, at].set_xlabel("training classes")
    axes[0, 0].set_ylabel("accuracy, %")
    axes[1, 0].set_ylabel("NLL, nats")
    axes[0, 0].legend(fontsize=7)
    figure.savefig(folder / "curves.png", dpi=120)
    plt.close(figure)


def _generate(app: Any) -> None:
    result = json.loads((Path(app.config.results_folder) / "fine_tuning.json").read_text(encoding="utf-8"))
    folder = Path(app.srcdir) / "_generated" / "few_classes"
    figure(result, folder)
    (folder / "rows.md").write_text(rows(result), encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    """Make the table and the figure before each build."""
    app.connect("builder-inited", _generate)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
