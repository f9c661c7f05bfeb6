"""Groups drawn by NumPy from each family of mixed models, with the parameters that a fit has to find."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

__all__ = ["COMMON", "FAMILIES", "FORMULA", "Family", "simulate", "truth"]

Array = NDArray[np.float64]
COMMON, SPREAD = {"Intercept": 0.5, "x": 0.4}, 0.6
WIDE = 3.0  # standard deviation of a logarithm of which next to nothing is known
FORMULA = "y ~ x + (1 | g)"


@dataclass(frozen=True)
class Family:
    """One family.

    Args:
        draw: from the linear predictor, the sizes of rows and a generator to labels, all of shape `(N,)`.
        learned: the parameters of the likelihood, by the names of a table of variance components.
        sized: whether rows have sizes.
        other: names that NUTS has for some of these.
    """

    draw: Callable[[Array, Array, np.random.Generator], Array]
    learned: dict[str, float]
    sized: bool = False
    other: dict[str, str] = field(default_factory=dict)

    @property
    def sites(self) -> dict[str, str]:
        """Names of the parameters of the likelihood in `ebmeta.reference.hierarchical`."""
        return {name: self.other.get(name, name) for name in self.learned}

    def flat(self) -> dict[str, Any]:
        """Return nearly flat densities of the logarithms or log odds of the parameters of the likelihood, for NUTS."""
        import numpyro.distributions as dist

        if "gaps.1" in self.sites.values():
            return {"gaps": dist.LogNormal(0.0, WIDE).expand([len(self.learned)]).to_event(1)}
        chance = dist.Beta(1 / WIDE**2, 1 / WIDE**2)  # flat in log odds
        return {s: chance if s == "inflation" else dist.LogNormal(0.0, WIDE) for s in self.sites.values()}


SD = {"sd": "noise"}
FAMILIES: dict[str, Family] = {
    "normal": Family(lambda eta, n, rng: eta + rng.normal(0, 0.8, len(eta)), {"sd": 0.8}, other=SD),
    "student_t": Family(lambda eta, n, rng: eta + 0.6 * rng.standard_t(5, len(eta)), {"noise": 0.6, "freedom": 5.0}),
    "log_normal": Family(lambda eta, n, rng: np.exp(eta + rng.normal(0, 0.8, len(eta))), {"sd": 0.8}, other=SD),
    "gamma": Family(lambda eta, n, rng: rng.gamma(1.5, np.exp(eta) / 1.5), {"shape": 1.5}),
    "beta": Family(lambda eta, n, rng: rng.beta(4 * special.expit(eta), 4 * special.expit(-eta)), {"precision": 4.0}),
    "ordinal": Family(
        lambda eta, n, rng: (eta + rng.logistic(size=len(eta)) > np.array([[0.0], [0.8], [2.0]])).sum(0).astype(float),
        {"threshold(1|2)": 0.8, "threshold(2|3)": 2.0},
        other={"threshold(1|2)": "gaps.1", "threshold(2|3)": "gaps.2"},
    ),
    "bernoulli": Family(lambda eta, n, rng: rng.binomial(1, special.expit(eta)).astype(float), {}),
    "binomial": Family(lambda eta, n, rng: rng.binomial(n.astype(int), special.expit(eta)).astype(float), {}, True),
    "poisson": Family(lambda eta, n, rng: rng.poisson(n * np.exp(eta)).astype(float), {}, True),
    "negative_binomial": Family(
        lambda eta, n, rng: rng.poisson(n * np.exp(eta) * rng.gamma(2.0, 0.5, len(eta))).astype(float),
        {"shape": 2.0},
        True,
    ),
    "zero_inflated_poisson": Family(
        lambda eta, n, rng: (rng.poisson(n * np.exp(eta)) * (rng.random(len(eta)) < 0.75)).astype(float),
        {"inflation": 0.25},
        True,
    ),
    "zero_inflated_negative_binomial": Family(
        lambda eta, n, rng: (
            rng.poisson(n * np.exp(eta) * rng.gamma(2.0, 0.5, len(eta))) * (rng.random(len(eta)) < 0.75)
        ).astype(float),
        {"shape": 2.0, "inflation": 0.25},
        True,
    ),
}


def simulate(name: str, seed: int, num_groups: int = 100, num_rows: int = 8) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return rows of groups, and what `mixed_model` takes beside formula and likelihood."""
    rng, family = np.random.default_rng([seed, zlib.crc32(name.encode())]), FAMILIES[name]
    g = np.repeat(np.arange(num_groups), num_rows)
    x, n = rng.normal(size=len(g)), rng.integers(1, 6, len(g)).astype(float)
    eta = COMMON["Intercept"] + COMMON["x"] * x + rng.normal(0, SPREAD, num_groups)[g]
    data = pd.DataFrame({"y": family.draw(eta, n, rng), "x": x, "n": n, "g": g})
    return data, {"size": "n"} if family.sized else {}


def truth(name: str) -> dict[str, float]:
    """Return the true parameters by name: the common terms, the spread between groups, those of the likelihood."""
    return COMMON | {"sd(Intercept)": SPREAD} | FAMILIES[name].learned
