"""The classifier that ships with the package, for any features: its training, and its test on encoders left out.

With `--ship` it trains on all encoders of `lib.corpus` and simulated classes, and writes the weights to
`ebmeta/model/weights/general`; on one machine, the same to the bit. `python benchmarks/general_classifier.py` trains a
model for each encoder, on all others, and scores it and the peers on tasks of that encoder. The temperature of a task
is fitted to encoders left out: that of a model under test to what the others say of the encoders that they have not
seen, so that its own has no part in it. Other scripts use these models, too. Probabilities of peers are
rescaled by the temperature that is best on the very tasks that they are scored on, their best case; those of ebmeta are
raw. WordLlama needs its package where its features are not kept: `pip install wordllama`.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from scipy import stats
from torch import Tensor
from tqdm import tqdm

import ebmeta
from ebmeta.model.general import FOLDER
from ebmeta.model.recipes import GeneralRecipe
from ebmeta.refine.belief import BeliefRefiner
from ebmeta.refine.state import PILE, QueryState
from ebmeta.training.schedule import Schedule
from lib.baselines import BASELINES, Method
from lib.common import model_folder, model_new_to, read, write
from lib.corpus import (
    ENCODERS,
    Nearer,
    Shape,
    changed,
    classes,
    draw,
    draw_in_turn,
    encode_wordllama,
    simulated,
    united,
)
from lib.kinds import FIVE, class_numbers, draw as draw_kind
from lib.peers import make
from lib.scoring import fit_temperature, rounded, score, temper

NAME = "general_classifier.json"
VERSION, ITERATIONS, RATE, BATCH, SEED = 13, 1500, 4e-3, 25, 0
CELLS = 12_000  # pairs of query and class in a batch
LOOKS, PILES, SHAPED = 50, 40, 9  # batches of an encoder left out, for calibration: of all shapes, piles, each column
PILE_WAYS, PILE_TASKS = 20, 4  # most classes of a pile, and tasks of a batch
POWERS = torch.linspace(-1, 1, 21).exp()  # of beliefs, the least and the largest that a temperature makes
SIMULATED, FRESH = 0.15, 10  # share of simulated batches, and batches of the same simulated classes
UNITED, NEARER, CHANGED, RAGGED = 0.05, 0.3, 0.15, 0.3  # shares of batches
EQUAL = 0.4  # share of batches whose classes have equal shares of the queries
TEST_TASKS, TEST_SEED = 1000, 99
NOISE_SIZES = (10, 100, 1000, 10000)
NEW_TASKS, NEW_SEED = 2000, 12  # of the comparison with models of CIFAR-FS
COLUMNS = {
    "5way_1shot": Shape(5, 1, 75),
    "5way_5shot": Shape(5, 5, 75),
    "10way_5shot": Shape(10, 5, 100),
    "5way_1shot_dirichlet1_unknown": Shape(5, 1, 75, 1.0, told=False),
    "10way_1shot_few_present": Shape(10, 1, 60, 0.15, told=False),
    "5way_1shot_single": Shape(5, 1, 5),
}


def batch_of(encoders: list[str], n: int, seed: int, as_it_is: bool = False) -> ebmeta.TaskBatch:
    """Return batch number `n`, a pure function of seed and number; as it is, or at times made harder or easier."""
    rng = np.random.default_rng([seed, n])
    real = rng.random() >= SIMULATED or as_it_is
    if real:
        sets = classes(encoders[rng.integers(len(encoders))])
        rows = sets[rng.integers(len(sets))]
    else:
        rows = simulated(np.random.default_rng([seed, n // FRESH, 1]))
    if rng.random() < UNITED and not as_it_is:
        rows = united(rows, rng)
    elif real and rng.random() < NEARER and not as_it_is:
        share = float(np.exp(rng.uniform(np.log(0.3), np.log(1.3))))
        rows = [Nearer(x, share) for x in rows]
    most = min(len(rows), 50)
    ways = min(int(np.exp(rng.uniform(np.log(2), np.log(most + 1)))), most)
    shots = min(int(rng.choice([1, 1, 1, 2, 3, 5, 10, 20])), min(map(len, rows)) // 2)
    queries = int(np.exp(rng.uniform(np.log(1), np.log(500))))
    imbalance = None if rng.random() < EQUAL else float(rng.choice([0.15, 0.3, 0.5, 1.0, 2.0, 5.0]))
    queries = ways * max(1, round(queries / ways)) if imbalance is None else queries
    number = int(np.clip(CELLS / (ways * queries), 4, 32))
    ragged = rng.random() < RAGGED
    shots = min(max(shots, int(rng.integers(2, 6))), min(map(len, rows)) // 2) if ragged else shots
    batch = draw(rows, Shape(ways, shots, queries, imbalance, ragged=ragged), number, rng)
    told = (imbalance is None and rng.random() < 0.8) or rng.random() < 0.3
    batch = batch if told else replace(batch, concentration=None)
    return changed(batch, rng) if real and rng.random() < CHANGED and not as_it_is else batch


def pile_of(encoder: str, n: int, seed: int) -> ebmeta.TaskBatch:
    """Return batch number `n` of tasks of 100 to 1,500 queries, whose class proportions are unknown."""
    rng = np.random.default_rng([seed, n, 7])
    sets = classes(encoder)
    rows = sets[rng.integers(len(sets))]
    most = min(len(rows), PILE_WAYS)
    ways = min(int(np.exp(rng.uniform(np.log(2), np.log(most + 1)))), most)
    shots, queries = int(rng.choice([1, 1, 2, 5])), int(np.exp(rng.uniform(*np.log(PILE))))
    imbalance = None if rng.random() < EQUAL else float(rng.choice([0.5, 1.0, 2.0, 5.0]))
    return draw(rows, Shape(ways, shots, queries, imbalance, told=False), PILE_TASKS, rng)


def trained(encoders: list[str], name: str, iterations: int) -> ebmeta.EmpiricalBayes:
    """Return a model of tasks of these encoders and simulated ones; kept once trained."""
    folder = model_folder() / f"general_{name}_{iterations}_version{VERSION}"
    if (folder / "config.json").is_file():
        return ebmeta.load(folder)
    model, goal = ebmeta.EmpiricalBayes.from_recipe(GeneralRecipe(), 0.0, seed=SEED).train(), ebmeta.Objective()
    schedule = Schedule(iterations, RATE)
    optimizer, losses = schedule.optimizer(model), []
    for n in (bar := tqdm(range(iterations), desc=name)):
        terms = goal.terms(model, batch_of(encoders, n, SEED))
        loss = goal.total(terms) / terms.num_queries.sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        schedule.step(model, optimizer, loss.item(), n)
        losses.append([float(v) for v in terms.means()["nll"]])
        if n % 100 == 99:
            bar.set_postfix_str(" ".join(f"{v:.3f}" for v in np.mean(losses[-500:], 0)))
    ebmeta.save(model.eval(), folder)
    return model


@dataclass(frozen=True)
class Seen:
    """What a model says of tasks of an encoder that it was not trained on.

    Args:
        reading: what the temperature of each task depends on, shape `(T, F)`.
        nll: of each task after every step, beliefs being taken to each power of `POWERS`, shape `(K, T, P)`.
        told: what labelled rows make of the temperature (`BeliefRefiner.told`), shape `(K, 2, T)`.
    """

    reading: Tensor
    nll: Tensor
    told: Tensor


@torch.no_grad()
def look(model: ebmeta.EmpiricalBayes, encoder: str) -> Seen:
    """Return what a model says of an encoder, on tasks of all shapes, on piles, and on tasks of the columns."""
    batches = [batch_of([encoder], n, SEED + 1, as_it_is=True) for n in range(LOOKS)]
    batches += [pile_of(encoder, n, SEED + 1) for n in range(PILES)]
    batches += [batch for column in COLUMNS for batch in tasks_of(encoder, column, BATCH * SHAPED, SEED + 1)]
    refiner, readings, losses, told = cast(BeliefRefiner, model.refiner), [], [], []
    for batch in batches:
        inferred = model.infer(batch)
        setting, y = inferred.setting, cast(Tensor, batch.query_y).unsqueeze(-1)
        real = setting.query_mask
        known = setting.equal, real, setting.way_mask
        states, steps = [QueryState(setting, iterate.q) for iterate in inferred.iterates[1:]], []
        for state in states:
            odds = refiner.sharp(state)
            said = [refiner.tempered(power.expand(len(y)), odds, *known) for power in POWERS]
            lost = [-p.gather(-1, y.masked_fill(~real.unsqueeze(-1), 0)).squeeze(-1) * real for p in said]
            steps.append(torch.stack(lost, -1).sum(1) / real.sum(1, keepdim=True))
        readings.append(refiner.reading(states[-1]))
        losses.append(torch.stack(steps))
        told.append(torch.stack([torch.stack(refiner.told(torch.ones(len(y)), state)) for state in states]))
    return Seen(torch.cat(readings), torch.cat(losses, 1), torch.cat(told, 2))


def calibrated(model: ebmeta.EmpiricalBayes, seen: list[Seen]) -> ebmeta.EmpiricalBayes:
    """Return a model whose temperature of a task is fitted to what like models say of encoders new to them."""
    model, reading = copy.deepcopy(model), torch.cat([said.reading for said in seen])
    for k in range(model.num_steps):
        losses, told = torch.cat([said.nll[k] for said in seen]), torch.cat([said.told[k] for said in seen], 1)

        def nll(factor: Tensor, losses: Tensor = losses, told: Tensor = told) -> Tensor:
            place = ((told[0] * factor ** told[1]).log() + 1) / 2 * (len(POWERS) - 1)
            low = place.detach().floor().clamp(0, len(POWERS) - 2).long()
            two = losses.gather(1, torch.stack([low, low + 1], 1))
            return torch.lerp(two[:, 0], two[:, 1], place - low).mean()

        model.refiner.temperature.fit(k, reading, nll)
    return model


def tasks_of(encoder: str, column: str, num_tasks: int, seed: int = TEST_SEED) -> list[ebmeta.TaskBatch]:
    """Return tasks of an encoder; those of the test by default."""
    return draw_in_turn(encoder, COLUMNS[column], math.ceil(num_tasks / BATCH), BATCH, seed)


@torch.no_grad()
def ours(
    model: ebmeta.EmpiricalBayes, batches: list[ebmeta.TaskBatch], classes: Tensor | None = None
) -> dict[str, Any]:
    """Score a model before refinement, after it, and with the temperature that is best on these very tasks.

    `sureness` is what mean confidence exceeds accuracy by. With an interval over classes where tasks name theirs.
    """
    started = time.process_time()
    inferred = [model.infer(batch) for batch in batches]
    probs = [torch.cat([i.predict(k)["probs"] for i in inferred]) for k in (0, -1)]
    milliseconds = 1000 * (time.process_time() - started) / len(probs[0])
    y = truth(batches)
    first, last = (summary(p, y, classes) for p in probs)
    best = summary(temper(probs[1], fit_temperature(probs[1], y)), y)
    last["sureness"] = float(probs[1].amax(-1).mean()) - last["accuracy"][0]
    return {"start": first, "end": last, "best": best, "ms_per_task": round(milliseconds, 2)}


def truth(batches: list[ebmeta.TaskBatch]) -> Tensor:
    """Return the classes of all queries, shape `(T, Q)`."""
    return torch.cat([batch.query_y for batch in batches])


def summary(probs: Tensor, y: Tensor, classes: Tensor | None = None) -> dict[str, Any]:
    """Return accuracy, NLL and calibration error with the half widths of their 95% intervals."""
    found = score(probs, y, classes)
    return {name: found[name] for name in ("accuracy", "accuracy_classes", "nll", "ece") if name in found}


def methods() -> dict[str, Method]:
    """Return the peers, of one setting each, which know nothing but the task."""
    peers: dict[str, Method] = {name: make(name, "balanced") for name in ("bd_cspn", "tim", "alpha_tim", "pt_map")}
    graph = make("laplacianshot", "balanced", center=torch.zeros(1))  # rows come off the mean of the task
    return BASELINES | {"laplacianshot": graph} | peers


def framed(batch: ebmeta.TaskBatch, name: str) -> tuple[Tensor, Tensor]:
    """Return rows as a peer gets them: off the mean of the task, as directions; of no negative numbers for PT-MAP."""
    rows = torch.cat([batch.support_x, batch.query_x], 1).double()
    rows = rows - (rows.amin(1, keepdim=True) if name == "pt_map" else rows.mean(1, keepdim=True))
    rows = torch.nn.functional.normalize(rows, dim=-1).float()
    return rows[:, : batch.support_x.shape[1]], rows[:, batch.support_x.shape[1] :]


def peer(name: str, batches: list[ebmeta.TaskBatch]) -> dict[str, Any]:
    """Score a peer, with the temperature that is best on these very tasks."""
    method, probs = methods()[name], []
    for batch in batches:
        support, query = framed(batch, name)
        probs.append(method(support, batch.support_y, query, batch.way_mask.shape[1]))
    y, raw = truth(batches), torch.cat(probs)
    return summary(temper(raw, fit_temperature(raw, y)), y)


def overall(cells: dict[str, dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Return means over encoders of every method, by column and over all; and over all cells how ours compare."""
    out: dict[str, dict[str, Any]] = {}
    for name in ("ebmeta", *methods()):
        values = {column: [last(cells[e][column][name]) for e in cells] for column in COLUMNS}
        means = {
            column: [float(np.mean([v[k] for v in rows])) for k in ("accuracy", "nll", "ece")]
            for column, rows in values.items()
        }
        out[name] = means | {"mean": [float(np.mean([m[k] for m in means.values()])) for k in range(3)]}
    every = [cells[e][column] for e in cells for column in COLUMNS]
    ours = [last(cell["ebmeta"]) for cell in every]
    best = [max(cell[name]["accuracy"][0] for name in methods()) for cell in every]
    sharp = [min(cell[name]["nll"][0] for name in methods()) for cell in every]
    out["compared"] = {
        "cells": len(every),
        "within_a_point_of_the_best": sum(o["accuracy"] > b - 0.01 for o, b in zip(ours, best, strict=True)),
        "below_prototypes": sum(
            o["accuracy"] < c["prototypes"]["accuracy"][0] - 0.005 for o, c in zip(ours, every, strict=True)
        ),
        "lowest_nll": sum(o["nll"] < s for o, s in zip(ours, sharp, strict=True)),
        "ece_at_most_0p03": sum(o["ece"] <= 0.03 for o in ours),
        "worst_ece": max(o["ece"] for o in ours),
        "too_sure": sum(c["ebmeta"]["end"]["sureness"] > 0.03 for c in every),
        "not_sure_enough": sum(c["ebmeta"]["end"]["sureness"] < -0.03 for c in every),
        "best_case_lowest_nll": sum(c["ebmeta"]["best"]["nll"][0] < s for c, s in zip(every, sharp, strict=True)),
        "best_case_ece_at_most_0p03": sum(c["ebmeta"]["best"]["ece"][0] <= 0.03 for c in every),
    }
    out["by_rows"] = {
        "five" if five else "one": {
            "cells": len(some),
            "nll": float(np.mean([c["ebmeta"]["end"]["nll"][0] for c in some])),
            "best_case_nll": float(np.mean([c["ebmeta"]["best"]["nll"][0] for c in some])),
            "ece_at_most_0p03": sum(c["ebmeta"]["end"]["ece"][0] <= 0.03 for c in some),
        }
        for five in (True, False)
        if (some := [cells[e][column] for e in cells for column in COLUMNS if ("5shot" in column) == five])
    }
    out["lead"] = lead(cells, max(methods(), key=lambda name: out[name]["mean"][0]))
    return out


