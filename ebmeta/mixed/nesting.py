r"""Whether one mixed model is a special case of another, and how a likelihood ratio is distributed under it.

Twice the gain in log likelihood of $q$ parameters more is $\chi^2_q$ where none of them is at the end of its range.
Where one spread is 0, and with it its correlations, it is half $\chi^2_{q-1}$ and half $\chi^2_q$. Where several are,
the weights of a mixture of $\chi^2_0, \dots, \chi^2_q$ depend on the data, but those of even and of odd numbers are
each a half, so that the same mixture is an upper bound. Sources: Self and Liang 1987, Asymptotic properties of maximum
likelihood estimators under nonstandard conditions; Stram and Lee 1994; Shapiro 1988, Towards a unified theory of
inequality constrained testing in multivariate analysis.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ebmeta.random_effects.engine import Engine

__all__ = ["Ratio", "nested", "ratio_test", "spans"]

Array = NDArray[np.float64]
CLOSE = 1e-7  # of a column's length: less is left of one that others give
LOST = 1e-3  # nats that a larger model may lose by the tolerance of its maximum


class Ratio(NamedTuple):
    """A likelihood-ratio test.

    Args:
        statistic: twice the gain in nats.
        p_value: probability of as large a gain under the smaller model.
        words: the distribution under it, or why there is none.
    """

    statistic: float
    p_value: float
    words: str


def spans(columns: Array, wide: Array) -> bool:
    """Return whether every column is a combination of others, shapes `(N, P)` and `(N, Q)`.

    Examples:
        >>> x = np.arange(6.0).reshape(3, 2)
        >>> spans(x[:, :1] - x[:, 1:], x), spans(x**2, x)
        (True, False)
    """
    if not columns.shape[1]:
        return True
    if not wide.shape[1]:
        return bool((columns == 0).all())
    unit = np.sqrt((wide**2).sum(0))
    q, r = np.linalg.qr(wide / np.where(unit > 0, unit, 1.0))
    q = q[:, np.abs(np.diag(r)) > CLOSE]
    left = columns - q @ (q.T @ columns)
    return bool((np.sqrt((left**2).sum(0)) <= CLOSE * np.sqrt((columns**2).sum(0))).all())


def nested(small: Engine, large: Engine) -> bool:
    """Return whether a model of the same rows and likelihood is a special case of another.

    Args:
        small: the criterion of the special case.
        large: that of the other.
    """
    if not spans(small.rows.x, large.rows.x) or not np.array_equal(small.rows.offset, large.rows.offset):
        return False
    for factor, grouping in zip(small.factors, small.rows.groupings, strict=True):
        wide = [
            other.z[:, part]
            for f, other in zip(large.factors, large.rows.groupings, strict=True)
            for part in f.slices
            if _same_groups(grouping.codes, other.codes)
        ]
        if not all(any(spans(grouping.z[:, part], z) for z in wide) for part in factor.slices):
            return False
    return True


def _same_groups(one: NDArray[np.int64], other: NDArray[np.int64]) -> bool:
    pairs = len(np.unique(np.stack([one, other]), axis=1).T)
    return pairs == len(np.unique(one)) == len(np.unique(other))


def ratio_test(small: Engine, large: Engine, gain: float, num_more: int) -> Ratio:
    """Test a model against a special case of it.

    Args:
        small: the criterion of the special case.
        large: that of the model.
        gain: log likelihood that it brings, in nats.
        num_more: number of parameters more.
    """
    if gain < -LOST:
        return Ratio(2 * gain, np.nan, "the larger model has the smaller likelihood: it is not at its maximum")
    twice, spreads = (
        2 * max(gain, 0.0),
        sum(len(f.terms) for f in large.factors) - sum(len(f.terms) for f in small.factors),
    )
    if not spreads:
        return Ratio(twice, float(stats.chi2.sf(twice, num_more)), f"chi2({num_more})")
    below = float(stats.chi2.sf(twice, num_more - 1)) if num_more > 1 else float(twice <= 0)
    value = (below + float(stats.chi2.sf(twice, num_more))) / 2
    words = f"half chi2({num_more - 1}), half chi2({num_more})"
    return Ratio(twice, value, words if spreads == 1 else f"at most {words}")
