"""The page of a mixed model: its numbers, its figures, and that it fits any screen without a network."""

import numpy as np
import pandas as pd
import pytest
from browser import look

import ebmeta
from ebmeta.app.mixed_page import FIGURES, MixedPage, draw_figures, save_figures
from ebmeta.foundation.writing import kind_of
from tests.mixed.worlds import frame


@pytest.fixture(scope="module")
def rows():
    return frame(num_groups=20).reset_index(drop=True)


@pytest.fixture(scope="module")
def page(rows):
    fit = ebmeta.mixed_model("y ~ x + (1 + x | g)", rows)
    return MixedPage(fit, draw_figures(fit, rows), "Beside this page: nothing.")


def test_the_page_says_what_the_summary_says(page):
    assert page.headline == f"y ~ x + (1 + x | g): {len(page.fit.engine.rows)} rows, groups 20 of g"
    assert page.sentences == (page.fit.notes() or page.sentences)
    fixed, spreads = page.tables
    assert fixed["columns"] == ["estimate", "std_error", "z", "df", "lower", "upper"]
    summary = page.fit.summary()
    for table in (fixed, spreads):
        assert table["title"] in summary
        for row in table["rows"]:
            assert row["name"] in summary
            assert all(cell in summary for cell in row["cells"])
    assert [value in summary for _, value in page.facts] == [True] * len(page.facts)


def test_figures_are_of_the_last_random_term_and_the_first_number(page):
    assert list(page.figures) == list(FIGURES)
    assert page.figures["effects"][1].endswith("draws it: x.")
    assert page.figures["lines"][0].get_xlabel() == "x"
    assert [p["address"][:26] for p in page.pictures] == ["data:image/svg+xml;base64,"] * 4


def test_without_a_number_or_with_several_factors_or_many_groups_there_are_fewer_figures(rows):
    crossed = ebmeta.mixed_model("y ~ 1 + (1 | g) + (1 | h)", rows.assign(h=np.arange(len(rows)) % 3))
    figures = draw_figures(crossed, rows)
    assert list(figures) == ["effects", "fitted", "residuals"]
    assert figures["effects"][1] == "Effects of g on Intercept, with 95% intervals."
    assert "lines" not in draw_figures(ebmeta.mixed_model("y ~ x + (1 | g)", rows), rows.assign(y="text"))
    rng = np.random.default_rng(0)
    many = pd.DataFrame({"y": rng.normal(size=800), "g": np.arange(800) % 400})
    fit = ebmeta.mixed_model("y ~ 1 + (1 | g)", many)
    assert list(draw_figures(fit, many)) == ["fitted", "residuals"]


def test_files_are_of_ebmeta(page, tmp_path):
    page.write(tmp_path / "page.html", False)
    save_figures(page.figures, tmp_path, False)
    assert {path.name: kind_of(path) for path in tmp_path.iterdir()} == {
        "page.html": "page",
        **{f"{name}.png": "picture" for name in FIGURES},
    }


@pytest.mark.parametrize("width", [400, 1280])
def test_the_page_in_a_browser(page, tmp_path, width):
    page.write(tmp_path / "page.html", False)
    seen = look(tmp_path / "page.html", width)
    assert (seen.errors, seen.requests, seen.broken_images) == ([], [], 0)
    assert seen.overflow <= 0
    assert "sd(Intercept)" in seen.text
