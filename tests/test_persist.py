"""Saving and loading: bit-equal predictions, and a clear word on every broken folder."""

import json

import numpy as np
import pytest
import torch
from builders import class_tasks, classifier, perturb, real_tasks, regressor
from torch import nn

import ebmeta


def probs(model, batch):
    return ebmeta.predict(model, batch, num_draws=5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["classifier", "regressor", "mlp"])
def test_load_predicts_bit_equally(tmp_path, kind, dtype):
    if kind == "regressor":
        model, batch = regressor(dtype=dtype, beta=0.7), real_tasks()
    elif kind == "mlp":
        model = classifier(dtype=dtype, synthetic_gradient="mlp", n_way=3)
        batch = class_tasks(ways=(3, 3), shots=(1, 2), queries=(5, 6))
    else:
        model, batch = classifier(dtype=dtype, beta=0.0), class_tasks()
    folder = ebmeta.save(model, tmp_path / "deep" / "model")
    loaded = ebmeta.load(folder)
    assert loaded.beta == model.beta
    assert probs(loaded, batch).identical(probs(model, batch))
    assert not list(folder.glob(".*")), "temporary files are left"


def test_an_embedder_is_given_again(tmp_path):
    def net():
        return nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4))

    model = ebmeta.EmpiricalBayes.classifier(4, embedder=net(), freeze_embedder=True)
    perturb(model)
    ebmeta.save(model, tmp_path)
    with pytest.raises(ValueError, match="expected embedder= a Sequential, with which the model was built, got None"):
        ebmeta.load(tmp_path)
    loaded = ebmeta.load(tmp_path, embedder=net())
    batch = class_tasks(features=6)
    assert probs(loaded, batch).identical(probs(model, batch))
    assert not any(p.requires_grad for p in loaded.predictor.embedder.parameters())
    with pytest.raises(
        ValueError, match="expected predictor.embedder.0.bias of shape None, got \\(4,\\): another model"
    ):
        ebmeta.load(tmp_path, embedder=nn.Linear(6, 4))


def test_saving_over_an_older_model(tmp_path):
    ebmeta.save(classifier(features=3), tmp_path)
    newer = classifier(features=4)
    ebmeta.save(newer, tmp_path)
    assert torch.equal(ebmeta.load(tmp_path).prior.loc, newer.prior.loc)


def damaged(tmp_path):
    ebmeta.save(classifier(), tmp_path)
    return tmp_path / "config.json", tmp_path / "model.safetensors"


def test_a_newer_version_is_refused(tmp_path):
    config, _ = damaged(tmp_path)
    stored = json.loads(config.read_text())
    config.write_text(json.dumps(stored | {"format_version": 2}))
    with pytest.raises(ValueError, match="expected format version 1 or older, got 2; a newer ebmeta wrote it"):
        ebmeta.load(tmp_path)


@pytest.mark.parametrize("keep", [0, 100, 0.5])
def test_truncated_tensors_are_refused(tmp_path, keep):
    _, tensors = damaged(tmp_path)
    whole = tensors.read_bytes()
    tensors.write_bytes(whole[: int(keep * len(whole)) if keep < 1 else keep])
    with pytest.raises(ValueError, match="expected a complete safetensors file written by ebmeta"):
        ebmeta.load(tmp_path)


def test_truncated_and_foreign_configs_are_refused(tmp_path):
    config, _ = damaged(tmp_path)
    text = config.read_text()
    for content in (text[: len(text) // 2], "[]", "{}"):
        config.write_text(content)
        with pytest.raises(ValueError, match="expected the JSON of an ebmeta model"):
            ebmeta.load(tmp_path)
    stored = json.loads(text)
    stored["config"]["colour"] = "red"
    config.write_text(json.dumps(stored))
    with pytest.raises(ValueError, match="expected the arguments of a classifier, got: .*colour"):
        ebmeta.load(tmp_path)


def test_tensors_of_another_model_are_refused(tmp_path):
    damaged(tmp_path)
    ebmeta.save(classifier(features=5), tmp_path / "other")
    (tmp_path / "other" / "model.safetensors").replace(tmp_path / "model.safetensors")
    with pytest.raises(
        ValueError, match="expected initializer.log_precision of shape \\(5,\\), got \\(6,\\): another model"
    ):
        ebmeta.load(tmp_path)


def test_absent_and_unwritable_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a model folder with config.json, found none"):
        ebmeta.load(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        ebmeta.save(classifier(), tmp_path / "file" / "model")


def test_a_model_built_from_parts_cannot_be_saved(tmp_path):
    parts = classifier()
    model = ebmeta.EmpiricalBayes(
        parts.prior, parts.likelihood, parts.predictor, parts.initializer, parts.refiner, beta=1.0
    )
    with pytest.raises(ValueError, match="got one built from parts"):
        ebmeta.save(model, tmp_path)
    assert np.isfinite(probs(model, class_tasks())["predictive/kl"]).all()
