"""Rows of none of the classes, and classes of none of the rows: CIFAR-FS features, the joint model.

Unknown classes: five classes have labelled rows, and rows of three more are among the queries. Absent classes: ten have
labelled rows, and the queries are of two of them, beside ten peers with the settings chosen for unequal shares and a
temperature from validation tasks of this kind. Two rows apart are told of it: ebmeta by a low concentration, and UNEM
by training on such tasks. Test classes, once; all that was chosen was chosen on validation ones. What SIB and UNEM
learn is kept in the folder of models. `python benchmarks/outliers.py`
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

import ebmeta
from lib.classifier import classifier, last_probs
from lib.common import cifar_fs, model_folder, write
from lib.kinds import CHUNK, Kind, draw
from lib.peers import METHODS, SIB, UNEM, Peer, TrainedPeer, base_statistics, make
from lib.scoring import fit_temperature, rounded, score, temper

TASKS, VALIDATION, STOPPING, SEED = 1000, 300, 128, 21
SIB_STEPS = 5000  # a tenth of the published ones
KNOWN, UNKNOWN, EACH = 5, 3, 15
WAYS, PRESENT, ASKED = 10, 2, 30
#: Concentrations of unequal shares, of which that of most accuracy on validation tasks is told.
TOLD = (0.05, 0.1, 0.2, 0.5, 1.0)
Batches = list[tuple[ebmeta.TaskBatch, Tensor]]


@torch.no_grad()
def of_all(function: Callable[[ebmeta.TaskBatch], Tensor], batches: list[ebmeta.TaskBatch]) -> Tensor:
    """Return what a function makes of each batch, as one tensor."""
    return torch.cat([function(batch) for batch in batches])


def with_unknown(split: str, shots: int, num_tasks: int, seed: int) -> Batches:
    """Return tasks of five classes, unlabelled, and the class of each query; those of unknown classes come last."""
    sampler = cifar_fs(split, n_way=KNOWN + UNKNOWN, n_shot=shots, n_query=EACH, seed=seed)
    out = []
    for index, start in enumerate(range(0, num_tasks, CHUNK)):
        batch = sampler.sample(min(CHUNK, num_tasks - start), index)
        known = batch.support_y[0] < KNOWN
        shown = ebmeta.TaskBatch(batch.support_x[:, known], batch.support_y[:, known], batch.query_x)
        out.append((shown, batch.query_y))
    return out


def clean(batch: ebmeta.TaskBatch) -> ebmeta.TaskBatch:
    """Return the same tasks without the rows of unknown classes."""
    return ebmeta.TaskBatch(batch.support_x, batch.support_y, batch.query_x[:, : KNOWN * EACH])


def nearest(model: ebmeta.EmpiricalBayes, batch: ebmeta.TaskBatch) -> Tensor:
    """Return the distance of each query to the nearest mean of a class's labelled rows, in the features of the head."""
    support, query = (model.predictor.features(x)[..., :-1] for x in (batch.support_x, batch.query_x))
    means = torch.stack([support[:, batch.support_y[0] == c].mean(1) for c in range(KNOWN)], 1)
    return torch.cdist(query, means).amin(-1)


def area(outlier: Tensor, scores: Tensor) -> dict[str, Any]:
    """Return the area under the receiver operating characteristic: of all queries, and of each task on average."""
    each = torch.tensor([roc_auc_score(y, s) for y, s in zip(outlier, scores, strict=True)])
    half = float(1.96 * each.std() / len(each) ** 0.5)
    return {"pooled": float(roc_auc_score(outlier.flatten(), scores.flatten())), "each": [float(each.mean()), half]}


def unknown_classes(model: ebmeta.EmpiricalBayes, split: str, shots: int, num_tasks: int) -> dict[str, Any]:
    """Return how well rows of unknown classes are found, and what they cost the others."""
    batches, classes = zip(*with_unknown(split, shots, num_tasks, SEED), strict=True)
    y = torch.cat(classes)
    outlier, known = y >= KNOWN, y[:, : KNOWN * EACH]

    def opened(key: str) -> Callable[[ebmeta.TaskBatch], Tensor]:
        def ask(batch: ebmeta.TaskBatch) -> Tensor:
            told = replace(batch, outliers=torch.ones(len(batch), dtype=torch.bool))
            return model.infer(told).predict(-1)[key]

        return ask

    closed = of_all(lambda batch: last_probs(model, batch), batches)
    said = of_all(opened("outlier"), batches)
    accuracy = {
        "open": of_all(opened("probs"), batches)[:, : KNOWN * EACH],
        "closed": closed[:, : KNOWN * EACH],
        "clean": of_all(lambda batch: last_probs(model, clean(batch)), batches),
    }
    return {
        "auroc": {
            "outlier_proba": area(outlier, said),
            "least_sure": area(outlier, 1 - closed.amax(-1)),
            "distance": area(outlier, of_all(lambda batch: nearest(model, batch), batches)),
        },
        "accuracy": {name: score(probs, known)["accuracy"] for name, probs in accuracy.items()},
        "said": {"known": float(said[~outlier].mean()), "unknown": float(said[outlier].mean())},
    }


