r"""What likelihoods of one number per row share, by quadrature over a Gaussian linear predictor.

A member states the mean, the variance and the distribution of a label given $\eta$; gradients follow from the log
density by automatic differentiation, and everything that asks for an average over $\eta \sim \mathcal N(m, v)$ by
Gauss-Hermite rules. The predictive density is the average of a
function that may be much narrower than $q(\eta)$, so its rule is centred where the integrand is,

$$ \log p(y) = \log \int p(y \mid \eta)\, \mathcal N(\eta; m, v)\, d\eta
   \approx \log \sum_k w_k\, s\, \frac{p(y \mid \eta_k)\, \mathcal N(\eta_k; m, v)}{\mathcal N(z_k; 0, 1)}, \qquad
   \eta_k = \hat\eta + s z_k, $$

with $\hat\eta$ the mode of the integrand and $s$ its width there. Where a density may have kinks and two such rules
differ, `ebmeta.likelihood.panels` decides. Source: Naylor and Smith 1982, Applications of a
method for the efficient computation of posterior distributions.
"""

from __future__ import annotations

import math
from functools import cache
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebmeta.foundation.anywhere import anywhere, largest
from ebmeta.foundation.guarding import unvalidated
from ebmeta.likelihood.base import Given, Likelihood
from ebmeta.likelihood.curved import check_curved
from ebmeta.likelihood.panels import Rows, cells, log_mean, mean, settled

__all__ = ["ScalarLikelihood"]

Array = NDArray[np.float64]

NODES, COARSE = 20, 12
MODE_STEPS = 12
WIDE = 0.25  # variance of a linear predictor, beyond which labels may rule out one side of it
EVEN, ENDS = 61, 8.0  # nodes for those, and standard deviations at the last ones
STEP, STEPS = 0.15, 55  # of a standard normal number: of the even rule, and their number on each side of 0
AT_ONCE = 1 << 14  # numbers, of few rows
#: What a likelihood may state of its density in closed form, and of its labels besides.
OF_DENSITY = "kernel", "expansion", "gradients", "expected_log_prob", "predictive_log_prob"
OF_LABELS = "log_prob", "moments", "information", "predict", "predictive_probs", "cdf", "predictive_cdf"
WIDEST, FINEST = 10.0, 160.0  # standard deviation of a linear predictor that such steps do for, and that any do


@cache
def _rule(num_nodes: int) -> tuple[Tensor, Tensor]:
    """Return nodes and log weights of a standard normal average."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(num_nodes)
    return torch.from_numpy(nodes), torch.from_numpy(np.log(weights / weights.sum()))


@cache
def _even_rule(finer: int) -> tuple[Tensor, Tensor]:
    """Return standard normal numbers at equal steps, so many times smaller than `STEP`, and their weights."""
    nodes = STEP / finer * torch.arange(-STEPS * finer, STEPS * finer + 1, dtype=torch.float64)
    return nodes, torch.softmax(-nodes.square() / 2, 0)


def spread(loc: Tensor, var: Tensor, num_nodes: int = NODES) -> tuple[Tensor, Tensor]:
    r"""Return Gauss-Hermite values of $\eta \sim \mathcal N(m, v)$ and their weights, shape `(nodes, ...)`."""
    nodes, log_weights = (v.to(loc).view(-1, *[1] * loc.dim()) for v in _rule(num_nodes))
    return loc + var.clamp(min=1e-20).sqrt() * nodes, log_weights.exp()


def _nodes(loc: Tensor, least: int) -> int:
    """Return how many nodes of an average are taken at once, of few rows more."""
    return max(least, AT_ONCE // max(loc.numel(), 1))


def even(loc: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return values of $\eta \sim \mathcal N(m, v)$ at equal steps and their weights, shape `(nodes, ...)`.

    For functions that level off: a Gauss-Hermite rule is one of polynomials, and takes a sigmoid over a wide $q(\eta)$
    for a step between two of its few nodes. The error of equal steps $h \sqrt v$ falls as
    $e^{-2 \pi^2 / (h \sqrt v)}$ for a sigmoid. Source: Trefethen and Weideman 2014, The exponentially convergent
    trapezoidal rule.
    """
    widest = largest(var.nan_to_num().clamp(0, FINEST**2)) ** 0.5 if var.numel() else 0.0
    finer = max(math.ceil(widest / WIDEST), 1)
    nodes, weights = (v.to(loc).view(-1, *[1] * loc.dim()) for v in _even_rule(finer))
    return loc + var.clamp(min=1e-20).sqrt() * nodes, weights


