"""Calls of the command line as tests make them."""

from __future__ import annotations

from typing import Any

from ebmeta.app.cli import main


def run(*arguments: Any) -> int:
    """Run a command and return its exit code."""
    return main([str(a) for a in arguments])


def refused(capsys: Any, *arguments: Any) -> str:
    """Run a command that fails and return the one line of the error."""
    capsys.readouterr()
    assert run(*arguments) == 2
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    assert err.startswith("ebmeta: error: ")
    assert err.count("\n") == 1
    return err
