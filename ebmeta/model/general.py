"""The general classifier, whose weights ship with the package."""

from __future__ import annotations

import copy
from functools import cache

from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.model.shipped import FOLDER
from ebmeta.model.storage import load

__all__ = ["general_classifier"]


def general_classifier() -> EmpiricalBayes:
    r"""Return the classifier for features of any encoder, trained on tasks of many; it needs no training classes.

    What a model learns of its training classes, this one reads off the rows of the task at hand: centre, spread and
    the number of independent coordinates (`ebmeta.parts.general_prior`). Each call returns a model of its own, which
    may be trained or converted.

    Returns:
        The model, on the CPU, in evaluation mode.

    Raises:
        OSError: if the package was installed without its weights.
        ValueError: if these were changed.

    Examples:
        >>> model = general_classifier()
        >>> model.joint, model.num_steps, model.predictor.any_features
        (True, 3, True)
    """
    return copy.deepcopy(_shipped())


@cache
def _shipped() -> EmpiricalBayes:
    return load(FOLDER)
