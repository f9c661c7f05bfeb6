"""What a mean over the steps of refinement is worth, on validation classes of CIFAR-FS and on encoders left out.

The default model and that of a plain call, on tasks of unknown or unequal class proportions, and of known equal ones;
and general classifiers, each on tasks of an encoder that it was trained without, other tasks than those of its table.
Predictions are compared with those of the last step, on the same tasks: the mean of all steps, and the one in which
step j counts as j. A piece that stands in the result is not done again. `python benchmarks/mean_of_steps.py`
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from scipy.stats import t

import ebmeta
from ebmeta.prediction.calibration import Z95
from ebmeta.prediction.scores import query_scores
from ebmeta.refine.belief import BeliefRefiner
from ebmeta.refine.state import QueryState
from lib.classifier import classifier
from lib.common import model_new_to, read, write
from lib.corpus import ENCODERS, Shape, draw_in_turn, encode_wordllama
from lib.kinds import Kind, draw
from lib.scoring import rounded

NAME = "mean_of_steps.json"
TASKS, SEED = 1500, 77
#: Kinds of tasks by name, and whether they state their class proportions.
KINDS = {
    "1shot_imbalanced": (Kind(5, 1, 2.0), True),
    "1shot_imbalanced_unknown": (Kind(5, 1, 2.0), False),
    "1shot_balanced_unknown": (Kind(5, 1), False),
    "5shot_imbalanced": (Kind(5, 5, 2.0), True),
    "5shot_imbalanced_unknown": (Kind(5, 5, 2.0), False),
    "5shot_balanced_unknown": (Kind(5, 5), False),
    "10way_1shot_imbalanced_unknown": (Kind(10, 1, 1.0), False),
    "3way_1shot_imbalanced_unknown": (Kind(3, 1, 1.0), False),
    "1shot_balanced": (Kind(5, 1), True),
    "5shot_balanced": (Kind(5, 5), True),
}
EACH, BATCH = 150, 25  # tasks of a kind and an encoder
#: Kinds of tasks of encoders left out.
SHAPES = {
    "1shot_imbalanced": Shape(5, 1, 75, 2.0),
    "1shot_imbalanced_unknown": Shape(5, 1, 75, 1.0, told=False),
    "1shot_balanced_unknown": Shape(5, 1, 75, told=False),
    "5shot_imbalanced_unknown": Shape(5, 5, 75, 2.0, told=False),
    "5shot_balanced_unknown": Shape(5, 5, 75, told=False),
    "10way_1shot_few_present": Shape(10, 1, 60, 0.15, told=False),
    "3way_1shot_imbalanced_unknown": Shape(3, 1, 300, 1.0, told=False),
    "1shot_balanced": Shape(5, 1, 75),
    "5shot_balanced": Shape(5, 5, 75),
}


def weights(steps: int) -> dict[str, np.ndarray]:
    """Return the weights of steps in each mean."""
    number = np.arange(1, steps + 1)
    return {"all": number > 0, "rising": number}


@torch.no_grad()
def of_steps(model: Any, batches: Iterable[ebmeta.TaskBatch]) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities by each step, shape `(K, T, Q, C)`, and the classes of queries."""
    refiner, parts, y = cast(BeliefRefiner, model.refiner), [], []
    for batch in batches:
        inferred = model.infer(batch)
        states = [QueryState(inferred.setting, iterate.q) for iterate in inferred.iterates[1:]]
        parts.append(torch.stack([refiner.log_probs(k, state).exp() for k, state in enumerate(states)]))
        y.append(cast(torch.Tensor, batch.query_y))
    return torch.cat(parts, 1).double().numpy(), torch.cat(y).numpy()


def of_kind(kind: Kind, told: bool) -> list[ebmeta.TaskBatch]:
    """Return tasks of validation classes."""
    return [batch if told else replace(batch, concentration=None) for batch in draw(kind, "val", TASKS, SEED)]


def compared(model: Any, batches: Iterable[ebmeta.TaskBatch]) -> dict[str, np.ndarray]:
    """Return of each task the NLL of the `last` step, what each mean adds to it, and the rising one to the accuracy."""
    path, y = of_steps(model, batches)
    last, found = query_scores(path[-1], y), {}
    for name, weight in weights(len(path)).items():
        mean = query_scores(np.tensordot(weight / weight.sum(), path, 1), y)
        found[name] = (mean["nll"] - last["nll"]).mean(1)
    return {"last": last["nll"].mean(1), **found, "accuracy": (mean["accuracy"] - last["accuracy"]).mean(1)}


def over_tasks(scores: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return means over tasks; of the rising mean with the half width of its 95% interval."""
    means: dict[str, Any] = {name: float(v.mean()) for name, v in scores.items()}
    lost = scores["rising"]
    return means | {"rising": [means["rising"], float(Z95 * lost.std(ddof=1) / len(lost) ** 0.5)]}


def over_encoders() -> dict[str, Any]:
    """Return means over encoders, those of the rising mean with a 95% interval over encoders and the largest."""
    encode_wordllama()
    found: dict[str, list[dict[str, float]]] = {key: [] for key in SHAPES}
    for encoder in ENCODERS:
        model = ebmeta.load(model_new_to(encoder))
        for key, shape in SHAPES.items():
            scores = compared(model, draw_in_turn(encoder, shape, EACH // BATCH, BATCH, SEED))
            found[key].append({name: float(v.mean()) for name, v in scores.items()})
    out: dict[str, Any] = {}
    for key, each in found.items():
        values = {name: np.array([one[name] for one in each]) for name in each[0]}
        halves = {name: float(t.ppf(0.975, len(v) - 1) * v.std(ddof=1) / len(v) ** 0.5) for name, v in values.items()}
        out[key] = {name: float(v.mean()) for name, v in values.items()}
        out[key] |= {name: [out[key][name], halves[name]] for name in ("rising", "accuracy")}
        out[key]["largest"] = float(values["rising"].max())
    return out


def main() -> None:
    """Compare what the result lacks, and write."""
    torch.set_num_threads(1)
    result: dict[str, Any] = read(NAME) | {"tasks": TASKS, "each": EACH, "encoders": len(ENCODERS)}
    for name in ("default", "plain"):
        if name not in result:
            model = classifier(name)
            result[name] = {key: rounded(over_tasks(compared(model, of_kind(*kind)))) for key, kind in KINDS.items()}
    if "general" not in result:
        result["general"] = rounded(over_encoders())
    write(NAME, result)


if __name__ == "__main__":
    main()
