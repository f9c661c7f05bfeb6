r"""Demo in three chapters: five labels without training, what training on other classes adds, and groups.

The first and the last are `ebmeta.app.demo_digits` and `ebmeta.app.demo_groups`. The second learns new handwritten
digits from one example each, on data that ship with scikit-learn. The 8 x 8 images of ten digits, turned four ways,
dark on light or light on dark, make 80 classes. They are split by digit: no image of a test digit is seen in training,
in any orientation. Digits that are another one when turned (6 and 9), or themselves (0, 1 and 8), are all in training.
Each task is seen through a camera of its own, `camera`, the same for support and queries: contrast, uneven light, blur
and sensor noise. Every choice (steps, weights, rates) was made on the validation digits.

The general classifier was trained on digits as well, among data of many encoders, so here it only shows how it works.
"""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr

from ebmeta.app.demo_digits import sort_pile
from ebmeta.app.demo_groups import learn_patients
from ebmeta.diagnostics import Diagnosis, diagnose
from ebmeta.foundation.checks import at_least, checked
from ebmeta.foundation.extras import DISTRIBUTION
from ebmeta.foundation.writing import Kind, check_target, write_json, write_tree
from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.model.general import general_classifier
from ebmeta.model.storage import model_files, save
from ebmeta.plots.axes import save_figure
from ebmeta.prediction.scores import evaluate, table
from ebmeta.prediction.trees import predict
from ebmeta.tasks.episodes import EpisodeSampler
from ebmeta.training.loop import FitResult, fit
from ebmeta.training.objective import Objective

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ebmeta.tasks.batch import TaskBatch

__all__ = ["camera", "classes", "run", "samplers", "summary"]

SPLIT = {"train": (0, 1, 6, 8, 9), "validation": (3, 7), "test": (2, 4, 5)}
SIDE = 8
FILES: dict[str, Kind] = {
    "predictions.nc": "tree",
    "diagnosis.html": "page",
    "diagnosis.json": "result",
    "pile.png": "picture",
    "patients.png": "picture",
    "refinement.png": "picture",
    "reliability.png": "picture",
    "tasks.png": "picture",
    "result.json": "result",
}
PACKAGES = (DISTRIBUTION, "torch", "pyro-ppl", "numpy", "scikit-learn")
NUM_STEPS, BETA, ANYTIME, LEARNING_RATE = 4, 0.01, 2.0, 0.03
ITERATIONS = 200


def classes() -> tuple[np.ndarray, np.ndarray]:
    """Return all images and their classes.

    Returns:
        Images with pixels in [-1/2, 1/2], shape `(14376, 64)`; classes, shape `(14376,)`, where class
        `8 d + 2 r + i` is digit `d` turned `r` times by 90 degrees, inverted where `i` is 1.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    upright = data.images.astype(np.float32) / 16 - 0.5
    images, labels = [], []
    for turns in range(4):
        turned = np.rot90(upright, turns, axes=(1, 2)).reshape(len(upright), -1)
        for inverted in (0, 1):
            images.append(-turned if inverted else turned)
            labels.append(8 * data.target + 2 * turns + inverted)
    return np.concatenate(images), np.concatenate(labels)


def camera(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Apply one random camera to the images of a task, with its contrast, light, blur and noise.

    Args:
        rows: images, shape `(n, 64)`.
        rng: source of the camera and of the noise of each pixel.

    Returns:
        Images of the same shape.
    """
    gain, angle, tilt = np.exp(rng.normal(0, 0.5)), rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.5)
    width, noise = rng.uniform(0.3, 0.9), rng.uniform(0.3, 0.5)
    pixel = np.arange(SIDE)
    blur = np.exp(-((pixel[:, None] - pixel) ** 2) / (2 * width**2))
    blur /= blur.sum(1, keepdims=True)
    across = 2 * pixel / (SIDE - 1) - 1
    light = tilt * (np.cos(angle) * across[:, None] + np.sin(angle) * across)
    images = blur @ rows.reshape(-1, SIDE, SIDE) @ blur.T
    images = gain * (images + noise * rng.standard_normal(images.shape)) + light
    out: np.ndarray = images.reshape(rows.shape)
    return out


