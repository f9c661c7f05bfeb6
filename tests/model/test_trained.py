"""A model knows whether it was trained, and says so where predictions are asked of one that was not."""

from __future__ import annotations

import copy
import json
import pickle
import warnings

import numpy as np
import pyro
import pytest
import torch
from builders import class_tasks, real_tasks

import ebmeta
from ebmeta.app.cli import main
from ebmeta.diagnostics import check_posteriors, diagnose
from ebmeta.foundation.folders import checksum_of
from ebmeta.training.objective import Objective

MESSAGE = "^model: expected a trained one, got one with its initial parameters: ebmeta.fit trains it$"
BUILT = {
    "classes": lambda: ebmeta.EmpiricalBayes.classifier(4, num_steps=1, width=4, seed=3),
    "numbers": lambda: ebmeta.EmpiricalBayes.regressor(3, num_steps=1, width=4, seed=3),
}
TASKS = {"classes": class_tasks, "numbers": real_tasks}
X, NOISE = np.split(np.random.default_rng(0).normal(size=(40, 6)), 2, axis=1)
GROUPS = np.repeat(range(8), 5)
ROWS = ebmeta.GroupSampler(X, X @ [1.0, 2.0, 3.0] + GROUPS + NOISE[:, 0], GROUPS, n_support=2)
CLASSES = ebmeta.EpisodeSampler(np.hstack([X, X[:, :1] ** 2]), GROUPS, 3, 1, 2)
SAMPLERS = {"classes": CLASSES, "numbers": ROWS}


def train(model, kind):
    return ebmeta.fit(model, SAMPLERS[kind], 1, 4, progress=False).model


@pytest.mark.parametrize("kind", BUILT)
def test_whatever_trains_makes_a_model_fitted(kind) -> None:
    by_fit, by_pyro, by_hand = (BUILT[kind]() for _ in range(3))
    assert not by_fit.fitted
    assert train(by_fit, kind).fitted
    svi = pyro.infer.SVI(by_pyro.model, by_pyro.guide, pyro.optim.Adam({"lr": 1e-3}), Objective())
    svi.step(TASKS[kind]().to(torch.float32) if kind == "classes" else TASKS[kind]())
    assert by_pyro.fitted
    by_hand.prior.loc.data[0] += 1e-3
    assert by_hand.fitted


@pytest.mark.parametrize("basis", ["spline", "fourier", "random"])
def test_a_basis_that_has_measured_nothing_is_not_fitted(basis) -> None:
    config = {"name": basis, "num_inputs": 3}
    model = ebmeta.EmpiricalBayes.regressor(3, num_steps=1, basis=config)
    assert not model.fitted
    assert train(model, "numbers").fitted


def test_an_evidence_fit_and_its_ensemble_are_fitted() -> None:
    model = BUILT["numbers"]()
    ebmeta.fit_evidence(model, ROWS, hyperprior=True)
    ensemble = ebmeta.propagate(model, ROWS, num_draws=4)
    assert model.fitted
    assert ensemble.fitted
    assert ensemble.members[0].fitted


@pytest.mark.parametrize("kind", BUILT)
def test_copies_files_and_types_keep_it(kind, tmp_path) -> None:
    for model in (BUILT[kind](), train(BUILT[kind](), kind)):
        again = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), copy.deepcopy(model).double()]
        ebmeta.save(model, tmp_path / "model")
        again.append(ebmeta.load(tmp_path / "model"))
        assert [other.fitted for other in again] == [model.fitted] * 4
    again[-1].prior.loc.data += 1.0
    assert again[-1].fitted


def test_a_loaded_untrained_model_is_fitted_once_it_is_trained(tmp_path) -> None:
    ebmeta.save(BUILT["numbers"](), tmp_path / "model")
    model = ebmeta.load(tmp_path / "model")
    assert not model.fitted
    assert train(model, "numbers").fitted


def test_a_folder_from_before_counts_as_fitted_and_another_word_is_refused(tmp_path) -> None:
    folder = ebmeta.save(BUILT["numbers"](), tmp_path / "model")

    def put(change):
        stored = json.loads((folder / "config.json").read_text())
        change(stored)
        stored["checksum"] = checksum_of(stored)
        (folder / "config.json").write_text(json.dumps(stored))

    put(lambda stored: stored.pop("fitted"))
    assert ebmeta.load(folder).fitted
    put(lambda stored: stored.update(fitted="no"))
    with pytest.raises(ValueError, match="expected true or false for fitted, got 'no'"):
        ebmeta.load(folder)


def sets(model, kind):
    return ebmeta.ConformalSets(model).calibrate(TASKS[kind]())


def novelty(model, kind):
    return ebmeta.Novelty(model).fit(SAMPLERS[kind], 12)


def face(model, kind):
    x, y = X[:6, [0, 1, 2, 0][: 4 if kind == "classes" else 3]], [0, 1, 2, 0, 1, 2]
    made = ebmeta.FewShotClassifier if kind == "classes" else ebmeta.FewShotRegressor
    return made(model).fit(x, y).predict(x)


ASK = {
    "predict": lambda model, kind: ebmeta.predict(model, TASKS[kind](), num_draws=0),
    "evaluate": lambda model, kind: ebmeta.evaluate(model, TASKS[kind](), num_bootstrap=0),
    "check_posteriors": lambda model, kind: check_posteriors(model, TASKS[kind](), num_draws=30),
    "diagnose": lambda model, kind: diagnose(model, SAMPLERS[kind], 12, progress=False),
    "face": face,
    "sets": sets,
    "novelty": novelty,
}


@pytest.mark.parametrize(("kind", "ask"), [(k, a) for k in BUILT for a in ASK if (k, a) != ("numbers", "sets")])
def test_predictions_of_an_untrained_model_say_so_and_those_of_a_trained_one_do_not(kind, ask) -> None:
    with pytest.warns(UserWarning, match=MESSAGE):
        ASK[ask](BUILT[kind](), kind)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="tasks: training or validation has used")
        warnings.filterwarnings("error", message="model: expected a trained one")
        ASK[ask](train(BUILT[kind](), kind), kind)


def test_the_command_line_says_it_once(tmp_path, capsys) -> None:
    ebmeta.save(BUILT["classes"](), tmp_path / "model")
    np.savez(tmp_path / "data.npz", X=CLASSES.X, y=GROUPS)
    where = [str(tmp_path / "model"), str(tmp_path / "data.npz")]
    warnings.filterwarnings("default")  # as for users; pytest puts its own back
    assert main(["evaluate", *where, "--n-way", "3", "--n-shot", "1", "--n-query", "2", "--num-tasks", "130"]) == 0
    assert capsys.readouterr().err.count("model: expected a trained one") == 1
