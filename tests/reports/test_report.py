"""The report page. ``python tests/evaluation/test_report.py PATH`` writes the fabricated sample page to look at."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Sequence
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from umt_pipeline.evaluation.retrieval import SystemScores, build_retrieval_set, retrieval_values
from umt_pipeline.reports import figures
from umt_pipeline.reports.evaluation import chance as report_chance
from umt_pipeline.reports.evaluation import tables as report_tables
from umt_pipeline.reports.evaluation.page import MaskPicture, ReportData, RetrievalExample, render_report

SECTIONS = ("results", "training", "masks", "examples", "ingestion", "store", "protocol", "provenance")
EVIL = '<script>alert("x")</script> & "quoted" \'single\''
SHAPES, COLOURS, MOTIONS = (
    ("disc", "ring", "square", "cross"),
    ("red", "green", "blue"),
    ("left", "right", "up", "grows"),
)


# --- a fabricated run -------------------------------------------------------------------------------------------------


@cache
def sample_data(evil: str = "videos/färbig & groß.mp4") -> ReportData:
    """Return a small run with everything in it; ``evil`` appears as file name, caption, parameter and so on."""
    rng = np.random.default_rng(7)
    videos, captions, labels = _sample_tables(evil)
    ids = list(videos.loc[videos["split"] == "test", "video_id"])
    motion_ids = list(videos.loc[videos["split"] == "test_motion", "video_id"])
    clips = {video: _sample_clip(number) for number, video in enumerate(ids + motion_ids)}
    history = _sample_history(rng, 240, ("vtc", "vtm", "mlm", "align"))
    return ReportData(
        metrics=_sample_metrics(rng),
        records=_sample_records(),
        notes=(f"The file {evil} failed during evaluation and counts as wrong.",),
        videos=videos,
        captions=captions,
        labels=labels,
        rejects=pd.DataFrame(
            {
                "table": ["videos"] * 3 + ["captions"],
                "row": [4, 17, 90, 17],
                "video": ["truncated.mp4", evil, "text_renamed.mp4", evil],
                "reason": ["corrupt_frame", "empty_file", "not_a_video", "orphan"],
                "detail": ["expected 40 frames, decoded 21", "0 bytes", f"header {evil}", "its video was rejected"],
            }
        ),
        ingestion={
            "tables": {
                "videos": {"rows_in": 187, "accepted": 184, "rejected": 3},
                "captions": {"rows_in": 371, "accepted": 370, "rejected": 1},
                "labels": {"rows_in": 552, "accepted": 552, "rejected": 0},
            },
            "media": {"video": 184, "image": 1234},
            "corpora": {
                "webvid": _corpus_counts(187, 3, videos=184, captions=370),
                "cc3m": _corpus_counts(1234, 0, images=1234, captions=1234),
            },
        },
        teacher_history=_sample_history(rng, 60, ()),
        stage1_history=_sample_history(rng, 180, ("align",)),
        stage2_history=history,
        stage2_control_history=_sample_history(rng, 240, ("vtc", "vtm", "mlm", "align"), 1.2),
        teacher_metrics={"zero_shot": {"shape": 71.9, "colour": 99.2}, "seconds": 111.2},
        stage1_metrics={"seconds": 48.1, "steps": 180},
        stage2_metrics={"stage2": {"seconds": 70.4}, "control": {"seconds": 69.8}},
        features={
            "rows": 384, "clips": 96, "views": 4, "codec": "int8", "seconds": 18.2,
            "codec_cosine_error": {"mean": 4.1e-5, "max": 9.8e-5, "tokens": 4_096},
            "clip_views_per_second": 21.1,
            "bytes_per_clip_view": {"pixels": 19_968, "visible": 416, "targets": 53_248, "total": 73_632},
        },
        masks=[_sample_mask(rng, ids[0], clips[ids[0]]), _sample_mask(rng, evil, clips[ids[5]])],
        examples=_sample_examples(rng, "test", ids, evil) + _sample_examples(rng, "test_motion", motion_ids, evil),
        clips=clips,
        provenance={
            "git": {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": False},
            "dvc_stage": "evaluation",
            "mlflow_runs": {"stage1": "ab" * 16, "stage2": "cd" * 16},
            "models": {"stage1": "12" * 32, "stage2": "34" * 32},
        },
        parameters={"seed": 0, "stage1": {"epochs": 12, "mask": {"kind": "attention", "ratio": 0.8}}, "note": evil},
    )  # fmt: skip


def _corpus_counts(rows_in: int, rejected: int, videos: int = 0, images: int = 0, captions: int = 0) -> dict[str, float]:
    counts = {"rows_in": rows_in, "accepted": rows_in - rejected, "rejected": rejected, "videos": videos, "images": images}
    return counts | {"captions": captions, "hours": videos / 2000}


def _sample_tables(evil: str) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    videos, captions, labels = [], [], []
    for number in range(184):
        split = "train" if number < 96 else "test" if number < 160 else "test_motion"
        video = f"{split}/clip_{number:05d}" if number != 100 else evil
        shape, colour = SHAPES[number % 4], COLOURS[number // 4 % 3]
        motion, size = MOTIONS[number // 12 % 4], ("small", "large")[number % 2]
        if split == "test_motion":
            place = number - 160
            shape, colour, motion, size = SHAPES[place // 12], COLOURS[place // 4 % 3], MOTIONS[place % 4], "large"
        frames = 24 + number % 30
        videos.append(
            {
                "video_id": video, "path": f"{video}.mp4", "split": split, "container": "mp4", "codec": "h264",
                "width": (64, 96)[number % 2], "height": 64, "fps": (8.0, 12.5, 25.0)[number % 3], "num_frames": frames,
                "duration_s": frames / (8.0, 12.5, 25.0)[number % 3], "size_bytes": 9_000 + 91 * number,
                "sha256": "0" * 64,
            }
        )  # fmt: skip
        captions += [
            {"caption_id": 2 * number, "video_id": video, "caption": f"a {size} {colour} {shape} that moves {motion}"},
            {"caption_id": 2 * number + 1, "video_id": video, "caption": f"{motion}: the {colour} {shape}, {size}"},
        ]
        for task, label in (("shape", shape), ("colour", colour), ("size", size), ("motion", motion)):
            labels.append({"video_id": video, "task": task, "label": label})
    return pd.DataFrame(videos), pd.DataFrame(captions), pd.DataFrame(labels)


def _sample_clip(number: int, frames: int = 12, side: int = 64) -> np.ndarray:
    """Return a textured disc that moves over a textured ground, uint8 [T, H, W, 3]."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[:side, :side]
    ground = 60 + 50 * rng.random(3) + 20 * np.sin((x * rng.normal() + y * rng.normal()) / 4)[..., None]
    colour = 120 + 135 * rng.random(3)
    step = np.array([(0, -3), (0, 3), (-3, 0), (0, 0)][number % 4])
    clip = []
    for time in range(frames):
        centre = np.array([side / 2, side / 2]) + step * (time - frames / 2)
        inside = np.hypot(y - centre[0], x - centre[1]) < 14 + (time * 0.7 if number % 4 == 3 else 0)
        clip.append(np.where(inside[..., None], colour * (0.8 + 0.2 * np.sin((x + y) / 2))[..., None], ground))
    return np.clip(clip, 0, 255).astype(np.uint8)


