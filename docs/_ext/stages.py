"""The house as it stands: stages, modules and imports, read from the package before each build.

`stage` lists the modules of one stage with all that they say of themselves; `sentences` lists every module with the
first sentence of its docstring; `flow` draws which stage imports which.
"""

from __future__ import annotations

import ast
import tomllib
from collections import Counter
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

__all__ = ["Package", "flow", "listing", "sentences", "setup"]

ROOT = Path(__file__).resolve().parents[2]
ROW, LEFT, WIDTH = 34, 190, 640  # of the picture, in pixels


class Package:
    """Modules of a package by stage, in the order in which they import each other.

    Args:
        folder: the package.
        stages: its stages, in the order of the flow.
    """

    def __init__(self, folder: Path, stages: list[str]) -> None:
        self.folder, self.stages = folder, stages
        found = sorted(path for path in folder.glob("*/**/*.py") if path.stem != "__init__")
        self.files = {".".join(path.relative_to(folder).with_suffix("").parts): path for path in found}
        self.imports = {name: self._imports(name) for name in self.files}

    @classmethod
    @cache  # a build asks for it on many pages
    def read(cls, root: Path = ROOT) -> Package:
        """Return the package of a repository, with the stages that its `pyproject.toml` names."""
        settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
        return cls(root / "ebmeta", settings["tool"]["ebmeta"]["stages"])

    def _imports(self, name: str) -> set[str]:
        """Return what a module imports of the package at any depth, types included: modules, stages, the package."""
        own, found = self.folder.name, set()
        for node in ast.walk(ast.parse(self.files[name].read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                if node.level:
                    raise ValueError(f"{name}: expected absolute imports, got a relative one")
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                inner = {each for each in inner if each.removeprefix(f"{own}.") in {*self.files, *self.stages}}
                found |= inner | ({node.module or ""} if len(inner) < len(node.names) else set())
        return {f.removeprefix(f"{own}.") for f in found if f.split(".")[0] == own}

    def faults(self) -> list[str]:
        """Return every import against the order of the stages, and a circle where there is one."""
        out = []
        for name, targets in self.imports.items():
            stage = name.split(".")[0]
            for target in sorted(targets):
                theirs = target.split(".")[0]
                if theirs not in self.stages or self.stages.index(theirs) > self.stages.index(stage):
                    out.append(f"{name} imports {target}")
                elif target == stage:
                    out.append(f"{name} imports its own stage as a whole")
        try:
            TopologicalSorter(self.imports).prepare()
        except ValueError as error:
            out.append(" > ".join(error.args[1]))
        return out

    def modules(self, stage: str) -> list[str]:
        """Return the modules of a stage, each after those that it imports."""
        own = {name: targets for name, targets in self.imports.items() if name.split(".")[0] == stage}
        order = TopologicalSorter({name: sorted(targets & set(own)) for name, targets in own.items()})
        return list(order.static_order())

    def sentence(self, name: str) -> str:
        """Return the first paragraph of a module's docstring, or of a stage's."""
        path = self.files.get(name, self.folder / name / "__init__.py")
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        return " ".join(text.split("\n\n")[0].split())

    def between(self) -> Counter[tuple[str, str]]:
        """Return how many modules of a stage import one of another, by (importing, imported)."""
        pairs = ((name.split(".")[0], t) for name, ts in self.imports.items() for t in {t.split(".")[0] for t in ts})
        return Counter((ours, theirs) for ours, theirs in pairs if ours != theirs)


def sentences(package: Package) -> str:
    """Return every stage and every module with one sentence each, in Markdown."""
    blocks = []
    for stage in package.stages:
        lines = [f"**`{stage}/`** {package.sentence(stage)}", ""]
        lines += [f"- `{name.split('.', 1)[1]}`: {package.sentence(name)}" for name in package.modules(stage)]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def listing(package: Package, stage: str) -> str:
    """Return the reference of a stage, in Markdown."""
    if stage not in package.stages:
        raise ValueError(f"stage: expected one of {package.stages}, got {stage!r}")
    names = [f"{package.folder.name}.{name}" for name in package.modules(stage)]
    blocks = [f"```{{eval-rst}}\n.. automodule:: {package.folder.name}.{stage}\n   :no-members:\n```"]
    blocks += [f"## `{name}`\n\n```{{eval-rst}}\n.. automodule:: {name}\n```" for name in names]
    return "\n\n".join(blocks) + "\n"


def flow(package: Package) -> str:
    """Return a picture of the stages as SVG: an arc from each stage to those above it that it imports."""
    height = ROW * len(package.stages) + 10
    middle = {stage: ROW * k + ROW // 2 + 5 for k, stage in enumerate(package.stages)}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" style="max-width:{WIDTH}px"'
        ' aria-label="Stages in order; an arc leads from each stage to those above it that it imports">'
    ]
    for (ours, theirs), count in sorted(package.between().items()):
        top, bottom = middle[theirs], middle[ours]
        reach = min((bottom - top) * 0.9, WIDTH - LEFT - 20)
        title = f"{count} module{'s' * (count > 1)} of {ours} import {theirs}"
        parts.append(
            f'<path d="M{LEFT} {bottom} C{LEFT + reach:.0f} {bottom} {LEFT + reach:.0f} {top} {LEFT} {top}" '
            f'fill="none" stroke="currentColor" stroke-opacity=".35" stroke-width="{min(0.6 + 0.4 * count, 5):.1f}">'
            f"<title>{title}</title></path>"
        )
    for stage, y in middle.items():
        number = len(package.modules(stage))
        parts.append(
            f'<text x="{LEFT - 10}" y="{y + 5}" text-anchor="end" fill="currentColor" font-size="15">{stage} '
            f'<tspan font-size="11" fill-opacity=".7">{number}</tspan></text>'
            f'<circle cx="{LEFT}" cy="{y}" r="4" fill="currentColor"/>'
        )
    return "\n".join([*parts, "</svg>"])


def setup(app: Any) -> dict[str, bool]:
    """Register the directives."""
    from docutils import nodes
    from sphinx.errors import ExtensionError
    from sphinx.util.docutils import SphinxDirective

    class _Made(SphinxDirective):
        def package(self) -> Package:
            found = Package.read()
            for path in found.files.values():
                self.env.note_dependency(str(path))
            return found

        def parsed(self, text: str) -> list[nodes.Node]:
            return list(self.parse_text_to_nodes(text, allow_section_headings=True))

    class Stage(_Made):
        required_arguments = 1

        def run(self) -> list[nodes.Node]:
            try:
                return self.parsed(listing(self.package(), self.arguments[0]))
            except ValueError as error:
                raise ExtensionError(f"{self.env.docname}: {error}") from None

    class Sentences(_Made):
        def run(self) -> list[nodes.Node]:
            return self.parsed(sentences(self.package()))

    class Flow(_Made):
        def run(self) -> list[nodes.Node]:
            return [nodes.raw("", flow(self.package()), format="html")]

    for name, directive in (("stage", Stage), ("sentences", Sentences), ("flow", Flow)):
        app.add_directive(name, directive)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
