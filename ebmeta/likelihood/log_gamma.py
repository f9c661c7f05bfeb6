r"""Log probabilities of counts without differences of log-gammas, which lose all digits for large arguments.

With Stirling's error $\delta(x) = \log \Gamma(x + 1) - (x + \tfrac12) \log x + x - \tfrac12 \log 2\pi$ and the deviance
$D(k, m) = k \log(k / m) + m - k$,

$$ \log \mathrm{Poisson}(k; m) = -\tfrac12 \log 2 \pi k - \delta(k) - D(k, m), $$

$$ \log \binom{n}{k} p^k q^{n - k} = \tfrac12 \log \frac{n}{2 \pi k (n - k)} + \delta(n) - \delta(k) - \delta(n - k)
   - D(k, np) - D(n - k, nq), $$

the second for real $k$ and $n - k$ too: a negative binomial of shape $r$ is
$\tfrac{r}{r + y}$ times that of $k = y$, $n - k = r$.

Source: Loader 2000, Fast and accurate computation of binomial probabilities.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["log_binomial", "log_poisson"]

SERIES = 15.0  # argument from which five terms of Stirling's series have all digits


def _stirling_error(x: Tensor) -> Tensor:
    small, large = x.clamp(max=SERIES), x.clamp(min=SERIES)
    exact = torch.lgamma(small + 1) - (small + 0.5) * small.log() + small - math.log(2 * math.pi) / 2
    s = large.reciprocal().square()
    series = (1 / 12 - s * (1 / 360 - s * (1 / 1260 - s * (1 / 1680 - s / 1188)))) / large
    return torch.where(x < SERIES, exact, series)


def _deviance(k: Tensor, gap: Tensor) -> Tensor:
    r"""Return $D(k, m)$ from $k$ above 0 and the gap $\log k - \log m$."""
    return k * (torch.expm1(-gap) + gap)


def log_poisson(k: Tensor, log_mean: Tensor) -> Tensor:
    """Return the log probability of a count in nats.

    Args:
        k: counts, in 64 bits.
        log_mean: log of their mean, of a shape that broadcasts.

    Examples:
        >>> one = torch.ones((), dtype=torch.float64)
        >>> log_poisson(0 * one, one.log()).item(), round(log_poisson(1e12 * one, (1e12 * one).log()).item(), 4)
        (-1.0, -14.7344)
    """
    none = k == 0
    some = torch.where(none, 1.0, k)
    body = -(2 * math.pi * some).log() / 2 - _stirling_error(some) - _deviance(some, some.log() - log_mean)
    return torch.where(none, -log_mean.exp(), body)


def log_binomial(k: Tensor, rest: Tensor, log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return the log of a binomial coefficient times powers of both probabilities, in nats.

    Args:
        k: successes, 0 or above, in 64 bits.
        rest: failures, 0 or above, of a shape that broadcasts, as those of the others.
        log_p: log probability of a success.
        log_q: log probability of a failure.

    Examples:
        >>> half = torch.tensor(0.5, dtype=torch.float64).log()
        >>> [round(log_binomial(*torch.tensor(v).double(), half, half).exp().item(), 4) for v in ([2, 1], [0, 3])]
        [0.375, 0.125]
    """
    first, last = k == 0, rest == 0
    k, rest = torch.where(first, 1.0, k), torch.where(last, 1.0, rest)
    n = k + rest
    body = (n.log() - k.log() - rest.log() - math.log(2 * math.pi)) / 2
    body = body + _stirling_error(n) - _stirling_error(k) - _stirling_error(rest)
    body = body - _deviance(k, -torch.log1p(rest / k) - log_p) - _deviance(rest, -torch.log1p(k / rest) - log_q)
    return torch.where(first, torch.where(last, 0.0, rest * log_q), torch.where(last, k * log_p, body))
