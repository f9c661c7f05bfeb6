"""Classes with unequal numbers of labelled rows: CIFAR-FS, 5-way, balanced queries that nobody calls so.

The default model before and after its steps, the general classifier, and peers with the settings chosen for unequal
shares and a temperature from validation tasks of this kind. Besides accuracy and NLL, the mean probability of the
classes with the most labelled rows: they have as many queries as others. Test classes, once.
`python benchmarks/uneven.py`
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import ebmeta
from lib.classifier import classifier
from lib.common import cifar_fs, write
from lib.kinds import CHUNK
from lib.peers import base_statistics
from lib.peers.registry import METHODS, make
from lib.scoring import fit_temperature, rounded, score, temper

WAYS, QUERIES, TASKS, VALIDATION = 5, 15, 1000, 300
#: Labelled rows of each class.
SHOTS = {"few": (1, 1, 1, 5, 5), "mixed": (1, 2, 3, 5, 8), "one_large": (1, 1, 1, 1, 20), "many": (5, 5, 5, 20, 20)}


def draw(split: str, shots: tuple[int, ...], num_tasks: int, seed: int) -> list[ebmeta.TaskBatch]:
    """Return tasks whose classes keep so many of their labelled rows."""
    source = cifar_fs(split, n_way=WAYS, n_shot=max(shots), n_query=QUERIES, seed=seed)
    number = torch.tensor(shots)
    batches = []
    for index, start in enumerate(range(0, num_tasks, CHUNK)):
        batch = source.sample(min(CHUNK, num_tasks - start), index)
        place = torch.arange(batch.support_y.shape[1]) % max(shots)  # rows of a class lie together
        keep = place < number[batch.support_y[0]]
        batches.append(
            ebmeta.TaskBatch(batch.support_x[:, keep], batch.support_y[:, keep], batch.query_x, batch.query_y)
        )
    return batches


def said(probs: Tensor, y: Tensor, shots: tuple[int, ...]) -> dict[str, Any]:
    """Return scores, and the mean probability of a class of those with the most labelled rows."""
    most = torch.tensor(shots) == max(shots)
    return score(probs, y) | {"share": float(probs[..., most].mean())}


def main() -> None:
    """Score all methods and write."""
    torch.set_num_threads(1)
    model, general = classifier(), ebmeta.general_classifier()
    center, scatter = base_statistics(torch.from_numpy(cifar_fs("train").X).view(64, 600, 256))
    peers = {name: make(name, "imbalanced", center, scatter) for name, kind in METHODS.items() if not kind.learns}

    def steps(one: ebmeta.EmpiricalBayes, k: int) -> Callable[[ebmeta.TaskBatch], Tensor]:
        return lambda batch: one.infer(batch).predict(k)["probs"]

    ours = {"before": steps(model, 0), "ebmeta": steps(model, -1), "general": steps(general, -1)}
    result: dict[str, Any] = {"tasks": TASKS, "shots": {name: list(shots) for name, shots in SHOTS.items()}}
    for name, shots in SHOTS.items():
        tuning, batches = draw("val", shots, VALIDATION, 11), draw("test", shots, TASKS, 12)
        known, y = (torch.cat([batch.query_y for batch in part]) for part in (tuning, batches))
        found = result[name] = {}
        with torch.no_grad():
            for key, ask in ours.items():
                found[key] = said(torch.cat([ask(batch) for batch in batches]), y, shots)
        for key, peer in peers.items():
            before, probs = (
                torch.cat([peer(b.support_x, b.support_y, b.query_x, WAYS) for b in part]) for part in (tuning, batches)
            )
            found[key] = said(temper(probs, fit_temperature(before, known)), y, shots)
        for key, scores in found.items():
            print(name, key, scores["accuracy"], scores["nll"], round(scores["share"], 3), flush=True)
    write("uneven.json", rounded(result))


if __name__ == "__main__":
    main()
