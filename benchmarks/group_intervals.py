"""Conformal intervals for new groups with 0, 1, 3 and 10 labelled rows, beside the model's own, on sets of groups.

Models are fitted by the evidence. "own" is the model's central 90% interval; "split" fits on half of the training
groups and calibrates on the other half; "folds" fits ten times without a tenth of the groups and calibrates on that;
"folds_like" is the same where the new group counts as one like the others (`strict=False`). "randomized" fits on half
of the known groups and calibrates on one row of each of the others; it takes many splits to compare it with the level.
Resumable: a set that is in the JSON file is not done again, here cheese with 10 splits, seeds and pump with 24.
`python benchmarks/group_intervals.py [SET ...] [--splits N] [--randomized]`
"""

from __future__ import annotations

import argparse
import json
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

import ebmeta
from lib.common import data_folder, read, write
from lib.groups import counted, data

NAME = "group_intervals.json"
LEVEL, SUPPORT, FOLDS = 0.9, (0, 1, 3, 10), 10
FEW, SPLITS, SPLITS_OF_FEW = 50, 4, 12  # groups of a small set, and how often sets are split into old and new groups
RANDOMIZED, RANDOMIZED_FEW = 150, 400  # splits of large and of small sets
NEW = 0.2  # share of the groups that are new


class Rows(NamedTuple):
    """Rows of a set, as the sampler takes them."""

    X: np.ndarray
    y: np.ndarray
    groups: np.ndarray
    size: np.ndarray | None = None
    covariates: np.ndarray | None = None

    def take(self, chosen: np.ndarray) -> Rows:
        """Return some of the rows."""
        return Rows(*(None if v is None else v[chosen] for v in self))

    def sampler(self, support: int, seed: int = 0) -> ebmeta.GroupSampler | None:
        """Return the groups with rows to spare; None where there are none."""
        _, codes, count = np.unique(self.groups, return_inverse=True, return_counts=True)
        large = count[codes] > support
        if not large.any():
            return None
        X, y, groups, size, covariates = self.take(large)
        return ebmeta.GroupSampler(X, y, groups, support, size=size, group_X=covariates, seed=seed)


def sets() -> dict[str, tuple[str, Rows]]:
    """Return the likelihood and the rows of every set."""
    out: dict[str, tuple[str, Rows]] = {}
    for name in data.SETS:
        d = data.load(name)
        out[name] = "normal", Rows(d.X, d.y, d.groups)
    rats = json.loads((data_folder() / "regression" / "rats.data.json").read_text())
    y = np.array(rats["y"], float)
    X = np.tile(np.array(rats["x"], float), len(y))[:, None]
    out["rats"] = "normal", Rows(X, y.ravel(), np.repeat(np.arange(len(y)), y.shape[1]))
    for name in counted.SETS:
        c = counted.load(name)
        out[name] = c.likelihood, Rows(c.X, c.y, c.groups, c.size, c.covariates)
    return out


def fitted(rows: Rows, likelihood: str) -> ebmeta.EmpiricalBayes:
    """Fit a model by the evidence."""
    wide = 0 if rows.covariates is None else rows.covariates.shape[1]
    model = ebmeta.EmpiricalBayes.regressor(rows.X.shape[1], likelihood, num_steps=0, num_covariates=wide).double()
    sampler = rows.sampler(0)
    assert sampler is not None  # for the type checker: every group has a row
    return ebmeta.fit_evidence(model, sampler, hyperprior=True, boundary=False).model


def one_split(likelihood: str, rows: Rows, seed: int) -> dict[int, dict[str, list[np.ndarray]]]:
    """Return coverage and width of each new group, by number of labelled rows and method."""
    rng = np.random.default_rng(seed)
    names = rng.permutation(np.unique(rows.groups))
    new = names[: max(2, round(NEW * len(names)))]
    fold = {group: i % FOLDS for i, group in enumerate(names[len(new) :])}
    number = np.array([fold.get(group, -1) for group in rows.groups])
    old = rows.take(number >= 0)
    model = fitted(old, likelihood)
    models = [fitted(rows.take((number >= 0) & (number != k)), likelihood) for k in range(FOLDS)]
    half = fitted(rows.take((number >= 0) & (number % 2 == 0)), likelihood)
    out: dict[int, dict[str, list[np.ndarray]]] = {}
    for support in SUPPORT:
        asked = rows.take(number < 0).sampler(support, seed)
        pairs = [(m, rows.take(number == k).sampler(support, seed)) for k, m in enumerate(models)]
        known = [(m, source) for m, source in pairs if source is not None]
        other = rows.take(number % 2 == 1).sampler(support, seed)
        if asked is None or other is None or not known:
            continue
        batch = asked.disjoint(0)
        quantile = ebmeta.predict(model, batch, num_draws=0, quantiles=((1 - LEVEL) / 2, (1 + LEVEL) / 2))
        found = {"own": tuple(quantile["predictive/quantile"].values)}
        split = ebmeta.ConformalIntervals(half, LEVEL).calibrate(other, num_splits=1).predict(batch)
        found["split"] = split["lower"].values, split["upper"].values
        folds = ebmeta.ConformalIntervals([m for m, _ in known], LEVEL).calibrate([s for _, s in known], num_splits=1)
        for name, folds.strict in (("folds", True), ("folds_like", False)):
            ends = folds.predict(batch)
            found[name] = ends["lower"].values, ends["upper"].values
        out[support] = {name: _scored(batch, *ends) for name, ends in found.items()}
    return out