@dataclass(frozen=True)
class Absent:
    """Tasks of ten classes whose queries are of two of them; a source for methods that learn."""

    split: str
    shots: int
    seed: int

    def sample(self, num_tasks: int, index: int = 0) -> ebmeta.TaskBatch:
        """Draw batch number `index`; the present classes are the first, in an order that no method knows of."""
        each = ASKED // PRESENT
        sampler = cifar_fs(self.split, n_way=WAYS, n_shot=self.shots, n_query=each, seed=self.seed)
        batch = sampler.sample(num_tasks, index)
        return ebmeta.TaskBatch(batch.support_x, batch.support_y, batch.query_x[:, :ASKED], batch.query_y[:, :ASKED])

    def draw(self, num_tasks: int) -> list[ebmeta.TaskBatch]:
        """Return the tasks that every method is given."""
        starts = range(0, num_tasks, CHUNK)
        return [self.sample(min(CHUNK, num_tasks - start), index) for index, start in enumerate(starts)]


def peers(shots: int, cache: Path) -> dict[str, Peer]:
    """Return the ten peers, ready, with UNEM twice.

    Those that learn do so from tasks of ten classes: SIB as published from balanced ones, UNEM from tasks in unequal
    shares, and once more from tasks such as these.
    """
    center, scatter = base_statistics(torch.from_numpy(cifar_fs("train").X).view(64, 600, 256))

    def learned(peer: TrainedPeer, name: str, tasks: Kind | Absent, steps: int | None = None) -> TrainedPeer:
        if isinstance(tasks, Kind):
            source, stopping = tasks.sampler("train", 0), draw(tasks, "val", STOPPING, 1)
        else:
            source, stopping = tasks, replace(tasks, split="val", seed=1).draw(STOPPING)
        peer.train(source, stopping, steps, checkpoint=cache / f"{name}.safetensors")
        return peer

    balanced, unequal = Kind(WAYS, shots), Kind(WAYS, shots, 2.0, ASKED // WAYS)
    ready = {name: make(name, "imbalanced", center, scatter) for name, kind in METHODS.items() if not kind.learns}
    ready["sib"] = learned(SIB(n_way=WAYS), f"sib_{balanced.name}", balanced, SIB_STEPS)
    ready["unem"] = learned(UNEM(center), f"unem_{unequal.name}", unequal)
    ready["unem_told"] = learned(UNEM(center), f"unem_absent_{shots}shot", Absent("train", shots, 0))
    return ready


def absent_classes(model: ebmeta.EmpiricalBayes, shots: int, cache: Path) -> dict[str, Any]:
    """Return the scores of all methods where most classes have no query."""
    tuning, batches = Absent("val", shots, 11).draw(VALIDATION), Absent("test", shots, 12).draw(TASKS)
    of_tuning, y = (torch.cat([batch.query_y for batch in part]) for part in (tuning, batches))

    def told(concentration: float) -> Callable[[ebmeta.TaskBatch], Tensor]:
        return lambda b: last_probs(model, replace(b, concentration=torch.full((len(b),), concentration)))

    right = [float((of_all(told(a), tuning).argmax(-1) == of_tuning).float().mean()) for a in TOLD]
    best = TOLD[right.index(max(right))]
    result = {
        "ebmeta": {"test": score(of_all(lambda batch: last_probs(model, batch), batches), y)},
        "ebmeta_told": {"test": score(of_all(told(best), batches), y), "concentration": best},
    }
    for name, peer in peers(shots, cache).items():

        def ask(batch: ebmeta.TaskBatch, peer: Peer = peer) -> Tensor:
            return peer(batch.support_x, batch.support_y, batch.query_x, WAYS)

        temperature = fit_temperature(of_all(ask, tuning), of_tuning)
        result[name] = {"test": score(temper(of_all(ask, batches), temperature), y), "temperature": temperature}
    for name, scores in result.items():
        print(shots, name, scores["test"]["accuracy"], scores["test"]["nll"], flush=True)
    return result


def main() -> None:
    """Score both and write."""
    torch.set_num_threads(1)
    model, cache = classifier(), model_folder()
    result: dict[str, Any] = {
        "tasks": TASKS,
        "known": KNOWN,
        "unknown": UNKNOWN,
        "each": EACH,
        "ways": WAYS,
        "present": PRESENT,
        "asked": ASKED,
        "sib_steps": SIB_STEPS,
    }
    for shots in (1, 5):
        found = unknown_classes(model, "test", shots, TASKS)
        print(shots, found["auroc"], found["accuracy"], flush=True)
        result[f"{shots}shot"] = {"unknown_classes": found, "absent_classes": absent_classes(model, shots, cache)}
    write("outliers.json", rounded(result))


if __name__ == "__main__":
    main()
