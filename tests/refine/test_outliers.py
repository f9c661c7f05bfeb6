"""How log odds of all unknown classes together become the probability that a row is of none of the classes."""

from __future__ import annotations

import math
from dataclasses import replace
from unittest import mock

import numpy as np
import torch
from builders import class_tasks, close
from sklearn.metrics import roc_auc_score
from torch.distributions import Normal

import ebmeta
from ebmeta.parts.class_gaussian import ClassGaussian
from ebmeta.refine import belief
from ebmeta.refine.outliers import NoneOfThese, apart
from ebmeta.refine.state import QueryState, Setting

BETWEEN, SPREAD = 4.0, 0.25
AS_THEY_ARE = {True: NoneOfThese(1.0, 0.0), False: NoneOfThese(1.0, 0.0)}


def state(x: torch.Tensor) -> QueryState:
    """Return what is known of rows in two dimensions by two classes, five rows each, and two unknown ones."""
    zero, shares = torch.zeros(1, 2, 2), torch.full((1, 2), 2.0)
    prior = ClassGaussian(zero, torch.full_like(zero, 1 / BETWEEN), shares, torch.tensor(SPREAD), 0.3)
    labels = torch.nn.functional.one_hot(torch.tensor([0] * 5 + [1] * 5), 4).float()[None]
    rows = torch.tensor([[3.0, 0.0]] * 5 + [[-3.0, 0.0]] * 5)[None]
    q0 = prior.with_unknown(torch.ones(1, dtype=torch.bool), 2).given(rows, labels).double()
    real = torch.ones(1, q0.loc.shape[1], dtype=torch.bool)
    x = torch.nn.functional.pad(x[None].double(), (0, 1), value=0.3)
    setting = Setting(q0, q0, None, x, torch.ones(1, x.shape[1], dtype=torch.bool), real, 1.0, unknown=2)
    return QueryState(setting, q0)


def test_how_a_row_lies_by_itself_is_a_ratio_of_predictive_densities():
    x = torch.tensor([[3.0, 0.2], [0.0, 4.0], [-2.0, -2.0]])
    precision = 1 / BETWEEN + 5 / SPREAD
    of_class = [
        Normal(5 / SPREAD / precision * torch.tensor(m), math.sqrt(SPREAD + 1 / precision)).log_prob(x).sum(-1)
        for m in ([3.0, 0.0], [-3.0, 0.0])
    ]
    alone = Normal(0.0, math.sqrt(SPREAD + BETWEEN)).log_prob(x).sum(-1)
    close(apart(state(x))[0, :, 0], (alone - torch.maximum(*of_class)).double(), 1e-5)


def test_the_probability_is_the_stated_function_of_both_and_of_the_number_of_classes():
    there = state(torch.tensor([[3.0, 0.2], [0.0, 4.0], [-2.0, -2.0]]))
    log_p = torch.log_softmax(
        torch.tensor([[[3.0, 0.0, -1.0, -2.0], [0.5, 0.0, 2.0, 0.0], [-40.0, 9.0, 8.0, 0.0]]]), -1
    )
    log_p = log_p.double()
    rated = NoneOfThese(0.3, 2.0, apart=0.4, ways=0.6, bend=2.0)
    p = rated(log_p, there).exp()[0]
    odds = log_p[..., 2:].logsumexp(-1) - log_p[..., :2].logsumexp(-1)
    wanted = 0.3 * 2 * (odds / 2).asinh() + 0.4 * 2 * (apart(there)[..., 0] / 2).asinh() + 0.6 * math.log(2) - 2.0
    close(p[:, 2:].sum(-1), wanted[0].sigmoid())
    close(p.sum(-1), torch.ones(3).double())
    for part in (np.s_[:, :2], np.s_[:, 2:]):  # what a row is if it is of one of these
        given = log_p[0].exp()[part]
        close(p[part] / p[part].sum(-1, keepdim=True), given / given.sum(-1, keepdim=True))


@torch.no_grad()
def test_tasks_without_unknown_classes_are_as_they_were():
    batch = replace(class_tasks(), outliers=torch.tensor([True, False, True, True]))
    model = ebmeta.general_classifier()
    with mock.patch.object(belief, "OF_NONE", AS_THEY_ARE):
        before = model.infer(batch).predict(-1)
    after = model.infer(batch).predict(-1)
    real = batch.query_mask & batch.outliers.unsqueeze(1)
    assert after["outlier"][1].abs().max() == 0
    close(after["probs"][1], before["probs"][1])
    assert float((after["outlier"] - before["outlier"]).abs()[real].min()) > 1e-3


def test_few_rows_of_many_other_classes_are_found_though_they_do_not_lie_together():
    """No unknown class can find them. Areas under the receiver operating characteristic are means of twenty tasks."""

    def areas() -> float:
        each = []
        for seed in range(20):
            rng = np.random.default_rng(seed)
            centre = rng.normal(size=(14, 16))
            X = np.concatenate([c + 0.7 * rng.normal(size=(60, 16)) for c in centre[:2]])
            X = np.concatenate([X, centre[2:] + 0.7 * rng.normal(size=(12, 16))])
            y, few = np.repeat([0, 1], 60), np.r_[0:5, 60:65]
            asked = np.setdiff1d(np.arange(len(X)), few)
            clf = ebmeta.FewShotClassifier(outliers=True).fit(X[few], y[few])
            each.append(roc_auc_score(asked >= 120, clf.outlier_proba(X[asked])))
        return float(np.mean(each))

    with mock.patch.object(belief, "OF_NONE", AS_THEY_ARE):
        clusters = areas()
    assert clusters < 0.9
    assert areas() > 0.95
