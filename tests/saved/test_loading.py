"""One reader for every kind of folder: models, ensembles and mixed models."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import ebmeta
from ebmeta.foundation.folders import checksum_of
from ebmeta.model.storage import load, load_with_encoder

GROUPS = np.repeat(np.arange(12), 4)
X = np.random.default_rng(1).normal(size=(48, 2))
Y = X @ [1.0, -0.5] + np.random.default_rng(2).normal(size=12)[GROUPS] + np.random.default_rng(3).normal(size=48)
TASKS = ebmeta.GroupSampler(X, Y, GROUPS, n_support=2, seed=0)


@pytest.fixture(scope="module", params=[True, False], ids=["new_groups", "fitted_groups"])
def ensemble(request):
    model = ebmeta.EmpiricalBayes.regressor(2, num_steps=0)
    ebmeta.fit_evidence(model, TASKS, hyperprior=True, boundary=False)
    return ebmeta.propagate(model, TASKS, num_draws=6, new_groups=request.param)


def test_an_ensemble_predicts_bit_equally(ensemble, tmp_path):
    loaded = ebmeta.load(ensemble.save(tmp_path / "deep" / "ensemble"))
    assert isinstance(loaded, ebmeta.PriorEnsemble)
    batch = TASKS.sample(5)
    assert ebmeta.predict(loaded, batch, num_draws=5).identical(ebmeta.predict(ensemble, batch, num_draws=5))
    assert loaded.names == ensemble.names
    assert loaded.new_groups == ensemble.new_groups
    assert torch.equal(loaded.values, ensemble.values)
    assert torch.equal(loaded.log_weight, ensemble.log_weight)
    again = ebmeta.FewShotRegressor(loaded).fit(X[:3], Y[:3]).predict(X[3:6], return_std=True)
    wanted = ebmeta.FewShotRegressor(ensemble).fit(X[:3], Y[:3]).predict(X[3:6], return_std=True)
    assert all((a == b).all() for a, b in zip(again, wanted, strict=True))


def test_a_reader_of_one_model_refuses_an_ensemble(ensemble, tmp_path):
    ensemble.save(tmp_path)
    for read in (load, load_with_encoder):
        with pytest.raises(ValueError, match="expected one model, got an ensemble, which ebmeta.load reads"):
            read(tmp_path)


def test_members_that_do_not_fit_are_refused(ensemble, tmp_path):
    ensemble.save(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    stored["members"]["names"] = ["prior.other"]
    stored["checksum"] = checksum_of(stored)
    (tmp_path / "config.json").write_text(json.dumps(stored))
    with pytest.raises(ValueError, match="expected the members of an ensemble, got: names: expected names of param"):
        ebmeta.load(tmp_path)


def test_each_kind_comes_back_as_itself(ensemble, tmp_path):
    rows = pd.DataFrame({"y": Y, "x": X[:, 0], "g": GROUPS})
    fit = ebmeta.mixed_model("y ~ x + (1 | g)", rows)
    ebmeta.save(ensemble.center, tmp_path / "model")
    ensemble.save(tmp_path / "model")  # replaces it
    fit.save(tmp_path / "fit")
    kinds = [type(ebmeta.load(tmp_path / name)).__name__ for name in ("model", "fit")]
    assert kinds == ["PriorEnsemble", "MixedModel"]
    ebmeta.save(ensemble.center, tmp_path / "fit")
    assert type(ebmeta.load(tmp_path / "fit")) is ebmeta.EmpiricalBayes
    fit.save(tmp_path / "model")
    assert ebmeta.load(tmp_path / "model").predict(rows).equals(fit.predict(rows))
    with pytest.raises(ValueError, match="expected no embedder for a mixed model, got Linear"):
        ebmeta.load(tmp_path / "model", embedder=nn.Linear(1, 1))
