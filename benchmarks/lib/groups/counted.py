"""Counts and binary outcomes of `shared/data/regression`, by group, and how they are split."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

import ebmeta
from lib.common import data_folder

__all__ = ["SETS", "Counted", "Split", "as_batch", "load", "splits"]


@dataclass(frozen=True, eq=False)
class Counted:
    """One data set.

    Args:
        X: features of rows, shape `(N, D)`.
        y: counts, successes, or 0 and 1, shape `(N,)`.
        groups: group of each row, shape `(N,)`.
        likelihood: the likelihood of both sides, by name.
        support: labelled rows of a new group.
        folds: parts that the groups are split into; each is held out once.
        size: trials or exposure, shape `(N,)`, or None.
        covariates: those of the group of each row, shape `(N, G)`, or None.
        slopes: whether coefficients of features differ between groups, as the intercept does.
    """

    X: np.ndarray
    y: np.ndarray
    groups: np.ndarray
    likelihood: str
    support: int
    folds: int = 5
    size: np.ndarray | None = None
    covariates: np.ndarray | None = None
    slopes: bool = True


@dataclass(frozen=True, eq=False)
class Split:
    """Rows of training groups, and labelled and unlabelled rows of held-out groups, the last sorted by group."""

    train: np.ndarray
    support: np.ndarray
    query: np.ndarray


def _stan(name: str) -> dict[str, list[float]]:
    data: dict[str, list[float]] = json.loads((data_folder() / "regression" / f"{name}.data.json").read_text())
    return data


def _read(name: str) -> pd.DataFrame:
    return pd.read_csv(data_folder() / "regression" / f"{name}.csv")


def _pump() -> Counted:
    """Failures of ten pumps over hours of operation; a pump is one row, so a new one has no label."""
    d = _stan("pump")
    y = np.array(d["x"], float)
    return Counted(np.empty((10, 0)), y, np.arange(10), "poisson", 0, size=np.array(d["t"], float))


def _seeds() -> Counted:
    """Seeds that germinated on 21 plates, by kind of seed, root extract and both; a new plate has no label."""
    d = _stan("seeds")
    one, two = np.array(d["x1"], float), np.array(d["x2"], float)
    y, size = np.array(d["n"], float), np.array(d["N"], float)
    covariates = np.c_[one, two, one * two]
    return Counted(np.empty((21, 0)), y, np.arange(21), "binomial", 0, size=size, covariates=covariates)


def _grouseticks() -> Counted:
    """Ticks on the heads of grouse chicks, by brood; year and height above sea are those of the brood."""
    f = _read("grouseticks")
    covariates = np.c_[f.YEAR == 96, f.YEAR == 97, f.HEIGHT].astype(float)
    y, groups = f.TICKS.to_numpy(float), f.BROOD.to_numpy()
    return Counted(np.empty((len(f), 0)), y, groups, "negative_binomial", 2, covariates=covariates)


def _toenail() -> Counted:
    """Whether toenails are infected, by patient, over months; the treatment moves level and slope."""
    f = _read("toenail")
    y = (f.outcome == "moderate or severe").to_numpy(float)
    treated = (f.treatment == "terbinafine").to_numpy(float)[:, None]
    return Counted(f[["time"]].to_numpy(float), y, f.patientID.to_numpy(), "bernoulli", 3, covariates=treated)


def _cbpp() -> Counted:
    """New cases of pleuropneumonia among the animals of a herd, over four periods."""
    f = _read("cbpp")
    X = np.stack([(f.period == k).to_numpy(float) for k in (2, 3, 4)], 1)
    y, size = f.incidence.to_numpy(float), f["size"].to_numpy(float)
    return Counted(X, y, f.herd.to_numpy(), "binomial", 2, size=size, slopes=False)


SETS: dict[str, Callable[[], Counted]] = {
    "pump": _pump,
    "seeds": _seeds,
    "cbpp": _cbpp,
    "grouseticks": _grouseticks,
    "toenail": _toenail,
}


def load(name: str) -> Counted:
    """Return a data set by name."""
    return SETS[name]()


def splits(data: Counted) -> Iterator[Split]:
    """Yield every split by group; held-out groups without a row to spare are in no part of their split."""
    names, rng = np.unique(data.groups), np.random.default_rng(5)
    for held in np.array_split(rng.permutation(names), data.folds):
        support, query = [], []
        for group in np.sort(held):
            rows = rng.permutation(np.flatnonzero(data.groups == group))
            if len(rows) > data.support:
                support.append(rows[: data.support])
                query.append(rows[data.support :])
        train = np.flatnonzero(~np.isin(data.groups, held))
        train = train[np.argsort(data.groups[train], kind="stable")]
        yield Split(train, np.concatenate(support), np.concatenate(query))


def as_batch(data: Counted, support: np.ndarray, query: np.ndarray) -> ebmeta.TaskBatch:
    """Return the groups of some query rows as tasks, in the order of their names."""
    names = np.unique(data.groups[query])

    def by_group(values: np.ndarray, rows: np.ndarray) -> list[torch.Tensor]:
        return [torch.from_numpy(values[rows[data.groups[rows] == name]]) for name in names]

    sized = {}
    if data.size is not None:
        sized = {"support_size": by_group(data.size, support), "query_size": by_group(data.size, query)}
    task_x = None
    if data.covariates is not None:
        task_x = torch.stack([g[0] for g in by_group(data.covariates, query)])
    of_rows = [by_group(v, rows) for rows in (support, query) for v in (data.X, data.y)]
    return ebmeta.TaskBatch.from_tasks(*of_rows, **sized, task_x=task_x)
