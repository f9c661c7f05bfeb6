"""Every python block of the README, the documentation and the theory runs, in order, file by file.

The build of the documentation runs the blocks of some pages, to show what they print, and fails with them: these are
not run once more here.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebmeta.likelihood import LIKELIHOODS

ROOT = Path(__file__).parents[2]
BUILT = {"_build", "_generated", "pages"}
PAGES = [
    page
    for pattern in ("README.md", "docs/**/*.md", "theory/*.md")
    for page in sorted(ROOT.glob(pattern))
    if not BUILT & set(page.relative_to(ROOT).parts)
]
(_LISTED,) = re.findall(r"^run_blocks_pages = (\[.*\])$", (ROOT / "docs" / "conf.py").read_text(encoding="utf-8"), re.M)
RUN_BY_THE_BUILD = {f"docs/{page}.md" for page in ast.literal_eval(_LISTED)}
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)
#: How else a page could open a block of Python, which would then go unchecked.
OTHER = re.compile(
    r"^[ \t>]*(`{3,}|~{3,}|:{3,})[ \t]*(\{[\w-]+\}[ \t]*)?(py|python\d?|pycon|ipython\d?)\b.*$", re.M | re.I
)


def blocks(text: str) -> list[tuple[int, str]]:
    """Return the python blocks of a page, each with the number of lines before it."""
    return [(text.count("\n", 0, match.start(1)), match[1]) for match in BLOCK.finditer(text)]


@pytest.fixture(autouse=True)
def likelihoods_of_a_page_are_its_own() -> Iterator[None]:
    before = dict(LIKELIHOODS)
    yield
    LIKELIHOODS.clear()
    LIKELIHOODS.update(before)


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_pages_are_found() -> None:
    names = {name(page) for page in PAGES}
    assert {
        "README.md",
        "docs/index.md",
        "docs/tutorial.md",
        "docs/groups.md",
        "theory/model.md",
        "theory/target.md",
    } <= names


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_block_is_skipped(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert [match[0] for match in OTHER.finditer(text)] == ["```python"] * len(blocks(text))


WITH_BLOCKS = [page for page in PAGES if blocks(page.read_text(encoding="utf-8"))]


def test_the_build_runs_the_blocks_of_pages_that_have_some() -> None:
    assert {"docs/tutorial.md", "docs/groups.md"} <= RUN_BY_THE_BUILD <= {name(page) for page in WITH_BLOCKS}


@pytest.mark.parametrize("page", [page for page in WITH_BLOCKS if name(page) not in RUN_BY_THE_BUILD], ids=name)
def test_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for line, code in blocks(page.read_text(encoding="utf-8")):
        exec(compile("\n" * line + code, str(page), "exec"), namespace)


def test_a_failing_block_fails_at_its_own_line(tmp_path: Path) -> None:
    (line, code), *_ = blocks("# Title\n\n```python\nx = 1\nraise KeyError(x)\n```\n")
    with pytest.raises(KeyError) as caught:
        exec(compile("\n" * line + code, "page.md", "exec"), {})
    assert caught.traceback[-1].lineno + 1 == 5


def test_words_of_the_glossary_are_in_order_and_say_where_they_are_defined() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    entries = re.split(r"^- ", text, flags=re.M)[1:]
    words = [re.findall(r"^\*\*(.+?)\*\*: ", entry) for entry in entries]
    assert len(words) > 20
    assert words == sorted(words)
    assert all(re.search(r"\]\([\w/]+\.md\)|\{py:\w+\}`.+`", entry) for entry in entries)
    assert "(glossary.md)" in (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
