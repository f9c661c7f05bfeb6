r"""Predictions of a model for unlabelled tasks, as a labelled tree of arrays.

The tree has the groups that ArviZ knows, with leading dimensions `chain` (one) and `draw`:

- `posterior`: `w` ~ q_K, for classes that do not exist as the prior has them;
- `posterior_predictive`: `query_y`;
- `log_likelihood`, `observed_data`: `query_y`, where the batch carries query labels (they are recorded
  with the predictions and never used for them); the likelihood is that of the program given each draw of `w`,
  without what the steps of a joint model correct in its probabilities;
- `constant_data`: support labels and the masks of padding;

and one more, `predictive`: closed-form summaries after every refinement step, without sampling noise:
`probs` (class probabilities), or `mean` and `std`; and `kl`, $\mathrm{KL}(q_k \Vert p_\psi)$ in nats. Where
quantiles are asked for, also `quantile` over `level`, after the last step; and where labels are ordered categories or
yes and no, the probability of each, `probs` over `label`.

Padding is NaN in floating-point variables of `posterior_predictive`, `log_likelihood` and `predictive`,
and -1 in integer ones.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from ebmeta.foundation.checks import at_least, between, checked
from ebmeta.foundation.guarding import undisturbed
from ebmeta.foundation.seeding import stream
from ebmeta.model.base import PredictiveModel
from ebmeta.model.posterior import Mixture
from ebmeta.model.trained import say_untrained
from ebmeta.prediction.foreign import tell_of_foreign
from ebmeta.tasks.batch import TaskBatch

__all__ = ["Marginals", "ask", "assemble", "evaluating", "marginals", "match_model", "predict"]

Answer = TypeVar("Answer")
Groups = dict[str, dict[str, tuple[tuple[str, ...], np.ndarray]]]

CELLS = 2**16  # rows times classes per pass, padding included: what fits a cache, and bounds the memory of networks
SHARED = 16  # features of a row that cost as much as one more row of the tables of queries and classes


@dataclass(frozen=True, eq=False)
class Marginals:
    """Posterior path and predictive summaries of a batch, without sampling.

    Args:
        inferred: all that inference says.
        summaries: arrays such as `probs`, each of shape `(steps, T, Q, ...)`.
        kl: KL to the prior in nats, shape `(steps, T)`.
        tasks: numbers of these tasks among those of the batch, shape `(T,)`.
        batch: these tasks, without query labels.
    """

    inferred: Mixture
    summaries: dict[str, Tensor]
    kl: Tensor
    tasks: Tensor
    batch: TaskBatch

    def of(self, whole: Tensor) -> Tensor:
        """Return the values of these tasks from a whole batch, shape `(T, Q, ...)`, on the model's device."""
        own = whole[self.tasks.to(whole.device), : self.batch.query_mask.shape[1]]
        return own.to(self.inferred.x.device)


@checked()
def match_model(model: PredictiveModel, batch: TaskBatch) -> TaskBatch:
    """Return the tasks on the device of a model; numbers keep their precision until the model has centred them."""
    return batch.to(next(model.parameters()).device)


