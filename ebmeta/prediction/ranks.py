r"""The $p$-value of a task: its rank among calibration tasks, corrected for classes that these do not have.

With scores $s_1, \dots, s_n$ of calibration tasks, the rank of a task with score $s$ is
$r = (1 + \#\{j : s_j \ge s\}) / (n + 1)$. For a task exchangeable with them, $P(r \le a) \le a$. A task of new classes
is not: calibration tasks share their classes, and a class that is odd by nature makes all its tasks odd. What a new
class does is seen by leaving one out. Let $A(r)$ be the share of the tasks with a class, in the mean over classes,
whose rank among the tasks without it is at most $r$. One new class adds $A(r) - r$; to first order, the $C$ of a new
task add as much each:

$$ p = \max_{r' \le r} \bigl( r' + C \max(A(r') - r', 0) \bigr) . $$

That is a rate over draws of classes, those of calibration among them. The rank is that of Vovk, Gammerman and Shafer
2005.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ebmeta.foundation.telling import tell

__all__ = ["Ranks"]

Array = NDArray[np.float64]
NEAR = 1e-12  # ranks are fractions of two kinds: equal ones may differ by rounding


@dataclass(frozen=True)
class Ranks:
    """The scores of calibration tasks and what their ranks are worth.

    Args:
        scores: sorted scores, shape `(n,)`.
        p_values: by how many of them are at least as large as the score of a task, shape `(n + 1,)`.

    Examples:
        >>> Ranks.of(np.array([3.0, 1.0, 2.0])).p_value(np.array([0.0, 2.0, 5.0])).tolist()
        [1.0, 0.75, 0.25]
    """

    scores: Array
    p_values: Array

    @classmethod
    def of(cls, scores: Array, classes: NDArray[np.int64] | None = None) -> Ranks:
        """Return the ranks of calibration tasks.

        Args:
            scores: score of each task, the higher, the odder; shape `(n,)`.
            classes: numbers of the classes of each task, shape `(n, C)`, -1 for none; where tasks name none, each
                counts as a draw of its own.

        Returns:
            Ranks. A `UserWarning` tells where every task has all classes, so that none can be left out.

        Examples:
            >>> scores, classes = np.array([1.0, 2.0, 3.0, 9.0, 8.0, 7.0]), np.repeat([[0], [1]], 3, axis=0)
            >>> Ranks.of(scores, classes).p_value(np.array([9.5])).round(2).tolist()  # one class is odd: what if new?
            [0.14]
        """
        rank = np.arange(1, len(scores) + 2) / (len(scores) + 1)
        if classes is None:
            return cls(np.sort(scores), rank)
        added = []
        for number in np.unique(classes[classes >= 0]):
            has = (classes == number).any(1)
            if not has.all():
                own = np.sort(cls.of(scores[~has]).p_value(scores[has]))
                added.append(np.searchsorted(own, rank + NEAR, side="right") / len(own) - rank)
        if not added:
            told = "every calibration task has all classes: p-values hold for tasks of these, not of new ones"
            tell(f"calibrate: {told}; draw tasks of fewer ways than there are classes")
            return cls(np.sort(scores), rank)
        more = float((classes >= 0).sum(1).mean()) * np.mean(added, 0)
        return cls(np.sort(scores), np.minimum(np.maximum.accumulate(rank + more.clip(0)), 1))

    def p_value(self, score: Array) -> Array:
        """Return the p-value of each score, of the shape of `score`."""
        above = len(self.scores) - np.searchsorted(self.scores, score, side="left")
        found: Array = self.p_values[above]
        return found
