"""The page of an ingestion: what it counts, what rules cost, what it shows and opens, and that any corpus fits on it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.reports.pages import EVIL, Html, checked, rows_below, text_of
from umt_pipeline.core.errors import VideoError
from umt_pipeline.reports.ingestion.content import Choice, Content, RulesInForce
from umt_pipeline.reports.ingestion.measure import distribution, measure, visible
from umt_pipeline.reports.ingestion.page import ingestion_page
from umt_pipeline.reports.ingestion.pictures import frame_numbers, shown_files
from umt_pipeline.reports.page import Page
from umt_pipeline.reports.tables import NOTHING
from umt_pipeline.tables.blocks import Blocks

SPLITS = ("train", "validation", "test")
NAMES = ("captions", "labels", "questions", "boxes")
STRIP = np.full((4, 16, 24, 3), 90, np.uint8)


def rules(**changes: Any) -> RulesInForce:
    plain = {
        "splits": SPLITS, "min_frames": 4, "min_side": 32, "max_rejected_share": 0.5, "on_duplicate_content": "keep",
        "on_content_in_two_splits": "reject", "on_near_duplicates_across_splits": "report", "on_bad_row": "reject",
    }  # fmt: skip
    return RulesInForce.model_validate(plain | changes)


def files(*rows: tuple[Any, ...]) -> pd.DataFrame:
    """Return accepted files of (path, split, frames, width, height); no frames: an image. Ten frames are a second."""
    videos = pd.DataFrame(rows, columns=["path", "split", "num_frames", "width", "height"])
    still = videos["num_frames"] == 0
    return videos.assign(
        video_id=videos["path"], media=np.where(still, "image", "video"), corpus="mine", container="mp4", codec="h264",
        fps=np.where(still, 0.0, 10.0), duration_s=videos["num_frames"] / 10, size_bytes=1000, sha256=videos["path"],
        num_frames=videos["num_frames"].clip(lower=1), rotation=0, mirrored=False, sample_aspect=1.0, stream=0,
    )  # fmt: skip


def rejected(*rows: tuple[Any, ...]) -> pd.DataFrame:
    columns = ["table", "video", "reason"]
    told = pd.DataFrame([row[:3] for row in rows], columns=columns, dtype=str)
    details = [row[3] if len(row) > 3 else "detail" for row in rows]
    return told.assign(row=range(len(rows)), detail=details, remedy="Do this.")


def alike(*groups: dict[str, Any]) -> dict[str, Any]:
    return {"bits": 12, "compared": 4, "not_compared": 1, "groups": list(groups)}


def blocks_of(table: pd.DataFrame) -> Blocks:
    """Return a table in a few small blocks, so that groups of rows are in several."""
    rows = max(2, len(table) // 3)
    return Blocks(lambda: (table.iloc[start : start + rows] for start in range(0, max(1, len(table)), rows)))


def measured(
    videos: pd.DataFrame,
    captions: list[tuple[str, str]] | pd.DataFrame = (),  # type: ignore[assignment]
    labels: list[tuple[str, str, str]] = (),  # type: ignore[assignment]
    rejects: pd.DataFrame | None = None,
    report: dict[str, Any] | None = None,
    in_force: RulesInForce | None = None,
) -> Content:
    """Return the content of a page, gone through JSON with sorted keys, as the catalog writes it."""
    rejects = rejected() if rejects is None else rejects
    tables = {name: pd.DataFrame({"video_id": []}, dtype=str) for name in NAMES}
    tables["captions"] = pd.DataFrame(captions, columns=["video_id", "caption"], dtype=str)
    tables["labels"] = pd.DataFrame(labels, columns=["video_id", "task", "label"], dtype=str)
    counts = {}
    for name, table in {"videos": videos, **tables}.items():
        reasons = rejects[rejects["table"] == name]["reason"].value_counts().to_dict()
        lost = sum(reasons.values())
        counts[name] = {
            "rows_in": len(table) + lost, "accepted": len(table), "rejected": lost, "reasons": reasons, "ignored_columns": [],
        }  # fmt: skip
    part = {"videos": len(videos), "images": 0, "captions": 0, "hours": 0.5}
    told = {
        "dataset_id": "mine", "tables": counts, "splits": dict.fromkeys(SPLITS, part), "media": {"video": 1, "image": 0},
        "corpora": {"mine": {"rows_in": 1, "rejected": 0, **part}}, "hours": 0.5, "duplicates": {"files": 0, "groups": []},
        "near_duplicates": alike(), "warnings": [],
    }  # fmt: skip
    meanings = dict.fromkeys(rejects["reason"], "this was found")
    in_blocks = {name: blocks_of(table) for name, table in tables.items()}
    content = measure(
        told | (report or {}), blocks_of(videos), in_blocks, blocks_of(rejects), meanings, in_force or rules()
    )
    return Content.model_validate(json.loads(json.dumps(content.model_dump(mode="json"), sort_keys=True)))


def shown(content: Content, unreadable: tuple[str, ...] = ()) -> tuple[Page, list[str]]:
    """Return the page and, filled while it is rendered, the paths that it opens."""
    opened: list[str] = []

    def frames(path: str) -> np.ndarray:
        opened.append(path)
        if path in unreadable:
            raise VideoError("truncated", f"half of it {EVIL}")
        return STRIP

    return ingestion_page(content, frames), opened


CORPUS = files(
    ("a.mp4", "train", 10, 64, 48),
    ("b.mp4", "train", 20, 200, 100),
    ("c.mp4", "test", 40, 320, 240),
    ("d.mp4", "validation", 300, 640, 480),
    ("e.jpg", "train", 0, 48, 64),
)
CAPTIONS = [("a.mp4", "one two"), ("a.mp4", "three"), ("c.mp4", "four five six"), ("e.jpg", "seven")]
LABELS = [("a.mp4", "act", "run"), ("b.mp4", "act", "run"), ("c.mp4", "act", "walk")]
REJECTS = rejected(
    ("videos", "short.mp4", "too_short"),
    ("videos", "cut.mp4", "truncated"),
    ("videos", "again.mp4", "duplicate_content"),
    ("captions", "short.mp4", "video_rejected"),
    ("captions", "again.mp4", "video_rejected"),
    ("captions", "never.mp4", "unknown_video"),
)


def test_rules_cost_what_falls_below_them() -> None:
    frames, side = measured(CORPUS, CAPTIONS, LABELS, REJECTS).costs.thresholds
    assert (frames.now, frames.refused.files, frames.refused.rows["captions"]) == (4, 1, 1)
    losses = dict(frames.steps)
    assert list(losses) == [4, 8, 16, 32, 64, 128]
    assert (losses[8].videos, losses[16].videos, losses[32].videos, losses[64].videos) == (0, 1, 2, 3)
    assert losses[64].images == 0, "an image is not asked for frames"
    assert losses[64].rows == {"captions": 3, "labels": 3, "questions": 0, "boxes": 0}
    assert losses[64].hours == pytest.approx(7 / 3600, abs=1e-6)
    assert losses[64].left == {"train": 1, "validation": 1, "test": 0}
    sides = dict(side.steps)
    assert (side.now, side.refused.files) == (32, 0)
    assert (sides[32].videos, sides[64].videos, sides[64].images) == (0, 1, 1)
    assert sides[112].rows["captions"] == 3, "of a.mp4 and e.jpg"
    assert sides[256].left == {"train": 0, "validation": 1, "test": 0}


def outcomes(choice: Choice) -> dict[str, int | None]:
    return {option.value: option.files for option in choice.options}


def test_repeated_content_costs_a_file_or_brings_it_back() -> None:
    kept = CORPUS.assign(sha256=["x", "x", "x", "d", "e"])
    repeated, splits, _, bad_rows = measured(kept, CAPTIONS).costs.choices
    assert outcomes(repeated) == {"keep": 0, "reject": 2, "error": None}
    assert repeated.options[1].rows["captions"] == 1, "of c.mp4; a.mp4 is the first and stays"
    assert outcomes(splits) == {"reject": 0, "error": 0}
    assert outcomes(bad_rows) == {"reject": 0, "error": 0}
    dropped = measured(CORPUS, CAPTIONS, LABELS, REJECTS, in_force=rules(on_duplicate_content="reject"))
    repeated, _, _, bad_rows = dropped.costs.choices
    assert outcomes(repeated) == {"keep": -1, "reject": 0, "error": None}
    assert repeated.options[0].rows["captions"] == -1
    assert outcomes(bad_rows) == {"reject": 0, "error": None}
    html = checked(shown(dropped)[0])
    row = rows_below(html, "ingestion.on_…: what is done about it")[0]
    assert row[1:] == ["1 file more and 1 caption more", NOTHING, "as now", "the run ends"]


def test_look_alikes_of_two_splits_cost_those_that_are_held_out_less() -> None:
    leak = {"files": ["a.mp4", "c.mp4", "d.mp4"], "splits": ["test", "train", "validation"]}
    content = measured(
        CORPUS, CAPTIONS, report={"near_duplicates": alike(leak, {"files": ["b.mp4", "e.jpg"], "splits": ["train"]})}
    )
    leaks = content.costs.choices[2]
    assert outcomes(leaks) == {"report": 0, "reject": 2, "error": None}
    assert leaks.options[1].rows["captions"] == 2, "of a.mp4"
    refused = rejected(("videos", "a.mp4", "near_duplicate_in_two_splits"), ("captions", "a.mp4", "video_rejected"))
    report, in_force = {"near_duplicates": alike(leak)}, rules(on_near_duplicates_across_splits="reject")
    leaks = measured(CORPUS[2:3], rejects=refused, report=report, in_force=in_force).costs.choices[2]
    assert outcomes(leaks) == {"report": -1, "reject": 0, "error": None}
    assert leaks.options[0].rows["captions"] == -1


def test_the_share_of_unusable_files_leaves_repeated_content_out() -> None:
    share = measured(CORPUS, CAPTIONS, LABELS, REJECTS).costs.rejected_share
    assert (share.files, share.listed, share.share) == (2, 8, 0.25)
    assert [limit for limit, ends in share.limits if ends] == [0.0, 0.01, 0.02, 0.05, 0.1, 0.2]


def test_files_are_opened_only_where_a_rule_refused_them() -> None:
    content = measured(CORPUS, CAPTIONS, LABELS, REJECTS)
    page, opened = shown(content, unreadable=("c.mp4",))
    html = checked(page)
    assert sorted(opened) == sorted(shown_files(content))
    assert {"short.mp4", "again.mp4", *CORPUS["path"]} == set(opened), "not cut.mp4, which broke a decoder"
    assert "no frames: truncated: half of it &lt;script&gt;" in html
    text = text_of(html)
    assert "videos · truncated · 1 row This was found. Do this. detail cut.mp4 row 1" in text, (
        "a box that says why, in place of a picture"
    )


def test_what_users_wrote_is_escaped_and_cut() -> None:
    name = f"{EVIL}/שלום{'x' * 400}.mp4"
    videos = files((name, "train", 10, 64, 48)).assign(corpus=EVIL, codec=EVIL)
    captions = [(name, f"{EVIL} 🎬 مرحبا\x1b[31m")]
    rejects = rejected(("videos", name, "too_short", EVIL), ("captions", EVIL, EVIL, EVIL)).assign(remedy=EVIL)
    report = {"warnings": [EVIL], "dataset_id": EVIL, "corpora": {EVIL: dict.fromkeys(
        ("rows_in", "rejected", "videos", "images", "captions", "hours"), 0)}}  # fmt: skip
    html = checked(shown(measured(videos, captions, [(name, EVIL, EVIL)], rejects, report))[0])
    assert html.count("&lt;script&gt;") > 10
    assert "\x1b" not in html
    assert "x" * 300 not in text_of(html)
    assert visible("a\n\ud800" + "c" * 10, 5) == "a\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}cc…"
    assert [tag for tag, attributes in Html(html).tags if attributes.get("dir") == "auto"], "Hebrew reads from the right"


def test_the_page_shows_the_numbers_of_the_content() -> None:
    content = measured(CORPUS, CAPTIONS, LABELS, REJECTS)
    html = checked(shown(content)[0])
    assert rows_below(html, "Rows of each table")[0][:4] == ["videos", "8", "5", "3"]
    numbers = {row[0]: row[1:] for row in rows_below(html, "In numbers")}
    words = next(one for one in content.distributions if one.name == "words")
    assert numbers["words per caption"] == ["4", "1", "1", "1.5", "1.75", "2.85", "3"]
    assert (words.all.count, words.all.mean, words.splits["test"].median) == (4, 1.75, 3)
    assert sum(words.counts) == 4
    assert rows_below(html, "Files by label of act") == [["run", "2", "2", "0", "0"], ["walk", "1", "0", "0", "1"]]
    assert "act: 1 of 2 labels never in split train." in text_of(html)
    frames = rows_below(html, "ingestion.rules.min_frames: frames that a video must have")
    assert frames[0][:5] == ["4 (now)", "0", "0", "0\N{NO-BREAK SPACE}s", "0"]
    assert frames[4] == ["64", "3", "0", "7\N{NO-BREAK SPACE}s", "3", "3", "1", "1", "0"]
    assert content.kinds[0].files == (("h264", 5),)


def test_groups_across_splits_come_first_and_say_where_each_file_is() -> None:
    groups = [{"files": ["a.mp4", "b.mp4"], "splits": ["train"]}, {"files": ["c.mp4", "gone.mp4"], "splits": ["test", "train"]}]
    same = {"files": 4, "groups": groups}
    content = measured(CORPUS, report={"duplicates": same, "near_duplicates": alike(*groups)})
    assert (content.duplicates.files, content.duplicates.across_splits) == (4, 1)
    assert content.duplicates.shown[0].files == (("c.mp4", "test"), ("gone.mp4", ""))
    text = text_of(checked(shown(content)[0]))
    assert "1 group of files with the same bytes in more than one split." in text
    assert "2 files listed in splits test and train c.mp4 in split test gone.mp4 rejected" in text
    assert "Perceptual hashes of 4 files were compared" in text


def test_nothing_to_show_is_said() -> None:
    text = text_of(checked(shown(measured(CORPUS))[0]))
    for sentence in (
        "Nothing was rejected.",
        "There are no labels.",
        "No two files have the same bytes.",
        "No two files look the same.",
        "with 0 captions",
    ):
        assert sentence in text
    assert "Warnings" not in text
    assert "There are no records" not in text, "a page about data has no protocol of measurements"


@pytest.mark.slow
def test_a_large_corpus_fits_on_a_small_page() -> None:
    count = 20_000
    rng = np.random.default_rng(0)
    rows = [(f"{'folder/' * 20}{n}.mp4", SPLITS[n % 3], int(rng.integers(4, 9000)), 320 + n % 400, 240) for n in range(count)]
    videos = files(*rows).assign(corpus=[f"corpus {n % 40}" for n in range(count)])
    captions = pd.DataFrame({"video_id": np.repeat(videos["video_id"], 3), "caption": "a b " * 200})
    labels = [(path, f"task {n % 3}", f"label {n % 2000}") for n, (path, *_) in enumerate(rows)]
    reasons = ("too_short", "too_small", "wrong_media", "truncated", *(f"reason {n}" for n in range(20)))
    rejects = rejected(*(("videos", f"{n}.mp4", reasons[n % len(reasons)], "detail " * 200) for n in range(3000)))
    groups = {"groups": [{"files": [row[0] for row in rows[n : n + 50]], "splits": ["train"]} for n in range(0, 5000, 50)]}
    content = measured(videos, captions, labels, rejects, {"duplicates": groups, "near_duplicates": alike(*groups["groups"])})
    page = ingestion_page(content, lambda path: rng.integers(0, 255, (4, 64, 114, 3), dtype=np.uint8))
    assert len(checked(page)) < 2_000_000
    assert len(content.model_dump_json()) < 300_000
    assert len(shown_files(content)) <= 100


@pytest.mark.parametrize(
    ("values", "log"),
    [([0.1, 5.0, 80.0], True), ([0.0, 5.0, 80.0], False), ([1.0, 1.0], False), ([2.0, 3.0, 9.0], False), ([7.5], False),
     ([1.0, 1e9], True)],
)  # fmt: skip
def test_bins_hold_every_value(values: list[float], log: bool) -> None:
    found = distribution("x", "x", np.array(values), np.zeros(len(values), np.int8), SPLITS)
    assert found is not None
    assert (sum(found.counts), len(found.edges), found.log) == (len(values), len(found.counts) + 1, log)
    assert list(found.edges) == sorted(set(found.edges))
    assert distribution("x", "x", np.array([]), np.array([], np.int8), SPLITS) is None


@pytest.mark.parametrize(
    ("video", "pixels", "numbers"),
    [((100, 320, 240), 10**9, [0, 33, 66, 99]), ((100, 320, 240), 320 * 240 * 10, [0, 3, 6, 9]), ((2, 320, 240), 10**9, [0, 1]),
     ((100, 320, 240), 1, [0]), ((100, 640, 200), 10**9, [0, 99]), ((100, 640, 32), 10**9, [50])],
)  # fmt: skip
def test_frames_are_spread_over_what_may_be_decoded(video: tuple[int, int, int], pixels: int, numbers: list[int]) -> None:
    assert frame_numbers(*video, pixels) == numbers
