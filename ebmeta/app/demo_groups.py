"""The last chapter of the demo: many small groups, what they have in common, and new ones with three rows each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ebmeta.estimators.regressor import FewShotRegressor
from ebmeta.foundation.checks import at_least, checked
from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.tasks.drawing import generator
from ebmeta.tasks.groups import GroupSampler
from ebmeta.training.evidence_fit import fit_evidence

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Patients", "learn_patients"]

KNOWN, DRAWN = 60, 16  # patients that are learned from; new ones in the picture
VISITS, SHOWN, LATER = 6, 3, 20  # of a known patient; known ones of a new patient; later ones
LEVEL, BETWEEN, WITHIN, SLOPE = 130.0, 10.0, 14.0, 5.0


@dataclass(frozen=True, eq=False)
class Patients:
    """New patients after three readings each.

    Args:
        known: these readings, shape `(G, 3)`.
        later: readings of 20 later visits, shape `(G, 20)`.
        truth: their true level, shape `(G,)`.
        mean: predicted level, shape `(G,)`.
        low: where 90% intervals of a reading begin, shape `(G,)`.
        high: where they end, shape `(G,)`.
    """

    known: np.ndarray
    later: np.ndarray
    truth: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def numbers(self) -> dict[str, Any]:
        """What was measured: errors of the level, and how often intervals hold a later reading."""
        held = (self.later >= self.low[:, None]) & (self.later <= self.high[:, None])
        return {
            "patients": len(self.truth),
            "error_of_own_mean": float(np.abs(self.known.mean(1) - self.truth).mean()),
            "error": float(np.abs(self.mean - self.truth).mean()),
            "coverage": float(held.mean()),
        }

    def figure(self) -> Figure:
        """Draw some new patients: three readings, their mean, the prediction with its interval, and the true level."""
        from matplotlib.figure import Figure

        order = np.argsort(self.truth[:DRAWN])
        at = np.arange(len(order))
        figure = Figure(figsize=(7.6, 3.2), layout="constrained")
        ax = figure.subplots()
        low, high = self.low[order], self.high[order]
        ax.bar(at, high - low, bottom=low, width=0.6, color="#4c72b0", alpha=0.2, label="90% of later readings")
        at_each = np.repeat(at[:, None], SHOWN, 1)
        ax.plot(at_each.ravel(), self.known[order].ravel(), "o", color="0.6", markersize=3, label="three readings")
        ax.plot(at, self.known[order].mean(1), "x", color="#c44e52", label="their mean")
        ax.plot(at, self.mean[order], "o", color="#4c72b0", markersize=6, label="prediction")
        ax.plot(at, self.truth[order], "_", color="black", markersize=15, markeredgewidth=1.6, label="true level")
        ax.set(xlabel="new patients", ylabel="blood pressure", xticks=[])
        ax.spines[["top", "right"]].set_visible(False)
        figure.legend(frameon=False, fontsize=8, loc="outside right center")
        return figure


@checked(num_patients=at_least(2))
def learn_patients(seed: int = 0, num_patients: int = 100) -> Patients:
    r"""Learn from 60 made-up patients of six readings how patients differ, and predict new ones from three each.

    $$ y = 130 + z + 5 x + \varepsilon, \qquad z \sim \mathcal N(0, 10^2), \quad \varepsilon \sim \mathcal N(0, 14^2) $$

    with $z$ of the patient and $x$ of the visit.

    Args:
        seed: seed of the patients.
        num_patients: new patients.
    """
    rng = generator(seed, 1)
    everyone = KNOWN + num_patients
    level, x = LEVEL + BETWEEN * rng.normal(size=everyone), rng.normal(size=(everyone, VISITS))
    x[KNOWN:] = 0.0
    y = level[:, None] + SLOPE * x + WITHIN * rng.normal(size=x.shape)
    patient = np.repeat(np.arange(everyone), VISITS)
    known = patient < KNOWN
    rows = GroupSampler(x.reshape(-1, 1)[known], y.ravel()[known], patient[known], n_support=SHOWN, seed=seed)
    model = fit_evidence(EmpiricalBayes.regressor(1, num_steps=0), rows, boundary=False).model
    shown = ~known & (np.tile(np.arange(VISITS), everyone) < SHOWN)
    reg = FewShotRegressor(model).fit(x.reshape(-1, 1)[shown], y.ravel()[shown], groups=patient[shown])
    new, visit = np.arange(KNOWN, everyone), np.zeros((num_patients, 1))
    low, high = reg.interval(visit, coverage=0.9, groups=new)
    mean, _ = reg.predict(visit, return_std=True, groups=new)
    truth = level[KNOWN:]
    later = truth[:, None] + WITHIN * rng.normal(size=(num_patients, LATER))
    return Patients(y[KNOWN:, :SHOWN], later, truth, mean, low, high)
