"""One posterior path with everything else given, and the predictions that follow from it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ebmeta.foundation.softmax import log_softmax, reported
from ebmeta.parts.gaussian import Gaussian
from ebmeta.refine.base import Iterate
from ebmeta.refine.state import Setting

__all__ = ["Conditional", "repeat"]


def repeat(value: Tensor, times: int) -> Tensor:
    """Repeat every task of a tensor `times` times, one after the other."""
    return value if times == 1 else value.repeat_interleave(times, 0)


@dataclass(frozen=True, eq=False)
class Conditional:
    r"""One Gaussian for each of $N$ tasks and each step, given noise levels and the parameters of the model.

    Labels may be of fewer tasks, each of which then stands for as many rows of tasks, one after the other.

    Args:
        iterates: $q_0, \dots, q_K$, each of shape `(N, C, P)`.
        setting: the facts that the path follows from.
    """

    iterates: list[Iterate]
    setting: Setting

    @property
    def path(self) -> list[Gaussian]:
        """The posteriors that predictions use, each of shape `(N, C, P)`."""
        return [iterate.posterior for iterate in self.iterates]

    @property
    def way_mask(self) -> Tensor:
        """True where a class exists, without unknown ones, shape `(N, C)`."""
        return self._named(self.setting.way_mask)

    def finite(self) -> Tensor:
        """Return whether the posterior after each step is finite, shape `(steps, N)`."""
        real = (self.setting.way_mask.unsqueeze(-1) & self.setting.query_mask.unsqueeze(1)).mT
        out = []
        for iterate, q in zip(self.iterates, self.path, strict=True):  # ends and sums keep NaN, and are quick
            loc = q.loc.flatten(1)
            fine = loc.amax(1).isfinite() & loc.amin(1).isfinite() & ~q.precision.flatten(1).sum(1).isnan()
            if iterate.log_probs is not None:
                fine = fine & ~torch.where(real, iterate.log_probs, 0.0).sum((1, 2)).isnan()
            out.append(fine)
        return torch.stack(out)

    def kl(self) -> Tensor:
        r"""Return $\mathrm{KL}(q_k(w) \Vert p_\psi(w))$ in nats, shape `(steps, N)`."""
        return self.setting.prior.kls(self.path)

    def input_evidence(self) -> Tensor:
        r"""Return $L$ of unlabelled inputs after each step in nats, shape `(steps, N)` (`Gaussian.input_evidence`)."""
        q0, x = self.setting.q0, self.setting.real_x
        refined = [iterate.q.input_evidence(q0, x) for iterate in self.iterates[1:]]
        return torch.stack([q0.loc.new_zeros(len(q0.loc), dtype=torch.float64), *refined])

    def log_probs(self, k: int) -> Tensor | None:
        """Return log probabilities of classes where a joint model says them, shape `(N, Q, C)`; None for others.

        The last are those of unknown classes, where the setting has some.
        """
        corrected = self.iterates[k].log_probs
        if corrected is not None:
            return corrected
        odds = self.path[k].log_odds(self.setting.real_x)
        return None if odds is None else log_softmax(odds[0])

    def marginal(self, k: int) -> tuple[Tensor, Tensor]:
        """Return location and variance of the linear predictor under $q_k$, both of shape `(N, Q, C)`.

        In 64 bits where labels are numbers: scores and predictions are then as exact as the labels.
        """
        loc, var = self.path[k].marginal(self.setting.x)
        loc, var = self._named(loc), self._named(var)
        return (loc, var) if self.setting.likelihood.categorical else (loc.double(), var.double())

    def log_prob(self, k: int, y: Tensor, noise: Tensor, *, predictive: bool) -> Tensor:
        """Return the log likelihood of query labels in nats, shape `(N, Q)`; see `Mixture.log_prob`."""
        setting, log_probs = self.setting, self.log_probs(k)
        if predictive and log_probs is not None:
            return self._of_classes(log_probs).gather(-1, self._labels(y).unsqueeze(-1)).squeeze(-1)
        score = setting.likelihood.predictive_log_prob if predictive else setting.likelihood.expected_log_prob
        return score(self._labels(y), *self.marginal(k), self.way_mask, noise, setting.given)

    def predict(self, k: int) -> dict[str, Tensor]:
        """Return summaries of the prediction, each of shape `(N, Q, ...)`; see `Likelihood.predict`."""
        setting, log_probs = self.setting, self.log_probs(k)
        if log_probs is not None:
            outlier = {"outlier": reported(log_probs[..., -setting.unknown :]).sum(-1)} if setting.unknown else {}
            return {"probs": reported(self._of_classes(log_probs)), **outlier}
        return setting.likelihood.predict(*self.marginal(k), setting.way_mask, setting.given)

    def probs(self, k: int) -> Tensor:
        """Return the probability of each class or category, shape `(N, Q, C)`; see `Mixture.probs`."""
        if self.setting.likelihood.categorical:
            return self.predict(k)["probs"]
        return self.setting.likelihood.predictive_probs(*self.marginal(k), self.setting.given)

    def cdf(self, k: int, y: Tensor) -> Tensor:
        """Return the predictive probability of labels up to `y`, shape `(N, Q)`; see `Mixture.cdf`."""
        return self.setting.likelihood.predictive_cdf(self._labels(y), *self.marginal(k), self.setting.given)

    def _of_classes(self, log_probs: Tensor) -> Tensor:
        """Return the log probabilities of classes given that a row is of one of them."""
        return log_softmax(self._named(log_probs)) if self.setting.unknown else log_probs

    def _named(self, of_classes: Tensor) -> Tensor:
        """Return what belongs to classes, along the last axis, without unknown ones."""
        return of_classes[..., : -self.setting.unknown] if self.setting.unknown else of_classes

    def of_classes(self, k: int) -> Tensor | None:
        """Return `log_probs` given that each query is of one of the classes, shape `(N, Q, C)`."""
        log_probs = self.log_probs(k)
        return None if log_probs is None else self._of_classes(log_probs)

    def _labels(self, y: Tensor) -> Tensor:
        return repeat(y, len(self.setting.x) // len(y))
