"""What can be promised for classes that nobody has seen, in words for readers who do not know the methods."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from ebmeta.diagnostics.check import Check
from ebmeta.foundation.checks import at_least, checked, some
from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.plots.reports import promises
from ebmeta.prediction.calibration import Z95
from ebmeta.prediction.certificate import certify
from ebmeta.prediction.class_jackknife import class_half_width
from ebmeta.prediction.scores import classes_of, task_scores
from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.source import TaskSource

__all__ = ["new_classes"]

QUESTION = "What can be promised for other classes?"
MEANING = (
    "Tasks that share classes say little of classes that they do not have. Classes are the units here, and nothing "
    "is assumed but that new ones come from where these came from. Few classes promise little, however good the "
    "model is."
)


def _used_before(label: object) -> Check:
    finding = f"Nothing: training or validation has used these classes, such as {label}; new ones are another matter."
    return Check("new_classes", QUESTION, "unclear", finding, MEANING, "Try it on classes that nothing was chosen on.")


@checked(batches=some(TaskBatch), num_partitions=at_least(1))
def new_classes(
    model: EmpiricalBayes,
    tasks: TaskSource,
    batches: Sequence[TaskBatch],
    scores: Sequence[xr.Dataset] | None = None,
    num_partitions: int = 20,
) -> Check:
    """Say how far accuracy and overconfidence may move with other classes, and what accuracy does not fall below.

    Args:
        model: a classifier.
        tasks: a source of tasks drawn from rows of classes.
        batches: labelled tasks of it.
        scores: what `task_scores` says of them; found here by default.
        num_partitions: partitions of the classes behind the certificate.

    Raises:
        ValueError: as for `certify`.
    """
    if model.marks is not None and (label := model.marks.known(tasks.class_rows)) is not None:
        return _used_before(label)
    found = certify(model, tasks, num_partitions=num_partitions)
    known = [task_scores(model, b) for b in batches] if scores is None else scores
    names, classes = ("accuracy", "overconfidence"), classes_of(batches)
    accuracy, gap = (np.concatenate([s[n].isel(step=-1).values for s in known]).astype(float) for n in names)
    half, gap_half = (float("nan") if classes is None else class_half_width(v, classes) for v in (accuracy, gap))
    over_tasks = Z95 * float(accuracy.std(ddof=1)) / len(accuracy) ** 0.5
    moves = f", and {100 * half:.0f} points more or less with other classes" if np.isfinite(half) else ""
    finding = f"Here it is right in {accuracy.mean():.1%} of rows{moves}. "
    if np.isfinite(gap_half):
        said = f"Its probabilities said {(accuracy + gap).mean():.1%}, and the difference of the two may move by "
        finding += f"{said}{100 * gap_half:.1f} points. "
    if found.vacuous:
        enough = "" if found.needed is None else f"; about {found.needed} would do"
        finding += f"These {found.num_used} classes are too few to promise anything of classes that are new{enough}."
    else:
        finding += (
            f"If none of these {found.num_used} classes was used before, it is right in at least {found.bound:.1%} of "
            "the rows of tasks of new classes, with 95% confidence."
        )
    return Check(
        "new_classes",
        QUESTION,
        "unclear" if found.vacuous else "good",
        finding,
        MEANING,
        "Try it on more classes that nothing was chosen on." if found.vacuous else "",
        {
            "accuracy": float(accuracy.mean()),
            "half_width_classes": half if np.isfinite(half) else None,
            "overconfidence": float(gap.mean()),
            "overconfidence_half_width_classes": gap_half if np.isfinite(gap_half) else None,
            "certified": found.bound,
            "num_classes": found.num_used,
        },
        promises(
            float(accuracy.mean()),
            over_tasks,
            half if np.isfinite(half) else None,
            None if found.vacuous else found.bound,
        ).get_figure(root=True),
        "The dashed line is the share that it gets right here. Dark blue: how well that is known for tasks of these "
        "classes. "
        "Light blue: how far it may move with other classes. Grey: what is promised for new classes, at least its left "
        "end. Good is short bars, far to the right.",
    )
