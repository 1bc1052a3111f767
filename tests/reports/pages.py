"""Reads rendered pages, and makes what pages are made of."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pandas as pd

from umt_pipeline.evaluation.records import Protocol, Record
from umt_pipeline.reports.page import Example, Page
from umt_pipeline.reports.render import render

EVIL = '<script>alert("x")</script> & "quoted" \'single\''
FRAMES = np.full((2, 16, 16, 3), 90, np.uint8)
VOID = ("meta", "img", "br", "link", "path", "use", "line", "rect", "hr", "input")


class Html(HTMLParser):
    """Tags with attributes, text, and whether tags close in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.crossed: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID and (not self.open or self.open.pop() != tag):
            self.crossed.append(tag)

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


def checked(page: Page, parameters: dict[str, Any] | None = None) -> str:
    """Return the page as HTML that is whole, needs nothing else, runs nothing, can be read aloud, and is the same again."""
    html = render(page, {"run": {"git.commit": "01" * 20}, "name": EVIL}, parameters or {"note": EVIL, "seed": 0})
    read = Html(html)
    assert html.lstrip().startswith("<!doctype html>")
    assert (read.crossed, read.open) == ([], [])
    assert len(html.encode()) < 3_000_000
    assert "<script" not in html
    assert EVIL in "".join(read.text)
    for tag, attributes in read.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "form")
        for name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
            assert attributes.get(name, "#").startswith(("#", "data:image/")), (tag, name)
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        assert attributes.get("role") not in ("img", "region") or attributes.get("aria-label"), (tag, attributes)
    assert re.search(r"https?:|//[a-z]|@import", re.sub(r"base64,[A-Za-z0-9+/=]+", "", html)) is None
    assert all(address.startswith(('"data:image/', "#")) for address in re.findall(r"url\(([^)]{0,40})", html))
    ids = [a["id"] for _, a in read.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]+)\)", html)) | {a["href"][1:] for a in read.all("use")} <= set(ids)
    assert [f"#{a['id']}" for a in read.all("section")] == [a["href"] for a in read.all("a")]
    assert all(a.get("alt") for a in read.all("img"))
    assert all(a.get("scope") in ("row", "col", "colgroup") for a in read.all("th"))
    assert not re.search(r"#01020\d", html), "the colours of a figure are the page's"
    films = {a["class"].split()[1] for _, a in read.tags if a.get("class", "").startswith("strip ")}
    assert all(f".{film}{{aspect-ratio:" in html for film in films - {"none"})
    return html


def text_of(html: str) -> str:
    return " ".join("".join(Html(html).text).split()).replace("\N{NO-BREAK SPACE}", " ")


def rows_below(html: str, caption: str) -> list[list[str]]:
    """Return the cells of the body of a table."""
    table = html[html.index(f"<caption>{caption}</caption>") :]
    body = table[table.index("<tbody>") : table.index("</tbody>")]
    return [re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", row) for row in body.split("</tr>")[:-1]]


def examples(page: Page, title: str = "") -> list[Example]:
    """Return the examples of the page, or of one of its sections."""
    return [b for s in page.sections if title in ("", s.title) for b in s.blocks if isinstance(b, Example)]


def record(task: str, failures: tuple[str, ...] = (), **values: float) -> dict[str, Any]:
    protocol = Protocol(
        split="test", annotation_sha256="9f" * 32, clips=6, failures=failures, frames=8, views=12, resolution=224,
        settings={"clips": 4, "crops": 3, "none": None}, model=task.rpartition("/")[2], checkpoint_sha256="ac" * 32, seed=0,
        version="0.1.0",
    )  # fmt: skip
    return Record(task=task, values=values, protocol=protocol).model_dump(mode="json")


def history(rows: int, **columns: Any) -> pd.DataFrame:
    steps = np.arange(1, rows + 1)
    return pd.DataFrame({"step": steps, "loss": 1 / steps, "unreadable": np.zeros(rows), **columns})
