"""Training on the rows of a file, for `ebmeta train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np

from ebmeta.app.sources import listed
from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.tasks.episodes import EpisodeSampler
from ebmeta.tasks.groups import GroupSampler
from ebmeta.training.evidence_fit import fit_evidence
from ebmeta.training.loop import FitResult

__all__ = ["at_maximum", "model_for", "outcome", "varying"]


def model_for(
    data: Path, source: EpisodeSampler | GroupSampler, likelihood: str | None, profile: int, options: dict[str, Any]
) -> EmpiricalBayes:
    """Build a model for the classes or groups of a source.

    Args:
        data: the file.
        source: its tasks.
        likelihood: with groups, what labels are; normal by default.
        profile: with classes, as for `EmpiricalBayes.classifier`.
        options: further arguments of either kind; None stands for their defaults.

    Raises:
        ValueError: if rows are no vectors, or an argument is out of range.
    """
    if source.X.ndim != 2:
        raise ValueError(f"{data}: expected one feature vector per row, got rows of shape {source.X.shape[1:]}")
    given = {name: value for name, value in options.items() if value is not None}
    if source.groups is None:
        return EmpiricalBayes.classifier(source.X.shape[1], profile=profile, **given)
    covariates = 0 if source.encoder is None else len(source.encoder.group_names)
    if likelihood == "ordinal":
        given["num_categories"] = max(int(np.max(cast(GroupSampler, source).y)) + 1, 2)
    return EmpiricalBayes.regressor(source.X.shape[1], likelihood or "normal", num_covariates=covariates, **given)


def varying(data: Path, source: EpisodeSampler | GroupSampler, columns: str | None) -> list[int] | None:
    """Return the numbers of the features whose weights vary over groups; None, where no flag names any, for all.

    Args:
        data: the file.
        source: its tasks.
        columns: names of columns, which commas part; none in an empty text.

    Raises:
        ValueError: if the tasks are no groups in named columns, or a column is none of features.
    """
    if columns is None:
        return None
    if source.groups is None:
        raise ValueError(f"--random: expected --groups beside it, got {columns!r} for classes")
    if source.encoder is None:
        raise ValueError(f"{data}: expected a file of named columns, .csv or .parquet, for --random")
    try:
        return source.encoder.numbers_of_features(listed(columns))
    except ValueError as error:
        raise ValueError(str(error).replace("columns:", "--random:", 1)) from None


def outcome(run: FitResult, output: Path) -> tuple[dict[str, Any], str]:
    """Return the outcome of a run, as a machine-readable result and as a line.

    Args:
        run: what `fit` returned.
        output: folder of the model.
    """
    last = run.history.isel(iteration=slice(-50, None)).mean("iteration")
    result: dict[str, Any] = {
        "model": str(output),
        "iterations": int(run.history.sizes["iteration"]),
        "best_iteration": run.best_iteration,
        "stopped_early": run.stopped_early,
        "seconds": round(run.seconds, 2),
        "notes": list(run.notes),
        "training_nll": last["nll"].values.round(5).tolist(),
    }
    name, path, chosen = "training", result["training_nll"], "ended"
    if "validation_nll" in run.history:
        best = run.history["validation_nll"].sel(validation_iteration=run.best_iteration)
        result["validation_nll"] = best.values.round(5).tolist()
        name, path, chosen = "validation", best.values.tolist(), "best"
    return result, (
        f"{output}: {name} NLL {path[0]:.3f} -> {path[-1]:.3f} over refinement (nats per query), {chosen} after "
        f"{run.best_iteration} iterations, {run.seconds:.0f} s" + "".join(f"; {note}" for note in run.notes)
    )


def at_maximum(
    model: EmpiricalBayes, source: EpisodeSampler | GroupSampler, num_iterations: int, seed: int, output: Path
) -> tuple[dict[str, Any], str]:
    """Take a model without refinement to the maximum of the evidence of all groups, and return what came of it.

    Args:
        model: the model, changed in place.
        source: the groups.
        num_iterations: of the optimiser, at most.
        seed: of the draws, for labels that are not normal.
        output: folder of the model.

    Raises:
        ValueError: as for `ebmeta.fit_evidence`.
    """
    groups = cast(GroupSampler, source)  # rows with a column of groups
    found = fit_evidence(model, groups, boundary=False, max_iterations=num_iterations, seed=seed)
    result: dict[str, Any] = {
        "model": str(output),
        "log_evidence": round(found.log_evidence, 6),
        "converged": found.converged,
        "notes": list(found.notes),
    }
    where = "at the maximum" if found.converged else "not at the maximum"
    notes = "".join(f"; {note}" for note in found.notes)
    return result, f"{output}: log evidence {found.log_evidence:.3f} of {groups.num_groups} groups, {where}{notes}"