_LOCK = threading.Lock()
_HELD: dict[nn.Module, int] = {}  # parts that were in training mode, and how many blocks keep them out of it


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model and its parts into evaluation mode; each goes back into its own mode when the last block ends.

    A model that is in evaluation mode already is not written to. Blocks in several threads may overlap. What is
    computed in them is not rounded by `torch.autocast`.
    """
    with _LOCK:
        parts = [module for module in model.modules() if module.training or module in _HELD]
        for module in parts:
            _HELD[module] = _HELD.get(module, 0) + 1
            module.training = False
    try:
        with undisturbed():
            yield
    finally:
        with _LOCK:
            for module in parts:
                _HELD[module] -= 1
                if not _HELD[module]:
                    del _HELD[module]
                    module.training = True


@torch.no_grad()
def ask(
    model: PredictiveModel,
    batches: Iterable[TaskBatch],
    question: Callable[[Mixture, TaskBatch], Answer],
    num_steps: int | None = None,
) -> list[Answer]:
    """Infer each batch once, in evaluation mode and without gradients, and return the answers to a question.

    Every prediction takes this road: trees, scores, the scikit-learn estimators and the command line.

    Args:
        model: the model; its parameters decide the device.
        batches: tasks, whose query labels are not looked at; one batch at a time is inferred.
        question: from inference, and its tasks on the model's device, to an answer.
        num_steps: refinement steps; those of training by default.

    Raises:
        ValueError: if the tasks do not fit the model, or a part of it, as a synthetic gradient, says NaN or infinity.
    """
    say_untrained(model)
    answers, told = [], False
    with evaluating(model):
        for batch in batches:
            own = match_model(model, batch.unlabelled())
            inferred = model.infer(own, num_steps)
            inferred.check()
            told = told or tell_of_foreign(model, own, inferred.x)
            answers.append(question(inferred, own))
    return answers


@checked(num_steps=at_least(0))
def marginals(model: PredictiveModel, batch: TaskBatch, num_steps: int | None = None) -> list[Marginals]:
    """Infer and summarise in parts of tasks of similar size; query labels are not used.

    Args:
        model: the model; its parameters decide the device.
        batch: $T$ tasks.
        num_steps: refinement steps; those of training by default.

    Returns:
        One entry per part; `assemble` puts them together.

    Raises:
        ValueError: if the tasks do not fit the model.
    """
    parts = batch.unlabelled().parts(CELLS, max(1, model.predictor.num_weights // SHARED))
    numbers = iter([tasks for tasks, _ in parts])

    def summarise(inferred: Mixture, own: TaskBatch) -> Marginals:
        rows = [inferred.predict(k) for k in range(inferred.num_steps + 1)]
        summaries = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        return Marginals(inferred, summaries, inferred.kl(), next(numbers), own)

    return ask(model, (part for _, part in parts), summarise, num_steps)


def assemble(chunks: Sequence[Marginals], values: Sequence[Tensor], axis: int, *rest: int) -> np.ndarray:
    """Return the values of all parts for the tasks of a batch, in the order of the batch.

    Args:
        chunks: the parts.
        values: of each part; tasks along an axis, and what may be padded after it.
        axis: that of the tasks.
        rest: lengths of the axes after it, in the batch.

    Returns:
        An array; padding is NaN, and 0 in integers.
    """
    tasks = sum(len(chunk.tasks) for chunk in chunks)
    out: np.ndarray | None = None
    for chunk, value in zip(chunks, values, strict=True):
        own: np.ndarray = value.detach().cpu().numpy()
        if out is None:
            blank = np.nan if own.dtype.kind == "f" else 0
            out = np.full((*own.shape[:axis], tasks, *rest), blank, dtype=own.dtype)
        index: list[Any] = [slice(0, length) for length in own.shape]
        index[axis] = chunk.tasks.numpy()
        out[tuple(index)] = own
    assert out is not None  # for the type checker: a batch has tasks
    return out


@checked(num_steps=at_least(0), num_draws=at_least(0), quantiles=between(0, 1))
@undisturbed()
def predict(
    model: PredictiveModel,
    batch: TaskBatch,
    *,
    num_steps: int | None = None,
    num_draws: int = 100,
    quantiles: Sequence[float] | None = None,
    seed: int = 0,
) -> xr.DataTree:
    """Predict the query labels of every task.

    Args:
        model: the model; its parameters decide the device.
        batch: $T$ tasks; query labels, where present, are recorded and never used.
        num_steps: refinement steps, $K$; those of training by default.
        num_draws: posterior draws; 0 leaves out the groups that need draws.
        quantiles: levels between 0 and 1 of predictive quantiles, for labels that are numbers.
        seed: seed of the draws; the global generator is left alone.

    Returns:
        A `DataTree` with the groups of this module's description; dimensions `chain`, `draw`, `step`,
        `task`, `query`, `way`, `feature`, `label`, each with integer coordinates, and `level`, with the levels.

    Raises:
        ValueError: if the tasks do not fit the model, `num_draws` or `num_steps` is negative, a level is not between
            0 and 1, or quantiles are requested from a likelihood that has no cdf.

    Examples:
        >>> import ebmeta
        >>> model = ebmeta.EmpiricalBayes.classifier(num_features=3)
        >>> batch = ebmeta.TaskBatch(torch.eye(3)[None], torch.arange(3)[None], torch.eye(3)[None])
        >>> tree = ebmeta.predict(model, batch, num_draws=10)
        >>> tree["predictive/probs"].isel(step=-1, task=0).argmax("way").values.tolist()
        [0, 1, 2]
    """
    chunks = marginals(model, batch, num_steps)
    query = batch.query_mask.cpu().numpy()
    way = batch.way_mask.cpu().numpy()
    groups: Groups = {}

    groups["predictive"] = {"kl": (("step", "task"), assemble(chunks, [c.kl for c in chunks], 1))}
    for name, first in chunks[0].summaries.items():
        sizes = (query.shape[1], *first.shape[3:])
        values = assemble(chunks, [c.summaries[name] for c in chunks], 1, *sizes)
        dims = ("step", "task", "query", "way")[: values.ndim]
        keep = query[None] if values.ndim == 3 else (query[:, :, None] & way[:, None])[None]
        groups["predictive"][name] = (dims, np.where(keep, values, np.nan))
    if quantiles is not None:
        levels = torch.tensor(list(quantiles), dtype=torch.float64)
        with torch.no_grad():
            values = assemble(chunks, [c.inferred.quantile(-1, levels) for c in chunks], 1, query.shape[1])
        groups["predictive"]["quantile"] = (("level", "task", "query"), np.where(query, values, np.nan))
    if chunks[0].inferred.likelihood.categories is not None:
        with torch.no_grad():
            each = [c.inferred.probs(-1) for c in chunks]
        values = assemble(chunks, each, 0, query.shape[1], each[0].shape[-1])
        groups["predictive"]["probs"] = (("task", "query", "label"), np.where(query[..., None], values, np.nan))
    if num_draws:
        groups |= _draws(batch, chunks, num_draws, seed)
    if batch.query_y is not None:
        groups["observed_data"] = {"query_y": (("task", "query"), _blank(_numpy(batch.query_y), query))}
    groups["constant_data"] = {
        "support_y": (("task", "support"), _blank(_numpy(batch.support_y), batch.support_mask.cpu().numpy())),
        "support_mask": (("task", "support"), batch.support_mask.cpu().numpy()),
        "query_mask": (("task", "query"), query),
        "way_mask": (("task", "way"), way),
    }
    tree = {}
    for group, variables in groups.items():
        lengths = {d: n for dims, values in variables.values() for d, n in zip(dims, values.shape, strict=True)}
        coords = {d: np.arange(n) for d, n in lengths.items()}
        if "level" in coords and quantiles is not None:
            coords["level"] = np.asarray(quantiles, dtype=np.float64)
        tree[f"/{group}"] = xr.Dataset(variables, coords)
    return xr.DataTree.from_dict(tree)


def _numpy(tensor: Tensor) -> np.ndarray:
    out: np.ndarray = tensor.detach().cpu().numpy()
    return out


def _blank(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.where(mask, values, np.nan if values.dtype.kind == "f" else -1)


@torch.no_grad()
def _draws(batch: TaskBatch, chunks: list[Marginals], num_draws: int, seed: int) -> Groups:
    """Draw weights and labels from the final posterior."""
    weights, labels, scores = [], [], []
    source, query = stream(seed), batch.query_mask.cpu().numpy()
    for chunk in chunks:
        y = None if batch.query_y is None else chunk.of(batch.query_y)
        w, drawn, score = chunk.inferred.draw(-1, num_draws, y, source)
        weights.append(w)
        labels.append(drawn)
        if score is not None:
            scores.append(score)
    w_shape, num_queries = weights[0].shape[2:], query.shape[1]
    rows = ("chain", "draw", "task", "query")
    groups: Groups = {
        "posterior": {"w": (("chain", "draw", "task", "way", "feature"), assemble(chunks, weights, 1, *w_shape)[None])},
        "posterior_predictive": {"query_y": (rows, _blank(assemble(chunks, labels, 1, num_queries), query)[None])},
    }
    if scores:
        values = assemble(chunks, scores, 1, num_queries)
        groups["log_likelihood"] = {"query_y": (rows, np.where(query, values, np.nan)[None])}
    return groups
