r"""Centre and unit of training values in 64 bits, $z = (x - \bar x) / s$.

Numbers keep the precision in which they came until they are centred and scaled; only then do they take the type of
the model. The digits in which Unix times or concentrations differ are lost otherwise, without a word. Where numbers
came too coarse for that, an error says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

__all__ = ["Exact", "centred", "check_resolution", "standard", "summary"]

ROUNDINGS = 1000  # of the largest number, within a standard deviation: with fewer, predictions would show them


class Exact(nn.Module):
    """A module some of whose buffers stay in 64 bits when the type of the rest changes.

    Examples:
        >>> from ebmeta.parts.prior import FullPrior
        >>> prior = FullPrior(2, num_covariates=1).float()
        >>> prior.loc.dtype, prior.center.dtype
        (torch.float32, torch.float64)
    """

    #: Names of those buffers; not every member has all of them.
    exact: ClassVar[tuple[str, ...]] = ()

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        kept = {name: self._buffers[name] for name in self.exact if name in self._buffers}
        out = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, value in kept.items():
            moved = self._buffers[name]
            if value is not None and moved is not None and moved.dtype != value.dtype:
                self._buffers[name] = value.to(moved.device)
        return out


def standard(x: Tensor, center: Tensor, unit: Tensor) -> Tensor:
    """Return numbers of any type in units of their training rows, in 64 bits."""
    out: Tensor = (x.double() - center) / unit
    return out


def summary(x: Tensor, name: str, columns: Sequence[str] = ()) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of every column in 64 bits; the value and 1 where there is only one.

    Args:
        x: numbers as they came, shape `(N, D)`.
        name: how an error message calls a column.
        columns: names of the columns; they are numbered by default.

    Raises:
        ValueError: if a column varies, but by too few roundings of its numbers.

    Examples:
        >>> summary(torch.tensor([[1.0, 5.0], [3.0, 5.0]]), "feature")
        (tensor([2., 5.], dtype=torch.float64), tensor([1., 1.], dtype=torch.float64))
    """
    center, off = centred(x)
    varies = x.amax(0) > x.amin(0)
    reach = torch.where(varies, off.abs().amax(0), 1.0)
    deviation = reach * (off / reach).square().mean(0).sqrt()  # squares of very small numbers would vanish
    for p in varies.nonzero().flatten().tolist():
        of = f"{name} {columns[p]!r}" if columns else f"{name} {p}"
        check_resolution(of, float(deviation[p]), x[:, p])
    return center, torch.where(varies, deviation, 1.0)


def centred(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean of every column and all distances from it in 64 bits; they are 0 in a column of one value."""
    off = x.double() - x[0].double()  # sums of large numbers would round what they differ in
    mean = off.mean(0)
    return x[0].double() + mean, off - mean


def check_resolution(name: str, deviation: float, x: Tensor) -> None:
    """Raise `ValueError` where numbers differ by too few of their roundings; whole numbers have no roundings.

    Args:
        name: what the numbers are.
        deviation: their standard deviation.
        x: the numbers as they came.
    """
    largest, eps = float(x.abs().max()), torch.finfo(x.dtype).eps
    if not 0 < deviation < ROUNDINGS * eps * largest or (largest * eps <= 1 and bool((x == x.round()).all())):
        return
    raise ValueError(
        f"{name}: expected a spread of at least {ROUNDINGS:,} roundings of its numbers, got {deviation:.3g} among "
        f"numbers up to {largest:.3g} in {8 * x.element_size()} bits; subtract a constant before they are rounded, "
        "or leave it out"
    )
