"""The page on the architecture: files that it sends a newcomer to exist, two of them at most."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| ([a-z][^|]+) \| (`[^|]+) \| ([^|]+) \| ([^|]+) \|$", PAGE, re.M)


def test_ten_changes_touch_two_files_at_most_and_all_that_is_named_exists():
    assert len(ROWS) == len({change for change, *_ in ROWS}) == 10
    for change, first, touched, before in ROWS:
        opened, named = (re.findall(r"`([^`]+)`", text) for text in (first, touched))
        assert len(opened) == 1, change
        old = before.count("`") // 2 + before.startswith("a new module")
        assert 1 <= len(named) + touched.startswith("the same") <= min(2, old), change
        assert all((ROOT / name).is_file() for name in opened + named), change


def test_names_in_running_text_exist():
    for stage, name in re.findall(r"`(\w+)\.(\w+\.\w+)`", PAGE):
        module, attribute = name.split(".")
        if (ROOT / "ebmeta" / stage).is_dir():
            assert f"def {attribute}" in (ROOT / "ebmeta" / stage / f"{module}.py").read_text(encoding="utf-8")
    for owner, capability in re.findall(r"`([A-Z]\w+)\.(\w+)`", PAGE):
        texts = [path.read_text(encoding="utf-8") for path in (ROOT / "ebmeta").rglob("*.py")]
        assert any(re.search(rf"^class {owner}\b", text, re.M) and capability in text for text in texts), owner
