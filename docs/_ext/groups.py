"""Tables and figures of the pages on groups, made from benchmark results before each build."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["figures", "setup", "table", "tables"]

METHODS = {
    "ebmeta": "ebmeta",
    "em": "random coefficients, EM",
    "em_basis": "EM, basis of ebmeta",
    "mixedlm": "MixedLM",
    "own": "own fit",
    "pooled": "pooled fit",
    "gp": "Gaussian process",
}
WORDS = {"rmse": "RMSE", "nll": "NLL", "crps": "CRPS", "coverage": "coverage of 90% intervals"}
LIKELIHOODS = {"normal": "normal", "normal_per_task": "normal, noise per group", "student_t": "Student-t"}


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    lines = ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)]
    return "\n".join(lines) + "\n"


def _mean(values: list[float], error: bool) -> str:
    text = f"{np.mean(values):.3f}"
    return f"{text} ± {np.std(values, ddof=1) / len(values) ** 0.5:.3f}" if error else text


def tables(sets: dict[str, Any]) -> dict[str, str]:
    """Return a table per score and number of support rows, methods in columns; and one of what was chosen."""
    out = {}
    for score in WORDS:
        for support in ("1", "3", "5", "10"):
            rows = []
            for name, found in sets.items():
                row = [name.replace("_", " ")]
                for method in METHODS:
                    values = found.get(method, {}).get("support", {}).get(support, {}).get(score)
                    row.append("" if values is None else _mean(values, method == "ebmeta" and score == "coverage"))
                if any(row[1:]):
                    rows.append(row)
            out[f"{score}_{support}"] = table(["set", *METHODS.values()], rows)
    chosen = [
        [
            n.replace("_", " "),
            LIKELIHOODS[f["ebmeta"]["likelihood"]],
            "yes" if f["ebmeta"]["covariates"] else "no",
            f["ebmeta"].get("basis", "given"),
        ]
        for n, f in sets.items()
        if "ebmeta" in f
    ]
    out["chosen"] = table(["set", "likelihood", "covariates", "features"], chosen)
    return out


def figures(shrinkage: dict[str, Any], sets: dict[str, Any], folder: Path) -> None:
    """Draw the shrinkage of the batting averages, and coverage over sets."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    batting = shrinkage["batting"]
    values = np.array([batting["estimates"]["own_average"], batting["estimates"]["ebmeta"], batting["rest_of_season"]])
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    axis.plot(range(2), values[:2], color="tab:blue", lw=0.9, marker="o", ms=3)
    axis.plot(range(1, 3), values[1:], color="grey", lw=0.5, ls=":", marker="o", ms=3)
    axis.set(xticks=range(3), xticklabels=["first 45 at bats", "ebmeta", "rest of season"], ylabel="batting average")
    figure.savefig(folder / "batting.png", dpi=120)
    plt.close(figure)
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    names = [n for n in sets if "ebmeta" in sets[n]]
    for offset, method in enumerate(("ebmeta", "em", "mixedlm")):
        points = [np.mean(sets[n][method]["support"]["3"]["coverage"]) for n in names]
        axis.plot(np.arange(len(names)) + 0.15 * (offset - 1), points, "o", label=METHODS[method])
    axis.axhspan(0.88, 0.92, color="grey", alpha=0.2)
    axis.set(xticks=range(len(names)), ylabel="coverage of 90% intervals, 3 support rows", ylim=(0.8, 1))
    axis.set_xticklabels([n.replace("_", "\n") for n in names], fontsize=8)
    axis.legend()
    figure.savefig(folder / "coverage.png", dpi=120)
    plt.close(figure)


def _generate(app: Any) -> None:
    results = Path(app.config.results_folder)
    sets = json.loads((results / "hierarchical_regression.json").read_text(encoding="utf-8"))["sets"]
    shrinkage = json.loads((results / "shrinkage.json").read_text(encoding="utf-8"))
    folder = Path(app.srcdir) / "_generated" / "groups"
    figures(shrinkage, sets, folder)
    for name, text in tables(sets).items():
        (folder / f"{name}.md").write_text(text, encoding="utf-8")
    (folder / "recovery.md").write_text(recovery(shrinkage["recovery"]), encoding="utf-8")


def recovery(found: dict[str, Any]) -> str:
    """Return the recovery of each likelihood's parameters: the worst z over them, and coverage."""
    rows = []
    for name, each in found.items():
        scores = {k: v["z"] for k, v in each.items() if isinstance(v, dict)}
        worst = max(scores, key=lambda k: abs(scores[k]))
        rows.append(
            [name.replace("_", " "), worst.replace("_", " "), f"{scores[worst]:+.1f}", f"{each['coverage']:.1%}"]
        )
    return table(["likelihood", "worst parameter", "mean error over its standard error", "coverage"], rows)


def setup(app: Any) -> dict[str, bool]:
    """Make the tables and figures before each build."""
    app.connect("builder-inited", _generate)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
