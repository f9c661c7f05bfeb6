"""Omniglot, the split of Vinyals et al. (2016): 5-way and 20-way, encoder included.

Trains an encoder on the 1,028 train classes (`omniglot_encoder.py`, one CPU core), then one model for any number of
ways and shots on the features of their mirror images, classes that the encoder was not trained on. Training stops on
the 172 validation classes; the 423 test classes, as drawn, are reported: 2,000 tasks, 15 queries per class, mean and
95% intervals over tasks and over classes. `python benchmarks/omniglot.py`

The encoder and its features stay in `--folder`; a run that was stopped continues there. `--smoke` runs every part at
a tiny size and writes no result.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

import ebmeta
from ebmeta.prediction.class_jackknife import class_half_width
from lib.common import ROOT, by_step, write
from lib.omniglot_encoder import FEATURES, drawings, features, train, turned

SETTINGS = ((5, 1), (5, 5), (20, 1))  # ways, shots


@dataclass(frozen=True)
class Size:
    """How much of everything: the benchmark's own size by default."""

    classes: int | None = None
    encoder_iterations: int = 4800
    encoder_batch: int = 128
    iterations: int = 300
    batch_size: int = 8
    validation_tasks: int = 64
    test_tasks: int = 2000


SMOKE = Size(24, 20, 32, 10, 4, 4, 8)


def encoded(folder: Path, size: Size, seed: int) -> tuple[dict[str, np.ndarray], float]:
    """Return the features of every split, and the processor seconds of the encoder's training."""
    folder.mkdir(parents=True, exist_ok=True)
    state, path = folder / "encoder.pt", folder / "features.npz"
    images = drawings("train", size.classes)
    encoder, seconds = train(turned(images), state, size.encoder_iterations, size.encoder_batch, seed=seed)
    if not path.exists() or path.stat().st_mtime < state.stat().st_mtime:
        parts = {
            "train": images[..., ::-1],
            "val": drawings("val", size.classes),
            "test": drawings("test", size.classes),
        }
        np.savez(path, **{name: features(encoder, X) for name, X in parts.items()})
    with np.load(path) as file:
        return dict(file), seconds


def sampler(x: np.ndarray, n_way: Any, n_shot: Any, n_query: Any = 15, seed: int = 0) -> ebmeta.EpisodeSampler:
    """Return tasks over features of shape `(classes, members, width)`."""
    return ebmeta.EpisodeSampler(
        x.reshape(-1, x.shape[-1]), np.repeat(np.arange(len(x)), x.shape[1]), n_way, n_shot, n_query, seed=seed
    )


def prototypes(tasks: ebmeta.EpisodeSampler, num_tasks: int) -> dict[str, float]:
    """Return the accuracy of cosine prototypes, and its half widths, on the tasks that `ebmeta.evaluate` draws."""
    scores, classes = [], []
    for i, start in enumerate(range(0, num_tasks, 64)):
        batch = tasks.sample(min(64, num_tasks - start), i)
        member = functional.one_hot(batch.support_y).float()
        sums = torch.einsum("tsc,tsp->tcp", member, functional.normalize(batch.support_x, dim=-1))
        cosine = torch.einsum("tqp,tcp->tqc", batch.query_x, functional.normalize(sums, dim=-1))
        scores.append((cosine.argmax(-1) == batch.query_y).double().mean(1))
        classes.append(batch.way_class)
    accuracy = torch.cat(scores)
    found = {
        "accuracy": accuracy.mean().item(),
        "accuracy_half_width": 1.96 * accuracy.std().item() / len(accuracy) ** 0.5,
        "accuracy_half_width_classes": class_half_width(accuracy.numpy(), torch.cat(classes).numpy()),
    }
    return {name: round(value, 5) for name, value in found.items()}


def run(folder: Path, size: Size, seed: int = 0) -> dict[str, Any]:
    """Train encoder and model, and score both on the test classes."""
    x, seconds = encoded(folder, size, seed)
    model = ebmeta.EmpiricalBayes.classifier(FEATURES, seed=seed)
    fitted = ebmeta.fit(
        model,
        sampler(x["train"], (5, 20), (1, 5), (5, 10), seed=seed),
        size.iterations,
        size.batch_size,
        validation=sampler(x["val"], (5, 20), 1, (5, 10), seed=seed + 1),
        validation_tasks=size.validation_tasks,
        validate_every=max(1, size.iterations // 4),
        seed=seed,
        progress=sys.stderr.isatty(),
    )
    result: dict[str, Any] = {
        "test_tasks": size.test_tasks,
        "queries_per_class": 15,
        "seed": seed,
        "classes": {name: len(part) for name, part in x.items()},
        "encoder": {"iterations": size.encoder_iterations, "cpu_seconds": round(seconds, 1), "features": FEATURES},
        "iterations": fitted.history.sizes["iteration"],
        "best_iteration": fitted.best_iteration,
        "seconds": round(fitted.seconds, 1),
    }
    for ways, shots in SETTINGS:
        tasks = sampler(x["test"], ways, shots, seed=seed + 2)
        entry = {"prototypes": prototypes(tasks, size.test_tasks)}
        entry["test"] = by_step(ebmeta.evaluate(model, tasks, size.test_tasks))
        result[f"{ways}way_{shots}shot"] = entry
        accuracy, half_width, nll, ece = (entry["test"][k] for k in ("accuracy", "accuracy_half_width", "nll", "ece"))
        print(
            f"{ways}-way {shots}-shot: prototypes {100 * entry['prototypes']['accuracy']:.2f}, accuracy "
            f"{100 * accuracy[0]:.2f} -> {100 * accuracy[-1]:.2f} ± {100 * half_width[-1]:.2f}, "
            f"NLL {nll[0]:.4f} -> {nll[-1]:.4f}, ECE {ece[-1]:.4f}",
            flush=True,
        )
    return result


def main() -> None:
    """Run everything and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--folder", type=Path, default=ROOT / ".cache" / "omniglot", help="encoder and features")
    for name in ("encoder_iterations", "iterations", "test_tasks"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(Size, name))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes in a temporary folder, no result")
    arguments = parser.parse_args()
    if arguments.smoke:
        with tempfile.TemporaryDirectory() as folder:
            run(Path(folder), SMOKE, arguments.seed)
    else:
        size = Size(
            encoder_iterations=arguments.encoder_iterations,
            iterations=arguments.iterations,
            test_tasks=arguments.test_tasks,
        )
        write("omniglot.json", run(arguments.folder, size, arguments.seed))


if __name__ == "__main__":
    main()
