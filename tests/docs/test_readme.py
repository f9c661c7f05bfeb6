"""The README says what the demo measured, and its links lead somewhere."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
RESULT = json.loads((ROOT / "docs" / "_static" / "demo" / "result.json").read_text(encoding="utf-8"))


def row(name: str, numbers: dict[str, list[float]], step: int) -> str:
    cells = []
    for metric, scale, digits in (("accuracy", 100, 1), ("nll", 1, 3), ("brier", 1, 3), ("ece", 1, 3)):
        value, half = (scale * numbers[key][step] for key in (metric, f"{metric}_half_width"))
        others = f" ({100 * numbers['accuracy_half_width_classes'][step]:.1f})" if metric == "accuracy" else ""
        cells.append(f"{value:.{digits}f} ± {half:.{digits}f}{others}")
    return f"| {name} | {' | '.join(cells)} |"


def test_table_is_the_measured_one():
    steps = range(len(RESULT["refined"]["accuracy"]))
    expected = [row("the general classifier, no training", RESULT["general"], -1)]
    expected += [row("trained without refinement", RESULT["baseline"], 0)]
    expected += [row(f"K = {k}", RESULT["refined"], k) for k in steps]
    assert re.findall(r"^\|.*±.*\|$", TEXT, re.M) == expected
    assert f"> {RESULT['summary']}\n" in TEXT
    assert f"\n{RESULT['num_tasks']} test tasks" in TEXT


def test_demo_gains_what_it_promises():
    accuracy, nll = RESULT["refined"]["accuracy"], RESULT["refined"]["nll"]
    assert accuracy[-1] - max(accuracy[0], RESULT["baseline"]["accuracy"][0]) > 0.05
    assert nll[-1] < min(nll[0], RESULT["baseline"]["nll"][0])
    assert RESULT["seconds"] < 90


def test_links_within_the_repository():
    links = [link for link in re.findall(r"\]\(([^)#]+)", TEXT) if "://" not in link]
    assert len(links) >= 8
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_pictures_are_there_and_small():
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", TEXT)
    assert pictures[0] == "docs/_static/demo/pile.png"
    assert all((ROOT / picture).stat().st_size < 100_000 for picture in pictures)


def test_the_picture_is_of_the_example():
    digits = re.search(r"for digit in \(([\d, ]+)\)\]", TEXT)
    pile = RESULT["pile"]
    assert [int(digit) for digit in digits[1].split(",")] == pile["digits"]
    right, said = f"{pile['accuracy']:.0%}", f"{pile['probably_right']:.0%}"
    wanted = (
        f"In the picture, which is of these rows, {right} of the pile are right, where the probabilities say {said}."
    )
    assert wanted in TEXT.replace("\n", " ")


def test_chapters_are_in_the_order_of_their_readers():
    chapters = re.findall(r"^## (.+)$", TEXT, re.M)
    wanted = ["Five labels and a pile", "The two commands", "Training on classes of your own", "Groups"]
    assert [chapter for chapter in chapters if chapter in wanted] == wanted
    assert chapters[:2] == wanted[:2]
