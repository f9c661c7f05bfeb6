r"""Labels of any likelihood of one number per row, by adaptive quadrature over the effects of each group.

With $b_g = \Lambda u_g$, the mode $\hat u_g$ of $p(y_g \mid u) \mathcal N(u; 0, I)$ and $M_g = C_g C_g^\top$ its
curvature there,

$$ \log p(y_g) \approx \log \sum_s w_s\, \frac{p(y_g \mid u_{gs})\, \mathcal N(u_{gs}; 0, I)}
   {|C_g|\, \mathcal N(z_s; 0, I)}, \qquad u_{gs} = \hat u_g + C_g^{-\top} z_s . $$

All groups move together. The gradient is that of the sum at its nodes: how these move with the parameters changes an
exact average by nothing. One node is Laplace's approximation. Sources: Pinheiro and Bates 1995, Approximations to the
log-likelihood function in the nonlinear mixed-effects model; Liu and Pierce 1994, A note on Gauss-Hermite quadrature.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyro
import torch
from numpy.typing import NDArray
from scipy import special
from torch import Tensor

from ebmeta.likelihood.base import Given, Likelihood
from ebmeta.mixed.batched import Segments, solve_upper
from ebmeta.mixed.covariance import Factor, log_hyperprior
from ebmeta.mixed.engine import Effects, Engine, Estimate, Optimum, orthonormal
from ebmeta.mixed.modes import Labels
from ebmeta.mixed.nodes import Nodes, nodes_of
from ebmeta.mixed.rows import Rows

__all__ = ["QuadratureEngine"]

Array = NDArray[np.float64]
CELLS = 3_000_000  # rows times nodes looked at together
FARTHEST = 50.0  # bound of the spread of a linear predictor of counts
ENDLESS = 12.0  # spread of one that stands for infinity: from chances of 1 in 100,000 to 99,999
WIDE = 10.0  # standard error of a coefficient of a term of unit length that no label holds back
EXACT = 0.01  # nats that a finer rule may change the log likelihood by
FINEST = 2  # rule
FAR = 1e15  # stands for a loss that cannot be computed
FAR_LOG = 20.0  # of a parameter of the likelihood on the scale of logarithms


class _Average(NamedTuple):
    """Nodes of some groups, and what there is at them."""

    modes: Array  # of all groups, (K, G)
    rows: slice
    codes: NDArray[np.int64]  # of the rows, from 0, (n,)
    u: Array  # (K, S, g)
    log_evidence: Array  # (g,)
    weight: Array  # of the nodes, in all 1, (S, g)
    slope: Array  # of the log density, weighted, (S, n)
    extra: list[float]  # the same for the parameters of the likelihood


class QuadratureEngine(Engine):
    r"""The criterion as a function of $\Lambda$, $\beta$ and the parameters of the likelihood.

    Args:
        rows: labelled rows.
        factors: the one grouping factor.
        names: of the common terms.
        likelihood: of a kind that `fit` has looked at; changed by nothing here.
        hyperprior: add the log of a Gamma(2, 0.1) density of each spread.
        fineness: of the rule, from 0 to 2.
    """

    def __init__(
        self,
        rows: Rows,
        factors: list[Factor],
        names: list[str],
        likelihood: Likelihood,
        hyperprior: bool,
        fineness: int = 0,
    ) -> None:
        super().__init__(rows, factors)
        self.names, self.hyperprior, self.family = names, hyperprior, copy.deepcopy(likelihood).double()
        self.extra = [p for p in self.family.parameters() if p.requires_grad]
        self.fineness, self.nodes = fineness, nodes_of(len(factors[0].terms), fineness)
        self.unit = 1.0 if likelihood.discrete else float(np.std(rows.y - rows.offset)) or 1.0
        q, r = orthonormal(rows.x, names)
        self.num_common = rows.x.shape[1]
        self.data = self._lay_out(rows, q)
        self.first, information = self.data.alone()
        # All parameters have curvatures of about the number of groups, or an optimiser takes steps far too long.
        scale = np.linalg.cholesky(information / len(rows.groupings[0].labels)).T
        self.basis, self.first = scale @ r, scale @ self.first
        self.inverse = np.linalg.inv(self.basis)
        self.data = self._lay_out(rows, q @ np.linalg.inv(scale))
        self.num_parameters = self.num_theta + self.num_common + len(self.extra)
        self.modes = np.zeros((len(factors[0].terms), len(rows.groupings[0].labels)))
        self.constant: Tensor | None = None
        self.error = 0.0

    @property
    def method(self) -> str:  # type: ignore[override]
        """What the summary says of the criterion."""
        return f"maximum likelihood by {self.nodes.words} (a finer rule differs by {self.error:.1g} nats)"

    def _lay_out(self, rows: Rows, x: Array) -> Labels:
        grouping = rows.groupings[0]
        segments = Segments(grouping.codes, len(grouping.labels))
        o = segments.order
        size, weight = (None if v is None else torch.from_numpy(v[o]) for v in (rows.size, rows.weights))
        z = np.ascontiguousarray(self.factors[0].whiten(grouping.z)[o].T)
        y, offset = (torch.from_numpy(v[o] / self.unit) for v in (rows.y, rows.offset))
        codes = np.repeat(np.arange(len(segments.counts)), segments.counts)
        return Labels(self.family, y, x[o], z, offset.numpy(), Given(size), weight, segments, codes)

    def start(self) -> Array:
        extra = [float(p.detach()) for p in self.extra]
        return np.concatenate([self.factors[0].start(0.5), self.first, extra])

    def lower_bounds(self) -> Array:
        out = super().lower_bounds()
        out[len(out) - len(self.extra) :] = -FAR_LOG
        return out

    def upper_bounds(self) -> Array:
        out = super().upper_bounds()
        if self.family.discrete:
            out[: self.num_theta] = FARTHEST
        out[len(out) - len(self.extra) :] = FAR_LOG
        return out

    def _unpack(self, at: Array) -> tuple[Array, Array]:
        """Set the parameters of the likelihood; return the relative factor, and the coefficients."""
        theta, beta, extra = np.split(at, [self.num_theta, self.num_theta + self.num_common])
        for p, value in zip(self.extra, extra, strict=True):
            p.data.fill_(float(value))
        return self.factors[0].lower(theta), beta

    def _averages(self, data: Labels, lower: Array, fixed: Array, start: Array, nodes: Nodes) -> Iterator[_Average]:
        """Yield the averages over some groups at a time; the first has the modes of all."""
        modes, chol = data.modes(lower, fixed, start)
        lz, starts = lower.T @ data.z, np.append(data.segments.starts, len(fixed))
        for part in _parts(starts, len(nodes.points)):
            rows = slice(int(starts[part.start]), int(starts[part.stop]))
            codes = data.codes[rows] - part.start
            z = np.broadcast_to(nodes.points.T[:, :, None], (*nodes.points.T.shape, part.stop - part.start))
            u = modes[:, None, part] + solve_upper(chol[..., part], z.copy())
            eta = fixed[rows] + sum(lz[k, rows] * u[k][:, codes] for k in range(len(u)))
            at = torch.from_numpy(np.ascontiguousarray(eta)).requires_grad_()
            value = data.log_density(at, rows)
            joint = np.add.reduceat(value.detach().numpy(), starts[part] - rows.start, axis=-1)
            joint += nodes.log_weights[:, None] + ((z**2).sum(0) - (u**2).sum(0)) / 2
            joint -= sum(np.log(chol[k, k, part]) for k in range(len(u)))
            top = special.logsumexp(joint, 0)
            weight = np.exp(joint - top)
            out = torch.from_numpy(weight[:, codes])
            slope, *extra = torch.autograd.grad(value, [at, *self.extra], out)
            yield _Average(modes, rows, codes, u, top, weight, slope.numpy(), [float(v) for v in extra])

    def loss(self, at: Array) -> tuple[float, Array]:
        lower, beta = self._unpack(at)
        data, fixed = self.data, self.data.fixed(beta)
        value, slope, common = -len(fixed) * math.log(self.unit), np.zeros_like(lower), np.zeros(len(fixed))
        extra = np.zeros(len(self.extra))
        rest = self._rest(data)
        for found in self._averages(data, lower, fixed, self.modes, self.nodes):
            self.modes = found.modes  # where the next ascent starts
            value += float(found.log_evidence.sum())
            common[found.rows] = found.slope.sum(0)
            for k, u in enumerate(found.u):
                slope[:, k] += data.z[:, found.rows] @ (found.slope * u[:, found.codes]).sum(0)
            extra += found.extra
        if self.extra:
            extra += [float(v) for v in torch.autograd.grad(rest, self.extra)]
        value += float(rest.detach())
        gradient = np.concatenate([self.factors[0].read(slope), data.x.T @ common, extra])
        if self.hyperprior:
            more, more_gradient = log_hyperprior(self.factors[0], at[: self.num_theta], 0.0)
            value, gradient[: self.num_theta] = value + more, gradient[: self.num_theta] + more_gradient[:-1]
        return (-value, -gradient) if np.isfinite(value) and np.isfinite(gradient).all() else (FAR, np.zeros_like(at))

    def _rest(self, data: Labels) -> Tensor:
        """Return the terms of the log density without the linear predictor, of all rows together."""
        if self.extra or self.constant is None:
            zero = torch.zeros_like(data.y)
            with pyro.validation_enabled(False):
                ways = torch.ones(1, 1, dtype=torch.bool)
                rest = self.family.log_prob(data.y, zero.unsqueeze(-1), ways, data.given)
                rest = rest - self.family.kernel(data.y, zero, data.given)
            total = (rest if data.weight is None else rest * data.weight).sum()
            if self.extra:
                return total
            self.constant = total
        return self.constant

    def log_likelihood(self, at: Array, fineness: int | None = None) -> float:
        """Return the log likelihood in nats, by another rule where asked."""
        kept = self.hyperprior, self.nodes
        self.hyperprior = False
        self.nodes = self.nodes if fineness is None else nodes_of(len(self.factors[0].terms), fineness)
        value = -self.loss(at)[0]
        self.hyperprior, self.nodes = kept
        return value

    def maximise(self, start: Array | None = None, held: NDArray[np.bool_] | None = None) -> Optimum:
        """Go to the maximum, by a finer rule where the present one is not exact there."""
        best = super().maximise(start, held)
        while self.fineness < FINEST:
            self.error = abs(self.log_likelihood(best.at, self.fineness + 1) - self.log_likelihood(best.at))
            if self.error < EXACT:
                break
            self.fineness += 1
            self.nodes = nodes_of(len(self.factors[0].terms), self.fineness)
            again = super().maximise(best.at, held)
            best = again._replace(evaluations=best.evaluations + again.evaluations)
        return best

    def check(self, at: Array) -> None:
        lower, beta = self._unpack(at)
        if self.family.discrete and not self.hyperprior and at[: self.num_theta].max(initial=0.0) > ENDLESS:
            worst = self.factors[0].terms[int(np.argmax(np.abs(lower).max(1)))]
            raise ValueError(
                f"random term {worst!r} of {self.factors[0].name!r}: expected labels that differ within groups, got "
                "groups that explain every label: its spread runs off to infinity (hyperprior=True holds it back)"
            )
        if not (self.family.discrete and self.num_common):
            return
        modes, _ = self.data.modes(lower, self.data.fixed(beta), self.modes)
        eta = self.data.fixed(beta) + (lower.T @ self.data.z * self.data.segments.spread(modes)).sum(0)
        x = self.data.x @ self.basis
        bend = self.data.slopes(eta)[2]
        error = np.sqrt(np.diag(np.linalg.inv(x.T @ ((bend[:, None] + 1e-12) * x))) * (x**2).mean(0))
        if (error > WIDE).any():
            name, sign = self.names[int(np.argmax(error))], np.sign((self.inverse @ beta)[int(np.argmax(error))])
            raise ValueError(
                f"term {name!r}: expected labels of both kinds where it is large and where it is small, got labels "
                f"that it separates: its coefficient runs off to {'minus ' * bool(sign < 0)}infinity"
            )

    def scales(self, at: Array) -> tuple[float, dict[str, float]]:
        self._unpack(at)
        learned = {k: float(v.detach()) for k, v in self.family.learned().items() if k not in ("center", "unit")}
        if "noise" in learned:
            learned["noise"] *= self.unit
        return self.unit, learned

    def estimate(self, at: Array) -> Estimate:
        theta, beta = at[: self.num_theta], at[self.num_theta : self.num_theta + self.num_common]
        return Estimate(self.unit * self.inverse @ beta, theta, *self.scales(at), self.log_likelihood(at))

    def common_covariance(self, at: Array) -> Array:
        part = slice(self.num_theta, self.num_theta + self.num_common)
        out: Array = self.inverse @ np.linalg.pinv(self.curvature(at))[part, part] @ self.inverse.T
        return self.unit**2 * out

    def common_given(self, at: Array) -> Array:
        return np.zeros((self.num_common, self.num_common))

    def effects(self, at: Array, rows: Rows | None = None) -> list[Effects]:
        lower, beta = self._unpack(at)
        data = self.data if rows is None else self._lay_out(rows, rows.x @ self.inverse)
        num_groups, num_terms = len(data.segments.counts), len(lower)
        mean, square = np.zeros((num_groups, num_terms)), np.zeros((num_groups, num_terms, num_terms))
        fixed, done = data.fixed(beta), 0
        start = self.modes if rows is None else np.zeros((num_terms, num_groups))
        for found in self._averages(data, lower, fixed, start, self.nodes):
            part = slice(done, done + len(found.log_evidence))
            mean[part] = np.einsum("sg,ksg->gk", found.weight, found.u)
            gap = found.u - mean[part].T[:, None]
            square[part] = np.einsum("sg,ksg,lsg->gkl", found.weight, gap, gap, optimize=True)
            done = part.stop
        spread = self.unit * self.factors[0].inverse @ lower
        covariance = np.einsum("ik,gkl,jl->gij", spread, square, spread, optimize=True)
        return [Effects(mean @ spread.T, covariance, np.zeros((*mean.shape, self.num_common)))]

    def rebuild(self, rows: Rows, factors: list[Factor]) -> Engine:
        out = QuadratureEngine(rows, factors, self.names, self.family, False)
        out.error = 0.0
        return out

    def likelihood(self, at: Array) -> Likelihood:
        self._unpack(at)
        out = copy.deepcopy(self.family)
        if out.log_sigma is not None:
            out.log_sigma.data += math.log(self.unit)
        return out


def _parts(starts: Array, num_nodes: int) -> list[slice]:
    """Return groups that are looked at together."""
    marks = np.arange(0, starts[-1], max(CELLS // num_nodes, 1))[1:]
    cuts = np.unique([0, *np.searchsorted(starts, marks), len(starts) - 1])
    return [slice(int(a), int(b)) for a, b in itertools.pairwise(cuts)]
