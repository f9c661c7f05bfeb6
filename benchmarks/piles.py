"""How many unlabelled rows of a class are enough: the same 75 rows, asked beside more and more others.

For each encoder the general classifier trained on the others; five ways, one or five labelled rows a class, in piles of
equal class proportions and of Dirichlet(2) ones, neither of which it is told. Beyond so many rows of a class it counts
all as so many (`ebmeta.parts.task_features.MOST_COUNTED`), here 10, 20, 40, 80 or as many as there are. Takes about 5
minutes. `python benchmarks/piles.py`
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any
from unittest import mock

import numpy as np
import torch

import ebmeta
from ebmeta.parts import task_features
from lib.common import model_new_to, write
from lib.corpus import classes

NAME = "piles.json"
ENCODERS = ("conv4", "digit_pixels", "efficientnet_lite0", "minilm", "tf_idf", "wordllama")
WAYS, ASKED, TASKS, LEAST, MOST = 5, 75, 60, 300, 1200
PILES, COUNTED = (ASKED, LEAST, MOST), (10, 20, 40, 80, math.inf)


def draw(encoder: str, shots: int, equal: bool, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return labelled rows in the order of their classes, a pile in random order, and its classes."""
    rng = np.random.default_rng(seed)
    sets = classes(encoder)
    rows = [np.asarray(own) for own in sets[rng.integers(len(sets))] if len(own) >= 2 * ASKED]
    rows = [rng.permutation(rows[c]) for c in rng.permutation(len(rows))[:WAYS]]
    share = np.full(WAYS, 1 / WAYS) if equal else rng.dirichlet(np.full(WAYS, 2.0))
    total = min([MOST, *((len(own) - shots) / part for own, part in zip(rows, share, strict=True))])
    counts = np.floor(total * share).astype(int)
    order = rng.permutation(counts.sum())
    pile = np.concatenate([own[shots : shots + n] for own, n in zip(rows, counts, strict=True)])
    labelled = np.concatenate([own[:shots] for own in rows])
    return labelled.astype(np.float32), pile[order].astype(np.float32), np.arange(WAYS).repeat(counts)[order]


def scores(model: ebmeta.EmpiricalBayes, labelled: np.ndarray, pile: np.ndarray, y: np.ndarray) -> list[float]:
    """Return accuracy, NLL and mean confidence of the rows that are asked of."""
    of = np.arange(WAYS).repeat(len(labelled) // WAYS)
    batch = ebmeta.TaskBatch(*(torch.from_numpy(rows)[None] for rows in (labelled, of, pile)))
    with torch.no_grad():
        p = model.infer(batch).predict(-1)["probs"].view(len(pile), WAYS)[:ASKED].numpy()
    nll = -np.log(np.maximum(p[np.arange(ASKED), y[:ASKED]], 1e-12))
    return [float((p.argmax(1) == y[:ASKED]).mean()), float(nll.mean()), float(p.max(1).mean())]


def main() -> None:
    """Ask of every pile and write the means over tasks, and over encoders of these."""
    torch.set_num_threads(1)
    found: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
    for encoder in ENCODERS:
        model, own = ebmeta.load(model_new_to(encoder)), defaultdict(list)
        for shots in (1, 5):
            for equal in (True, False):
                kind = f"{shots}_shot_{'equal' if equal else 'dirichlet'}"
                for seed in range(TASKS):
                    labelled, pile, y = draw(encoder, shots, equal, seed)
                    if len(pile) < LEAST:
                        continue
                    for size in PILES:
                        for counted in COUNTED:
                            with mock.patch.object(task_features, "MOST_COUNTED", counted):
                                cell = scores(model, labelled, pile[:size], y)
                            own[kind, f"pile_{size}_counted_{counted}"].append(cell)
        for key, cells in own.items():
            found[key].append(np.mean(cells, 0).tolist())
            print(encoder, *key, found[key][-1], flush=True)
    result: dict[str, Any] = {"tasks": TASKS, "asked": ASKED, "encoders": len(ENCODERS), "most": MOST}
    for (kind, cell), means in found.items():
        result.setdefault(kind, {})[cell] = np.mean(means, 0).round(4).tolist()  # accuracy, NLL, confidence
    write(NAME, result)


if __name__ == "__main__":
    main()
