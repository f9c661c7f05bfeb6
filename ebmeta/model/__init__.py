"""The model with its parts, inference, Pyro programs and saved folders."""

from ebmeta.model.base import PredictiveModel
from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.model.posterior import Inference, Mixture
from ebmeta.model.storage import load, load_encoder, load_with_encoder, model_files, save
from ebmeta.model.units import in_units

__all__ = [
    "EmpiricalBayes",
    "Inference",
    "Mixture",
    "PredictiveModel",
    "in_units",
    "load",
    "load_encoder",
    "load_with_encoder",
    "model_files",
    "save",
]
