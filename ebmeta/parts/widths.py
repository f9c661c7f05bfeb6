r"""Widths of class weights, measured on training classes.

$$ \lambda_p^{-1} = a^2 s_p^2, \qquad \Lambda_{0p}^{-1} = a^2 t_p^2, $$

with $s_p^2$ and $t_p^2$ the variances of feature $p$ within and between classes, and an amplitude $a$. They make $q_0$
as wide as the spread of class weights about it. The prior has the second, the initializer the first, and the weights of
the refiner's mixture start in proportion.

Source: theory "The amortized initializer".
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ebmeta.tasks.training_rows import TrainingRows

__all__ = ["AMPLITUDE", "Widths", "class_widths"]

AMPLITUDE = 60.0  # of measured widths: the softmax then sees logits of about the right size
LEAST_VARIANCE = 1e-5  # of a feature of unit vectors

#: Widths of a part are trained with all else, or measured and kept.
Widths = Literal["trained", "measured"]


def class_widths(rows: TrainingRows) -> tuple[Tensor, Tensor]:
    """Return the variances of class weights about their examples, and among classes, both of shape `(P - 1,)`.

    Args:
        rows: training rows; the last feature is constant.
    """
    within, between = (AMPLITUDE**2 * v[:-1].clamp(min=LEAST_VARIANCE) for v in rows.variances)
    return within, between
