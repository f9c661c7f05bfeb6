"""Counts and binary outcomes: ebmeta beside a generalised linear mixed model drawn by NUTS, log score and time.

Both get the same groups, rows, features and structure, and are scored on the same queries. The mixed model is refitted
with the labelled rows of the held-out groups; ebmeta is not. Resumable: each (set, split, side) is a piece.
`python benchmarks/counts.py [--only SET ...] [--sides ours peer exact]`
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import ebmeta
from ebmeta import EmpiricalBayes, TaskBatch
from ebmeta.likelihood import NegativeBinomial
from ebmeta.model.base import PredictiveModel
from ebmeta.training.evidence import Hyperprior
from lib.common import read, write
from lib.groups.counted import SETS, Counted, Split, as_batch, load, splits
from lib.groups.mixed_model import ACCEPT, CHAINS, DRAWS, WARMUP, exact_log_density, log_density

NAME = "counts.json"
METHODS = ("ebmeta", "ebmeta_maximum", "nuts")
SHARED_SCALE, MEMBERS, TIMED = 0.02, 64, 5


def log_hyperpriors(model: EmpiricalBayes) -> Tensor:
    r"""Return the log density of the peer's default hyperpriors (`ebmeta.reference.hierarchical`), up to a constant.

    Scales and the shape of a negative binomial count by their logarithm, the correlation $\rho$ of a slope by the entry
    $l$ of the factor, $\rho = l / \sqrt{1 + l^2}$:

    $$ -\frac{\mu^2}{2 \cdot 5^2}, \quad \log \tau - \frac{\tau^2}{2 \cdot 2.5^2}, \quad 2 \log r - 0.1\, r, \quad
       \log (1 - \rho^2) + \log \frac{d\rho}{dl} = -2.5 \log (1 + l^2). $$
    """
    prior, likelihood = model.prior, model.likelihood
    tau = prior.gaussian().expand(1, 1).scale[0, 0]
    out = (tau.log() - (tau / 2.5).square() / 2).sum()
    for coefficients in (prior.loc, *([prior.slope] if prior.num_covariates else [])):
        out = out - (coefficients / 5).square().sum() / 2
    if isinstance(likelihood, NegativeBinomial):
        out = out + 2 * likelihood.log_shape - 0.1 * likelihood.log_shape.exp()
    return out - 2.5 * torch.log1p(torch.tril(prior.lower, -1).square()).sum()


def one_intercept(model: EmpiricalBayes) -> Tensor:
    """Return the same where the intercept alone differs between groups.

    The standard deviations of all other weights are held near 0.02 per standard deviation of their feature.
    """
    prior = model.prior
    spread = (prior.log_scale[:-1] - math.log(SHARED_SCALE)) / 0.1
    return log_hyperpriors(model) - spread.square().sum() / 2


def fitted(data: Counted, split: Split) -> tuple[EmpiricalBayes, TaskBatch, Hyperprior]:
    """Return a model fitted by the evidence of all training rows, those rows, and the hyperprior."""
    train = as_batch(data, split.train[:0], split.train)
    wide = 0 if data.covariates is None else data.covariates.shape[1]
    model = EmpiricalBayes.regressor(data.X.shape[1], data.likelihood, num_steps=0, num_covariates=wide).double()
    hyperprior: Hyperprior = log_hyperpriors
    if data.X.shape[1] and not data.slopes:
        hyperprior = one_intercept
        model.prior.lower.requires_grad_(False)
    ebmeta.fit_evidence(model, train, hyperprior=hyperprior)
    return model, train, hyperprior


def score(model: PredictiveModel, data: Counted, split: Split) -> np.ndarray:
    """Return the log predictive probability of every query row in nats, shape `(Q,)`."""
    batch = as_batch(data, split.support, split.query)
    with torch.no_grad():
        each = model.infer(batch).log_prob(-1, batch.query_y, torch.zeros(1), predictive=True)
    out: np.ndarray = each[batch.query_mask].numpy()
    return out


class Clock:
    """Processor and wall seconds since it was made."""

    def __init__(self) -> None:
        self.cpu, self.wall = time.process_time(), time.perf_counter()

    def read(self, prefix: str = "", times: int = 1) -> dict[str, float]:
        """Return the seconds of each of so many calls."""
        cpu, wall = time.process_time() - self.cpu, time.perf_counter() - self.wall
        return {f"{prefix}cpu_seconds": round(cpu / times, 5), f"{prefix}seconds": round(wall / times, 5)}


def ours(data: Counted, split: Split) -> dict[str, Any]:
    """Return scores of every query and seconds of training and prediction, at the maximum and with the ensemble."""
    clock, out = Clock(), {}
    model, train, hyperprior = fitted(data, split)
    for method in ("ebmeta_maximum", "ebmeta"):
        if method == "ebmeta":
            model = ebmeta.propagate(model, train, hyperprior=hyperprior, num_draws=MEMBERS)
        trained = clock.read("train_")
        score(model, data, split)  # the first call is slower
        each = Clock()
        for _ in range(TIMED):
            scores = score(model, data, split)
        out[method] = {"score": scores.round(5).tolist()} | trained | each.read(times=TIMED)
        clock.cpu, clock.wall = (
            clock.cpu + time.process_time() - each.cpu,
            clock.wall + time.perf_counter() - each.wall,
        )
    return out


def peer(data: Counted, split: Split) -> dict[str, Any]:
    """Return scores of every query and seconds of the fit by NUTS, compilation included."""
    clock = Clock()
    scores, rhat, divergences = log_density(data, split)
    found = {"score": scores.round(5).tolist(), "rhat": round(rhat, 4), "divergences": divergences}
    return {"nuts": found | clock.read()}


def exact(data: Counted, split: Split) -> dict[str, Any]:
    """Return scores of every query by the exact answer, where one is known."""
    single = not data.X.shape[1] and data.covariates is None and not data.support
    return {"exact": {"score": exact_log_density(data, split).round(5).tolist()} if single else {}}


def difference(ours: np.ndarray, peer: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """Return the mean difference of log scores per query in nats, and its standard error over groups.

    Args:
        ours: scores of queries, shape `(Q,)`.
        peer: likewise.
        groups: group of each query, shape `(Q,)`.
    """
    _, code = np.unique(groups, return_inverse=True)
    total, count = np.bincount(code, ours - peer), np.bincount(code)
    mean = total.sum() / count.sum()
    spread = ((total - mean * count) ** 2).sum() * len(count) / (len(count) - 1)
    return float(mean), float(np.sqrt(spread) / count.sum())


def summary(pieces: list[dict[str, Any]]) -> dict[str, Any]:
    """Return scores, seconds per group and training seconds of each method, and differences from NUTS."""
    groups = np.concatenate([p["group"] for p in pieces])
    number = len(np.unique(groups))
    out: dict[str, Any] = {"queries": len(groups), "groups": number, "splits": len(pieces)}
    scores = {m: np.concatenate([p[m]["score"] for p in pieces]) for m in METHODS}
    for method in METHODS:
        each = [p[method] for p in pieces]
        per_group = sum(p["cpu_seconds"] for p in each) / number
        out[method] = {"score": float(scores[method].mean()), "cpu_seconds_per_group": per_group}
        if method == "nuts":
            out[method] |= {"rhat": max(p["rhat"] for p in each), "divergences": sum(p["divergences"] for p in each)}
            continue
        mean, error = difference(scores[method], scores["nuts"], groups)
        times = sum(p["nuts"]["cpu_seconds"] for p in pieces) / sum(p["cpu_seconds"] for p in each)
        train = float(np.mean([p["train_cpu_seconds"] for p in each]))
        out[method] |= {"difference": mean, "error": error, "times_faster": times, "train_cpu_seconds": train}
    if all(p.get("exact") for p in pieces):
        out["exact"] = {"score": float(np.mean(np.concatenate([p["exact"]["score"] for p in pieces])))}
    return out


def stored() -> dict[str, Any]:
    """Return the pieces that are done."""
    done: dict[str, Any] = read(NAME).get("pieces", {})
    return done


def main() -> None:
    """Run what is not in the results yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=list(SETS), choices=list(SETS))
    parser.add_argument("--sides", nargs="*", default=list(SIDES), choices=list(SIDES))
    parser.add_argument("--again", action="store_true", help="do pieces again that are there")
    arguments = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    for name in arguments.only:
        data = load(name)
        for number, split in enumerate(tqdm(list(splits(data)), name, disable=None)):
            for side in arguments.sides:
                if not arguments.again and SIDES[side][0] in stored().get(name, {}).get(str(number), {}):
                    continue
                found = SIDES[side][1](data, split)
                result = stored()
                piece = result.setdefault(name, {}).setdefault(str(number), {})
                piece |= {"group": data.groups[split.query].tolist()} | found
                whole = {n: list(p.values()) for n, p in result.items() if _whole(p, load(n).folds)}
                sets = {n: summary(pieces) for n, pieces in whole.items()}
                write(NAME, {"nuts": SETTINGS, "members": MEMBERS, "sets": sets, "pieces": result})


def _whole(pieces: dict[str, Any], folds: int) -> bool:
    return len(pieces) == folds and all(m in p for p in pieces.values() for m in METHODS)


#: The first method of each side, and the function that does a piece of it.
SIDES: dict[str, tuple[str, Callable[[Counted, Split], dict[str, Any]]]] = {
    "ours": ("ebmeta", ours),
    "peer": ("nuts", peer),
    "exact": ("exact", exact),
}
SETTINGS = {"warmup": WARMUP, "draws": DRAWS, "chains": CHAINS, "accept": ACCEPT}


if __name__ == "__main__":
    main()
