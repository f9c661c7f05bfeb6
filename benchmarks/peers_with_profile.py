"""Features or method? Every peer on the features as they are, and on those that ebmeta's head makes of them.

The latter are directions and profiles (`ebmeta.parts.profile`), without the constant. On each of both a peer gets the
settings of a grid about those of `lib.peers.registry` that are best on validation tasks: one for balanced and one for
imbalanced tasks ("tuned"), and one for all four kinds of task ("single"). Peers that learn do so for each kind
("tuned"), and once for all four ("single"); the profiles of their training tasks leave out the classes of these.

Resumable: a piece is a peer on some features, or ebmeta, on the tasks of a split, kept in the JSON file when done.
`python benchmarks/peers_with_profile.py --only tim pt_map --splits val`
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

import torch
from torch import Tensor

import ebmeta
from lib.classifier import classifier, last_probs
from lib.common import cifar_fs, model_folder, read, write
from lib.kinds import FIVE, RECIPE, Kind, draw, labels, mixture
from lib.peers import METHODS, SIB, UNEM, Peer, TrainedPeer, base_statistics, guesses, make

NAME = "peers_with_profile.json"
SPLITS = {"val": (600, 11), "test": (2000, 12)}  # tasks and seed
OURS, SINGLE = "ebmeta", "single"
STOPPING = 256  # validation tasks that say when a peer has learned enough
#: Values of hyperparameters whose products are searched. A method without any has none that changes its labels.
GRIDS: dict[str, dict[str, list[Any]]] = {
    "bd_cspn": {"unit": [False, True], "sharpness": [1.0, 10.0], "shifted": [False, True]},
    "laplacianshot": {"neighbours": [3, 4, 6], "strength": [0.3, 0.6, 1.0], "cost_scale": [5.0, 10.0, 20.0]},
    "tim": {"temperature": [2.5, 3.5, 5.0, 7.0], "conditional": [0.3, 0.5, 1.0, 2.0], "rate": [0.03, 0.1]},
    "alpha_tim": {"temperature": [2.5, 3.5, 5.0, 7.0], "conditional": [0.5, 1.0, 2.0], "alpha": [1.2, 1.5]},
    "pt_map": {"regularization": [1.25, 2.5, 5.0, 10.0, 20.0], "rate": [0.2, 0.4]},
    "bavardage": {
        "variance": [0.001, 0.002, 0.003, 0.01],
        "mean_strength": [10.0, 30.0, 60.0],
        "kmeans_temperature": [10.0, 20.0],
    },
}


@dataclass
class Features:
    """Features of CIFAR-FS, as a function of those that are stored and, in training, of a task's own classes."""

    name: str
    make: Callable[[Tensor, Tensor | None], Tensor]

    @cached_property
    def base(self) -> tuple[Tensor, Tensor]:
        """Mean and scatter of the training classes."""
        stored = torch.from_numpy(cifar_fs("train").X).unsqueeze(0)
        return base_statistics(self.make(stored, None)[0].view(64, 600, -1))

    def of(self, batch: ebmeta.TaskBatch, own: Tensor | None = None) -> ebmeta.TaskBatch:
        """Return the tasks with these features."""
        return replace(batch, support_x=self.make(batch.support_x, own), query_x=self.make(batch.query_x, own))

    def draw(self, kind: Kind, split: str, num_tasks: int, seed: int) -> list[ebmeta.TaskBatch]:
        """Return the tasks that every method is given."""
        return [self.of(batch) for batch in draw(kind, split, num_tasks, seed)]


@dataclass
class Source:
    """Training tasks of some kinds in turn, with other features."""

    kinds: list[Kind]
    features: Features

    def __post_init__(self) -> None:
        self.sampler = mixture(self.kinds, "train", 0)

    def sample(self, num_tasks: int, index: int) -> ebmeta.TaskBatch:
        """Return tasks of one kind, a pure function of the index."""
        batch = self.sampler.sample(num_tasks, index)
        return self.features.of(batch, batch.way_class)


#: Peers that learn from tasks, for some features.
LEARNED: dict[str, Callable[[Features], TrainedPeer]] = {
    "sib": lambda features: SIB(features=len(features.base[0])),
    "unem": lambda features: UNEM(features.base[0]),
}


def accuracy(predicted: Tensor, y: Tensor) -> list[float]:
    """Return mean accuracy over tasks and its 95% half width, in per cent."""
    right = 100 * (predicted == y).float().mean(1)
    return [round(float(right.mean()), 3), round(float(1.96 * right.std() / len(right) ** 0.5), 3)]


