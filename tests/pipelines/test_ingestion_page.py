"""The page at the end of the ingestion: made for any corpus that is accepted, from its JSON, and never its undoing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
from PIL import Image

from tests.pipelines.test_ingestion import params
from tests.reports.pages import EVIL, text_of
from tests.video_files import write_video
from umt_pipeline.demo_world.broken_files import write_broken_files
from umt_pipeline.executors import LOCAL
from umt_pipeline.pipelines.ingestion import create_pipeline, nodes
from umt_pipeline.pipelines.ingestion.accepting import Accepted, AcceptedVideos
from umt_pipeline.pipelines.ingestion.page import describe_corpus, show_corpus
from umt_pipeline.reports.ingestion.content import Content


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    media = tmp_path_factory.mktemp("media")
    write_video(media / "a.mp4")
    write_video(media / "b.avi", num_frames=30, first_number=1)
    write_video(media / "short.mp4", num_frames=2, first_number=2)
    shutil.copy(media / "a.mp4", media / "a copy.mp4")
    Image.new("RGB", (64, 48), (200, 30, 30)).save(media / "red.png")
    return media


class Ingested(NamedTuple):
    report: dict[str, Any]
    videos: AcceptedVideos
    tables: dict[str, Accepted]


def ingested(media: Path, workspace: Path, videos: Any, captions: Any, labels: Any, settings: Any) -> Ingested:
    tables = [
        pd.DataFrame(videos, columns=["video", "split"]), pd.DataFrame(captions, columns=["video", "caption"]),
        pd.DataFrame(labels, columns=["video", "task", "label"]), pd.DataFrame(), pd.DataFrame(),
    ]  # fmt: skip
    listing = nodes.read_raw_tables(media, *tables, settings, workspace)
    accepted, again = nodes.accept_videos(listing, nodes.probe_videos(media, listing, settings, LOCAL, workspace), settings)
    about = nodes.accept_tables(listing, accepted, settings)
    counts = nodes.reconcile(listing, accepted, about)
    return Ingested(nodes.report(counts, listing, again, accepted, about, settings), accepted, about)


def page_of(media: Path, out: Ingested, settings: Any) -> tuple[Content, str]:
    told = describe_corpus(*out, settings)
    return Content.model_validate(told), show_corpus(told, media, out.videos, settings)


def test_a_messy_corpus_has_a_page(media: Path, tmp_path: Path) -> None:
    folder = tmp_path / "media"
    shutil.copytree(media, folder)
    broken = write_broken_files(folder, media / "a.mp4", seed=0)
    videos = [
        *([name, "train"] for name in ("a.mp4", "b.avi", "short.mp4", "red.png")), ["a copy.mp4", "test"],
        *([name, "train"] for name, _ in broken), ["gone.mp4", "test"], ["../a.mp4", "train"],
    ]  # fmt: skip
    captions = [["a copy.mp4", EVIL], ["short.mp4", "of a short one"], ["never.mp4", "of none"]]
    settings = params(on_content_in_two_splits="reject")
    out = ingested(folder, tmp_path / "workspace", videos, captions, [["b.avi", "act", "run"]], settings)
    content, html = page_of(folder, out, settings)
    assert {group.reason for group in content.reasons} == set(out.report["tables"]["videos"]["reasons"]) | set(
        out.report["tables"]["captions"]["reasons"]
    )
    assert all(group.meaning and group.remedy for group in content.reasons)
    assert html.count('class="strip clip-') >= 5, "a copy, b, red, short, a"
    assert "no frames" not in html, "what would not decode was not tried"
    assert str(tmp_path) not in html
    assert "alert" in text_of(html)
    assert "<script" not in html


def test_a_file_that_is_gone_by_then_has_a_box_that_says_so(media: Path, tmp_path: Path) -> None:
    folder = tmp_path / "media"
    shutil.copytree(media, folder)
    out = ingested(folder, tmp_path / "workspace", [["a.mp4", "train"], ["b.avi", "test"]], [], [], params())
    (folder / "b.avi").unlink()
    content, html = page_of(folder, out, params())
    assert [file.path for file in content.accepted] == ["a.mp4", "b.avi"]
    assert "no frames: missing_file: expected a file, found nothing" in html
    assert html.count('class="strip clip-') == 1


@pytest.mark.slow
def test_the_same_corpus_has_the_same_page(media: Path, tmp_path: Path) -> None:
    out = ingested(media, tmp_path, [["a.mp4", "train"], ["red.png", "train"]], [], [], params())
    assert page_of(media, out, params()) == page_of(media, out, params())


def test_the_page_is_made_of_what_the_catalog_writes() -> None:
    nodes = {node.name: node for node in create_pipeline().nodes}
    assert nodes["describe_corpus"].outputs == ["ingestion_statistics"]
    assert set(nodes["show_corpus"].inputs) == {"ingestion_statistics", "raw_media", "settled_videos_data", "params:ingestion"}
    tables = {"videos", "captions", "labels", "questions", "boxes", "rejects"}
    assert create_pipeline().outputs() == {"ingestion_page", "ingestion_numbers", *tables}, "and nothing after it"
