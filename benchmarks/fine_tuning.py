"""From general to own: training on few other classes of the same features, from the general weights and from nothing.

Conv-4 features of CIFAR-FS (training classes and test classes of its split) and pixels of Omniglot (two thirds of its
characters, and the others). The general weights are those of `python benchmarks/general_classifier.py` trained without
the encoder in question. A piece that stands in the result is not done again. `python benchmarks/fine_tuning.py`
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch

import ebmeta
from lib.common import cifar_fs, model_new_to, read, write
from lib.corpus import Classes, classes
from lib.scoring import rounded, score

NAME = "fine_tuning.json"
NUMBERS, DRAWS, TASKS = (5, 10, 20, 64), 1, 300
ITERATIONS = {"pretrained": 1, "scratch": 300}  # a pretrained model is measured alone
BATCH, SEED = 8, 0
COLUMNS = {"5way_1shot": 1, "5way_5shot": 5}


def split(encoder: str) -> tuple[Classes, Classes]:
    """Return the classes that one may train on, and those of the test."""
    if encoder == "conv4":
        return classes(encoder)[0], list(np.asarray(cifar_fs("test").X, np.float32).reshape(20, 600, -1))
    rows = classes(encoder)[0]
    order = np.random.default_rng(SEED).permutation(len(rows))
    return [rows[i] for i in order[len(rows) // 3 :]], [rows[i] for i in order[: len(rows) // 3]]


def sampler(rows: Classes, shots: int | tuple[int, int], seed: int) -> ebmeta.EpisodeSampler:
    """Return tasks of five of these classes, 15 queries of each where there are as many rows."""
    y = np.repeat(np.arange(len(rows)), [len(x) for x in rows])
    return ebmeta.EpisodeSampler(np.concatenate(rows), y, 5, shots, min(15, min(map(len, rows)) - 5), seed=seed)


def started(method: str, encoder: str, width: int) -> ebmeta.EmpiricalBayes:
    """Return a model before training; the pretrained one with the weights that do not know the encoder."""
    if method == "scratch":
        return ebmeta.EmpiricalBayes.classifier(width)
    model, other = ebmeta.EmpiricalBayes.classifier(width, pretrained=True), ebmeta.load(model_new_to(encoder))
    model.prior.load_state_dict(other.prior.state_dict())
    model.refiner.load_state_dict(other.refiner.state_dict())
    return model


@torch.no_grad()
def scores(model: ebmeta.EmpiricalBayes, rows: Classes) -> dict[str, Any]:
    """Return accuracy, NLL and calibration error on test tasks."""
    out = {}
    for column, shots in COLUMNS.items():
        batches = [sampler(rows, shots, 99).sample(50, n) for n in range(TASKS // 50)]
        probs = torch.cat([model.infer(batch).predict(-1)["probs"] for batch in batches])
        found = score(probs, torch.cat([batch.query_y for batch in batches]))
        out[column] = {name: found[name] for name in ("accuracy", "nll", "ece")}
    return out


def piece(method: str, encoder: str, number: int, draw: int) -> dict[str, Any]:
    """Train on some of the classes, drawn at random, and score."""
    train, test = split(encoder)
    chosen = np.random.default_rng([SEED, number, draw]).choice(len(train), number, replace=False)
    model, began = started(method, encoder, train[0].shape[1]), time.process_time()
    tasks = sampler([train[i] for i in chosen], (1, 5), draw)
    ebmeta.fit(model, tasks, ITERATIONS[method], BATCH, seed=draw, progress=False)
    return scores(model, test) | {"cpu_seconds": round(time.process_time() - began, 1)}


def overall(pieces: dict[str, Any]) -> dict[str, Any]:
    """Return means over draws of the classes, and half widths of 95% intervals over the tasks, which draws share."""
    out: dict[str, Any] = {}
    for encoder, by_method in pieces.items():
        for method in ITERATIONS:
            for number, draws in by_method.get(method, {}).items():
                for column in COLUMNS:
                    for name in ("accuracy", "nll", "ece"):
                        means = np.mean([found[column][name] for found in draws.values()], 0)
                        cell = out.setdefault(encoder, {}).setdefault(method, {}).setdefault(column, {})
                        cell.setdefault(number, {})[name] = means.tolist()
    return out


def main() -> None:
    """Train and score what is not done, and write after each piece."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=DRAWS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for draw in range(arguments.draws):
        for encoder in ("omniglot_pixels", "conv4"):
            for number in NUMBERS:
                for method in ITERATIONS:
                    result = {"iterations": ITERATIONS, "tasks": TASKS} | read(NAME)
                    own = result.setdefault("pieces", {}).setdefault(encoder, {})
                    if "general" not in own:
                        own["general"] = rounded(scores(ebmeta.load(model_new_to(encoder)), split(encoder)[1]))
                    done = own.setdefault(method, {}).setdefault(str(number), {})
                    if str(draw) not in done:
                        done[str(draw)] = rounded(piece(method, encoder, number, draw))
                        write(NAME, result)
                        print(draw, encoder, number, method, done[str(draw)], flush=True)
    result = read(NAME)
    write(NAME, result | {"draws": arguments.draws, "overall": rounded(overall(result["pieces"]))})


if __name__ == "__main__":
    main()
