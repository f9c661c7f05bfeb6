"""Errors of names that are elsewhere."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest

import ebmeta
from ebmeta.foundation.whereabouts import ElsewhereError, whereabouts

ELSEWHERE = {
    "suggest": "a method of ebmeta.FewShotClassifier",
    "predict_sets": "a method of ebmeta.FewShotClassifier",
    "interval": "a method of ebmeta.FewShotRegressor",
    "outliers": "an argument of ebmeta.FewShotClassifier",
    "pool": "an argument of ebmeta.FewShotClassifier.fit",
    "classify": "the command `ebmeta classify`; it is ebmeta.FewShotClassifier here",
    "train": "the command `ebmeta train`; it is ebmeta.fit here",
    "demo": "the command `ebmeta demo`",
    "diagnose": "the command `ebmeta diagnose`; ebmeta.diagnostics.diagnose",
    "fixed_effects": "an attribute of ebmeta.mixed.MixedModel",
    "Poisson": "ebmeta.likelihood.Poisson",
    "lmer": "it is ebmeta.mixed_model here",
    "sugest": "did you mean 'suggest': a method of ebmeta.FewShotClassifier?",
    "FewShotclassifier": "did you mean 'FewShotClassifier': ebmeta.FewShotClassifier?",
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_the_package_says_where_a_name_is(name):
    with pytest.raises(AttributeError) as told:
        getattr(ebmeta, name)
    assert str(told.value) == f"module 'ebmeta' has no attribute {name!r} ({ELSEWHERE[name]})"


def test_what_is_nowhere_is_refused_as_ever():
    with pytest.raises(AttributeError) as told:
        ebmeta.zebra  # noqa: B018
    assert str(told.value) == "module 'ebmeta' has no attribute 'zebra'"
    assert whereabouts("__wrapped__") == ""


def test_models_and_estimators_say_it_too():
    model = ebmeta.EmpiricalBayes.classifier(num_features=2)
    clf = ebmeta.FewShotClassifier()
    with pytest.raises(AttributeError, match=r"no attribute 'evaluate' \(.*ebmeta\.evaluate\)"):
        model.evaluate  # noqa: B018
    with pytest.raises(AttributeError, match=r"no attribute 'save' \(ebmeta\.save; "):
        clf.save  # noqa: B018
    with pytest.raises(AttributeError, match=r"'FewShotRegressor' object has no attribute 'suggest' \(a method of"):
        ebmeta.FewShotRegressor().suggest  # noqa: B018
    assert not hasattr(clf, "decision_function")  # which scikit-learn looks for


def test_an_error_survives_another_process():
    error = ElsewhereError("no 'suggest'", "suggest")
    assert str(pickle.loads(pickle.dumps(error))) == "no 'suggest' (a method of ebmeta.FewShotClassifier)"


def test_a_look_up_loads_nothing():
    code = (
        "import sys, ebmeta; print(hasattr(ebmeta, 'suggest'), hasattr(ebmeta, 'cat')); print('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "False", "False"]
