"""Probabilistic empirical Bayes across many small tasks.

A learned prior, an amortized posterior, and refinement of that posterior on unlabelled queries: one
hierarchical Pyro model for classification and regression from a handful of labels.
"""

from ebmeta.conformal import ConformalSets
from ebmeta.estimators import FewShotClassifier, FewShotRegressor
from ebmeta.evaluate import evaluate
from ebmeta.evidence import EvidenceFit, fit_evidence
from ebmeta.fit import FitResult, fit
from ebmeta.group_sampling import GroupSampler
from ebmeta.mixed_sampling import MixedSampler
from ebmeta.model import EmpiricalBayes
from ebmeta.novelty import Novelty
from ebmeta.objective import Objective
from ebmeta.persist import load, load_encoder, save
from ebmeta.predict import predict
from ebmeta.sampling import EpisodeSampler
from ebmeta.tasks import TaskBatch
from ebmeta.uncertainty import PriorEnsemble, propagate
from ebmeta.units import in_units

__version__ = "0.1.0"

__all__ = [
    "ConformalSets",
    "EmpiricalBayes",
    "EpisodeSampler",
    "EvidenceFit",
    "FewShotClassifier",
    "FewShotRegressor",
    "FitResult",
    "GroupSampler",
    "MixedSampler",
    "Novelty",
    "Objective",
    "PriorEnsemble",
    "TaskBatch",
    "__version__",
    "evaluate",
    "fit",
    "fit_evidence",
    "in_units",
    "load",
    "load_encoder",
    "predict",
    "propagate",
    "save",
]
