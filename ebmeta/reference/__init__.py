r"""Reference posteriors by NumPyro, with which amortized posteriors are compared.

`nuts` draws from the exact posterior of every task under the *learned* prior; `hierarchical` draws from the fully
Bayesian model, in which the prior's parameters have a posterior of their own. Both return the tree that `predict`
returns. `numpyro_model` and `hierarchical_model` give the programs themselves, to extend or to sample as you like.
JAX and NumPyro are imported when a function is called.
"""

from ebmeta.reference.hierarchical import Rows, hierarchical, hierarchical_model
from ebmeta.reference.learned import numpyro_model, nuts
from ebmeta.reference.likelihoods import LIKELIHOODS, NumpyroLikelihood

__all__ = [
    "LIKELIHOODS",
    "NumpyroLikelihood",
    "Rows",
    "hierarchical",
    "hierarchical_model",
    "numpyro_model",
    "nuts",
]
