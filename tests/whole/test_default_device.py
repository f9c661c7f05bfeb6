"""What a caller has set of torch does not reach the answers: a default device, which here cannot hold a number."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from builders import class_tasks, classifier, regressor

import ebmeta
from tests.mixed.worlds import frame

X = np.random.default_rng(0).normal(size=(30, 6)) + np.repeat(4 * np.eye(6)[:3], 10, 0)
Y = np.repeat(["a", "b", "c"], 10)
NUMBERS = np.random.default_rng(1).normal(size=(30, 2))
GROUPS = ebmeta.GroupSampler(NUMBERS, X[:, 0], Y, n_support=2)
CLASSES = ebmeta.EpisodeSampler(X, Y, n_way=2, n_shot=2, n_query=3)
OF_CLASSES, OF_NUMBERS = ebmeta.EmpiricalBayes.classifier(6), regressor(2)
KNOWN = ebmeta.FewShotRegressor(OF_NUMBERS)
DATA, BATCH, MODEL = frame(num_groups=10), class_tasks(), classifier()


def trained(model, tasks):
    model = copy.deepcopy(model)
    ebmeta.fit(model, tasks, 2, 4, progress=False)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def saved(folder):
    ebmeta.save(OF_NUMBERS, folder / "model", overwrite=True)
    return ebmeta.load(folder / "model").prior.loc.tolist()


ASKED = {
    "classes": lambda _: ebmeta.FewShotClassifier().fit(X[::5], Y[::5]).predict_proba(X),
    "sets": lambda _: ebmeta.FewShotClassifier().fit(X[::2], Y[::2]).predict_sets(X, 0.5),
    "suggestions": lambda _: ebmeta.FewShotClassifier().fit(X[::5], Y[::5]).suggest(X, 2),
    "numbers": lambda _: KNOWN.fit(NUMBERS, X[:, 0], groups=Y).summaries(NUMBERS, [0.1], groups=Y),
    "samples": lambda _: KNOWN.fit(NUMBERS, X[:, 0]).sample(NUMBERS, 3),
    "mixed": lambda _: ebmeta.mixed_model("y ~ x + (1 | g)", DATA).predict(DATA),
    "predict": lambda _: ebmeta.predict(MODEL, BATCH)["predictive/probs"],
    "evaluate": lambda _: ebmeta.evaluate(OF_NUMBERS, GROUPS, num_tasks=3).to_array(),
    "fit": lambda _: trained(OF_CLASSES, CLASSES),
    "fit_evidence": lambda _: ebmeta.fit_evidence(copy.deepcopy(OF_NUMBERS), GROUPS).log_evidence,
    "load": saved,
}


@pytest.mark.filterwarnings("ignore:model. expected a trained one")
@pytest.mark.parametrize("name", ASKED)
def test_answers_are_those_without_a_default_device(name, tmp_path):
    wanted = ASKED[name](tmp_path)
    with torch.device("meta"):
        found = ASKED[name](tmp_path)
    np.testing.assert_array_equal(np.asarray(found), np.asarray(wanted))
