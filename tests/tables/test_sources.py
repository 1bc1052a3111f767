"""Encodings, line ends, hashes: what holds for every reader."""

from __future__ import annotations

import codecs
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tables.reading import put, read, rows
from umt_pipeline.core.errors import TableError
from umt_pipeline.tables.collect import with_suffix
from umt_pipeline.tables.sources import Files

WEBVID = "videoid,contentUrl,duration,page_dir,name\n1,u,d,p,caf\xe9 \u2028 x\n"
BOM = codecs.BOM_UTF8


@pytest.mark.parametrize(
    "data",
    [WEBVID.encode(), BOM + WEBVID.encode(), WEBVID.replace("\n", "\r\n").encode(), ("\n" + WEBVID + "\n\n").encode()],
    ids=["plain", "bom", "crlf", "blank lines"],
)
def test_bom_crlf_and_blank_lines_change_nothing(tmp_path: Path, data: bytes) -> None:
    found = read(tmp_path, "webvid", {"results_2M_train.csv": data})
    assert rows(found.captions) == [("p/1.mp4", "café \u2028 x")]
    assert not found.warnings


def test_json_with_bom_and_latin1(tmp_path: Path) -> None:
    text = '[{"video": "a.mp4",\n "caption": "caf\xe9"}]'
    assert rows(read(tmp_path, "umt", {"train=a.json": BOM + text.encode()}).captions) == [("a.mp4", "café")]
    found = read(tmp_path, "umt", {"train=a.json": text.encode("latin-1")})
    assert rows(found.captions) == [("a.mp4", "café")]
    assert found.warnings == ("1 lines with bytes that are not UTF-8 were read as Latin-1 (first: a.json, line 2)",)


def test_a_file_with_both_encodings_keeps_both(tmp_path: Path) -> None:
    data = b"caption\turl\n" + "caf\xe9\tu\n".encode() + "caf\xe9\tu\n".encode("latin-1")
    found = read(tmp_path, "cc3m", {"Train_GCC-training.tsv": data})
    assert [caption for _, caption in rows(found.captions)] == ["café", "café"]
    assert "Train_GCC-training.tsv, line 3" in found.warnings[0]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("[]".encode("utf-16"), r"a\.json: expected text in UTF-8, found UTF-16\. Convert the file"),
        (b'[{"video": "a",\n}]', r"a\.json, line 2, column 1: not valid JSON"),
        (b"", r"a\.json, line 1, column 1: not valid JSON"),
        (b"{}", r"a\.json: expected a list, found dict \{\}"),
        (b"[]", r"a\.json: expected at least one video, found none"),
    ],
)
def test_files_that_are_no_json_list(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(TableError, match=message):
        read(tmp_path, "umt", {"train=a.json": data})


def test_a_quote_that_is_not_closed(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"results_2M_train\.csv, line 3: not valid CSV: unexpected end of data"):
        read(tmp_path, "webvid", {"results_2M_train.csv": WEBVID + '2,u,d,p,"open'})


def test_a_line_break_in_a_cell_is_kept_and_lines_are_counted(tmp_path: Path) -> None:
    found = read(tmp_path, "webvid", {"results_2M_train.csv": WEBVID + '2,u,d,p,"two\nlines"\n3,u,d,p,\n'})
    assert rows(found.captions)[1] == ("p/2.mp4", "two\nlines")
    assert "line 5" in found.warnings[0]


def test_every_file_is_a_source_with_its_hash(tmp_path: Path) -> None:
    files = {"train.csv": "a.mp4,0\n", "val.csv": "b.mp4,0\n", "x_label.txt": "abseiling\n"}
    found = read(tmp_path, "video-list", files)
    assert [(source.role, source.file) for source in found.sources] == [
        ("train", "train.csv"), ("validation", "val.csv"), ("labels", "x_label.txt"),
    ]  # fmt: skip
    for source in found.sources:
        content = files[source.file].encode()
        assert (source.sha256, source.size_bytes) == (hashlib.sha256(content).hexdigest(), len(content))


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@given(st.lists(TEXT, min_size=1, max_size=5))
def test_captions_survive_json(tmp_path_factory: pytest.TempPathFactory, captions: list[str]) -> None:
    items: list[Any] = [{"video": f"{number}.mp4", "caption": caption} for number, caption in enumerate(captions)]
    (path,) = put(tmp_path_factory.mktemp("json"), {"a.json": json.dumps(items, ensure_ascii=False)})
    files = Files({"train": [Path(path)]})
    assert [item["caption"] for _, item in files.items(Path(path))] == captions
    assert not files.notes.lines()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.mp4", "a.mp4"),
        ("a.3gp", "a.3gp"),
        ("a/b.MOV", "a/b.MOV"),
        ("a", "a.mp4"),
        ("v1.5/clip", "v1.5/clip.mp4"),
        ("0001_Film_00.00.51.926-00.00.54.129", "0001_Film_00.00.51.926-00.00.54.129.mp4"),
    ],
)
def test_a_suffix_is_added_where_there_is_none(path: str, expected: str) -> None:
    assert with_suffix(path, ".mp4") == expected
