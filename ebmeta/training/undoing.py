"""A model that is as it was where its training fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from ebmeta.model.empirical_bayes import EmpiricalBayes

__all__ = ["unchanged_after_error"]


@contextmanager
def unchanged_after_error(model: EmpiricalBayes) -> Iterator[None]:
    """Put back what a model has learned, measured and remembered of its data where an error ends a block.

    Data that are refused leave no trace so: another call measures units anew, and predictions stay those from before.
    An interruption (`KeyboardInterrupt`) is no error, and keeps what was reached.

    Args:
        model: the model; a frozen embedder is not looked at.

    Raises:
        ValueError: if its parameters were made under `torch.inference_mode`, which nothing can train.

    Examples:
        >>> model = EmpiricalBayes.regressor(num_features=1)
        >>> try:
        ...     with unchanged_after_error(model):
        ...         _ = model.prior.loc.data.fill_(3.0)
        ...         raise ValueError("refused")
        ... except ValueError:
        ...     print(model.prior.loc.tolist())
        [0.0, 0.0]
    """
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise ValueError("model: expected one that can be trained, got one made under torch.inference_mode()")
    moving = model.predictor.moving
    state = {n: v.clone() for n, v in model.state_dict().items() if moving or not n.startswith("predictor.embedder.")}
    types, names = {k: v.dtype for k, v in _all(model).items()}, (model.feature_names, model.covariate_names)
    seen = model.marks, model.task_sizes
    try:
        yield
    except Exception:
        for name, value in _all(model).items():
            if value.dtype != types[name]:
                value.grad, value.data = None, value.data.to(types[name])
        model.load_state_dict(state, strict=False)
        model.feature_names, model.covariate_names = names
        model.marks, model.task_sizes = seen
        raise


def _all(model: EmpiricalBayes) -> dict[str, Tensor]:
    """Return the parameters and buffers of a model by name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
