"""The report on search says what was found, where, and what it was measured with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.features.tiny import write_clip
from tests.reports.pages import checked, rows_below, text_of
from tests.serving.array_index import ArrayIndex, indexed
from umt_pipeline.core.errors import ConfigError, TableError
from umt_pipeline.core.files import read_json
from umt_pipeline.serving.embedder import Embedder
from umt_pipeline.serving.search.calibration import Cutoff
from umt_pipeline.serving.search.captions import read_captions
from umt_pipeline.serving.search.page import search_page, write_report
from umt_pipeline.serving.search.report import Asked, SearchReport, measure, scores_of
from umt_pipeline.serving.search.search import Hit

CLIPS = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips, and a table of captions: of every second clip about its first half; one of a clip that is not in the index."""
    folder = tmp_path_factory.mktemp("clips")
    lines = ["video,caption,start,end"]
    for number in range(CLIPS):
        write_clip(folder / f"clip {number}.mp4", 30, 40, 56, seed=number)
        lines.append(f"clip {number}.mp4,a {('disc', 'star')[number % 2]} {number} goes left,{'0,1.5' if number % 2 else ','}")
    lines.append("elsewhere.mp4,a star,,")
    (folder / "captions.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def index(embedder: Embedder, folder: Path) -> ArrayIndex:
    return indexed(embedder, [folder / f"clip {number}.mp4" for number in range(CLIPS)], folder)


@pytest.fixture(scope="module")
def report(embedder: Embedder, folder: Path, index: ArrayIndex) -> SearchReport:
    return measure(embedder, index, read_captions(folder / "captions.csv"), rerank=2)


def hit(path: str, start: float, end: float) -> Hit:
    return Hit(1, "0", path, start, end, 0.5, None, None, None, "2024-05-01", 0)


def test_scores_are_counted_as_defined() -> None:
    right, other = hit("/a", 0.0, 4.0), hit("/b", 0.0, 4.0)
    asked = [
        Asked("first", "/a", (0.0, 4.0), (right, other), (True, False)),
        Asked("second", "/a", (3.0, 5.0), (other, right), (False, True)),
        Asked("never", "/a", (0.0, 4.0), (other,), (False,)),
        Asked("without seconds", "/a", None, (other, other, right), (False, False, True)),
    ]
    assert [one.rank for one in asked] == [1, 2, None, 3]
    assert scores_of(asked) == pytest.approx(
        {
            "r1": 25.0, "r5": 75.0, "r10": 75.0, "place": 100 * (1 + 1 / 5 + 0) / 3,
            "place_r1_30": 100 / 3, "place_r1_50": 100 / 3, "place_r1_70": 100 / 3,
        }
    )  # fmt: skip
    assert set(scores_of(asked[3:])) == {"r1", "r5", "r10"}


def test_captions_are_searched_for(report: SearchReport, folder: Path) -> None:
    assert {system: len(asked) for system, asked in report.asked.items()} == {"dual": CLIPS, "reranked": CLIPS}
    assert report.asked["dual"][1].path == str(folder / "clip 1.mp4")
    assert report.asked["dual"][1].span == (0.0, 1.5)
    assert report.chance == pytest.approx({"r1": 100 / CLIPS, "r5": 500 / CLIPS, "r10": 1000 / CLIPS})
    assert report.scores.hidden
    assert len(report.scores.present_P) == len(report.scores.absent_A) == CLIPS
    dual, reranked = report.records
    assert (dual.task, reranked.task) == ("search/dual", "search/reranked")
    assert dual.protocol is not None
    assert reranked.protocol is not None
    assert (dual.protocol.clips, dual.protocol.queries, dual.protocol.k) == (CLIPS, CLIPS, None)
    assert (reranked.protocol.k, reranked.protocol.score_type) == (2, "reranked")
    assert (reranked.protocol.settings["rerank_weight"], "rerank_weight" in dual.protocol.settings) == (0.5, False)
    assert dual.values["r1"] == report.values("dual")["r1"] > 0


def test_the_page_shows_it(report: SearchReport) -> None:
    cutoff = Cutoff(score=0.25, missed=0.125, invented=0.25, present=CLIPS, absent=CLIPS, hidden=True, windows=48)
    page = search_page(replace(report, cutoff=cutoff))
    html = checked(page)
    assert rows_below(html, "Errors of the cut-off 0.250")[1][-1] == "25.0\N{NO-BREAK SPACE}%"
    words = text_of(html)
    assert f"Each of {CLIPS} captions was searched for among {CLIPS} files" in words
    assert [row[0] for row in rows_below(html, "Captions whose file is found, %")] == ["Search", "Search, re-ranked", "Chance"]
    assert rows_below(html, "Captions whose place is found, %")[0][0] == "Search"
    assert "captions of the same files, each asked while its own file and all with the same caption are hidden" in words
    assert "peak bytes of memory of this process" in words
    assert "Rank 3" in words
    assert "no frames" not in words


def test_a_page_without_places_and_cutoff_says_why(report: SearchReport) -> None:
    asked = {"dual": [replace(one, span=None) for one in report.asked["dual"]]}
    few = "no cut-off: expected at least 20 held-out captions of files in the index, found 3"
    words = text_of(checked(search_page(replace(report, asked=asked, cutoff=few))))
    assert "No caption says which seconds of its file it is about" in words
    assert few in words


def test_the_report_is_a_page_and_records(report: SearchReport, tmp_path: Path) -> None:
    write_report(report, tmp_path / "report.html", {"captions": "captions.csv"})
    assert "captions.csv" in (tmp_path / "report.html").read_text()
    assert [record["task"] for record in read_json(tmp_path / "report.json")] == ["search/dual", "search/reranked"]


def test_a_file_that_vanished_has_no_picture(embedder: Embedder, index: ArrayIndex, folder: Path) -> None:
    table = read_captions(folder / "captions.csv").iloc[:3]
    path = Path(table["path"].iloc[0])
    kept = path.read_bytes()
    path.unlink()
    try:
        words = text_of(checked(search_page(measure(embedder, index, table))))
    finally:
        path.write_bytes(kept)
    assert "no frames" in words


def test_captions_of_other_files_make_no_report(embedder: Embedder, index: ArrayIndex, folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected held-out captions of its files, found none in 1 rows"):
        measure(embedder, index, read_captions(folder / "captions.csv").iloc[-1:])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file,caption\na.mp4,a star\n", r"expected columns path and caption, found no path"),
        ("path,caption\na.mp4,a star\n,a disc\n", r"row 2: expected a path, found ''"),
        ("path,caption\na.mp4,\n", r"row 1, caption: the text: expected a sentence or a word, found nothing to read"),
        ("path,caption,start_s\na.mp4,a star,soon\n", r"column start_s: expected seconds, found"),
    ],
)
def test_tables_that_say_no_captions_are_refused(table: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "captions.csv").write_text(table)
    with pytest.raises(TableError, match=message):
        read_captions(tmp_path / "captions.csv")


def test_captions_are_read_as_they_are(tmp_path: Path) -> None:
    pd.DataFrame({"path": ["/videos/a.mp4"], "caption": ["NA"], "split": ["test"], "start_s": [1]}).to_json(
        tmp_path / "captions.json", orient="records"
    )
    (row,) = read_captions(tmp_path / "captions.json").to_dict("records")
    assert (row["path"], row["caption"], row["split"], row["start_s"]) == ("/videos/a.mp4", "NA", "test", 1.0)
    assert np.isnan(row["end_s"])
