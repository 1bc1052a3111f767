"""Any page: blocks, protocol cards, frames of clips."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tests.reports.pages import EVIL, FRAMES, Html, checked, record, rows_below, text_of
from umt_pipeline.core.errors import VideoError
from umt_pipeline.reports.page import (
    Bar,
    Bars,
    Block,
    Cell,
    Code,
    Example,
    Film,
    Fold,
    Page,
    Panels,
    Picture,
    Row,
    Said,
    Section,
    Strips,
    Table,
    Text,
    Tile,
    subsection,
)  # fmt: skip
from umt_pipeline.reports.protocols import protocol_section
from umt_pipeline.reports.render import render
from umt_pipeline.reports.tables import NOTHING, Compared, Scored, facts, number, score_table, table


def test_a_page_of_any_blocks() -> None:
    film = Said("Stage 2", note="rank 2", films=(Film("x", False), Film("y", True)))
    blocks: list[Block | None] = [
        Example(EVIL, Film("y"), (film,), "miss"),
        None,
        *subsection("Below", [], "nothing below"),
        Table(EVIL, ("", "a", "b"), (Row(Cell("row"), (Cell("1"), Cell("2"))),), groups=(("both", 2),)),
        Bars([("mAP (%)", [Bar("model", 12.0), Bar("chance", 101.0, True)])]),
        Panels([], ["one", "two"]),
        Picture("data:image/webp;base64,", EVIL),
        Strips("clip", "half", [("Frames", Picture("data:image/webp;base64,", "frames"))]),
        Fold("more", [Text("small print"), Code("a: 1"), Example("folded", Film("z"), ())]),
    ]
    sections = [Section("Found & shown", blocks, explain="how"), Section("Found, shown", [None], missing="none at all")]
    loaded = []

    def load(video_id: str) -> np.ndarray:
        loaded.append(video_id)
        if video_id == "x":
            raise VideoError("corrupt", "broken")
        return FRAMES

    html = checked(Page("Any task", tiles=[Tile("mAP", "12.0 %", ["chance 1.0 %"])], sections=sections, frames=load))
    assert [a["id"] for a in Html(html).all("section")] == [
        "found-shown", "found-shown-1", "protocol", "run-data-parameters"
    ]  # fmt: skip
    assert loaded == ["x", "y", "z"], "each once"
    assert html.count('class="strip clip-0"') == 2, "asked about, and found"
    assert html.count('class="strip none"') == 1
    for sentence in ("nothing below", "none at all", "There are no numbers to sum up", "There are no records", "small print"):
        assert sentence in text_of(html)


@pytest.mark.slow
def test_many_large_clips_stay_below_the_size_limit() -> None:
    rng = np.random.default_rng(0)
    ids = [f"clip{n}" for n in range(200)]
    blocks = [Example("query", Film(video_id), ()) for video_id in ids]
    noise = {video_id: rng.integers(0, 255, (8, 64, 64, 3), dtype=np.uint8) for video_id in ids}
    page = Page("Many", sections=[Section("All", blocks)], frames=noise.__getitem__)
    assert len(render(page, {}, {}).encode()) < 3_000_000


def test_protocol_cards_say_how_and_name_failures() -> None:
    note = {"task": "detection", "values": {}, "protocol": None, "note": f"no boxes {EVIL}"}
    other = record("retrieval/x", r1=3.0)
    html = checked(Page("Cards", records=[note, other, record("classification/shape/stage2", ("clip5",), top1=50.0)]))
    card = html[html.index('<article class="card protocol"><h4>classification/shape/stage2</h4>') :]
    card = card[: card.index("</article>")]
    told = dict(re.findall(r"<dt>([^<]+)</dt><dd[^>]*>([^<]+)</dd>", card))
    times = "\N{MULTIPLICATION SIGN}"
    assert told[f"frames {times} views"] == f"8 {times} 12 at 224 pixels"
    assert told["unreadable clips"] == "1, counted as wrong"
    assert (told["checkpoint"], told["annotations"]) == ("acacacacacac…", "9f9f9f9f9f9f…")
    assert "ac" * 32 in card
    assert 'title="clip5"' in card
    assert (told["clips"], told["setting: clips"], told["setting: crops"]) == ("6", "4", "3")
    assert "setting: none" not in told
    assert "top1 <b>50.00</b>" in card


def test_many_records_are_one_table() -> None:
    note = {"task": "probe/knn/weather", "values": {}, "protocol": None, "note": "no task 'weather'"}
    records = [*(record(f"classification/{n}", top1=50.0) for n in range(12)), note]
    (fold,) = protocol_section(records).blocks
    assert isinstance(fold, Fold)
    assert fold.title == "Protocol of each number (13 records)"
    html = checked(Page("Table", records=records))
    first, *_, last = rows_below(html, "Protocol of each number")
    assert {"classification/0", "top1 50.00", "clips 4 · crops 3", "acacacacacac…"} <= set(first)
    assert {"probe/knn/weather", "no task &#39;weather&#39;", NOTHING} == {*last} - {""}


def test_scores_mark_the_best_fair_model_and_ranks_are_better_low() -> None:
    rows = [
        Scored(Cell("a"), {"r1": 3.0, "medr": 2.0}),
        Scored(Cell("b"), {"r1": 5.0, "medr": 4.5}),
        Scored(Cell("c"), {"r1": 9.0}, fair=False),
    ]
    made = score_table("x", rows, {"r1": "R@1", "medr": "MedR"}, {"chance": {"r1": 99.0}, "none": {}}, ranks=["medr"])
    assert made is not None
    assert [[(c.text, c.style) for c in row.cells] for row in made.rows] == [
        [("3.0", ""), ("2", "best")], [("5.0", "best"), ("4.5", "")], [("9.0", ""), (NOTHING, "")],
        [("99.0", ""), (NOTHING, "")],
    ]  # fmt: skip
    assert score_table("x", [], {"r1": "R@1"}, {}) is None


def test_numbers_as_people_read_them() -> None:
    compared = Compared("R@1", 50.0, {"chance": 1.0, "not measured": None})
    assert (compared.against, compared.tile.value) == ("chance 1.0\N{NO-BREAK SPACE}%", "50.0\N{NO-BREAK SPACE}%")
    assert Compared("R@1", 50.0, {}).against == "nothing to compare with"
    values = [None, True, 12_345, 0.123456, 54_321.9, [1, 2], float("nan")]
    assert [number(value) for value in values] == [NOTHING, "yes", "12,345", "0.1235", "54,322", "1, 2", NOTHING]
    assert number(2048, "store_bytes") == "2\N{NO-BREAK SPACE}KiB (2,048)"
    made = facts("x", {"a": {"b_c": 1}, "list": [{"d": None}]})
    assert made is not None
    assert [(row.head.text, row.cells[0].text) for row in made.rows] == [("a · b c", "1"), ("list · 0 · d", NOTHING)]
    assert facts("x", {}) is None
    assert table("x", ("",), []) is None