def _sample_mask(rng: np.random.Generator, video: str, clip: np.ndarray) -> MaskPicture:
    frames, patches, keep = 8, 64, 13
    small = clip[:frames].reshape(frames, 8, 8, 8, 8, 3).mean(axis=(2, 4, 5)).reshape(frames, patches)
    attention = np.exp(small / 25) * rng.uniform(0.5, 1.5, small.shape)
    attention = attention / attention.sum(axis=1, keepdims=True)
    order = np.sort(np.argsort(-attention, axis=1)[:, :keep], axis=1)
    return MaskPicture(video, clip[:frames], attention, (order + patches * np.arange(frames)[:, None]).ravel())


def _sample_history(rng: np.random.Generator, rows: int, parts: Sequence[str], factor: float = 1.0) -> pd.DataFrame:
    steps = np.arange(1, rows + 1) * 5
    decay = factor * np.exp(-steps / (2 * rows))
    table: dict[str, np.ndarray] = {"step": steps}
    for place, part in enumerate(parts):
        table[part] = (1.5 + 0.4 * place) * decay + 0.08 * rng.random(rows)
    table["loss"] = np.sum([table[part] for part in parts], axis=0) if parts else 4 * decay + 0.1 * rng.random(rows)
    table["lr"] = 1e-3 * np.minimum(steps / 60, 0.5 + 0.5 * np.cos(np.pi * steps / steps[-1]))
    table["grad_norm"] = 1 + rng.random(rows)
    table["clips_per_s"] = 400 + 30 * rng.random(rows)
    table["data_wait"] = 0.02 * rng.random(rows)
    table["peak_memory_mib"] = np.full(rows, 812.0)
    return pd.DataFrame(table)


