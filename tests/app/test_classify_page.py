"""The page of a classification: its numbers, its rows, and that it is fine on any screen without a network."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from browser import look
from commands import refused, run

from ebmeta import FewShotClassifier
from ebmeta.app.classify_files import Classified
from ebmeta.app.classify_page import GREY, ClassPage, plane

IDS = np.array([f"row {n}" for n in range(8)])
PROBS = np.array([[1, 0, 0], [0.9, 0.1, 0], [0.6, 0.3, 0.1], [0.8, 0, 0.2], [0.5, 0.1, 0.4]], dtype=float)
PROBS = np.concatenate([PROBS, [[0.1, 0.9, 0.0], [0.3, 0.4, 0.3], [0.2, 0.1, 0.7]]])


def found(outliers: bool = False, rows: int = 8, **result) -> Classified:
    """Return a classification with probabilities of our own choice."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(rows + 4, 5)), ["<ash>", "elm", "fir", "fir"]
    clf = FewShotClassifier(outliers=outliers).fit(X[:4], y)
    outlier = np.array([0, 0, 0, 0, 0, 0, 0.75, 0.4]) if outliers else np.zeros(8)
    return Classified(clf, X[4:], IDS, PROBS, outlier, {"columns": {"ids": ["name"]}, **result})


def test_each_class_has_its_numbers_and_rows():
    ash, elm, fir = ClassPage(found()).classes
    assert [c["labelled"] for c in (ash, elm, fir)] == [1, 1, 2]
    assert [c["expected"] for c in (ash, elm, fir)] == [f"{v:.0f}" for v in PROBS.sum(0)]
    assert [row["id"] for row in ash["surest"]] == ["row 0", "row 1", "row 3"]
    assert [row["share"] for row in ash["surest"]] == [">99%", "90%", "80%"]
    assert [(row["id"], row["other"]) for row in ash["doubtful"]] == [("row 4", "fir 40%"), ("row 2", "elm 30%")]
    assert [row["id"] for row in elm["surest"]] == ["row 5", "row 6"]
    assert (elm["doubtful"], fir["doubtful"]) == ([], [])


def test_rows_of_no_class_are_told_apart():
    page = ClassPage(found(outliers=True))
    assert page.outliers == {"expected": "1", "surest": [{"id": "row 6", "share": "75%"}]}
    _, elm, fir = page.classes
    assert [row["id"] for row in elm["surest"]] == ["row 5"]
    assert fir["surest"] == [{"id": "row 7", "share": "42%", "other": "none of them 40%"}]
    right = np.average(PROBS.max(1), weights=1 - page.found.outlier)
    assert page.headline == f"8 rows in 3 classes; {right:.0%} of those of the classes probably right"
    assert ClassPage(found()).headline == f"8 rows in 3 classes; {PROBS.max(1).mean():.0%} of them probably right"
    assert ClassPage(found()).outliers is None


def test_the_picture_shows_every_row_by_its_class():
    page = ClassPage(found(outliers=True))
    rows, labelled = page.figure().axes[0].collections
    assert (len(rows.get_offsets()), len(labelled.get_offsets())) == (8, 4)
    colors = [np.round(c[:3] * 255).astype(int).tolist() for c in rows.get_facecolors()]
    wanted = [*page.colors, GREY]
    assert colors == [[int(wanted[c][k : k + 2], 16) for k in (1, 3, 5)] for c in (0, 0, 0, 0, 0, 1, 3, 2)]
    size = rows.get_sizes()
    assert (np.diff(size[[6, 4, 3, 0]]) > 0).all()  # the surer the larger
    assert {t.get_text() for t in page.figure().axes[0].texts} == {"<ash>", "elm", "fir"}


def test_the_plane_is_that_of_the_principal_components():
    rows = np.random.default_rng(0).normal(size=(30, 4)) * [1, 9, 3, 0.1]
    u, s, _ = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    np.testing.assert_allclose(np.abs(plane(rows)), np.abs(u[:, :2] * s[:2]), atol=1e-9)
    np.testing.assert_array_equal(plane(np.ones((1, 3))), [[0, 0]])


def test_names_that_the_font_lacks_or_that_look_like_formulas_do_no_harm():
    one = found()
    one.clf.classes_ = np.array(["$x^$", "elm", "größe"])
    page = ClassPage(one)
    page.picture  # noqa: B018  # a formula would fail here
    assert {t.get_text() for t in page.figure().axes[0].texts} == {"$x^$", "elm", "größe"}
    one.clf.classes_ = np.array(["ash", "elm", "梣"])
    page = ClassPage(one)
    page.picture  # noqa: B018  # a missing character would warn here
    assert len(page.figure().axes[0].texts) == 0
    assert page.caption.endswith("Colours are those of the table.")
    assert "梣" in page.to_html()


def test_rows_to_label_next_are_those_of_the_classifier():
    one = found(outliers=True)
    names = [str(IDS[row]) for row in one.clf.suggest(one.rows, 5)]
    assert ClassPage(one).suggested == names
    assert ClassPage(one).sentences[-1] == f"Labels of these rows would tell most of the others: {', '.join(names)}."
    labelled = Classified(one.clf, one.clf.support_X_.numpy(), IDS[:4], PROBS[:4], np.zeros(4), one.result)
    assert ClassPage(labelled).suggested == []  # all of them have a label


def test_names_are_escaped_and_what_was_used_is_said():
    page = ClassPage(found(sets={"level": 0.9, "mean_size": 1.25})).to_html()
    assert "<ash>" not in page
    assert "&lt;ash&gt;" in page
    assert "4 labelled rows of 3 classes" in page
    assert "Sets hold the true class in 90% of rows" in page
    assert "Rows are named by column &#39;name&#39;" in page
    assert set(re.findall(r'(?:src|href)="([a-z]+:)', page)) == {"data:"}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The page of thirteen classes with long names, written by the command."""
    folder = tmp_path_factory.mktemp("page")
    rng = np.random.default_rng(0)
    y = np.arange(130) % 13
    X = 2 * rng.normal(size=(13, 8))[y] + rng.normal(size=(130, 8))
    labels = [f"a_class_of_a_long_name_{c}" if n < 26 else None for n, c in enumerate(y)]
    pd.DataFrame(X, columns=list("abcdefgh")).assign(y=labels).to_csv(folder / "rows.csv", index=False)
    call = ("classify", folder / "rows.csv", "--output", folder / "out.csv", "--report", folder / "page.html")
    assert run(*call) == 0
    assert run(*call) == 0  # it replaces its own page
    return folder


@pytest.mark.parametrize("width", [400, 1280])
def test_the_page_in_a_browser(written, width):
    seen = look(written / "page.html", width)
    assert (seen.errors, seen.requests, seen.broken_images) == ([], [], 0)
    assert seen.overflow <= 0
    assert "104 rows in 13 classes" in seen.text
    assert "a_class_of_a_long_name_12" in seen.text


def test_a_page_of_another_name_or_origin_is_refused(written, capsys):
    call = ("classify", written / "rows.csv", "--output", written / "out.csv", "--report")
    assert "page.txt: expected a file of type .html, got .txt" in refused(capsys, *call, written / "page.txt")
    (written / "mine.html").write_text("mine")
    assert "expected a new file or a page written by ebmeta" in refused(capsys, *call, written / "mine.html")
