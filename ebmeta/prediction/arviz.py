r"""ArviZ on both of its major lines, which differ in this module alone.

ArviZ 0.x (Python 3.11) works on its own `InferenceData`, ArviZ 1.x (Python 3.12 and newer) on `xarray.DataTree`. It is
imported when a function of this module is called. Functions take the trees that `predict`, `reference.nuts` and
`reference.hierarchical` return, also after a round trip through a netCDF file.

There are two kinds of labels. Those that the draws are *not* conditioned on (the queries of `predict`, and of
`reference.nuts` given the support set) score a prediction as they are:

$$ \log p(y_i \mid d) \approx \log \tfrac1S \sum_s p(y_i \mid w_s). $$

Those that the draws *are* conditioned on (`observe="both"`, `hierarchical`) have to be left out first, by
Pareto-smoothed importance sampling with weights proportional to $1 / p(y_i \mid w_s)$.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ebmeta.foundation.checks import array, checked

__all__ = ["GOOD", "SEEN", "USABLE", "compare", "held_out", "loo", "pit", "psis", "summary", "to_arviz"]

SAMPLE = ("chain", "draw")
SEEN = "labels_seen"  # attribute of a log likelihood: 1 where the draws are conditioned on the labels
TRIES = 20  # to import ArviZ
GOOD, USABLE = 0.5, 0.7  # of k-hat: draws stand for the target; weights still correct them


@checked()
def to_arviz(tree: xr.DataTree) -> Any:
    """Return a tree in the form of the installed ArviZ.

    Args:
        tree: what `predict`, `reference.nuts` or `reference.hierarchical` returned, or the tree of a mixed model.

    Returns:
        An `InferenceData` (0.x) or the tree itself (1.x), without the group `predictive`, which has no
        draws.

    Raises:
        ValueError: if the tree has no posterior draws.
    """
    arviz = _library()
    if "posterior" not in tree.children:
        raise ValueError(f"expected a tree with posterior draws, got groups {list(tree.children)}")
    plain = xr.DataTree.from_dict({f"/{k}": v.to_dataset() for k, v in tree.children.items() if k != "predictive"})
    return arviz.from_datatree(plain) if _old() else plain


def _library() -> Any:
    """Import ArviZ; on its first import of a day it moves a file, which another process may have moved just then."""
    for _ in range(TRIES):
        with contextlib.suppress(FileNotFoundError):
            return importlib.import_module("arviz")
    return importlib.import_module("arviz")


def _old() -> bool:
    return hasattr(_library(), "from_datatree")


@checked(log_ratios=array())
def psis(log_ratios: Any) -> tuple[np.ndarray, np.ndarray]:
    r"""Smooth importance ratios by a generalised Pareto tail.

    Args:
        log_ratios: $\log p(w_s) - \log q(w_s)$ up to a constant, for draws $w_s \sim q$, shape `(..., S)`.

    Returns:
        Log weights that sum to one over draws, `(..., S)`, and the tail's shape $\hat k$, `(...)`: above 0.7 the
        weights cannot be trusted.

    Raises:
        ValueError: if there are fewer than 25 draws, too few for a tail, or a ratio is not finite.

    Examples:
        >>> z = np.random.default_rng(0).normal(size=4000)
        >>> ratios = {scale: -(scale * z)**2 / 2 + z**2 / 2 for scale in (2.0, 0.5)}
        >>> {scale: psis(r)[1].item() < 0.5 for scale, r in ratios.items()}  # a wide q covers, a narrow one does not
        {2.0: True, 0.5: False}
    """
    ratios: np.ndarray = log_ratios
    if ratios.shape[-1] < 25:
        raise ValueError(f"log_ratios: expected at least 25 draws, got {ratios.shape[-1]}")
    if _old():
        smoothed = _library().psislw(ratios)
    else:
        from arviz_stats.base import array_stats

        smoothed = array_stats.psislw(-ratios)  # this line of ArviZ takes log likelihoods, whose ratios are inverse
    weights, shape = (np.asarray(part) for part in smoothed)
    even = np.ptp(ratios, axis=-1) == 0  # no tail, and nothing to smooth
    weights = np.where(even[..., None], -np.log(ratios.shape[-1]), weights)
    shape = np.where(even, 0.0, shape)
    return weights, shape


def _scored(tree: xr.DataTree) -> tuple[str, xr.DataArray]:
    """Return the name of the labels and their log likelihood in nats."""
    if "log_likelihood" not in tree.children:
        raise ValueError("loo: expected predictions of labelled tasks, got no log likelihood")
    ((name, score),) = tree["log_likelihood"].to_dataset().data_vars.items()
    return str(name), score


def _check_unseen(score: xr.DataArray) -> None:
    if score.attrs.get(SEEN):
        raise ValueError(
            "tree: expected labels that its draws have not seen, got ones that they are conditioned on; loo, and "
            "seen=True of compare and pit, leave each out first"
        )


def _values(tree: xr.DataTree, group: str, name: str) -> xr.DataArray:
    return tree[group].to_dataset()[name]


@checked()
def loo(tree: xr.DataTree) -> Any:
    r"""Estimate the leave-one-out log score by Pareto-smoothed importance sampling.

    For draws that are not conditioned on the labels (see above) the sum does not score them; use `held_out`. The
    Pareto shapes $\hat k$ then say whether one label more would move the posterior further than the draws can tell.

    Args:
        tree: draws with the log likelihood of labels of tasks of equal size.

    Returns:
        ArviZ's result, with pointwise values.

    Raises:
        ValueError: if labels are absent or tasks are padded.
    """
    arviz = _library()
    _, score = _scored(tree)
    if bool(score.isnull().any()):
        raise ValueError("loo: expected tasks of equal size, got padded queries")
    return arviz.loo(to_arviz(tree), pointwise=True, reff=None if "sample_stats" in tree.children else 1.0)


@checked()
def held_out(tree: xr.DataTree) -> xr.DataArray:
    r"""Return the log score of labels that the draws are not conditioned on, in nats; NaN where padded.

    Args:
        tree: draws with the log likelihood of labels, such as `predict` returns for labelled tasks.

    Returns:
        $\log \frac1S \sum_s p(y_i \mid w_s)$, with the dimensions of the labels; of the classes that `predict` gives
        probabilities in closed form, their logarithm after the last step.

    Raises:
        ValueError: if labels are absent, or the draws are conditioned on them.
    """
    name, score = _scored(tree)
    _check_unseen(score)
    probs = tree["predictive"].to_dataset().get("probs") if "predictive" in tree.children else None
    if probs is not None and {"step", "way"} <= set(probs.dims) and "observed_data" in tree.children:
        y = _values(tree, "observed_data", name)
        last: xr.DataArray = np.log(probs.isel(step=-1).sel(way=y.clip(min=0)))  # type: ignore[assignment]
        return last.where(score.notnull().all(SAMPLE)).drop_vars(("step", "way")).transpose(*y.dims)
    top = score.max(SAMPLE)
    ratio: xr.DataArray = np.exp(score - top)  # type: ignore[assignment]
    out: xr.DataArray = top + np.log(ratio.mean(SAMPLE))
    return out


@checked()
def compare(trees: Mapping[str, xr.DataTree], *, seen: bool = False) -> pd.DataFrame:
    r"""Compare models by the log score of the same labels, the best first.

    Args:
        trees: by name, draws of each model for the same labelled tasks: other numbers of refinement steps, other
            $\beta$, other likelihoods.
        seen: False for labels that the draws have not seen; True for labels that have to be left out first.

    Returns:
        If not `seen`: `rank`, `elpd` (summed log score in nats), `elpd_diff` from the best, and their standard
        errors `se` and `dse` over tasks, whose queries share a posterior. If `seen`: what `arviz.compare` says.

    Raises:
        ValueError: if there are fewer than two models, or they do not score the same labels.
    """
    if len(trees) < 2:
        raise ValueError(f"trees: expected at least two models, got {list(trees)}")
    _check_same_labels(trees)
    if seen:
        arviz = _library()
        options = {} if _old() else {"round_to": "none"}
        table: pd.DataFrame = arviz.compare({name: loo(tree) for name, tree in trees.items()}, **options)
        return table
    scores = {name: held_out(tree) for name, tree in trees.items()}
    per_task = pd.DataFrame({name: np.nansum(v.values.reshape(len(v), -1), 1) for name, v in scores.items()})
    order = list(per_task.sum().sort_values(ascending=False).index)
    gaps = per_task.sub(per_task[order[0]], axis=0)
    root = len(per_task) ** 0.5
    return pd.DataFrame(
        {
            "rank": range(len(order)),
            "elpd": per_task.sum()[order],
            "elpd_diff": gaps.sum()[order],
            "se": root * per_task.std()[order],
            "dse": root * gaps.std()[order],
        },
        index=order,
    )


def _check_same_labels(trees: Mapping[str, xr.DataTree]) -> None:
    """Raise `ValueError` where trees do not score the same rows, or say which labels these have and say other ones."""
    first, reference, labels = "", None, None
    for name, tree in trees.items():
        variable, score = _scored(tree)
        rows = score.isel(dict.fromkeys(SAMPLE, 0)).isnull()
        own = _values(tree, "observed_data", variable) if "observed_data" in tree.children else None
        if reference is None:
            first, reference = name, rows
        same = rows.sizes == reference.sizes
        same = same and bool((rows.transpose(*reference.dims).values == reference.values).all())
        if same and own is not None and labels is not None:  # labels of 32 bits are those of 64
            values = own.transpose(*labels.dims).values
            same = bool(np.isclose(values, labels.values, rtol=1e-5, atol=0, equal_nan=True).all())
        if not same:
            raise ValueError(f"trees: expected the same labels, got other ones for {first!r} and {name!r}")
        labels = own if labels is None else labels


@checked()
def pit(tree: xr.DataTree, *, seen: bool = False, seed: int = 0) -> xr.DataArray:
    r"""Return the probability integral transform of every label: uniform on [0, 1] where predictions are calibrated.

    $$ u_i = P(\tilde y_i < y_i) + v_i P(\tilde y_i = y_i), \qquad v_i \sim U(0, 1) $$

    Args:
        tree: draws with labels and replicated labels, numbers or counts.
        seen: False for labels that the draws have not seen; True for labels that have to be left out first.
        seed: seed of $v_i$, which matters for counts alone.

    Returns:
        $u$, with the dimensions of the labels; NaN where padded.

    Raises:
        ValueError: if labels are absent, or are classes, which have no order.
    """
    name, score = _scored(tree)
    if not seen:
        _check_unseen(score)
    for group in ("posterior", "posterior_predictive", "observed_data"):
        if group not in tree.children:
            raise ValueError(f"tree: expected a group {group!r}, got {list(tree.children)}")
    if tree["posterior"].to_dataset().sizes.get("way", 1) > 1:
        raise ValueError("pit: expected labels that are numbers, got classes")
    y = _values(tree, "observed_data", name)
    rows = [*y.dims]
    shape = (*y.shape, -1)
    new, logp = (
        v.transpose(*rows, *SAMPLE).values.reshape(shape) for v in (_values(tree, "posterior_predictive", name), score)
    )
    real = ~np.isnan(logp[..., 0])
    weight = np.full(logp.shape, 1 / logp.shape[-1])
    if seen:
        weight[real] = np.exp(psis(-logp[real])[0])
    level = y.values[..., None]
    below, tied = ((weight * hit).sum(-1) for hit in (new < level, new == level))
    u = below + np.random.default_rng(seed).random(y.shape) * tied
    return y.copy(data=np.where(real, u, np.nan))


@checked()
def summary(tree: xr.DataTree, **options: Any) -> Any:
    r"""Return ArviZ's table of the posterior, with $\hat R$ and effective sizes only where there are several chains.

    Draws of `predict` are independent and come as one chain, for which $\hat R$ means nothing.

    Args:
        tree: what `predict`, `reference.nuts` or `reference.hierarchical` returned.
        **options: passed on to `arviz.summary`, such as `var_names`.

    Raises:
        ValueError: if the tree has no posterior draws.
    """
    data = to_arviz(tree)
    return _library().summary(data, **{"kind": "all" if tree["posterior"].sizes["chain"] > 1 else "stats"} | options)