def _sample_metrics(rng: np.random.Generator) -> dict[str, float]:
    metrics: dict[str, float] = {}
    levels = {"teacher_cls": 61.0, "teacher_patch": 60.2, "untrained": 23.4, "stage1": 52.6, "stage2": 57.3}
    for encoder, level in levels.items():
        for task in ("shape", "colour", "size", "motion"):
            for kind, shift in (("knn", -4.0), ("linear", 0.0)):
                value = 26.0 if task == "motion" and encoder != "stage2" else level + (30 if task == "colour" else 0)
                metrics[f"probe/{kind}/{task}/{encoder}"] = min(99.2, value + shift + float(rng.uniform(-2, 2)))
    systems = {
        "teacher/dual": 22.0,
        "control/dual": 24.0,
        "control/reranked": 29.0,
        "stage2/dual": 37.0,
        "stage2/dsl": 51.0,
        "stage2/reranked": 46.0,
    }
    for name, factor in (("test", 1.0), ("test_motion", 0.8)):
        for system, level in systems.items():
            for way, shift in (("t2v", 0.0), ("v2t", 2.0)):
                first = level * factor + shift
                metrics[f"retrieval/{name}/{system}/{way}_r1"] = first
                metrics[f"retrieval/{name}/{system}/{way}_r5"] = min(100.0, 1.8 * first)
                metrics[f"retrieval/{name}/{system}/{way}_r10"] = min(100.0, 2.2 * first)
                metrics[f"retrieval/{name}/{system}/{way}_medr"] = round(90 / first, 1)
                metrics[f"retrieval/{name}/{system}/{way}_meanr"] = round(150 / first, 1)
            for task in ("shape", "colour", "size", "motion"):
                metrics[f"agreement/{name}/{system.replace('/', '_')}/{task}"] = 40 + level
    return metrics


def _sample_records() -> list[dict[str, object]]:
    protocol = {
        "split": "test", "annotation_sha256": "9f" * 32, "clips": 64, "failures": ["test/clip_00123"], "frames": 8,
        "views": 1, "resolution": 64, "k": 16, "score_type": "reranked", "model": "stage2",
        "settings": {"distinct_texts": 60},
        "checkpoint_sha256": "ac" * 32, "seed": 0, "version": "0.1.0",
    }  # fmt: skip
    return [
        {
            "task": "retrieval/test/stage2/reranked",
            "values": {"t2v_r1": 46.0, "t2v_r5": 82.8},
            "protocol": protocol,
            "cost": {"pairs": 1800, "seconds": 2.5},
            "note": None,
        },
        {
            "task": "probe/linear/shape/stage1",
            "values": {"": 52.6},
            "protocol": protocol | {"settings": {"c": "0.1, 1"}, "chosen": {"c": 0.1}},
            "note": None,
        },
        {"task": "probe/knn/weather", "values": {}, "protocol": None, "note": "the labels table has no task 'weather'"},
    ]


def _sample_examples(rng: np.random.Generator, name: str, ids: list[str], evil: str) -> list[RetrievalExample]:
    examples = []
    for number in range(6):
        for system in ("stage2/reranked", "stage2/dual", "teacher/dual"):
            top = [str(v) for v in rng.choice(ids, 5, replace=False)]
            if number % 2 == 0 and system.startswith("stage2"):
                top = [ids[number], *[v for v in top if v != ids[number]]][:5]
            relevant = [video == ids[number] for video in top]
            rank = relevant.index(True) + 1 if any(relevant) else 9
            query = f"a large red disc that moves left ({number}) {evil if number == 0 else ''}"
            examples.append(RetrievalExample(name, system, query, ids[number], top, relevant, rank))
    return examples


