"""Bad rows: each has a stated outcome, a reject that says what to do, or an error that names row and column."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.pipelines.test_ingestion import Tables, ingest, params
from umt_pipeline.core.errors import TableError
from umt_pipeline.pipelines.ingestion import nodes
from umt_pipeline.pipelines.ingestion.remedies import EXPLANATIONS
from umt_pipeline.schemas import Captions, Labels, Rejects, RowReason, Videos
from umt_pipeline.video.media import Reason, VideoInfo

DOCUMENT = Path(__file__).parents[2] / "docs" / "rejects.md"
COMPOSED, APART = (unicodedata.normalize(form, "é.mp4") for form in ("NFC", "NFD"))


@pytest.fixture(autouse=True)
def any_file_is_a_video(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables are tried here, not decoders: each file is a video, of the content that it holds."""

    def probe(folder: Path, names: list[str], *_: Any) -> list[Any]:
        paths = [folder / name for name in names]
        return [
            VideoInfo("video", "mp4", "h264", 64, 48, 24.0, 12, 0.5, 9, path.read_text().ljust(64, "0"))
            if path.exists()
            else nodes.Refusal("missing_file", "expected a file, found nothing")
            for path in paths
        ]

    monkeypatch.setattr(nodes, "probe_all", probe)


@pytest.fixture
def media(tmp_path: Path) -> Path:
    for number, name in enumerate(("a.mp4", "b.mp4", "c.mp4")):
        (tmp_path / name).write_text(str(number))
    return tmp_path


GOOD = [["a.mp4", "train"], ["b.mp4", "validation"], ["c.mp4", "test"]]


def table(first: str, second: str, rows: list[list[Any]]) -> pd.DataFrame:
    """Return a table of any cells, as JSON brings them."""
    return pd.DataFrame(rows, columns=[first, second], dtype=object)


def rejected(out: Tables) -> list[list[Any]]:
    """Return the rejects, and check what holds for all tables: rows reconcile, types are right, each row says what to do."""
    for name, schema in {"videos": Videos, "captions": Captions, "labels": Labels, "rejects": Rejects}.items():
        schema.validate(out[name], lazy=True)
        if name != "rejects":
            counts = out["ingestion_report"]["tables"][name]
            assert counts["rows_in"] == counts["accepted"] + counts["rejected"]
            assert counts["rejected"] == (out["rejects"]["table"] == name).sum()
    for reject in out["rejects"].itertuples():
        assert reject.remedy == EXPLANATIONS[reject.reason].remedy
    return out["rejects"][["table", "row", "reason"]].to_numpy().tolist()


BAD_VIDEOS = [
    (["", "train"], "blank_cell", "column 'video': expected text that is not blank, found ''"),
    (["\u200b", "train"], "blank_cell", r"found '\u200b'"),
    ([1.5, "train"], "not_text", "column 'video': expected text, found float 1.5"),
    (["d\ud800.mp4", "train"], "broken_text", r"found a lone surrogate in 'd\ud800.mp4'"),
    (["d.mp4", "training"], "unknown_split", "column 'split': expected one of train, validation, test, found 'training'"),
    (["d.mp4", None], "unknown_split", "found ''"),
    (["./a.mp4", "train"], "duplicate", "column 'video': row 0 names the same file"),
]
BAD_CAPTIONS = [
    (["a.mp4", " "], "blank_caption", "column 'caption': expected text that is not blank, found ' '"),
    (["a.mp4", "\u200b\u2060 \ufeff"], "blank_caption", r"found '\u200b\u2060 \ufeff'"),
    (["a.mp4", "\x00\x1b"], "blank_caption", r"found '\x00\x1b'"),
    (["a.mp4", None], "blank_caption", "found ''"),
    (["a.mp4", ["two", "texts"]], "not_text", "column 'caption': expected text, found list ['two', 'texts']"),
    (["a.mp4", "half \udc00"], "broken_text", r"found a lone surrogate in 'half \udc00'"),
    (["", "x"], "blank_cell", "column 'video'"),
    (["never.mp4", "x"], "unknown_video", "column 'video': expected a video of table raw_videos, found 'never.mp4'"),
]


