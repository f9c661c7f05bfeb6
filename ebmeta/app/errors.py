"""Errors of the command line, each reported in one line on standard error that says what to do."""

from __future__ import annotations

import difflib
import io
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import cyclopts

from ebmeta.foundation.extras import EXTRAS
from ebmeta.foundation.whereabouts import whereabouts

__all__ = ["FLAGS", "as_line", "one_line_each", "whole"]

#: Arguments of the library, as its messages call them, and the flags that they come from.
FLAGS = {
    "n_way": "--n-way",
    "n_shot": "--n-shot",
    "n_support": "--n-shot",
    "n_query": "--n-query",
    "level": "--sets",
} | {
    name: f"--{name.replace('_', '-')}"
    for name in (
        "batch_size",
        "beta",
        "checkpoint",
        "concentration",
        "coverage",
        "device",
        "imbalance",
        "learning_rate",
        "likelihood",
        "num_iterations",
        "num_steps",
        "num_tasks",
        "profile",
        "seed",
        "validation",
    )
}

#: What is no command of its own.
COMMANDS = {
    "suggest": "`ebmeta classify --report` says which rows to label next",
    "outliers": "`ebmeta classify --outliers`",
    "sets": "`ebmeta classify --sets`",
    "report": "`ebmeta classify --report`, `ebmeta diagnose`",
}

LONGEST_WORD, LONGEST_LINE = 300, 600


def as_line(error: BaseException) -> str:
    r"""Return an error of any kind as one line.

    Examples:
        >>> as_line(ValueError("num_tasks: expected at least 1,\n got 0"))
        '--num-tasks: expected at least 1, got 0'
        >>> as_line(KeyError("x"))
        "unexpected KeyError: 'x' (--debug shows where)"
    """
    text = "".join(c if c.isprintable() else " " if c.isspace() else repr(c)[1:-1] for c in str(error))
    text = " ".join(word if len(word) <= LONGEST_WORD else f"{word[:60]}..." for word in text.split())
    text = text if len(text) <= LONGEST_LINE else f"{text[: LONGEST_LINE - 3]}..."
    if type(error).__name__ == "_LinAlgError":
        return f"expected numbers that stay finite, got a singular matrix: lower --learning-rate ({text[:200]})"
    if isinstance(error, BrokenPipeError):
        return "standard output: expected a reader, got a closed pipe"
    if isinstance(error, MemoryError) or "can't allocate memory" in text:
        return f"expected a task that fits into memory, got: {text[:300] or 'no more memory'}"
    if isinstance(error, RecursionError):
        return "expected input that is nested less deeply"
    if isinstance(error, cyclopts.MissingArgumentError) and error.argument is not None:
        name = error.argument.name
        if (odd := next((t for t in error.unused_tokens or () if t.startswith("--")), None)) is not None:
            meant = difflib.get_close_matches(odd, error.argument.names)
            return f"Unknown option: {odd}." + (f" Did you mean {meant[0]}?" if meant else "")
        stated = re.search(rf"^ +{name[2:].replace('-', '_')}: (.*)$", error.target.__doc__ or "", re.MULTILINE)
        return f"{name}: expected {stated[1].rstrip('.;,') if stated else 'a value'}, got none"
    if isinstance(error, cyclopts.UnknownCommandError) and error.unused_tokens:
        wanted = error.unused_tokens[0]
        here = COMMANDS.get(wanted, "") or whereabouts(wanted.replace("-", "_"))
        return f"{text} ({wanted}: {here})" if here and "Did you mean" not in text else text
    text = re.sub(r"^Invalid value for (\S+): expected", r"\1: expected", text)  # of `whole`
    if isinstance(error, ValueError) and (role := text.partition(": ")[0]) in FLAGS:
        text = f"{FLAGS[role]}{text.removeprefix(role)}"
    if isinstance(error, cyclopts.CycloptsError | OSError) or (isinstance(error, ValueError) and text):
        return text
    if isinstance(error, ImportError) and error.name in EXTRAS:
        return text
    return f"unexpected {type(error).__name__}: {text[:300] or 'no more is known'} (--debug shows where)"


def whole(kind: type, tokens: Sequence[cyclopts.Token]) -> int:
    """Return the whole number that a flag, or a value of the configuration, is.

    Raises:
        ValueError: if it is none, such as 1.5, 2.0 and 1e3.
    """
    try:
        return int(tokens[0].value)
    except ValueError:
        raise ValueError(f"expected a whole number, got {tokens[0].value!r}") from None


@contextmanager
def one_line_each() -> Iterator[None]:
    """Show warnings in one line each, once, write characters that the terminal lacks as escapes, and flush."""
    shown: set[str] = set()

    def show(message: Warning | str, *_: object, **__: object) -> None:
        text = " ".join(str(message).split())
        if text not in shown:
            print(f"ebmeta: warning: {text}", file=sys.stderr)
        shown.add(text)

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    with warnings.catch_warnings():
        warnings.showwarning = show
        try:
            yield
        finally:
            try:
                sys.stdout.flush()
            except OSError:
                # What is still in the buffer would fail again, with a traceback, when the process ends.
                silent = os.open(os.devnull, os.O_WRONLY)
                os.dup2(silent, sys.stdout.fileno())
                os.close(silent)
                raise
