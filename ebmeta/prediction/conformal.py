r"""Conformal sets of classes that hold the true one with a stated probability, over tasks.

Queries of one task share its classes, its support set and its posterior, so they are not exchangeable with
the queries of another task; tasks are. Each of $T$ calibration tasks therefore weighs the same, whatever
its number of queries, and the new task stands at infinity:

$$ \hat s = \mathrm{Quantile}_{1 - \alpha} \Big( \frac{1}{T + 1} \Big[ \sum_{t=1}^T \frac{1}{Q_t}
   \sum_{i=1}^{Q_t} \delta_{s_{ti}} + \delta_\infty \Big] \Big), \qquad
   \mathcal C(x) = \{ c : s(x, c) \le \hat s \}, $$

with $s_{ti}$ the score of the true class of a calibration query. For a random query of a new task that is
exchangeable with the calibration tasks, the set holds the true class with probability at least
$1 - \alpha$, whatever the model and the distribution of tasks; with `by_ways` this holds given the number of
ways. It does not hold for every task by itself, nor where new tasks come from other classes than the
calibration tasks did. Sources: Lee, Barber and Willett 2023; Dunn, Wasserman and Ramdas 2022; scores of
Sadinle, Lei and Wasserman 2019 and Romano, Sesia and Candès 2020. Derivation: `theory/conformal.md`.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import xarray as xr

from ebmeta.foundation.checks import array, at_least, between, checked, dataset, real_array
from ebmeta.model.base import PredictiveModel
from ebmeta.prediction.calibration import Z95
from ebmeta.prediction.other_sizes import mean_shots, tell_of_others
from ebmeta.prediction.query_numbers import query_numbers
from ebmeta.prediction.scores import task_batches
from ebmeta.prediction.trees import predict
from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.marks import refuse_known
from ebmeta.tasks.source import TaskSampler

__all__ = ["ConformalSets", "class_scores", "set_coverage", "task_quantile"]

Score = Literal["lac", "aps"]
SLACK = 1e-9  # rounding of a sum of weights
CALIBRATION, PREDICTION = 0, 1  # streams of random numbers


@checked(probs=array(padded=True))
def class_scores(probs: np.ndarray, score: Score = "lac", uniform: np.ndarray | None = None) -> np.ndarray:
    r"""Return the score $s(x, c)$ of every class: large where it fits badly.

    - "lac" (least ambiguous sets): $s(x, c) = 1 - p_c$. The smallest sets on average.
    - "aps" (adaptive sets): $s(x, c) = \sum_{j : p_j > p_c} p_j + u \sum_{j : p_j = p_c} p_j$. Uniform on [0, 1] for
      the true class where the probabilities are right, so that hard queries get large sets instead of wrong ones.
      Classes of equal probability have equal scores, in whatever order they are.

    Args:
        probs: class probabilities, shape `(..., C)`; NaN is padding.
        score: "lac" or "aps".
        uniform: $u$ in [0, 1], shape `(...)`, for "aps".

    Returns:
        Scores of the same shape, infinite for padding.

    Raises:
        ValueError: if the score is unknown, or "aps" lacks `uniform`.

    Examples:
        >>> class_scores(np.array([0.5, 0.2, 0.3]), "aps", np.array(0.5))
        array([0.25, 0.9 , 0.65])
        >>> class_scores(np.array([0.25, 0.5, 0.25]), "aps", np.array(0.5))
        array([0.75, 0.25, 0.75])
    """
    if not ((probs >= 0) & (probs <= 1 + 1e-6))[~np.isnan(probs)].all():
        raise ValueError("probs: expected numbers in [0, 1] or NaN for padding, got others")
    padding = np.isnan(probs)
    if score == "lac":
        return np.where(padding, np.inf, 1 - probs)
    if uniform is None:
        raise ValueError("uniform: expected random numbers for score='aps', got None")
    uniform = real_array("uniform", uniform, ndim=probs.ndim - 1)
    if uniform.shape != probs.shape[:-1] or not ((uniform >= 0) & (uniform <= 1)).all():
        raise ValueError(f"uniform: expected numbers in [0, 1] of shape {probs.shape[:-1]}, got shape {uniform.shape}")
    p = np.where(padding, 0.0, probs)
    order = np.argsort(-p, -1, kind="stable")
    ranked = np.take_along_axis(p, order, -1)
    edge = np.diff(ranked, axis=-1, prepend=np.inf, append=-1.0) != 0  # before and after classes of one probability
    total = np.cumsum(ranked, -1)
    first = np.maximum.accumulate(np.where(edge[..., :-1], total - ranked, -np.inf), -1)
    last = np.minimum.accumulate(np.where(edge[..., 1:], total, np.inf)[..., ::-1], -1)[..., ::-1]
    scores = np.empty_like(p)
    np.put_along_axis(scores, order, first + uniform[..., None] * (last - first), -1)
    return np.where(padding, np.inf, scores)


@checked(scores=array(ndim=2, padded=True), level=between(0, 1))
def task_quantile(scores: np.ndarray, level: float) -> float:
    """Return the threshold, a quantile of scores in which tasks have equal weight and one more score is infinite.

    Args:
        scores: scores of the true classes, shape `(T, Q)`; NaN is padding.
        level: probability that the set must hold the true class.

    Returns:
        The threshold; infinite where `T` tasks are too few for the level, `T < level / (1 - level)`.

    Examples:
        >>> scores = np.array([[0.1, 0.3], [0.2, np.nan], [0.4, 0.6]])
        >>> task_quantile(scores, 0.5), task_quantile(scores, 0.9)
        (0.3, inf)
    """
    real = ~np.isnan(scores)
    weights = (real / np.maximum(real.sum(1, keepdims=True), 1))[real]
    order = np.argsort(scores[real], kind="stable")
    share = np.cumsum(weights[order]) / (len(scores) + 1)
    first = int(np.searchsorted(share, level - SLACK))
    return float(scores[real][order][first]) if first < len(order) else float("inf")


@checked(level=between(0, 1))
class ConformalSets:
    r"""Prediction sets calibrated over tasks, for a model or for given class probabilities.

    Args:
        model: a classifier; None where probabilities are given.
        level: probability that a set must hold the true class, $1 - \alpha$.
        score: "lac" or "aps", see `class_scores`.
        by_ways: a threshold for each number of ways (Mondrian), so that coverage holds given the number of
            ways; sets of tasks with a number that calibration had too few of hold every class.
        seed: seed of the random numbers of "aps"; that of a query depends on its task alone, and on no order.

    Raises:
        ValueError: if an argument is out of range or the model is no classifier.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> probs = rng.dirichlet(np.ones(3), (100, 8))  # 100 tasks of 8 queries
        >>> y = (rng.uniform(size=(100, 8, 1)) > probs.cumsum(-1)).sum(-1)
        >>> sets = ConformalSets(level=0.8).calibrate_probs(probs[:50], y[:50]).predict_probs(probs[50:])
        >>> sets["sets"].shape, bool(set_coverage(sets, y[50:])["coverage"] > 0.75)
        ((50, 8, 3), True)
    """

    def __init__(
        self,
        model: PredictiveModel | None = None,
        level: float = 0.9,
        *,
        score: Score = "lac",
        by_ways: bool = False,
        seed: int = 0,
    ) -> None:
        if model is not None and not model.likelihood.categorical:
            raise ValueError(f"model: expected a classifier, got a {model.likelihood.name} likelihood")
        self.model, self.level, self.score, self.by_ways, self.seed = model, level, score, by_ways, seed
        #: Threshold of each number of ways (of all, under 0, unless `by_ways`); empty before calibration.
        self.thresholds: dict[int, float] = {}
        self._ways: tuple[int, int] | None = None  # fewest and most classes of a calibration task
        self._shots: tuple[float, float] | None = None  # fewest and most labelled rows of a class, on average in a task
        self._used = self._settings()  # those that thresholds are of

    @checked(num_tasks=at_least(1))
    def calibrate(self, tasks: TaskSampler | TaskBatch, num_tasks: int = 600) -> ConformalSets:
        """Set the threshold on labelled tasks that neither training nor model choice has used.

        Args:
            tasks: labelled tasks, or a source of them (its batches 0, 1, ... of 64 tasks are used).
            num_tasks: how many tasks to draw from a source.

        Returns:
            This object.

        Raises:
            ValueError: if there is no model, the tasks are unlabelled or do not fit it, or it was trained or chosen on
                their classes (see `ebmeta.tasks.marks`).
        """
        batches, model = task_batches(tasks, num_tasks, self.model), self._classifier()
        if any(batch.query_y is None for batch in batches):
            raise ValueError("calibrate: expected query labels, got unlabelled tasks")
        refuse_known(model.marks, tasks, "tasks")
        parts = []
        for batch in batches:
            tree = predict(model, batch, num_draws=0)
            probs, y = tree["predictive"].to_dataset()["probs"], tree["observed_data"].to_dataset()["query_y"]
            parts.append(xr.Dataset({"probs": probs.isel(step=-1, drop=True), "y": y}))
        data = xr.concat(parts, "task", join="outer", fill_value={"y": -1})
        self.calibrate_probs(data["probs"].transpose("task", "query", "way").values, data["y"].values)
        shots = np.concatenate([mean_shots(batch) for batch in batches])
        self._shots = float(shots.min()), float(shots.max())
        return self

    @checked(probs=array(ndim=3, padded=True), query_y=array(ndim=2, padded=True))
    def calibrate_probs(self, probs: np.ndarray, query_y: np.ndarray) -> ConformalSets:
        """Set the threshold on class probabilities of any model.

        Args:
            probs: class probabilities of the queries, shape `(T, Q, C)`; NaN is padding.
            query_y: true classes, shape `(T, Q)`; anything for padding.

        Returns:
            This object.

        Raises:
            ValueError: if shapes do not match, a probability is outside [0, 1], or a label is no class.
        """
        probs, ways = _checked(probs)
        y = np.asarray(query_y)
        real = ~np.isnan(probs[..., 0])
        if y.shape != real.shape or not ((y >= 0) & (y < ways[:, None]) & (y == np.round(y)))[real].all():
            raise ValueError(
                f"query_y: expected whole labels below the number of ways, of shape {real.shape}, got shape {y.shape}"
            )
        scores = self._scores(probs, CALIBRATION)
        truth = np.take_along_axis(scores, np.where(real, y, 0).astype(int)[..., None], -1)[..., 0]
        truth = np.where(real, truth, np.nan)
        self._ways, self._shots = (int(ways.min()), int(ways.max())), None
        groups = ways if self.by_ways else np.zeros_like(ways)
        self.thresholds = {int(g): task_quantile(truth[groups == g], self.level) for g in np.unique(groups)}
        self._used = self._settings()
        return self

    @checked()
    def predict(self, batch: TaskBatch) -> xr.Dataset:
        """Return the sets of a batch after the last refinement step; query labels are not used.

        Args:
            batch: tasks; a warning tells where they have more or fewer classes, or labelled rows of each, than those of
                calibration had.

        Returns:
            `sets` over `(task, query, way)`, True for classes in the set; `size` over `(task, query)`, -1 for
            padding; `ways`, the number of classes of each task.

        Raises:
            ValueError: if there is no model or no calibration, or the tasks do not fit the model.
        """
        self._calibrated()
        if self._shots is not None:
            tell_of_others(mean_shots(batch), self._shots, "labelled rows of each class", 0.5)
        probs = predict(self._classifier(), batch, num_draws=0)["predictive"].to_dataset()["probs"]
        return self.predict_probs(probs.isel(step=-1).transpose("task", "query", "way").values)

    @checked(probs=array(ndim=3, padded=True))
    def predict_probs(self, probs: np.ndarray) -> xr.Dataset:
        """Return the sets of class probabilities of shape `(T, Q, C)`; as `predict`, without a model."""
        self._calibrated()
        probs, ways = _checked(probs)
        if self._ways is not None and not self.by_ways:
            tell_of_others(ways, self._ways, "classes")
        limits = np.array([self.thresholds.get(int(w) if self.by_ways else 0, np.inf) for w in ways])
        real = ~np.isnan(probs)
        sets = (self._scores(probs, PREDICTION) <= limits[:, None, None]) & real
        size = np.where(real.any(-1), sets.sum(-1), -1)
        data = {"sets": (("task", "query", "way"), sets), "size": (("task", "query"), size), "ways": ("task", ways)}
        coords = {name: np.arange(n) for name, n in zip(("task", "query", "way"), sets.shape, strict=True)}
        return xr.Dataset(data, coords=coords, attrs={"level": self.level})

    def _scores(self, probs: np.ndarray, stream: int) -> np.ndarray:
        uniform = query_numbers(probs, self.seed, stream) if self.score == "aps" else None
        return class_scores(probs, self.score, uniform)

    def _classifier(self) -> PredictiveModel:
        if self.model is None:
            raise ValueError("model: expected a model, got None (probabilities go to calibrate_probs, predict_probs)")
        return self.model

    def _calibrated(self) -> None:
        if not self.thresholds:
            raise ValueError("ConformalSets: expected a call of calibrate first, got none")
        if self._used != self._settings():
            raise ValueError("ConformalSets: expected the settings of its calibration, got others (calibrate again)")

    def _settings(self) -> tuple[Any, ...]:
        return self.level, self.score, self.by_ways


@checked(
    sets=dataset(
        "what ConformalSets.predict returned", sets=("task", "query", "way"), size=("task", "query"), ways=("task",)
    ),
    query_y=array(ndim=2, padded=True),
)
def set_coverage(sets: xr.Dataset, query_y: Any) -> xr.Dataset:
    """Score prediction sets against the labels, over all tasks and by number of ways.

    Args:
        sets: what `ConformalSets.predict` returned.
        query_y: true classes, shape `(T, Q)`; anything for padding.

    Returns:
        `coverage` (share of sets with the true class) and `size` (mean number of classes), means over tasks of
        means over queries, each with the half width of a 95% interval over tasks, `<name>_half_width`;
        `single` and `empty`, shares of sets with one class and none; `num_tasks`. The same again over
        dimension `ways`, as `<name>_by_ways`. The intervals take the threshold as given.

    Raises:
        ValueError: if the labels do not have the shape of the sets.
    """
    y, real = np.asarray(query_y), sets["size"].values >= 0
    if y.shape != real.shape:
        raise ValueError(f"query_y: expected shape {real.shape} to match the sets, got {y.shape}")
    if not ((y >= 0) & (y < sets["ways"].values[:, None]) & (y == np.round(y)))[real].all():
        raise ValueError("query_y: expected the number of a class of its task for each query, got others")
    truth = np.where(real, y, 0).astype(int)[..., None]
    size = sets["size"].values
    queries = {
        "coverage": np.take_along_axis(sets["sets"].values, truth, -1)[..., 0],
        "size": size,
        "single": size == 1,
        "empty": size == 0,
    }
    per_task = {name: np.where(real, v, 0).sum(1) / real.sum(1) for name, v in queries.items()}
    ways = sets["ways"].values
    kinds = np.unique(ways)
    out: dict[str, Any] = dict(_means(per_task, np.ones(len(ways), dtype=bool)))
    by_ways = [_means(per_task, ways == kind) for kind in kinds]
    for name in by_ways[0]:
        out[f"{name}_by_ways"] = ("ways", [means[name] for means in by_ways])
    return xr.Dataset(out, coords={"ways": kinds}, attrs=sets.attrs)


def _means(per_task: dict[str, np.ndarray], chosen: np.ndarray) -> dict[str, float]:
    number = int(chosen.sum())
    out: dict[str, float] = {"num_tasks": number}
    for name, values in per_task.items():
        out[name] = float(values[chosen].mean())
        spread = values[chosen].std(ddof=1) if number > 1 else np.nan
        out[f"{name}_half_width"] = float(Z95 * spread / np.sqrt(number))
    return out


def _checked(probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities, rounded as 32-bit floats are, and the number of ways of each task.

    What is equal in one precision would else lie beyond a threshold that was found in the other.
    """
    with np.errstate(under="ignore"):
        probs = np.asarray(probs, np.float32).astype(np.float64)
    if probs.ndim != 3 or not probs.size:
        raise ValueError(f"probs: expected shape (tasks, queries, ways), got {probs.shape}")
    real = ~np.isnan(probs)
    if not ((probs >= 0) & (probs <= 1 + 1e-6))[real].all():
        raise ValueError("probs: expected numbers in [0, 1] or NaN for padding, got others")
    ways = real.sum(-1).max(1)
    expected = (np.arange(probs.shape[-1]) < ways[:, None])[:, None] & real.any(-1)[..., None]
    if (expected != real).any() or not ways.all():
        raise ValueError("probs: expected every class of a task for each of its queries, padding last, got gaps")
    return probs, ways
