r"""Conformal sets for tasks of new classes, by putting calibration classes in the place of each candidate.

`ebmeta.ConformalSets` is valid over exchangeable tasks, and tasks that share classes are exchangeable for those
classes alone. Here classes are the units. For a candidate $c$ of a task, the other classes stay as they are, and each
of $n$ calibration classes takes the place of $c$ in turn, with as many support rows as $c$ has and queries of its own.
The score of such a query as one of its own class, $s_{ki}$, is compared with that of the query in question:

$$ p_c(x) = \frac{1}{n + 1} \Big( 1 + \sum_{k=1}^n \frac{1}{R} \sum_{i=1}^R 1\{ s_{ki} \ge s_c(x) \} \Big), \qquad
   \mathcal C(x) = \{ c : p_c(x) > \alpha \} . $$

Given the other classes, the true class and the calibration classes are exchangeable, so the set holds the true class
with probability at least $1 - \alpha$, at any number of ways, from $n \ge (1 - \alpha) / \alpha$ classes on. That is so
for scores that look at no other query, for which each row is predicted by itself. Sets of tasks that are predicted as a
whole are smaller, but which queries belong to the candidate is not known; with `transductive` those that look like it
are swapped, which proves nothing.
Derivation: `theory/conformal.md`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ebmeta.foundation.checks import MOST_COUNT, array, at_least, between, checked
from ebmeta.foundation.fingerprint import fingerprint
from ebmeta.model.base import PredictiveModel
from ebmeta.prediction.conformal import SLACK
from ebmeta.prediction.trees import predict
from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.columns import check_names
from ebmeta.tasks.drawing import exact, generator
from ebmeta.tasks.held_out import separate_classes
from ebmeta.tasks.marks import refuse_known
from ebmeta.tasks.rows import Rows
from ebmeta.tasks.source import TaskSampler, as_source

__all__ = ["ClassSwapSets", "swap_p_value"]


@checked(calibration=array(ndim=2), scores=array(ndim=1))
def swap_p_value(calibration: np.ndarray, scores: np.ndarray) -> np.ndarray:
    r"""Return the $p$-value of a candidate class, from scores of queries that fit their own class badly where large.

    Args:
        calibration: $s_{ki}$ of $R$ queries of each of $n$ classes in the place of the candidate, shape `(n, R)`.
        scores: $s_c(x)$ of the candidate for each query, shape `(Q,)`.

    Returns:
        $p_c(x)$, shape `(Q,)`.

    Examples:
        >>> swap_p_value(np.array([[0.1, 0.4], [0.2, 0.2], [0.7, 0.9]]), np.array([0.0, 0.3, 1.0]))
        array([1.   , 0.625, 0.25 ])
    """
    ranked = np.sort(calibration.ravel())
    reached = ranked.size - np.searchsorted(ranked, scores, side="left")
    return np.asarray((1 + reached / calibration.shape[1]) / (len(calibration) + 1))


@checked(level=between(0, 1), num_queries=at_least(1))
class ClassSwapSets:
    r"""Prediction sets that hold the true class of tasks of *new classes* with a stated probability.

    Args:
        model: a classifier.
        level: probability that a set must hold the true class, $1 - \alpha$.
        num_queries: queries of each calibration class, $R$.
        transductive: whether a task is predicted as a whole; its sets are smaller and their level is no promise.
        seed: seed of the rows that are drawn of calibration classes; those of a task depend on no other task.

    Raises:
        ValueError: if an argument is out of range or the model is no classifier.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> y = np.repeat(np.arange(24), 10)
        >>> X = 6 * rng.normal(size=(24, 3))[y] + rng.normal(size=(240, 3))
        >>> from ebmeta import EmpiricalBayes, EpisodeSampler, fit
        >>> train, held_out, new = (EpisodeSampler(X[y % 3 == s], y[y % 3 == s], 2, 1, 2) for s in range(3))
        >>> model = fit(EmpiricalBayes.classifier(3), train, 5, progress=False).model
        >>> sets = ClassSwapSets(model, level=0.8).calibrate(held_out).predict(new.sample(2))
        >>> sets["sets"].dims, sets["p_value"].shape
        (('task', 'query', 'way'), (2, 4, 2))
    """

    def __init__(
        self,
        model: PredictiveModel,
        level: float = 0.9,
        *,
        num_queries: int = 5,
        transductive: bool = False,
        seed: int = 0,
    ) -> None:
        if not model.likelihood.categorical:
            raise ValueError(f"model: expected a classifier, got a {model.likelihood.name} likelihood")
        self.model, self.level, self.num_queries = model, level, num_queries
        self.transductive, self.seed = transductive, seed
        self._rows: list[tuple[np.ndarray, np.ndarray]] = []  # inputs, and numbers of the rows of a class among them

    @checked()
    def calibrate(self, tasks: TaskSampler) -> ClassSwapSets:
        """Keep the classes that neither training nor model choice has used.

        Args:
            tasks: an `EpisodeSampler` or a mixture of them, whose rows alone matter. Each class counts once.

        Returns:
            This object.

        Raises:
            ValueError: if the tasks are not drawn from rows of classes, there are too few classes for the level, or the
                model was trained on them (see `ebmeta.tasks.marks`).
        """
        source = as_source(tasks)
        check_names(self.model.feature_names, source.feature_names, "when the model was trained")
        rows = [(part.X, part.members[code]) for part, code in separate_classes(source.class_rows)]
        if not rows:
            raise ValueError(f"tasks: expected tasks drawn from rows of classes, got {source.name}")
        least = int(np.ceil(self.level / (1 - self.level) - SLACK))
        if len(rows) < least:
            raise ValueError(f"tasks: expected at least {least} classes for a level of {self.level:g}, got {len(rows)}")
        refuse_known(self.model.marks, tasks, "tasks")
        self._rows = rows
        return self

    @checked()
    def predict(self, batch: TaskBatch) -> xr.Dataset:
        """Return the sets of a batch; query labels are not used.

        Args:
            batch: tasks of any number of ways.

        Returns:
            `sets` and `p_value` over `(task, query, way)`, `size` over `(task, query)`, -1 for padding, and `ways`, as
            `ConformalSets.predict` returns them.

        Raises:
            ValueError: if there is no calibration, the tasks do not fit the model, classes have anchors, which those of
                calibration have not, or a calibration class has too few rows to take the place of one of the task.
        """
        if not self._rows:
            raise ValueError("ClassSwapSets: expected a call of calibrate first, got none")
        if batch.anchor_size is not None and bool((batch.anchor_size > 0).any()):
            raise ValueError("anchor: expected none, since no class of calibration has one of its own, got some")
        shape = (*batch.query_mask.shape, batch.way_mask.shape[1])
        p_value = np.full(shape, np.nan)
        for t in range(len(batch)):
            own = self._p_values(batch[t : t + 1].trimmed().unlabelled())
            p_value[t, : own.shape[0], : own.shape[1]] = own
        real = ~np.isnan(p_value)
        sets = np.where(real, p_value > 1 - self.level + SLACK, False)
        size = np.where(real.any(-1), sets.sum(-1), -1)
        cells = ("task", "query", "way")
        data = {"sets": (cells, sets), "p_value": (cells, p_value), "size": (cells[:2], size)}
        ways = batch.way_mask.sum(1).cpu().numpy()
        coords = {name: np.arange(n) for name, n in zip(cells, shape, strict=True)}
        return xr.Dataset({**data, "ways": ("task", ways)}, coords=coords, attrs={"level": self.level})

    def _p_values(self, task: TaskBatch) -> np.ndarray:
        """Return the p-value of every class for every query of one task, shape `(Q, C)`."""
        probs = self._probs(task, task.query_x)[0]
        columns = []
        for c in range(int(task.way_mask.sum())):
            place, at = (task.support_y[0] == c).nonzero().flatten(), np.arange(self.num_queries)
            if self.transductive:
                at = np.flatnonzero(probs.argmax(1) == c)
                at = at if len(at) else probs[:, c].argmax(keepdims=True)
            rng = generator(self.seed, _number(task.support_x[0], place))
            support, queries = (v.to(task.support_x) for v in self._draw(len(place), len(at), rng))
            swapped = task[torch.zeros(len(support), dtype=torch.long)]
            x = swapped.support_x.clone()
            x[:, place] = support
            swapped = swapped.with_rows(replace(swapped.support, x=x))
            if self.transductive:
                whole = swapped.query_x.clone()
                whole[:, at] = queries
                queries = whole
            columns.append(swap_p_value(1 - self._probs(swapped, queries)[:, at, c], 1 - probs[:, c]))
        return np.stack(columns, 1)

    def _draw(self, shots: int, number: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return support rows and queries of every calibration class."""
        few = min(len(members) for _, members in self._rows)
        if few < shots + number:
            raise ValueError(f"calibrate: expected at least {shots + number} rows of every class, got {few} of one")
        drawn = [X[np.sort(rng.choice(m, shots + number, replace=False))] for X, m in self._rows]
        rows = torch.from_numpy(exact(np.stack([rng.permutation(own) for own in drawn])))
        return rows[:, :shots], rows[:, shots:]

    def _probs(self, tasks: TaskBatch, queries: Tensor) -> np.ndarray:
        """Return class probabilities of the queries of each task, together or each by itself, shape `(N, R, C)`."""
        number, each = queries.shape[:2]
        if not self.transductive:  # what is known of class proportions is not known of one row
            tasks = replace(tasks[torch.arange(number).repeat_interleave(each)], concentration=None)
            queries = queries.flatten(0, 1).unsqueeze(1)
        asked = tasks.with_rows(query=Rows.taken(queries, None, None, None))
        last = predict(self.model, asked, num_draws=0)["predictive"].to_dataset()["probs"].isel(step=-1)
        return np.asarray(last.transpose("task", "query", "way").values.reshape(number, each, -1), dtype=float)


def _number(rows: Tensor, own: Tensor) -> int:
    """Return a number of a task and one of its classes that no order changes, neither of tasks nor of rows."""
    marks = [int(fingerprint(row)[:8], 16) for row in rows.float().cpu().numpy()]
    return int(sum(marks) + 3 * sum(marks[row] for row in own.tolist())) % MOST_COUNT
