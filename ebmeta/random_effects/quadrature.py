r"""Labels of any likelihood of one number per row, by adaptive quadrature over the effects of each group.

With $b_g = \Lambda u_g$, the mode $\hat u_g$ of $p(y_g \mid u) \mathcal N(u; 0, I)$ and $M_g = C_g C_g^\top$ its
curvature there,

$$ \log p(y_g) \approx \log \sum_s w_s\, \frac{p(y_g \mid u_{gs})\, \mathcal N(u_{gs}; 0, I)}
   {|C_g|\, \mathcal N(z_s; 0, I)}, \qquad u_{gs} = \hat u_g + C_g^{-\top} z_s . $$

All groups move together. Gradient and Hessian are averages over the nodes (`averages`), so that Newton's steps lead to
the maximum. One node is Laplace's approximation. Sources: Pinheiro and Bates 1995, Approximations to the
log-likelihood function in the nonlinear mixed-effects model; Liu and Pierce 1994, A note on Gauss-Hermite quadrature.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from ebmeta.likelihood.base import Likelihood
from ebmeta.random_effects.ascent import Expansion, Optimum
from ebmeta.random_effects.averages import Average, Block, average, blocks_of, constants_of, derivatives, rest_of
from ebmeta.random_effects.batched import Segments
from ebmeta.random_effects.covariance import Factor, hyperprior_curvature, log_hyperprior
from ebmeta.random_effects.effects import Effects
from ebmeta.random_effects.engine import Engine, Mask, Numbers
from ebmeta.random_effects.explained import refuse_explained
from ebmeta.random_effects.modes import Labels, refuse_endless, refuse_endless_spread, refuse_separated
from ebmeta.random_effects.nodes import CHECKS, HEAVY, Nodes, check_nodes, nodes_of, rough_nodes
from ebmeta.random_effects.rows import Rows
from ebmeta.random_effects.tall import orthonormal

__all__ = ["QuadratureEngine"]

Array = NDArray[np.float64]
FARTHEST = 50.0  # bound of the spread of a linear predictor of counts
EXACT = 0.01  # nats that a finer rule may change the log likelihood by
SURE = 0.02  # nats between two rules, of which the finer one then seeks no other maximum
FINEST = 2  # rule
NEAR = 1.0  # nats a parameter that are not worth a first step
FEW, SPARSE = 125, 16  # groups that lead near a maximum, at least; of so many, one is taken at least
REACH = 5.0  # of a step of Newton, in spreads and logarithms
FLAT = 1e-4  # curvature, in nats, of a logarithm or log odds of which nothing is known
FAR_LOG = 20.0  # of a parameter of the likelihood on the scale of logarithms


class QuadratureEngine(Engine):
    r"""The criterion as a function of $\Lambda$, $\beta$ and the parameters of the likelihood.

    Args:
        rows: labelled rows.
        factors: the one grouping factor.
        names: of the common terms.
        likelihood: of a kind that `fit` has looked at, whose parameters are the engine's from now on.
        hyperprior: add the log of a Gamma(2, 0.1) density of each spread.
        fineness: of the rule, from 0 to 2, or `HEAVY`.
    """

    newton = True

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
        self.names, self.hyperprior, self.family = names, hyperprior, likelihood.double()
        self.extra = [p for p in self.family.parameters() if p.requires_grad]
        self.unit = (float(np.std(rows.y - rows.offset)) or 1.0) if likelihood.located else 1.0
        q, r = orthonormal(rows.x, names)
        self.num_common = rows.x.shape[1]
        #: Coefficients that the engine's are deviations from: with heavy tails, labels far off tell no direction.
        self.center = np.linalg.solve(r, q.T @ (rows.y - rows.offset)) if likelihood.located else np.zeros(len(r))
        self.data = self._lay_out(rows, q)
        if not likelihood.discrete:
            refuse_explained(self.data)
        self.first, information = self.data.alone()
        # All parameters have curvatures of about the number of groups, or an optimiser takes steps far too long.
        scale = np.linalg.cholesky(information / len(rows.groupings[0].labels)).T
        self.basis, self.first = scale @ r, scale @ self.first
        self.inverse = np.linalg.inv(self.basis)
        self.data = self.data._replace(x=self.data.x @ np.linalg.inv(scale))
        counted = np.ones(len(rows)) if self.data.weight is None else self.data.weight
        #: Of each group: its log density is lower by them in the units of the labels.
        self.log_units: Array = self.data.segments.sum(counted) * math.log(self.unit)
        self.num_parameters = self.num_theta + self.num_common + len(self.extra)
        self.modes = np.zeros((len(factors[0].terms), len(rows.groupings[0].labels)))
        self.settled, self.has_settled = self.modes, False
        self.found: tuple[Array, list[tuple[Array, Array]]] | None = None  # modes at some parameters
        self.heavy = likelihood.located and len(self.modes) == 1  # a group may have several maxima
        self.constant: tuple[float, Array, Array] | None = None  # where it is one
        self._take(fineness)

    def _take(self, fineness: int) -> None:
        """Take a rule."""
        self.fineness, self.nodes = fineness, nodes_of(len(self.factors[0].terms), fineness, self.family.located)
        self.blocks, self.found, self._curved = blocks_of(self.data, len(self.nodes.points)), None, None
        self.last: tuple[Array, Expansion] | None = None

    @property
    def method(self) -> str:  # type: ignore[override]
        """What the summary says of the criterion: the rule, of which only the heavy one looks for several maxima."""
        return f"maximum likelihood by {self.nodes.words} ({self.nodes.checked} by {self.error:.1g} nats)"

    def _lay_out(self, rows: Rows, x: Array) -> Labels:
        grouping = rows.groupings[0]
        segments = Segments(grouping.codes, len(grouping.labels))
        o = segments.order
        size, weight = (None if v is None else v[o] for v in (rows.size, rows.weights))
        z = np.ascontiguousarray(self.factors[0].whiten(grouping.z)[o].T)
        y, offset = (v[o] / self.unit for v in (rows.y - rows.x @ self.center, rows.offset))
        return Labels(self.family, y, x[o], z, offset, size, weight, segments)

    def start(self) -> Array:
        extra = [float(p.detach()) for p in self.extra]
        return np.concatenate([self.factors[0].start(0.5), self.first, extra])

    def lower_bounds(self) -> Array:
        out = super().lower_bounds()
        out[self.num_theta + self.num_common :] = -FAR_LOG
        return out

    def upper_bounds(self) -> Array:
        out = super().upper_bounds()
        if not self.family.located:
            out[: self.num_theta] = FARTHEST
        out[len(out) - len(self.extra) :] = FAR_LOG
        return out

    def reach(self) -> Array:
        out = np.full(self.num_parameters, REACH)
        out[self.num_theta : self.num_theta + self.num_common] = math.inf
        return out

    def _unpack(self, at: Array) -> tuple[Array, Array]:
        """Set the parameters of the likelihood; return the relative factor, and the coefficients."""
        theta, beta, extra = np.split(at, [self.num_theta, self.num_theta + self.num_common])
        for p, value in zip(self.extra, extra, strict=True):
            p.data.fill_(float(value))
        return self.factors[0].lower(theta), beta

    def _modes_at(self, at: Array) -> list[tuple[Array, Array]]:
        """Return modes of all groups and factors of curvatures; in a fit, the same whatever was asked before."""
        if (found := self.found) is None or not np.array_equal(found[0], at):
            start = self.settled if self.has_settled and self.settled.shape == self.modes.shape else self.modes
            found = at.copy(), self._modes_from(at, self.data, start)
            self.found, self.modes = found, found[1][0][0]
        return found[1]

    def _modes_from(self, at: Array, data: Labels, start: Array) -> list[tuple[Array, Array]]:
        lower, beta = self._unpack(at)
        fixed = data.fixed(beta)
        return data.several(lower, fixed, start) if self.nodes.heavy else [data.modes(lower, fixed, start)]

    def _averages(
        self, at: Array, data: Labels, found: list[tuple[Array, Array]], slopes: bool = False
    ) -> Iterator[tuple[Block, Average]]:
        """Yield the averages over some groups at a time, given the modes of all."""
        lower, beta = self._unpack(at)
        linear = lower.T @ data.z, data.fixed(beta)
        for block in self.blocks if data is self.data else blocks_of(data, len(self.nodes.points)):
            yield block, average(data, block, self.nodes, linear, found, slopes)

    def loss(self, at: Array) -> tuple[float, Array]:
        return self.expansion(at)[:2]

    def expansion(self, at: Array) -> Expansion:
        if (last := self.last) is None or not np.array_equal(last[0], at):
            self.last = last = at.copy(), self._expansion(at)
        return last[1]

    def _hessian(self, at: Array) -> Array:
        return self.expansion(at).hessian

    def _expansion(self, at: Array) -> Expansion:
        factor, size = self.factors[0], self.num_theta
        value, gradient, hessian = -float(self.log_units.sum()), 0 * at, np.zeros((len(at), len(at)))
        for block, found in self._averages(at, self.data, self._modes_at(at), slopes=True):
            value += float(found.log_evidence.sum())
            slope, bend = derivatives(self.data, block, found, factor, self.extra)
            gradient, hessian = gradient + slope, hessian + bend
        rest, end = self._rest(), size + self.num_common
        value += rest[0]
        gradient[end:] += rest[1]
        hessian[end:, end:] += rest[2]
        if self.hyperprior:
            more, slope = log_hyperprior(factor, at[:size], 0.0)
            value, gradient[:size] = value + more, gradient[:size] + slope[:-1]
            hessian[:size, :size] += hyperprior_curvature(factor, at[:size], 0.0)[:-1, :-1]
        return Expansion(-value, -gradient, -hessian).or_far()

    def _rest(self) -> tuple[float, Array, Array]:
        if self.extra or self.constant is None:
            self.constant = rest_of(self.data, self.extra)
        return self.constant

    def each_group(self, at: Array, rng: np.random.Generator) -> Array:
        found = [
            e.log_evidence for _, e in self._averages(at, self.data, self._modes_from(at, self.data, self.settled))
        ]
        rest: Array = self.data.segments.sum(constants_of(self.data).detach().numpy())
        return np.concatenate(found) + rest - self.log_units

    def value(self, at: Array, nodes: Nodes | None = None) -> float:
        """Return the log likelihood in nats, by another rule where asked."""
        kept, self.nodes = self.nodes, self.nodes if nodes is None else nodes
        modes = self._modes_at(at) if self.nodes.heavy == kept.heavy else self._modes_from(at, self.data, self.modes)
        value = sum(float(each.log_evidence.sum()) for _, each in self._averages(at, self.data, modes))
        self.nodes = kept
        return value + self._rest()[0] - float(self.log_units.sum())

    def log_posterior(self, at: Array) -> float:
        more = log_hyperprior(self.factors[0], at[: self.num_theta], 0.0)[0] if self.hyperprior else 0.0
        return self.value(at) + more

    def log_likelihood(self, at: Array) -> float:
        """Return the log likelihood in nats."""
        if (last := self.last) is None or not np.array_equal(last[0], at):
            return self.value(at)
        more = log_hyperprior(self.factors[0], at[: self.num_theta], 0.0)[0] if self.hyperprior else 0.0
        return -last[1].value - more

    def maximise(self, start: Array | None = None, held: Mask | None = None, least: float = -np.inf) -> Optimum:
        """Go to the maximum, by a finer rule where the present one is not exact there."""
        best = super().maximise(self._near() if start is None else start, held, least)
        while self.fineness < FINEST or (self.fineness == FINEST and len(self.modes) not in CHECKS):
            self.error = self._apart(best.at, check_nodes(len(self.modes), self.fineness, self.family.located))
            if self.error < EXACT or self.fineness == FINEST:
                break
            best = self._on(best, self.fineness + 1, held)
        if self.heavy and self.fineness != HEAVY and self._apart(best.at, nodes_of(1, HEAVY)) >= EXACT:
            best = self._on(best, HEAVY, held)
            self.error = self._apart(best.at, check_nodes(1, HEAVY))
        return best

    def _on(self, best: Optimum, fineness: int, held: Mask | None) -> Optimum:
        climb = self.ascend if self.error < SURE and fineness != HEAVY else super().maximise
        self._take(fineness)
        again = climb(best.at, np.zeros(len(best.at), dtype=bool) if held is None else held)
        return again._replace(evaluations=best.evaluations + again.evaluations)

    def _apart(self, at: Array, nodes: Nodes) -> float:
        return abs(self.value(at, nodes) - self.log_likelihood(at))

    def settle(self, at: Array) -> None:
        self.settled, self.has_settled, self.found, self.last = self._modes_at(at)[0][0], True, None, None

    def state(self, at: Array) -> dict[str, Array]:
        return {**super().state(at), "settled": self.settled, "rule": np.array([self.fineness, self.error])}

    def restore(self, at: Array, state: Mapping[str, Array]) -> None:
        if self.fineness != int(state["rule"][0]):
            self._take(int(state["rule"][0]))
        super().restore(at, state)
        self.modes, self.settled, self.error = state["settled"], state["settled"], float(state["rule"][1])
        self.has_settled, self.found = True, None

    def _near(self) -> Array:
        """Return parameters near the maximum, from some of the groups by a rough rule."""
        begin, kept = self.start(), (self.data, self.nodes, self.blocks)
        rough = rough_nodes(len(self.modes), self.family.located)
        step = max(min(self.modes.shape[1] // FEW, SPARSE), 1)
        if step == 1 and rough is self.nodes:
            return begin
        self._rest()  # of all groups
        some = self.data.of(np.arange(0, self.modes.shape[1], step))
        self.nodes, self.data, self.modes = rough, some, self.modes[:, ::step]
        self.blocks, self.last, self.found = blocks_of(self.data, len(rough.points)), None, None
        held, enough = np.zeros(len(begin), dtype=bool), NEAR * len(begin)
        at = self.polished(Optimum(begin, math.inf, False, 0), held, enough).at
        last, gain = self._step(at, self.expansion(at), held)
        if (at != begin).any() and gain < enough:  # of so few groups the maximum is no nearer to that of all
            at = np.clip(at + last, self.lower_bounds(), self.upper_bounds())
        (self.data, self.nodes, self.blocks), self.last, self.found = kept, None, None
        self.modes = np.zeros((len(self.modes), len(self.data.segments.counts)))
        return at if np.abs(at - begin).max() < FARTHEST else begin  # as of labels that few groups tell nothing of

    def check(self, at: Array) -> None:
        lower, beta = self._unpack(at)
        own = len(at) - len(self.extra)
        refuse_endless(at[own:], self.loss(at)[1][own:], FAR_LOG)
        if self.family.discrete and not self.hyperprior:
            refuse_endless_spread(self.factors[0], lower)
        if self.family.discrete and self.num_common:
            modes = self._modes_at(at)[0][0]
            eta = self.data.fixed(beta) + (lower.T @ self.data.z * self.data.segments.spread(modes)).sum(0)
            refuse_separated(self.data, eta, np.asarray(self.inverse), beta, self.names)

    def scales(self, at: Array) -> tuple[float, dict[str, float]]:
        self._unpack(at)
        numbers = {k: v for k, v in self.family.numbers().items() if k not in ("center", "unit")}
        return self.unit, {k: v * self.unit if k == "noise" else v for k, v in numbers.items()}

    def coefficients(self, at: Array) -> Array:
        return self.center + self.unit * self.inverse @ at[self.num_theta : self.num_theta + self.num_common]

    def unknown(self, at: Array) -> Mask:
        """Return which parameters of the likelihood ran off to an end: a shape that is infinite, an inflation of 0."""
        out = super().unknown(at)
        ends = self.num_theta + self.num_common
        out[ends:] = np.abs(np.diag(self.curvature(at)))[ends:] < FLAT
        return out

    def common_inner(self, at: Array) -> tuple[Array, Array]:
        part, known = slice(self.num_theta, self.num_theta + self.num_common), np.flatnonzero(~self.unknown(at))
        found = np.linalg.pinv(self.curvature(at)[np.ix_(known, known)])[part, part]
        return np.asarray(self.inverse), np.asarray(self.unit**2 * found)

    def common_given(self, at: Array) -> Array:
        return np.zeros((self.num_common, self.num_common))

    def effects(self, at: Array, rows: Rows | None = None, groups: Numbers | None = None) -> list[Effects]:
        lower, _ = self._unpack(at)
        data, start = (self.data, self.settled) if groups is None else (self.data.of(groups), self.settled[:, groups])
        if rows is not None:
            data = self._lay_out(rows, rows.x @ self.inverse)
            start = np.zeros((len(lower), len(data.segments.counts)))
        mean, square, third = (np.zeros((len(data.segments.counts), *[len(lower)] * k)) for k in (1, 2, 3))
        silent = np.zeros(len(mean)) if self.family.inflated else None
        slope = np.zeros((*mean.shape, self.num_common))
        kept, self.nodes = self.nodes, nodes_of(1, HEAVY) if self.heavy else self.nodes
        modes = self._modes_from(at, data, start)
        spread = self.unit * lower
        for block, found in self._averages(at, data, modes, slopes=True):
            mean[block.groups], square[block.groups], third[block.groups] = found.moments(spread)
            slope[block.groups] = found.mean_slope(block, spread) @ self.basis / self.unit
            if silent is not None:
                silent[block.groups] = found.silent(data, block)
        self.nodes = kept
        mode = modes[0][0].T @ spread.T if rows is None else None
        return [Effects(mean, square, slope, mode, third, silent).turned(self.factors[0].inverse)]

    def rebuild(self, rows: Rows, factors: list[Factor]) -> Engine:
        return QuadratureEngine(rows, factors, self.names, copy.deepcopy(self.family), False)

    def likelihood(self, at: Array) -> Likelihood:
        self._unpack(at)
        out = copy.deepcopy(self.family)
        if out.log_sigma is not None:
            out.log_sigma.data += math.log(self.unit)
        return out
