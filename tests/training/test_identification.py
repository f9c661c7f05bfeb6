"""What groups cannot tell is said, by the name of the column, or refused."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
import torch

import ebmeta
from ebmeta import EmpiricalBayes, GroupSampler
from ebmeta.training.identification import weak_points
from tests.training.test_evidence_fit import random_slopes


def test_more_parameters_than_rows_are_not_fitted():
    with pytest.warns(UserWarning, match="253 parameters for 240 rows: the evidence has no maximum"):
        found = ebmeta.fit_evidence(EmpiricalBayes.regressor(20, num_steps=0), random_slopes(20, 40, 6), boundary=False)
    assert not found.converged
    assert "253 parameters" in str(found)
    assert (
        0.3 < float(found.model.likelihood.unit * found.model.likelihood.log_noise.detach().exp()) < 0.7
    )  # 0.5 simulated
    exact = np.random.default_rng(0).normal(size=(30, 1))
    with pytest.warns(UserWarning, match="the noise goes to 0"):
        ebmeta.fit_evidence(
            EmpiricalBayes.regressor(1, num_steps=0),
            GroupSampler(exact, (exact[:, 0] + 1) * np.repeat([1, 2, 3, 4, 5], 6), np.repeat(range(5), 6), n_support=1),
            boundary=False,
        )


def weights_apart(groups: int = 60, rows: int = 8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Groups of which one feature is the same in all rows."""
    rng = np.random.default_rng(4)
    group = np.repeat(np.arange(groups), rows)
    X = np.stack([rng.normal(size=len(group)), (1e4 + rng.normal(size=groups))[group]], 1)
    y = X[:, 0] + 2 * (X[:, 1] - 1e4) + rng.normal(size=groups)[group] + 0.5 * rng.normal(size=len(group))
    return X, y, group


def test_a_feature_of_the_group_is_named_and_is_told_apart_as_a_covariate():
    X, y, group = weights_apart()
    frame = pd.DataFrame({"price": X[:, 0], "area": X[:, 1], "y": y, "shop": group})
    wrong = GroupSampler.from_frame(frame, y="y", groups="shop", n_support=1)
    with pytest.warns(UserWarning, match="fit_evidence: 'area' never varies within a group.* covariate of groups"):
        found = ebmeta.fit_evidence(EmpiricalBayes.regressor(2, num_steps=0), wrong, boundary=False)
    assert "'area' never varies within a group" in str(found)
    with pytest.warns(UserWarning, match="fit: 'area' never varies within a group"):
        ebmeta.fit(EmpiricalBayes.regressor(2, num_steps=0), wrong, 1, progress=False)
    right = GroupSampler.from_frame(frame, y="y", groups="shop", n_support=1, group_features=["area"])
    model = EmpiricalBayes.regressor(1, num_steps=0, num_covariates=1).double()
    ebmeta.fit_evidence(model, right, boundary=False)
    # As a covariate: slope and spread of the groups about it, by least squares of the means of groups.
    near = pd.DataFrame({"rest": y - X[:, 0], "area": X[:, 1] - 1e4, "group": group}).groupby("group").mean()
    (slope, _), (squares,), *_ = np.linalg.lstsq(np.stack([near["area"], np.ones(60)], 1), near["rest"], rcond=None)
    unit = float(model.likelihood.unit)
    with torch.no_grad():
        got = float(model.prior.slope[1, 0] / model.prior.unit[0]) * unit
        spread = float(model.prior.gaussian().expand(1, 1).scale[0, 0, 1]) * unit
    assert got == pytest.approx(slope, abs=0.05)
    assert spread == pytest.approx(np.sqrt(squares / 60 - 0.5**2 / 8), abs=0.05)


@pytest.mark.parametrize(
    ("likelihood", "label", "words"),
    [("normal", 3.0, "got 3 in all 24 rows"), ("poisson", 0.0, "got 0 in all 24"), ("bernoulli", 1.0, "got 1 in all")],
)
def test_labels_that_never_differ_are_refused(likelihood, label, words):
    X, group = np.random.default_rng(0).normal(size=(24, 1)), np.repeat(np.arange(6), 4)
    model = EmpiricalBayes.regressor(1, likelihood, num_steps=0)
    with pytest.raises(ValueError, match=f"^y: expected labels that differ, {words}"):
        ebmeta.fit_evidence(model, GroupSampler(X, np.full(24, label), group, n_support=1))
    assert next(model.parameters()).dtype == torch.float32


def test_what_groups_cannot_tell_is_said():
    X, y, group = weights_apart()
    x = X[:, :1]

    def words(rows: np.ndarray, groups: np.ndarray, likelihood: str = "normal") -> str:
        model = EmpiricalBayes.regressor(rows.shape[1], likelihood, num_steps=0)
        with pytest.warns(UserWarning, match="fit_evidence: "):
            return str(ebmeta.fit_evidence(model, GroupSampler(rows, y, groups, n_support=0), boundary=False))

    assert "2 groups: next to nothing is known of how groups differ" in words(x, group % 2)
    assert "no group has a second row" in words(x, np.arange(len(y)))
    other = np.random.default_rng(1).normal(size=len(y))
    assert "feature 1 is determined by" in words(np.stack([other, x[:, 0] - 2 * other, x[:, 0] * 3], 1), group)


def test_a_feature_that_separates_yes_from_no_is_named():
    rng = np.random.default_rng(0)
    X, group = rng.normal(size=(80, 2)), np.repeat(np.arange(16), 5)
    tasks = GroupSampler(X, (X[:, 1] > 0).astype(float), group, n_support=1)
    model = EmpiricalBayes.regressor(2, "bernoulli", num_steps=0)
    with pytest.warns(UserWarning, match="weight 1 runs off"):
        found = ebmeta.fit_evidence(model, tasks, boundary=False, num_draws=4)
    assert not found.converged


def test_a_label_far_beyond_all_others_is_told_of_where_noise_is_normal():
    rng = np.random.default_rng(0)
    X, groups = rng.normal(size=(60, 1)), np.repeat(np.arange(12), 5)
    y = np.exp(0.1 * rng.normal(size=60))
    y[7] = 1e4
    said = "a label of 1e.04 lies more than 50 times as far out as the others, and a normal likelihood follows it"
    found = {}
    for likelihood in ("normal", "student_t", "log_normal", "gamma"):
        model = ebmeta.EmpiricalBayes.regressor(1, likelihood=likelihood, num_steps=0)
        tasks = ebmeta.GroupSampler(X, y, groups, n_support=2)
        found[likelihood] = [re.search(said, note) is not None for note in weak_points(model, list(tasks.parts(100)))]
    assert found == {"normal": [True], "student_t": [], "log_normal": [], "gamma": []}  # its logarithm is near
    y[7] = 2.0
    tasks = ebmeta.GroupSampler(X, y, groups, n_support=2)
    assert weak_points(ebmeta.EmpiricalBayes.regressor(1, num_steps=0), list(tasks.parts(100))) == []
    far = ebmeta.GroupSampler(X, np.where(np.arange(60) == 7, 1e4, y), groups, n_support=2)
    with pytest.warns(UserWarning, match=f"fit_evidence: {said}"):
        ebmeta.fit_evidence(ebmeta.EmpiricalBayes.regressor(1, num_steps=0), far, boundary=False)
