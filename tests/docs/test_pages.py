"""Pages written out for a code host: they follow their sources, and nothing in them needs a build."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("pybtex", reason="the documentation's extensions need pybtex")

ROOT = Path(__file__).parents[2]
OUT = ROOT / "docs" / "pages"
RENDER = "expected docs/pages to follow its sources: run python docs/render.py"


@pytest.fixture(scope="module")
def rendering() -> ModuleType:
    sys.path.append(str(ROOT / "docs" / "_ext"))  # last: `counts` is a script of benchmarks too
    return importlib.import_module("pages")


@pytest.fixture(scope="module")
def wanted(rendering: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    found: dict[str, str] = rendering.pages(rendering.made(tmp_path_factory.mktemp("docs")))
    return found


def test_pages_follow_their_sources(wanted: dict[str, str]) -> None:
    there = {path.relative_to(OUT).as_posix(): path.read_text(encoding="utf-8") for path in OUT.rglob("*.md")}
    stale = sorted(name for name in there.keys() | wanted.keys() if there.get(name) != wanted.get(name))
    assert not stale, RENDER


def test_figures_follow_their_results(rendering: ModuleType) -> None:
    assert json.loads((OUT / "figures" / "sources.json").read_text(encoding="utf-8")) == rendering.sources(), RENDER


def test_every_result_that_an_extension_reads_is_a_source(rendering: ModuleType) -> None:
    for name, files in rendering.MAKERS.items():
        text = (ROOT / "docs" / "_ext" / f"{name}.py").read_text(encoding="utf-8")
        assert set(re.findall(r"\w+\.json", text)) == set(files), name


def test_nothing_needs_a_build(wanted: dict[str, str]) -> None:
    for name, text in wanted.items():
        prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
        assert not re.search(r"\{[a-z:]+\}`|_generated/", prose), name
        assert "```{" not in text, name


def test_links_lead_to_files(wanted: dict[str, str]) -> None:
    for name, text in wanted.items():
        for target in re.findall(
            r"\]\(([^)#\s]+)", re.sub(r"^```.*?^```$|`[^`]*`|\$[^$]*\$", "", text, flags=re.M | re.S)
        ):
            assert ":" in target or (OUT / name).parent.joinpath(target).exists(), f"{name}: {target}"


def test_numbers_are_those_of_results(wanted: dict[str, str]) -> None:
    result = json.loads((ROOT / "benchmarks" / "results" / "few_shot_classification.json").read_text(encoding="utf-8"))
    value = result["default"]["5way_1shot_balanced"]["test"]["accuracy"][-1][0]
    assert f"| ebmeta, one default model | {100 * value:.1f} ±" in wanted["classification.md"]


def test_equations_have_the_numbers_that_the_text_gives_them(wanted: dict[str, str]) -> None:
    page = wanted["theory/synthetic_gradient.md"]
    assert "The label is in (3) and not in (4)." in page
    assert "By [(4) of The model and its objective](../theory/model.md) the loss has gradient" in page
    tags = dict(re.findall(r"^\$\$\n([^$]*?)\n\\tag\{(\d+)\}\n\$\$$", page, re.M))
    assert list(tags.values()) == [str(number) for number in range(1, len(tags) + 1)]
    by_number = {number: tex for tex, number in tags.items()}
    assert by_number["3"].startswith(r"\nabla_m F =")
    assert by_number["4"].startswith(r"2 \nabla_\Sigma F =")
    fourth = wanted["theory/model.md"].split(r"\tag{4}")[0].rsplit("$$", 1)[1]
    assert fourth.strip().startswith(r"-\log p(y \mid \eta) =")
