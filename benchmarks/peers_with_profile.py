"""Do peers gain from the features of the default model? On validation classes of CIFAR-FS.

Every peer, with the settings chosen for the features as they are, is given those, and then the directions and profiles
that ebmeta's head makes of them (`ebmeta.parts.profile`), without the constant. PT-MAP is left out: it takes features
that are not negative. `python benchmarks/peers_with_profile.py`
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lib.classifier import classifier, last_probs
from lib.common import cifar_fs, write
from lib.kinds import FIVE, draw, labels
from lib.peers import METHODS, base_statistics, make

TASKS, SEED = 600, 11


def accuracy(predicted: list[Tensor], y: Tensor) -> list[float]:
    """Return mean accuracy over tasks and its 95% half width, in per cent."""
    right = 100 * (torch.cat(predicted) == y).float().mean(1)
    return [round(float(right.mean()), 3), round(float(1.96 * right.std() / len(right) ** 0.5), 3)]


@torch.no_grad()
def main() -> None:
    """Score every peer on both features, and ebmeta, and write."""
    torch.set_num_threads(1)
    model = classifier()
    raw = torch.from_numpy(cifar_fs("train").X)

    def head(x: Tensor) -> Tensor:
        return model.predictor.features(x)[..., :-1]

    features = {"as_they_are": lambda x: x, "of_ebmeta": head}
    base = {name: base_statistics(f(raw.unsqueeze(0))[0].view(64, 600, -1)) for name, f in features.items()}
    result: dict[str, Any] = {"tasks": TASKS, "split": "val"}
    for kind in FIVE:
        batches = draw(kind, "val", TASKS, SEED)
        y, regime = labels(batches), "balanced" if kind.imbalance is None else "imbalanced"
        result[kind.name] = {"ebmeta": accuracy([last_probs(model, b).argmax(-1) for b in batches], y)}
        for name in [name for name, method in METHODS.items() if not (method.learns or name == "pt_map")]:
            for kept, f in features.items():
                peer = make(name, regime, *base[kept])
                guesses = [peer(f(b.support_x), b.support_y, f(b.query_x), kind.n_way).argmax(-1) for b in batches]
                result[kind.name].setdefault(name, {})[kept] = accuracy(guesses, y)
            print(kind.name, name, result[kind.name][name], flush=True)
    write("peers_with_profile.json", result)


if __name__ == "__main__":
    main()
