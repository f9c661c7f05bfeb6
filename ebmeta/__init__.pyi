from . import (
    diagnostics as diagnostics,
    estimators as estimators,
    likelihood as likelihood,
    mixed as mixed,
    model as model,
    parts as parts,
    plots as plots,
    prediction as prediction,
    reference as reference,
    refine as refine,
    saved as saved,
    scoring as scoring,
    simulate as simulate,
    tasks as tasks,
    training as training,
)
from .estimators.classifier import FewShotClassifier as FewShotClassifier
from .estimators.regressor import FewShotRegressor as FewShotRegressor
from .mixed.comparison import compare as compare
from .mixed.fit import mixed_model as mixed_model
from .model.empirical_bayes import EmpiricalBayes as EmpiricalBayes
from .model.general import general_classifier as general_classifier
from .model.storage import load_encoder as load_encoder, save as save
from .model.units import in_units as in_units
from .prediction.arviz import to_arviz as to_arviz
from .prediction.certificate import Certificate as Certificate, certify as certify
from .prediction.class_swap import ClassSwapSets as ClassSwapSets
from .prediction.conformal import ConformalSets as ConformalSets
from .prediction.conformal_intervals import ConformalIntervals as ConformalIntervals
from .prediction.novelty import Novelty as Novelty
from .prediction.scores import evaluate as evaluate
from .prediction.shift import ShiftWarning as ShiftWarning
from .prediction.trees import predict as predict
from .saved.loading import load as load
from .scoring.batches import score_batches as score_batches
from .scoring.parts import ScoredParts as ScoredParts, score_parts as score_parts
from .tasks.batch import TaskBatch as TaskBatch
from .tasks.episodes import EpisodeSampler as EpisodeSampler
from .tasks.groups import GroupSampler as GroupSampler
from .tasks.mixed import MixedSampler as MixedSampler
from .training.ensemble import PriorEnsemble as PriorEnsemble, propagate as propagate
from .training.evidence_fit import EvidenceFit as EvidenceFit, fit_evidence as fit_evidence
from .training.loop import FitResult as FitResult, fit as fit
from .training.objective import Objective as Objective

__version__: str