@pytest.mark.parametrize(("row", "reason", "detail"), BAD_VIDEOS)
def test_a_bad_row_of_videos_costs_itself_or_ends_the_run(media: Path, row: list[Any], reason: str, detail: str) -> None:
    videos = table("video", "split", [*GOOD, row])
    out = ingest(media, videos, [], [])
    assert rejected(out) == [["videos", 3, reason]]
    assert detail in out["rejects"]["detail"][0]
    assert list(out["videos"]["path"]) == ["a.mp4", "b.mp4", "c.mp4"]
    with pytest.raises(TableError) as caught:
        ingest(media, videos, [], [], params(on_bad_row="error"))
    assert f"row 3, {out['rejects']['detail'][0]} ({reason}). {EXPLANATIONS[reason].remedy}" in str(caught.value)


@pytest.mark.parametrize(("row", "reason", "detail"), BAD_CAPTIONS)
def test_a_bad_caption_costs_itself_or_ends_the_run(media: Path, row: list[Any], reason: str, detail: str) -> None:
    captions = table("video", "caption", [["a.mp4", "good"], row, ["b.mp4", "good too"]])
    out = ingest(media, GOOD, captions, [])
    assert rejected(out) == [["captions", 1, reason]]
    assert detail in out["rejects"]["detail"][0]
    assert out["captions"]["caption_id"].tolist() == [0, 2]
    with pytest.raises(TableError, match=r"Table raw_captions: 1 row\(s\) cannot be used(?s:.*)row 1, column"):
        ingest(media, GOOD, captions, [], params(on_bad_row="error"))


def test_bad_rows_end_the_run_before_any_file_is_opened(media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "probe_all", lambda *_: pytest.fail("a file was opened"))
    for captions, share, message in (([["a.mp4", ""]] * 7, 1.0, "and 2 more"), ([], 0.1, "unknown_split 1")):
        strict = params(on_bad_row="error" if captions else "reject", max_rejected_share=share)
        with pytest.raises(TableError, match=message):
            ingest(media, GOOD if captions else [*GOOD, ["d.mp4", "no"]], captions, [], strict)


def test_texts_are_cleaned_by_rule_and_counted(media: Path) -> None:
    apart = unicodedata.normalize("NFD", "café")
    captions = [["a.mp4", " a\x00b\x1b[1m\tc\r\n"], ["b.mp4", apart], ["c.mp4", "👩\u200d🔬 \u200cok"]]
    labels = [["a.mp4", "place", apart], ["b.mp4", "place", "café"]]
    out = ingest(media, GOOD, captions, labels)
    assert rejected(out) == []
    # Joiners inside a text belong to it: emoji and Persian need them.
    assert out["captions"]["caption"].tolist() == ["a b [1m c", "café", "👩\u200d🔬 \u200cok"]
    assert set(out["labels"]["label"]) == {"café"}, "one class, however it is written"
    tables = out["ingestion_report"]["tables"]
    assert tables["captions"]["cleaned"] == {"control_characters": 1, "unicode_form": 1}
    assert tables["labels"]["cleaned"] == {"control_characters": 0, "unicode_form": 1}


def test_a_huge_cell_is_kept_and_told(media: Path) -> None:
    out = ingest(media, GOOD, [["a.mp4", "word " * 60_000], ["c.mp4", "x"]], [["\u200b" * 300_000, "t", "x"]])
    assert rejected(out) == [["labels", 0, "blank_cell"]]
    assert len(out["rejects"]["detail"][0]) < 300
    assert any("longest of 299999: only the first words" in told for told in out["ingestion_report"]["warnings"])


