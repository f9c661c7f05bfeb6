"""Real grouped data of `shared/data/regression`: features, labels, groups and covariates of groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from sklearn.preprocessing import SplineTransformer

from lib.common import data_folder

__all__ = ["GIVEN", "SETS", "Groups", "load", "splits"]

GIVEN = "given"


@dataclass(frozen=True, eq=False)
class Groups:
    """One data set.

    Args:
        X: features, shape `(N, D)`; every method gets the same.
        y: labels in their own units, shape `(N,)`.
        groups: group of each row, shape `(N,)`.
        covariates: those of the group of each row's group, shape `(N, G)`, or None.
        bases: other features that stand for the same ones, by name, each of shape `(N, D')`.
    """

    X: np.ndarray
    y: np.ndarray
    groups: np.ndarray
    covariates: np.ndarray | None = None
    bases: Mapping[str, np.ndarray] = field(default_factory=dict)

    def rows(self, chosen: np.ndarray) -> Groups:
        """Return some rows."""
        return Groups(
            self.X[chosen],
            self.y[chosen],
            self.groups[chosen],
            None if self.covariates is None else self.covariates[chosen],
            {name: features[chosen] for name, features in self.bases.items()},
        )

    def on(self, basis: str) -> Groups:
        """Return the same rows with the features of a basis, or as they are given."""
        return self if basis == GIVEN else replace(self, X=self.bases[basis])


def _read(name: str) -> pd.DataFrame:
    return pd.read_csv(data_folder() / "regression" / f"{name}.csv")


def _cheese() -> Groups:
    f = _read("cheese")
    return Groups(np.c_[np.log(f.PRICE), f.DISP], np.log(f.VOLUME.to_numpy()), f.RETAILER.to_numpy())


def _sleepstudy() -> Groups:
    f = _read("sleepstudy")
    return Groups(f[["Days"]].to_numpy(float), f.Reaction.to_numpy(), f.Subject.to_numpy())


def _oxboys() -> Groups:
    f = _read("oxboys")
    return Groups(np.c_[f.age, f.age**2], f.height.to_numpy(), f.Subject.to_numpy())


def _growth() -> Groups:
    """Height over age: natural powers of age up to 5, in units of ten years; or cubic splines with nine knots."""
    f = _read("berkeley_growth")
    age = f.age.to_numpy() / 10 - 1
    sex = (f.sex == "m").to_numpy(float)[:, None]
    splines = SplineTransformer(9, include_bias=False).fit_transform(age[:, None])
    powers = np.stack([age**k for k in range(1, 6)], 1)
    return Groups(powers, f.height_cm.to_numpy(), f.child.to_numpy(), sex, {"splines": splines})


def _weather() -> Groups:
    """Temperature of every fifth day: two harmonics of the year; or three."""
    f = _read("canadian_weather")
    f = f[f.day % 5 == 0]
    phase = 2 * np.pi * f.day.to_numpy() / 365
    X = np.stack([g(k * phase) for k in (1, 2, 3) for g in (np.sin, np.cos)], 1)
    place = f[["lat_N", "long_W"]].to_numpy(float)
    return Groups(X[:, :4], f.temp_C.to_numpy(), f.station.to_numpy(), place, {"3 harmonics": X})


def _radon() -> Groups:
    f = _read("radon_minnesota")
    return Groups(
        f[["basement"]].to_numpy(float), f["log.radon"].to_numpy(), f.county.to_numpy(), f[["uranium"]].to_numpy()
    )


def _exam() -> Groups:
    f = _read("exam")
    return Groups(f[["standLRT"]].to_numpy(), f.normexam.to_numpy(), f.school.to_numpy(), f[["schavg"]].to_numpy(float))


SETS: dict[str, Callable[[], Groups]] = {
    "cheese": _cheese,
    "sleepstudy": _sleepstudy,
    "oxboys": _oxboys,
    "berkeley_growth": _growth,
    "canadian_weather": _weather,
    "radon": _radon,
    "exam": _exam,
}


def load(name: str) -> Groups:
    """Return a data set by name."""
    return SETS[name]()


def splits(data: Groups, seed: int, share: float = 0.3) -> tuple[Groups, Groups]:
    """Split by group into meta-training and held-out rows."""
    names = np.unique(data.groups)
    np.random.default_rng(seed).shuffle(names)
    held = np.isin(data.groups, names[: max(2, round(share * len(names)))])
    return data.rows(~held), data.rows(held)
