r"""Where rising functions of many numbers cross zero, all of them at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["rising_root"]


def rising_root(
    f: Callable[[Tensor], Tensor],
    ends: tuple[Tensor, Tensor],
    values: tuple[Tensor, Tensor],
    least: Tensor,
    most: int,
    *,
    steps: bool = False,
) -> Tensor:
    r"""Return upper ends of narrow brackets of the roots of a function that rises, element by element.

    An inverse parabola through three points where it can be trusted, else the middle of the bracket:

    $$ t = \frac{f_1}{f_2 - f_1} \frac{f_3}{f_2 - f_3} + \frac{x_3 - x_1}{x_2 - x_1} \frac{f_1}{f_3 - f_1}
       \frac{f_2}{f_3 - f_2} , \qquad x \leftarrow x_1 + t\, (x_2 - x_1) . $$

    A step in the function is found by halving, a smooth root in fewer calls.

    Args:
        f: function of each element, from and to the shape of an end.
        ends: where it is below 0, and where it is at least 0.
        values: $f$ there.
        least: width of a bracket that is narrow enough, beside a few roundings of its ends; of the same shape.
        most: calls of the function, at most.
        steps: whether it has steps alone, which no parabola fits.

    Returns:
        Where the function is at least 0, shape of an end.

    Source: Chandrupatla 1997, A new hybrid quadratic/bisection algorithm for finding the zero of a nonlinear function.

    Examples:
        >>> two = torch.tensor([2.0, 3.0], dtype=torch.float64)
        >>> f = lambda x: x.square() - two
        >>> rising_root(f, (0 * two, two), (f(0 * two), f(two)), 1e-12 * two, 100)
        tensor([1.4142, 1.7321], dtype=torch.float64)
    """
    (x1, x2), (f1, f2) = ends, values
    eps, t = 4 * torch.finfo(x1.dtype).eps, torch.full_like(x1, 0.5)
    for _ in range(most):
        width, wanted = (x2 - x1).abs(), least + eps * (x1.abs() + x2.abs())
        if bool((width <= wanted).all()):
            break
        x = x1 + t * (x2 - x1)
        fx = f(x)
        same = (fx >= 0) == (f1 >= 0)
        x3, f3 = torch.where(same, x1, x2), torch.where(same, f1, f2)
        x1, x2, f1, f2 = x, torch.where(same, x2, x1), fx, torch.where(same, f2, f1)
        if steps:
            continue
        xi, phi = (x1 - x2) / (x3 - x2), (f1 - f2) / (f3 - f2)
        trusted = (phi.square() < xi) & ((1 - phi).square() < 1 - xi)
        t = f1 / (f2 - f1) * f3 / (f2 - f3) + (x3 - x1) / (x2 - x1) * f1 / (f3 - f1) * f2 / (f3 - f2)
        # Not nearer to an end than the bracket may be wide at last, so that it closes from both sides.
        edge = (wanted / 2 / (x2 - x1).abs()).nan_to_num(0.5).clamp(max=0.5)
        t = torch.where(trusted & t.isfinite(), t, 0.5)
        t = torch.maximum(torch.minimum(t, 1 - edge), edge)
    return torch.where(f1 >= 0, x1, x2)
