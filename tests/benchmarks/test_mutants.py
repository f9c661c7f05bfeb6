"""The table of mutants fits the package as it is; benchmarks/mutants.py runs it."""

from __future__ import annotations

from pathlib import Path

import pytest

import mutants

ROOT = Path(__file__).parents[2]
TABLE = mutants.read()
AREAS = {
    "model": "inference programs heads prior gaussian initializer base mixture objective",
    "evidence": "evidence ensemble members",
    "conformal": "conformal",
    "diagnostics": "calibration",
    "mixed": "normal crossed quadrature averages covariance boundary predictive nesting leave_out profile",
}


@pytest.mark.parametrize("file", sorted({m.file for m in TABLE}))
def test_each_old_text_stands_once_and_compiles_when_replaced(file):
    text = (ROOT / file).read_text(encoding="utf-8")
    for mutant in TABLE:
        if mutant.file == file:
            compile(mutant.apply(text), file, "exec")
            assert all((ROOT / test.partition("::")[0]).is_file() for test in mutant.tests)


def test_the_table_is_large_and_covers_every_area():
    assert len({m[:3] for m in TABLE}) == len(TABLE) >= 40
    named = {Path(m.file).stem for m in TABLE}
    assert all(set(names.split()) <= named for names in AREAS.values())


def test_a_text_that_does_not_stand_once_is_refused():
    mutant = mutants.Mutant("a.py", "x + 1", "x", ())
    assert mutant.apply("y = x + 1\n") == "y = x\n"
    for text in ("y = x\n", "x + 1\nx + 1\n"):
        with pytest.raises(ValueError, match="a.py: expected once, got [02] times: 'x \\+ 1'"):
            mutant.apply(text)


def test_a_file_without_mutants_is_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["mutants.py", "no_such_file.py"])
    monkeypatch.setattr(mutants, "copy", lambda folder: pytest.fail("nothing is to be run"))
    with pytest.raises(SystemExit):
        mutants.main()
    assert "files: expected ends of names in mutants.toml, got no_such_file.py" in capsys.readouterr().err
