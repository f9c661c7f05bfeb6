r"""Class profiles, which describe an input by the training classes that it resembles.

With $u$ the direction of an input on the unit sphere and $G$ training classes, or groups of them, its profile is

$$ p_g(u) = \mathrm{softmax}_g(V u + v), \qquad \pi(u) = \frac{\sqrt{p(u)} - m}{\lVert \sqrt{p(u)} - m \rVert}, $$

with $m$ the mean of $\sqrt{p}$ over training rows. Square roots of probabilities are unit vectors, and their inner
product is the Bhattacharyya coefficient $\sum_g \sqrt{p_g(u)\, p_g(u')}$: two inputs are alike if they are mistaken for
the same training classes. That is what training classes know of a new class which no linear map of its features says.

$V$ and $v$ are those of a multinomial logistic regression with smoothed labels and a ridge,

$$ \min_{V, v}\; -\frac1n \sum_{i, g} \tilde y_{ig} \log p_g(u_i) + \frac\rho2 \lVert V \rVert^2,
   \qquad \tilde y_{ig} = (1 - \epsilon)\, y_{ig} + \epsilon / G . $$

A training class is made of rows that $V$ was fitted to, and new classes are not. In training, a profile leaves the
classes of its own task out of the softmax: rows are then described by other classes alone, as those of new classes are.

Source: Bhattacharyya 1943, On a measure of divergence between two statistical populations; Torresani, Szummer and
Fitzgibbon 2010, Efficient object category recognition using classemes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from ebmeta.foundation.optimizers import LBFGS
from ebmeta.likelihood import NEVER

__all__ = ["ClassProfile"]

RIDGE = 1.5e-5  # of coefficients of unit vectors, in nats
SMOOTHING = 0.1  # of labels
ITERATIONS = 40
FULL, MOST = 256, 0.5  # classes for a profile as long as the direction, and its length at most


class ClassProfile(nn.Module):
    r"""The profile $\pi(u)$; zero before `fit`.

    Args:
        num_features: length of the directions, $D$.
        num_groups: training classes or groups of them, $G$.

    Raises:
        ValueError: if there are fewer than two groups.
    """

    weight: Tensor
    bias: Tensor
    center: Tensor
    one_each: Tensor

    def __init__(self, num_features: int, num_groups: int) -> None:
        super().__init__()
        if num_groups < 2:
            raise ValueError(f"profile: expected 0 or at least 2 training classes, got {num_groups}")
        self.num_groups = num_groups
        self.register_buffer("weight", torch.zeros(num_groups, num_features))
        self.register_buffer("bias", torch.zeros(num_groups))
        self.register_buffer("center", torch.full((num_groups,), num_groups**-0.5))
        self.register_buffer("one_each", torch.tensor(False))  # whether every group is one class

    @property
    def fitted(self) -> bool:
        """Whether the training classes are known."""
        return bool(self.weight.any())

    @property
    def length(self) -> float:
        r"""Length of a profile relative to a direction, $\min(\sqrt{G / 256}, \tfrac12)$, small for few classes."""
        return min(math.sqrt(self.num_groups / FULL), MOST)

    def forward(self, u: Tensor, own: Tensor | None = None) -> Tensor:
        r"""Return $\pi(u)$, shape `(..., G)`.

        Args:
            u: directions, shape `(..., D)`; `(T, N, D)` with `own`.
            own: numbers of the training classes that each task is made of, and that are left out, -1 for none, shape
                `(T, C)`. Where groups hold several classes, none is left out.
        """
        logits = u @ self.weight.mT + self.bias
        if own is None or not bool(self.one_each):
            return functional.normalize(torch.softmax(logits, -1).sqrt() - self.center, dim=-1, eps=1e-6)
        left_out = torch.zeros(len(own), self.num_groups + 1, dtype=torch.bool, device=u.device)
        left_out.scatter_(1, torch.where(own < 0, self.num_groups, own), True)
        left_out = left_out[:, None, :-1]
        root = torch.softmax(logits.masked_fill(left_out, NEVER), -1).sqrt()
        return functional.normalize((root - self.center).masked_fill(left_out, 0.0), dim=-1, eps=1e-6)

    @torch.no_grad()
    def fit(self, u: Tensor, y: Tensor) -> None:
        """Learn what distinguishes the training classes, by L-BFGS.

        Where there are more classes than groups, those whose means are nearest form one (Ward's criterion).

        Args:
            u: directions of training rows, shape `(N, D)`.
            y: their classes, numbered from 0 without gaps, shape `(N,)`.

        Raises:
            ValueError: if there are fewer classes than groups.

        Examples:
            >>> angle = torch.linspace(0, 6.28, 300)
            >>> profile = ClassProfile(2, 3)
            >>> profile.fit(torch.stack([angle.cos(), angle.sin()], -1), torch.arange(300) // 100)
            >>> first, second, far = profile(torch.tensor([[0.6, 0.8], [0.3, 0.95], [0.6, -0.8]]))
            >>> bool(first @ second > 0.9 > first @ far)
            True
        """
        classes = int(y.max()) + 1
        if classes < self.num_groups:
            raise ValueError(
                f"profile: expected at most as many groups as there are training classes, got {self.num_groups} "
                f"groups of {classes} classes"
            )
        if classes > self.num_groups:
            from sklearn.cluster import AgglomerativeClustering  # here: its import moves the global generator

            count = torch.bincount(y).to(u.dtype).unsqueeze(-1)
            means = u.new_zeros(classes, u.shape[1]).index_add_(0, y, u) / count
            group = AgglomerativeClustering(self.num_groups).fit_predict(means.double().cpu().numpy())
            y = torch.from_numpy(group).to(y)[y]
        self.one_each.fill_(classes == self.num_groups)
        wanted = functional.one_hot(y, self.num_groups).to(u.dtype)
        wanted = (1 - SMOOTHING) * wanted + SMOOTHING / self.num_groups
        unknown = u.new_zeros(self.num_groups, u.shape[1] + 1, requires_grad=True)
        optimizer = LBFGS([unknown], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            log_p = torch.log_softmax(u @ unknown[:, :-1].mT + unknown[:, -1], -1)
            loss = -(wanted * log_p).sum(-1).mean() + RIDGE / 2 * unknown[:, :-1].square().sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        with torch.enable_grad():
            optimizer.step(closure)  # type: ignore[no-untyped-call]
        self.weight.copy_(unknown.detach()[:, :-1])
        self.bias.copy_(unknown.detach()[:, -1])
        self.center.copy_(torch.softmax(u @ self.weight.mT + self.bias, -1).sqrt().mean(0))
