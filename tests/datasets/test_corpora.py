"""Annotation files of several corpora are read as one table, and errors name corpus and file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from kedro.io import DataCatalog, DatasetError

from umt_pipeline.core.errors import TableError
from umt_pipeline.datasets import CorporaTableDataset

TRAIN = {"constant": "train"}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """What VindLU's annotation files look like: one object per medium and caption."""
    webvid = [{"video": "a.mp4", "caption": "a dog"}, {"video": "sub/b.mp4", "caption": "a cat"}]
    coco = [{"image": "a.jpg", "caption": f"wording {n}"} for n in range(5)] + [{"image": "b.jpg", "caption": "other"}]
    (tmp_path / "webvid.json").write_text(json.dumps(webvid))
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    (tmp_path / "sbu.csv").write_text("path,text,licence\n./c.jpg,hello,?\n")
    return tmp_path


def corpora(files: Path, **columns: Any) -> dict[str, Any]:
    return {
        "webvid": {"filepath": str(files / "webvid.json"), "columns": {"video": "video", **columns}, "folder": "webvid"},
        "coco": {"filepath": str(files / "coco.json"), "columns": {"video": "image", **columns}, "folder": "images/coco/"},
    }


def test_one_file_is_the_table_of_media_and_of_captions(files: Path) -> None:
    config = {"type": "umt_pipeline.datasets.CorporaTableDataset"}
    catalog = DataCatalog.from_config(
        {
            "raw_videos": {**config, "distinct": True, "corpora": corpora(files, split=TRAIN)},
            "raw_captions": {**config, "corpora": corpora(files, caption="caption")},
        }
    )
    assert catalog.load("raw_videos").to_numpy().tolist() == [
        ["webvid/a.mp4", "train", "webvid"],
        ["webvid/sub/b.mp4", "train", "webvid"],
        ["images/coco/a.jpg", "train", "coco"],
        ["images/coco/b.jpg", "train", "coco"],
    ]
    captions = catalog.load("raw_captions")
    assert list(captions.columns) == ["video", "caption", "corpus"]
    assert captions["video"].value_counts().to_dict()["images/coco/a.jpg"] == 5
    assert len(captions) == 8
    assert catalog.exists("raw_videos")
    with pytest.raises(DatasetError, match=r"webvid, coco: expected to be read only"):
        catalog.save("raw_videos", captions)


def test_tables_of_any_format_and_order_of_columns(files: Path) -> None:
    mixed = corpora(files, caption="caption") | {
        "sbu": {"filepath": str(files / "sbu.csv"), "columns": {"caption": "text", "video": "path"}}
    }
    table = CorporaTableDataset(mixed).load()
    assert table.iloc[-1].to_dict() == {"video": "./c.jpg", "caption": "hello", "corpus": "sbu"}
    assert list(table.index) == list(range(9))


def test_a_corpus_without_rows_and_files_that_are_missing(files: Path) -> None:
    (files / "coco.json").write_text("[]")
    assert set(CorporaTableDataset(corpora(files)).load()["corpus"]) == {"webvid"}
    (files / "coco.json").unlink()
    dataset = CorporaTableDataset(corpora(files))
    assert not dataset.exists()
    with pytest.raises(DatasetError, match=r"Corpus coco: .*coco\.json: expected a table, found nothing"):
        dataset.load()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"columns": {"video": "file"}},
            r"coco\.json of corpus coco: expected a column 'file', found: image, caption.*coco\.columns\.video",
        ),
        (
            {"folder": "webvid", "columns": {"video": {"constant": "a.mp4"}}},
            r"Corpora webvid and coco: both name the file 'webvid/a\.mp4' \(1 such",
        ),
        (
            {"columns": {"video": "image", "split": TRAIN}},
            r"coco\.columns: expected the same columns as corpus webvid, video; found split, video",
        ),
        ({"columns": {"image": "image"}}, r"coco\.columns: expected 'video' and not 'corpus'.*found image"),
        ({"columns": {"video": "image", "corpus": "x"}}, r"expected 'video' and not 'corpus', which is the key"),
        ({"columns": {}}, r"corpora\.coco\.columns: Dictionary should have at least 1 item"),
        ({"colums": {}}, r"corpora\.coco\.colums: Extra inputs are not permitted"),
        ({"filepath": "coco.txt"}, r"coco\.txt: expected a table ending in .csv"),
    ],
)
def test_what_does_not_fit_names_the_corpus(files: Path, change: dict[str, Any], message: str) -> None:
    wrong = corpora(files)
    wrong["coco"] |= change
    with pytest.raises((TableError, DatasetError), match=message):
        CorporaTableDataset(wrong, distinct=True).load()


def test_without_corpora_there_is_nothing_to_read() -> None:
    with pytest.raises(TableError, match="expected at least one corpus"):
        CorporaTableDataset({})


def test_a_cell_that_is_no_text_stays_as_it_is_for_the_ingestion_to_judge(files: Path) -> None:
    rows = [{"image": "a.jpg", "caption": ["one", "two"]}, {"image": 1.5, "caption": "x"}, {"image": 7, "caption": "y"}]
    (files / "coco.json").write_text(json.dumps(rows))
    table = CorporaTableDataset(corpora(files, caption="caption")).load()
    assert table["caption"].tolist() == ["a dog", "a cat", ["one", "two"], "x", "y"]
    assert table["video"].tolist()[2:] == ["images/coco/a.jpg", 1.5, "images/coco/7"]
    assert len(CorporaTableDataset(corpora(files, caption="caption"), distinct=True).load()) == 5


def test_equal_rows_are_equal_files_only_within_a_corpus(files: Path) -> None:
    table = CorporaTableDataset(corpora(files, split=TRAIN)).load()
    assert len(table) == 8
    pd.testing.assert_frame_equal(
        CorporaTableDataset(corpora(files, split=TRAIN), distinct=True).load(), table.drop_duplicates(ignore_index=True)
    )
