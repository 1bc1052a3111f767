"""Captions of large corpora, and UMT's own files."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.tables.reading import read, rows, splits
from umt_pipeline.core.errors import TableError
from umt_pipeline.tables import READERS

WEBVID = "videoid,contentUrl,duration,page_dir,name\n"


def test_webvid(tmp_path: Path) -> None:
    row = '1066674784,https://example.org/p.mp4,PT00H00M15S,006001_006050,"Rotating globe, blue ""Earth"" 4k"\n'
    blank = "21179416,https://example.org/q.mp4,PT00H00M15S,006001_006050,\n"
    found = read(tmp_path, "webvid", {"results_2M_train.csv": WEBVID + row + blank, "results_2M_val.csv": WEBVID})
    assert splits(found) == [
        ("006001_006050/1066674784.mp4", "train"),
        ("006001_006050/21179416.mp4", "train"),
    ]
    assert rows(found.captions) == [("006001_006050/1066674784.mp4", 'Rotating globe, blue "Earth" 4k')]
    assert found.warnings == (
        "1 blank captions were left out (first: results_2M_train.csv, line 3)",
        "1 videos of train have no captions (first: 006001_006050/21179416.mp4)",
    )


def test_conceptual_captions_with_and_without_a_header(tmp_path: Path) -> None:
    line = 'a very typical "bus station\thttp://example.org/a.jpg\n'
    for text in (line, "caption\turl\n" + line, "url\tcaption\n" + "\t".join(reversed(line.rstrip().split("\t"))) + "\n"):
        found = read(tmp_path, "cc3m", {"Train_GCC-training.tsv": text})
        assert rows(found.captions) == [("train/00000/000000000.jpg", 'a very typical "bus station')]
    found = read(tmp_path, "cc12m", {"cc12m.tsv": "http://example.org/a.jpg\tMetal <PERSON> Flag\n" * 10_001})
    assert rows(found.captions)[-1] == ("train/00001/000010000.jpg", "Metal <PERSON> Flag")
    with pytest.raises(TableError, match=r"cc12m\.tsv, line 1: expected 2 cells with a tab between \(url, caption\), found 1"):
        read(tmp_path, "cc12m", {"cc12m.tsv": "http://example.org/a.jpg Metal\n"})


def test_sbu(tmp_path: Path) -> None:
    sbu = {"image_urls": ["http://a", "http://b"], "user_ids": ["1", "2"], "captions": ["a cat", "a dog"]}
    found = read(tmp_path, "sbu", {"sbu-captions-all.json": sbu})
    assert rows(found.captions) == [("train/00000/000000000.jpg", "a cat"), ("train/00000/000000001.jpg", "a dog")]
    with pytest.raises(TableError, match="expected as many captions as image_urls, found 2 and 1"):
        read(tmp_path, "sbu", {"sbu-captions-all.json": sbu | {"image_urls": ["http://a"]}})


COCO = {
    "info": {},
    "images": [
        {"id": 9, "file_name": "COCO_train2014_9.jpg", "coco_url": "http://images.example.org/train2014/COCO_train2014_9.jpg"},
        {"id": 10, "file_name": "10.jpg"},
    ],
    "annotations": [
        {"image_id": 9, "id": 1, "caption": "A plate of food.\n"},
        {"image_id": 9, "id": 2, "caption": "Food on a tray."},
        {"image_id": 10, "id": 3, "caption": "A giraffe."},
    ],
}


def test_coco(tmp_path: Path) -> None:
    found = read(tmp_path, "coco", {"captions_train2014.json": COCO})
    assert rows(found.captions) == [
        ("train2014/COCO_train2014_9.jpg", "A plate of food."),
        ("train2014/COCO_train2014_9.jpg", "Food on a tray."),
        ("10.jpg", "A giraffe."),
    ]
    with pytest.raises(TableError, match=r"annotation 0, key 'image_id': expected one of the 2 images, found 7"):
        read(tmp_path, "coco", {"captions_train2014.json": COCO | {"annotations": [{"image_id": 7, "caption": "x"}]}})
    with pytest.raises(TableError, match=r"captions_train2014\.json, item top: expected the key 'annotations', found images"):
        read(tmp_path, "coco", {"captions_train2014.json": {"images": []}})


def test_karpathy(tmp_path: Path) -> None:
    image = {"filepath": "val2014", "filename": "COCO_val2014_1.jpg", "split": "restval", "sentences": [{"raw": "A man."}]}
    test = {"filename": "36979.jpg", "split": "test", "sentences": [{"raw": "Two men."}, {"raw": "Two friends."}]}
    found = read(tmp_path, "karpathy", {"dataset_coco.json": {"images": [image, test]}})
    assert splits(found) == [("val2014/COCO_val2014_1.jpg", "train"), ("36979.jpg", "test")]
    assert [caption for _, caption in rows(found.captions)] == ["A man.", "Two men.", "Two friends."]
    with pytest.raises(TableError, match=r"image 0, sentences 0: expected the key 'raw', found text"):
        read(tmp_path, "karpathy", {"dataset_coco.json": {"images": [image | {"sentences": [{"text": "A man."}]}]}})


def test_visual_genome(tmp_path: Path) -> None:
    regions = [{"id": 1, "regions": [{"region_id": 1, "phrase": "the clock"}, {"region_id": 2, "phrase": "a man"}]}]
    found = read(tmp_path, "visual-genome", {"region_descriptions.json": regions})
    assert rows(found.captions) == [("1.jpg", "the clock"), ("1.jpg", "a man")]
    images = [{"image_id": 1, "url": "https://example.org/people/rak248/VG_100K_2/1.jpg"}]
    found = read(tmp_path, "visual-genome", {"region_descriptions.json": regions, "image_data.json": images})
    assert splits(found) == [("VG_100K_2/1.jpg", "train")]


def umt(folder: Path, reader: str, items: Any, split: str = "train") -> Any:
    return read(folder, reader, {f"{split}=anno.json": items})


def test_umt_json_of_videos_and_images(tmp_path: Path) -> None:
    found = umt(tmp_path, "umt", [{"image": "a/b.jpg", "caption": "x"}, {"video": "clip", "caption": "y"}])
    assert rows(found.captions) == [("a/b.jpg", "x"), ("clip.mp4", "y")]


def test_umt_json_with_lists(tmp_path: Path) -> None:
    several = [{"video": "a.mp4", "caption": [" one ", "two", "two"]}]
    assert rows(umt(tmp_path, "umt", several).captions) == [("a.mp4", "one"), ("a.mp4", "two"), ("a.mp4", "two")]
    assert rows(umt(tmp_path, "umt-paragraph", several).captions) == [("a.mp4", "one two two")]
    assert rows(umt(tmp_path, "didemo-umt", several, "test").captions) == [("a.mp4", "one two two")]
    assert len(umt(tmp_path, "msvd-umt", several, "test").captions) == 3
    template = [{"video": ["1.webm", "2.webm"], "caption": "holding something"}]
    found = umt(tmp_path, "ssv2-template-umt", template, "test")
    assert rows(found.captions) == [("1.webm", "holding something"), ("2.webm", "holding something")]


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"caption": "x"}, "expected the key 'video', found caption"),
        ({"video": "", "caption": "x"}, "key 'video': expected names of media files, found ''"),
        ({"video": [], "caption": "x"}, r"key 'video': expected names of media files, found \[\]"),
        ({"video": 3, "caption": "x"}, "key 'video': expected text or a list of texts, found int 3"),
        ({"video": "a"}, "expected the key 'caption', found video"),
        ({"video": "a", "caption": {"x": 1}}, "key 'caption': expected text or a list of texts, found dict"),
        ({"video": "a", "caption": ["x", None]}, "key 'caption': expected text or a list of texts, found NoneType null"),
    ],
)
def test_wrong_umt_json(tmp_path: Path, item: Any, message: str) -> None:
    with pytest.raises(TableError, match=rf"anno\.json, item 1(: |, ){message}"):
        umt(tmp_path, "umt", [{"video": "b", "caption": "y"}, item])


def database(path: Path, columns: str, entries: list[tuple[Any, ...]]) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(f"CREATE TABLE annos({columns})")
        connection.executemany(f"INSERT INTO annos VALUES ({', '.join('?' * len(entries[0]))})", entries)
    connection.close()


def test_umt_sqlite(tmp_path: Path) -> None:
    folder = tmp_path / "100% mine?"
    folder.mkdir()
    path = folder / "cc3m_train.sqlite.db"
    database(path, "id INTEGER PRIMARY KEY, image TEXT, caption TEXT", [(1, "b.jpg", "two"), (0, "a.jpg", "one")])
    found = READERS["umt"].read(READERS["umt"].assign([str(path)]))
    assert rows(found.captions) == [("a.jpg", "one"), ("b.jpg", "two")]
    assert [entry.name for entry in folder.iterdir()] == [path.name]  # no journal is left
    wrong = tmp_path / "wrong.db"
    database(wrong, "id INTEGER PRIMARY KEY, path TEXT", [(0, "a")])
    with pytest.raises(TableError, match=r"wrong\.db: expected a table annos with the columns id, .*; found id, path"):
        READERS["umt"].read({"train": [wrong]})
    null = tmp_path / "null.db"
    database(null, "id INTEGER PRIMARY KEY, video TEXT, caption TEXT", [(0, "a.mp4", None)])
    with pytest.raises(
        TableError, match=r"null\.db, row 0, key 'caption': expected text or a list of texts, found NoneType null"
    ):
        READERS["umt"].read({"train": [null]})