@checked()
def samplers(seed: int = 0) -> dict[str, EpisodeSampler]:
    """Return the sources of 5-way 1-shot tasks with 15 queries per class: "train", "validation" and "test"."""
    X, y = classes()
    seeds = np.random.SeedSequence(seed).generate_state(len(SPLIT))
    out = {}
    for (name, digits), key in zip(SPLIT.items(), seeds, strict=True):
        rows = np.isin(y // 8, digits)
        out[name] = EpisodeSampler(X[rows], y[rows], 5, 1, 15, transform=camera, seed=int(key))
    return out


@checked(num_iterations=at_least(1), num_tasks=at_least(2))
def run(
    output: str | os.PathLike[str] = "demo",
    seed: int = 0,
    num_iterations: int | None = None,
    progress: bool = True,
    *,
    num_tasks: int = 600,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Tell the three chapters, and write pictures, numbers, a model, its predictions and the page of `diagnose`.

    Args:
        output: folder of the files; made where it does not exist.
        seed: seed of tasks, initial weights and training.
        num_iterations: training iterations; 200 by default.
        progress: show progress bars.
        num_tasks: test tasks.
        overwrite: replace also files that ebmeta did not write.

    Returns:
        What `result.json` holds: scores of the pile (`pile`), of the general classifier after each refinement step
        (`general`), of a trained model (`refined`) and of one trained for no refinement (`baseline`), of the groups
        (`patients`), settings, versions, `seconds`, and the last line (`summary`).

    Raises:
        ValueError: if an argument is out of range.
        OSError: if a file cannot be written.
    """
    started = time.perf_counter()
    iterations = ITERATIONS if num_iterations is None else num_iterations
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    files = {folder / name: kind for name, kind in FILES.items()} | model_files(folder / "model")
    for path, kind in files.items():
        check_target(path, kind, overwrite)
    result: dict[str, Any] = {"ebmeta": "result", "command": "demo", "seed": seed}
    result |= {"num_iterations": iterations, "num_tasks": num_tasks, "pile": _sort(folder, seed, overwrite)}
    chapter, trust = _classes(folder, seed, iterations, progress, num_tasks, overwrite=overwrite)
    result |= {**chapter, "patients": _groups(folder, seed, overwrite)}
    result |= {
        "settings": {"num_steps": NUM_STEPS, "beta": BETA, "anytime": ANYTIME, "learning_rate": LEARNING_RATE},
        "digits": {name: list(digits) for name, digits in SPLIT.items()},
        "trust": trust.status,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "summary": summary(chapter["refined"]),
        "seconds": round(time.perf_counter() - started, 1),
    }
    write_json(folder / "result.json", result, overwrite)
    print(f"\nWritten to {folder} in {result['seconds']} seconds.")
    print(f"Can the trained model be trusted? {trust.headline} Open {folder / 'diagnosis.html'} for the reasons.")
    print(result["summary"])
    return result


def _sort(folder: Path, seed: int, overwrite: bool) -> dict[str, Any]:
    """Tell the chapter of five labels."""
    pile = sort_pile(seed)
    save_figure(pile.figure(), folder / "pile.png", overwrite, dpi=100)
    found = pile.numbers
    named = ", ".join(map(str, found["digits"]))
    print(f"1. One labelled image of each of the digits {named}, a pile of {found['rows']} others, no training:")
    said = f"the probabilities say {found['probably_right']:.0%}"
    print(f"   {found['accuracy']:.0%} of the pile are right, {said}. See {folder / 'pile.png'}")
    print("   (The general classifier was trained on digits among many other data: this shows it, and tests nothing.)")
    return found


def _groups(folder: Path, seed: int, overwrite: bool) -> dict[str, Any]:
    """Tell the chapter of groups."""
    patients = learn_patients(seed)
    save_figure(patients.figure(), folder / "patients.png", overwrite, dpi=100)
    found = patients.numbers
    print(f"\n3. {found['patients']} new patients with three readings each, from what 60 others have in common:")
    error, own = found["error"], found["error_of_own_mean"]
    print(f"   error of a patient's level {error:.1f}, where the mean of the readings has {own:.1f};")
    print(f"   {found['coverage']:.0%} of later readings lie in 90% intervals. See {folder / 'patients.png'}")
    return found


def _classes(
    folder: Path, seed: int, iterations: int, progress: bool, num_tasks: int, *, overwrite: bool
) -> tuple[dict[str, Any], Diagnosis]:
    """Tell the chapter of training on other classes."""
    tasks = samplers(seed)
    counts = {name: f"{len(source.classes)} classes" for name, source in tasks.items()}
    print("\n2. Digits in every position, each task through a camera of its own: what training on other classes adds")
    print("   5-way 1-shot tasks of", ", ".join(f"{n} digits {SPLIT[n]}: {c}" for n, c in counts.items()))
    scores, results = {"general": evaluate(general_classifier(), tasks["test"], num_tasks)}, {}
    for name, steps in (("refined", NUM_STEPS), ("baseline", 0)):
        results[name] = _trained(tasks, steps, iterations, seed, progress)
        scores[name] = evaluate(results[name].model, tasks["test"], num_tasks)
    model = results["refined"].model
    some = tasks["test"].sample(8, index=10_000)  # beyond the batches that were scored
    write_tree(folder / "predictions.nc", predict(model, some, seed=seed), overwrite)
    trust = diagnose(model, tasks["test"], min(num_tasks, 300), seed=seed, progress=progress)
    trust.save(folder / "diagnosis.html", overwrite)
    numbers = {name: _numbers(data) for name, data in scores.items()}
    _say("The general classifier, without training", numbers["general"])
    _say("A model trained for no refinement", numbers["baseline"])
    print("   A model trained with refinement, after each step:")
    print(table(scores["refined"]))
    save(model, folder / "model", overwrite=overwrite)
    _plots(scores["refined"], folder, overwrite)
    save_figure(_picture(some), folder / "tasks.png", overwrite, dpi=120)
    return {"best_iteration": {name: r.best_iteration for name, r in results.items()}, **numbers}, trust


def _say(name: str, numbers: dict[str, list[float]]) -> None:
    accuracy, nll, ece = (numbers[metric][-1] for metric in ("accuracy", "nll", "ece"))
    print(f"   {name}: accuracy {100 * accuracy:.1f}%, NLL {nll:.2f} nats per query, ECE {ece:.3f}.")


def _trained(
    tasks: dict[str, EpisodeSampler], num_steps: int, num_iterations: int, seed: int, progress: bool
) -> FitResult:
    """Train a model with `num_steps` refinement steps."""
    return fit(
        EmpiricalBayes.classifier(SIDE**2, num_steps=num_steps, beta=BETA, seed=seed),
        tasks["train"],
        num_iterations,
        validation=tasks["validation"],
        objective=Objective(anytime=ANYTIME),
        learning_rate=LEARNING_RATE,
        seed=seed,
        device="cpu",
        validate_every=max(1, num_iterations // 4),
        patience=None,
        progress=progress,
    )


def summary(numbers: dict[str, list[float]]) -> str:
    """Say in one line what refinement gained, from the metrics after each step."""
    accuracy, nll = [100 * v for v in numbers["accuracy"]], numbers["nll"]
    return (
        f"Refinement on the unlabelled queries: accuracy {accuracy[0]:.1f}% -> {accuracy[-1]:.1f}% "
        f"({accuracy[-1] - accuracy[0]:+.1f} points), NLL {nll[0]:.2f} -> {nll[-1]:.2f} nats per query."
    )


def _numbers(evaluation: xr.Dataset) -> dict[str, list[float]]:
    """Return each metric and its half width after every step."""
    return {str(name): data.values.tolist() for name, data in evaluation.items() if data.dims == ("step",)}


def _plots(evaluation: xr.Dataset, folder: Path, overwrite: bool) -> None:
    """Draw what refinement does to accuracy, NLL and calibration."""
    from matplotlib.figure import Figure

    from ebmeta import plots

    figure = Figure(figsize=(8.0, 3.4), layout="constrained")
    for ax, metric in zip(figure.subplots(1, 2), ("accuracy", "nll"), strict=True):
        plots.refinement(evaluation, metric, ax)
    save_figure(figure, folder / "refinement.png", overwrite, dpi=120)
    save_figure(plots.reliability(evaluation), folder / "reliability.png", overwrite)


def _picture(batch: TaskBatch, num_tasks: int = 3, num_queries: int = 10) -> Figure:
    """Draw tasks, a row each: the labelled images, a gap, and some of the queries."""
    from matplotlib.figure import Figure

    ways = batch.support_x.shape[1]
    figure = Figure(figsize=(0.6 * (ways + num_queries + 1), 0.75 * num_tasks), layout="constrained")
    axes = figure.subplots(num_tasks, ways + 1 + num_queries)
    pick = np.linspace(0, batch.query_x.shape[1] - 1, num_queries).astype(int)
    for t in range(num_tasks):
        images = torch.cat([batch.support_x[t], batch.query_x[t, pick]]).reshape(-1, SIDE, SIDE).numpy()
        low, high = np.quantile(images, [0.01, 0.99])
        for ax in axes[t]:
            ax.axis("off")
        for ax, image in zip([*axes[t, :ways], *axes[t, ways + 1 :]], images, strict=True):
            ax.imshow(image, cmap="gray", vmin=low, vmax=high)
    axes[0, 0].set_title("support", loc="left", fontsize=9)
    axes[0, ways + 1].set_title("queries", loc="left", fontsize=9)
    return figure
