"""Calls of every public name with one argument replaced by what does not belong there, or is equal to it.

Each has to end in an error of ebmeta's own, of one line that names the argument, or in a right value; without a
warning, a change of an argument, or a draw from a global generator.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import Any

import pytest
import scale
import torch
import xarray as xr
from entries import SLOW, entries
from judge import fresh, verdict_of
from kit import Kit
from values import Case, hostile

import ebmeta

pytestmark = pytest.mark.filterwarnings("ignore")  # the judge looks at warnings of hostile calls
#: What calls may do beside: train a model, draw as Pyro's programs do, say NaN for what is not known (a period that is
#: not measured, an empty bin, an interval from one task).
ALLOWED = {
    "EmpiricalBayes.model": ("draw",),
    "EmpiricalBayes.guide": ("draw",),
    "EpisodeSampler": ("NaN",),
    "FewShotClassifier": ("train",),
    "FewShotRegressor": ("train",),
    "Objective.differentiable_loss": ("train", "draw"),
    "Objective.loss": ("train", "draw"),
    "TaskBatch": ("NaN",),
    "TaskBatch.from_tasks": ("NaN",),
    "parts.basis.FourierBasis": ("NaN",),
    "EvidenceFit": ("NaN",),
    "prediction.calibration.brier_decomposition": ("NaN",),
    "prediction.calibration.bootstrap": ("NaN",),
    "prediction.calibration.calibration_interval": ("NaN",),
    "prediction.calibration.reliability_bins": ("NaN",),
    "prediction.class_jackknife.class_half_width": ("NaN",),
    "prediction.conformal.class_scores": ("NaN",),
    "evaluate": ("NaN",),
    "fit": ("train",),
    "parts.gaussian.DiagonalGaussian": ("NaN",),
    "parts.gaussian.FullGaussian": ("NaN",),
    "reference.Rows": ("NaN",),
    "prediction.arviz.loo": ("warn",),  # ArviZ's advice
    "prediction.arviz.psis": ("NaN",),
    "fit_evidence": ("train",),
    "prediction.trees.match_model": ("NaN",),
}


#: What holds results: what is in their arrays is the business of what made them.
RESULTS = {"EvidenceFit", "FitResult", "parts.gaussian.DiagonalGaussian", "parts.gaussian.FullGaussian"}
#: What needs no columns where the encoder has no covariates, or the frame's rows alone.
BARE = {"tasks.frames.FrameEncoder.fit", "tasks.frames.FrameEncoder.group_rows", "tasks.frames.FrameEncoder.group_x"}
KEPT = torch.Tensor | xr.Dataset


@pytest.fixture(scope="module")
def kit() -> Kit:
    return Kit()


@pytest.fixture(scope="module")
def calls(kit, tmp_path_factory) -> dict[str, Any]:
    return entries(kit, tmp_path_factory.mktemp("hostile"))


def resolve(name: str) -> Any:
    """Return what a name of `entries` stands for."""
    *path, last = name.split(".")
    place: Any = ebmeta
    for i, part in enumerate(path):
        module = ".".join(["ebmeta", *path[: i + 1]])
        is_module = (
            part in {m.name for m in pkgutil.iter_modules(place.__path__)} if hasattr(place, "__path__") else False
        )
        place = importlib.import_module(module) if is_module else getattr(place, part)
    return getattr(place, last)


def optional(name: str, argument: str) -> bool:
    parameters = inspect.signature(resolve(name)).parameters if callable(resolve(name)) else {}
    parameter = parameters.get(argument)
    return parameter is None or parameter.default is None or "None" in str(parameter.annotation)


def cases(kit: Kit, calls: dict[str, Any]) -> list[tuple[str, str, Case]]:
    """Return every hostile call there is: name, argument and value."""
    out = []
    for name, (_, arguments) in calls.items():
        for argument, value in arguments.items():
            found = hostile(kit, argument, value, optional(name, argument))
            if name == "tasks.frames.FrameEncoder":  # names of columns of a frame that it has not seen
                found = [c._replace(verdict="any") if isinstance(c.value, str) else c for c in found]
            if name == "score_batches":  # names of columns that the frame has
                found = [c._replace(verdict="any") if c.label == "a list of texts" else c for c in found]
            if name in BARE:
                found = [c._replace(verdict="any") if c.label == "no columns" else c for c in found]
            if name == "training.ensemble.temper":  # of any number, of which those that are not finite have no weight
                found = [c._replace(verdict="any") if c.label.endswith(("within", "missing")) else c for c in found]
            if name in RESULTS:
                found = [c._replace(verdict="any") if isinstance(c.value, KEPT) else c for c in found]
            out += [(name, argument, c) for c in found if name not in SLOW or c.verdict == "refuse"]
    return out


def test_a_hostile_call_is_answered_rightly_or_refused_in_one_line(kit, calls):
    chosen = scale.share(cases(kit, calls), seed=13)
    faults, right = [], {}
    for name, argument, case in chosen:
        function, arguments = calls[name]
        if name not in right:
            right[name] = None if name in SLOW else function(**{n: fresh(v) for n, v in arguments.items()})
        changed = {**arguments, argument: case.value}
        fault = verdict_of(function, changed, case.verdict, right[name], ALLOWED.get(name, ()))
        if fault is not None:
            faults.append(f"{name}({argument}={case.label}): {fault}")
    assert scale.SCALE < 1 or len(chosen) >= 4000
    assert not faults, f"{len(faults)} of {len(chosen)} calls:\n" + "\n".join(faults)
