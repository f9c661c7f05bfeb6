r"""The probability that a query is of none of the classes, made from the log odds of all unknown classes together.

The prior takes each unknown class to be as frequent as the others, and often there are none. So these log odds $o$ have
a calibration of their own. For features of any kind it looks at two numbers more: how many classes $C$ a task has, and
how the row lies by itself,

$$ \operatorname{logit} p_i = a\, f(o_i) + a'\, f(d_i) + a'' \log C - b, \qquad
   d_i = \log p(x_i) - \max_c \log p(x_i \mid c), \qquad f(z) = s \operatorname{arsinh} (z / s) , $$

with the density $p(x_i)$ of a class without any row, and those of the known classes given all other rows. Unknown
classes find rows that lie together. Rows that are few, or apart from each other, are found by $d$: an unknown class
would rather take a part of a known one. $f$ holds back log odds of hundreds of nats, which features of many coordinates
have.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ebmeta.parts.class_gaussian import ClassGaussian
from ebmeta.refine.state import QueryState

__all__ = ["OF_NONE", "NoneOfThese", "apart"]


@dataclass(frozen=True)
class NoneOfThese:
    """The calibration of log odds of none of the classes.

    Args:
        cluster: $a$, weight of the log odds of unknown classes.
        shift: $b$, in nats.
        apart: $a'$, weight of how a row lies by itself.
        ways: $a''$, weight of the logarithm of the number of classes.
        bend: $s$, in nats; infinite for $f(z) = z$.
    """

    cluster: float
    shift: float
    apart: float = 0.0
    ways: float = 0.0
    bend: float = math.inf

    def __call__(self, log_p: Tensor, state: QueryState) -> Tensor:
        """Return log probabilities with other odds of all unknown classes together, the last ones, `(T, Q, C)`."""
        unknown, setting = state.setting.unknown, state.setting
        known, none = (part.logsumexp(-1, keepdim=True) for part in (log_p[..., :-unknown], log_p[..., -unknown:]))
        odds = self.cluster * self.bent(none - known) - self.shift
        if self.apart:
            odds = odds + self.apart * self.bent(apart(state))
        if self.ways:
            odds = odds + self.ways * setting.way_mask[:, :-unknown].sum(1).to(odds)[:, None, None].log()
        of_known, of_none = logsigmoid(-odds) - known, logsigmoid(odds) - none
        possible = setting.way_mask[:, -1][:, None, None]
        rated = torch.cat([log_p[..., :-unknown] + of_known, log_p[..., -unknown:] + of_none], -1)
        return torch.where(possible, rated, log_p)

    def bent(self, z: Tensor) -> Tensor:
        r"""Return $f(z)$."""
        return z if math.isinf(self.bend) else self.bend * (z / self.bend).asinh()


def apart(state: QueryState) -> Tensor:
    r"""Return $d$: how much likelier a row is under a class without any row than under the best known one.

    Returns:
        In nats, shape `(T, Q, 1)`.
    """
    q0, q = cast(ClassGaussian, state.setting.q0), cast(ClassGaussian, state.q)
    of_q0, of_q = (
        p.log_odds(state.x)[0] - p.shares.clamp(min=torch.finfo(p.shares.dtype).tiny).log().unsqueeze(1)
        for p in (q0, q)
    )
    return of_q0[..., -1:] - of_q[..., : -state.setting.unknown].amax(-1, keepdim=True)


#: That of a general classifier, and of others. Chosen so that probabilities are right: of a general one in tasks of one
#: to ten known classes, up to two fifths of whose rows are of none; of others where there are no unknown classes, one
#: and three in equal parts (`benchmarks/outliers.py`).
OF_NONE = {
    True: NoneOfThese(0.29, 2.32, apart=0.41, ways=0.61, bend=2.0),
    False: NoneOfThese(0.9, 1.1),
}
