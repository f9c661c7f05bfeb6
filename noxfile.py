"""One session for each check of a change: `nox -s lint`; `nox` alone runs those that every commit has to pass."""

from __future__ import annotations

import itertools
import pathlib

import nox

nox.options.sessions = ["lint", "types", "docs", "test"]
nox.options.reuse_existing_virtualenvs = True

ENVIRONMENT = {
    "PYTHONHASHSEED": "0",
    "MPLBACKEND": "Agg",
    "OMP_NUM_THREADS": "1",
}  # small tensors: one thread is quicker


def install(session: nox.Session, extras: str) -> None:
    """Install the package in place, in the versions that the tests run with."""
    session.install("-c", "constraints.txt", "-e", f".[{extras}]")
    session.env.update(ENVIRONMENT)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, unused code, limits on functions."""
    session.install("-c", "constraints.txt", "ruff")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Types of the package, strictly."""
    install(session, "lint")
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """The pages, every warning an error; they lie in docs/_build/html."""
    install(session, "docs")
    session.run("sphinx-build", "-W", "--keep-going", "-q", "-b", "html", "docs", "docs/_build/html", *session.posargs)


@nox.session
def test(session: nox.Session) -> None:
    """The tests, or those named: `nox -s test -- tests/test_conftest.py -k skips`."""
    install(session, "test,browser,lint,docs")
    session.run("pytest", "-q", *(session.posargs or ["-n", "auto", "--dist", "worksteal"]))


@nox.session
def oldest(session: nox.Session) -> None:
    """The tests in the oldest versions that the project allows, whose own warnings say nothing of it."""
    project = nox.project.load_toml("pyproject.toml")["project"]
    listed = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    bounds = pathlib.Path(session.create_tmp(), "oldest.txt")
    bounds.write_text("\n".join(sorted({each.replace(">=", "==") for each in listed if ">=" in each})))
    session.install("-c", str(bounds), "-e", ".[test]")
    session.env.update(ENVIRONMENT)
    session.run("pytest", "-q", "-o", "filterwarnings=default", *session.posargs)


@nox.session
def hostile(session: nox.Session) -> None:
    """Every wrong input of tests/hostile, of which `test` runs a tenth."""
    install(session, "test")
    session.run("pytest", "-q", "tests/hostile", *session.posargs, env={"HOSTILE_SCALE": "1"})


@nox.session
def mutants(session: nox.Session) -> None:
    """Whether the tests notice wrong lines: all of benchmarks/mutants.toml, or those of the files named."""
    install(session, "test")
    session.run("python", "benchmarks/mutants.py", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """A script of benchmarks/ by its name, with its options: `nox -s bench -- sines`."""
    if not session.posargs:
        session.error("expected the name of a script of benchmarks/, got none")
    install(session, "benchmarks")
    name, *options = session.posargs
    session.run("python", f"benchmarks/{name}.py", *options)
