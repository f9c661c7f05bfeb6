"""The application that parses the command line, and what all its commands share."""

from __future__ import annotations

from importlib.metadata import version as installed
from pathlib import Path
from typing import Annotated

import cyclopts
from cyclopts import App, Parameter

from ebmeta.app.errors import whole
from ebmeta.app.files import Targets, check
from ebmeta.foundation.extras import DISTRIBUTION

__all__ = ["Whole", "app", "check_files"]

#: A flag that is a whole number; of 1.5, cyclopts would make 2.
Whole = Annotated[int, Parameter(converter=whole)]

app = App(
    name="ebmeta",
    help="Empirical Bayes across many small tasks: train, predict with calibrated probabilities, evaluate.",
    version=lambda: installed(DISTRIBUTION),
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
app.meta.suppress_keyboard_interrupt = False
app.meta.group_parameters = cyclopts.Group("Common", sort_key=99)


def check_files(targets: Targets, json: Path | None, overwrite: bool, **inputs: Path | None) -> None:
    """Check the files of a command and of its configuration, see `ebmeta.app.files.check`."""
    check(targets, json, overwrite, app.config, **inputs)
