"""Saving and loading: bit-equal predictions, and a clear word on every broken folder."""

import json
import os
import threading
import tracemalloc
from dataclasses import asdict

import numpy as np
import pytest
import torch
from builders import class_tasks, classifier, perturb, real_tasks, regressor
from safetensors.torch import save as to_bytes
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
    ebmeta.save(classifier(), tmp_path / "without")
    with pytest.raises(ValueError, match="expected no embedder, got Sequential$"):
        ebmeta.load(tmp_path / "without", embedder=net())
    loaded = ebmeta.load(tmp_path, embedder=net())
    batch = class_tasks(features=6)
    assert probs(loaded, batch).identical(probs(model, batch))
    assert not any(p.requires_grad for p in loaded.predictor.embedder.parameters())
    with pytest.raises(
        ValueError, match="expected predictor.embedder.0.bias of shape None, got \\(4,\\): another model"
    ):
        ebmeta.load(tmp_path, embedder=nn.Linear(6, 4))


class Rounded(nn.Module):
    """A network with numbers of a type of its own."""

    def __init__(self, dtype):
        super().__init__()
        self.net, self.norm = nn.Linear(6, 4), nn.BatchNorm1d(4)
        self.to(dtype)

    def forward(self, x):
        return self.norm(self.net(x.to(self.net.weight.dtype))).to(x.dtype)


