"""Training by the evidence says where it ended short of the maximum, and is silent where it got there."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pandas as pd
import pytest

import ebmeta
from ebmeta.app.cli import main
from ebmeta.training.evidence import Evidence

RNG = np.random.default_rng(0)
GROUPS = np.repeat(np.arange(60), 8)
X = RNG.normal(size=(480, 1))
W = RNG.normal(size=(60, 2)) * [0.5, 2.0] + [1.0, 3.0]
Y = X[:, 0] * W[GROUPS, 0] + W[GROUPS, 1] + 0.5 * RNG.normal(size=480)
TASKS = ebmeta.GroupSampler(X, Y, GROUPS, n_support=4)
SHORT = "the evidence of all 60 groups is below its maximum .* use ebmeta.fit_evidence"


def trained(num_iterations, learning_rate):
    model = ebmeta.EmpiricalBayes.regressor(1, num_steps=0)
    options = {"learning_rate": learning_rate, "objective": "evidence", "progress": False}
    return ebmeta.fit(model, TASKS, num_iterations, 32, **options)


def evidence(model) -> float:
    return float(Evidence(model.double(), TASKS, hyperprior=False).log_evidence().detach())


def test_a_run_says_whether_it_got_to_the_maximum() -> None:
    best = ebmeta.fit_evidence(ebmeta.EmpiricalBayes.regressor(1, num_steps=0), TASKS, boundary=False).log_evidence
    with pytest.warns(UserWarning, match=f"^fit: {SHORT}"):
        short = trained(100, 2e-3)
    assert len(short.notes) == 1
    assert best - evidence(short.model) > 100.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        long = trained(400, 2e-2)
    assert long.notes == ()
    assert best - evidence(long.model) < 1.0


def test_the_command_line_prints_it(tmp_path, capsys) -> None:
    data, result = tmp_path / "rows.csv", tmp_path / "result.json"
    pd.DataFrame({"x": X[:, 0], "y": Y, "g": GROUPS}).to_csv(data, index=False)
    train = ["train", data, "--groups", "g", "--objective", "evidence", "--num-iterations", 20, "--num-steps", 0]
    train += ["--checkpoint", tmp_path / "kept"]  # without one the evidence is taken to its maximum at once
    warnings.filterwarnings("default")  # as for users; pytest puts its own back
    assert main([*map(str, [*train, "--json", result, "--no-progress", "--output", tmp_path / "model"])]) == 0
    said = capsys.readouterr()
    assert "is below its maximum" in said.out
    assert "is below its maximum" in said.err
    assert len(json.loads(result.read_text())["notes"]) == 1
