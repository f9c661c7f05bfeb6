"""CIFAR-FS from images: a wide residual network by rotations and manifold mixup, its features, ebmeta, a table.

Does the next pieces until its budget is used and says what remains; call it again, and it goes on where it
stopped, to the same result. `python benchmarks/cifar_fs_images.py --images FOLDER --folder WORK --minutes 9`

The images are the files `images_{train_0,train_1,val,test}.npz`; a piece waits for those that it needs. With a
CUDA device the network is WRN-28-10, else a reduced one that a processor can train, and the result says so.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ebmeta
from lib import wide_resnet
from lib.common import RESULTS, by_step, write

FULL = {"depth": 28, "width": 10, "rotation_epochs": 25, "mixup_epochs": 13}
REDUCED = {"depth": 10, "width": 1, "rotation_epochs": 1, "mixup_epochs": 1}
COMMON = {"batch_size": 128, "seed": 0, "iterations": 2000, "test_tasks": 2000}
SHOTS = (1, 5)
PROFILE = 64  # training classes in a profile, at most
SPLITS = ("train", "val", "test")


class NotYetError(Exception):
    """A piece has to stop, for want of budget or of a file; its message says what remains of it."""


class Budget:
    """What one call may do.

    Args:
        minutes: from now.
        units: steps of training, batches of tasks.
    """

    def __init__(self, minutes: float = math.inf, units: float = math.inf) -> None:
        self.deadline, self.units = time.monotonic() + 60 * minutes, units

    def left(self) -> bool:
        """Say whether there is time and a unit left."""
        return self.units > 0 and time.monotonic() < self.deadline

    def take(self) -> bool:
        """Take one unit; say whether it was there."""
        there = self.left()
        self.units -= 1
        return there


class Budgeted(ebmeta.MixedSampler):
    """A source of tasks that stops where the budget ends.

    Args:
        tasks: where the tasks come from.
        budget: what the call may do.
    """

    def __init__(self, tasks: ebmeta.EpisodeSampler, budget: Budget) -> None:
        super().__init__([tasks])
        self.budget = budget

    def sample(self, num_tasks: int, index: int = 0) -> ebmeta.TaskBatch:
        """Return the batch of the source, for one unit."""
        if not self.budget.take():
            raise NotYetError(f"stopped at batch {index}")
        return super().sample(num_tasks, index)


@dataclass
class Pipeline:
    """The pieces, in the order of `pieces`, and what they share.

    Args:
        images: folder of the image files.
        folder: folder of everything that the pieces leave.
        settings: the options that decide the result.
        budget: what the call may do.
        device: where to compute.
        compiled: use `torch.compile` in training.
    """

    images: Path
    folder: Path
    settings: dict[str, int]
    budget: Budget
    device: torch.device
    compiled: bool = False

    def pieces(self) -> dict[str, Callable[[], dict[str, Any]]]:
        """Return every piece by name; a piece returns facts for the result."""
        out: dict[str, Callable[[], dict[str, Any]]] = {"backbone": self.backbone}
        out |= {f"features_{split}": partial(self.features, split) for split in SPLITS}
        out |= {f"fit_{shots}shot": partial(self.fit, shots) for shots in SHOTS}
        out |= {f"test_{shots}shot": partial(self.test, shots) for shots in SHOTS}
        return out | {f"general_{shots}shot": partial(self.general, shots) for shots in SHOTS}

    def _read(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        absent = wide_resnet.missing(self.images, split)
        if absent:
            raise NotYetError(f"waiting for {', '.join(absent)}")
        return wide_resnet.read(self.images, split)

    def _network(self, num_classes: int) -> wide_resnet.WideResNet:
        return wide_resnet.WideResNet(
            self.settings["depth"], self.settings["width"], num_classes, self.settings["seed"]
        )

    def backbone(self) -> dict[str, Any]:
        """Train the network on the train classes."""
        images, classes = self._read("train")
        plan = wide_resnet.Schedule(
            **{k: self.settings[k] for k in ("rotation_epochs", "mixup_epochs", "batch_size", "seed")}
        )
        labels = np.repeat(np.arange(len(classes)), images.shape[1])
        network = self._network(len(classes))
        flat = images.reshape(-1, *images.shape[2:])
        training = wide_resnet.Training(network, flat, labels, plan, self.device, self.compiled)
        if not training.run(self.folder / "backbone.pt", self.budget.take):
            raise NotYetError(f"{training.iteration} of {training.total} iterations done")
        return {
            "iterations": training.total,
            "parameters": sum(p.numel() for p in network.parameters()),
            "class_and_rotation_loss": training.stage_losses(),
        }

    def features(self, split: str) -> dict[str, Any]:
        """Write the penultimate features of one split."""
        images, classes = self._read(split)
        state = torch.load(self.folder / "backbone.pt", map_location=self.device, weights_only=True)["network"]
        network = self._network(len(state["classes"]))
        network.load_state_dict(state)
        values = wide_resnet.extract(network, images, self.device)
        temporary = self.folder / f"unfinished_{split}.npz"
        np.savez(temporary, features=values, classes=classes)
        os.replace(temporary, self.folder / f"features_{split}.npz")
        return {"images": values.shape[0] * values.shape[1], "features": values.shape[2]}

    def tasks(self, split: str, shots: int) -> ebmeta.EpisodeSampler:
        """Return a source of tasks of one split."""
        with np.load(self.folder / f"features_{split}.npz") as file:
            features = file["features"].astype(np.float32)
        classes, members, width = features.shape
        labels, seed = np.repeat(np.arange(classes), members), self.settings["seed"] + SPLITS.index(split)
        return ebmeta.EpisodeSampler(features.reshape(-1, width), labels, n_way=5, n_shot=shots, n_query=15, seed=seed)

    def fit(self, shots: int) -> dict[str, Any]:
        """Meta-train on the features of the train classes, stop on those of the validation classes."""
        train, validation = (Budgeted(self.tasks(split, shots), self.budget) for split in SPLITS[:2])
        source, seed = train.samplers[0], self.settings["seed"]
        model = ebmeta.EmpiricalBayes.classifier(
            source.X.shape[1], profile=min(PROFILE, len(source.classes)), seed=seed
        )
        fitted = ebmeta.fit(
            model,
            train,
            self.settings["iterations"],
            validation=validation,
            seed=seed,
            device=self.device,
            checkpoint=self.folder / f"fit_{shots}shot.safetensors",
            checkpoint_every=50,
            progress=False,
        )
        ebmeta.save(model, self.folder / f"model_{shots}shot")
        return {"iterations": fitted.history.sizes["iteration"], "best_iteration": fitted.best_iteration}

    def test(self, shots: int) -> dict[str, Any]:
        """Score the test classes, once."""
        model = ebmeta.load(self.folder / f"model_{shots}shot")
        return self._scores(model, "test", shots)

    def general(self, shots: int) -> dict[str, Any]:
        """Score the classifier that ships with the package, and on the validation classes the trained one beside it."""
        model, own = ebmeta.general_classifier(), ebmeta.load(self.folder / f"model_{shots}shot")
        found = {split: self._scores(model, split, shots) for split in SPLITS[1:]}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the trained one has stopped on these classes, which favours it
            return found | {"trained_val": self._scores(own, "val", shots)}

    def _scores(self, model: ebmeta.EmpiricalBayes, split: str, shots: int) -> dict[str, Any]:
        tasks = Budgeted(self.tasks(split, shots), self.budget)
        return by_step(ebmeta.evaluate(model, tasks, self.settings["test_tasks"]))


def run(pipeline: Pipeline, results: Path) -> bool:
    """Do the next pieces; once all are done, write the result.

    Returns:
        Whether all are done.
    """
    log_path = pipeline.folder / "pieces.json"
    log: dict[str, dict[str, Any]] = json.loads(log_path.read_text()) if log_path.exists() else {}
    name = torch.cuda.get_device_name(pipeline.device) if pipeline.device.type == "cuda" else "CPU"
    for piece, work in pipeline.pieces().items():
        entry = log.setdefault(piece, {"seconds": 0.0, "cpu_seconds": 0.0, "calls": 0, "device": name})
        if "facts" in entry:
            continue
        wall, cpu, reason = time.monotonic(), time.process_time(), "nothing left of the budget"
        try:
            if pipeline.budget.left():
                entry["facts"] = work()
        except NotYetError as why:
            reason = str(why)
        entry["seconds"] = round(entry["seconds"] + time.monotonic() - wall, 1)
        entry["cpu_seconds"] = round(entry["cpu_seconds"] + time.process_time() - cpu, 1)
        entry["calls"] += 1
        entry["device"] = name if name in entry["device"] else f"{entry['device']}, {name}"
        _replace(log_path, json.dumps(log, indent=2))
        if "facts" not in entry:
            left = [p for p in pipeline.pieces() if "facts" not in log.get(p, {})]
            print(f"{piece}: {reason}, {entry['seconds']} s so far; remaining: {', '.join(left)}")
            return False
        print(f"{piece}: done in {entry['seconds']} s", flush=True)
    _record(pipeline, log, results)
    return True


def _record(pipeline: Pipeline, log: dict[str, dict[str, Any]], results: Path) -> None:
    """Write the result and print the table."""
    depth, width = pipeline.settings["depth"], pipeline.settings["width"]
    result: dict[str, Any] = {
        "network": f"WRN-{depth}-{width}",
        "reduced": (depth, width) != (FULL["depth"], FULL["width"]),
        "settings": pipeline.settings,
        "pieces": {
            piece: {k: v for k, v in entry.items() if k != "facts"}
            | ({} if piece.startswith(("test", "general")) else entry["facts"])
            for piece, entry in log.items()
        },
        "seconds": round(sum(entry["seconds"] for entry in log.values()), 1),
    }
    for shots in SHOTS:
        scores = result[f"{shots}shot"] = log[f"test_{shots}shot"]["facts"]
        result[f"{shots}shot_general"] = log[f"general_{shots}shot"]["facts"]
        accuracy, nll, ece = (scores[k] for k in ("accuracy", "nll", "ece"))
        print(
            f"{result['network']}, {shots}-shot: accuracy {100 * accuracy[0]:.2f} -> {100 * accuracy[-1]:.2f}, "
            f"NLL {nll[0]:.3f} -> {nll[-1]:.3f}, ECE {ece[-1]:.3f}"
        )
    write(str(results), result)


def _replace(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text + "\n")
    os.replace(temporary, path)


def settings(folder: Path, given: dict[str, int], device: torch.device) -> dict[str, int]:
    """Return the options that decide the result: those of the folder's first call, which later ones may not change.

    Raises:
        ValueError: if an option differs from the first call's.
    """
    path = folder / "settings.json"
    if not path.exists():
        chosen = COMMON | (FULL if device.type == "cuda" else REDUCED) | given
        folder.mkdir(parents=True, exist_ok=True)
        _replace(path, json.dumps(chosen, indent=2))
    stored: dict[str, int] = json.loads(path.read_text())
    for name, value in given.items():
        if value != stored[name]:
            raise ValueError(f"{name}: expected {stored[name]} as in {path}, got {value}; or choose another folder")
    return stored


def main(arguments: Sequence[str] | None = None) -> None:
    """Do the next pieces."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of the image files")
    parser.add_argument("--folder", type=Path, required=True, help="folder of everything that the pieces leave")
    parser.add_argument("--minutes", type=float, default=9.0, help="when to stop")
    parser.add_argument("--units", type=float, default=math.inf, help="steps and batches after which to stop")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true", help="compile the groups of blocks")
    parser.add_argument("--results", type=Path, default=RESULTS / "cifar_fs_images.json", help="file of the result")
    for name in FULL | COMMON:
        default = COMMON[name] if name in COMMON else f"{FULL[name]} with a CUDA device, else {REDUCED[name]}"
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, help=f"default: {default}")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    torch.backends.cudnn.benchmark = device.type == "cuda"
    given = {k: v for k in FULL | COMMON if (v := getattr(options, k)) is not None}
    chosen = settings(options.folder, given, device)
    if (chosen["depth"], chosen["width"]) != (FULL["depth"], FULL["width"]):
        print(f"a reduced network, WRN-{chosen['depth']}-{chosen['width']}: its figures are not those of WRN-28-10")
    budget = Budget(options.minutes, options.units)
    run(Pipeline(options.images, options.folder, chosen, budget, device, options.compile), options.results.resolve())


if __name__ == "__main__":
    main()
