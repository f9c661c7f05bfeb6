"""Pages share a head, are whole by themselves, and escape what they show."""

from dataclasses import dataclass
from pathlib import Path

import pytest

import ebmeta.app
from ebmeta.foundation.pages import render
from ebmeta.foundation.writing import kind_of

TEMPLATE = Path(ebmeta.app.__file__).with_name("mixed.html")


@dataclass
class Page:
    headline: str = "<script>alert(1)</script>"
    sentences = ("5 < 6",)
    facts = (("rows", "5"),)
    tables = ({"title": "A & B", "columns": ["estimate"], "rows": [{"name": "x", "cells": ["1.5"]}]},)
    pictures = ({"address": "data:image/png;base64,", "caption": "c"},)
    files = "none"


def test_texts_are_escaped_and_the_head_is_that_of_ebmeta(tmp_path):
    text = render(TEMPLATE, Page())
    assert text.startswith("<!DOCTYPE html>")
    assert "<title>&lt;script&gt;alert(1)&lt;/script&gt;</title>" in text
    assert all(part in text for part in ("5 &lt; 6", "A &amp; B", '<td class="number">1.5</td>', ".grid {", "h1 {"))
    assert "http" not in text
    (tmp_path / "page.html").write_text(text)
    assert kind_of(tmp_path / "page.html") == "page"


def test_a_page_that_lacks_a_part_is_an_error():
    with pytest.raises(Exception, match="headline"):
        render(TEMPLATE, object())