def _scored(batch: ebmeta.TaskBatch, lower: np.ndarray, upper: np.ndarray) -> list[np.ndarray]:
    assert batch.query_y is not None  # for the type checker: groups are labelled
    y, real = batch.query_y.numpy(), batch.query_mask.numpy()
    held = np.where(real, (lower <= y) & (y <= upper), np.nan)
    return [np.nanmean(held, 1), np.nanmean(np.where(real, upper - lower, np.nan), 1)]


def piece(likelihood: str, rows: Rows, splits: int | None) -> dict[str, Any]:
    """Return mean coverage and median width of each method on one set, the latter in units of the model's own."""
    groups = len(np.unique(rows.groups))
    splits = splits or (SPLITS_OF_FEW if groups < FEW else SPLITS)
    results = [one_split(likelihood, rows, seed) for seed in range(splits)]
    out: dict[str, Any] = {"likelihood": likelihood, "groups": groups, "splits": splits}
    for support in SUPPORT:
        known = [r[support] for r in results if support in r]
        if not known:
            continue
        cells = {}
        own = np.concatenate([k["own"][1] for k in known])
        for name in known[0]:
            coverage, width = (np.concatenate([k[name][i] for k in known]) for i in (0, 1))
            finite = np.isfinite(width) & (own > 0)
            ratio = float(np.median((width / np.where(finite, own, 1))[finite])) if finite.any() else None
            cells[name] = {"coverage": round(float(coverage.mean()), 4), "width": ratio and round(ratio, 4)}
            cells[name]["endless"] = round(float(np.isinf(width).mean()), 4)
        out[str(support)] = cells
    return out


def randomized(likelihood: str, rows: Rows, splits: int | None) -> dict[str, Any]:
    """Return coverage with a 95% interval over splits, and median width in units of the model's own interval."""
    names = np.unique(rows.groups)
    splits = splits or (RANDOMIZED_FEW if len(names) < FEW else RANDOMIZED)
    found: dict[int, list[tuple[float, np.ndarray]]] = {support: [] for support in SUPPORT}
    for seed in tqdm(range(splits), leave=False):
        order = np.random.default_rng(seed).permutation(names)
        new, old = np.split(order, [max(2, round(NEW * len(names)))])
        parts = [rows.take(np.isin(rows.groups, part)) for part in (new, old[::2], old[1::2])]
        model = fitted(parts[1], likelihood)
        for support in SUPPORT:
            asked, known = parts[0].sampler(support, seed), parts[2].sampler(support, seed)
            if asked is None or known is None:
                continue
            batch, own = asked.disjoint(0), ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
            ends = ebmeta.ConformalIntervals(model, LEVEL, randomized=True).calibrate(known, seed=seed).predict(batch)
            held, wide = _scored(batch, ends["lower"].values, ends["upper"].values)
            quantile = ebmeta.predict(model, batch, num_draws=0, quantiles=own)["predictive/quantile"].values
            found[support].append((float(held.mean()), wide / _scored(batch, *quantile)[1]))
    out: dict[str, Any] = {"likelihood": likelihood, "groups": len(names), "splits": splits}
    for support, splits_done in found.items():
        if splits_done:
            coverage = np.array([c for c, _ in splits_done])
            width = np.concatenate([w for _, w in splits_done])
            finite = np.isfinite(width)
            out[str(support)] = {
                "coverage": round(float(coverage.mean()), 4),
                "half_width": round(float(1.96 * coverage.std(ddof=1) / len(coverage) ** 0.5), 4),
                "width": round(float(np.median(width[finite])), 4) if finite.any() else None,
                "endless": round(float(1 - finite.mean()), 4),
            }
    return out


def main() -> None:
    """Do every set that is not done, and write after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="*", help="sets to do, all by default")
    parser.add_argument("--splits", type=int, help="splits into old and new groups, by the number of groups by default")
    parser.add_argument("--randomized", action="store_true", help="only that piece of each set")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result = read(NAME) | {"level": LEVEL, "folds": FOLDS, "share_new": NEW}
    pieces = {"randomized": randomized} if arguments.randomized else {"sets": piece, "randomized": randomized}
    for of, work in pieces.items():
        done = result.setdefault(of, {})
        for name, (likelihood, rows) in sorted(sets().items(), key=lambda item: len(item[1][1].y)):
            if name in done or (arguments.sets and name not in arguments.sets):
                continue
            done[name] = work(likelihood, rows, arguments.splits)
            write(NAME, result)
            print(of, name, json.dumps(done[name]), flush=True)


if __name__ == "__main__":
    main()
