"""What all commands of the command line share."""

from __future__ import annotations

from commands import refused

from ebmeta.app.cli import COMMANDS
from ebmeta.app.parser import app


def test_every_command_is_registered():
    assert all(app[name].default_command.__name__ == name for name in COMMANDS)


def test_flags_that_count_and_files_that_are_read_are_checked_for_every_command(capsys, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("x,y\n1,a\n")
    call = ("classify", path, path, "--output")
    assert "--num-steps: expected a whole number" in refused(capsys, *call, tmp_path / "c.csv", "--num-steps", "1.5")
    assert "a.csv" in refused(capsys, *call, path, "--overwrite")
    assert path.read_text() == "x,y\n1,a\n"
