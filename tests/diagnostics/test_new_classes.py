"""What is promised for new classes, in words."""

from __future__ import annotations

import numpy as np
import pytest

import ebmeta
from ebmeta.diagnostics.new_classes import new_classes
from ebmeta.prediction.class_jackknife import class_half_width
from ebmeta.prediction.scores import task_scores


def source(classes: int, ways: int, seed: int = 0) -> ebmeta.EpisodeSampler:
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(classes), 12)
    return ebmeta.EpisodeSampler(3 * rng.normal(size=(classes, 4))[y] + rng.normal(size=(len(y), 4)), y, ways, 2, 5)


@pytest.fixture(scope="module")
def model() -> ebmeta.EmpiricalBayes:
    return ebmeta.fit(ebmeta.EmpiricalBayes.classifier(4, width=4), source(12, 3, seed=1), 5, 4, progress=False).model


def test_the_certificate_and_the_interval_over_classes_are_said(model: ebmeta.EmpiricalBayes) -> None:
    tasks = source(40, 2)
    batch = tasks.sample(60)
    check = new_classes(model, tasks, [batch])
    bound = ebmeta.certify(model, tasks, num_partitions=20).bound
    accuracy = task_scores(model, batch)["accuracy"].isel(step=-1).values
    assert check.status == "good"
    assert check.numbers["certified"] == bound > 0.5
    assert check.numbers["half_width_classes"] == pytest.approx(class_half_width(accuracy, batch.way_class.numpy()))
    assert f"at least {bound:.1%} of the rows of tasks of new classes, with 95% confidence" in check.finding
    assert f"right in {accuracy.mean():.1%} of rows" in check.finding
    last = ebmeta.evaluate(model, batch).isel(step=-1)
    gap, half = (float(last[f"overconfidence{name}"]) for name in ("", "_half_width_classes"))
    assert check.numbers["overconfidence"] == pytest.approx(gap)
    assert check.numbers["overconfidence_half_width_classes"] == pytest.approx(half)
    said = f"Its probabilities said {accuracy.mean() + gap:.1%}, and the difference of the two may move by "
    assert f"{said}{100 * half:.1f} points. " in check.finding


def test_too_few_classes_promise_nothing(model: ebmeta.EmpiricalBayes) -> None:
    tasks = source(7, 3)
    check = new_classes(model, tasks, [tasks.sample(30)])
    assert check.status == "unclear"
    assert "These 6 classes are too few to promise anything" in check.finding
    assert check.advice


def test_classes_of_training_promise_nothing(model: ebmeta.EmpiricalBayes) -> None:
    tasks = source(12, 3, seed=1)
    check = new_classes(model, tasks, [tasks.sample(30)])
    assert check.status == "unclear"
    assert check.finding.startswith("Nothing: training or validation has used these classes, such as 0;")
