r"""Fixed or learned bases of raw inputs, with which a linear model is a curve of the inputs.

A basis maps inputs of shape `(..., D)` to features of shape `(..., B)`. It is measured once, on training inputs,

$$ z_d = (x_d - o_d) / s_d, $$

with an origin $o$ and a width $s$ of each column that are saved with the model's parameters. Columns are expanded
one by one, and their features stand side by side; `RandomFeatures` alone mixes columns.

==================  ================================================================  ==========================
member              features of a column                                              outside the training inputs
==================  ================================================================  ==========================
`SplineBasis`       cubic B-splines, which sum to one                                 straight lines
`FourierBasis`      $\sin 2\pi m_k z$ and $\cos 2\pi m_k z$, $m_k$ given or learned   periodic
`RandomFeatures`    random sines and cosines: approximately an RBF kernel             back to the prior mean
==================  ================================================================  ==========================

A column that holds a single value in training can teach nothing: it is left out, whatever it holds later. Its
features are zero (`RandomFeatures` ignores it).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.interpolate import BSpline
from torch import Tensor, nn

from ebmeta.foundation.checks import above, at_least, checked
from ebmeta.foundation.standardization import Exact, standard, summary

__all__ = ["BASES", "Basis", "FourierBasis", "RandomFeatures", "SplineBasis", "build_basis"]

EVEN = 0.05  # how far knots are drawn from the quantiles towards equal spacing, so that no two of them meet


class Basis(Exact, ABC):
    r"""The abstract basis, with the measured frame of the inputs, $z = (x - o) / s$, in 64 bits.

    Args:
        num_inputs: columns of the input, $D$.
        num_features: features that they become, $B$.
        settings: the other arguments of the member, from which `config` rebuilds it.

    Raises:
        ValueError: if `num_inputs` is below 1.
    """

    exact: ClassVar[tuple[str, ...]] = ("origin", "width")

    name: ClassVar[str]
    origin: Tensor
    width: Tensor

    def __init__(self, num_inputs: int, num_features: int, settings: Mapping[str, Any]) -> None:
        super().__init__()
        self.num_inputs, self.num_features, self._settings = num_inputs, num_features, dict(settings)
        self.register_buffer("origin", torch.zeros(num_inputs, dtype=torch.float64))
        self.register_buffer("width", torch.full((num_inputs,), math.nan, dtype=torch.float64))

    @property
    def measured(self) -> bool:
        """Whether the basis has its frame."""
        return not bool(self.width.isnan().any())

    def config(self) -> dict[str, Any]:
        """Return the arguments from which `build_basis` makes an equal basis, before it is measured."""
        return {"name": self.name, "num_inputs": self.num_inputs, **self._settings}

    def extra_repr(self) -> str:
        return f"num_inputs={self.num_inputs}, num_features={self.num_features}"

    @checked()
    @torch.no_grad()
    def measure(self, x: Tensor) -> None:
        """Learn the frame from training inputs, once.

        Args:
            x: training inputs, shape `(..., D)`.

        Raises:
            ValueError: if the basis is measured already, the inputs are empty, not finite or of another width, or a
                column varies by too few roundings of its numbers.
        """
        if self.measured:
            raise ValueError("measure: expected a basis without a frame, got one that was measured or given its period")
        self._check(x)
        x = x.double()
        rows = x.reshape(-1, self.num_inputs).double().cpu().numpy()
        if not len(rows) or not np.isfinite(rows).all():
            raise ValueError(f"x: expected at least one row of finite numbers, got shape {tuple(x.shape)}")
        summary(x.reshape(-1, self.num_inputs), "input")  # refuses inputs that are too coarse
        origin, width = self._frame(rows)
        width = np.where(np.ptp(rows, axis=0) > 0, width, 0.0)
        self.origin.copy_(torch.from_numpy(origin))
        self.width.copy_(torch.from_numpy(width))
        self._place((rows - origin) / np.where(width > 0, width, 1.0))

    @checked()
    def forward(self, x: Tensor) -> Tensor:
        """Return features in the type of the inputs, shape `(..., B)`.

        Args:
            x: inputs, shape `(..., D)`.

        Raises:
            ValueError: if the basis is not measured, or an input does not have `num_inputs` columns.
        """
        self._check(x)
        if not self.measured:
            raise ValueError("expected a measured basis, got one without a frame: call measure(training inputs) first")
        varies = self.width > 0
        z = standard(x, self.origin, torch.where(varies, self.width, 1.0)) * varies
        out = self._features(z.reshape(-1, self.num_inputs), varies)
        return out.reshape(*x.shape[:-1], self.num_features).to(x.dtype)

    def _check(self, x: Tensor) -> None:
        if x.dim() < 1 or x.shape[-1] != self.num_inputs:
            raise ValueError(f"x: expected {self.num_inputs} columns, got shape {tuple(x.shape)}")

    def _frame(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return origin and width of every column; the smallest value and the range by default."""
        return rows.min(0), np.ptp(rows, axis=0)

    def _place(self, z: np.ndarray) -> None:
        """Learn what else the member needs from training inputs in their frame, shape `(N, D)`."""

    @abstractmethod
    def _features(self, z: Tensor, varies: Tensor) -> Tensor:
        """Return features `(N, B)` of inputs in their frame, `(N, D)`; `varies` `(D,)` marks columns to use."""


