r"""Likelihoods $p(y \mid \eta)$ of labels given the linear predictor, one small class each.

`LIKELIHOODS` names them for `EmpiricalBayes.regressor(likelihood=...)`; an entry of your own counts like the others.
"""

from ebmeta.likelihood.base import Given, Likelihood, named
from ebmeta.likelihood.categorical import NEVER, Categorical
from ebmeta.likelihood.counts import Bernoulli, Binomial, NegativeBinomial, Poisson
from ebmeta.likelihood.inflated import ZeroInflatedNegativeBinomial, ZeroInflatedPoisson
from ebmeta.likelihood.ordinal import Ordinal
from ebmeta.likelihood.positive import Gamma, LogNormal
from ebmeta.likelihood.real import Normal, NormalPerTask, StudentT
from ebmeta.likelihood.scalar import ScalarLikelihood
from ebmeta.likelihood.shares import Beta
from ebmeta.likelihood.softmax_integral import gaussian_softmax

__all__ = [
    "LIKELIHOODS",
    "NEVER",
    "Bernoulli",
    "Beta",
    "Binomial",
    "Categorical",
    "Gamma",
    "Given",
    "Likelihood",
    "LogNormal",
    "NegativeBinomial",
    "Normal",
    "NormalPerTask",
    "Ordinal",
    "Poisson",
    "ScalarLikelihood",
    "StudentT",
    "ZeroInflatedNegativeBinomial",
    "ZeroInflatedPoisson",
    "gaussian_softmax",
]

#: Likelihoods by name: every class of the modules above that has one of its own, those without a link first.
LIKELIHOODS: dict[str, type[Likelihood]] = {
    c.name: c for c in sorted(named(Likelihood), key=lambda c: not (c.categorical or c.located))
}