def lead(cells: dict[str, dict[str, dict[str, Any]]], name: str) -> dict[str, Any]:
    """Return how much more accurate ours is than a peer in the mean over columns, with a 95% interval over encoders."""
    each = [
        np.mean([last(cell["ebmeta"])["accuracy"] - last(cell[name])["accuracy"] for cell in columns.values()])
        for columns in cells.values()
    ]
    half = stats.t.ppf(0.975, len(each) - 1) * np.std(each, ddof=1) / math.sqrt(len(each))
    return {"peer": name, "accuracy": [float(np.mean(each)), float(half)]}


def new_classes(model: ebmeta.EmpiricalBayes) -> dict[str, Any]:
    """Return scores on the test classes of CIFAR-FS, the tasks of the models that 64 of its classes have trained."""
    found = {}
    for kind in FIVE:
        batches = draw_kind(kind, "test", NEW_TASKS, NEW_SEED)
        found[kind.name] = rounded(ours(model, batches, class_numbers(batches)))
    return found


@torch.no_grad()
def of_noise() -> dict[str, dict[str, float]]:
    """Return the mean confidence of the shipped model where features know nothing of five classes, by their number."""
    found: dict[str, dict[str, float]] = {}
    for size in NOISE_SIZES:
        rng = np.random.default_rng([TEST_SEED, size])
        rows = [rng.standard_normal((60, size), np.float32) for _ in range(5)]
        batch = draw(rows, COLUMNS["5way_1shot"], BATCH, rng)
        for name, tasks in (("told", batch), ("unknown", replace(batch, concentration=None))):
            probs = ebmeta.general_classifier().infer(tasks).predict(-1)["probs"]
            found.setdefault(str(size), {})[name] = float(probs.amax(-1).mean())
    return found


