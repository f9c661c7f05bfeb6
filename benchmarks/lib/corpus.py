"""Rows of many encoders, for a classifier of any features: real ones by encoder, and simulated ones.

Real encoders: Conv-4 of CIFAR-FS, EfficientNet-lite0 of PACS, MiniLM, WordLlama and TF-IDF with SVD of intents, and
pixels of Omniglot (principal components) and of digits. Simulated classes have 2 to 1,024 dimensions, and are
anisotropic, heavy-tailed or badly clustered by degrees.
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

import ebmeta
from lib.common import cifar_fs, data_folder
from lib.encoders import INTENTS, PACS, intents, kept, load, save

Classes = Sequence[Any]  # of arrays of rows
LEAST = 12  # rows of a class
NOTHING = 0.1  # share of simulated classes of which features know nothing


def by_class(features: np.ndarray, label: np.ndarray) -> Classes:
    """Return the rows of each class that has enough of them."""
    rows = [np.asarray(features[label == c], np.float32) for c in np.unique(label)]
    return [x for x in rows if len(x) >= LEAST]


def conv4() -> list[Classes]:
    """Return the 64 training classes of CIFAR-FS; validation and test classes are apart."""
    return [list(np.asarray(cifar_fs("train").X, np.float32).reshape(64, 600, -1))]


def efficientnet() -> list[Classes]:
    """Return the seven classes of PACS in each of its domains."""
    arrays = load(PACS)
    domains = range(len(arrays["domains"]))
    return [
        by_class(arrays["features"][arrays["domain"] == d], arrays["label"][arrays["domain"] == d]) for d in domains
    ]


def sentences(encoder: str) -> Callable[[], list[Classes]]:
    """Return a function to the intents of both sets by one encoder."""
    return lambda: [
        by_class(load(f"{name}_{encoder}")["features"], load(f"{name}_{encoder}")["label"]) for name in INTENTS
    ]


def tf_idf() -> list[Classes]:
    """Return the intents of both sets by 256 singular directions of their word counts."""
    out = []
    for name in INTENTS:
        texts, label = intents(name)
        counts = TfidfVectorizer(min_df=2, sublinear_tf=True).fit_transform(texts)
        out.append(by_class(TruncatedSVD(256, random_state=0).fit_transform(counts), label))
    return out


def omniglot() -> list[Classes]:
    """Return 128 principal components of the characters."""
    with np.load(data_folder() / "omniglot" / "omniglot_28.npz") as file:
        pixels = file["X"].reshape(-1, 784).astype(np.float32) / 255
    parts = PCA(128, random_state=0).fit_transform(pixels).astype(np.float32)
    return [list(parts.reshape(-1, 20, 128))]


def digits() -> list[Classes]:
    """Return digits in four positions and two polarities, 80 classes of pixels."""
    X, y = load_digits(return_X_y=True)
    images = (X / 16).reshape(-1, 8, 8).astype(np.float32)
    turned = [np.rot90(images, k, (1, 2)) for k in range(4)]
    return [[x[y == c].reshape(-1, 64) for c in range(10) for t in turned for x in (t, 1 - t)]]


#: Encoders, each with sets of classes that tasks are made within.
ENCODERS: dict[str, Callable[[], list[Classes]]] = {
    "conv4": conv4,
    "efficientnet_lite0": efficientnet,
    "minilm": sentences("minilm"),
    "wordllama": sentences("wordllama"),
    "tf_idf": tf_idf,
    "omniglot_pixels": omniglot,
    "digit_pixels": digits,
}


#: Encoders whose sets have the same classes: PACS in its domains.
OF_SAME_CLASSES = {"efficientnet_lite0"}


@cache
def classes(encoder: str) -> list[Classes]:
    """Return the sets of classes of an encoder."""
    return ENCODERS[encoder]()


def encode_wordllama() -> None:
    """Make the files of intents by WordLlama, whose package ships its weights."""
    for name in INTENTS:
        if not kept(f"{name}_wordllama").is_file():
            package = importlib.import_module("wordllama")
            model = package.WordLlama.load(cache_dir=os.path.dirname(str(package.__file__)))
            texts, named = intents(name)
            names, label = np.unique(named, return_inverse=True)
            save(f"{name}_wordllama", features=np.asarray(model.embed(texts), np.float32), label=label, names=names)


def loud(size: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return units of features, a few of which are 3 to 30 times as large as the others."""
    unit = np.ones(size, np.float32)
    unit[rng.permutation(size)[: rng.integers(1, max(2, size // 20))]] = np.exp(rng.uniform(np.log(3), np.log(30)))
    return unit


def simulated(rng: np.random.Generator) -> Classes:
    """Return 40 simulated classes of 60 rows; a third of the times their rows are normal and independent.

    One time in ten the features know nothing of the classes.
    """
    size, wide = int(np.exp(rng.uniform(np.log(2), np.log(1024)))), np.exp(rng.uniform(np.log(0.3), np.log(3)))
    clean = rng.random() < 1 / 3
    means = rng.normal(size=(40, size)) * np.exp(rng.normal(size=size) * (0 if clean else rng.uniform(0, 0.7)))
    means *= rng.random() >= NOTHING
    scales = np.exp(rng.normal(size=size) * (0 if clean else rng.uniform(0, 1)))
    factors, strength, offset = int(rng.integers(2, 12)), rng.uniform(0, 1), rng.normal(size=size) * rng.uniform(0, 2)
    tails = 1e6 if clean else rng.choice([3.0, 6.0, 100.0])
    unit, out = loud(size, rng) if rng.random() < 0.2 else np.float32(1), []
    for mean in means:
        noise = rng.normal(size=(60, size)) * scales / scales.mean() / np.sqrt(rng.chisquare(tails, (60, 1)) / tails)
        shared = 0 if clean else rng.normal(size=(60, factors)) @ rng.normal(size=(factors, size)) * strength
        rows = mean + 0.19 * wide * np.sqrt(size) * noise + shared + offset
        out.append((unit * rows).astype(np.float32))
    return out


@dataclass(frozen=True)
class Nearer:
    """Rows of a class, each so much nearer to its mean.

    Args:
        rows: the rows, shape `(N, D)`.
        share: of the way from the mean that stays.
    """

    rows: NDArray[np.float32]
    share: float

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: NDArray[np.intp]) -> NDArray[np.float32]:
        mean = self.rows.mean(0)
        return (mean + self.share * (self.rows[index] - mean)).astype(np.float32)


def united(rows: Classes, rng: np.random.Generator) -> Classes:
    """Return classes that are unions of two to four, whose rows do not cluster as their labels say."""
    each = int(rng.integers(2, 5))
    order = rng.permutation(len(rows))[: len(rows) // each * each].reshape(-1, each)
    return [np.concatenate([rows[c] for c in members]) for members in order] if len(order) > 1 else rows


def changed(batch: ebmeta.TaskBatch, rng: np.random.Generator) -> ebmeta.TaskBatch:
    """Return tasks as another encoder might have them: some coordinates, random directions, powers, units or noise."""
    x = torch.cat([batch.support_x, batch.query_x], 1)
    source = torch.Generator().manual_seed(int(rng.integers(2**31)))
    x, size, kind = x - x.mean((0, 1)), x.shape[-1], rng.random()
    if kind < 0.25 and size > 4:
        kept = int(np.exp(rng.uniform(np.log(max(2, size / 16)), np.log(size))))
        x = x[..., torch.from_numpy(rng.permutation(size)[:kept])]
    elif kind < 0.5:
        width = min(int(np.exp(rng.uniform(np.log(4), np.log(256)))), 2 * size)
        unit = torch.exp(torch.randn(width, generator=source) * rng.uniform(0, 1.5))
        x = x @ (torch.randn(size, width, generator=source) * unit)
    elif kind < 0.6:
        x = x.sign() * x.abs().pow(float(rng.choice([0.5, 2.0])))
    elif kind < 0.75:
        x = x * torch.exp(torch.randn(size, generator=source) * rng.uniform(0, 1.5))
    elif kind < 0.9:
        x = x * torch.from_numpy(loud(size, rng))
    scale = x.square().mean().sqrt()
    if rng.random() < 0.5:
        x = x + torch.randn(x.shape, generator=source) * scale * float(np.exp(rng.uniform(np.log(0.1), np.log(1.5))))
    if rng.random() < 0.2:
        factors = torch.randn(*x.shape[:2], int(rng.integers(1, 6)), generator=source)
        loadings = torch.randn(factors.shape[-1], x.shape[-1], generator=source)
        x = x + factors @ loadings * scale * rng.uniform(0.1, 0.6)
    x = x * torch.cat([batch.support_mask, batch.query_mask], 1).unsqueeze(-1)
    support, query = x.split([batch.support_x.shape[1], batch.query_x.shape[1]], 1)
    return replace(batch, support_x=support.contiguous(), query_x=query.contiguous())


def shared(total: int, room: np.ndarray, imbalance: float | None, rng: np.random.Generator) -> np.ndarray:
    """Return how many queries each class has, `total` in all and no more than there is room for."""
    ways = len(room)
    if imbalance is None:
        counts = np.full(ways, total // ways) + (np.arange(ways) < total % ways)
    else:
        counts = rng.multinomial(total, rng.dirichlet(np.full(ways, imbalance)))
    counts = np.minimum(counts, room)
    while (left := total - int(counts.sum())) > 0:
        free = np.flatnonzero(counts < room)
        counts = np.minimum(counts + np.bincount(rng.choice(free, left), minlength=ways), room)
    return counts


@dataclass(frozen=True)
class Shape:
    """What the tasks of a batch have in common.

    Args:
        ways: classes.
        shots: labelled rows of each, at most where they are ragged.
        queries: of all classes together.
        imbalance: Dirichlet concentration of class proportions; None for equal ones.
        told: whether the tasks state it.
        ragged: whether classes have from one to `shots` labelled rows.
    """

    ways: int
    shots: int
    queries: int
    imbalance: float | None = None
    told: bool = True
    ragged: bool = False


def draw(rows: Classes, shape: Shape, num_tasks: int, rng: np.random.Generator) -> ebmeta.TaskBatch:
    """Draw tasks, which number their classes; where one has too few rows for its share of queries, others give more."""
    supports, labels, wanted, truths, numbers = [], [], [], [], []
    for _ in range(num_tasks):
        chosen = rng.choice(len(rows), shape.ways, replace=False)
        shots = rng.integers(1, shape.shots + 1, shape.ways) if shape.ragged else np.full(shape.ways, shape.shots)
        room = np.array([len(rows[c]) for c in chosen]) - shots
        counts = shared(min(shape.queries, int(room.sum())), room, shape.imbalance, rng)
        support, query, truth = [], [], []
        for c, count in enumerate(counts):
            own = rng.permutation(len(rows[chosen[c]]))
            support.append(rows[chosen[c]][own[: shots[c]]])
            query.append(rows[chosen[c]][own[shots[c] : shots[c] + count]])
            truth += [c] * count
        supports.append(torch.from_numpy(np.concatenate(support)))
        labels.append(torch.arange(shape.ways).repeat_interleave(torch.from_numpy(shots)))
        wanted.append(torch.from_numpy(np.concatenate(query)))
        truths.append(torch.tensor(truth))
        numbers.append(torch.from_numpy(chosen))
    known = torch.full((num_tasks,), math.inf if shape.imbalance is None else shape.imbalance)
    stated = known if shape.told else None
    return ebmeta.TaskBatch.from_tasks(
        supports, labels, wanted, truths, concentration=stated, way_class=torch.stack(numbers)
    )


def draw_in_turn(encoder: str, shape: Shape, num_batches: int, size: int, seed: int) -> list[ebmeta.TaskBatch]:
    """Draw batches of an encoder's tasks, of each set of its classes in turn, which number the classes of all sets.

    Where the encoder has fewer classes than tasks should have, they have as many as there are.
    """
    ways = min(shape.ways, max(map(len, classes(encoder))))
    sets = [rows for rows in classes(encoder) if len(rows) >= ways]
    out = []
    for n in range(num_batches):
        rows, rng = sets[n % len(sets)], np.random.default_rng([seed, n])
        batch = draw(rows, replace(shape, ways=ways), size, rng)
        before = 0 if encoder in OF_SAME_CLASSES else sum(map(len, sets[: n % len(sets)]))
        out.append(replace(batch, way_class=cast(torch.Tensor, batch.way_class) + before))
    return out
