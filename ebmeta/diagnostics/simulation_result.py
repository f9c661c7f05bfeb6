r"""The result of simulation-based calibration, with its test and a verdict in plain words.

The shape of their distribution tells the fault: ends too full (too narrow), middle too full (too wide), a slope
(shifted). For $u$ uniform, the standardised mean and spread

$$ \sqrt{12 N}\, \big( \bar u - \tfrac12 \big), \qquad
   \sqrt{180 N}\, \Big( \tfrac1N \sum_t \big( u_t - \tfrac12 \big)^2 - \tfrac1{12} \Big) $$

have mean 0 and variance 1; the larger names the fault.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import xarray as xr
from scipy import special

from ebmeta.foundation.checks import between, checked, real_array
from ebmeta.prediction.uniformity import ecdf_band, least_tail, uniformity_p_value

__all__ = ["SENTENCES", "SimulationCalibration"]

TWO_SIDED = ("weight", "predictor", "label")  # kinds whose shift has a direction
EXTREME = 1e-9  # numbers closer to 0 or 1 than this count as this close in `shift` and `spread`
MASS = 0.9  # of the region that the sentence names
LOUD = 2.0  # standard deviations from which a mean or a spread names the fault
LEAST_SHOWN = 1e-9  # smaller p-values are rounded away
#: What each verdict says of "The posterior ...".
SENTENCES = {
    "calibrated": "shows no sign of error",
    "too narrow": "is too narrow: it is surer than it may be",
    "too wide": "is too wide: it could be surer than it is",
    "shifted": "is shifted: the truth is on one side of it too often",
    "learns too little": "learns too little from the labelled rows: the truth fits them better than its draws do",
    "learns too much": "learns too much from the labelled rows: its draws fit them better than the truth does",
    "wrong shape": "has the wrong shape, without being too narrow, too wide or shifted on the whole",
    "sees the labels": "predicts labels better than its weights allow: it has seen the labels that it should predict",
}


@checked(alpha=between(0, 1))
@dataclass(frozen=True, eq=False)
class SimulationCalibration:
    r"""Simulation-based calibration of a posterior.

    Args:
        pit: for each test quantity and task, the posterior probability of a value up to the true one; uniform where
            the posterior is exact; dims `(quantity, task)`. The coordinate `kind` says what the quantity is about:
            "weight", "predictor", "likelihood", "region", "label" or "surprise".
        alpha: probability that an exact posterior does not pass, at most.
    """

    pit: xr.DataArray
    alpha: float = 0.05

    def __post_init__(self) -> None:
        if set(self.pit.dims) != {"quantity", "task"} or "kind" not in self.pit.coords:
            raise ValueError(f"pit: expected dimensions (quantity, task) with a kind, got {self.pit.dims}")
        real_array("pit", self.pit.values)

    @cached_property
    def p_values(self) -> xr.DataArray:
        """Exact p-value of uniformity of each quantity, not below 1e-12; dim `quantity`."""
        values = [uniformity_p_value(u) for u in self.pit.values]
        return self.pit.isel(task=0, drop=True).copy(data=np.array(values)).rename("p_value")

    @property
    def p_value(self) -> float:
        """Bonferroni's p-value of all quantities together, whose false-alarm rate holds under any dependence."""
        return min(1.0, float(self.p_values.min()) * len(self.p_values))

    @property
    def passed(self) -> bool:
        """Whether the posterior passes at the false-alarm rate `alpha`: no quantity leaves the band of all."""
        return not bool(self._outside.any())

    @cached_property
    def _outside(self) -> np.ndarray:
        """Which quantities leave the band, that is, have a p-value of at most `alpha` over their number."""
        quantities, tasks = self.pit.shape
        threshold = ecdf_band(tasks, self.alpha / quantities).threshold
        return np.array([least_tail(u) <= threshold for u in self.pit.values])

    @cached_property
    def table(self) -> xr.Dataset:
        r"""For each quantity its p-value, `shift` and `spread` of the truth, and the fault that its shape shows.

        With $z = \Phi^{-1}(u)$, the truth in standard deviations of the posterior where that is Gaussian, `shift` is
        the mean of $z$, and `spread` its standard deviation: 1.25 says that the posterior's standard deviation is too
        small by that factor.
        """
        u = self.pit.values
        z = special.ndtri(np.clip(u, EXTREME, 1 - EXTREME))
        out = xr.Dataset({"p_value": self.p_values})
        out["shift"], out["spread"] = ("quantity", z.mean(1)), ("quantity", z.std(1))
        faults = zip(self._faults, self._outside, strict=True)
        out["fault"] = ("quantity", [fault if bad else "none" for (fault, _), bad in faults])
        return out

    @cached_property
    def _faults(self) -> list[tuple[str, float]]:
        """The fault that the shape of each quantity indicates, and its strength in standard deviations."""
        return [self._fault(u, str(k)) for u, k in zip(self.pit.values, self.pit["kind"].values, strict=True)]

    @staticmethod
    def _fault(u: np.ndarray, kind: str) -> tuple[str, float]:
        """Return one entry of `_faults`."""
        mean = float(np.sqrt(12 * len(u)) * (u.mean() - 0.5))
        spread = float(np.sqrt(180 * len(u)) * (((u - 0.5) ** 2).mean() - 1 / 12))
        loud = max(abs(mean), abs(spread))
        if kind not in TWO_SIDED:
            over, under = ("too wide", "too narrow") if kind == "likelihood" else ("too narrow", "too wide")
            return (over if mean > 0 else under) if abs(mean) > LOUD else "wrong shape", loud
        if loud <= LOUD:
            return "wrong shape", loud
        if abs(spread) >= abs(mean):
            return "too narrow" if spread > 0 else "too wide", loud
        return "too low" if mean > 0 else "too high", loud

    @checked()
    def coverage(self, mass: np.ndarray) -> xr.DataArray:
        """Return how often regions of highest posterior density hold the true weights; dim `mass`.

        Args:
            mass: posterior probability of the regions, shape `(M,)`.
        """
        u = np.sort(self.pit.sel(quantity="region").values)
        mass = real_array("mass", mass if np.ndim(mass) else [mass], ndim=1)
        return xr.DataArray(np.searchsorted(u, mass, side="right") / len(u), {"mass": mass}, name="coverage")

    @property
    def verdict(self) -> str:
        """One of the keys of `SENTENCES`, from the quantity that fails most clearly.

        Weights speak first. Where they pass, the likelihood of the support labels tells a posterior that learns too
        little or too much from them; and where labels alone fail, being predicted better than right weights allow, the
        posterior has seen them.
        """
        if self.passed:
            return "calibrated"
        kind, chosen = self.pit["kind"].values, self._outside
        of_labels = np.isin(kind, ["label", "surprise"])
        of_fit = kind == "likelihood"
        # A likelihood moves with location and width alike, and names the fault only where no weight does.
        for aside in (of_labels | of_fit, of_labels):
            if (chosen & ~aside).any():
                chosen = chosen & ~aside
                break
        fault = max((s, f) for (f, s), c in zip(self._faults, chosen, strict=True) if c)[1]
        if of_fit[chosen].all():
            return {"too wide": "learns too little", "too narrow": "learns too much"}.get(fault, fault)
        if of_labels[chosen].all() and fault == "too wide":
            return "sees the labels"
        return "shifted" if fault in ("too low", "too high") else fault

    @property
    def words(self) -> str:
        """The verdict as a sentence or two."""
        tasks, quantities = self.pit.sizes["task"], self.pit.sizes["quantity"]
        held = f"{float(self.coverage(np.array([MASS]))[0]):.1%} have the true weights inside its {MASS:.0%} region"
        low = self.p_value <= LEAST_SHOWN
        p = f"p < {LEAST_SHOWN:g}" if low else f"p = {self.p_value:.2g}"
        test = (
            f"{p} over {quantities} quantities; an exact posterior fails in at most {100 * self.alpha:g}% of such tests"
        )
        return f"The posterior {SENTENCES[self.verdict]}. Of {tasks:,} simulated tasks {held} ({test})."

    def __str__(self) -> str:
        return self.words
