"""A headless Chromium, where one is installed with playwright: what a page looks like to those who read it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

SERVICES = ("gpu", "quic", "background-networking", "component-update", "sync")
QUIET = ["--no-sandbox", "--no-first-run", *(f"--disable-{service}" for service in SERVICES)]  # asks nobody by itself


@dataclass(frozen=True)
class Seen:
    """What a browser saw of a page; `requests` went to the network, `files` to the disk."""

    errors: list[str]
    requests: list[str]
    files: list[str]
    overflow: int
    broken_images: int
    text: str


def look(page: Path, width: int, screenshot: Path | None = None) -> Seen:
    """Open a page in a window of some width; skip the test where there is no browser."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (extra 'browser')")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("needs Chromium, and none is installed")
    errors: list[str] = []
    requests: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=QUIET)
        tab = browser.new_page(viewport={"width": width, "height": 800})
        tab.on("console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None)
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.on("request", lambda request: requests.append(request.url))
        tab.goto(page.resolve().as_uri())
        for details in tab.query_selector_all("details"):
            details.evaluate("d => d.open = true")
        overflow = tab.evaluate(
            "() => Math.max(document.documentElement.scrollWidth, ...[...document.querySelectorAll('body *')]"
            ".map(e => Math.ceil(e.getBoundingClientRect().right))) - window.innerWidth"
        )
        broken = tab.evaluate("() => [...document.images].filter(i => !(i.complete && i.naturalWidth)).length")
        text = tab.inner_text("body")
        if screenshot is not None:
            tab.screenshot(path=str(screenshot), full_page=True)
        browser.close()
    outside = [url for url in requests if not url.startswith(("file://", "data:"))]
    files = [url for url in requests if url.startswith("file://")]
    return Seen(errors, outside, files, int(overflow), int(broken), text)