def last(piece: dict[str, Any]) -> dict[str, float]:
    """Return accuracy, NLL and calibration error of a method, after refinement where it refines."""
    scores = piece.get("end", piece)
    return {name: scores[name][0] for name in ("accuracy", "nll", "ece")}


def main() -> None:
    """Train what is asked for, score it, and write after each piece."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ship", action="store_true", help="train on all encoders and write the package's weights")
    parser.add_argument("--iterations", type=int, default=ITERATIONS)
    parser.add_argument("--tasks", type=int, default=TEST_TASKS)
    parser.add_argument("--only", nargs="*", choices=[*ENCODERS], default=[*ENCODERS], help="encoders to leave out")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    encode_wordllama()
    left_out = {e: trained([o for o in ENCODERS if o != e], f"without_{e}", arguments.iterations) for e in ENCODERS}
    seen = {e: look(model, e) for e, model in left_out.items()}
    if arguments.ship:
        model = calibrated(trained([*ENCODERS], "all", arguments.iterations), [*seen.values()])
        ebmeta.save(model, FOLDER, overwrite=True)
        return
    for encoder in arguments.only:
        done = read(NAME).get("left_out", {}).get(encoder, {})
        model = calibrated(left_out[encoder], [said for e, said in seen.items() if e != encoder])
        ebmeta.save(model, model_new_to(encoder), overwrite=True)
        for column in COLUMNS:
            batches = tasks_of(encoder, column, arguments.tasks)
            for name in ["ebmeta", *methods()]:
                if name in done.get(column, {}):
                    continue
                own = class_numbers(batches)
                found = ours(model, batches, own) if name == "ebmeta" else peer(name, batches)
                result = read(NAME) | {"tasks": arguments.tasks, "iterations": arguments.iterations, "seed": SEED}
                cell = result.setdefault("left_out", {}).setdefault(encoder, {}).setdefault(column, {})
                cell[name] = rounded(found)
                write(NAME, result)
                print(encoder, column, name, json.dumps(cell[name]), flush=True)
    if "new_classes" not in read(NAME):
        write(NAME, read(NAME) | {"new_classes": new_classes(ebmeta.load(model_new_to("conv4")))})
    result = read(NAME) | {"noise": rounded(of_noise())}
    whole = {e: cells for e, cells in result["left_out"].items() if set(cells) == {*COLUMNS}}
    write(NAME, result | {"encoders": len(whole), "overall": rounded(overall(whole))})


if __name__ == "__main__":
    main()
