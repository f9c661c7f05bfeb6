"""Every public function, class and method that takes an argument has an entry, or a reason here why not."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

import pytest
from entries import entries
from kit import Kit

from tests.hostile.test_calls import resolve

pytestmark = pytest.mark.filterwarnings("ignore")  # of right calls that are cut short
#: Modules whose names users call; the others serve these.
MODULES = [
    "ebmeta",
    "parts.basis",
    "prediction.calibration",
    "prediction.risk_coverage",
    "prediction.conformal",
    "prediction.certificate",
    "prediction.class_jackknife",
    "prediction.class_swap",
    "prediction.conformal_intervals",
    "simulate.conjugate",
    "plots.curves",
    "app.demo",
    "diagnostics",
    "diagnostics.check",
    "diagnostics.new_classes",
    "diagnostics.predictions",
    "prediction.uniformity",
    "diagnostics.verdicts",
    "estimators",
    "prediction.scores",
    "training.evidence",
    "training.evidence_fit",
    "training.loop",
    "tasks.frames",
    "parts.gaussian",
    "tasks.groups",
    "prediction.arviz",
    "likelihood",
    "tasks.mixed",
    "model.empirical_bayes",
    "prediction.novelty",
    "prediction.shift",
    "training.objective",
    "model.storage",
    "mixed",
    "plots.groups",
    "plots.residuals",
    "plots.axes",
    "plots.scores",
    "plots.diagnostics",
    "plots.uniformity",
    "plots.posteriors",
    "prediction.trees",
    "parts.heads",
    "parts.prior",
    "reference",
    "tasks.episodes",
    "simulate.gaussian_classes",
    "simulate.linear_gaussian",
    "simulate.sines",
    "simulate.spinning_lines",
    "tasks.batch",
    "tasks.rows",
    "tasks.classes",
    "tasks.drawing",
    "tasks.source",
    "training.ensemble",
    "model.units",
]
INNER = "called by the library alone, on tensors that it has made or checked"
PART = "what users subclass or are handed; the library makes it"
REFUSES = "refuses every call: these tasks are not drawn from classes, or not of groups"
#: What has no entry, as patterns of names, and why.
LEFT = {
    "parts.basis.Basis": PART,
    "parts.basis.*.forward": INNER,
    "prediction.calibration.Interval": PART,
    "prediction.calibration.prediction_pairs": INNER,
    "app.demo.camera": "a picture's noise, drawn inside `demo.run`",
    "app.demo.summary": "the last lines of `demo.run`",
    "*.Band": PART,
    "diagnostics.Diagnosis*": "what `diagnose` returns; files are tried in tests/foundation/test_writing.py",
    "training.evidence.Evidence*": "the function that `fit_evidence` maximises, on checked groups",
    "training.evidence.log_hyperprior": INNER,
    "training.evidence.scales_of": INNER,
    "training.evidence_fit.weight_names": INNER,
    "parts.gaussian.Gaussian": PART,
    "parts.gaussian.*Gaussian.*": INNER,
    "likelihood.*.*": "called by the model on labels that `EmpiricalBayes.check` has looked at",
    "likelihood.[BCGLPS]*": PART,
    "likelihood.gaussian_softmax": INNER,
    "training.objective.Objective.*": "given what `Objective.terms` has returned, or by Pyro",
    "ebmeta.Objective.*": "given what `Objective.terms` has returned, or by Pyro",
    "training.objective.Terms*": PART,
    "training.objective.importance_bound": INNER,
    "mixed.MixedModel": PART,
    "model.storage.model_files": "names of files, for the command line",
    "model.storage.load": "that of `ebmeta` without other kinds of model",
    "model.storage.read": INNER,
    "model.storage.build": INNER,
    "model.storage.save_members": INNER,
    "prediction.scores.query_scores": INNER,
    "prediction.trees.[Mae]*": INNER,
    "parts.heads.*Head.*": INNER,
    "parts.heads.Head": PART,
    "*EmpiricalBayes.measure": INNER,
    "parts.prior.*Prior.*": INNER,
    "parts.prior.Prior": PART,
    "tasks.rows.*Rows": PART,
    "tasks.rows.Rows.*": INNER,
    "tasks.rows.[ac]*": INNER,
    "tasks.classes.ClassRows*": PART,
    "tasks.classes.members": INNER,
    "tasks.frames.FrameEncoder.numbers_of_features": "tried in tests/tasks/test_frames.py",
    "tasks.drawing.check_range": INNER,
    "tasks.drawing.[eg][xa]*": INNER,
    "plots.uniformity.Simulated.coverage": "a protocol",
    "tasks.source.TaskSampler.sample": "a protocol",
    "tasks.source.TaskSource": PART,
    "tasks.source.TaskSource.sample": "abstract",
    "*.forward": "refuses all there is",
    "*.harder": REFUSES,
    "*.disjoint": REFUSES,
    "*.Certificate": PART,
    "*.rows": REFUSES,
    "*.parts": REFUSES,
    "simulate.sines.SineTasks.*": "parts of `SineTasks.exact`",
    "simulate.spinning_lines.RingPosterior*": PART,
    "simulate.spinning_lines.SpinningLines.evidence": INNER,
}


def public() -> Iterator[tuple[str, Any]]:
    """Yield the public functions and classes, and the public methods of those classes, that take an argument."""
    for module in MODULES:
        place = importlib.import_module("ebmeta" if module == "ebmeta" else f"ebmeta.{module}")
        for name in place.__all__:
            thing = getattr(place, name)
            if inspect.isfunction(thing) or inspect.isclass(thing):
                yield f"{module}.{name}", thing
            if inspect.isclass(thing):
                for method, value in inspect.getmembers(thing, inspect.isroutine):
                    ours = getattr(value, "__module__", None) or ""
                    if not method.startswith("_") and ours.startswith("ebmeta") and callable(value):
                        yield f"{module}.{name}.{method}", value


def bare(thing: Any) -> Any:
    """Return the function itself, of whatever class it was looked up in."""
    return inspect.unwrap(getattr(thing, "__func__", thing))


def takes_something(thing: Any) -> bool:
    if inspect.isclass(thing):
        return not getattr(thing, "_is_protocol", False)
    names = list(inspect.signature(thing).parameters)
    return bool([n for n in names if n not in ("self", "cls")])


@pytest.fixture(scope="module")
def tried(tmp_path_factory) -> set[int]:
    names = entries(Kit(), tmp_path_factory.mktemp("names"))
    return {id(bare(resolve(name))) for name in names}


def test_every_public_name_has_an_entry_or_a_reason(tried):
    missing = {name for name, thing in public() if takes_something(thing) and id(bare(thing)) not in tried}
    assert sorted(name for name in missing if not any(fnmatchcase(name, pattern) for pattern in LEFT)) == []
    assert [pattern for pattern in LEFT if not any(fnmatchcase(name, pattern) for name in missing)] == [], (
        "listed in vain"
    )
