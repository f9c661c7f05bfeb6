"""Few-shot classification on CIFAR-FS, shared Conv-4-64 features: ebmeta beside ten peers.

Every method sees the same test tasks. Peers' probabilities are rescaled by a temperature fitted on
validation tasks of the same kind; ours are taken as they are. Everything is chosen on validation classes.

Resumable: each model and each (method, kind of task) is a piece, kept in `benchmarks/cache` and in the
JSON file when done; a piece that is there is not done again. `python benchmarks/few_shot_classification.py`

`--over-classes` adds intervals over classes to the pieces that were done without them: it predicts the test tasks anew,
and takes the interval if the accuracy is the one that is written. What has to be trained for it is left out but where
`--only` names it.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ebmeta
from ebmeta.prediction.trees import marginals
from lib.classifier import MODELS, SAME, kept, last_probs, trained
from lib.common import cifar_fs, model_folder, read, write
from lib.kinds import FEW, FIVE, MANY, VALIDATION_WAYS, Kind, class_numbers, draw, labels
from lib.peers import SIB, UNEM, Peer, TrainedPeer, base_statistics
from lib.peers.registry import METHODS, make
from lib.scoring import conformal, curves, fit_temperature, rounded, score, temper

NAME = "few_shot_classification.json"
AS_PUBLISHED = ("laplacianshot", "tim", "pt_map")  # those whose published settings fit features of another scale
PUBLISHED = "_published"  # ends the name of a peer with published settings, for 5 ways; without, chosen on validation
VALIDATION_TASKS = 600


def milliseconds(predict: Any, batches: list[ebmeta.TaskBatch]) -> float:
    """Return processor time per task, in batches of 64, the best of up to five after a warm-up."""
    times = []
    for batch in batches[:6]:
        started = time.process_time()
        predict(batch)
        times.append(1000 * (time.process_time() - started) / len(batch))
    return min(times[1:]) if len(times) > 1 else times[0]


def untold(batches: list[ebmeta.TaskBatch]) -> list[ebmeta.TaskBatch]:
    """Return tasks that do not state their class proportions."""
    return [replace(batch, concentration=None) for batch in batches]


def ours(model: ebmeta.EmpiricalBayes, kind: Kind, num_tasks: int, told: bool = True) -> dict[str, Any]:
    """Score a model after every step, on validation and test classes."""
    result: dict[str, Any] = {}
    for split, seed, tasks in (("val", 11, VALIDATION_TASKS), ("test", 12, num_tasks)):
        batches = draw(kind, split, tasks, seed)
        batches = batches if told else untold(batches)
        y = labels(batches)
        path = torch.cat([torch.cat([m.summaries["probs"] for m in marginals(model, b)], 1) for b in batches], 1)
        steps = [score(probs, y, class_numbers(batches)) for probs in path]
        result[split] = {name: [step[name] for step in steps] for name in steps[0]}
    half = len(y) // 2
    result["curves"] = curves(path[-1], y)
    result["conformal"] = conformal((path[-1, :half], y[:half]), (path[-1, half:], y[half:]))

    return result | {"ms_per_task": milliseconds(partial(last_probs, model), batches)}


def peers(cache: Path, sib_steps: int) -> dict[str, Any]:
    """Return the peers, each a function of the kind of task that makes it ready."""
    features = torch.from_numpy(cifar_fs("train").X).view(64, 600, 256)
    center, scatter = base_statistics(features)

    def learn(method: TrainedPeer, kind: Kind, steps: int | None = None) -> Peer:
        path = cache / f"{method.name}_{kind.name}.safetensors"
        method.train(kind.sampler("train", 0), draw(kind, "val", 256, 1), steps, checkpoint=path)
        return method

    def sib(kind: Kind) -> Peer:
        return learn(SIB(n_way=kind.n_way), Kind(kind.n_way, kind.n_shot), sib_steps)

    def unem(kind: Kind) -> Peer:
        return learn(UNEM(center), kind)

    def tuned(name: str, kind: Kind) -> Peer:
        return make(name, "balanced" if kind.imbalance is None else "imbalanced", center, scatter)

    def published(name: str, kind: Kind) -> Peer:
        return make(name, "published", center, scatter)

    ready = {name: partial(tuned, name) for name in METHODS} | {"sib": sib, "unem": unem}
    return ready | {f"{name}{PUBLISHED}": partial(published, name) for name in AS_PUBLISHED}


def peer(method: Peer, kind: Kind, num_tasks: int) -> dict[str, Any]:
    """Score a peer on the test classes, with the temperature of the validation classes."""

    def predict(batch: ebmeta.TaskBatch) -> Tensor:
        return method(batch.support_x, batch.support_y, batch.query_x, kind.n_way)

    tuning, batches = draw(kind, "val", VALIDATION_TASKS, 11), draw(kind, "test", num_tasks, 12)
    fewer = min(kind.n_way, VALIDATION_WAYS)
    tuned = [method(b.support_x, b.support_y, b.query_x, fewer) for b in tuning]
    temperature = fit_temperature(torch.cat(tuned), labels(tuning))
    probs, y = temper(torch.cat([predict(b) for b in batches]), temperature), labels(batches)
    half = len(y) // 2
    return {
        "temperature": temperature,
        "test": score(probs, y, class_numbers(batches)),
        "curves": curves(probs, y),
        "conformal": conformal((probs[:half], y[:half]), (probs[half:], y[half:])),
        "ms_per_task": milliseconds(predict, batches),
    }


def add_intervals(result: dict[str, Any], cache: Path, iterations: int, sib_steps: int, only: list[str] | None) -> None:
    """Add intervals over classes wherever they are missing; train for them what is named alone."""
    ready = peers(cache, sib_steps)
    for name, pieces in result.items():
        if only is not None and name not in only:
            continue
        for kind in [*FIVE, *FEW, *MANY]:
            scores = pieces.get(kind.name, {}).get("test") if isinstance(pieces, dict) else None
            if scores is None or scores.keys() >= {"accuracy_classes", "overconfidence_classes"}:
                continue
            batches = draw(kind, "test", result["test_tasks"], result["test_seed"])
            y, classes = labels(batches), class_numbers(batches)
            if len(classes.unique()) == kind.n_way:
                continue
            if name in MODELS:
                if not kept(name, iterations, cache):
                    continue
                model, _ = trained(name, iterations, cache)
                batches = untold(batches) if name in SAME else batches
                path = torch.cat(
                    [torch.cat([m.summaries["probs"] for m in marginals(model, b)], 1) for b in batches], 1
                )
            elif name in ("sib", "unem") and only is None:
                continue
            else:
                method = ready[name](kind)
                probs = torch.cat([method(b.support_x, b.support_y, b.query_x, kind.n_way) for b in batches])
                path = temper(probs, pieces[kind.name]["temperature"])[None]
            again = (path.argmax(-1) == y).float().mean((1, 2)).tolist()
            before = [value[0] for value in scores["accuracy"]] if name in MODELS else [scores["accuracy"][0]]
            if max(abs(a - b) for a, b in zip(again, before, strict=True)) > 2e-5:
                print(f"{name} {kind.name}: accuracy {again[-1]:.5f}, written was {before[-1]:.5f}; left as it is")
                continue
            steps = rounded([score(probs, y, classes) for probs in path])
            for missing in ("accuracy_classes", "overconfidence", "overconfidence_classes"):
                found = [step[missing] for step in steps]
                scores[missing] = found if name in MODELS else found[0]
            write(NAME, result)
            print(f"{name} {kind.name}: overconfidence {100 * found[-1]:.2f} over classes", flush=True)


def main() -> None:
    """Do every piece that is not done, and write after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--test-tasks", type=int, default=2000)
    parser.add_argument("--iterations", type=int, default=2000)
    parser.add_argument("--sib-steps", type=int, default=SIB.steps)
    parser.add_argument("--only", nargs="*", help="methods to run: models or peers")
    parser.add_argument("--over-classes", action="store_true", help="add intervals over classes to what is done")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cache, result = model_folder(), read(NAME)
    if arguments.over_classes:
        add_intervals(result, cache, arguments.iterations, arguments.sib_steps, arguments.only)
        return
    result |= {"test_tasks": arguments.test_tasks, "test_seed": 12, "validation_tasks": VALIDATION_TASKS}

    def wanted(name: str) -> bool:
        return arguments.only is None or name in arguments.only

    def done(name: str, kind: Kind) -> bool:
        return kind.name in result.get(name, {})

    def keep(name: str, kind: Kind, scores: dict[str, Any]) -> None:
        # Another process may have added pieces of its own.
        for other, pieces in read(NAME).items():
            if isinstance(pieces, dict):
                result[other] = pieces | result.get(other, {})
        result.setdefault(name, {})[kind.name] = rounded(scores)
        write(NAME, result)
        final = scores["test"]
        accuracy, nll, ece = (final[k][-1] if name in MODELS else final[k] for k in ("accuracy", "nll", "ece"))
        print(f"{name} {kind.name}: accuracy {100 * accuracy[0]:.2f}, NLL {nll[0]:.3f}, ECE {ece[0]:.4f}", flush=True)

    for name, (_, tested) in MODELS.items():
        if wanted(name) and not all(done(name, kind) for kind in tested):
            model, facts = trained(name, arguments.iterations, cache)
            result.setdefault(name, {})["training"] = facts
            for kind in tested:
                if not done(name, kind):
                    keep(name, kind, ours(model, kind, arguments.test_tasks, name not in SAME))
    for name, prepare in peers(cache, arguments.sib_steps).items():
        for kind in [*FIVE, *MANY]:
            fixed = name == "sib" or name.endswith(PUBLISHED)
            if wanted(name) and not done(name, kind) and not (fixed and kind in MANY):
                keep(name, kind, peer(prepare(kind), kind, arguments.test_tasks))


if __name__ == "__main__":
    main()
