r"""A lower bound of a score on new classes or new groups, which needs no distribution.

Episodes that share classes are no independent tasks; disjoint blocks of classes are. With $a_j \in [0, 1]$ the score of
a task of block $j \le m$, and $\mu$ its mean over tasks of new classes, $\mathbb E \prod_j a_j = \mu^m$. By Markov's
inequality, with probability at least $1 - \delta$ over the classes,

$$ \mu \ge \Big( \delta \cdot \frac1R \sum_{r=1}^R \prod_{j=1}^m a_{rj} \Big)^{1/m} , $$

for any number $R$ of partitions of the same classes into blocks. Where a unit is a block by itself, as a group is,
there is but one partition, and scores may be 0; the product is then replaced by a mixture of bets,
$\sum_b w_b \prod_j (1 - \theta_b + \theta_b a_j / \mu)$. Proofs, and why no bound does better: `theory/certificate.md`.
Source of the bets: Waudby-Smith and Ramdas 2024.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import xarray as xr

from ebmeta.foundation.checks import array, at_least, between, checked
from ebmeta.model.base import PredictiveModel
from ebmeta.prediction.scores import task_batches, task_scores
from ebmeta.prediction.trees import predict
from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.held_out import check_classes, check_shared_groups
from ebmeta.tasks.marks import refuse_known
from ebmeta.tasks.source import TaskSampler, as_source

__all__ = ["BETS", "Certificate", "Score", "certify", "lower_bound"]

#: A score by name, or a function of the summaries after the last step and the labelled tasks to one in [0, 1] a task.
Score = Literal["accuracy", "brier", "coverage"] | Callable[[xr.Dataset, TaskBatch], np.ndarray]
BETS = (1.0, 0.8, 0.6, 0.4, 0.25, 0.15, 0.1, 0.05)  # shares of what may be bet, where units are groups
STEPS = 60  # of the search for the bound: more than 64-bit floats tell apart
LEAST = 1e-9  # a mean that stands for 0


@dataclass(frozen=True)
class Certificate:
    """A lower bound of the mean score of new tasks, with what it was made of.

    Args:
        bound: what the mean score over tasks of new classes or groups is at least, with the stated confidence.
        estimate: the mean score of the tasks that were looked at.
        confidence: probability, over the draw of the classes or groups, that the bound holds.
        num_blocks: disjoint tasks of a partition.
        num_used: classes or groups in them.
        unit: "classes" or "groups".
        score: name of the score.
        chance: score of a guess, below which the bound says nothing; 0 where that is not known.

    Examples:
        >>> print(Certificate(0.502, 0.77, 0.95, 7, 35, "classes", "accuracy", 0.2))
        accuracy on new classes: at least 0.502 with confidence 95% (estimate 0.770; 7 disjoint tasks of 35 classes)
        >>> Certificate(0.15, 0.77, 0.95, 2, 10, "classes", "accuracy", 0.2).vacuous
        True
    """

    bound: float
    estimate: float
    confidence: float
    num_blocks: int
    num_used: int
    unit: Literal["classes", "groups"]
    score: str
    chance: float = 0.0

    @property
    def vacuous(self) -> bool:
        """Whether a guess reaches the bound."""
        return self.bound <= self.chance

    @property
    def needed(self) -> int | None:
        """How many classes or groups would do for a bound above chance, if all scored as these do; None where none."""
        if not 0 < self.chance < self.estimate:
            return None
        blocks = math.floor(math.log(1 - self.confidence) / math.log(self.chance / self.estimate)) + 1
        return blocks * (self.num_used // self.num_blocks)

    def __str__(self) -> str:
        tasks = f"{self.num_blocks} disjoint tasks" if self.num_blocks > 1 else "one task"
        used = f"estimate {self.estimate:.3f}; {tasks} of {self.num_used} {self.unit}"
        if self.vacuous:
            enough = "" if self.needed is None else f"; about {self.needed} {self.unit} would say more"
            said = f"nothing is certain, a guess reaches {self.chance:.3g}"
            return f"{self.score} on new {self.unit}: {said} ({used}{enough})"
        return (
            f"{self.score} on new {self.unit}: at least {self.bound:.3f} with confidence {self.confidence:.0%} ({used})"
        )


@checked(scores=array(ndim=2), confidence=between(0, 1), bets=between(0, 1))
def lower_bound(scores: np.ndarray, confidence: float = 0.95, bets: Sequence[float] = ()) -> float:
    r"""Return the lower bound of the mean of scores whose rows are partitions of the same units into blocks.

    It is the end of the means that are refused,
    $\frac1R \sum_r \sum_b w_b \prod_j (1 - \theta_b + \theta_b a_{rj} / \mu) \ge 1 / \delta$, with equal weights $w_b$;
    the closed form of this module for the bet $\theta = 1$ alone.

    The columns of a row may also be scores of different models, each trained on what came before its own block:
    the bound is then that of the geometric mean of their true scores, and so of their mean.

    Args:
        scores: $a_{rj} \in [0, 1]$, shape `(R, m)`; those of a row are independent.
        confidence: $1 - \delta$.
        bets: $\theta_b$ in (0, 1), beside $\theta = 1$; to be chosen before the scores are seen.

    Raises:
        ValueError: if a score is outside [0, 1] or an argument out of range.

    Examples:
        >>> round(lower_bound(np.full((1, 7), 0.77)), 3)  # 0.05 ** (1 / 7) * 0.77
        0.502
    """
    if not scores.size or not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError(
            f"scores: expected numbers in [0, 1], one row of them or more, got others or none {scores.shape}"
        )
    goal, blocks = -math.log1p(-confidence), scores.shape[1]
    with np.errstate(divide="ignore"):
        if not bets:
            return min(1.0, math.exp((_log_mean(np.log(scores).sum(1)) - goal) / blocks))
        theta = np.array([1.0, *bets])[:, None, None]
        low, high = LEAST, 1.0
        for _ in range(STEPS):  # what is won falls with the mean
            middle = (low + high) / 2
            won = _log_mean(np.log1p(theta * (scores / middle - 1)).sum(-1))
            low, high = (middle, high) if won >= goal else (low, middle)
    return 0.0 if low == LEAST else low


def _log_mean(values: np.ndarray) -> float:
    return float(np.logaddexp.reduce(values, axis=None) - math.log(values.size))


@checked(confidence=between(0, 1), num_partitions=at_least(1))
def certify(
    model: PredictiveModel,
    tasks: TaskSampler | TaskBatch,
    confidence: float = 0.95,
    *,
    score: Score | None = None,
    num_partitions: int = 100,
    training: TaskSampler | None = None,
) -> Certificate:
    """Bound from below the score of new tasks, from classes or groups that training never used.

    The bound holds if classes (or groups) are independent draws of where new ones come from, and if these were used for
    nothing before: not to train, not to choose the model, and not to train an encoder of the features. A model
    keeps marks of the rows of classes, and of the groups, that it was trained and validated on, and is asked for them
    (`ebmeta.tasks.marks` has what marks cannot tell); `training` names all of them.

    Args:
        model: the model.
        tasks: an `EpisodeSampler` or a `GroupSampler`; tasks of numbers given as such count as a group each.
        confidence: probability that the bound holds.
        score: "accuracy" of classes (as if None), "brier" (one minus half the score) or "coverage" of central 90%
            intervals (numbers, as if None), or a function: see `Score`.
        num_partitions: partitions of the classes into disjoint tasks, or splits of each group, whose mean is taken.
        training: source of the tasks of training; its classes and groups are refused.

    Returns:
        The bound, with what it was made of; print it.

    Raises:
        ValueError: if tasks are unlabelled, do not fit the model, or hold rows of training; if there are too few
            classes for a task, or a score is not in [0, 1].

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> y = np.repeat(np.arange(40), 20)
        >>> X = 4 * rng.normal(size=(40, 3))[y] + rng.normal(size=(800, 3))
        >>> from ebmeta import EpisodeSampler, fit, EmpiricalBayes
        >>> train, new = (EpisodeSampler(X[s], y[s], 2, 1, 5) for s in (slice(0, 400), slice(400, 800)))
        >>> model = fit(EmpiricalBayes.classifier(3), train, 5, progress=False).model
        >>> found = certify(model, new, num_partitions=20, training=train)
        >>> found.num_blocks, found.num_used, 0.05**0.1 * found.estimate - 0.02 < found.bound < found.estimate
        (10, 20, True)
        >>> certify(model, train)
        Traceback (most recent call last):
        ...
        ValueError: tasks: expected classes that training never used, got rows of it in class 0
    """
    source, categorical = as_source(tasks), model.likelihood.categorical
    if training is not None:
        check_classes(as_source(training), source, "tasks")
        check_shared_groups(as_source(training), source, "tasks")
    refuse_known(model.marks, tasks, "tasks")
    draws = [source.disjoint(index) for index in range(num_partitions)]
    task_batches(source, 64, model)  # whose columns it checks, and which tells of copies of rows
    if any(batch.query_y is None for batch in draws):
        raise ValueError("certify: expected query labels, got unlabelled tasks")
    what = score or ("accuracy" if categorical else "coverage")
    name = what if isinstance(what, str) else "the given score"
    scores = np.stack([_scores(model, batch, what) for batch in draws])
    estimate, blocks = float(scores.mean()), scores.shape[1]
    if not categorical:
        bound = lower_bound(scores.mean(0, keepdims=True), confidence, BETS[1:])
        return Certificate(bound, estimate, confidence, blocks, blocks, "groups", name)
    ways = torch.stack([batch.way_mask.sum(1) for batch in draws])
    chance = float((1 / ways).mean()) if what == "accuracy" else 0.0
    bound, used = lower_bound(scores, confidence), int(ways.sum(1).max())
    return Certificate(bound, estimate, confidence, blocks, used, "classes", name, chance)


def _scores(model: PredictiveModel, batch: TaskBatch, score: Score) -> np.ndarray:
    """Return the score of every task after the last step."""
    if isinstance(score, str):
        known = task_scores(model, batch).isel(step=-1)
        if score not in known:
            raise ValueError(f"score: expected one of {_names(known)} for these labels, got {score!r}")
        values = 1 - known[score] / 2 if score == "brier" else known[score]
        return np.asarray(values, dtype=float)
    summaries = predict(model, batch, num_draws=0)["predictive"].to_dataset().isel(step=-1)
    try:
        found = score(summaries, batch)
    except Exception as error:
        raise ValueError(f"score: expected a function of summaries and tasks, got one that fails: {error}") from error
    own = np.asarray(found, dtype=float)
    if own.shape != (len(batch),) or not ((own >= 0) & (own <= 1)).all():
        raise ValueError(f"score: expected a number in [0, 1] for each of {len(batch)} tasks, got others")
    return own


def _names(known: xr.Dataset) -> str:
    return " and ".join(name for name in ("accuracy", "brier", "coverage") if name in known)
