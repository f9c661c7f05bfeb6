r"""Draws from each posterior of a few tasks and their log ratios to the exact joint density, in the labelled span.

With the directions $B$ of `ebmeta.diagnostics.span` and $u = B^\top w$, a draw is weighed by

$$ \log r(u) = \log p_\psi(u) + \sum_{i \in \text{labelled}} \log p(y_i \mid x_i, u) - \log q_k(u), $$

and the linear predictors of queries are drawn from the prior given $u$.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ebmeta.diagnostics.span import Frame, Projected, frame, project
from ebmeta.likelihood import Given
from ebmeta.model.conditional import repeat
from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.model.posterior import Inference, choose
from ebmeta.model.trained import say_untrained
from ebmeta.parts.gaussian import Gaussian
from ebmeta.prediction.arviz import psis
from ebmeta.prediction.trees import evaluating, match_model
from ebmeta.tasks.batch import TaskBatch

__all__ = ["LEAST_DRAWS", "Draws", "Pass", "passes", "smooth"]

LEAST_DRAWS = 25
EVEN = 0.01  # nats by which ratios may differ and have no tail
CHUNK = 16  # tasks per pass: bounds the memory of the draws


@dataclass(frozen=True, eq=False)
class Draws:
    r"""Draws of $u$ in labelled rows' directions, `(T, C, S, R)`, and log ratios `(S, T)` there and in all."""

    u: Tensor
    log_ratio: Tensor
    log_ratio_rows: Tensor


