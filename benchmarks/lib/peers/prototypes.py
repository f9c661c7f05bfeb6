"""Nearest class mean by cosine: the inductive baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lib.peers.base import Peer, class_means, cosine


@dataclass
class Prototypes(Peer):
    r"""Cosine with the class means of the support, $s_{ic} = a \cos(x_i, \mu_c)$.

    Args:
        scale: $a$.

    Source: Snell, Swersky and Zemel (2017), with the cosine of Gidaris and Komodakis (2018).
    """

    name: ClassVar[str] = "prototypes"
    scale: float = 10.0

    def scores(self, support_x: Tensor, support_y: Tensor, query_x: Tensor, n_way: int) -> Tensor:
        return self.scale * cosine(query_x, class_means(support_x, support_y, n_way))
