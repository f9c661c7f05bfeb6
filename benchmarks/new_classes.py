"""What holds for new classes: intervals over classes, and conformal sets by class swap, simulated and on CIFAR-FS.

Simulations have a known distribution of classes. On CIFAR-FS, methods are compared on the same test tasks, with
intervals over tasks and over classes; sets are calibrated and scored on disjoint classes, over splits of the 36 classes
that training did not use. Resumable: a piece that is in the JSON file is not done again.
`python benchmarks/new_classes.py`
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

import ebmeta
from ebmeta.prediction.calibration import Z95
from ebmeta.prediction.class_jackknife import class_half_width
from ebmeta.prediction.class_swap import swap_p_value
from ebmeta.prediction.conformal import set_coverage
from lib.classifier import BLIND, classifier, last_probs
from lib.common import cifar_fs, read, write
from lib.kinds import Kind, draw
from lib.peers import Peer, base_statistics
from lib.peers.registry import make

NAME = "new_classes.json"
REPEATS, TASKS = 2000, 600  # of the simulated intervals
#: Worlds of classes: the beta distribution of a class's recall, and how much depends on which classes meet.
WORLDS = {"alike": (30.0, 10.0, 0.0), "unlike": (3.0, 1.0, 0.0), "confused": (30.0, 10.0, 0.05)}
SWAPS = 10_000  # repeats of the simulated sets
LEVEL, SPLITS, EACH = 0.9, {1: 200, 5: 20}, 2  # conformal sets: level, splits of classes by shots, tasks of each
PEERS = ("prototypes", "laplacianshot", "tim", "pt_map")
POWER = 0.8


def intervals(number: int, ways: int, name: str, rng: np.random.Generator) -> dict[str, float]:
    """Return how often intervals over classes and over tasks hold the mean over all classes."""
    first, second, meeting = WORLDS[name]
    truth, covered, over_tasks = first / (first + second), 0, 0
    for _ in range(REPEATS):
        recall, kind = rng.beta(first, second, number), rng.normal(size=(number, 3))
        classes = rng.permuted(np.tile(np.arange(number), (TASKS, 1)), axis=1)[:, :ways]
        pairs = np.tanh(np.einsum("tid,tjd->tij", kind[classes], kind[classes]))
        met = (pairs.sum((1, 2)) - np.trace(pairs, axis1=1, axis2=2)) / 2  # odd in each class, so zero on average
        values = recall[classes].mean(1) + meeting * met / ways + 0.08 * rng.normal(size=TASKS)
        error = abs(values.mean() - truth)
        covered += error < class_half_width(values, classes)
        over_tasks += error < Z95 * values.std(ddof=1) / TASKS**0.5
    return {"classes": float(covered / REPEATS), "tasks": float(over_tasks / REPEATS)}


def all_intervals(name: str) -> dict[str, Any]:
    """Return the same for numbers of classes and of ways."""
    rng = np.random.default_rng(0)
    return {f"{n}_{c}way": intervals(n, c, name, rng) for n in (10, 20, 36) for c in (2, 5)}


def swaps(number: int, ways: int, rng: np.random.Generator) -> dict[str, float]:
    """Return the coverage of sets by class swap with prototypes of one row, and the share of false classes in them."""
    held = kept = 0
    for _ in range(SWAPS):
        spread = rng.gamma(2.0, 0.5, ways + number)  # classes differ
        means = rng.normal(size=(ways + number, 4))
        support = means + spread[:, None] * rng.normal(size=means.shape)
        others = support[1:ways]  # of the task, whose first class is the true one

        def score(x: np.ndarray, own: np.ndarray, others: np.ndarray = others) -> np.ndarray:
            far = np.square(x[..., None, :] - others).sum(-1).min(-1)
            return np.square(x - own).sum(-1) - far

        rows = means[ways:, None] + spread[ways:, None, None] * rng.normal(size=(number, 5, 4))
        calibration = score(rows, support[ways:, None])
        query = means[:1] + spread[0] * rng.normal(size=(1, 4))
        held += int(swap_p_value(calibration, score(query, support[0]))[0] > 1 - LEVEL + 1e-9)
        wrong, rest = others[0], np.concatenate([support[:1], others[1:]])  # a false candidate, the true class stays
        swapped = score(rows, support[ways:, None], rest)
        kept += int(swap_p_value(swapped, score(query, wrong, rest))[0] > 1 - LEVEL + 1e-9)
    return {"coverage": held / SWAPS, "false": kept / SWAPS}


def all_swaps() -> dict[str, Any]:
    """Return the same for numbers of calibration classes and of ways."""
    rng = np.random.default_rng(1)
    return {f"{n}_{c}way": swaps(n, c, rng) for n in (9, 16, 30) for c in (2, 5, 20, 50)}


def _ask(peer: Peer, ways: int, batch: ebmeta.TaskBatch) -> Tensor:
    return peer(batch.support_x, batch.support_y, batch.query_x, ways)


def comparison(kind: Kind, num_tasks: int = 2000) -> dict[str, Any]:
    """Return accuracy with both intervals, and differences from the default model, on the tasks of all tables."""
    batches = draw(kind, "test", num_tasks, 12)
    classes = np.concatenate([batch.way_class.numpy() for batch in batches if batch.way_class is not None])
    features = torch.from_numpy(cifar_fs("train").X).view(64, 600, 256)
    center, scatter = base_statistics(features)
    methods: dict[str, Callable[[ebmeta.TaskBatch], Tensor]] = {}
    for name in ("default", "plain", "mixture"):
        methods[name] = partial(last_probs, classifier(name))
    for name in PEERS:
        methods[name] = partial(_ask, make(name, "balanced", center, scatter), kind.n_way)
    hits = {}
    for name, method in methods.items():
        right = [(method(b).argmax(-1) == b.query_y).float().mean(1).numpy() for b in batches]
        hits[name] = np.concatenate(right).astype(float)
    out: dict[str, Any] = {}
    for name, values in hits.items():
        pairs = {"": values} | ({} if name == "default" else {"difference": hits["default"] - values})
        for key, each in pairs.items():
            over_tasks = Z95 * each.std(ddof=1) / num_tasks**0.5
            half = float(class_half_width(each, classes))
            cell = {"mean": each.mean(), "tasks": over_tasks, "classes": half}
            if key:  # what would be found with this power, were it so much
                freedom = len(np.unique(classes)) - 1
                quantile = stats.t.ppf(0.975, freedom)
                cell["detectable"] = half / quantile * (quantile + stats.t.ppf(POWER, freedom))
            cell = {k: round(float(v), 5) for k, v in cell.items()}
            out[name] = out.get(name, {}) | ({key: cell} if key else cell)
    return out


def sets(shots: int) -> dict[str, Any]:
    """Return coverage and size of three kinds of sets, over splits of the classes into calibration and test classes."""
    model, val, test = classifier(BLIND), cifar_fs("val", n_way=5), cifar_fs("test", n_way=5)
    X, y = np.concatenate([val.X, test.X]), np.repeat(np.arange(36), 600)
    found: dict[str, list[tuple[float, float]]] = {"tasks": [], "swap": [], "swap_transductive": []}
    for split in range(SPLITS[shots]):
        order = np.random.default_rng(split).permutation(36)
        halves = [np.isin(y, order[:18]), np.isin(y, order[18:])]
        calibration, new = (
            ebmeta.EpisodeSampler(X[h], y[h], n_way=5, n_shot=shots, n_query=15, seed=split) for h in halves
        )
        batch = new.sample(EACH)
        kinds: dict[str, ebmeta.ConformalSets | ebmeta.ClassSwapSets] = {
            "tasks": ebmeta.ConformalSets(model, LEVEL).calibrate(calibration, 100),
            "swap": ebmeta.ClassSwapSets(model, LEVEL, seed=split).calibrate(calibration),
            "swap_transductive": ebmeta.ClassSwapSets(model, LEVEL, transductive=True, seed=split).calibrate(
                calibration
            ),
        }
        for name, kind in kinds.items():
            report = set_coverage(kind.predict(batch), batch.query_y)
            found[name].append((float(report["coverage"]), float(report["size"])))
        if split % 20 == 0:
            print(shots, split, {k: np.mean(v, 0).round(3).tolist() for k, v in found.items()}, flush=True)
    out = {}
    for name, values in found.items():
        mean, half = np.mean(values, 0), Z95 * np.std(values, 0, ddof=1) / SPLITS[shots] ** 0.5
        out[name] = {
            "coverage": round(float(mean[0]), 4),
            "coverage_half_width": round(float(half[0]), 4),
            "size": round(float(mean[1]), 4),
        }
    return out


def main() -> None:
    """Do every piece that is not done, and write after each."""
    torch.set_num_threads(1)
    splits = {f"{shots}shot": number for shots, number in SPLITS.items()}
    result = read(NAME) | {"repeats": REPEATS, "swaps": SWAPS, "level": LEVEL, "splits": splits, "tasks_of_split": EACH}

    def piece(name: str, make_it: Callable[[], Any]) -> None:
        if name not in result:
            result[name] = make_it()
            write(NAME, result)
            print(name, result[name], flush=True)

    for world in WORLDS:
        piece(f"intervals_{world}", partial(all_intervals, world))
    piece("swap", all_swaps)
    cells = [cell for world in WORLDS for cell in result[f"intervals_{world}"].values()]
    for end, name in ((min, "least"), (max, "most")):
        result[name] = end(cell["classes"] for cell in cells)
        result[f"{name}_tasks"] = end(cell["tasks"] for cell in cells)
        result[f"{name}_swap"] = end(cell["coverage"] for cell in result["swap"].values())
    for shots in (1, 5):
        piece(f"comparison_{shots}shot", partial(comparison, Kind(5, shots)))
    for shots in (1, 5):
        piece(f"sets_{shots}shot", partial(sets, shots))
    write(NAME, result)


if __name__ == "__main__":
    main()
