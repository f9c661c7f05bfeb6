"""SimpleShot: nearest class mean after centring and normalising."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lib.peers.base import Peer, centre_and_normalize, class_means, cosine


@dataclass(eq=False)
class SimpleShot(Peer):
    r"""Cosine with the class means of centred, normalised features (CL2N).

    $z = (x - m) / |x - m|$, $s_{ic} = a \cos(z_i, \mu_c)$ with $\mu_c$ the class mean of $z$.

    Args:
        center: mean $m$ of the base classes, shape `(D,)`; zero where it is None.
        scale: $a$.

    Source: Wang, Chao, Weinberger and van der Maaten (2019), "SimpleShot".
    """

    name: ClassVar[str] = "simpleshot"
    center: Tensor | None = None
    scale: float = 10.0

    def scores(self, support_x: Tensor, support_y: Tensor, query_x: Tensor, n_way: int) -> Tensor:
        support_x, query_x = (centre_and_normalize(x, self.center) for x in (support_x, query_x))
        return self.scale * cosine(query_x, class_means(support_x, support_y, n_way))
