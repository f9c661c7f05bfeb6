"""Which rows to label next: expected information in the joint model, and other rules, on encoders left out of training.

A task starts from one labelled row of each class and a pile of unlabelled ones. Rules choose what is labelled next, one
row at a time or five together, and the general classifier is asked about rows that nobody may label. Models are those
of `python benchmarks/general_classifier.py`, each trained without the encoder in question. The rule was chosen on the
encoders of `CHOSEN_ON`. `python benchmarks/suggest.py`
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

import ebmeta
from ebmeta.model.posterior import Inference
from ebmeta.prediction.suggestion import suggest
from lib.common import model_new_to, read, write
from lib.corpus import ENCODERS, classes, shared
from lib.scoring import rounded

NAME = "suggest.json"
CHOSEN_ON = ("conv4", "digit_pixels")
WAYS, POOL, TEST, LABELS, BATCH = 5, 80, 50, 10, 20
#: Kinds of tasks: Dirichlet concentration of class proportions in the pile, None for equal ones, and rows at a time.
KINDS: dict[str, tuple[float | None, int]] = {"equal": (None, 1), "unequal": (1.0, 1), "five_at_a_time": (None, 5)}


@dataclass(frozen=True)
class Piles:
    """Tasks, each with a labelled row of every class: `first`, `pool` that may be labelled, and rows of the `test`."""

    first: Tensor
    pool: Tensor
    pool_y: Tensor
    test: Tensor
    test_y: Tensor


def piles(encoder: str, imbalance: float | None, num_tasks: int, seed: int) -> Piles:
    """Draw tasks, each within a set of classes of the encoder; test rows have the classes in equal numbers."""
    rng, sets = np.random.default_rng([seed, 17]), [rows for rows in classes(encoder) if len(rows) >= WAYS]
    parts: list[list[Any]] = [[], [], [], [], []]
    for t in range(num_tasks):
        rows = sets[(seed + t) % len(sets)]
        drawn = [rng.permutation(rows[c]) for c in rng.choice(len(rows), WAYS, replace=False)]
        tested = min(TEST // WAYS, min(map(len, drawn)) // 4)
        room = np.array([len(x) - 1 - tested for x in drawn])
        counts = shared(min(POOL, int(room.sum())), room, imbalance, rng)
        cut = [np.split(x, [1, 1 + tested, 1 + tested + n])[:3] for x, n in zip(drawn, counts, strict=True)]
        first, test, pool = (np.concatenate(each) for each in zip(*cut, strict=True))
        truths = np.arange(WAYS).repeat(counts), np.arange(WAYS).repeat(tested)
        for part, values in zip(parts, (first, pool, truths[0], test, truths[1]), strict=True):
            part.append(torch.from_numpy(values))
    size = [min(map(len, part)) for part in parts]  # of classes with few rows the smallest pile counts
    return Piles(
        *(torch.stack([v[: size[k]] if k == 0 else _some(v, size[k]) for v in p]) for k, p in enumerate(parts))
    )


def _some(values: Tensor, size: int) -> Tensor:
    """Return as many values in even steps."""
    return values[torch.linspace(0, len(values) - 1, size).round().long()]


Rule = Callable[[Inference, Tensor, int, torch.Generator], Tensor]


def random_rows(inferred: Inference, free: Tensor, number: int, source: torch.Generator) -> Tensor:
    """Choose any rows."""
    return _largest(torch.rand(free.shape, generator=source), free, number)


def margins(inferred: Inference, free: Tensor, number: int, source: torch.Generator) -> Tensor:
    """Choose the rows whose two likeliest classes are the closest."""
    most = inferred.predict(-1)["probs"].topk(2, -1).values
    return _largest(most[..., 1] - most[..., 0], free, number)


def entropies(inferred: Inference, free: Tensor, number: int, source: torch.Generator) -> Tensor:
    """Choose the rows of the largest entropy."""
    probs = inferred.predict(-1)["probs"]
    return _largest(-torch.xlogy(probs, probs).sum(-1), free, number)


def centres(inferred: Inference, free: Tensor, number: int, source: torch.Generator) -> Tensor:
    """Choose the rows that are the farthest from all labelled ones, each counting for the next."""
    x, q = inferred.x, inferred.setting.q0
    distance, out = torch.cdist(x[..., :-1], q.loc).amin(-1), []
    for _ in range(number):
        out.append(_largest(distance, free, 1))
        free = free.scatter(1, out[-1], False)
        distance = torch.minimum(
            distance, torch.cdist(x, x.gather(1, out[-1].unsqueeze(-1).expand_as(x[:, :1]))).squeeze(-1)
        )
    return torch.cat(out, 1)


def information(inferred: Inference, free: Tensor, number: int, source: torch.Generator) -> Tensor:
    """Choose what tells most of the labels of all other rows."""
    return suggest(inferred, free, number)


def _largest(score: Tensor, free: Tensor, number: int) -> Tensor:
    return score.masked_fill(~free, -torch.inf).topk(number, 1).indices


RULES: dict[str, Rule] = {
    "random": random_rows,
    "margin": margins,
    "entropy": entropies,
    "k_center": centres,
    "information": information,
}


@torch.no_grad()
def curve(model: ebmeta.EmpiricalBayes, tasks: Piles, rule: Rule, number: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return accuracy and NLL of the test rows of each task, before any label and after each choice, `(T, 1 + L)`."""
    ways = torch.arange(WAYS).expand(len(tasks.pool), -1)
    rows, source = torch.arange(len(ways)).unsqueeze(1), torch.Generator().manual_seed(seed)
    chosen, free = torch.zeros(len(ways), 0, dtype=torch.long), torch.ones_like(tasks.pool_y, dtype=torch.bool)
    tested = torch.ones_like(tasks.test_y, dtype=torch.bool)
    found = []
    for _ in range(LABELS // number + 1):
        batch = ebmeta.TaskBatch(
            torch.cat([tasks.first, tasks.pool[rows, chosen]], 1),
            torch.cat([ways, tasks.pool_y[rows, chosen]], 1),
            torch.cat([tasks.pool, tasks.test], 1),
            query_mask=torch.cat([free, tested], 1),
            way_mask=torch.ones_like(ways, dtype=torch.bool),
        )
        inferred = model.infer(batch)
        probs = inferred.predict(-1)["probs"][:, free.shape[1] :]
        nll = -probs.gather(-1, tasks.test_y.unsqueeze(-1)).squeeze(-1).clamp(min=1e-30).log()
        found.append(torch.stack([(probs.argmax(-1) == tasks.test_y).double().mean(1), nll.double().mean(1)]))
        best = rule(inferred, torch.cat([free, ~tested], 1), number, source)
        chosen, free = torch.cat([chosen, best], 1), free.scatter(1, best, False)
    accuracy, nll = torch.stack(found, -1)
    return accuracy, nll


def interval(values: Tensor) -> list[Any]:
    """Return means over tasks and half widths of their 95% intervals."""
    return [values.mean(0).tolist(), (1.96 * values.std(0) / len(values) ** 0.5).tolist()]


def curves(encoder: str, kind: str, num_tasks: int) -> dict[str, Any]:
    """Return the learning curve of every rule, and its mean distance from that of random rows on the same tasks."""
    model, (imbalance, number) = ebmeta.load(model_new_to(encoder)), KINDS[kind]
    sets = [piles(encoder, imbalance, BATCH, seed) for seed in range(0, num_tasks, BATCH)]
    found = {}
    for name, rule in RULES.items():
        parts = [curve(model, tasks, rule, number, seed) for seed, tasks in enumerate(sets)]
        found[name] = tuple(torch.cat(values) for values in zip(*parts, strict=True))
    out: dict[str, Any] = {}
    for name, values in found.items():
        gain = [(v - base)[:, 1:].mean(1) for v, base in zip(values, found["random"], strict=True)]
        out[name] = {"accuracy": interval(values[0]), "nll": interval(values[1])}
        out[name] |= {"gain_accuracy": interval(gain[0]), "gain_nll": interval(gain[1])}
    return out


def overall(cells: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return, by kind, mean curves and gains over encoders that the rule was not chosen on."""
    out: dict[str, Any] = {}
    told = [encoder for encoder in cells if encoder not in CHOSEN_ON]
    for kind in KINDS:
        out[kind] = {}
        for name in RULES:
            each = [cells[encoder][kind][name] for encoder in told]
            means = {k: np.mean([v[k][0] for v in each], 0).tolist() for k in each[0]}
            widths = {k: np.sqrt(np.square([v[k][1] for v in each]).sum(0) / len(each) ** 2).tolist() for k in each[0]}
            out[kind][name] = {k: [means[k], widths[k]] for k in means}
    gains = [{name: found["gain_accuracy"] for name, found in cells[e][kind].items()} for e in cells for kind in KINDS]
    out["compared"] = {
        "cells": len(gains),
        "above_margin": sum(gain["information"][0] > gain["margin"][0] for gain in gains),
        "above_random": sum(gain["information"][0] > 0 for gain in gains),
        "surely_above_random": sum(gain["information"][0] > gain["information"][1] for gain in gains),
        "surely_below_random": sum(gain["information"][0] < -gain["information"][1] for gain in gains),
    }
    return out


def main() -> None:
    """Draw the curves of all encoders, and write after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--only", nargs="*", choices=[*ENCODERS], default=[*ENCODERS], help="encoders")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for encoder in arguments.only:
        for kind in KINDS:
            result = {"tasks": arguments.tasks, "chosen_on": list(CHOSEN_ON)} | read(NAME)
            cells = result.setdefault("encoders", {}).setdefault(encoder, {})
            if kind not in cells:
                cells[kind] = rounded(curves(encoder, kind, arguments.tasks))
                write(NAME, result)
                print(encoder, kind, {name: v["gain_accuracy"] for name, v in cells[kind].items()}, flush=True)
    result = read(NAME)
    write(NAME, result | {"overall": rounded(overall(result["encoders"]))})


if __name__ == "__main__":
    main()
