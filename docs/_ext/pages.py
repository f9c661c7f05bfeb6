r"""The pages as plain Markdown, for those who read them on a code host.

A code host shows Markdown, but neither the roles nor the directives of the documentation: where a number of a result
should stand, it shows the name of the number. Here every page is written out with its numbers, tables, citations and
links. `docs/render.py` keeps the result in `docs/pages`, and a test compares it with the sources.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from pathlib import Path
from types import SimpleNamespace

from pybtex.database import parse_file
from pybtex.richtext import Text

from results import lookup

__all__ = ["made", "pages", "pictures", "sources"]

DOCS = Path(__file__).parents[1]
RESULTS = DOCS.parent / "benchmarks" / "results"
#: Extensions that make tables and figures before a build, and the results that they read.
MAKERS = {
    "comparison": (
        "few_shot_classification.json",
        "peers_with_profile.json",
        "general_classifier.json",
        "uneven.json",
    ),
    "counts": ("counts.json",),
    "few_classes": ("fine_tuning.json",),
    "groups": ("hierarchical_regression.json", "shrinkage.json"),
    "growth": ("growth.json",),
    "suggestions": ("suggest.json",),
}
LEFT_OUT = {"index.md", "references.md"}  # a list of pages, and one of references, which only a build has
INCLUDE = re.compile(r"^```\{include\} _generated/(\S+)\n```$", re.M)
CONTENTS = re.compile(r"^```\{toctree\}\n(.*?)^```$", re.M | re.S)
DIRECTIVE = re.compile(r"^```\{\w+\}.*?^```$", re.M | re.S)
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
EQUATION = re.compile(r"^\$\$\n(.*?)^\$\$(?: \((eq-[\w-]+)\))?$", re.M | re.S)  # with a label or without
Labels = dict[str, tuple[str, int]]  # page and number of each equation
CODE = re.compile(r"(^```.*?^```$)", re.M | re.S)


def sources() -> dict[str, str]:
    """Return a digest of every result that a figure is made of."""
    names = sorted({name for made in MAKERS.values() for name in made})
    return {name: hashlib.sha256((RESULTS / name).read_bytes()).hexdigest() for name in names}


def made(folder: Path) -> Path:
    """Make all tables and figures below a folder, and return theirs."""
    app = SimpleNamespace(srcdir=str(folder), config=SimpleNamespace(results_folder=str(RESULTS)))
    for name in MAKERS:
        spec = importlib.util.spec_from_file_location(f"_ext_{name}", DOCS / "_ext" / f"{name}.py")
        assert spec is not None  # for the type checker, like the next: the files are there
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)  # by its file: scripts of benchmarks have such names too
        spec.loader.exec_module(module)
        module._generate(app)
    return folder / "_generated"


def pictures(generated: Path) -> dict[str, Path]:
    """Return all figures by their name in `docs/pages/figures`."""
    return {_flat(path.relative_to(generated).as_posix()): path for path in sorted(generated.rglob("*.png"))}


def pages(generated: Path) -> dict[str, str]:
    """Return all pages as plain Markdown, by their path in `docs/pages`.

    Args:
        generated: the folder of `made`.
    """
    found = {path.name: path for path in sorted(DOCS.glob("*.md")) if path.name not in LEFT_OUT}
    found |= {f"theory/{path.name}": path for path in sorted((DOCS.parent / "theory").glob("*.md"))}
    found["theory/index.md"] = DOCS / "theory" / "index.md"
    texts = {name: path.read_text(encoding="utf-8") for name, path in found.items()}
    titles = {
        name: next(line[2:] for line in text.splitlines() if line.startswith("# ")) for name, text in texts.items()
    }
    labels = {label: (name, number) for name, text in texts.items() for label, number in _numbers(text).items()}
    people = _people(DOCS / "references.bib")
    out = {}
    for name, text in texts.items():
        text = INCLUDE.sub(lambda found: (generated / found[1]).read_text(encoding="utf-8").rstrip(), text)
        text = CONTENTS.sub(lambda found, name=name: _contents(found[1], name, titles), text)
        text = DIRECTIVE.sub("*The built documentation has a picture or a list here.*", text)
        parts = CODE.split(text)
        parts[::2] = [_plain(part, name, titles, labels, people) for part in parts[::2]]
        source = found[name].relative_to(DOCS.parent)
        out[name] = f"<!-- Made of {source} by docs/render.py. Edit that page, not this one. -->\n\n{''.join(parts)}"
    return out


def _plain(text: str, name: str, titles: dict[str, str], labels: Labels, people: dict[str, str]) -> str:
    """Return the prose of a page without roles, its links those of `docs/pages`."""
    up = "../" * name.count("/")
    cited = lambda keys: "; ".join(people[key.strip()] for key in keys.split(","))  # noqa: E731
    text = re.sub(r"\{result\}`([^`]+)`", lambda found: lookup(RESULTS, found[1]), text)
    text = re.sub(r"\{cite:p\}`([^`]+)`", lambda found: f"({cited(found[1])})", text)
    text = re.sub(r"\{cite:t\}`([^`]+)`", lambda found: cited(found[1]), text)
    text = re.sub(r"\{py:\w+\}`~?(?:([^`<]+?) )?<?([\w.]+)>?`", lambda found: f"`{found[1] or found[2]}`", text)
    text = re.sub(r"\{eq\}`([^`]+)`", lambda found: _equation(found[1], name, up, titles, labels), text)
    text = EQUATION.sub(lambda found: _numbered(found, labels), text)
    return LINK.sub(lambda found: _link(found, name, titles), text)


def _contents(listed: str, name: str, titles: dict[str, str]) -> str:
    """Return a list of links to the pages of a table of contents."""
    folder = f"{name.rpartition('/')[0]}/" if "/" in name else ""
    return "\n".join(f"- [{titles[f'{folder}{page}.md']}]({page}.md)" for page in listed.split())


def _numbers(text: str) -> dict[str, int]:
    """Return the number of each equation of a page that has a label, as Sphinx counts them."""
    found = [label for _, label in EQUATION.findall(text) if label]
    return {label: number for number, label in enumerate(found, 1)}


def _numbered(found: re.Match[str], labels: Labels) -> str:
    """Return an equation with its number, where it has a label."""
    tex, label = found.groups()
    return f"$$\n{tex}\\tag{{{labels[label][1]}}}\n$$" if label else found[0]


def _equation(label: str, name: str, up: str, titles: dict[str, str], labels: Labels) -> str:
    """Return the number of an equation, and where it is on another page the link to that."""
    page, number = labels[label]
    return f"({number})" if page == name else f"[({number}) of {titles[page]}]({up}{page})"


def _link(found: re.Match[str], name: str, titles: dict[str, str]) -> str:
    """Return a link of a page as one of `docs/pages`; to what only a build has, the words alone."""
    image, words, target = found.groups()
    path, mark, anchor = target.partition("#")
    if not path or ":" in path:
        return found[0]
    folder = "theory/" if name.startswith("theory/") else ""
    flat = _joined(folder, path)
    if flat in titles:
        return f"[{words or titles[flat]}]({path}{mark}{anchor})"
    if flat.startswith("_generated/"):
        return f"{image}[{words}]({'../' * bool(folder)}figures/{_flat(flat)})"
    if not (DOCS / flat).exists() or flat.startswith("api/"):  # a page of directives alone
        return words
    return f"{image}[{words}](../{'../' * bool(folder)}{flat}{mark}{anchor})"


def _flat(path: str) -> str:
    """Return the name of a generated figure in one folder of all."""
    return path.removeprefix("_generated/").replace("/", "_")


def _joined(folder: str, path: str) -> str:
    """Return a path relative to `docs`, the theory pages lying in a folder of it.

    Examples:
        >>> _joined("theory/", "../design.md"), _joined("", "../CHANGELOG.md")
        ('design.md', '../CHANGELOG.md')
    """
    parts: list[str] = []
    for part in f"{folder}{path}".split("/"):
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        else:
            parts.append(part)
    return "/".join(parts)


def _people(bib: Path) -> dict[str, str]:
    """Return authors and years by key of a bibliography."""
    out = {}
    for key, entry in parse_file(str(bib)).entries.items():
        last = [str(Text.from_latex(" ".join(person.last_names))) for person in entry.persons["author"]]
        names = last[0] if len(last) == 1 else " and ".join(last) if len(last) == 2 else f"{last[0]} et al."
        out[key] = f"{names} {entry.fields['year']}"
    return out
