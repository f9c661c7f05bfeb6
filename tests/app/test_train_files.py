"""Training on files: the model that fits the rows, and what a run is said to have come to."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from builders import classifier

import ebmeta
from ebmeta.app.train_files import at_maximum, model_for, outcome, varying

RNG = np.random.default_rng(0)
X, CODE = RNG.normal(size=(24, 3)), np.repeat(np.arange(4), 6)
CLASSES = ebmeta.EpisodeSampler(X, CODE, 2, 1, 2)
GROUPS = ebmeta.GroupSampler(X, X[:, 0], CODE, n_support=2)


def test_the_model_is_that_of_the_rows():
    assert model_for(Path("a"), CLASSES, None, 0, {"num_steps": 2, "beta": None}).num_steps == 2
    model = model_for(Path("a"), CLASSES, None, 0, {})
    assert (model.likelihood.name, model.predictor.num_features) == ("categorical", 3)
    assert model.beta == ebmeta.EmpiricalBayes.classifier(3).beta
    assert model_for(Path("a"), GROUPS, None, 0, {}).likelihood.name == "normal"
    assert model_for(Path("a"), GROUPS, "student_t", 0, {"num_steps": 0}).likelihood.name == "student_t"
    grades = ebmeta.GroupSampler(X, np.tile(np.arange(6.0), 4), CODE, n_support=2)
    assert model_for(Path("a"), grades, "ordinal", 0, {}).likelihood.num_labels == 6
    images = ebmeta.EpisodeSampler(X.reshape(24, 3, 1), CODE, 2, 1, 2)
    with pytest.raises(ValueError, match=r"a.npz: expected one feature vector per row, got rows of shape \(3, 1\)"):
        model_for(Path("a.npz"), images, None, 0, {})


def test_columns_whose_weights_vary_are_named():
    rows = pd.DataFrame(X, columns=["a", "b", "c"]).assign(kind=np.tile(["u", "v", "w"], 8), g=CODE, y=X[:, 0])
    tasks = ebmeta.GroupSampler.from_frame(rows, y="y", groups="g", n_support=2)
    wanted = {None: None, "": [], "b": [1], "kind, a": [0, 3, 4]}
    for columns, places in wanted.items():
        assert varying(Path("a.csv"), tasks, columns) == places
        model = model_for(Path("a.csv"), tasks, None, 0, {"num_steps": 0, "random": places})
        assert list(model.prior.varying) == (list(range(6)) if places is None else [*places, 5])
    refusals = {
        "--random: expected some of the features, a, b, c, kind, got 'd'": (tasks, "a,d"),
        "--random: expected --groups beside it, got 'a' for classes": (CLASSES, "a"),
        "a.csv: expected a file of named columns, .csv or .parquet, for --random": (GROUPS, "a"),
    }
    for message, (source, columns) in refusals.items():
        with pytest.raises(ValueError) as error:
            varying(Path("a.csv"), source, columns)
        assert str(error.value) == message


def run(**validation) -> ebmeta.FitResult:
    nll = np.stack([np.linspace(3, 1, 100), np.linspace(2, 0, 100)], 1)
    history = xr.Dataset({"nll": (("iteration", "step"), nll), **validation})
    return ebmeta.FitResult(classifier(), history, 60, True, 12.345, ("the evidence is below its maximum",))


def test_a_run_without_validation_is_told_by_its_last_fifty_iterations():
    result, line = outcome(run(), Path("out"))
    last = [float(np.linspace(3, 1, 100)[-50:].mean()), float(np.linspace(2, 0, 100)[-50:].mean())]
    assert result["training_nll"] == pytest.approx(last, abs=1e-5)
    assert (result["iterations"], result["best_iteration"], result["stopped_early"]) == (100, 60, True)
    assert result["seconds"] == pytest.approx(12.345, abs=0.006)
    assert line == (
        f"out: training NLL {last[0]:.3f} -> {last[1]:.3f} over refinement (nats per query), ended after "
        "60 iterations, 12 s; the evidence is below its maximum"
    )


def test_a_run_with_validation_is_told_by_its_best():
    dims = ("validation_iteration", "step")
    score = xr.DataArray([[1.0, 0.9], [0.8, 0.7]], dims=dims, coords={"validation_iteration": [30, 60]})
    result, line = outcome(run(validation_nll=score), Path("out"))
    assert result["validation_nll"] == [0.8, 0.7]
    assert line.startswith("out: validation NLL 0.800 -> 0.700 over refinement (nats per query), best after 60 iterat")


def test_a_model_of_groups_ends_at_the_maximum():
    label = X[:, 0] + np.array([0.0, 2.0, 4.0, 6.0])[CODE] + RNG.normal(size=24)
    model, tasks = ebmeta.EmpiricalBayes.regressor(3, num_steps=0), ebmeta.GroupSampler(X, label, CODE, n_support=2)
    result, line = at_maximum(model, tasks, 2000, 0, Path("out"))
    again = ebmeta.fit_evidence(ebmeta.EmpiricalBayes.regressor(3, num_steps=0), tasks, boundary=False)
    assert result == {
        "model": "out",
        "log_evidence": round(again.log_evidence, 6),
        "converged": again.converged,
        "notes": list(again.notes),
    }
    assert line.startswith(f"out: log evidence {again.log_evidence:.3f} of 4 groups, at the maximum")
