"""ArviZ: the one place that knows which of its two major lines is installed.

ArviZ 0.x works on its own `InferenceData`, ArviZ 1.x on `xarray.DataTree`. It is imported when a function
of this module is called.
"""

from __future__ import annotations

from typing import Any

import xarray as xr

__all__ = ["loo", "to_arviz"]


def to_arviz(tree: xr.DataTree) -> Any:
    """Return a prediction tree as the installed ArviZ takes it.

    Args:
        tree: what `predict` or `reference.nuts` returned.

    Returns:
        An `InferenceData` (0.x) or the tree itself (1.x), without the group `predictive`, which has no
        draws.

    Raises:
        ValueError: if the tree has no posterior draws.
    """
    import arviz

    if "posterior" not in tree.children:
        raise ValueError(f"expected a tree with posterior draws, got groups {list(tree.children)}")
    plain = xr.DataTree.from_dict({f"/{k}": v.to_dataset() for k, v in tree.children.items() if k != "predictive"})
    return arviz.from_datatree(plain) if hasattr(arviz, "from_datatree") else plain


def loo(tree: xr.DataTree) -> Any:
    r"""Estimate the leave-one-query-out log score by Pareto-smoothed importance sampling.

    The draws are those of $q_K$; a query label was never used to make them, so this says what adding it
    would change, and its Pareto shapes $\hat k$ whether the draws could tell.

    Args:
        tree: what `predict` returned for labelled tasks of equal size.

    Returns:
        ArviZ's result, with pointwise values.

    Raises:
        ValueError: if the query labels were absent or tasks are padded.
    """
    import arviz

    if "log_likelihood" not in tree.children:
        raise ValueError("loo: expected predictions of labelled tasks, got no log likelihood")
    if bool(tree["log_likelihood"].to_dataset()["query_y"].isnull().any()):
        raise ValueError("loo: expected tasks of equal size, got padded queries")
    return arviz.loo(to_arviz(tree), pointwise=True, reff=1.0)
