"""Tables and figures of the few-shot comparison, from the JSON file of the benchmark, made before each build."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["beside_general", "figures", "of_unequal", "on_features", "setup", "tables"]

SOURCE = "few_shot_classification.json"
FEATURES = "peers_with_profile.json"
GENERAL = "general_classifier.json"
UNEQUAL = "uneven.json"
FIVE = ["5way_1shot_balanced", "5way_1shot_dirichlet2", "5way_5shot_balanced", "5way_5shot_dirichlet2"]
MANY = ["10way_1shot_balanced", "10way_5shot_balanced", "20way_1shot_balanced", "20way_5shot_balanced"]
TITLES = {
    "default": "ebmeta, one default model",
    "untold": "ebmeta, the default model, not told the class proportions",
    "plain": "ebmeta, a plain call: no profile, no validation",
    "plain_untold": "ebmeta, a plain call, not told the class proportions",
    "mixture": "ebmeta, a model of labels alone (`mixture`)",
    "mixture_untold": "ebmeta, a model of labels alone, not told the class proportions",
    "ways": "ebmeta, one model for any number of ways",
    "sib": "SIB, as released",
    "unem": "UNEM",
    "pt_map": "PT-MAP",
    "tim": "TIM",
    "alpha_tim": "α-TIM",
    "bavardage": "BAVARDAGE (variational mixture)",
    "laplacianshot": "LaplacianShot",
    "bd_cspn": "BD-CSPN",
    "simpleshot": "SimpleShot",
    "prototypes": "prototypes",
}
#: Beside the general classifier, with what each has seen.
BESIDE = {
    "default": "64 classes, default model",
    "pt_map": "PT-MAP, tuned",
    "tim": "TIM, tuned",
    "bavardage": "BAVARDAGE, tuned",
    "prototypes": "prototypes",
}
INTERVALS = "%, ± over tasks (over classes)"  # the head of a table of accuracies
OURS = list(TITLES)[:6]
PEERS = list(TITLES)[7:]


def title(name: str) -> str:
    """Return how a page calls a method."""
    return f"{TITLES[name.removesuffix('_published')]}{', published settings' if name.endswith('_published') else ''}"


def entry(result: dict[str, Any], name: str, kind: str) -> dict[str, Any] | None:
    """Return the piece of a method and a kind of task, where it was run."""
    found: dict[str, Any] | None = result.get(name, {}).get(kind)
    return found


def last(scores: dict[str, Any], metric: str) -> list[float]:
    """Return value and half width after the last step, of a model or of a peer."""
    value: Any = scores["test"][metric]
    return value[-1] if isinstance(value[0], list) else value


def _words(kind: str) -> str:
    return kind.replace("_", " ").replace("dirichlet2", "imbalanced")


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join([_row(head), _row(["---"] * len(head)), *map(_row, rows)]) + "\n"


def accuracy(scores: dict[str, Any]) -> str:
    """Return accuracy in per cent with its interval over tasks and, in brackets where it is known, over classes."""
    (value, half), over = last(scores, "accuracy"), scores["test"].get("accuracy_classes")
    known = "" if over is None else f" ({100 * (over[-1] if isinstance(over, list) else over):.1f})"
    return f"{100 * value:.1f} ± {100 * half:.1f}{known}"


def _compare(result: dict[str, Any], names: list[str], kinds: list[str], head: str, form: Any) -> str:
    rows = []
    for name in names:
        found = [entry(result, name, kind) for kind in kinds]
        if any(found):
            rows.append([title(name), *("" if e is None else form(e) for e in found)])
    return _table([head, *(_words(kind) for kind in kinds)], rows)


def tables(result: dict[str, Any]) -> dict[str, str]:
    """Return every table as Markdown, by name."""
    ours, published = OURS, [f"{name}_published" for name in PEERS]
    number = lambda metric: lambda scores: f"{last(scores, metric)[0]:.3f}"  # noqa: E731
    out = {"accuracy": _compare(result, [*ours, *PEERS, *published], FIVE, INTERVALS, accuracy)}
    for metric in ("nll", "ece", "ece_mass", "brier", "aurc"):
        out[metric] = _compare(result, [*ours, *PEERS], FIVE, "", number(metric))
    out["ways"] = _compare(result, ["ways", *PEERS], MANY, INTERVALS, accuracy)
    out["ways_nll"] = _compare(result, ["ways", *PEERS], MANY, "", number("nll"))
    model = result["default"]
    for split in ("val", "test"):
        kinds = [kind for kind in model if "way" in kind]
        steps = range(len(model[kinds[0]][split]["nll"]))
        rows = [[_words(kind), *(f"{model[kind][split]['nll'][k][0]:.4f}" for k in steps)] for kind in kinds]
        out[f"path_{split}"] = _table([f"NLL, {split} classes", *(f"K = {k}" for k in steps)], rows)
        rows = [[_words(kind), *(f"{100 * model[kind][split]['accuracy'][k][0]:.1f}" for k in steps)] for kind in kinds]
        out[f"path_accuracy_{split}"] = _table([f"accuracy, {split} classes", *(f"K = {k}" for k in steps)], rows)
    rows = []
    for name in [*ours, *PEERS]:
        found = [entry(result, name, kind) for kind in FIVE]
        if any(found):
            sets = [e and e["conformal"] for e in found]
            text = ["" if s is None else f"{100 * s['coverage'][0]:.1f}%, {s['size'][0]:.2f}" for s in sets]
            rows.append([title(name), *text])
    out["conformal"] = _table(["coverage, mean size", *(_words(kind) for kind in FIVE)], rows)
    rows = [
        [title(name), *("" if e is None else f"{e['ms_per_task']:.2f}" for e in (entry(result, name, k) for k in FIVE))]
        for name in [*ours, *PEERS, *published]
        if any(entry(result, name, kind) for kind in FIVE)
    ]
    out["cost"] = _table(["ms per task", *(_words(kind) for kind in FIVE)], rows)
    return out


def beside_general(result: dict[str, Any], general: dict[str, Any]) -> dict[str, str]:
    """Return the table of general weights beside methods that have seen classes of the same features, by name."""
    rows = [["general weights, no training", *(accuracy({"test": general["new_classes"][k]["end"]}) for k in FIVE)]]
    for name, words in BESIDE.items():
        rows.append([words, *(accuracy(result[name][kind]) for kind in FIVE)])
    return {"general": _table([INTERVALS, *(_words(kind) for kind in FIVE)], rows)}


def of_unequal(result: dict[str, Any]) -> dict[str, str]:
    """Return the table of classes with unequal numbers of labelled rows, by name."""
    own = {"before": "ebmeta, before any step", "ebmeta": TITLES["default"], "general": "the general classifier"}
    names, columns = [name for name in (own | TITLES) if name in result["few"]], list(result["shots"])
    shots = [", ".join(map(str, result["shots"][column])) for column in columns]
    equal = 1 / 5  # of five classes
    rows = []
    for name in names:
        cells = [result[column][name] for column in columns]
        each = [
            f"{100 * cell['accuracy'][0]:.1f}, {cell['nll'][0]:.2f}, {100 * (cell['share'] - equal):+.0f}"
            for cell in cells
        ]
        rows.append([own.get(name) or TITLES[name], *each])
    return {"unequal": _table(["accuracy (%), NLL, too many (%)", *shots], rows)}


def on_features(result: dict[str, Any]) -> dict[str, str]:
    """Return the tables of peers on the features as they are, and on those of ebmeta, as Markdown, by name."""
    out = {}
    for split in ("val", "test"):
        for scope in ("tuned", "single"):
            rows = []
            ours = result.get("ebmeta", {}).get(split)
            if ours is not None:
                rows.append([TITLES["default"], *_accuracies(ours)])
            for name in PEERS:
                pieces = [result.get(name, {}).get(kept, {}).get(split) for kept in ("as_they_are", "of_ebmeta")]
                if all(pieces):
                    before, after = (_accuracies(piece[scope]) for piece in pieces)
                    rows.append([title(name), *(f"{a} → {b}" for a, b in zip(before, after, strict=True))])
            out[f"features_{scope}_{split}"] = _table(["", *(_words(kind) for kind in FIVE), "mean"], rows)
    return out


def _accuracies(piece: dict[str, list[float]]) -> list[str]:
    values = [piece[kind][0] for kind in FIVE]
    return [f"{value:.1f}" for value in (*values, sum(values) / len(values))]


def figures(result: dict[str, Any], folder: Path) -> None:
    """Write the cost, reliability and risk-coverage figures as PNG files."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import seaborn as sns

    folder.mkdir(parents=True, exist_ok=True)
    names = [name for name in (*OURS, *PEERS) if entry(result, name, FIVE[0])]
    colors = dict(zip(names, sns.color_palette("husl", len(names)), strict=True))
    with sns.axes_style("whitegrid"):
        figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
        for axis, kind, name, found in _panels(result, axes, names):
            time, (value, half) = found["ms_per_task"], last(found, "accuracy")
            axis.errorbar(time, 100 * value, 100 * half, color=colors[name], fmt="o")
            axis.annotate(name, (time, 100 * value), xytext=(4, 4), textcoords="offset points", fontsize=7)
            axis.set(xscale="log", xlabel="processor time per task (ms)", ylabel="accuracy (%)", title=_words(kind))
        figure.savefig(folder / "cost.png", dpi=120)
        plt.close(figure)
        for file, x, y, labels in (
            ("reliability", "bin_confidence", "bin_accuracy", ("confidence", "accuracy")),
            ("risk", "coverage", "risk", ("coverage", "risk: error of the covered")),
        ):
            figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
            for axis, kind, name, found in _panels(result, axes, names):
                points = zip(found["curves"][x], found["curves"][y], strict=True)
                pairs = [(a, b) for a, b in points if a is not None and b is not None]
                axis.plot(*zip(*pairs, strict=True), label=name, color=colors[name], lw=1 if name in PEERS else 2.5)
                axis.set(xlabel=labels[0], ylabel=labels[1], title=_words(kind))
            for axis in axes if file == "reliability" else []:
                axis.plot([0.2, 1], [0.2, 1], color="black", lw=0.8, ls="--")
            axes[1].legend(fontsize=7)
            figure.savefig(folder / f"{file}.png", dpi=120)
            plt.close(figure)


def _panels(result: dict[str, Any], axes: Any, names: list[str]) -> Iterator[tuple[Any, str, str, dict[str, Any]]]:
    for axis, kind in zip(axes, (FIVE[0], FIVE[2]), strict=True):
        for name in names:
            found = entry(result, name, kind)
            if found is not None:
                yield axis, kind, name, found


def _generate(app: Any) -> None:
    results = Path(app.config.results_folder)
    names = (SOURCE, FEATURES, GENERAL, UNEQUAL)
    result, features, general, unequal = (json.loads((results / name).read_text(encoding="utf-8")) for name in names)
    folder = Path(app.srcdir) / "_generated" / "few_shot"
    figures(result, folder)
    made = tables(result) | on_features(features) | beside_general(result, general) | of_unequal(unequal)
    for name, text in made.items():
        (folder / f"{name}.md").write_text(text, encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    """Make the tables and figures before each build."""
    app.connect("builder-inited", _generate)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