def test_labels_stay_text(media: Path) -> None:
    out = ingest(media, GOOD, [], [["a.mp4", "t", "007"], ["b.mp4", "t", "NA"], ["c.mp4", "t", "1.0"]])
    assert out["labels"]["label"].tolist() == ["007", "NA", "1.0"]
    numbers = pd.DataFrame({"video": ["a.mp4", "b.mp4", "c.mp4"], "task": "t", "label": [1, None, 3]})
    out = ingest(media, GOOD, [], numbers)  # pandas has made 1.0, nan and 3.0 of them
    assert out["labels"]["label"].tolist() == ["1", "3"]
    assert rejected(out) == [["labels", 1, "blank_cell"]]
    out = ingest(media, GOOD, [], numbers.astype({"label": str}).fillna("2.0"))
    assert any("All labels of task t end in .0" in told for told in out["ingestion_report"]["warnings"])


def test_labels_that_contradict_each_other_are_all_left_out(media: Path) -> None:
    labels = [["a.mp4", "t", "x"], ["a.mp4", "t", "y"], ["b.mp4", "t", "x"], ["b.mp4", "t", "x "], ["a.mp4", "u", "y"]]
    out = ingest(media, GOOD, [], labels)
    told = [["labels", 0, "contradicting_labels"], ["labels", 1, "contradicting_labels"], ["labels", 3, "duplicate"]]
    assert rejected(out) == told
    assert "'x' in row 0, 'y' in row 1" in out["rejects"]["detail"][0]
    assert out["labels"][["video_id", "task"]].to_numpy().tolist() == [["b", "t"], ["a", "u"]]


def test_a_file_listed_twice_keeps_what_is_about_it(media: Path) -> None:
    captions = [["a.mp4", "x"], ["./a.mp4", "y"]]
    out = ingest(media, [*GOOD, ["a.mp4", "train"]], captions, [], params(max_rejected_share=0.0))
    assert rejected(out) == [["videos", 3, "duplicate"]], "no file is lost"
    assert len(out["captions"]) == 2
    twice = [["a.mp4", "train"], ["a.mp4", "test"], ["b.mp4", "train"]]
    with pytest.raises(TableError, match=r"same file is in two splits: a.mp4 \(train, row 0\), a.mp4 \(test, row 1\)"):
        ingest(media, twice, captions, [])
    out = ingest(media, twice, captions, [], params(on_content_in_two_splits="reject"))
    assert rejected(out) == [["videos", 0, "content_in_two_splits"]]
    assert dict(zip(out["videos"]["path"], out["videos"]["split"], strict=True)) == {"a.mp4": "test", "b.mp4": "train"}


def test_of_files_with_one_name_the_first_keeps_it(media: Path) -> None:
    rows = [["a.mp4", "train", "x"], ["b.mp4", "train", "y"], ["b.mp4", "train", "x"], ["c.mp4", "test", "x"]]
    videos = pd.DataFrame(rows, columns=["video", "split", "name"])
    out = ingest(media, videos, [], [], params(columns={"videos": {"video_id": "name"}}))
    assert out["videos"]["video_id"].tolist() == ["x", "y"]
    assert rejected(out) == [["videos", 2, "duplicate"], ["videos", 3, "duplicate_id"]]


@pytest.mark.parametrize(("listed", "named"), [(APART, COMPOSED), (COMPOSED, APART), (COMPOSED, COMPOSED)])
@pytest.mark.parametrize("on_disk", [COMPOSED, APART])
def test_a_path_in_another_unicode_form_is_that_of_the_file(media: Path, listed: str, named: str, on_disk: str) -> None:
    folder = media / unicodedata.normalize("NFD", "ü")
    folder.mkdir()
    (folder / on_disk).write_text("7")
    out = ingest(media, [*GOOD, [f"ü/{listed}", "train"]], [[f"ü/{named}", "x"]], [])
    assert rejected(out) == []
    assert out["videos"]["path"].tolist()[-1] == f"{folder.name}/{on_disk}"
    assert len(out["captions"]) == 1