@checked(num_inputs=at_least(1), num_knots=at_least(2))
class SplineBasis(Basis):
    r"""Cubic B-splines with knots at quantiles, continued by straight lines outside the outer knots.

    The outer knots are the smallest and the largest training value. The inner ones are quantiles of the distinct
    training values, drawn a twentieth of the way towards equal spacing. Inside, the features are nonnegative and
    sum to one (everywhere they sum to one), so they hold the constant and every straight line.

    Args:
        num_inputs: columns of the input, $D$.
        num_knots: knots of each column, the outer ones included, $k$; $B = D (k + 2)$.

    Raises:
        ValueError: if `num_inputs` is below 1 or `num_knots` below 2.

    Examples:
        >>> basis = SplineBasis(num_knots=4)
        >>> basis.measure(torch.linspace(0, 10, 50).unsqueeze(-1))
        >>> basis(torch.tensor([[3.0], [25.0]])).sum(-1).round(decimals=4)
        tensor([1., 1.])

    Source: de Boor 1978, A Practical Guide to Splines. SciPy makes the polynomial pieces, torch evaluates them.
    """

    exact = ("origin", "width", "knots", "pieces")

    name = "spline"
    knots: Tensor
    pieces: Tensor

    def __init__(self, num_inputs: int = 1, num_knots: int = 6) -> None:
        super().__init__(num_inputs, num_inputs * (num_knots + 2), {"num_knots": num_knots})
        self.num_knots = num_knots
        self.register_buffer("knots", torch.linspace(0, 1, num_knots, dtype=torch.float64).repeat(num_inputs, 1))
        self.register_buffer("pieces", torch.zeros(num_inputs, num_knots + 1, 4, num_knots + 2, dtype=torch.float64))

    def _place(self, z: np.ndarray) -> None:
        even = np.linspace(0, 1, self.num_knots)
        for d, column in enumerate(z.T):
            distinct = np.unique(column)
            knots = (1 - EVEN) * np.quantile(distinct, even) + EVEN * even if len(distinct) > 1 else even
            self.knots[d] = torch.from_numpy(knots)
            self.pieces[d] = torch.from_numpy(_spline_pieces(knots))

    def _features(self, z: Tensor, varies: Tensor) -> Tensor:
        piece = torch.searchsorted(self.knots, z.mT.contiguous(), right=True).mT
        power = self.pieces[torch.arange(self.num_inputs, device=z.device), piece]  # (N, D, 4, knots + 2)
        anchor = torch.cat([self.knots[:, :1], self.knots], -1)
        u = (z - anchor.expand(len(z), -1, -1).gather(-1, piece.unsqueeze(-1)).squeeze(-1)).unsqueeze(-1)
        out = ((power[..., 0, :] * u + power[..., 1, :]) * u + power[..., 2, :]) * u + power[..., 3, :]
        return (out * varies.unsqueeze(-1)).flatten(-2)


def _spline_pieces(knots: np.ndarray) -> np.ndarray:
    """Return coefficients of falling powers on every interval, lines outside, shape `(knots + 1, 4, knots + 2)`."""
    count = len(knots) + 2
    full = np.concatenate([[knots[0]] * 3, knots, [knots[-1]] * 3])
    spline = BSpline(full, np.eye(count), 3)
    anchors = np.concatenate([knots[:1], knots])
    pieces = np.stack([spline(anchors, nu=k) / math.factorial(k) for k in (3, 2, 1, 0)], 1)
    pieces[[0, -1], :2] = 0.0  # the line that touches the curve
    return pieces


