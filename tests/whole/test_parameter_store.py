"""Pyro's parameter store: names that any process gives a model, values that come back from a file."""

from __future__ import annotations

import copy
import gc
import subprocess
import sys

import pyro
import pytest
import torch
from builders import real_tasks
from pyro.infer import SVI

from ebmeta import EmpiricalBayes, Objective, TaskBatch


def batch() -> TaskBatch:
    return real_tasks((4,) * 6, (6,) * 6, features=4, dtype=torch.float32)


def train(model: EmpiricalBayes, steps: int = 3) -> EmpiricalBayes:
    trainer = SVI(model.model, model.guide, pyro.optim.Adam({"lr": 0.05}), Objective())
    for _ in range(steps):
        trainer.step(batch())
    return model


def values(model: EmpiricalBayes) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


SAVE = """
import sys
sys.path[:0] = [{root!r}, {root!r} + "/tests"]
import pyro, torch
from ebmeta import EmpiricalBayes
from tests.whole.test_parameter_store import train, values
EmpiricalBayes.regressor(2), EmpiricalBayes.classifier(3)  # others that were made before
model = train(EmpiricalBayes.regressor(4))
pyro.get_param_store().save({store!r})
torch.save(values(model), {values!r})
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory, pytestconfig) -> tuple[str, torch.Tensor]:
    """A store that another process trained and saved, and the parameters there."""
    folder = tmp_path_factory.mktemp("store")
    names = {"store": str(folder / "store.pt"), "values": str(folder / "values.pt")}
    code = SAVE.format(root=str(pytestconfig.rootpath), **names)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return names["store"], torch.load(names["values"])


@pytest.mark.parametrize("others", ["none", "made", "trained", "trained and gone"])
def test_a_store_restores_the_model_in_another_process(saved, others):
    path, expected = saved
    kept = [EmpiricalBayes.regressor(4), EmpiricalBayes.classifier(5)] if others != "none" else []
    if others.startswith("trained"):
        train(kept[0])
    before = [values(model) for model in kept]
    if others == "trained and gone":
        kept = before = []
        gc.collect()
    pyro.get_param_store().load(path)
    model = EmpiricalBayes.regressor(4)
    assert not torch.equal(values(model), expected)
    model.guide(batch())
    assert torch.equal(values(model), expected)
    assert all(torch.equal(values(m), old) for m, old in zip(kept, before, strict=True))
    assert "ebmeta.prior.loc" in pyro.get_param_store()
    train(model)
    assert not torch.equal(values(model), expected)  # trains on from there
    for m, old in zip(kept[:1], before, strict=False):
        assert torch.equal(values(m), old)
        train(m)  # and others train beside it
        assert not torch.equal(values(m), old)


def test_a_store_of_a_model_of_another_form_is_refused(saved):
    for model in (EmpiricalBayes.regressor(3), EmpiricalBayes.regressor(4, "poisson"), EmpiricalBayes.classifier(4)):
        with pyro.get_param_store().scope():
            pyro.get_param_store().load(saved[0])
            before = values(model)
            with pytest.raises(ValueError, match=r"parameter store: expected 'ebmeta\..*a model of the same form"):
                model.guide(batch())
            assert torch.equal(values(model), before)


def test_two_models_come_back_each_to_itself(tmp_path):
    first, second = train(EmpiricalBayes.regressor(4)), train(EmpiricalBayes.regressor(4, seed=1))
    then = values(first), values(second)
    pyro.get_param_store().save(str(tmp_path / "store.pt"))
    train(first), train(second)
    assert not torch.equal(values(second), then[1])
    pyro.get_param_store().load(str(tmp_path / "store.pt"))
    for model, old in ((second, then[1]), (first, then[0])):
        model.guide(batch())
        assert torch.equal(values(model), old)


def test_a_model_starts_from_itself_where_another_has_gone():
    names = set()
    for seed in range(3):
        model = EmpiricalBayes.regressor(4, seed=seed)
        before = values(model)
        model.guide(batch())
        assert torch.equal(values(model), before)
        train(model)
        names |= set(pyro.get_param_store())
        del model
        gc.collect()
    assert names == {f"ebmeta.{name}" for name, _ in EmpiricalBayes.regressor(4).named_parameters()}
    train(EmpiricalBayes.regressor(4, "student_t"), 1)
    assert "ebmeta.likelihood.log_freedom" in pyro.get_param_store()


def test_names_stay_while_a_model_trains():
    first, second = train(EmpiricalBayes.regressor(4)), train(EmpiricalBayes.regressor(4))
    twin = copy.deepcopy(second)
    names = {pyro.get_param_store().param_name(p) for p in second.parameters()}
    assert all(name.startswith("ebmeta2.") for name in names)
    del first
    gc.collect()
    train(second)
    assert {pyro.get_param_store().param_name(p) for p in second.parameters()} == names
    train(twin)
    assert pyro.get_param_store().param_name(twin.prior.loc) == "ebmeta.prior.loc"
