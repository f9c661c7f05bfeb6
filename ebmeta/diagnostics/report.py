"""The report of all checks of a model on labelled tasks, with a verdict in plain words, as HTML and JSON."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ebmeta.diagnostics.check import Check, Status, worst
from ebmeta.diagnostics.common import refuse_outliers
from ebmeta.diagnostics.new_classes import new_classes
from ebmeta.diagnostics.predictions import few_labels, probabilities
from ebmeta.diagnostics.verdicts import exactness, information, refinement, simulation, width
from ebmeta.foundation.checks import at_least, checked
from ebmeta.foundation.extras import DISTRIBUTION
from ebmeta.foundation.pages import render
from ebmeta.foundation.writing import check_target, write, write_json
from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.plots.axes import embedded
from ebmeta.prediction.scores import repeats, task_batches, task_scores
from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.marks import tell_of_known
from ebmeta.tasks.source import TaskSampler, as_source

__all__ = ["Diagnosis", "diagnose"]

TEMPLATE = Path(__file__).with_name("report.html")
DECISIVE = ("probabilities", "few_labels")  # what predictions stand or fall with

HEADLINES: dict[Status, str] = {
    "good": "You can rely on this model for tasks like these.",
    "unclear": "Too little data to tell whether this model can be relied on.",
    "caution": "Use this model with care.",
    "bad": "Do not rely on this model for tasks like these.",
}
#: What is said where another check is graver than those of the predictions, and what it adds.
PREDICTIONS: dict[Status, str] = {
    "good": "You can rely on its predictions for tasks like these, but",
    "unclear": "Too little data to tell whether its predictions can be relied on, and",
    "caution": "Use its predictions with care, and",
}
OTHERS: dict[Status, str] = {"caution": "take care with the rest", "bad": "there is a problem with the rest"}


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """The joint result of the checks of a model.

    Args:
        checks: the checks, the most important first.
        model: what the model is, by name.
        num_tasks: tasks that it was checked on.
        seconds: wall time of the checks.
        num_groups: groups that the tasks were drawn from, where some were drawn more than once.
    """

    checks: tuple[Check, ...]
    model: dict[str, Any]
    num_tasks: int
    seconds: float
    num_groups: int | None = None

    @property
    def status(self) -> Status:
        """The verdict, that of the gravest check; what other checks than the decisive ones cannot tell is left out."""
        return worst([*self.decisive, *self.warnings])

    @property
    def decisive(self) -> list[Check]:
        """The checks that predictions stand or fall with."""
        return [c for c in self.checks if c.name in DECISIVE]

    @property
    def warnings(self) -> list[Check]:
        """Other checks that did not come out well."""
        return [c for c in self.checks if c.name not in DECISIVE and c.status in ("caution", "bad")]

    @property
    def headline(self) -> str:
        """The verdict in one sentence, which tells predictions from the rest."""
        of_predictions = worst(self.decisive)
        if self.status == of_predictions:
            return HEADLINES[self.status]
        return f"{PREDICTIONS[of_predictions]} {OTHERS[self.status]}."

    @property
    def tried(self) -> str:
        """The tasks of the check."""
        of = "" if self.num_groups is None else f" of {self.num_groups} groups"
        return f"It was tried on {self.num_tasks} tasks{of} whose answers are known."

    @property
    def sentences(self) -> list[str]:
        """What the headline rests on."""
        return [" ".join([self.tried, *(c.finding for c in self.decisive)])]

    @property
    def summary(self) -> str:
        """The verdict and its reasons, for readers who know none of the methods."""
        parts = [self.headline, *self.sentences]
        parts += [f"{c.question} {c.finding}" for c in self.warnings]
        return " ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Return all but the pictures, for JSON."""
        return {
            "status": self.status,
            "summary": self.summary,
            "model": self.model,
            "num_tasks": self.num_tasks,
            "num_groups": self.num_groups,
            "seconds": round(self.seconds, 1),
            "checks": {
                c.name: {"question": c.question, "status": c.status, "finding": c.finding, "numbers": dict(c.numbers)}
                for c in self.checks
            },
        }

    def to_html(self) -> str:
        """Return one self-contained page, which needs no other file or address."""
        pictures = {c.name: embedded(c.figure) for c in self.checks if c.figure is not None}
        return render(
            TEMPLATE, self, pictures=pictures, words=WORDS, number=_number, label=_label, version=version(DISTRIBUTION)
        )

    def save(self, path: Path, overwrite: bool = False) -> None:
        """Write the page to a file, and the numbers to a file of the same name with the ending `.json`.

        Args:
            path: the page.
            overwrite: replace also files that ebmeta did not write.

        Raises:
            OSError: if a file cannot be written, or may not be replaced.
        """
        path = Path(path)
        check_target(path.with_suffix(".json"), "result", overwrite)
        write(path, self.to_html().encode(), "page", overwrite)
        write_json(path.with_suffix(".json"), self.to_dict(), overwrite)


