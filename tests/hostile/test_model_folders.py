"""Mutated model folders: each loads to the model that was saved, bit for bit, or is refused in one line."""

import random
import shutil
from dataclasses import dataclass

import pandas as pd
import pytest
import torch
from builders import class_tasks, classifier, number_tasks, real_tasks, regressor
from mutations import damaged, edited, retensored
from safetensors.torch import load as from_bytes
from scale import share

import ebmeta
from ebmeta.tasks.frames import FrameEncoder
from tests.model.test_storage import stored_version_1

FOLDERS = 1800
FILES = ("config.json", "model.safetensors")


@dataclass(frozen=True)
class Saved:
    """A model, its folder's files, and what it predicts."""

    files: dict
    tree: object
    batch: object
    encoder: object


def frame_encoder():
    frame = pd.DataFrame({"kind": list("abab"), "x": [1.0, 2, 3, 4], "shop": list("uuvv"), "area": list("ppqq")})
    frame = frame.assign(y=1.0)
    return FrameEncoder("y", "shop", group_features=["area"]).fit(frame)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return two models of each of several kinds, so that one can take the place of the other."""
    makers = [
        (lambda s: classifier(seed=s), class_tasks, None),
        (lambda s: classifier(seed=s, dtype=torch.float32), lambda: class_tasks(dtype=torch.float32), None),
        (lambda s: classifier(seed=s, synthetic_gradient="mlp", n_way=3), lambda: class_tasks(ways=(3, 3, 3, 3)), None),
        (lambda s: regressor(seed=s), real_tasks, None),
        (lambda s: regressor(seed=s, likelihood="poisson"), lambda: number_tasks("poisson"), None),
        (lambda s: regressor(2, seed=s, num_covariates=1), None, frame_encoder()),
    ]
    out = []
    for make, tasks, encoder in makers:
        twins = []
        for seed in (0, 1):
            folder, model = tmp_path_factory.mktemp("saved"), make(seed)
            ebmeta.save(model, folder, encoder)
            batch = None if tasks is None else tasks()
            tree = None if batch is None else ebmeta.predict(model, batch, num_draws=3)
            twins.append(Saved({f: (folder / f).read_bytes() for f in FILES}, tree, batch, encoder))
        out.append(twins)
    return out


def mutate(files, twin, rng):
    """Change one file of a folder in one way; a file that is None is taken away."""
    config, tensors = FILES
    how = rng.choice(["damaged", "damaged", "edited", "retensored", "gone"])
    name = {"edited": config, "retensored": tensors}.get(how, rng.choice(FILES))
    if how == "damaged":
        return files | {name: damaged(files[name], twin[name], rng)}
    return files | {name: {"edited": edited, "retensored": retensored, "gone": lambda *_: None}[how](files[name], rng)}


def test_a_mutated_folder_is_the_same_model_or_refused(saved, tmp_path):
    loaded, refused, odd = 0, 0, []
    for case in share(range(FOLDERS), seed=1):
        rng = random.Random(case)
        one, other = rng.sample(saved[case % len(saved)], 2)
        shutil.rmtree(tmp_path / "m", ignore_errors=True)
        (tmp_path / "m").mkdir()
        for name, content in mutate(one.files, other.files, rng).items():
            if content is not None:
                (tmp_path / "m" / name).write_bytes(content)
        try:
            model = ebmeta.load(tmp_path / "m")
            encoder = ebmeta.load_encoder(tmp_path / "m")
        except (ValueError, OSError) as error:
            odd += [] if str(error).startswith(str(tmp_path / "m")) and "\n" not in str(error) else [(case, str(error))]
            refused += 1
            continue
        if one.batch is not None:
            assert ebmeta.predict(model, one.batch, num_draws=3).identical(one.tree), case
        assert (encoder is None) == (one.encoder is None), case
        assert encoder is None or encoder.config() == one.encoder.config(), case
        tensors = from_bytes(one.files[FILES[1]])
        assert all(torch.equal(v, tensors[k]) for k, v in model.state_dict().items()), case
        loaded += 1
    assert not odd
    assert refused > loaded > 0
    print(f"{loaded + refused} mutated folders: {loaded} the same model, {refused} refused")


def test_a_mutated_folder_of_the_first_format_is_loaded_or_refused(tmp_path):
    # Without checksums nobody can tell changed values from saved ones; what cannot be a model is refused all the same.
    loaded, refused, odd = 0, 0, []
    kinds = [classifier, lambda: regressor(2, num_covariates=1), lambda: regressor(likelihood="poisson")]
    for number, kind in enumerate(kinds):
        folder = tmp_path / str(number)
        stored_version_1(folder, kind())
        files = {name: (folder / name).read_bytes() for name in FILES}
        for case in share(range(200), seed=5):
            for name, content in mutate(files, files, random.Random(case)).items():
                (folder / name).unlink(missing_ok=True)
                if content is not None:
                    (folder / name).write_bytes(content)
            try:
                ebmeta.load(folder)
                loaded += 1
            except (ValueError, OSError) as error:
                odd += [] if str(error).startswith(str(folder)) and "\n" not in str(error) else [(case, str(error))]
                refused += 1
    assert not odd
    assert loaded > 0 < refused
