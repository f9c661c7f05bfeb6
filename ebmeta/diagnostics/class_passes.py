r"""Draws of class means and proportions of a few tasks, and their log ratios to the exact joint density.

Where a model generates inputs, the target is its own posterior given all that inference has seen,

$$ \log r(m, \pi) = \log p_\psi(m, \pi) + \sum_{i \in s} \log \mathcal N(x_i; m_{y_i}, s I)
   + \sum_{i \in q} \log \sum_c \pi_c\, \mathcal N(x_i; m_c, s I) - \log q_k(m, \pi), $$

or, with the query labels, the conjugate posterior, whose evidence and divergence are known in closed form. The first
two terms are $\log q_0 + \log p(x^s \mid y^s)$, because $q_0$ is exact. Ratios are taken of all coordinates at once:
a part of the class means that is orthogonal to all rows and to the prior mean enters prior, likelihood and $q_k$ by its
length alone, so that a span of rows would give the same ratios.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import torch
from torch import Tensor

from ebmeta.diagnostics.common import refuse_outliers
from ebmeta.diagnostics.passes import smooth
from ebmeta.foundation.seeding import stream
from ebmeta.likelihood import NEVER
from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.model.posterior import Inference
from ebmeta.model.trained import say_untrained
from ebmeta.parts.class_gaussian import ClassGaussian
from ebmeta.parts.gaussian import Gaussian
from ebmeta.prediction.trees import evaluating, match_model
from ebmeta.refine.state import Setting
from ebmeta.tasks.batch import TaskBatch

__all__ = ["ClassDraws", "ClassPass", "class_passes", "told"]

CELLS = 2**20  # numbers of all draws per pass: bounds their memory


@dataclass(frozen=True, eq=False)
class ClassDraws:
    r"""Draws of $(m, \pi)$.

    Args:
        weights: as weights of the head's features, shape `(S, T, C, P)`.
        log_ratio: $\log r$, shape `(S, T)`.
    """

    weights: Tensor
    log_ratio: Tensor


@dataclass(frozen=True, eq=False)
class ClassPass:
    r"""What is known of a few tasks under a joint model: inference, and the target.

    Args:
        batch: the tasks.
        inferred: all that inference says of them.
        known: the posterior given the query labels too, where these are part of the target.
        num_draws: draws from each posterior, $S$.
        key: seed of the draws, which all steps share.
    """

    batch: TaskBatch
    inferred: Inference
    known: ClassGaussian | None
    num_draws: int
    key: tuple[int, int]

    @cached_property
    def _path(self) -> list[ClassGaussian]:
        return [cast(ClassGaussian, q.double()) for q in self.inferred.path]

    @cached_property
    def _x(self) -> Tensor:
        """Features of the queries, zero for padding."""
        return self.inferred.setting.real_x.double()

    def draw(self, k: int) -> ClassDraws:
        """Draw from $q_k$."""
        q, first = self._path[k], self._path[0]
        values = q.draw(self.num_draws, stream(*self.key))
        ratio = first.log_prob(values) - q.log_prob(values) + self._of_queries(values) + self.inferred.log_evidence
        return ClassDraws(q.weights(values), ratio)

    def _of_queries(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return the log density of what the target knows of the queries in nats, shape `(S, T)`."""
        mask, y = self.batch.query_mask, None if self.known is None else self.batch.query_y
        inputs: Tensor = self._path[0].inputs(values, mask, y).log_prob(self._x[..., :-1])
        if y is None:
            return inputs
        share = values["pi"].clamp(min=torch.finfo(torch.float64).tiny).log()
        return inputs + torch.where(mask, share.gather(-1, y.expand(*share.shape[:-1], -1)), 0.0).sum(-1)

    def elbo(self, k: int, drawn: ClassDraws) -> Tensor:
        """Return the mean log ratio under $q_k$ in nats, shape `(T,)`, exact where the target is conjugate."""
        return drawn.log_ratio.mean(0) if self.known is None else self.log_evidence - self._path[k].kl(self.known)

    @cached_property
    def log_evidence(self) -> Tensor:
        """The log evidence of the inputs in nats, shape `(T,)`, with the query labels where these are known."""
        if self.known is None:
            return self.inferred.log_evidence
        return self.inferred.log_evidence + self.known.input_evidence(self._path[0], self._x)

    @cached_property
    def bound(self) -> Tensor:
        """The closed-form bound of the evidence by the beliefs behind each step, `(steps, T)`; NaN for the first."""
        gained = self.inferred.input_evidence()
        return torch.cat([torch.full_like(gained[:1], math.nan), gained[1:] + self.inferred.log_evidence])

    @property
    def predicted(self) -> list[Tensor]:
        """Probabilities of the classes of queries as they are predicted after each step, shape `(T, Q, C)`."""
        return [self.inferred.predict(k)["probs"].double() for k in range(len(self._path))]

    def plain_score(self, k: int, y: Tensor) -> Tensor:
        """Return the log likelihood of query labels as they are predicted after step `k` in nats, shape `(T, Q)`."""
        return self.inferred.log_prob(k, y, self._x.new_zeros(1), predictive=True)

    def score(self, drawn: ClassDraws, weight: Tensor) -> Tensor:
        """Return the log of the weighted mean probability of query labels in nats, shape `(T, Q)`."""
        log_probs = self._log_probs(drawn)
        y = cast(Tensor, self.batch.query_y).expand(log_probs.shape[:-1])
        return torch.logsumexp(log_probs.gather(-1, y.unsqueeze(-1)).squeeze(-1) + weight.T.unsqueeze(-1), 0)

    def corrected(self) -> tuple[dict[str, Tensor], Tensor]:
        """Return mean probabilities of the classes of queries by weighted draws of the last posterior, and k-hat."""
        drawn = self.draw(-1)
        weight, khat = smooth(drawn.log_ratio)
        return {"probs": (weight.T.exp()[..., None, None] * self._log_probs(drawn).exp()).sum(0)}, khat

    def _log_probs(self, drawn: ClassDraws) -> Tensor:
        eta = self._x @ drawn.weights.mT
        return torch.log_softmax(eta.masked_fill(~self.batch.way_mask.unsqueeze(1), NEVER), -1)


