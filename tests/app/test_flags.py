"""What a command is asked is known before anything heavy is loaded."""

import subprocess
import sys
from dataclasses import fields

import pytest

from ebmeta.app.flags import Tasks

CODE = """
import sys
from ebmeta.app.cli import main
assert main({tokens!r}) == 0
print(*sorted({{"torch", "pandas", "sklearn", "pyro"}} & sys.modules.keys()), file=sys.stderr)
"""


@pytest.mark.parametrize(("tokens", "wanted"), [(["--help"], "classify"), (["train", "--help"], "--n-way")])
def test_help_loads_no_library_of_numbers(tokens, wanted):
    run = subprocess.run([sys.executable, "-c", CODE.format(tokens=tokens)], capture_output=True, text=True, check=True)
    assert run.stderr == "\n"  # none of them
    assert wanted in run.stdout


def test_all_flags_of_tasks_are_explained_and_only_the_label_has_a_value():
    assert {f.name for f in fields(Tasks) if f.default is not None} == {"label"}
    assert all(f"    {f.name}: " in str(Tasks.__doc__) for f in fields(Tasks))
