r"""Likelihoods $p(y \mid \eta)$ in NumPyro, under the names of the rest of the library.

========================  ================================================================  ================
name                      $y$ given $\eta$ and the size $n$ of its row                      parameters
========================  ================================================================  ================
`"normal"`                $a + b\,(\eta + \sigma \varepsilon / \sqrt n)$                    `noise` $\sigma$
`"student_t"`             the same with $\varepsilon \sim t_\nu$                            and `freedom` $\nu$
`"log_normal"`            $\log y$ as of `"normal"`                                         `noise` $\sigma$
`"gamma"`                 mean $\mu = e^{a + \eta}$, variance $\mu^2 / (n k)$               `shape` $k$
`"beta"`                  share of mean $\mu = 1 / (1 + e^{-\eta})$                         `precision` $\phi$
`"bernoulli"`             1 with probability $1 / (1 + e^{-\eta})$                          none
`"binomial"`              successes among $n$ trials of that probability                    none
`"poisson"`               count of mean $n e^\eta$                                          none
`"negative_binomial"`     count of mean $\mu = n e^\eta$ and variance $\mu + \mu^2 / r$     `shape` $r$
`"zero_inflated_..."`     0 with probability $\pi$, else one of the two above               `inflation` $\pi$
`"ordinal"`               $c$ or more with probability $1 / (1 + e^{\tau_c - \eta})$        `gaps` of $\tau$
`"categorical"`           class of probability $\mathrm{softmax}(\eta)$                     none
========================  ================================================================  ================

with centre $a$ and unit $b$ of the labels, 0 and 1 unless the torch likelihood measured others. Names are those of
`ebmeta.likelihood.LIKELIHOODS`, and parameters those of `Likelihood.learned`. An entry of your own in `LIKELIHOODS`
counts like these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ebmeta.foundation.checks import checked, found

if TYPE_CHECKING:
    from ebmeta.likelihood import Likelihood

__all__ = ["LIKELIHOODS", "NumpyroLikelihood", "learned_parameters"]

NEVER = -1e30  # a logit that no class can win with


@checked()
@dataclass(frozen=True)
class NumpyroLikelihood:
    r"""One likelihood in NumPyro.

    Args:
        distribution: from the linear predictor $\eta$, shape `(..., N, C)`, the size of each row (a number or shape
            `(..., N)`) and parameters by name, to the distribution of labels of batch shape `(..., N)`.
        hyperpriors: from the labels of all rows to the default hyperprior of every parameter.
        categorical: True where labels are class numbers.
    """

    distribution: Callable[..., Any]
    hyperpriors: Callable[[Any], Mapping[str, Any]] = field(default_factory=lambda: _none)
    categorical: bool = False


def _normal(eta: Any, size: Any, *, noise: Any, center: Any = 0.0, unit: Any = 1.0) -> Any:
    import numpyro.distributions as dist

    return dist.Normal(center + unit * eta[..., 0], unit * noise / size**0.5)


def _student_t(eta: Any, size: Any, *, noise: Any, freedom: Any, center: Any = 0.0, unit: Any = 1.0) -> Any:
    import numpyro.distributions as dist

    return dist.StudentT(freedom, center + unit * eta[..., 0], unit * noise / size**0.5)


def _log_normal(eta: Any, size: Any, *, noise: Any, center: Any = 0.0, unit: Any = 1.0) -> Any:
    import numpyro.distributions as dist

    return dist.LogNormal(center + unit * eta[..., 0], unit * noise / size**0.5)


def _gamma(eta: Any, size: Any, *, shape: Any, center: Any = 0.0) -> Any:
    import jax.numpy as jnp
    import numpyro.distributions as dist

    return dist.Gamma(shape * size, shape * size * jnp.exp(-center - eta[..., 0]))


def _beta(eta: Any, size: Any, *, precision: Any) -> Any:
    import jax
    import numpyro.distributions as dist

    return dist.Beta(precision * jax.nn.sigmoid(eta[..., 0]), precision * jax.nn.sigmoid(-eta[..., 0]))


def _bernoulli(eta: Any, size: Any) -> Any:
    import numpyro.distributions as dist

    return dist.Bernoulli(logits=eta[..., 0])


def _binomial(eta: Any, size: Any) -> Any:
    import jax.numpy as jnp
    import numpyro.distributions as dist

    return dist.Binomial(jnp.broadcast_to(jnp.asarray(size, int), eta.shape[:-1]), logits=eta[..., 0])


def _poisson(eta: Any, size: Any) -> Any:
    import jax.numpy as jnp
    import numpyro.distributions as dist

    return dist.Poisson(size * jnp.exp(jnp.minimum(eta[..., 0], 60.0)))


def _negative_binomial(eta: Any, size: Any, *, shape: Any) -> Any:
    import jax.numpy as jnp
    import numpyro.distributions as dist

    return dist.NegativeBinomial2(size * jnp.exp(jnp.minimum(eta[..., 0], 60.0)), shape)


def _zero_inflated_poisson(eta: Any, size: Any, *, inflation: Any) -> Any:
    import jax.numpy as jnp
    import numpyro.distributions as dist

    return dist.ZeroInflatedPoisson(inflation, size * jnp.exp(jnp.minimum(eta[..., 0], 60.0)))


def _zero_inflated_negative_binomial(eta: Any, size: Any, *, shape: Any, inflation: Any) -> Any:
    import jax.numpy as jnp
    import numpyro.distributions as dist

    mean = size * jnp.exp(jnp.minimum(eta[..., 0], 60.0))
    return dist.ZeroInflatedNegativeBinomial2(mean, shape, gate=inflation)


def _ordinal(eta: Any, size: Any, *, gaps: Any = ()) -> Any:
    import jax.numpy as jnp
    import numpyro.distributions as dist

    class Ordered(dist.OrderedLogistic):  # type: ignore[misc]
        def log_prob(self, value: Any) -> Any:
            return super().log_prob(jnp.asarray(value, int))

    return Ordered(eta[..., 0], jnp.cumsum(jnp.concatenate([jnp.zeros(1), jnp.asarray(gaps, float).reshape(-1)])))


def _categorical(eta: Any, size: Any, *, way_mask: Any = True) -> Any:
    import jax.numpy as jnp
    import numpyro.distributions as dist

    return dist.Categorical(logits=jnp.where(way_mask, eta, NEVER))


def _none(labels: Any) -> dict[str, Any]:
    return {}


def _noise(labels: Any) -> dict[str, Any]:
    import numpyro.distributions as dist

    return {"noise": dist.HalfNormal(2.5)}


def _noise_and_freedom(labels: Any) -> dict[str, Any]:
    import numpyro.distributions as dist

    return _noise(labels) | {"freedom": dist.Gamma(2.0, 0.1)}


def _shape(labels: Any) -> dict[str, Any]:
    import numpyro.distributions as dist

    return {"shape": dist.Gamma(2.0, 0.1)}


def _precision(labels: Any) -> dict[str, Any]:
    import numpyro.distributions as dist

    return {"precision": dist.Gamma(2.0, 0.1)}


def _inflation(labels: Any) -> dict[str, Any]:
    import numpyro.distributions as dist

    return {"inflation": dist.Beta(1.0, 1.0)}


def _shape_and_inflation(labels: Any) -> dict[str, Any]:
    return _shape(labels) | _inflation(labels)


def _gaps(labels: Any) -> dict[str, Any]:
    import numpy as np
    import numpyro.distributions as dist

    number = int(np.max(labels)) - 1
    return {"gaps": dist.LogNormal(0.0, 1.0).expand((number,)).to_event(1)} if number > 0 else {}


#: NumPyro likelihoods by name.
LIKELIHOODS: dict[str, NumpyroLikelihood] = {
    "normal": NumpyroLikelihood(_normal, _noise),
    "student_t": NumpyroLikelihood(_student_t, _noise_and_freedom),
    "log_normal": NumpyroLikelihood(_log_normal, _noise),
    "gamma": NumpyroLikelihood(_gamma, _shape),
    "beta": NumpyroLikelihood(_beta, _precision),
    "bernoulli": NumpyroLikelihood(_bernoulli),
    "binomial": NumpyroLikelihood(_binomial),
    "poisson": NumpyroLikelihood(_poisson),
    "negative_binomial": NumpyroLikelihood(_negative_binomial, _shape),
    "zero_inflated_poisson": NumpyroLikelihood(_zero_inflated_poisson, _inflation),
    "zero_inflated_negative_binomial": NumpyroLikelihood(_zero_inflated_negative_binomial, _shape_and_inflation),
    "ordinal": NumpyroLikelihood(_ordinal, _gaps),
    "categorical": NumpyroLikelihood(_categorical, categorical=True),
}


def get(name: str) -> NumpyroLikelihood:
    """Return a likelihood by name.

    Raises:
        ValueError: if it has no NumPyro form.
    """
    if name not in LIKELIHOODS:
        raise ValueError(f"likelihood: expected one of {list(LIKELIHOODS)}, got {found(name)}")
    return LIKELIHOODS[name]


def learned_parameters(likelihood: Likelihood) -> dict[str, Any]:
    """Return the learned values of a torch likelihood's parameters, for its NumPyro form.

    Raises:
        ValueError: if it has no NumPyro form, or another density than the likelihood that has its name.
    """
    get(likelihood.name)
    kind: Any = type(likelihood)
    owner = next(base for base in kind.__mro__ if "name" in vars(base))
    if (kind.distribution, kind.log_prob) != (owner.distribution, owner.log_prob):
        raise ValueError(
            f"likelihood: expected a name and a NumPyro form for the density of {kind.__name__}, got the name "
            f"{likelihood.name!r} of {owner.__name__}"
        )
    return {name: v.detach().cpu().numpy() if v.dim() else v.item() for name, v in likelihood.learned().items()}
