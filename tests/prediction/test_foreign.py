"""Rows in another unit than those of training are told of, by value; others are not, where a warning is an error."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

import ebmeta
from ebmeta.prediction.foreign import SOME

RNG = np.random.default_rng(0)
DIRECTION = "^X: all rows lie in one direction from the centre of training rows"


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def classes():
    """A model of classes whose mean is not 0, and a new task of four of them."""
    mean, y = 3 + 2 * RNG.normal(size=(30, 24)), np.repeat(np.arange(30), 20)
    tasks = ebmeta.EpisodeSampler(mean[y] + RNG.normal(size=(600, 24)), y, 5, 2, 10)
    model = ebmeta.fit(ebmeta.EmpiricalBayes.classifier(24), tasks, 60, progress=False).model
    new, own, asked = 3 + 2 * RNG.normal(size=(4, 24)), np.repeat(np.arange(4), 2), RNG.integers(0, 4, 40)
    rows = (new[own] + 2 * RNG.normal(size=(8, 24)), new[asked] + 2 * RNG.normal(size=(40, 24)))
    return model, own, asked, *rows


@pytest.mark.parametrize("change", [lambda v: v / 20, lambda v: v + 200, unit])
def test_classes_that_another_scale_hides_are_told_of(classes, change):
    model, own, asked, labelled, rows = classes
    clf = ebmeta.FewShotClassifier(model)
    assert (clf.fit(labelled, own).predict(rows) == asked).mean() > 0.9  # without a warning
    with pytest.warns(UserWarning, match=DIRECTION):
        right = clf.fit(change(labelled), own).predict(change(rows)) == asked
    assert right.mean() < 0.6
    parts = (labelled, own), (rows, asked)
    batch = ebmeta.TaskBatch(*(torch.tensor(v)[None] for x, y in parts for v in (change(x), y)))
    with pytest.warns(UserWarning, match=DIRECTION):
        ebmeta.evaluate(model, batch, num_bootstrap=0)


@pytest.mark.filterwarnings("ignore:y. expected labels of at least two classes")
def test_rows_of_one_class_and_few_rows_say_nothing(classes):
    model, own, _, labelled, rows = classes
    alike = labelled[:1] + 0.01 * RNG.normal(size=(20, 24))
    ebmeta.FewShotClassifier(model).fit(labelled[:2], own[:2]).predict(alike)
    ebmeta.FewShotClassifier(model).fit(labelled, own).predict(alike)
    ebmeta.FewShotClassifier(model).fit(labelled[:3] / 20, own[:3]).predict(rows[:2] / 20)
    ebmeta.FewShotClassifier().fit(labelled / 20, own).predict(rows / 20)  # which knows no unit


def test_columns_and_labels_in_another_unit_are_told_of():
    g, x = np.repeat(np.arange(30), 8), RNG.normal(size=(240, 2))
    w = 1 + 0.5 * RNG.normal(size=(30, 3))
    y = 5 + (x * w[g, :2]).sum(1) + w[g, 2] + 0.3 * RNG.normal(size=240)
    frame = pd.DataFrame(x, columns=["age", "dose"])
    model = ebmeta.EmpiricalBayes.regressor(2, num_steps=0)
    ebmeta.fit_evidence(model, ebmeta.GroupSampler(frame, y, g, n_support=3), boundary=False)
    reg = ebmeta.FewShotRegressor(model).fit(frame[:4], y[:4])
    assert np.abs(reg.predict(frame[4:8]) - y[4:8]).max() < 3
    reg.predict(frame[4:8] * [1, 9])  # far, but not so far
    away = np.abs((1000 * x[4:8, 1] - x[:, 1].mean()) / x[:, 1].std())
    near = round(np.sort(away)[1])
    with pytest.warns(
        UserWarning, match=f"^X: half of the rows are at least {near} standard .* in column 'dose'; give"
    ):
        reg.predict(frame[4:8] * [1, 1000])
    with pytest.warns(
        UserWarning, match="^y: half of the labels are at least .* standard deviations of training labels"
    ):
        ebmeta.FewShotRegressor(model).fit(frame[:4], 1000 * y[:4]).predict(frame[4:8])


@pytest.mark.parametrize("fit", ["fit", "fit_evidence"])
def test_training_on_in_another_unit_is_told_of(fit):
    """A trained model keeps the units and the unit of the hyperprior of its first training; scales were wrong then."""
    g, x = np.repeat(np.arange(30), 8), RNG.normal(size=(240, 2))
    y = 5 + x.sum(1) + RNG.normal(size=30)[g] + 0.3 * RNG.normal(size=240)
    model = ebmeta.EmpiricalBayes.regressor(2, num_steps=0)

    def train(x, y):
        tasks = ebmeta.GroupSampler(x, y, g, n_support=3)
        if fit == "fit":
            ebmeta.fit(model, tasks, 1, batch_size=30, progress=False)
        else:
            ebmeta.fit_evidence(model, tasks, boundary=False)

    for _ in range(2):
        train(x, y)
    train(x * [1, 9], 9 * y)  # far, but not so far
    away = np.median(np.abs(1000 * x[:, 1] - x[:, 1].mean())) / x[:, 1].std()
    with pytest.warns(UserWarning, match="^X: half of the rows .* in column 1; .* train a new model") as told:
        train(x * [1, 1000], y)
    assert abs(int(str(told[0].message).split()[8]) / away - 1) < 0.15  # `fit` measures on a part of the rows
    with pytest.warns(UserWarning, match="^y: half of the labels are at least .* train a new model"):
        train(x, 1000 * y)


def test_tasks_without_a_labelled_row_are_no_error(classes):
    model, own, _, labelled, rows = classes
    anchored = ebmeta.FewShotClassifier(model).fit(anchors={str(k): labelled[list(own).index(k)] for k in set(own)})
    assert np.isfinite(anchored.predict_proba(rows)).all()


def test_some_of_many_tasks_tell_of_all(classes):
    mean, y = 3 + 2 * RNG.normal(size=(12, 24)), np.repeat(np.arange(12), 20)
    rows = mean[y] + RNG.normal(size=(240, 24))
    ebmeta.predict(classes[0], ebmeta.EpisodeSampler(rows, y, 5, 2, 4).sample(3 * SOME + 1), num_draws=0)
    with pytest.warns(UserWarning, match=DIRECTION):
        ebmeta.predict(classes[0], ebmeta.EpisodeSampler(rows / 20, y, 5, 2, 4).sample(3 * SOME + 1), num_draws=0)
