"""Features in place of inputs, so that what a joint model generates can be inferred from."""

from __future__ import annotations

from typing import cast

from ebmeta.foundation.checks import checked
from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.parts.class_prior import ClassPrior
from ebmeta.parts.heads import LinearHead

__all__ = ["on_features"]


@checked()
def on_features(model: EmpiricalBayes) -> EmpiricalBayes:
    r"""Return a joint model that takes the features of the model's head for inputs, with the same parts otherwise.

    A joint model generates features: no raw inputs lead back from them. Inference of tasks that it has drawn starts
    where they are.

    Args:
        model: a joint model of inputs and labels; the parts behind its head are shared.

    Raises:
        ValueError: if the model is of labels alone.

    Examples:
        >>> import torch
        >>> model = EmpiricalBayes.classifier(3, profile=2)
        >>> x = torch.ones(1, 1, 5)
        >>> [round(v, 3) for v in on_features(model).predictor.features(x)[0, 0].tolist()]
        [1.0, 1.0, 1.0, 1.0, 1.0, 0.3]
    """
    if not model.joint:
        raise ValueError(f"on_features: expected a joint model of inputs and labels, got {type(model.prior).__name__}")
    prior = cast(ClassPrior, model.prior)
    head = LinearHead(model.predictor.num_weights - 1, standardize=False, constant=prior.constant).to(prior.loc)
    out = EmpiricalBayes(prior, model.likelihood, head, model.initializer, model.refiner, model.beta)
    out.train(model.training)
    out.fitted = model.fitted
    return out