@pytest.mark.parametrize("own", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_embedder_keeps_its_type_of_numbers_and_the_model_its_own(tmp_path, dtype, own):
    """A model of 64 bits around an embedder of 32 was read in 32."""
    model = ebmeta.EmpiricalBayes.classifier(4, embedder=Rounded(torch.float32), freeze_embedder=True).to(dtype)
    perturb(model)
    model.predictor.embedder.to(own)
    loaded = ebmeta.load(ebmeta.save(model, tmp_path), Rounded(torch.float32))
    assert {p.dtype for p in loaded.predictor.embedder.parameters()} == {own}
    assert loaded.prior.loc.dtype == dtype
    assert torch.equal(loaded.prior.loc, model.prior.loc)
    batch = class_tasks(features=6)
    assert probs(loaded, batch).identical(probs(model, batch))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_numbers_of_16_bits_are_neither_written_nor_read(tmp_path, dtype):
    """They were read in 32 bits, rounded, without a word."""
    model = classifier().to(dtype)
    with pytest.raises(ValueError, match=f"save: expected parameters all of 32 or all of 64 bits, got {dtype}; model"):
        ebmeta.save(model, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    stored_version_1(tmp_path, model)
    with pytest.raises(ValueError, match=f"expected parameters all of 32 or all of 64 bits, got {dtype}"):
        ebmeta.load(tmp_path)
    model = classifier()
    model.prior.to(torch.float32)
    model.refiner.to(torch.float64)
    with pytest.raises(
        ValueError, match=r"64 bits, got torch.float32 \(prior.loc\) and torch.float64 \(.*\); model.float\("
    ):
        ebmeta.save(model, tmp_path / "model")


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
    config.write_text(json.dumps(stored | {"format_version": 3}))
    with pytest.raises(ValueError, match="expected format version 2 or older, got 3; a newer ebmeta wrote it"):
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


class Other(ebmeta.refine.SyntheticGradient):
    def forward(self, state):
        return state.loc.new_zeros(state.loc.shape)


def test_a_model_with_a_part_of_another_class_cannot_be_saved(tmp_path):
    """It was saved, and the folder then refused as that of another model."""
    model = ebmeta.EmpiricalBayes.classifier(4, synthetic_gradient="residual")
    model.refiner.synthetic_gradient = Other()
    said = r"the ClassSyntheticGradient that a classifier has as refiner\.synthetic_gradient, got Other; torch\.save"
    with pytest.raises(ValueError, match=said):
        ebmeta.save(model, tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("part", "name", "value", "said"),
    [
        ("refiner", "num_steps", 1, "refiner.num_steps to be 2, got 1"),
        ("initializer", "num_steps", 4, "initializer.num_steps to be 16, got 4"),
        ("prior", "varying", (1, 2), r"prior.varying to be \(0, 2\), got \(1, 2\)"),
        ("predictor", "constant", 2.0, "predictor.constant to be 1.0, got 2.0"),
        ("likelihood", "known", True, "likelihood.known to be False, got True"),
        ("likelihood", "conjugate", False, "likelihood.conjugate to be True, got False"),
        ("refiner", "step", 1.0, "refiner.step to be a method, got 1.0"),
    ],
)
def test_a_model_with_a_part_of_other_settings_cannot_be_saved(tmp_path, part, name, value, said):
    """It was saved as its recipe says, and the loaded model was another one, without a word."""
    model = ebmeta.EmpiricalBayes.regressor(2, num_steps=2, random=[0])
    setattr(getattr(model, part), name, value)
    with pytest.raises(ValueError, match=f"^save: expected {said}; torch.save"):
        ebmeta.save(model, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_part_of_the_same_settings_may_be_replaced_and_noted_on(tmp_path):
    model = ebmeta.EmpiricalBayes.regressor(2, num_steps=2, random=[0])
    model.initializer = type(model.initializer)(16)
    model.prior.note = "of the second run"
    ebmeta.load(ebmeta.save(model, tmp_path))


def test_a_model_built_from_parts_cannot_be_saved(tmp_path):
    parts = classifier()
    model = ebmeta.EmpiricalBayes(
        parts.prior, parts.likelihood, parts.predictor, parts.initializer, parts.refiner, beta=1.0
    )
    with pytest.raises(ValueError, match="got one built from parts"):
        ebmeta.save(model, tmp_path)
    assert np.isfinite(probs(model, class_tasks())["predictive/kl"]).all()


def stored_version_1(folder, model):
    """Write a folder as the first format had it."""
    folder.mkdir(exist_ok=True)
    arguments = {"kind": model.recipe.kind, "beta": model.beta, **asdict(model.recipe)}
    config = {"format_version": 1, "config": arguments, "embedder": None, "encoder": None}
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    header = {"header": json.dumps({"format_version": 1}, indent=2)}
    (folder / "model.safetensors").write_bytes(to_bytes(model.state_dict(), metadata=header))


def test_the_first_format_is_read_and_replaced(tmp_path):
    model, batch = classifier(), class_tasks()
    stored_version_1(tmp_path, model)
    assert probs(ebmeta.load(tmp_path), batch).identical(probs(model, batch))
    newer = classifier(seed=1)
    ebmeta.save(newer, tmp_path)
    assert probs(ebmeta.load(tmp_path), batch).identical(probs(newer, batch))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_features": "3"}, "config.json: expected num_features of type int, got '3'"),
        ({"num_features": True}, "expected num_features of type int, got True"),
        ({"num_features": 3.0}, "expected num_features of type int, got 3.0"),
        ({"num_features": 10**30}, "expected num_features of type int, got 1000"),
        ({"num_features": -1}, "config.json: expected the arguments of a classifier, got: .*-1"),
        ({"num_features": 10**9}, r"expected initializer.log_precision of shape \(1000000001,\), got"),
        ({"num_features": 10**12}, "expected"),
        ({"profile": 10**9}, "expected .*: another model"),
        ({"width": 10**9}, "expected (.*1000000000.*: another model|the arguments of a classifier)"),
        ({"beta": float("nan")}, "config.json: expected beta of type float, got nan"),
        ({"beta": -1}, "config.json: .*beta: expected a finite number .*, got -1"),
        ({"widths": "wide"}, "expected widths of type .*'trained', 'measured'.*, got 'wide'"),
        ({"n_way": [3]}, r"expected n_way of type int \| None, got \[3\]"),
        ({"embedder": None}, "expected the arguments of a classifier, got: 'embedder'"),
        ({"kind": ["classifier"]}, r"expected kind 'classifier', 'regressor' or 'general', got \['classifier'\]"),
        ({"kind": "double"}, "expected kind 'classifier', 'regressor' or 'general', got 'double'"),
        (None, "config.json: expected kind 'classifier', 'regressor' or 'general', got None"),
    ],
)
def test_arguments_of_another_type_or_size_are_refused_before_anything_is_built(tmp_path, change, message):
    stored_version_1(tmp_path, classifier())
    path = tmp_path / "config.json"
    stored = json.loads(path.read_text())
    stored["config"] = None if change is None else stored["config"] | change
    path.write_text(json.dumps(stored))
    tracemalloc.start()
    with pytest.raises(ValueError, match=message) as caught:
        ebmeta.load(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert peak < 50e6


def test_what_was_changed_is_refused(tmp_path):
    config, tensors = damaged(tmp_path)
    text, whole = config.read_text(), tensors.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    cases = {
        "a bit": (text, whole[:-5] + bytes([whole[-5] ^ 0x40]) + whole[-4:], "the file was changed or damaged"),
        "beta": (text.replace('"beta": 0.005', '"beta": 0.5'), whole, "config.json: expected what was written"),
        "deep": ("[" * 100_000, whole, "expected the JSON of an ebmeta model"),
        "an older format": (text.replace('n": 2', 'n": 1'), whole, "another model"),
        "a name": (
            text,
            whole[:8] + whole[8 : 8 + length].replace(b"prior.loc", b"prior.lox") + whole[8 + length :],
            "the file was changed or damaged",
        ),
    }
    for name, (new_text, content, message) in cases.items():
        assert (new_text, content) != (text, whole), name
        config.write_text(new_text)
        tensors.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            ebmeta.load(tmp_path)
    config.write_text(text)
    ebmeta.save(classifier(seed=1), tmp_path / "other")
    (tmp_path / "other" / "model.safetensors").replace(tensors)
    with pytest.raises(ValueError, match="config.json was written with, got others: another model"):
        ebmeta.load(tmp_path)
    with pytest.raises(ValueError, match="config.json was written with"):
        ebmeta.load_encoder(tmp_path)


def test_parameters_that_are_not_finite_are_refused(tmp_path):
    model = classifier()
    stored_version_1(tmp_path, model)
    with torch.no_grad():
        model.prior.loc[1] = float("nan")
    with pytest.raises(ValueError, match="save: expected finite numbers in prior.loc, got nan"):
        ebmeta.save(model, tmp_path)
    stored_version_1(tmp_path, model)
    with pytest.raises(ValueError, match="model.safetensors: expected finite numbers in prior.loc, got nan"):
        ebmeta.load(tmp_path)


def test_models_of_others_are_not_replaced(tmp_path):
    config = tmp_path / "config.json"
    config.write_text('{"model_type": "bert"}')
    (tmp_path / "model.safetensors").write_bytes(to_bytes({"a": torch.ones(2)}, metadata={"format": "pt"}))
    for _ in range(2):
        before = [p.read_bytes() for p in sorted(tmp_path.iterdir())]
        with pytest.raises(FileExistsError, match="expected a new file or a model written by ebmeta"):
            ebmeta.save(classifier(), tmp_path)
        assert [p.read_bytes() for p in sorted(tmp_path.iterdir())] == before
        config.unlink(missing_ok=True)
    ebmeta.save(classifier(), tmp_path, overwrite=True)
    ebmeta.load(tmp_path)


def test_readers_find_a_whole_model_while_writers_replace_it(tmp_path):
    models = [classifier(features=n) for n in (3, 4, 5)]
    ebmeta.save(models[0], tmp_path)
    stop, faults, loads = threading.Event(), [], []

    def read():
        while not stop.is_set():
            try:
                got = ebmeta.load(tmp_path)
                n = got.predictor.num_features
                assert torch.equal(got.prior.loc, models[n - 3].prior.loc)
                loads.append(n)
            except Exception as error:
                faults.append(error)

    def write(offset):
        for i in range(20):
            ebmeta.save(models[(i + offset) % 3], tmp_path)

    readers = [threading.Thread(target=read) for _ in range(3)]
    writers = [threading.Thread(target=write, args=(k,)) for k in range(2)]
    for thread in readers + writers:
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    for thread in readers:
        thread.join()
    assert not faults, faults[0]
    assert len(loads) > 10
    ebmeta.load(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", "model.safetensors"}


def test_a_writer_that_dies_between_its_steps_leaves_a_whole_model(tmp_path, monkeypatch):
    old, new, batch = classifier(), classifier(seed=1), class_tasks()
    replace = os.replace
    for steps in range(4):
        folder = tmp_path / str(steps)
        ebmeta.save(old, folder)
        done = []

        def dying(source, target, done=done, steps=steps):
            if len(done) == steps:
                raise KeyboardInterrupt
            done.append(replace(source, target))

        monkeypatch.setattr(os, "replace", dying)
        if steps < 3:
            with pytest.raises(KeyboardInterrupt):
                ebmeta.save(new, folder)
        else:
            ebmeta.save(new, folder)
        monkeypatch.setattr(os, "replace", replace)
        assert probs(ebmeta.load(folder), batch).identical(probs(old if steps < 2 else new, batch)), steps
        ebmeta.save(new, folder)
        assert probs(ebmeta.load(folder), batch).identical(probs(new, batch))
        assert "previous" not in json.loads((folder / "config.json").read_text())
