"""Estimators that follow scikit-learn, a classifier and a regressor for new tasks.

`fit` takes the support set and costs nothing: the model was trained before, on other tasks. Predictions
use all query rows of a call together, because the unlabelled rows refine the posterior.
"""

from ebmeta.estimators.classifier import FewShotClassifier
from ebmeta.estimators.regressor import FewShotRegressor

__all__ = ["FewShotClassifier", "FewShotRegressor"]
