"""The owner module: how it is built, what it refuses, and what it leaves alone."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from builders import class_tasks, classifier, close, real_tasks, regressor

from ebmeta import EmpiricalBayes, predict

IMPORT = """
import logging, random, warnings
import numpy as np, torch, pyro

def state():
    return [
        torch.get_default_dtype(), torch.get_num_threads(), torch.get_num_interop_threads(), torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision(),
        torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist(),
        torch.distributions.Distribution._validate_args, len(pyro.get_param_store()),
        pyro.settings.get(), logging.root.level, len(logging.root.handlers), len(warnings.filters),
    ]

import sklearn.utils.multiclass  # imports of its own add filters of warnings
before = state()
import ebmeta
after = state()
changed = [i for i, (a, b) in enumerate(zip(before, after)) if a != b]
assert not changed, changed
"""


def test_importing_changes_no_global_state():
    run = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


@pytest.mark.parametrize("build", [EmpiricalBayes.classifier, EmpiricalBayes.regressor])
def test_building_leaves_the_global_generator_alone(build, rng_untouched):
    first, second, other = build(4, seed=1), build(4, seed=1), build(4, seed=2)
    pairs = list(zip(first.state_dict().values(), second.state_dict().values(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_features": -1}, r"num_features: expected at least [01], got -1"),
        ({"num_steps": -1}, "num_steps: expected at least 0, got -1"),
        ({"beta": -0.1}, "beta: expected a finite number of at least 0, got -0.1"),
        ({"beta": float("inf")}, "beta: expected a finite number of at least 0, got inf"),
        ({"beta": float("nan")}, "beta: expected a finite number of at least 0, got nan"),
    ],
)
@pytest.mark.parametrize("build", [EmpiricalBayes.classifier, EmpiricalBayes.regressor])
def test_bad_settings_are_refused(build, kwargs, message):
    with pytest.raises(ValueError, match=message):
        build(**{"num_features": 3} | kwargs)


def test_unknown_parts_are_refused():
    with pytest.raises(
        ValueError, match="synthetic_gradient: expected 'joint', 'mixture', 'residual' or 'mlp', got 'none'"
    ):
        EmpiricalBayes.classifier(3, synthetic_gradient="none")
    with pytest.raises(ValueError, match=r"n_way: expected the number of classes .*, got None"):
        EmpiricalBayes.classifier(3, synthetic_gradient="mlp")
    with pytest.raises(ValueError, match=r"likelihood: expected one of .'normal', .*, got 'categorical'"):
        EmpiricalBayes.regressor(3, "categorical")


def test_tasks_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="support_y: expected integer class labels for a categorical likelihood"):
        classifier().posterior(real_tasks(features=4))
    with pytest.raises(ValueError, match="support_y: expected real-valued labels for a normal likelihood"):
        regressor(4).posterior(class_tasks())
    with pytest.raises(ValueError, match=r"x: expected 3 features per input, got shape \(4,\)"):
        classifier(3).posterior(class_tasks(features=4))
    with pytest.raises(ValueError, match="observe: expected 'query', 'support' or 'both' or None, got 'all'"):
        classifier().model(class_tasks(), observe="all")


def test_the_program_and_its_owner_share_their_parameters():
    model = classifier()
    for program in (model.model, model.guide):
        assert {id(p) for p in program.parameters()} == {id(p) for p in model.parameters()}


@pytest.mark.parametrize("kind", ["joint", "mixture"])
def test_neither_torch_s_default_type_nor_its_autocast_changes_an_answer(kind):
    model = classifier(dtype=torch.float32, synthetic_gradient=kind)
    expected = predict(model, class_tasks(), num_draws=2, seed=0)
    torch.set_default_dtype(torch.float64)
    try:
        got = predict(model, class_tasks(), num_draws=2, seed=0)
    finally:
        torch.set_default_dtype(torch.float32)
    assert got.equals(expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert predict(model, class_tasks(), num_draws=2, seed=0).equals(expected)


def test_loading_a_state_restores_every_prediction():
    model, other, batch = regressor(seed=1), regressor(seed=2), real_tasks()
    assert not torch.equal(model.posterior(batch)[-1].loc, other.posterior(batch)[-1].loc)
    other.load_state_dict(model.state_dict())
    for a, b in zip(model.posterior(batch), other.posterior(batch), strict=True):
        close(a.loc, b.loc, 0.0)
        close(a.precision, b.precision, 0.0)
