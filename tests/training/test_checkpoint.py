"""Checkpoints know the data, the sampler and the embedder of their run, and are refused by any other."""

import numpy as np
import pytest
import torch
from torch import nn

import ebmeta
from ebmeta.app.cli import main


def rows(seed=0, spread=1.0):
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(6), 8)
    return (2 * rng.standard_normal((6, 3))[y] + spread * rng.standard_normal((48, 3))).astype(np.float32), y


def classes(seed=0, X=None, y=None, **options):
    return ebmeta.EpisodeSampler(
        rows()[0] if X is None else X, rows()[1] if y is None else y, 3, n_query=3, seed=seed, **options
    )


def schools(seed=0, **changes):
    X, groups = rows()
    return ebmeta.GroupSampler(**{"X": X, "y": X.sum(1), "groups": groups, "size": np.ones(48), "seed": seed} | changes)


class Fixed:
    """A source that states nothing of itself."""

    def __init__(self, batch):
        self.batch = batch

    def sample(self, num_tasks, index=0):
        return self.batch


def moved(array, row=-1):
    out = np.array(array)
    out[row] += 1
    return out


def train(path, tasks, model=None, **options):
    if model is None and tasks.sample(1).support_y.is_floating_point():
        model = ebmeta.EmpiricalBayes.regressor(3, num_steps=0)
    model = model or ebmeta.EmpiricalBayes.classifier(3, num_steps=1, width=4)
    options = {"batch_size": 2, "validation_tasks": 2, "device": "cpu", "progress": False} | options
    return ebmeta.fit(model, tasks, 1, checkpoint=path, **options)


def test_a_run_of_parts_with_other_settings_is_refused(tmp_path):
    """A model from parts has no arguments, so that its parts have to say what they are."""

    def from_parts(steps):
        m = ebmeta.EmpiricalBayes.regressor(3, num_steps=0, likelihood="student_t")
        return ebmeta.EmpiricalBayes(
            m.prior, m.likelihood, m.predictor, type(m.initializer)(steps), m.refiner, beta=1.0
        )

    path = tmp_path / "run"
    train(path, schools(size=None), from_parts(8))
    train(path, schools(size=None), from_parts(8))
    with pytest.raises(ValueError, match="expected a checkpoint of a run with this model"):
        train(path, schools(size=None), from_parts(9))


def test_other_classes_are_refused(tmp_path):
    path = tmp_path / "run"
    held_out = classes(5, X=rows(9)[0])
    train(path, classes(), validation=held_out)
    whole = path.read_bytes()
    X, y = rows()
    words = "run: expected a checkpoint of a run with these {}tasks"
    for name, other in {
        "one value of one row": classes(X=moved(X)),
        "another class of one row": classes(y=np.r_[y[:-1], 0]),
        "seed": classes(seed=1),
        "shots": classes(n_shot=2),
        "imbalance": classes(imbalance=2.0),
        "transform": classes(transform=lambda task, rng: 2 * task),
        "mixture": ebmeta.MixedSampler([classes()]),
    }.items():
        with pytest.raises(ValueError, match=words.format("")) as caught:
            train(path, other, validation=held_out, harder=0)
        assert "\n" not in str(caught.value), name
    for other in (None, classes(6, X=rows(9)[0]), classes(5, X=rows(8)[0])):
        with pytest.raises(ValueError, match=words.format("validation ")):
            train(path, classes(), validation=other, harder=0)
    assert path.read_bytes() == whole
    train(path, classes(), validation=held_out)
    first = Fixed(classes().sample(2))
    train(tmp_path / "fixed", first)
    with pytest.raises(ValueError, match="with these tasks"):
        train(tmp_path / "fixed", Fixed(classes(1).sample(2)))


def test_other_groups_are_refused(tmp_path):
    path = tmp_path / "run"
    train(path, schools())
    X, groups = rows()
    for changes in {
        "X": {"X": moved(X)},
        "y": {"y": moved(X.sum(1))},
        "groups": {"groups": np.r_[groups[:-1], 0]},
        "names of groups": {"groups": groups + 1},
        "size": {"size": moved(np.ones(48))},
        "covariates": {"group_X": groups[:, None] * 1.0},
        "seed": {"seed": 1},
        "support": {"n_support": 2},
        "queries": {"n_query": 4},
    }.values():
        with pytest.raises(ValueError, match="with these tasks|with this model"):
            train(path, schools(**changes))
    train(path, schools())


def test_a_model_of_other_arguments_or_digits_is_refused(tmp_path):
    train(tmp_path / "run", schools())
    build = ebmeta.EmpiricalBayes.regressor
    for other in (build(3, num_steps=0, standardize=False), build(3, num_steps=0).double()):  # parts of the same sizes
        with pytest.raises(ValueError, match="expected a checkpoint of a run with this model"):
            train(tmp_path / "run", schools(), other)
    train(tmp_path / "run", schools(), build(3, num_steps=0, seed=7))


def test_another_frozen_embedder_is_refused(tmp_path):
    def model(seed, frozen=True):
        torch.manual_seed(seed)
        return ebmeta.EmpiricalBayes.classifier(3, 1, width=4, embedder=nn.Linear(3, 3), freeze_embedder=frozen)

    train(tmp_path / "frozen", classes(), model(0))
    with pytest.raises(ValueError, match="frozen: expected a checkpoint of a run with this embedder"):
        train(tmp_path / "frozen", classes(), model(1))
    train(tmp_path / "frozen", classes(), model(0))
    train(tmp_path / "trained", classes(), model(0, frozen=False))
    with pytest.raises(ValueError, match="expected a checkpoint of a run with this embedder|with this model"):
        train(tmp_path / "trained", classes(), ebmeta.EmpiricalBayes.classifier(3, 1, width=4))


def test_the_command_line_keeps_files_apart(tmp_path, capsys):
    for name, seed in (("a", 0), ("b", 1)):
        X, y = rows(seed)
        np.savez(tmp_path / f"{name}.npz", X=X, y=y)
    common = ["--num-iterations", "1", "--n-query", "3", "--no-progress", "--device", "cpu", "--num-steps", "1"]
    common += ["--checkpoint", str(tmp_path / "run"), "--batch-size", "2"]
    assert main(["train", str(tmp_path / "a.npz"), "--output", str(tmp_path / "a"), *common]) == 0
    assert main(["train", str(tmp_path / "b.npz"), "--output", str(tmp_path / "b"), *common]) == 2
    assert "run: expected a checkpoint of a run with these tasks (data, settings and seed" in capsys.readouterr().err
    assert not list((tmp_path / "b").iterdir())
    assert main(["train", str(tmp_path / "a.npz"), "--output", str(tmp_path / "a"), *common]) == 0
    foreign = tmp_path / "notes"
    foreign.write_text("mine")
    assert (
        main(
            [
                "train",
                str(tmp_path / "b.npz"),
                "--output",
                str(tmp_path / "b"),
                *common[:-4],
                "--checkpoint",
                str(foreign),
            ]
        )
        == 2
    )
    assert foreign.read_text() == "mine"
