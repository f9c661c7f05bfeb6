"""Certificates of the score on new classes and groups: how often they hold, how much they leave, and CIFAR-FS.

Simulated worlds have a known distribution of classes, so that the truth is exact. On CIFAR-FS the default model is
trained on the train classes alone, and certified by validation and test classes together.
`python benchmarks/certificate.py`
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from scipy.optimize import brentq

import ebmeta
from ebmeta.prediction.certificate import BETS, lower_bound
from lib.classifier import BLIND, classifier
from lib.common import cifar_fs, write

REPEATS, CONFIDENCE = 10_000, 0.95
PARTITIONS = 20  # of the classes of a simulated world
ROWS = 15  # queries of a class, rows of a group
#: Worlds of classes: the beta distribution of a class's recall, and the share of classes that spoil a task.
WORLDS = {"alike": (60.0, 20.0, 0.0), "unlike": (3.0, 1.0, 0.0), "some_bad": (30.0, 10.0, 0.02)}
SPOILT = 0.2  # score of a task with a bad class
NUMBERS, WAYS = (20, 36, 60, 100), (2, 3, 5)


def worlds(ways: int, number: int, name: str, rng: np.random.Generator) -> dict[str, float]:
    """Return how often the certificate holds in a world, and how far below the truth it is."""
    first, second, bad = WORLDS[name]
    truth = (1 - bad) ** ways * first / (first + second) + (1 - (1 - bad) ** ways) * SPOILT
    blocks, bounds = number // ways, np.empty(REPEATS)
    for i in range(REPEATS):
        recall, spoils = rng.beta(first, second, number), rng.uniform(size=number) < bad
        order = rng.permuted(np.tile(np.arange(number), (PARTITIONS, 1)), axis=1)[:, : blocks * ways]
        pick = order.reshape(PARTITIONS, blocks, ways)
        score = np.where(spoils[pick].any(-1), SPOILT, recall[pick].mean(-1))
        bounds[i] = lower_bound(rng.binomial(ROWS * ways, score) / (ROWS * ways), CONFIDENCE)
    return _summary(bounds, truth)


def groups(number: int, rng: np.random.Generator) -> dict[str, float]:
    """Return the same for the coverage of groups, 90% on average and different between groups."""
    shares = rng.binomial(ROWS, rng.beta(9, 1, (REPEATS, number))) / ROWS
    bounds = np.array([lower_bound(row[None], CONFIDENCE, BETS[1:]) for row in shares])
    return _summary(bounds, 0.9)


def prequential(blocks: int, rng: np.random.Generator) -> dict[str, float]:
    """Return the same for models that learn as they go: the truth is the mean over models."""
    level = 0.45 + 0.35 * (1 - np.exp(-np.arange(blocks) / 5))
    scores = rng.binomial(ROWS * 5, rng.beta(40 * level, 40 * (1 - level), (REPEATS, blocks))) / (ROWS * 5)
    bounds = np.array([lower_bound(row[None], CONFIDENCE) for row in scores])
    return _summary(bounds, float(level.mean()))


def _summary(bounds: np.ndarray, truth: float) -> dict[str, float]:
    return {
        "truth": round(truth, 4),
        "holds": float((bounds <= truth).mean()),
        "bound": round(float(bounds.mean()), 4),
        "gap": round(float(truth - bounds.mean()), 4),
    }


def pac_bayes(accuracy: float, blocks: int) -> dict[str, float]:
    """Return what a training bound promises, by what training has learned in nats, and the bound of a fixed model."""
    slack = math.log(2 * math.sqrt(blocks) / (1 - CONFIDENCE)) / (2 * blocks)
    out = {f"kl{nats}": round(accuracy - math.sqrt(nats / (2 * blocks) + slack), 4) for nats in (0, 5, 50)}
    goal = math.log(1 / (1 - CONFIDENCE)) / blocks

    def excess(mean: float) -> float:
        kl = accuracy * math.log(accuracy / mean) + (1 - accuracy) * math.log((1 - accuracy) / (1 - mean))
        return kl - goal

    alike = lower_bound(np.full((1, blocks), accuracy), CONFIDENCE)
    return out | {"fixed_model": round(float(brentq(excess, 1e-9, accuracy)), 4), "product": round(alike, 4)}


def cifar() -> dict[str, Any]:
    """Certify the default model of the train classes by all others."""
    model = classifier(BLIND)
    val, test = cifar_fs("val", n_way=5), cifar_fs("test", n_way=5)
    X = np.concatenate([val.X, test.X])
    y = np.repeat(np.arange(36), 600)
    out = {}
    for ways in (2, 5):
        for shots in (1, 5):
            tasks = ebmeta.EpisodeSampler(X, y, n_way=ways, n_shot=shots, n_query=ROWS)
            found = ebmeta.certify(model, tasks, CONFIDENCE, training=cifar_fs("train", n_way=5))
            limit = found.estimate * (1 - CONFIDENCE) ** (ways / 36)
            out[f"{ways}way_{shots}shot"] = {
                "bound": round(found.bound, 4),
                "estimate": round(found.estimate, 4),
                "limit": round(limit, 4),
                "blocks": found.num_blocks,
                "classes": found.num_used,
            }
            print(found, flush=True)
    return out


def main() -> None:
    """Do everything and write the result."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    result: dict[str, Any] = {"repeats": REPEATS, "confidence": CONFIDENCE, "partitions": PARTITIONS}
    result["cifar_fs"] = cifar()
    result["worlds"] = {
        name: {f"{ways}way_{n}": worlds(ways, n, name, rng) for ways in WAYS for n in NUMBERS} for name in WORLDS
    }
    result["least_holds"] = min(cell["holds"] for cells in result["worlds"].values() for cell in cells.values())
    result["groups"] = {str(n): groups(n, rng) for n in NUMBERS}
    result["prequential"] = {str(m): prequential(m, rng) for m in (7, 20)}
    result["pac_bayes"] = {str(m): pac_bayes(0.77, m) for m in (7, 12, 20)}
    write("certificate.json", result)


if __name__ == "__main__":
    main()
