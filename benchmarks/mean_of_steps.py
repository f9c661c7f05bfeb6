"""What a mean over the steps of refinement is worth, on validation classes of CIFAR-FS.

The default model and that of a plain call, on tasks of unknown or unequal class proportions, and of known equal ones.
Predictions are compared with those of the last step, on the same tasks: the means of all steps and of the later ones,
and the mean in which step j counts as j. `python benchmarks/mean_of_steps.py`
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch

from ebmeta.prediction.calibration import Z95
from ebmeta.refine.belief import BeliefRefiner
from ebmeta.refine.state import QueryState
from lib.classifier import classifier
from lib.common import write
from lib.kinds import Kind, draw, labels
from lib.scoring import query_scores, rounded

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


def weights(steps: int) -> dict[str, np.ndarray]:
    """Return the weights of steps in each mean."""
    number = np.arange(1, steps + 1)
    return {"all": number > 0, "later": number > 1, "rising": number}


@torch.no_grad()
def of_steps(model: Any, kind: Kind, told: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities by each step, shape `(K, T, Q, C)`, and the classes of queries."""
    refiner, batches = cast(BeliefRefiner, model.refiner), draw(kind, "val", TASKS, SEED)
    parts = []
    for batch in batches:
        inferred = model.infer(batch if told else replace(batch, concentration=None))
        states = [QueryState(inferred.setting, iterate.q) for iterate in inferred.iterates[1:]]
        parts.append(torch.stack([refiner.log_probs(k, state).exp() for k, state in enumerate(states)]))
    return torch.cat(parts, 1).double().numpy(), labels(batches).numpy()


def compared(model: Any, kind: Kind, told: bool) -> dict[str, Any]:
    """Return the scores of the last step, and by how much those of each mean differ."""
    path, y = of_steps(model, kind, told)

    def scored(probs: np.ndarray) -> dict[str, np.ndarray]:
        found = query_scores(probs, y)
        over = found["confidence"] - found["accuracy"]
        return {"accuracy": found["accuracy"].mean(1), "nll": found["nll"].mean(1), "overconfidence": over.mean(1)}

    last = scored(path[-1])
    out: dict[str, Any] = {"last": {name: float(v.mean()) for name, v in last.items()}}
    for name, weight in weights(len(path)).items():
        mean = scored(np.tensordot(weight / weight.sum(), path, 1))
        lost = mean["nll"] - last["nll"]
        out[name] = {
            "accuracy": float((mean["accuracy"] - last["accuracy"]).mean()),
            "nll": [float(lost.mean()), float(Z95 * lost.std(ddof=1) / len(lost) ** 0.5)],
            "overconfidence": float(mean["overconfidence"].mean()),
        }
    return out


def main() -> None:
    """Compare, and write."""
    torch.set_num_threads(1)
    result: dict[str, Any] = {"tasks": TASKS}
    for name in ("default", "plain"):
        model = classifier(name)
        result[name] = {key: rounded(compared(model, *kind)) for key, kind in KINDS.items()}
        print(name, {key: found["rising"]["nll"] for key, found in result[name].items()}, flush=True)
    write(NAME, result)


if __name__ == "__main__":
    main()