# --- tests ------------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What the tests look at: tags with attributes, text, and whether tags close in order."""

    VOID = ("meta", "img", "br", "link", "path", "use", "line", "rect", "hr", "input")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.crossed: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if tag in self.VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.crossed.append(tag)

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def html() -> str:
    return render_report(sample_data(EVIL))


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_page_is_well_formed_and_small(html: str, page: Page) -> None:
    assert html.lstrip().startswith("<!doctype html>")
    assert page.crossed == []
    assert page.open == []
    assert len(html.encode()) < 3_000_000


def test_page_asks_for_no_external_address(html: str, page: Page) -> None:
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "form")
        for name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
            if name in attributes:
                assert attributes[name].startswith(("#", "data:image/webp;base64,")), (tag, name, attributes[name][:80])
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
    assert re.search(r"https?:|//[a-z]", re.sub(r"base64,[A-Za-z0-9+/=]+", "", html)) is None
    assert all(u.startswith(('"data:image/webp;base64,', "#")) for u in re.findall(r"url\(([^)]{0,40})", html))
    assert "@import" not in html


def test_user_text_is_escaped(html: str, page: Page) -> None:
    assert "<script" not in html
    assert EVIL in "".join(page.text)
    described = [a for _, a in page.tags if EVIL in a.get("aria-label", "") + a.get("alt", "")]
    assert described


def test_every_section_is_there_and_linked(page: Page) -> None:
    assert [a["id"] for a in page.all("section")] == list(SECTIONS)
    assert [a["href"] for a in page.all("a")] == [f"#{name}" for name in SECTIONS]


def test_page_is_accessible(page: Page) -> None:
    assert all(a.get("alt") for a in page.all("img"))
    assert all(a.get("scope") in ("row", "col", "colgroup") for a in page.all("th"))
    assert all(a.get("aria-label") for tag, a in page.tags if a.get("role") in ("img", "region"))
    assert all(a.get("role") == "img" for a in page.all("svg"))
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))


def test_figures_refer_to_their_own_parts_and_to_the_theme(html: str, page: Page) -> None:
    ids = {a["id"] for _, a in page.tags if "id" in a}
    used = set(re.findall(r"url\(#([^)]+)\)", html)) | {a["href"][1:] for a in page.all("use")}
    assert used
    assert used <= ids
    assert "var(--series-2)" in html
    assert not re.search(r"#01020\d", html)


def test_every_film_strip_has_its_picture(html: str, page: Page) -> None:
    used = {a["class"].split()[1] for _, a in page.tags if a.get("class", "").startswith("strip ")}
    assert len(used) > 10
    assert all(f".{name}{{aspect-ratio:" in html for name in used)


def test_same_input_gives_same_page(html: str) -> None:
    assert render_report(sample_data(EVIL)) == html


def test_empty_input_says_not_run_in_every_section() -> None:
    html = render_report(ReportData())
    page = Page(html)
    assert [a["id"] for a in page.all("section")] == list(SECTIONS)
    for part in html.split("<section ")[1:]:
        assert 'class="missing"' in part
    assert page.all("table") == []


@pytest.mark.parametrize("bit", range(5))
@pytest.mark.parametrize("missing", [0, 1])
def test_parts_may_be_missing_in_any_combination(bit: int, missing: int) -> None:
    """Leave out the fields whose number has a given bit, so that every two fields are once seen without each other."""
    full, nothing = sample_data(), ReportData()
    small = dataclasses.replace(
        full, clips={}, stage1_history=full.teacher_history, stage2_history=full.teacher_history
    )
    names = [f.name for place, f in enumerate(dataclasses.fields(ReportData)) if place >> bit & 1 == missing]
    page = Page(render_report(dataclasses.replace(small, **{name: getattr(nothing, name) for name in names})))
    assert page.crossed == []
    assert [a["id"] for a in page.all("section")] == list(SECTIONS)


def test_empty_tables_are_as_good_as_none() -> None:
    data = sample_data()
    names = ("videos", "captions", "labels", "rejects", "stage1_history", "stage2_control_history")
    empty = {name: getattr(data, name).iloc[:0] for name in names}
    page = Page(render_report(dataclasses.replace(data, **empty)))
    assert "Nothing was rejected." in "".join(page.text)