#: Plain words for names of numbers that only specialists know.
SPELLED = {
    "ece": "calibration error",
    "nll": "minus log probability",
    "pit": "place in its prediction",
    "khat": "k-hat",
}
WORDS: dict[Status, str] = {"good": "fine", "unclear": "cannot tell", "caution": "take care", "bad": "problem"}


@checked(num_tasks=at_least(2))
def diagnose(
    model: EmpiricalBayes,
    tasks: TaskSampler | TaskBatch,
    num_tasks: int = 300,
    *,
    seed: int = 0,
    progress: bool = True,
) -> Diagnosis:
    """Check a model on labelled tasks that it was not trained on.

    Args:
        model: the model.
        tasks: labelled tasks, or a source of them. A warning tells where training or validation has used their classes
            or groups.
        num_tasks: how many tasks to draw from a source.
        seed: seed of all draws.
        progress: show a progress bar.

    Returns:
        The checks and the verdict.

    Raises:
        ValueError: if tasks are unlabelled, fewer than two, may have outliers, or do not fit the model.
    """
    started = time.perf_counter()
    batches = task_batches(tasks, num_tasks, model)
    count = sum(b.num_tasks for b in batches)
    repetition = repeats(tasks, count)
    if count < 2:
        raise ValueError(f"num_tasks: expected at least 2, got {count}")
    if any(b.query_y is None for b in batches):
        raise ValueError("diagnose: expected query labels, got unlabelled tasks")
    for batch in batches:
        refuse_outliers(batch, "diagnose")
    scores = [task_scores(model, b) for b in batches]
    tell_of_known(model.marks, tasks, "tasks")
    steps: list[Callable[[], Check]] = [
        lambda: probabilities(model, batches, seed, scores, repetition),
        lambda: few_labels(model, batches, scores, repetition),
    ]
    if (source := as_source(tasks)).class_rows and model.likelihood.categorical:
        steps.append(lambda: new_classes(model, source, batches, scores))
    if model.num_steps:
        steps.append(lambda: refinement(model, tasks, num_tasks))
    steps.append(lambda: width(model, tasks, num_tasks))
    if not model.likelihood.categorical:
        steps.append(lambda: exactness(model, batches, seed))
        steps.append(lambda: simulation(model, tasks, num_tasks, seed))
    if not model.predictor.by_task:  # features of a new row are those of another task
        steps.append(lambda: information(model, tasks, num_tasks, seed))
    checks = [step() for step in tqdm(steps, desc="checks", disable=None if progress else True)]
    about = {
        "likelihood": model.likelihood.name,
        "features": model.predictor.num_features or "any",
        "refinement steps": model.num_steps,
        "beta": model.beta,
    }
    groups = round(count / repetition) if repetition > 1 else None
    return Diagnosis(tuple(checks), about, count, time.perf_counter() - started, groups)


def _label(name: str) -> str:
    """Spell out the name of a number."""
    return " ".join(SPELLED.get(word, word) for word in name.split("_"))


def _number(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_number(v) for v in value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)