@dataclass(frozen=True, eq=False)
class Pass:
    """What is known of a few tasks: inference, the labels of the target, and noise that all steps share."""

    batch: TaskBatch
    inferred: Inference
    labelled: TaskBatch
    x: Tensor
    directions: Frame
    level: Tensor
    noise: Tensor
    query_noise: Tensor
    all_labels: Pass | None = None  # the same for $q_0$ given all labels, where the steps were given fewer

    @cached_property
    def levels(self) -> int:
        return self.inferred.num_levels

    @cached_property
    def _prior(self) -> Gaussian:
        return self.inferred.prior.double()

    @cached_property
    def prior(self) -> Projected:
        return project(self._prior, self.directions)

    def _chosen(self, values: Tensor) -> Tensor:
        """Choose each draw's level of noise, `(S, T, ...)`, from `values` of shape `(S, T * J, ...)`."""
        by_level = values.view(len(values), -1, self.levels, *values.shape[2:])
        index = self.level.view(*self.level.shape, *[1] * (by_level.dim() - 2)).expand(-1, -1, 1, *by_level.shape[3:])
        chosen: Tensor = by_level.gather(2, index).squeeze(2)
        return chosen

    def _given(self, size: Tensor | None) -> Given:
        levels = self.inferred.levels
        return Given(size, None if levels is None else self._chosen(levels.z.flatten().expand(len(self.level), -1)))

    def draw(self, k: int | None) -> Draws:
        """Draw from $q_k$, or from the prior where `k` is None."""
        q = self.prior.repeat(self.levels) if k is None else self._projected(k)
        first, every, times = self.directions.num_labelled, len(self.directions), self.levels
        u = q.draw(self.noise.repeat_interleave(times, 0))
        eta = torch.einsum("tnr,tcsr->stnc", self._rows, u[..., :first]) + self._common
        given = Given(_repeat(self.labelled.support_size, times), None)
        if self.inferred.levels is not None:
            given = Given(given.size, self.inferred.levels.z.flatten())
        y, ways = (repeat(v, times) for v in (self.labelled.support_y, self.labelled.way_mask))
        logp = self.inferred.likelihood.log_prob(y, eta, ways, given)
        labels = torch.where(repeat(self.labelled.support_mask, times), logp, 0.0).sum(-1)
        labels = labels + (self.inferred.log_prior - self.inferred.log_weight).flatten()
        of_p, of_q = self.prior.repeat(times).log_prob(u, first, every), q.log_prob(u, first, every)
        chosen = self._chosen(u[..., :first].permute(2, 0, 1, 3)).permute(1, 2, 0, 3)
        return Draws(chosen, *(self._chosen(a - b + labels) for a, b in zip(of_p, of_q, strict=True)))

    @cached_property
    def _rows(self) -> Tensor:
        return repeat(self.x @ self.directions.basis[..., : self.directions.num_labelled], self.levels)

    @cached_property
    def _common(self) -> Tensor:
        """Linear predictors of labelled rows by the weights that have no spread."""
        return repeat((self._prior.loc @ (self.x - self._prior.varying_part(self.x)).mT).mT, self.levels)

    def _projected(self, k: int) -> Projected:
        basis, real = (repeat(v, self.levels) for v in (self.directions.basis, self.directions.real))
        return project(self.inferred.path[k].double(), Frame(basis, real, self.directions.num_labelled))

    def unseen(self, k: int) -> Tensor:
        r"""Return $\mathbb E_q \mathrm{KL}(q_k(w \mid u) \Vert p_\psi(w \mid u))$ in nats, shape `(T,)`."""
        first = self.directions.num_labelled
        whole = self.inferred.path[k].double().kl(self.inferred.setting.prior.double())
        part = self._projected(k).leading(first).kl(self.prior.leading(first).repeat(self.levels))
        return self.inferred.average(self.inferred.by_level(whole - part))

    @cached_property
    def _query(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return slope, shift and standard deviation of queries' linear predictors given $u$, under the prior."""
        p, prior = self._prior, self.prior.leading(self.directions.num_labelled)
        x = self.inferred.x.double()
        basis = self.directions.basis[..., : self.directions.num_labelled]
        cross = torch.einsum("tqp,tcpr->tcqr", x, p.covariance_times(basis))
        slope = torch.cholesky_solve(cross.mT, prior.scale_tril).mT
        loc, var = p.marginal(x)
        shift = loc - torch.einsum("tcqr,tcr->tqc", slope, prior.loc)
        left = var - (slope * cross).sum(-1).mT
        return slope, shift, left.clamp(min=0).sqrt()

    def queries(self, drawn: Draws) -> Tensor:
        r"""Return linear predictors of the queries given each draw of $u$, shape `(S, T, Q, C)`."""
        slope, shift, scale = self._query
        return shift + torch.einsum("tcqr,tcsr->stqc", slope, drawn.u) + scale * self.query_noise

    def plain_score(self, k: int, y: Tensor) -> Tensor:
        """Return the log likelihood of query labels under $q_k$ as it is in nats, shape `(T, Q)`."""
        if not self.inferred.likelihood.categorical:
            return self.inferred.log_prob(k, y, self.x.new_zeros(1), predictive=True)
        probs = self.inferred.predict(k)["probs"]
        return probs.gather(-1, y.unsqueeze(-1)).squeeze(-1).clamp(min=torch.finfo(probs.dtype).tiny).log()

    def score(self, drawn: Draws, weight: Tensor) -> Tensor:
        """Return the log of the weighted mean likelihood of query labels in nats, shape `(T, Q)`."""
        given = self._given(self.batch.query_size)
        y = self.batch.query_y
        assert y is not None  # for the type checker: only labelled tasks are scored
        each = self.inferred.likelihood.log_prob(y, self.queries(drawn), self.batch.way_mask, given)
        return torch.logsumexp(each + weight.T.unsqueeze(-1), 0)

    def corrected(self) -> tuple[dict[str, Tensor], Tensor]:
        """Return summaries of the predictions by weighted draws of the last posterior, and k-hat."""
        drawn = self.draw(-1)
        weight, khat = smooth(drawn.log_ratio)
        return self.predict(drawn, weight), khat

    def predict(self, drawn: Draws, weight: Tensor) -> dict[str, Tensor]:
        """Return weighted summaries of the predictions, each of shape `(T, Q, ...)`."""
        eta, given, likelihood = self.queries(drawn), self._given(self.batch.query_size), self.inferred.likelihood
        share = weight.T.exp().unsqueeze(-1)
        if likelihood.categorical:
            classes = likelihood.distribution(eta, self.batch.way_mask, given)
            probs: Tensor = classes.probs
            return {"probs": (share.unsqueeze(-1) * probs).sum(0)}
        of_eta = likelihood.mean(eta.squeeze(-1), given)
        mean = (share * of_eta).sum(0)
        total = (share * (likelihood.variance(eta.squeeze(-1), given) + (of_eta - mean).square())).sum(0)
        return {"mean": mean, "std": total.sqrt()}


def smooth(log_ratio: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return log weights, shape `(T, S)`, and $\hat k$, shape `(T,)`, of log ratios of shape `(S, T)`."""
    ratios = log_ratio.T.cpu().numpy()
    weight, khat = np.full(ratios.shape, -math.log(ratios.shape[1])), np.zeros(len(ratios))
    uneven = np.ptp(ratios, 1) > EVEN
    if uneven.any():
        with np.errstate(all="ignore"):  # of ArviZ, where a tail is short
            weight[uneven], khat[uneven] = psis(ratios[uneven])
    return torch.from_numpy(weight).to(log_ratio.device), torch.from_numpy(khat).to(log_ratio.device)


def _repeat(value: Tensor | None, times: int) -> Tensor | None:
    return None if value is None else repeat(value, times)


def passes(
    model: EmpiricalBayes, batch: TaskBatch, observe: str, num_steps: int | None, num_draws: int, seed: int
) -> Iterator[Pass]:
    """Infer a few tasks at a time."""
    labelled = batch.pooled() if observe == "both" else batch
    generator = torch.Generator().manual_seed(seed)
    say_untrained(model)
    with evaluating(model):
        for start in range(0, batch.num_tasks, CHUNK):
            part, target = (match_model(model, b[start : start + CHUNK]) for b in (batch, labelled))
            inferred = model.infer(part.unlabelled(), num_steps)
            mask = target.support_mask
            x = model.predictor.features(target.support_x, mask).double() * mask.unsqueeze(-1)
            others = inferred.x.double() * part.query_mask.unsqueeze(-1)
            directions = frame(*(inferred.prior.varying_part(rows) for rows in (x, others)))
            tasks, ways = part.way_mask.shape
            level = choose(inferred.log_weight, num_draws, generator)
            shapes = (tasks, ways, num_draws, len(directions)), (num_draws, tasks, part.query_mask.shape[1], ways)
            noise, of_query = (torch.randn(s, generator=generator, dtype=x.dtype).to(x.device) for s in shapes)
            all_labels = None
            if observe == "both":
                best = model.infer(target, 0)
                other = choose(best.log_weight, num_draws, generator)
                all_labels = Pass(target, best, target, x, directions, other, noise, of_query)
            yield Pass(part, inferred, target, x, directions, level, noise, of_query, all_labels)