class ScalarLikelihood(Likelihood):
    r"""Base class of likelihoods with one number per row; `eta` below has any shape `(..., T, Q)`.

    Labels and sizes come in their own precision, and scores are asked for in 64 bits.

    A member states `mean`, `variance` and `distribution`; with a `cdf` there are quantiles. What a class with another
    density states of it in closed form is not inherited beside a density of one's own. Where the linear predictor
    is the natural parameter (`canonical`), $A'$ and $A''$ are mean and variance; elsewhere gradient and curvature come
    from the log density. See docs: "A likelihood of your own".
    """

    #: True where $-\log p(y \mid \eta) = A(\eta) - y \eta$ up to terms without $\eta$, with $A'$ and $A''$ `mean` and
    #: `variance`. A class that overrides any of these has to state this too.
    canonical: ClassVar[bool] = False

    #: True where $\log p(y \mid \eta)$ has no kinks in $\eta$, so that averages need not look for any. A class with a
    #: density of its own has to state this; averages over it are otherwise compared with those of a coarser rule.
    smooth: ClassVar[bool] = False

    #: True in a class of which a curvature was found.
    _curved: ClassVar[bool]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        stated = set(vars(cls))
        if not {"mean", "variance", "distribution", "log_prob"}.isdisjoint(stated) and "canonical" not in stated:
            cls.canonical = False
        if not {"distribution", "log_prob"}.isdisjoint(stated):
            _forget_other_density(cls, OF_DENSITY)
            cls.smooth = "smooth" in stated and cls.smooth
            cls.ends = vars(cls).get("ends", Likelihood.ends)
            cls.conjugate = "conjugate" in stated and cls.conjugate
        if "distribution" in stated:
            for name in ("mean", "variance"):
                if name not in stated and _has_density(_owner(cls, name)):
                    got = f"got the {name} of {_owner(cls, name).__name__}"
                    raise TypeError(
                        f"{cls.__name__}: expected mean and variance beside a distribution of its own, {got}"
                    )
            _forget_other_density(cls, OF_LABELS)
        if "kernel" in stated and "expansion" not in stated:
            cls.expansion = ScalarLikelihood.expansion  # type: ignore[method-assign]  # that of a base is of its own
        if "cdf" in vars(cls) and "has_cdf" not in stated:
            cls.has_cdf = cls.cdf is not ScalarLikelihood.cdf

    def mean(self, eta: Tensor, given: Given | None = None) -> Tensor:
        r"""Return $\mathbb E[y \mid \eta]$."""
        raise NotImplementedError

    def variance(self, eta: Tensor, given: Given | None = None) -> Tensor:
        r"""Return $\mathrm{Var}[y \mid \eta]$."""
        raise NotImplementedError

    def cdf(self, y: Tensor, eta: Tensor, given: Given | None = None) -> Tensor:
        raise ValueError(f"quantiles: expected a likelihood with a cdf, got {self.name}")

    def kernel(self, y: Tensor, eta: Tensor, given: Given | None = None) -> Tensor:
        return self.log_prob(y, eta.unsqueeze(-1), torch.ones(1, 1, dtype=torch.bool), given)

    def expansion(self, y: Array, eta: Array, size: Array | float = 1.0) -> tuple[Array, Array, Array]:
        given = Given(None if isinstance(size, float) else torch.from_numpy(size))
        at = torch.from_numpy(eta).requires_grad_()
        with torch.enable_grad(), unvalidated():
            value = self.kernel(torch.from_numpy(y), at, given)
            (slope,) = torch.autograd.grad(value.sum(), at, create_graph=True)
            (bend,) = torch.autograd.grad(slope.sum(), at)
        return value.detach().numpy(), slope.detach().numpy(), bend.numpy()

    def information(self, eta: Tensor, given: Given | None = None) -> Tensor:
        r"""Return the Fisher information of $\eta$ times the dispersion, $A''(\eta)$ for a canonical link.

        Elsewhere $\mu'(\eta)^2 / \mathrm{Var}[y \mid \eta]$: what the mean alone tells, which is all in a generalised
        linear model.
        """
        if self.canonical:
            return self.variance(eta, given)
        slope: Tensor = torch.func.grad(lambda e: self.mean(e, given).sum())(eta)
        return slope.square() / self.variance(eta, given)

    def check(self, name: str, y: Tensor, mask: Tensor, size: Tensor | None) -> None:
        self.check_size(name, mask, size)
        eta = torch.zeros(*y.shape, 1, dtype=torch.float64, device=y.device)
        ways = torch.ones(len(y), 1, dtype=torch.bool, device=y.device)
        with unvalidated():
            distribution = self.distribution(eta, ways, Given(None if size is None else torch.where(mask, size, 1.0)))
        possible = distribution.support.check(y.double()).expand(y.shape)
        if bool((mask & ~possible).any()):
            t, i = (int(v) for v in (mask & ~possible).nonzero()[0])
            raise ValueError(
                f"{name}: expected labels that a {self.name} likelihood can have ({distribution.support}), got "
                f"{float(y[t, i]):g} at task {t}, row {i}"
            )

    def statistic(self, y: Tensor, num_ways: int) -> Tensor:
        return y.unsqueeze(-1)

    def moments(self, loc: Tensor, var: Tensor, way_mask: Tensor, given: Given | None = None) -> tuple[Tensor, Tensor]:
        eta, weight = spread(loc.squeeze(-1), var.squeeze(-1))
        out = ((weight * f(eta, given)).sum(0).unsqueeze(-1) for f in (self.mean, self.information))
        mean, information = out
        return mean, information

    def gradients(
        self, y: Tensor, loc: Tensor, var: Tensor, way_mask: Tensor, given: Given | None = None
    ) -> tuple[Tensor, Tensor]:
        r"""Return the mean gradient and curvature of $-\log p(y \mid \eta)$; see `Likelihood.gradients`.

        A curvature below zero, of a density that is not log-concave, is taken for zero.

        Raises:
            ValueError: if the log density has no slope or no curvature.
        """
        if self.canonical:
            return super().gradients(y, loc, var, way_mask, given)

        def density(eta: Tensor) -> Tensor:
            return self.log_prob(y, eta.unsqueeze(-1), way_mask, given)

        def slope(eta: Tensor) -> tuple[Tensor, Tensor]:
            g = torch.func.grad(lambda eta: -density(eta).sum())(eta)
            return g.sum(), g

        eta, weight = spread(loc.squeeze(-1), var.squeeze(-1))
        with unvalidated():  # labels have been checked, and padding may be none
            both = torch.func.grad(slope, has_aux=True)
            near = self.name, y, density, both, loc.detach().squeeze(-1)
            if "_curved" not in vars(type(self)) and check_curved(*near):  # once found, it is not asked again
                type(self)._curved = True
            h, g = both(eta)
        mean, curvature = ((weight * torch.nan_to_num(v)).sum(0).unsqueeze(-1) for v in (g, h))
        return mean.to(loc.dtype), curvature.clamp(min=0).to(loc.dtype)

    def predict(self, loc: Tensor, var: Tensor, way_mask: Tensor, given: Given | None = None) -> dict[str, Tensor]:
        """Return `mean` and `std` of a new label, shape `(T, Q)`, noise included."""
        eta, weight = (even if self.bounded else spread)(loc.squeeze(-1), var.squeeze(-1))
        of_eta, variance = (
            torch.cat([f(some, given) for some in torch.split(eta, _nodes(loc, NODES))])
            for f in (self.mean, self.variance)
        )
        mean = (weight * of_eta).sum(0)
        total = (weight * (variance + (of_eta - mean).square())).sum(0)
        return {"mean": mean, "std": total.sqrt()}

    def predictive_probs(self, loc: Tensor, var: Tensor, given: Given | None = None) -> Tensor:
        if self.categories is None:
            return super().predictive_probs(loc, var, given)
        every = torch.arange(self.categories, dtype=torch.float64, device=loc.device).view(-1, 1, 1, 1)
        ways = torch.ones(1, 1, dtype=torch.bool, device=loc.device)
        parts = zip(
            *(torch.split(v, _nodes(loc, NODES // 4)) for v in even(loc.squeeze(-1), var.squeeze(-1))), strict=True
        )
        each = [(w * self.log_prob(every, eta.unsqueeze(-1), ways, given).exp()).sum(1) for eta, w in parts]
        whole = torch.stack(each).sum(0)
        return (whole / whole.sum(0)).movedim(0, -1)

    def predictive_cdf(self, y: Tensor, loc: Tensor, var: Tensor, given: Given | None = None) -> Tensor:
        """Return the probability of a label up to `y`, shape `(T, Q)`; `loc` and `var` of shape `(T, Q, 1)`.

        Averages over narrow cells of the linear predictor, because a cdf may be a step in it: equally likely ones in
        the middle, and ones of equal width in the tails, where levels near 0 and 1 have their quantiles.
        """
        nodes, weight = (v.view(-1, 1, 1) for v in cells())
        eta = loc.squeeze(-1) + var.squeeze(-1).clamp(min=0).sqrt() * nodes.to(loc)
        return (weight.to(loc) * self.cdf(y.expand(eta.shape), eta, given)).sum(0)

    def expected_log_prob(
        self, y: Tensor, loc: Tensor, var: Tensor, way_mask: Tensor, noise: Tensor, given: Given | None = None
    ) -> Tensor:
        def average(num_nodes: int) -> Tensor:
            eta, weight = spread(loc, var, num_nodes)
            return (weight.squeeze(-1) * self.log_prob(y, eta, way_mask, given)).sum(0)

        out = average(NODES)
        if self.smooth:
            return out
        rows = Rows(y, loc, var, way_mask, given)
        return settled(out, average(COARSE), mean, self.log_prob, rows, [self.peak(y)])

    def predictive_log_prob(
        self, y: Tensor, loc: Tensor, var: Tensor, way_mask: Tensor, noise: Tensor, given: Given | None = None
    ) -> Tensor:
        var = var.clamp(min=(64 * torch.finfo(loc.dtype).eps) ** 2 * (1 + loc.detach().square()))  # its rounding
        mode, width = self._peak(y, loc, var, way_mask, given)

        def total(eta: Tensor, log_step: Tensor) -> Tensor:
            log_q = -((eta - loc).square() / var + torch.log(2 * math.pi * var)) / 2
            return torch.logsumexp(self.log_prob(y, eta, way_mask, given) + (log_q + log_step).squeeze(-1), 0)

        def centred(num_nodes: int) -> Tensor:
            nodes, log_weight = (v.to(loc).view(-1, *[1] * loc.dim()) for v in _rule(num_nodes))
            return total(mode + width * nodes, log_weight + (nodes.square() + math.log(2 * math.pi)) / 2 + width.log())

        # Labels that rule out one side of a wide q(eta) leave what no polynomial times a normal density is like: steps
        # that are even near the mode, and grow towards the ends of q.
        def stepped(num_nodes: int) -> Tensor:
            with torch.no_grad():
                reach = torch.asinh((ENDS * var.sqrt() + (mode - loc).abs()) / width)
            share = torch.linspace(-1, 1, num_nodes, dtype=loc.dtype, device=loc.device).view(-1, *[1] * loc.dim())
            place, step = share * reach, 2 * reach / (num_nodes - 1)
            return total(mode + width * place.sinh(), (step * width * place.cosh()).log())

        wide = (var > WIDE).squeeze(-1)
        any_wide = anywhere(wide)

        def average(num_nodes: int, num_steps: int) -> Tensor:
            out = centred(num_nodes)
            return torch.where(wide, stepped(num_steps), out) if any_wide else out

        out = average(NODES, EVEN)
        if self.smooth:
            return out
        rows = Rows(y, loc, var, way_mask, given)
        return settled(out, average(COARSE, EVEN // 2), log_mean, self.log_prob, rows, [mode.squeeze(-1), self.peak(y)])

    @torch.no_grad()
    def _peak(
        self, y: Tensor, loc: Tensor, var: Tensor, way_mask: Tensor, given: Given | None
    ) -> tuple[Tensor, Tensor]:
        r"""Return mode and width of $p(y \mid \eta) \mathcal N(\eta; m, v)$, by Newton steps of at most 2."""
        eta, none = loc, torch.zeros_like(loc)
        for _ in range(MODE_STEPS):
            g, h = self.gradients(y, eta, none, way_mask, given)
            eta = eta - ((g + (eta - loc) / var) / (h + 1 / var)).clamp(-2, 2)
        _, h = self.gradients(y, eta, none, way_mask, given)
        return eta, (h + 1 / var).rsqrt()


def _owner(kind: type[Likelihood], name: str) -> type[Likelihood]:
    """Return the class that states what another one has."""
    return next(base for base in kind.__mro__ if name in vars(base))


def _has_density(kind: type[Likelihood]) -> bool:
    return kind.distribution is not Likelihood.distribution or kind.log_prob is not Likelihood.log_prob


def _forget_other_density(kind: type[ScalarLikelihood], names: tuple[str, ...]) -> None:
    """Take methods from here that a likelihood with a density of its own would have from one with another density."""
    for name in names:
        if name not in vars(kind) and _has_density(_owner(kind, name)):
            setattr(kind, name, getattr(ScalarLikelihood, name))


def size_of(given: Given | None) -> Tensor | float:
    """Return the sizes of the rows, 1 where there are none."""
    return 1.0 if given is None or given.size is None else given.size
