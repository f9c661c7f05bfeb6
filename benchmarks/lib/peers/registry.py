"""The peers by name, with their published hyperparameters and with those chosen for the features of the benchmark.

Chosen on at least 256 tasks of the validation classes of CIFAR-FS for each of 1 and 5 shots, by their mean accuracy,
apart for balanced queries and for Dirichlet(2) ones, from grids of at most some hundred settings a method. Where
published settings were as good (prototypes, SimpleShot, BD-CSPN) or belong to the training recipe (SIB), they stay.
UNEM learns its hyperparameters; of its recipe, the features that it sees and the number of layers were chosen so.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Literal

from torch import Tensor

from lib.peers.alpha_tim import AlphaTIM
from lib.peers.base import Peer
from lib.peers.bavardage import BAVARDAGE
from lib.peers.bdcspn import BDCSPN
from lib.peers.laplacianshot import LaplacianShot
from lib.peers.prototypes import Prototypes
from lib.peers.ptmap import PTMAP
from lib.peers.sib import SIB
from lib.peers.simpleshot import SimpleShot
from lib.peers.tim import TIM
from lib.peers.unem import UNEM

Setting = Literal["published", "balanced", "imbalanced"]

METHODS: dict[str, type[Peer]] = {
    method.name: method
    for method in (Prototypes, SimpleShot, BDCSPN, LaplacianShot, TIM, AlphaTIM, PTMAP, BAVARDAGE, SIB, UNEM)
}

CENTRED = {"published": {"simpleshot", "bavardage"}, "chosen": {"simpleshot", "bavardage", "laplacianshot", "unem"}}

GRAPH = {"neighbours": 4, "strength": 0.3, "cost_scale": 5.0}
COSINE = {"metric": "cosine", "steps": 50, "rate": 0.1, "support": 0.3}

CHOSEN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # for balanced queries, for imbalanced ones
    "laplacianshot": (GRAPH, GRAPH),
    "tim": (
        {**COSINE, "temperature": 5.0, "conditional": 0.5},
        {**COSINE, "temperature": 3.5, "conditional": 1.0},
    ),
    "alpha_tim": (
        {**COSINE, "temperature": 5.0, "conditional": 0.5, "alpha": 1.5},
        {**COSINE, "temperature": 3.5, "conditional": 1.0, "alpha": 1.5},
    ),
    "pt_map": ({"power": 1.0}, {"power": 1.0, "regularization": 5.0}),
    "bavardage": (
        {"variance": 0.002},
        {"variance": 0.003, "mean_strength": 30.0, "kmeans_temperature": 20.0},
    ),
}


def make(
    name: str, setting: Setting = "balanced", center: Tensor | None = None, scatter: Tensor | None = None, **more: Any
) -> Peer:
    """Return a peer by name.

    Args:
        name: a key of `METHODS`.
        setting: "published", or chosen for "balanced" or "imbalanced" queries.
        center: mean of the base classes, for the methods that use it, shape `(D,)`.
        scatter: within-class scatter of the base classes, likewise, shape `(D, D)`; see `base_statistics`.
        more: further hyperparameters, which win over the setting.

    Returns:
        The peer; SIB and UNEM are still to be trained.

    Raises:
        ValueError: if the name or the setting is unknown, or the method needs base classes that are not given.
    """
    if name not in METHODS:
        raise ValueError(f"name: expected one of {', '.join(METHODS)}, got {name!r}")
    if setting not in ("published", "balanced", "imbalanced"):
        raise ValueError(f"setting: expected published, balanced or imbalanced, got {setting!r}")
    method = METHODS[name]
    options: dict[str, Any] = {}
    if setting != "published":
        options = CHOSEN.get(name, ({}, {}))[setting == "imbalanced"]
    for statistic, value in (("center", center), ("scatter", scatter)):
        known = statistic in {field.name for field in fields(method)}
        if known and name in CENTRED["published" if setting == "published" else "chosen"]:
            if value is None:
                raise ValueError(f"{statistic}: expected that of the base classes, which {name} uses, got None")
            options = options | {statistic: value}
    return method(**(options | more))
