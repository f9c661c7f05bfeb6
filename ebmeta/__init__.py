"""Probabilistic empirical Bayes across many small tasks.

A learned prior, an amortized posterior, and refinement of that posterior on unlabelled queries: one
hierarchical Pyro model for classification and regression from a handful of labels.
"""

from ebmeta.estimators import FewShotClassifier, FewShotRegressor
from ebmeta.evaluate import evaluate
from ebmeta.fit import FitResult, fit
from ebmeta.model import EmpiricalBayes
from ebmeta.objective import Objective
from ebmeta.persist import load, save
from ebmeta.predict import predict
from ebmeta.sampling import EpisodeSampler, GroupSampler
from ebmeta.tasks import TaskBatch

__version__ = "0.1.0"

__all__ = [
    "EmpiricalBayes",
    "EpisodeSampler",
    "FewShotClassifier",
    "FewShotRegressor",
    "FitResult",
    "GroupSampler",
    "Objective",
    "TaskBatch",
    "__version__",
    "evaluate",
    "fit",
    "load",
    "predict",
    "save",
]