def test_many_large_clips_stay_below_the_size_limit() -> None:
    rng = np.random.default_rng(0)
    ids = [f"clip{n}" for n in range(200)]
    clips = {video: rng.integers(0, 255, (8, 64, 64, 3), dtype=np.uint8) for video in ids}
    examples = [
        RetrievalExample(name, system, f"query {n}", ids[n], [str(v) for v in rng.choice(ids, 5)], [False] * 5)
        for n in range(8)
        for name in ("test", "test_motion")
        for system in ("teacher", "control/dual", "stage2/dual", "stage2/reranked")
    ]
    assert len(render_report(ReportData(examples=examples, clips=clips)).encode()) < 3_000_000


def test_summary_and_tiles_quote_the_metrics(page: Page) -> None:
    text = " ".join("".join(page.text).split())
    assert re.search(r"The corpus holds 184 accepted clips, [\d.]+ minutes of video and 1,234 images; 4 rows", text)
    assert "Videos and images of each corpus" in text
    assert "puts a right one of the 64 clips first in 37.0 % of the cases" in text
    assert "re-ranked by the matching head: 46.0 %" in text
    assert "perfect knowledge of appearance alone: 25.0 %" in text
    assert "trained from scratch with the same budget: 24.0 %" in text


def test_table_marks_best_value_and_adds_chance() -> None:
    systems = {"teacher/dual": {"t2v_r1": 10.0, "t2v_medr": 9.0}, "stage2/dual": {"t2v_r1": 30.0, "t2v_medr": 3.5}}
    table = report_tables.metric_table("x", systems, ["t2v_r1", "t2v_medr"], {"Chance": {"t2v_r1": 1.0}})
    assert table is not None
    assert table.head == ("", "R@1", "MedR")
    assert table.groups == (("Text → video", 2),)
    assert [row.head.text for row in table.rows] == ["Teacher, dual", "Stage 2, dual", "Chance"]
    assert [[c.style for c in row.cells] for row in table.rows] == [["", ""], ["best", "best"], ["", ""]]
    assert [c.text for c in table.rows[1].cells] == ["30.0", "3.5"]


def test_scores_that_read_all_queries_are_shown_and_never_best() -> None:
    systems = {f"stage2/{score}": {"t2v_r1": value} for score, value in (("reranked", 46.0), ("dsl", 51.0), ("dual", 37.0))}
    table = report_tables.metric_table("x", systems, ["t2v_r1"], {})
    assert table is not None
    assert [(row.head.text, row.cells[0].text, row.cells[0].style) for row in table.rows] == [
        ("Stage 2, dual", "37.0", ""), ("Stage 2, dual softmax", "51.0", ""), ("Stage 2, re-ranked", "46.0", "best"),
    ]  # fmt: skip


def test_median_and_mean_rank_are_shown_in_both_directions(html: str) -> None:
    table = html[html.index("<caption>Retrieval on test,") :]
    table = table[: table.index("</table>")]
    heads = re.findall(r'<th scope="col">([^<]+)</th>', table)
    assert heads == ["R@1", "R@5", "R@10", "MedR", "MeanR"] * 2
    assert re.findall(r'scope="colgroup" colspan="5">([^<]+)<', table) == ["Text → video", "Video → text"]
    row = re.search(r">Stage 2, dual</th>(.*?)</tr>", table)
    assert row is not None
    cells = re.findall(r"<td[^>]*>([^<]+)</td>", row[1])
    ranks = [(name, value) for name, value in zip(heads, cells, strict=True) if name in ("MedR", "MeanR")]
    assert ranks == [("MedR", "2.4"), ("MeanR", "4.1"), ("MedR", "2.3"), ("MeanR", "3.8")]


def test_cost_of_reranking_is_shown(page: Page) -> None:
    table = report_tables.cost_table(_sample_records())
    assert table is not None
    assert [[cell.text for cell in (row.head, *row.cells)] for row in table.rows] == [
        ["Stage 2, re-ranked", "test", "1,800", "2.50", "720"]
    ]
    assert "What re-ranking costs" in "".join(page.text)
    assert report_tables.cost_table(_sample_records()[1:]) is None


