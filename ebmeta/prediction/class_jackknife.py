r"""Intervals over classes, by the jackknife: how far a mean over tasks would move with other classes.

Tasks drawn from $n$ classes share them, so that an interval over tasks says how well the mean over all tasks *of these
classes* is known. New classes are another draw. With $\bar a_{-c}$ the mean over the tasks without class $c$,

$$ \widehat{\operatorname{Var}} = \max\Big\{ \frac{n - 1}{n} \sum_{c=1}^n \Big[ (\bar a_{-c} - \bar a_{-\cdot})^2
   - s^2 \Big( \frac{1}{T_{-c}} - \frac1T \Big) \Big],\ 0 \Big\} + \frac{s^2}{T} , $$

where $s^2$ is the variance between the $T$ tasks, of which $T_{-c}$ are without class $c$: what is subtracted is the
noise of a mean over fewer tasks, and what is added that of the tasks that were drawn. The interval is Student's with
$n - 1$ degrees of freedom. The jackknife of a mean over all subsets errs to the safe side (Efron and Stein 1981).
Derivation: `theory/certificate.md`.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

from ebmeta.foundation.checks import array, between, checked

__all__ = ["class_half_width"]


@checked(values=array(ndim=1), classes=array(ndim=2), level=between(0, 1))
def class_half_width(values: np.ndarray, classes: np.ndarray, level: float = 0.95) -> float:
    """Return the half width of an interval of the mean over tasks, for other classes of the same kind.

    A comparison takes the differences of two methods on the same tasks for `values`.

    Args:
        values: a score of each task, shape `(T,)`.
        classes: numbers of the classes of each task, -1 for none, shape `(T, C)`: `TaskBatch.way_class`.
        level: coverage of the interval.

    Returns:
        The half width; NaN where a class is in every task, as where there is but one task.

    Raises:
        ValueError: if the shapes do not match, or a number of a class is no whole number.

    Examples:
        >>> pairs = np.array([[0, 1], [1, 2], [0, 2]])
        >>> round(class_half_width(np.array([0.5, 0.6, 0.7]), pairs), 3)
        0.248
    """
    if len(values) != len(classes):
        raise ValueError(f"classes: expected one row for each of {len(values)} tasks, got {classes.shape}")
    numbers, codes = np.unique(classes, return_inverse=True)
    if (numbers != np.round(numbers)).any():
        raise ValueError("classes: expected whole numbers, got others")
    without = np.ones((len(classes), len(numbers)))
    np.put_along_axis(without, codes.reshape(classes.shape), 0, 1)
    without = without[:, numbers >= 0]
    (tasks, number), count = without.shape, without.sum(0)
    if number < 2 or not count.all():
        return float("nan")
    means = values @ without / count
    spread = float(np.square(means - means.mean()).sum())
    variance = float(values.var(ddof=1))
    between_classes = (number - 1) / number * (spread - variance * (1 / count - 1 / tasks).sum())
    total = max(between_classes, 0.0) + variance / tasks
    return float(stats.t.ppf((1 + level) / 2, number - 1) * np.sqrt(total))
