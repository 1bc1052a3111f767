"""What the page consists of: files that are there, all of them this server's, none with script or style within the page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from umt_pipeline.server.operating import STATIC

FILES = sorted(STATIC.iterdir())


def test_every_file_that_is_named_is_there() -> None:
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    named = set(re.findall(r'(?:href|src)="/static/([^"]+)"', page))
    for file in FILES:
        if file.suffix == ".js":
            named |= set(re.findall(r'from "\./([^"]+)"', file.read_text(encoding="utf-8")))
    assert named | {"index.html"} == {file.name for file in FILES}


def test_every_picture_that_is_drawn_is_used() -> None:
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    scripts = "".join(file.read_text(encoding="utf-8") for file in FILES if file.suffix == ".js")
    drawn = re.findall(r'<symbol id="icon-(\w+)"', page)
    assert [name for name in drawn if f'"#icon-{name}"' not in page and f'"{name}"' not in scripts] == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_nothing_is_from_elsewhere_or_needs_a_laxer_policy(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)|@import|innerHTML|insertAdjacentHTML|eval\(", text)
    assert not re.findall(r"<style|<script(?! type=\"module\" src=)|\sstyle=|\son\w+=\"", text)