def test_paths_that_differ_in_unicode_form_only(media: Path) -> None:
    (media / COMPOSED).write_text("7")
    twins = [*GOOD, [APART, "train"], [COMPOSED, "train"]]
    captions = [[COMPOSED, "composed"], [APART, "apart"]]
    out = ingest(media, twins, captions, [])
    assert rejected(out) == [["videos", 3, "path_twin"]], "one file: the row that is written as it is called stays"
    assert len(out["captions"]) == 2
    (media / APART).write_text("8")
    if len(list(media.iterdir())) == 5:  # the file system keeps both
        out = ingest(media, twins, captions, [])
        assert rejected(out) == []
        owner = dict(zip(out["videos"]["video_id"], out["videos"]["path"], strict=True))
        assert [owner[video_id] for video_id in out["captions"]["video_id"]] == [COMPOSED, APART]


def test_several_files_fit_a_path_but_none_is_called_so(media: Path) -> None:
    names = ["e\u0323\u0307.mp4", "\u1eb9\u0307.mp4"]
    for number, name in enumerate(names):
        (media / name).write_text(f"7{number}")
    if len(list(media.iterdir())) < 5:
        pytest.skip("this file system has one name for all forms")
    out = ingest(media, [*GOOD, ["\u0117\u0323.mp4", "train"]], [["\u0117\u0323.mp4", "x"]], [])
    assert rejected(out) == [["videos", 3, "ambiguous_path"], ["captions", 0, "video_rejected"]]


def test_paths_that_differ_in_case_only(media: Path) -> None:
    (media / "A.mp4").write_text("7")
    sensitive = len(list(media.iterdir())) == 4
    out = ingest(media, [*GOOD, ["A.mp4", "train"], ["B.mp4", "train"]], [["A.mp4", "x"], ["B.mp4", "y"]], [])
    lost = [["videos", 4, "path_twin"], ["captions", 1, "video_rejected"]]
    assert rejected(out)[-2:] == lost
    assert "found only 'b.mp4' of another row, which differs in case only" in out["rejects"]["detail"].tolist()[-2]
    if sensitive:
        assert rejected(out) == lost
        assert {"a", "A"} <= set(out["videos"]["video_id"])


def test_what_later_stages_miss_is_told_where_the_corpus_is_counted(media: Path) -> None:
    def told(videos: list[list[str]], captions: list[list[str]]) -> str:
        return "\n".join(ingest(media, videos, captions, [["a.mp4", "t", "x"]])["ingestion_report"]["warnings"])

    whole = told(GOOD, [["a.mp4", "x"], ["c.mp4", "y"]])
    assert "Split train has 1 videos, fewer than a batch" in whole
    assert whole.count("\n") == 0
    assert "Split validation has no video, so no setting can be chosen on it" in told([*GOOD[:1], GOOD[2]], [["a.mp4", "x"]])
    assert "No video of split test has a caption, so no search is measured on it" in told(GOOD, [["a.mp4", "x"]])
    assert "No video or image of split train has a caption, so stage 2 cannot be trained" in told(GOOD, [["c.mp4", "x"]])
    assert "No video has a caption" in told(GOOD, [])
    assert "None of the 1 rows of table raw_captions is accepted" in told(GOOD, [["elsewhere.mp4", "x"]])


# --- one place for what reasons mean ----------------------------------------------------------------------------------
def test_every_reason_is_explained_once_and_its_remedy_is_a_sentence() -> None:
    assert set(EXPLANATIONS) == {str(reason) for reason in (*Reason, *RowReason)}
    assert len(EXPLANATIONS) == len(Reason) + len(RowReason)
    for reason, told in EXPLANATIONS.items():
        assert told.remedy.endswith("."), reason
        assert "\n" not in told.remedy, reason
        assert told.remedy[0].isupper(), reason


def test_the_page_of_rejects_says_what_the_program_says() -> None:
    def row(reason: str) -> str:
        told = EXPLANATIONS[reason]
        return f"| `{reason}` | {told.meaning} | {told.remedy} | {f'`{told.parameter}`' if told.parameter else ''} |"

    expected = [row(reason) for reason in EXPLANATIONS]
    found = [line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert found == expected, "write the table of docs/rejects.md like this:\n" + "\n".join(expected)
