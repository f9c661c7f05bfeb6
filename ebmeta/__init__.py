"""Probabilistic empirical Bayes across many small tasks.

A learned prior, an amortized posterior, and refinement of that posterior on unlabelled queries: one
hierarchical Pyro model for classification and regression from a handful of labels.
"""

from ebmeta.estimators import FewShotClassifier, FewShotRegressor
from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.model.storage import load, load_encoder, save
from ebmeta.model.units import in_units
from ebmeta.prediction.conformal import ConformalSets
from ebmeta.prediction.novelty import Novelty
from ebmeta.prediction.scores import evaluate
from ebmeta.prediction.trees import predict
from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.episodes import EpisodeSampler
from ebmeta.tasks.groups import GroupSampler
from ebmeta.tasks.mixed import MixedSampler
from ebmeta.training.ensemble import PriorEnsemble, propagate
from ebmeta.training.evidence import EvidenceFit, fit_evidence
from ebmeta.training.loop import FitResult, fit
from ebmeta.training.objective import Objective

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
