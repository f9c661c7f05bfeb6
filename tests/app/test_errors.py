"""Errors of the command line: whatever goes wrong is one line, and so is a warning."""

import importlib
import io
import os
import sys
import warnings

import pytest
from commands import refused, run

from ebmeta.app.errors import as_line
from tests.app.test_files import line


@pytest.fixture
def files(plain_files):
    return plain_files


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "expected a task that fits into memory, got: no more memory"),
        (RuntimeError("a\n b"), "unexpected RuntimeError: a b (--debug shows where)"),
        (KeyError("x"), "unexpected KeyError: 'x' (--debug shows where)"),
        (RecursionError("maximum"), "expected input that is nested less deeply"),
        (ValueError(), "unexpected ValueError: no more is known (--debug shows where)"),
        (ValueError("a: \x1b[31mred\r\nb"), "a: \\x1b[31mred b"),
        (OverflowError("too large"), "unexpected OverflowError: too large"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "start"), "'utf-8' codec can't decode byte"),
        (BrokenPipeError(32, "Broken pipe"), "standard output: expected a reader, got a closed pipe"),
    ],
)
def test_every_error_is_one_line(files, capsys, monkeypatch, error, message):
    def failing(*arguments, **options):
        raise error

    monkeypatch.setattr(importlib.import_module("ebmeta.prediction.scores"), "evaluate", failing)
    command = ("evaluate", files / "model", files / "data.csv", "--n-query", 3)
    assert message in line(capsys, *command)
    assert run(*command, "--debug") == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith(f"ebmeta: error: {as_line(error)}\n")


def test_an_argument_is_called_by_its_flag_and_a_wrong_flag_by_itself(files, tmp_path, capsys):
    evaluate = ("evaluate", files / "model", files / "data.csv", "--n-query", 3)
    assert line(capsys, *evaluate, "--num-tasks", 0).startswith("--num-tasks: expected at least 1, got")
    assert as_line(ValueError("rows.csv: num_tasks: text")) == "rows.csv: num_tasks: text"
    assert as_line(ValueError("y: expected counts")) == "y: expected counts"
    wrong = line(capsys, "classify", files / "data.csv", "--ouput", tmp_path / "out.csv")
    assert wrong == "Unknown option: --ouput. Did you mean --output?\n"
    assert line(capsys, "classify", files / "data.csv", "--q", 1) == "Unknown option: --q.\n"
    assert line(capsys, "classify", files / "data.csv").startswith("--output: expected npz, CSV or")


def test_warnings_are_one_line(files, capsys, monkeypatch):
    def warning(*arguments, **options):
        warnings.warn("a\nb", stacklevel=1)
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module("ebmeta.prediction.scores"), "evaluate", warning)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert run("evaluate", files / "model", files / "data.csv", "--n-query", 3) == 130
    assert capsys.readouterr().err == "ebmeta: warning: a b\nebmeta: interrupted\n"


def test_output_that_nobody_takes_is_an_error(files, capsys, monkeypatch):
    command = ("evaluate", files / "model", files / "data.csv", "--n-query", 3, "--num-tasks", 2)
    reader, writer = os.pipe()
    os.close(reader)
    for place, message in (("/dev/full", "No space left"), (writer, "got a closed pipe")):
        with monkeypatch.context() as patch, open(place, "w") as stream:
            patch.setattr(sys, "stdout", stream)
            assert run(*command) == 2
            assert message in capsys.readouterr().err
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", ascii_only)
        assert run(*command) == 0
    assert b"\\xb1" in ascii_only.buffer.getvalue()


def test_what_is_no_command_is_told_where_it_is(capsys):
    said = {
        "suggest": "(suggest: `ebmeta classify --report` says which rows to label next)",
        "mixed_model": 'Did you mean "mixed"?',
        "fit": "(fit: ebmeta.fit; a method of ebmeta.FewShotClassifier; a method of ebmeta.FewShotRegressor)",
        "certify": "(certify: ebmeta.certify)",
        "zebra": "Available commands: ",
    }
    for name, words in said.items():
        told = refused(capsys, name, "rows.csv")
        assert told.startswith(f'ebmeta: error: Unknown command "{name}".')
        assert words in told
