"""Validation shows other classes than training, and groups have labels that differ; otherwise `fit` says so."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import ebmeta
from ebmeta import EpisodeSampler, MixedSampler
from ebmeta.app.cli import main
from ebmeta.tasks import held_out

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(60, 3)), np.repeat(np.arange(6), 10)


def source(rows=slice(None), y=Y, x=X, **kwargs) -> EpisodeSampler:
    return EpisodeSampler(x[rows], y[rows], 2, 1, 3, **kwargs)


def fit(tasks, validation) -> None:
    model = ebmeta.EmpiricalBayes.classifier(3, num_steps=0)
    ebmeta.fit(model, tasks, 1, 2, validation=validation, validation_tasks=2, progress=False)


SHARED = {
    "itself": (source(), source()),
    "another seed": (source(), source(seed=1)),
    "another order": (source(), source(np.arange(60)[::-1])),
    "one class of three": (source(slice(40)), source(slice(30, 60))),
    "numbered anew": (source(slice(40)), source(slice(30, 60), y=(Y + 3) % 6)),
    "most rows of a class": (source(slice(40)), source(np.r_[33:39, 40:60])),
    "mixtures": (MixedSampler([source(slice(20)), source(slice(40))]), MixedSampler([source(slice(30, 60))])),
    "narrower numbers": (source(), source(x=X.astype(np.float32))),
    "wider numbers": (source(x=X.astype(np.float32)), source(x=X.astype(np.float32).astype(np.float64))),
}


@pytest.mark.parametrize("name", SHARED)
def test_classes_of_training_are_refused(name) -> None:
    with pytest.raises(ValueError, match="^validation: expected classes that training does not have, got the rows of "):
        fit(*SHARED[name])


@pytest.mark.parametrize("everything", [True, False])
def test_both_classes_are_named(monkeypatch, everything) -> None:
    monkeypatch.setattr(held_out, "ALL", held_out.ALL if everything else 0)
    names = np.array(["ant", "bee", "cat", "dog", "elk", "fox"])[Y]
    with pytest.raises(ValueError, match="got the rows of its class 3 in class 'dog' of training"):
        fit(source(slice(40), y=names), source(slice(30, 60)))


def test_equal_numbers_are_no_proof_and_equal_words_a_warning() -> None:
    words = np.array(["ant", "bee", "cat"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(source(slice(30)), source(y=Y[:30], x=X[30:]))
        fit(source(slice(30)), source(slice(30, 60)))
    with pytest.warns(UserWarning, match=r"^validation: training has a class 'ant' \(and 2 more\) too"):
        fit(source(slice(30), y=words[Y[:30]]), source(y=words[Y[:30]], x=X[30:]))


def test_rows_that_many_classes_have_are_no_proof() -> None:
    few = np.random.default_rng(1).integers(0, 2, (60, 3)).astype(float)
    fit(source(slice(30), x=few), source(slice(30, 60), x=few))


def test_the_command_line_refuses_its_own_file(tmp_path, capsys) -> None:
    file = str(tmp_path / "a.npz")
    np.savez(file, X=X, y=Y)
    flags = ["--n-way", "2", "--n-query", "3", "--num-iterations", "1", "--no-progress", "--output"]
    assert main(["train", file, "--validation", file, *flags, str(tmp_path / "m")]) == 2
    assert "validation: expected classes that training does not have" in capsys.readouterr().err
    assert not (tmp_path / "m" / "config.json").exists()


@pytest.mark.parametrize(
    ("likelihood", "label", "words"),
    [
        ("normal", 3.25, "y: expected labels that differ, got 3.25 in all 60 rows"),
        ("normal_per_task", 0.0, "y: expected labels that differ, got 0 in all 60 rows"),
        ("student_t", -1e9, "y: expected labels that differ, got -1e\\+09 in all 60 rows"),
        ("bernoulli", 1.0, "y: expected labels that differ, got 1 in all 60 rows"),
        ("poisson", 0.0, "y: expected labels that differ, got 0 in all 60 rows"),
        ("negative_binomial", 0.0, "y: expected labels that differ, got 0 in all 60 rows"),
    ],
)
def test_both_ways_of_fitting_refuse_constant_labels(likelihood, label, words) -> None:
    tasks = ebmeta.GroupSampler(X, np.full(60, label), Y, n_support=2)
    for way in (lambda m: ebmeta.fit(m, tasks, 1, progress=False), lambda m: ebmeta.fit_evidence(m, tasks)):
        with pytest.raises(ValueError, match=f"^{words}, for which no {likelihood} likelihood is the best$"):
            way(ebmeta.EmpiricalBayes.regressor(3, likelihood))


def test_counts_that_are_all_one_number_are_data() -> None:
    tasks = ebmeta.GroupSampler(X, np.full(60, 4.0), Y, n_support=2)
    ebmeta.fit(ebmeta.EmpiricalBayes.regressor(3, "poisson"), tasks, 1, progress=False)


def test_classes_of_two_sources_are_one_where_most_rows_of_either_are() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 3)), np.repeat(np.arange(6), 10)
    every, few, other = (
        EpisodeSampler(x, of, 2, 1, 2).class_rows[0]
        for x, of in (
            (X, y),
            (X[::2][::-1].astype(np.float32), y[::2][::-1] + 10),  # half of each class, in another order
            (np.concatenate([X[:4], rng.normal(size=(16, 3))]), np.repeat([0, 1], 10)),  # 4 of 10 rows of a class
        )
    )
    for sources, wanted in (([every, few], 6), ([few, every], 6), ([every, other], 8), ([every], 6)):
        found = held_out.separate_classes(sources)
        assert len(found) == wanted
        assert len({(id(of), code) for of, code in found}) == wanted
    flags = rng.integers(2, size=(60, 3)).astype(float)  # rows of few values are those of many classes
    again = [EpisodeSampler(flags[s], y[s], 2, 1, 2).class_rows[0] for s in (slice(30), slice(30, 60))]
    assert len(held_out.separate_classes(again)) == 6