def told(q0: Gaussian, setting: Setting, y: Tensor) -> ClassGaussian:
    """Return the exact posterior given the labels of the queries too, in the floating-point type of `q0`.

    Args:
        q0: the posterior given the support set.
        setting: facts of the tasks.
        y: labels of the queries, shape `(T, Q)`.
    """
    x = setting.real_x[..., :-1].to(q0.loc.dtype)
    member = setting.likelihood.statistic(y, q0.loc.shape[1]).to(x.dtype) * setting.query_mask.unsqueeze(-1)
    return cast(ClassGaussian, q0).given_beliefs(x, member)


def class_passes(
    model: EmpiricalBayes, batch: TaskBatch, observe: str, num_steps: int | None, num_draws: int, seed: int
) -> Iterator[ClassPass]:
    """Infer a few tasks of a joint model at a time.

    Raises:
        ValueError: if query labels are needed and absent, or tasks may have outliers.
    """
    refuse_outliers(batch, "check_posteriors")
    if observe == "both":
        batch.pooled()  # says so where labels are absent
    say_untrained(model)
    widest = max(model.predictor.num_weights, batch.query_mask.shape[1])
    size = max(1, CELLS // (num_draws * batch.way_mask.shape[1] * widest))
    with evaluating(model):
        for start in range(0, batch.num_tasks, size):
            part = match_model(model, batch[start : start + size])
            inferred = model.infer(part.unlabelled(), num_steps)
            known = None
            if observe == "both":
                known = told(inferred.path[0].double(), inferred.setting, cast(Tensor, part.query_y))
            yield ClassPass(part, inferred, known, num_draws, (seed, start))
