"""What anybody would try first on a handful of labels: prototypes, logistic regression, label spreading, soft k-means.

A baseline is called as a peer of `lib.peers` is, with rows of unit length. Settings, where there is a choice, are the
best in mean accuracy over 1 and 5 shots of equal classes of the validation classes of CIFAR-FS.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.model_selection import StratifiedKFold
from sklearn.semi_supervised import LabelSpreading
from torch import Tensor
from torch.nn.functional import one_hot

__all__ = ["BASELINES", "Method"]

Method = Callable[[Tensor, Tensor, Tensor, int], Tensor]

STRENGTH = 10.0  # C of the regressions, where nothing is cross-validated
STRENGTHS = (0.1, 1.0, 10.0, 100.0)
FOLDS = 3
SHARPNESS, STEPS = 10.0, 10  # of soft k-means
GAMMA, ALPHA = 5.0, 0.5  # of label spreading


def prototypes(support: Tensor, y: Tensor, query: Tensor, ways: int) -> Tensor:
    """Return probabilities by squared distance to class means."""
    member = one_hot(y, ways).to(support)
    means = member.mT @ support / member.sum(1).unsqueeze(-1)
    return torch.softmax(-torch.cdist(query, means).square(), -1)


def soft_k_means(
    support: Tensor, y: Tensor, query: Tensor, ways: int, sharpness: float = SHARPNESS, steps: int = STEPS
) -> Tensor:
    r"""Return probabilities after rounds of soft k-means from the class means, labels staying as they are.

    $r_{ic} \propto \exp(-b |x_i - \mu_c|^2)$ and $\mu_c$ the mean of labelled rows and of queries by $r_{ic}$,
    in turns.

    Source: Ren et al. 2018, Meta-learning for semi-supervised few-shot classification, who take one round.
    """
    member, rows = one_hot(y, ways).to(support), torch.cat([support, query], 1)
    r = member.new_zeros(*query.shape[:2], ways)
    for _ in range(steps + 1):
        weight = torch.cat([member, r], 1)
        means = weight.mT @ rows / weight.sum(1).unsqueeze(-1)
        r = torch.softmax(-sharpness * torch.cdist(query, means).square(), -1)
    return r


def regression(support: Tensor, y: Tensor, query: Tensor, ways: int) -> Tensor:
    """Return probabilities of a logistic regression of each task, of scikit-learn's default strength times ten."""
    return _each(support, y, query, lambda labels: LogisticRegression(C=STRENGTH, max_iter=200))


def regression_cv(support: Tensor, y: Tensor, query: Tensor, ways: int) -> Tensor:
    """Return probabilities of a logistic regression of each task, its strength cross-validated where labels allow."""

    def of(labels: np.ndarray) -> LogisticRegression | LogisticRegressionCV:
        fewest = int(np.bincount(labels).min())
        if fewest < 2:
            return LogisticRegression(C=STRENGTH, max_iter=200)
        return LogisticRegressionCV(
            Cs=STRENGTHS,
            cv=StratifiedKFold(min(fewest, FOLDS), shuffle=True, random_state=0),
            scoring="neg_log_loss",
            max_iter=200,
            l1_ratios=(0.0,),
            use_legacy_attributes=False,
        )

    return _each(support, y, query, of)


def label_spreading(
    support: Tensor, y: Tensor, query: Tensor, ways: int, gamma: float = GAMMA, alpha: float = ALPHA
) -> Tensor:
    """Return probabilities of scikit-learn's label spreading over the rows of each task."""
    out = []
    for s, labels, q in zip(support.numpy(), y.numpy(), query.numpy(), strict=True):
        found = LabelSpreading(gamma=gamma, alpha=alpha, max_iter=200).fit(
            np.concatenate([s, q]), np.concatenate([labels, np.full(len(q), -1)])
        )
        out.append(torch.from_numpy(found.label_distributions_[len(s) :]))
    return torch.stack(out).to(support)


def _each(support: Tensor, y: Tensor, query: Tensor, of: Callable[[np.ndarray], LogisticRegression]) -> Tensor:
    """Fit one classifier a task, by the coordinates of its rows in the span of the labelled ones.

    A penalty of squared weights leaves them in this span, so that the answer is that of all features.
    """
    out = []
    for s, labels, q in zip(support.double().numpy(), y.numpy(), query.double().numpy(), strict=True):
        span = np.linalg.qr(s.T)[0]
        out.append(torch.from_numpy(of(labels).fit(s @ span, labels).predict_proba(q @ span)))
    return torch.stack(out).to(support)


BASELINES: dict[str, Method] = {
    "prototypes": prototypes,
    "logistic_regression": regression,
    "logistic_regression_cv": regression_cv,
    "label_spreading": label_spreading,
    "soft_k_means": soft_k_means,
}