def groups(name: str) -> dict[str, list[Kind]]:
    """Return the kinds of task that share a setting of a peer, or what it has learned."""
    apart = {kind.name: [kind] for kind in FIVE}
    return (apart if name in LEARNED else {"balanced": FIVE[::2], "imbalanced": FIVE[1::2]}) | {SINGLE: FIVE}


def search(name: str, features: Features) -> dict[str, dict[str, Any]]:
    """Return the best setting of a peer for every group of kinds, by the mean of their validation accuracies."""
    if name not in GRIDS:
        return {group: {} for group in groups(name)}
    grid = GRIDS[name]
    settings = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    found: dict[str, Tensor] = {}
    for kind in FIVE:
        batches = features.draw(kind, "val", *SPLITS["val"])
        right = [guesses(make(name, "balanced", *features.base, **s), batches) == labels(batches) for s in settings]
        found[kind.name] = torch.stack(right).float().mean((1, 2))
    best = {group: int(sum(found[kind.name] for kind in kinds).argmax()) for group, kinds in groups(name).items()}
    return {group: settings[index] for group, index in best.items()}


def learned(name: str, features: Features, group: str, steps: int | None) -> Peer:
    """Return a peer that has learned from training tasks of a group of kinds."""
    kinds, method = groups(name)[group], LEARNED[name](features)
    stopping = [b for kind in kinds for b in features.draw(kind, "val", STOPPING // len(kinds), 1)]
    path = model_folder() / f"{name}_{features.name}_{group}_recipe{RECIPE}.safetensors"
    method.train(Source(kinds, features), stopping, steps, checkpoint=path)
    return method


def score(name: str, peers: dict[str, Peer], features: Features, split: str) -> dict[str, dict[str, list[float]]]:
    """Return accuracies of a peer on the tasks of a split, tuned and single, by kind of task."""
    result: dict[str, dict[str, list[float]]] = {"tuned": {}, SINGLE: {}}
    for kind in FIVE:
        batches = features.draw(kind, split, *SPLITS[split])
        for group in [group for group, kinds in groups(name).items() if kind in kinds]:
            scope = SINGLE if group == SINGLE else "tuned"
            result[scope][kind.name] = accuracy(guesses(peers[group], batches), labels(batches))
    return result


def keep(*path: str, value: Any) -> None:
    """Write a piece into the result, to which another process may have added some of its own."""
    result = read(NAME) | {f"{split}_tasks": tasks for split, (tasks, _) in SPLITS.items()}
    inner = result
    for key in path[:-1]:
        inner = inner.setdefault(key, {})
    inner[path[-1]] = value
    write(NAME, result)
    print(*path, value, flush=True)


def compare(name: str, features: Features, splits: list[str], sib_steps: int) -> None:
    """Do the pieces of a peer on some features that are not done."""
    done = read(NAME).get(name, {}).get(features.name, {})
    left = [split for split in splits if split not in done]
    if not left:
        return
    if "settings" not in done:
        done["settings"] = search(name, features)
        keep(name, features.name, "settings", value=done["settings"])
    if name in LEARNED:
        steps = sib_steps if name == "sib" else None
        peers = {group: learned(name, features, group, steps) for group in groups(name)}
    else:
        peers = {group: make(name, "balanced", *features.base, **each) for group, each in done["settings"].items()}
    for split in left:
        keep(name, features.name, split, value=score(name, peers, features, split))


@torch.no_grad()
def ours(model: ebmeta.EmpiricalBayes, split: str) -> dict[str, list[float]]:
    """Return accuracies of ebmeta on the tasks of a split, by kind of task."""
    result = {}
    for kind in FIVE:
        batches = draw(kind, split, *SPLITS[split])
        predicted = torch.cat([last_probs(model, batch).argmax(-1) for batch in batches])
        result[kind.name] = accuracy(predicted, labels(batches))
    return result


def main() -> None:
    """Do every piece that is not done, and write after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[*METHODS, OURS], help="peers to run, or ebmeta")
    parser.add_argument("--splits", nargs="*", default=[*SPLITS], help="val, test")
    parser.add_argument("--sib-steps", type=int, default=20_000, help="of SIB, fewer than published")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = classifier()

    @torch.no_grad()
    def head(x: Tensor, own: Tensor | None) -> Tensor:
        return model.predictor.features(x, own=own)[..., :-1]

    features = Features("as_they_are", lambda x, own: x), Features("of_ebmeta", head)
    for name in [name for name in METHODS if name in arguments.only]:
        for each in features:
            compare(name, each, arguments.splits, arguments.sib_steps)
    for split in arguments.splits if OURS in arguments.only else []:
        if split not in read(NAME).get(OURS, {}):
            keep(OURS, split, value=ours(model, split))


if __name__ == "__main__":
    main()
