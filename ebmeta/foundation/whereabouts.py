"""Where a name is that was looked for in another place: on a class, in a package, or on the command line.

The names are read from the sources, and only where an error is shown, so that a look-up loads nothing.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

__all__ = ["ElsewhereError", "whereabouts"]

ROOT = Path(__file__).parents[1]
MOST = 3  # places in a line
ARGUMENT = "an argument"
NEAR = 0.8  # of names that differ by a slip
#: What other packages, and commands of this one, call what has another name here.
OTHERS = {
    "lmer glmer mixedlm MixedLM BayesMixedGLM rma metafor mixed_models": "mixed_model",
    "classify Classifier FewShot": "FewShotClassifier",
    "Regressor": "FewShotRegressor",
    "train": "fit",
}
#: Marks of methods that are asked for without brackets.
PROPERTIES = ("property", "once", "lazy", "cached_property", "functools.cached_property")


class ElsewhereError(AttributeError):
    """An attribute that is not there, with the places where it is; they are looked up where it is shown."""

    def __init__(self, said: str, wanted: str) -> None:
        super().__init__(said, wanted)
        self.said, self.wanted = said, wanted

    def __str__(self) -> str:
        here = whereabouts(self.wanted)
        return f"{self.said} ({here})" if here else self.said


@functools.cache
def whereabouts(name: str) -> str:
    """Return in words where a public name is; nothing where it is nowhere.

    Examples:
        >>> whereabouts("suggest")
        'a method of ebmeta.FewShotClassifier'
        >>> whereabouts("classify")
        'the command `ebmeta classify`; it is ebmeta.FewShotClassifier here'
    """
    if name.startswith("_"):
        return ""
    known, here = _places(), next((here for names, here in OTHERS.items() if name in names.split()), None)
    found = known.get(name, [])[:MOST] + ([] if here is None else [f"it is ebmeta.{here} here"])
    if found:
        return "; ".join(found)
    public = {called.casefold(): called for called, places in known.items() if _near_by(places[0])}
    near = [public[called] for called in get_close_matches(name.casefold(), public, 1, NEAR)]
    return "".join(f"did you mean {called!r}: {known[called][0]}?" for called in near)


def _near_by(place: str) -> bool:
    """Return whether a place is one where users look first: no argument, and no method of a part."""
    return " of " not in place or (place.count(".") == 1 and not place.startswith(ARGUMENT))


@functools.cache
def _places() -> dict[str, list[str]]:
    """Return the places of every public name, those that are nearest to users first."""
    out: dict[str, list[str]] = {}
    for name, place in [*_commands(), *_exports()]:
        if place not in out.setdefault(name, []):
            out[name].append(place)
    return out


def _parsed(path: Path) -> ast.Module:
    """Return what a source says; nothing where the package has come without its sources."""
    return ast.parse(path.read_text(encoding="utf-8") if path.is_file() else "")


def _commands() -> Iterator[tuple[str, str]]:
    for path in sorted((ROOT / "app").glob("*.py")):
        for node in _defined(_parsed(path)):
            if "app.command" in map(ast.unparse, node.decorator_list):
                yield node.name, f"the command `ebmeta {node.name}`"


def _exports() -> Iterator[tuple[str, str]]:
    """Yield names of the package and of its packages, then methods and arguments of their classes, with places."""
    stub = _parsed(ROOT / "__init__.pyi")
    packages = [alias.name for node in _imports(stub) if node.module is None for alias in node.names]
    methods: list[tuple[str, str]] = []
    arguments: list[tuple[str, str]] = []
    seen: set[tuple[str, str]] = set()
    for package in ["", *packages]:
        where = f"ebmeta.{package}" if package else "ebmeta"
        for node in _imports(_parsed(ROOT / package / "__init__.py") if package else stub):
            source = "" if node.module is None else node.module.removeprefix("ebmeta.")
            own = {n.name: n for n in _defined(_parsed(ROOT.joinpath(*source.split(".")).with_suffix(".py")))}
            for alias in node.names if source else ():
                if (source, alias.name) not in seen:  # what is of the package is shown there alone
                    yield alias.name, f"{where}.{alias.name}"
                    methods += _methods(own.get(alias.name), f"{where}.{alias.name}")
                    arguments += [] if package else _arguments(own.get(alias.name), f"ebmeta.{alias.name}")
                seen.add((source, alias.name))
    yield from [*methods, *arguments]


def _imports(tree: ast.Module) -> list[ast.ImportFrom]:
    return [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module != "__future__"]


def _defined(tree: ast.Module) -> list[ast.ClassDef | ast.FunctionDef]:
    return [node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]


def _methods(own: ast.AST | None, where: str) -> Iterator[tuple[str, str]]:
    """Yield the public methods and properties of a class, with their places."""
    for node in own.body if isinstance(own, ast.ClassDef) else ():
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            kind = "an attribute" if {ast.unparse(mark) for mark in node.decorator_list} & {*PROPERTIES} else "a method"
            yield node.name, f"{kind} of {where}"


def _arguments(own: ast.AST | None, where: str) -> Iterator[tuple[str, str]]:
    """Yield the arguments of a class and of its methods, with their places."""
    for node in own.body if isinstance(own, ast.ClassDef) else ():
        if isinstance(node, ast.FunctionDef) and (node.name == "__init__" or not node.name.startswith("_")):
            of = where if node.name == "__init__" else f"{where}.{node.name}"
            yield from ((name.arg, f"{ARGUMENT} of {of}") for name in (*node.args.args[1:], *node.args.kwonlyargs))