def test_chance_levels_follow_from_the_tables() -> None:
    videos = pd.DataFrame({"video_id": list("abcd"), "split": ["test"] * 4})
    captions = pd.DataFrame({"caption_id": range(4), "video_id": list("abcd"), "caption": ["p", "q", "r", "s"]})
    labels = pd.DataFrame(
        {"video_id": list("abcd") * 2, "task": ["shape"] * 4 + ["motion"] * 4, "label": ["o", "o", "x", "x", *"lrlr"]}
    )
    chance = report_chance.random_retrieval(videos, captions, "test", "first")
    assert chance["t2v_r1"] == pytest.approx(25)
    assert chance["t2v_r5"] == pytest.approx(100)
    assert (chance["v2t_medr"], chance["v2t_meanr"]) == pytest.approx((2, 2.5))
    oracle = report_chance.random_retrieval(videos, captions, "test", "first", labels, ["shape"])
    assert oracle["t2v_r1"] == pytest.approx(50)
    assert oracle["v2t_r1"] == pytest.approx(50)
    assert report_chance.random_retrieval(videos, captions, "test", "first", labels, ["weather"]) == {}
    assert report_chance.majority_share(labels, videos, "test") == {"motion": 50.0, "shape": 50.0}
    assert report_chance.chance_agreement(labels, videos, "test") == {"motion": 50.0, "shape": 50.0}


def test_chance_equals_the_mean_of_many_random_orders() -> None:
    rng = np.random.default_rng(3)
    ids = [f"v{n}" for n in range(9)]
    videos = pd.DataFrame({"video_id": ids, "split": "test"})
    captions = pd.DataFrame({"caption_id": range(9), "video_id": ids, "caption": list("pppqqrstu")})
    data = build_retrieval_set("test", ids, captions, "first")
    runs = []
    for _ in range(3000):
        scores_UC = rng.random(data.truth_UC.shape)
        runs.append(retrieval_values(data, SystemScores("x", "dual", scores_UC, scores_UC.T)))
    chance = report_chance.random_retrieval(videos, captions, "test", "first")
    for name in ("t2v_r1", "t2v_r5", "v2t_r1", "v2t_r5"):
        assert chance[name] == pytest.approx(np.mean([run[name] for run in runs]), abs=2)
    assert chance["t2v_meanr"] == pytest.approx(np.mean([run["t2v_meanr"] for run in runs]), abs=0.1)


def test_counts_that_do_not_add_up_are_shown() -> None:
    table = report_tables.count_table({"tables": {"videos": {"rows_in": 5, "accepted": 3, "rejected": 1}}})
    assert table is not None
    assert table.rows[0].cells[-1].style == "bad"


def test_mask_hides_what_the_student_does_not_see() -> None:
    frames = np.full((2, 8, 8, 3), 200, dtype=np.uint8)
    attention = np.tile([0.7, 0.1, 0.1, 0.1], (2, 1))
    original, heat, shown = figures.mask_strips(frames, attention, np.array([0, 7]), None, 64)
    assert original.shape == heat.shape == (8, 18, 3)
    assert shown[:4, :4, 3].min() == 255
    assert shown[4:, 14:, 3].min() == 255
    assert (shown[..., 3] > 0).sum() == 2 * 4 * 4
    assert heat[0, 0].sum() > heat[7, 7].sum()


def test_mask_that_does_not_fit_names_the_shapes() -> None:
    with pytest.raises(ValueError, match=r"\(2, 5\) does not fit 2 frames"):
        figures.mask_strips(np.zeros((2, 8, 8, 3), np.uint8), np.ones((2, 5)), np.array([0]), None, 64)


def test_filmstrip_takes_even_frames_and_never_enlarges() -> None:
    clip = np.stack([np.full((10, 20, 3), value, dtype=np.uint8) for value in range(9)])
    strip = figures.filmstrip(clip, figures.FrameSize(3, 64, 75))
    assert strip.shape == (10, 3 * 20 + 2 * 2, 3)
    assert [int(strip[0, x, 0]) for x in (0, 22, 44)] == [0, 4, 8]
    assert figures.filmstrip(clip, figures.FrameSize(3, 5, 75)).shape == (5, 3 * 10 + 2 * 2, 3)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(render_report(sample_data()), encoding="utf-8")
