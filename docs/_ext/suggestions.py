"""Table and figure of the page on suggested rows, made from benchmark results before each build."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from groups import table

__all__ = ["figure", "gains", "setup"]

KINDS = {"equal": "equal classes", "unequal": "unequal classes", "five_at_a_time": "equal classes, five rows at a time"}
RULES = {
    "information": "suggest",
    "margin": "smallest margin",
    "entropy": "largest entropy",
    "k_center": "farthest (k-center)",
    "random": "random",
}
ENCODERS = {
    "conv4": "Conv-4, CIFAR-FS",
    "efficientnet_lite0": "EfficientNet-lite0, PACS",
    "minilm": "MiniLM, intents",
    "wordllama": "WordLlama, intents",
    "tf_idf": "TF-IDF + SVD, intents",
    "omniglot_pixels": "pixels, Omniglot",
    "digit_pixels": "pixels, digits",
}


def gains(result: dict[str, Any]) -> str:
    """Return gains of accuracy over random rows in points, means over the curve, with 95% intervals."""
    rows = []
    for encoder, kinds in result["encoders"].items():
        star = " *" if encoder in result["chosen_on"] else ""
        for kind, found in kinds.items():
            each = [found[rule]["gain_accuracy"] for rule in RULES if rule != "random"]
            rows.append([ENCODERS[encoder] + star, KINDS[kind], *(f"{100 * m:+.1f} ± {100 * w:.1f}" for m, w in each)])
    return table(["encoder", "pile", *(name for rule, name in RULES.items() if rule != "random")], rows)


def figure(overall: dict[str, Any], folder: Path) -> None:
    """Draw mean accuracy against labelled rows, with bands of 95%."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(1, len(KINDS), figsize=(10, 3.2), layout="constrained", sharey=True)
    for axis, (kind, title) in zip(axes, KINDS.items(), strict=True):
        for rule, label in RULES.items():
            means, widths = ([100 * v for v in values] for values in overall[kind][rule]["accuracy"])
            step = 5 if kind == "five_at_a_time" else 1
            labels = [step * i for i in range(len(means))]
            (line,) = axis.plot(labels, means, label=label, lw=2 if rule == "information" else 1)
            low, high = ([m + sign * w for m, w in zip(means, widths, strict=True)] for sign in (-1, 1))
            axis.fill_between(labels, low, high, alpha=0.12, color=line.get_color(), lw=0)
        axis.set(title=title, xlabel="rows labelled after the first five")
        axis.title.set_fontsize(9)
    axes[0].set_ylabel("accuracy of other rows, %")
    axes[-1].legend(fontsize=7)
    figure.savefig(folder / "curves.png", dpi=120)
    plt.close(figure)


def _generate(app: Any) -> None:
    result = json.loads((Path(app.config.results_folder) / "suggest.json").read_text(encoding="utf-8"))
    folder = Path(app.srcdir) / "_generated" / "suggest"
    figure(result["overall"], folder)
    (folder / "gains.md").write_text(gains(result), encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    """Make the table and the figure before each build."""
    app.connect("builder-inited", _generate)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