@checked(num_inputs=at_least(1), num_frequencies=at_least(1), period=above(0))
class FourierBasis(Basis):
    r"""Sine and cosine pairs $\sin 2\pi m_k z,\ \cos 2\pi m_k z$ with $z = (x - o) / s$, $k = 1, \dots, F$.

    With a given period $s$ the origin is 0. Without, $s$ is twice the range of the training inputs, so that a
    curve's two ends are not tied together, and the origin is the middle of the range.

    Args:
        num_inputs: columns of the input, $D$.
        num_frequencies: pairs of each column, $F$; $B = 2 D F$.
        period: $s$, in units of the input; measured where None.
        learned: whether training moves the multiples $m_k$ from their initial values $1, \dots, F$.

    Raises:
        ValueError: if a count is below 1 or the period is not positive.

    Examples:
        >>> basis = FourierBasis(num_frequencies=2, period=12.0)  # months of a year
        >>> torch.allclose(basis(torch.tensor([[1.0]])), basis(torch.tensor([[13.0]])), atol=1e-5)
        True
    """

    name = "fourier"

    def __init__(
        self, num_inputs: int = 1, num_frequencies: int = 4, period: float | None = None, learned: bool = False
    ) -> None:
        settings = {"num_frequencies": num_frequencies, "period": period, "learned": learned}
        super().__init__(num_inputs, 2 * num_inputs * num_frequencies, settings)
        multiples = torch.arange(1.0, num_frequencies + 1).repeat(num_inputs, 1)
        self.multiples = nn.Parameter(multiples, requires_grad=learned)
        if period is not None:
            self.width.fill_(period)

    @property
    def angular_frequencies(self) -> Tensor:
        r"""Return $2\pi m_k / s$ in radians per unit of the input, shape `(D, F)`."""
        return 2 * math.pi * self.multiples / self.width.unsqueeze(-1)

    def _frame(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        low, high = rows.min(0), rows.max(0)
        return (low + high) / 2, 2 * (high - low)

    def _features(self, z: Tensor, varies: Tensor) -> Tensor:
        angle = 2 * math.pi * z.unsqueeze(-1) * self.multiples
        return (torch.cat([angle.sin(), angle.cos()], -1) * varies.unsqueeze(-1)).flatten(-2)


@checked(num_inputs=at_least(1), num_frequencies=at_least(1), length_scale=above(0))
class RandomFeatures(Basis):
    r"""Random Fourier features of the kernel $\exp(-\tfrac12 \sum_d (z_d - z'_d)^2 / \ell_d^2)$.

    $$ \phi(x) = F^{-1/2} \big[ \sin \omega_k^\top (z / \ell),\ \cos \omega_k^\top (z / \ell) \big]_{k = 1}^{F},
       \qquad \omega_k \sim \mathcal N(0, I) $$

    with $z = (x - o) / s$, mean $o$ and standard deviation $s$ of the training inputs. Then
    $\phi(x)^\top \phi(x')$ has the kernel as its expectation over $\omega$, with an error of order $F^{-1/2}$.

    Args:
        num_inputs: columns of the input, $D$.
        num_frequencies: draws of $\omega$, $F$; $B = 2 F$.
        length_scale: initial $\ell$ of every column, in standard deviations of the training inputs; training
            moves each of them.
        seed: seed of the draws; the global generator is left alone.

    Raises:
        ValueError: if a count is below 1 or the length scale is not positive.

    Examples:
        >>> basis = RandomFeatures(num_frequencies=16)
        >>> basis.measure(torch.linspace(-1, 1, 50).unsqueeze(-1))
        >>> round(basis(torch.zeros(1, 1)).square().sum().item(), 4)
        1.0

    Source: Rahimi and Recht 2007, Random features for large-scale kernel machines.
    """

    name = "random"
    directions: Tensor

    def __init__(
        self, num_inputs: int = 1, num_frequencies: int = 32, length_scale: float = 1.0, seed: int = 0
    ) -> None:
        settings = {"num_frequencies": num_frequencies, "length_scale": length_scale, "seed": seed}
        super().__init__(num_inputs, 2 * num_frequencies, settings)
        source = torch.Generator().manual_seed(seed)
        self.register_buffer("directions", torch.randn(num_inputs, num_frequencies, generator=source))
        self.log_length_scale = nn.Parameter(torch.full((num_inputs,), math.log(length_scale)))

    def _frame(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return rows.mean(0), rows.std(0)

    def _features(self, z: Tensor, varies: Tensor) -> Tensor:
        angle = (z * torch.exp(-self.log_length_scale)) @ self.directions.double()
        return torch.cat([angle.sin(), angle.cos()], -1) / math.sqrt(self.directions.shape[1])


BASES: dict[str, type[Basis]] = {c.name: c for c in (SplineBasis, FourierBasis, RandomFeatures)}


@checked()
def build_basis(config: Mapping[str, Any]) -> Basis:
    """Return a basis of the kind and arguments of `Basis.config`, not measured.

    Args:
        config: what `Basis.config` returned, for instance read from JSON.

    Raises:
        ValueError: if the name or an argument is unknown.

    Examples:
        >>> build_basis({"name": "spline", "num_inputs": 2, "num_knots": 5})
        SplineBasis(num_inputs=2, num_features=14)
    """
    arguments = dict(config)
    name = arguments.pop("name", None)
    if name not in BASES:
        raise ValueError(f"basis: expected one of {sorted(BASES)}, got {name!r}")
    try:
        return BASES[name](**arguments)
    except TypeError as error:
        raise ValueError(f"basis: expected the arguments of {BASES[name].__name__}, got: {error}") from None
