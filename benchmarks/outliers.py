"""Rows of none of the classes, and classes of none of the rows: CIFAR-FS features, the joint model.

Unknown classes: five classes have labelled rows, and rows of three more are among the queries. Absent classes: ten have
labelled rows, and the queries are of two of them, beside ten peers with the settings chosen for unequal shares and a
temperature from validation tasks of this kind. Two rows apart are told of it: ebmeta by a low concentration, and UNEM
by training on such tasks. Test classes, once; all that was chosen was chosen on validation ones. What SIB and UNEM
learn is kept in the folder of models. `python benchmarks/outliers.py [--only unknown|general|absent]`

It finds the calibration of rows of none of the classes (`ebmeta.refine.outliers`). That of the default model suits
tasks of validation classes with none, one and three unknown classes in equal parts. That of the general one suits tasks
of these, of encoders of `lib.corpus` that need no download, and of simulated classes: one to ten known classes, and up
to two fifths of the rows of one, three or all others. "Few" are such tasks of test classes, a tenth of whose rows are
of all other classes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor

import ebmeta
from ebmeta.model.general import FOLDER
from ebmeta.refine import belief
from ebmeta.refine.outliers import OF_NONE, NoneOfThese, apart
from ebmeta.refine.state import QueryState
from lib.classifier import classifier, last_probs
from lib.common import cifar_fs, model_folder, read, write
from lib.corpus import Classes, classes, simulated
from lib.kinds import CHUNK, Kind, draw
from lib.peers import METHODS, SIB, UNEM, Peer, TrainedPeer, base_statistics, make
from lib.scoring import fit_temperature, rounded, score, temper

TASKS, VALIDATION, STOPPING, SEED = 1000, 300, 128, 21
SIB_STEPS = 5000  # a tenth of the published ones
KNOWN, UNKNOWN, EACH = 5, 3, 15
DESIGNS, BEND, FEW, FEW_WAYS, OTHER_TASKS = 700, 2.0, 0.1, (1, 2, 5), 300
CHOOSING, ENCODERS = 64, ("omniglot_pixels", "digit_pixels", "tf_idf")
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
    features = model.predictor.of_task(batch)
    support, query = features.support[..., :-1], features.query[..., :-1]
    means = torch.stack([support[:, batch.support_y[0] == c].mean(1) for c in range(batch.way_mask.shape[1])], 1)
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
        return lambda batch: opened_to(model, batch)[key]

    closed, cleaned = of_all(lambda batch: last_probs(model, batch), batches), [clean(batch) for batch in batches]
    said = of_all(opened("outlier"), batches)
    accuracy = {
        "open": of_all(opened("probs"), batches)[:, : KNOWN * EACH],
        "closed": closed[:, : KNOWN * EACH],
        "clean": of_all(lambda batch: last_probs(model, batch), cleaned),
        "clean_open": of_all(opened("probs"), cleaned),
    }
    return {
        "auroc": {
            "outlier_proba": area(outlier, said),
            "least_sure": area(outlier, 1 - closed.amax(-1)),
            "distance": area(outlier, of_all(lambda batch: nearest(model, batch), batches)),
        },
        "accuracy": {name: score(probs, known)["accuracy"] for name, probs in accuracy.items()},
        "said": {
            "known": float(said[~outlier].mean()),
            "unknown": float(said[outlier].mean()),
            "clean": float(of_all(opened("outlier"), cleaned).mean()),
        },
    }


@torch.no_grad()
def opened_to(model: ebmeta.EmpiricalBayes, batch: ebmeta.TaskBatch) -> dict[str, Tensor]:
    """Return what a model says where rows may be of none of the classes."""
    return model.infer(replace(batch, outliers=torch.ones(len(batch), dtype=torch.bool))).predict(-1)


def some(rows: Classes, shots: int, unknown: int, rng: np.random.Generator) -> ebmeta.TaskBatch:
    """Return tasks of five of the classes and of unknown ones, whose rows come last and have no label."""
    support, query = [], []
    for _ in range(CHOOSING):
        chosen = [rows[c] for c in rng.choice(len(rows), KNOWN + unknown, replace=False)]
        each = min(EACH, *(len(x) - shots for x in chosen))
        parts = [x[rng.permutation(len(x))[: shots + each]] for x in chosen]
        support.append(np.concatenate([x[:shots] for x in parts[:KNOWN]]))
        query.append(np.concatenate([x[shots:] for x in parts]))
    labels = [torch.arange(KNOWN).repeat_interleave(shots)] * CHOOSING
    return ebmeta.TaskBatch.from_tasks([*map(torch.from_numpy, support)], labels, [*map(torch.from_numpy, query)])


def of_none(batch: ebmeta.TaskBatch, unknown: int) -> Tensor:
    """Return which queries of tasks of `some` are of unknown classes, shape `(T, Q)`."""
    first = batch.query_mask.sum(1, keepdim=True) * KNOWN // (KNOWN + unknown)
    return (torch.arange(batch.query_mask.shape[1]) >= first) & batch.query_mask


def calibration(model: ebmeta.EmpiricalBayes, sets: list[Classes]) -> dict[str, float]:
    """Return the calibration that suits tasks of these classes: a power of odds, and what to take off in nats."""
    rated = OF_NONE[False]
    odds, truth, weight = [], [], []
    for n, rows in enumerate(sets):
        for shots in (1, 5):
            for unknown in (0, 1, UNKNOWN):
                batch = some(rows, shots, unknown, np.random.default_rng([SEED, n]))
                said = opened_to(model, batch)["outlier"].clamp(1e-6, 1 - 1e-6).double()
                odds.append((torch.logit(said).flatten() + rated.shift) / rated.cluster)
                truth.append(of_none(batch, unknown).flatten())
                weight.append((batch.query_mask / batch.query_mask.sum()).flatten())
    x, y, w = (torch.cat(values).numpy() for values in (odds, truth, weight))
    fitted = LogisticRegression(C=np.inf).fit(x[w > 0, None], y[w > 0], w[w > 0])
    return {"power": float(fitted.coef_[0, 0]), "shift": -float(fitted.intercept_[0])}


@dataclass(frozen=True)
class Design:
    """Classes, labelled rows of each and queries of a task, and which share of these is of how many others."""

    ways: int
    shots: int
    size: int
    share: float
    others: int


def mixed_in(rows: Classes, design: Design, rng: np.random.Generator) -> tuple[ebmeta.TaskBatch, Tensor]:
    """Return a task of some of the classes, and which queries are of others, shape `(1, Q)`."""
    ways, size, others = design.ways, design.size, design.others
    order = [rows[c] for c in rng.permutation(len(rows))]
    strange, shots = round(size * design.share), min(design.shots, min(map(len, rows)) // 3)
    parts = [x[rng.permutation(len(x))[: shots + max(1, (size - strange) // ways)]] for x in order[:ways]]
    support, query = np.concatenate([x[:shots] for x in parts]), np.concatenate([x[shots:] for x in parts])
    none = np.concatenate(order[ways : ways + others])
    none = none[rng.permutation(len(none))[:strange]]
    y, whole = np.arange(ways).repeat(shots), np.concatenate([query, none])
    tensors = [[torch.from_numpy(np.ascontiguousarray(v))] for v in (support, y, whole)]
    return ebmeta.TaskBatch.from_tasks(*tensors), torch.arange(len(whole))[None] >= len(query)


def designs(sets: list[Classes]) -> Iterator[tuple[ebmeta.TaskBatch, Tensor]]:
    """Iterate over tasks of random designs, as many of each set of classes."""
    for n, rows in enumerate(sets):
        rng = np.random.default_rng([SEED, n])
        for _ in range(DESIGNS // len(sets)):
            ways = rng.choice([w for w in (1, 2, 3, 5, 10) if w <= len(rows) - 2])
            shots, size, share = (rng.choice(v) for v in ([1, 2, 5, 10], [30, 100, 300], [0, 0.05, 0.1, 0.2, 0.4]))
            yield mixed_in(rows, Design(ways, shots, size, share, rng.choice([1, 3, 99])), rng)


@torch.no_grad()
def general_calibration(model: ebmeta.EmpiricalBayes, kinds: list[list[Classes]]) -> dict[str, float]:
    """Return the calibration of a general classifier that suits tasks of these classes, each kind of them as much."""
    plain, x, y, weight = NoneOfThese(1.0, 0.0, bend=BEND), [], [], []
    for sets in kinds:
        for batch, none in designs(sets):
            with mock.patch.object(belief, "OF_NONE", {True: plain}):
                inferred = model.infer(replace(batch, outliers=torch.ones(1, dtype=torch.bool)))
            bent = torch.logit(inferred.predict(-1)["outlier"].double().clamp(1e-9, 1 - 1e-9))[0]
            alone = plain.bent(apart(QueryState(inferred.setting, inferred.iterates[-1].q))[0, :, 0].double())
            ways = torch.full_like(bent, float(batch.way_mask.sum())).log()
            x.append(torch.stack([bent, alone, ways], -1))
            y.append(none[0])
            weight.append(torch.full_like(bent, 1 / len(bent)))
    w = torch.cat(weight)
    fitted = LogisticRegression(C=np.inf, max_iter=1000).fit(torch.cat(x), torch.cat(y), w * (len(w) / w.sum()))
    cluster, alone, ways = map(float, fitted.coef_[0])
    return {"cluster": cluster, "apart": alone, "ways": ways, "shift": -float(fitted.intercept_[0])}


def few(model: ebmeta.EmpiricalBayes, rows: Classes, ways: int) -> dict[str, Any]:
    """Return how well few rows of many other classes are found, by what a model says and by distance, five shots."""
    rng, areas, said = np.random.default_rng([SEED, ways]), {"outlier_proba": [], "distance": []}, []
    for _ in range(OTHER_TASKS):
        batch, none = mixed_in(rows, Design(ways, 5, 100, FEW, 99), rng)
        outlier = opened_to(model, batch)["outlier"][0]
        areas["outlier_proba"].append(roc_auc_score(none[0], outlier))
        areas["distance"].append(roc_auc_score(none[0], nearest(model, batch)[0]))
        said.append([float(outlier[none[0]].mean()), float(outlier[~none[0]].mean())])
    unknown, known = np.mean(said, 0)
    return {name: float(np.mean(v)) for name, v in areas.items()} | {"unknown": unknown, "known": known}


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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("unknown", "general", "absent"), help="one of the parts")
    only = parser.parse_args().only
    torch.set_num_threads(1)
    cache, result = model_folder(), read("outliers.json")
    result |= {"tasks": TASKS, "known": KNOWN, "unknown": UNKNOWN, "each": EACH, "ways": WAYS, "present": PRESENT}
    result |= {"asked": ASKED, "sib_steps": SIB_STEPS}
    new = list(np.asarray(cifar_fs("val").X, np.float32).reshape(16, 600, -1))
    if only in (None, "general"):
        general = ebmeta.load(FOLDER).eval()
        encoders = [[rows for rows in classes(name) if len(rows) > UNKNOWN] for name in ENCODERS]
        worlds = [simulated(np.random.default_rng([SEED, n])) for n in range(12)]
        result.setdefault("chosen", {})["general"] = general_calibration(general, [[new], *encoders, worlds])
        print(result["chosen"]["general"], flush=True)
        test = list(np.asarray(cifar_fs("test").X, np.float32).reshape(20, 600, -1))
        result["few"] = {"share": FEW, "tasks": OTHER_TASKS} | {
            str(ways): few(general, test, ways) for ways in FEW_WAYS
        }
        print(result["few"], flush=True)
        for shots in (1, 5):
            piece = result.setdefault(f"{shots}shot", {})
            piece["unknown_classes_general"] = unknown_classes(general, "test", shots, TASKS)
            print(shots, piece["unknown_classes_general"], flush=True)
    if only != "general":
        model = classifier()
        if only in (None, "unknown"):
            result["chosen"]["default"] = calibration(model, [new])
        for shots in (1, 5):
            piece = result.setdefault(f"{shots}shot", {})
            if only in (None, "unknown"):
                piece["unknown_classes"] = unknown_classes(model, "test", shots, TASKS)
                print(shots, piece["unknown_classes"], flush=True)
            if only in (None, "absent"):
                piece["absent_classes"] = absent_classes(model, shots, cache)
    write("outliers.json", rounded(result))


if __name__ == "__main__":
    main()
