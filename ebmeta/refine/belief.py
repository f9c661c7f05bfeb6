r"""Refinement of the joint model, by beliefs about the classes of the queries.

Given any belief $r$ about the queries, the posterior of class means and proportions is exact and conjugate
(`ebmeta.parts.class_gaussian`). What it says of each query from all other rows is a belief again, $r^*$. A step takes
this belief, corrects it and counts the queries anew,

$$ r_{ic} \propto \bar r_{ic}^{\; t}\, e^{g_{ic}}, \qquad
   \bar r_{ic} \propto r^*_{ic}\, v_{ic}^{\, \omega D / 2}, \qquad \xi = \bar r - r, \qquad
   q_{k+1} = q(m, \pi \mid r) , $$

with a network's correction $g$ and confidence $t$, which see the unlabelled queries together. $\omega$ is of the prior
(`ClassGaussian.volume`): the predictive density of a class has a factor $v^{-D/2}$, which counts all $D$ coordinates,
where features have fewer independent ones. Where the prior says that rows hardly cluster, they count with a weight
$w < 1$ (`ClassGaussian.trust`). Without corrections ($t = 1$, $g = \omega = 0$) the steps are collapsed mean-field
inference; with them they learn what the model has wrong, and $L(r^*) - L(r)$ says in nats how much evidence that costs.
All steps share their parameters, so that any number of them may be taken, and each step predicts: the probabilities
after step $k$ are the belief that $q_k$ leads to.

Counts of beliefs take the labels for known, and a posterior by them is too narrow. What a step reports has the widths
that unsure beliefs leave (`ClassGaussian.with_doubt`); steps and predictions go on without. Last, a temperature of each
task is fitted to what is predicted (`ebmeta.refine.temperature`). That of a general classifier depends on the design
of a task (`Setting.design`), most of all its number of queries, and on how many independent coordinates its features
have, and on nothing else: what more readings say of one encoder misleads on another. Labelled rows correct either one,
where a class has several.

Where the queries are known to be as many of every class, and can be by their number, exact posterior probabilities add
up to these numbers. So do the beliefs, by potentials $u_c$ of the classes (Sinkhorn's iterations),

$$ r_{ic} \leftarrow r_{ic}\, e^{u_c} \Big/ \sum_{c'} r_{ic'}\, e^{u_{c'}}, \qquad \sum_i r_{ic} = Q / C . $$

These beliefs are too unsure where queries are few: potentials do not know that no two of as many queries as classes are
of one class. Predictions know it (`ebmeta.refine.equal_counts`), where sums over counts are exact. The beliefs of a
general classifier know it always. Its temperature acts on odds, and equal numbers are held anew.

Where shares are not known to be equal, steps feed on themselves: a class that takes rows takes more. A trained model
then predicts by a mean over its steps, in which later ones count more,

$$ P_k = P_{k-1} + \frac{2}{k + 1} (p_k - P_{k-1}) = \sum_{j \le k} \frac{2 j}{k (k + 1)}\, p_j . $$

Its loss is at most the mean of theirs. A general classifier and one of rows of no class predict by their last step.

Where rows may be of none of the classes, how likely that is has a calibration of its own (`ebmeta.refine.outliers`).

Source: Teh, Newman and Welling 2007, A collapsed variational Bayesian inference algorithm for latent Dirichlet
allocation; Cuturi 2013, Sinkhorn distances.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from ebmeta.foundation.seeding import blank_linear
from ebmeta.foundation.softmax import log_softmax, probabilities
from ebmeta.parts.class_gaussian import ClassGaussian
from ebmeta.parts.class_prior import EQUAL
from ebmeta.parts.gaussian import Gaussian
from ebmeta.refine.base import Refiner
from ebmeta.refine.class_synthetic_gradient import ClassSyntheticGradient
from ebmeta.refine.equal_counts import with_equal_counts
from ebmeta.refine.equal_shares import with_equal_shares
from ebmeta.refine.outliers import OF_NONE
from ebmeta.refine.seeds import started
from ebmeta.refine.state import DESIGN, QueryState, Setting
from ebmeta.refine.temperature import TaskTemperature, given_labels, joined
from ebmeta.tasks.rows import Rows

__all__ = ["BeliefRefiner", "self_consistent"]

#: How far log temperatures of tasks lie from what is fitted: of a general classifier, chosen on encoders left out, and
#: of others, on validation classes of CIFAR-FS. Values nearby are as good (docs/general.md).
TOLD = {True: 0.35, False: 0.2}


class BeliefRefiner(Refiner):
    r"""Steps by corrected beliefs about the queries; parameters shared by all steps.

    Args:
        synthetic_gradient: the network $\xi$ whose correction $g$ is used.
        num_steps: number of steps in training, $K$.
        general: whether it is for features of any kind. Equal numbers of queries are then held as numbers, and the
            temperature of a task depends on its design and the number of its coordinates in place of the network's
            readings.

    Raises:
        ValueError: if `num_steps` is negative.
    """

    joint = True

    synthetic_gradient: ClassSyntheticGradient

    def __init__(self, synthetic_gradient: ClassSyntheticGradient, num_steps: int, general: bool = False) -> None:
        super().__init__(synthetic_gradient, num_steps)
        self.general = general
        self.confidence = blank_linear(synthetic_gradient.num_readings, 1)
        nn.init.zeros_(self.confidence.weight)
        nn.init.zeros_(self.confidence.bias)
        self.temperature = TaskTemperature(num_steps, DESIGN + 1 if general else synthetic_gradient.num_with_products)

    @property
    def calibrated(self) -> bool:
        return self.temperature.fitted

    def start(self, setting: Setting) -> Gaussian:
        q0 = cast(ClassGaussian, setting.q0)
        return started(q0, setting.real_x, setting.query_mask) if setting.unknown else q0

    def odds(self, state: QueryState) -> Tensor:
        r"""Return the corrected log odds of each query by itself in nats, shape `(T, Q, C)`."""
        reading = state.once(self.synthetic_gradient.read)
        confidence = torch.tanh(self.confidence(reading.by_task)).exp().unsqueeze(-1)
        return confidence * state.log_mean + self.synthetic_gradient.correction(reading)

    def belief(self, state: QueryState) -> Tensor:
        r"""Return $\log r$ of the queries in nats, shape `(T, Q, C)`."""
        setting, hold = state.setting, with_equal_counts if self.general else with_equal_shares
        return hold(state.once(self.odds), setting.equal, setting.query_mask, setting.way_mask)

    def synthetic(self, state: QueryState) -> Tensor:
        return state.mean - state.once(self.belief).exp()

    def step(self, k: int, state: QueryState) -> Gaussian:
        setting = state.setting
        r = probabilities(state.once(self.belief)) * setting.query_mask.unsqueeze(-1)
        return cast(ClassGaussian, setting.q0).given_beliefs(state.x[..., :-1], r)

    def report(self, k: int, state: QueryState) -> Gaussian:
        return cast(ClassGaussian, state.q).with_doubt(state.setting.q0, state.x[..., :-1], state.distance)

    def log_probs(self, k: int, state: QueryState) -> Tensor:
        if torch.compiler.is_compiling() or not self.temperature.fitted:
            return state.once(self.belief)
        setting = state.setting
        factor = self.temperature(k, self.reading(state))
        log_p = self.tempered(
            factor * self.told(factor, state)[0], self.sharp(state), setting.equal, setting.query_mask, setting.way_mask
        )
        return OF_NONE[self.general](log_p, state) if setting.unknown else log_p

    def averaged(self, number: int, log_probs: Tensor, before: Tensor, state: QueryState) -> Tensor:
        setting = state.setting
        if torch.compiler.is_compiling() or not self.temperature.fitted or setting.unknown:
            return log_probs
        share = 2 / (number + 1)
        mean = torch.logaddexp(math.log(share) + log_probs, math.log1p(-share) + before)
        return mean if setting.equal is None else torch.where(setting.equal[:, None, None], log_probs, mean)

    def told(self, factor: Tensor, state: QueryState) -> tuple[Tensor, Tensor]:
        """Return by what factors labelled rows correct a temperature, and what they leave to it, both `(T,)`."""
        support, number = state.setting.support, state.setting.way_mask.shape[1]
        nothing = torch.ones_like(factor), torch.ones_like(factor)
        if support is None or support.y is None:
            return nothing
        own = (one_hot(support.y, number) * support.mask.unsqueeze(-1)).to(factor)
        weight = own @ (1 - 1 / own.sum(1).clamp(min=1)).unsqueeze(-1)
        if not bool(weight.any()):
            return nothing
        odds = self.odds(self.of_labelled(state, own))[..., : number - state.setting.unknown]
        log_p = log_softmax(factor[:, None, None] * odds)
        return given_labels(log_p, support.y, weight.squeeze(-1), TOLD[self.general])

    def of_labelled(self, state: QueryState, own: Tensor) -> QueryState:
        """Return the state of labelled rows in place of queries, each left out of the posterior.

        They were chosen by class, so all classes are as frequent.

        Args:
            state: that of the queries.
            own: 1 for the class of each labelled row, shape `(T, S, C)`.
        """
        q, support = cast(ClassGaussian, state.q), cast(Rows, state.setting.support)
        left = replace(q, counted=own, unlabelled=True, shares=EQUAL * q.real.to(q.shares))
        return QueryState(replace(state.setting, x=support.x, query_mask=support.mask), left)

    def sharp(self, state: QueryState) -> Tensor:
        """Return the log odds that a temperature acts on, those of few known counts where there are, `(T, Q, C)`."""
        if self.general:
            return state.once(self.odds)
        setting, shares = state.setting, state.once(self.belief)
        return with_equal_counts(state.once(self.odds), setting.equal, setting.query_mask, setting.way_mask, shares)

    def tempered(
        self, factor: Tensor, odds: Tensor, equal: Tensor | None, query_mask: Tensor, way_mask: Tensor
    ) -> Tensor:
        """Return log probabilities of log odds times the factors of tasks, shape `(T,)`; others as of `belief`."""
        return with_equal_counts(factor[:, None, None] * odds, equal if self.general else None, query_mask, way_mask)

    def reading(self, state: QueryState) -> Tensor:
        """Return what the temperature of each task depends on, shape `(T, F)`."""
        if self.general:
            coordinates = _coordinates(cast(ClassGaussian, state.setting.q0))
            return torch.cat([state.setting.design, coordinates.log().unsqueeze(1)], 1)
        return state.once(self.synthetic_gradient.read).with_products

    def _is_kept(self) -> bool:
        """Whether the network of a general classifier is kept, and its temperature, fitted to any features, with it."""
        return self.general and not any(p.requires_grad for p in self.synthetic_gradient.parameters())

    def forget(self) -> None:
        if not self._is_kept():
            self.temperature.forget()

    @torch.no_grad()
    def finish(self, tasks: Iterable[tuple[Sequence[QueryState], Tensor]]) -> None:
        r"""Fit the temperature of every task, with which predictions are made: steps go on from beliefs as they were.

        $$ \min_{a_k, b_k} \sum_{t, i} -\log \frac{r_{t i y_{ti}}^{t_k'}}{\sum_c r_{tic}^{t_k'}}, \qquad
           t_k' = a\, t_k^{\,\ell} $$

        with the factor $a$ that labelled rows ask for where $t_k = 1$, and the share $\ell$ that they leave to it. So
        the temperature is fitted to what labels do not tell.

        Args:
            tasks: as of `Refiner.finish`.
        """
        if self._is_kept():
            return
        self.forget()
        kept = []
        for states, y in tasks if self.num_steps else ():
            setting = states[0].setting
            one = torch.ones_like(y[:, 0], dtype=setting.real_x.dtype)
            steps = [(self.reading(s), self.sharp(s), *self.told(one, s)) for s in states]
            known = setting.equal, setting.query_mask, setting.way_mask
            kept.append((y, *known, *(value for step in steps for value in step)))
        batches = joined(kept)
        for k in range(self.num_steps):
            at = slice(4 * k, 4 * k + 4)

            def nll(factor: Tensor, at: slice = at) -> Tensor:
                parts = torch.split(factor, [len(batch[0]) for batch in batches])
                lost = []
                for (y, equal, query_mask, way_mask, *steps), t in zip(batches, parts, strict=True):
                    _, odds, told, left = steps[at]
                    log_p = self.tempered(told * t**left, odds, equal, query_mask, way_mask)
                    lost.append(-log_p.gather(-1, y.unsqueeze(-1)).squeeze(-1)[query_mask])
                return torch.cat(lost).mean()

            self.temperature.fit(k, torch.cat([batch[4 + at.start] for batch in batches]), nll)


def self_consistent(setting: Setting, num_iterations: int) -> tuple[Tensor, Tensor]:
    r"""Return the belief $r^*$ that the model has without corrections, where it leads to itself.

    Args:
        setting: the facts of tasks of a joint model.
        num_iterations: steps without correction from $q_0$ on.

    Returns:
        Probabilities of the classes of queries, zero for padding, shape `(T, Q, C)`, and the largest change of one of
        each task at the last step, shape `(T,)`.
    """
    q0, mask = replace(cast(ClassGaussian, setting.q0), volume=None), setting.query_mask.unsqueeze(-1)
    q, r = q0, setting.real_x.new_zeros(*setting.query_mask.shape, setting.way_mask.shape[1])
    for _ in range(num_iterations):
        before = r
        odds = q.log_odds(setting.real_x)[0]
        r = with_equal_shares(odds, setting.equal, setting.query_mask, setting.way_mask).exp() * mask
        q = q0.given_beliefs(setting.real_x[..., :-1], r)
    return r, (r - before).abs().amax((1, 2))


def _coordinates(q: ClassGaussian) -> Tensor:
    """Return how many coordinates a predictive density counts, shape `(T,)`."""
    size = q.loc.shape[-1]
    return q.loc.new_full((len(q.loc),), size) if q.volume is None else size * (1 - q.volume[:, 0, 0])
