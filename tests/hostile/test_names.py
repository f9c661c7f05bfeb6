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
from test_calls import resolve

pytestmark = pytest.mark.filterwarnings("ignore")  # of right calls that are cut short
#: Modules whose names users call; the others serve these.
MODULES = [
    "ebmeta",
    "basis",
    "calibration",
    "conformal",
    "conjugate",
    "curve_plots",
    "demo",
    "diagnostics",
    "diagnostics.check",
    "diagnostics.predictions",
    "diagnostics.uniformity",
    "diagnostics.verdicts",
    "estimators",
    "evaluate",
    "evidence",
    "fit",
    "frames",
    "gaussian",
    "group_sampling",
    "interop",
    "likelihood",
    "mixed_sampling",
    "model",
    "novelty",
    "objective",
    "persist",
    "plots",
    "posterior_plots",
    "predict",
    "predictor",
    "prior",
    "reference",
    "sampling",
    "simulate",
    "sines",
    "spinning_lines",
    "tasks",
    "uncertainty",
    "units",
]
INNER = "called by the library alone, on tensors that it has made or checked"
PART = "what users subclass or are handed; the library makes it"
#: What has no entry, as patterns of names, and why.
LEFT = {
    "basis.Basis": PART,
    "basis.*.forward": INNER,
    "calibration.Interval": PART,
    "demo.camera": "a picture's noise, drawn inside `demo.run`",
    "demo.summary": "the last lines of `demo.run`",
    "diagnostics.*Band": PART,
    "diagnostics.Diagnosis*": "what `diagnose` returns; files that it writes over are tried in tests/test_writing.py",
    "*PriorEnsemble.p*": "refuses every call: an ensemble has no one posterior or prior",
    "evidence.Evidence*": "the function that `fit_evidence` maximises, on checked groups",
    "evidence.log_hyperprior": INNER,
    "gaussian.Gaussian": PART,
    "gaussian.*Gaussian.*": INNER,
    "likelihood.*.*": "called by the model on labels that `EmpiricalBayes.check` has looked at",
    "likelihood.[BCGLPS]*": PART,
    "likelihood.gaussian_softmax": INNER,
    "objective.Objective.*": "given what `Objective.terms` has returned, or by Pyro",
    "ebmeta.Objective.*": "given what `Objective.terms` has returned, or by Pyro",
    "objective.Terms": PART,
    "objective.importance_bound": INNER,
    "persist.model_files": "names of files, for the command line",
    "predict.[Mae]*": INNER,
    "predictor.LinearPredictor.*": INNER,
    "prior.*Prior.*": INNER,
    "prior.Prior": PART,
    "sampling.RowSampler": PART,
    "sampling.TaskSampler.sample": "a protocol",
    "sampling.[egn]*": INNER,
    "sines.SineTasks.*": "parts of `SineTasks.exact`",
    "spinning_lines.RingPosterior*": PART,
    "spinning_lines.SpinningLines.evidence": INNER,
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
                    if not method.startswith("_") and ours.startswith("ebmeta"):
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
