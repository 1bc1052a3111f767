"""What a folder of videos holds, however untidy: every file ends in a table or in a count of what was left out."""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from umt_pipeline.core.errors import ConfigError, TableError
from umt_pipeline.tables import folders
from umt_pipeline.tables.folders import FolderTables, read_folder


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def names(tables: FolderTables) -> list[str]:
    return tables.videos["video"].tolist()


def test_videos_at_any_depth_in_any_case_sorted(tmp_path: Path) -> None:
    deep = "/".join(f"level {number}" for number in range(40))
    touch(tmp_path, "b.MOV", "a.mp4", f"{deep}/ç 1.webm", "film.gif", "disc/01.mpg", 'x,"y";\'z.mkv', "notes.md", "data.csv")
    tables = read_folder(tmp_path)
    assert names(tables) == ["a.mp4", "b.MOV", "disc/01.mpg", "film.gif", f"{deep}/ç 1.webm", 'x,"y";\'z.mkv']
    assert tables.left_out == {folders.OTHER: 2}
    assert list(tables.captions) == ["video", "caption"]
    assert list(tables.labels) == ["video", "task", "label"]
    assert len(tables.captions) == len(tables.labels) == 0


def test_images_are_taken_where_somebody_describes_them(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "a.jpg", "thumbnail.webp", "named.PNG", "empty.jpg", "empty.txt")
    (tmp_path / "a.txt").write_text("of the film, not of its cover")
    (tmp_path / "own.jpeg").touch()
    (tmp_path / "own.txt").write_text("a still")
    tables = read_folder(tmp_path, captioned=frozenset({"named.PNG", "gone.jpg"}))
    assert names(tables) == ["a.mp4", "named.PNG", "own.jpeg"]
    assert tables.captions["video"].tolist() == ["a.mp4", "own.jpeg"]
    assert tables.left_out == {folders.STILL: 3, folders.NO_CAPTION: 1}
    assert tables.stills == ("a.jpg", "empty.jpg", "thumbnail.webp")


def test_sidecars(tmp_path: Path) -> None:
    touch(tmp_path, "x.mp4", "x.webm", "in/x.mp4", "y.mp4", "z.mp4", "bom.mp4", "z.info.json", "alone.txt")
    (tmp_path / "x.txt").write_bytes(b" one \r\n\r\n  \r\ntwo, three\r\none")
    (tmp_path / "in" / "x.json").write_text(json.dumps({"caption": "deep", "label": 7}))
    (tmp_path / "y.json").write_text(json.dumps({"captions": ["a", "b\nc", ""], "text": "a", "label": " cat ", "other": [1]}))
    (tmp_path / "y.TXT").write_text("d\na")
    (tmp_path / "bom.txt").write_text("größer", encoding="utf-16")
    tables = read_folder(tmp_path)
    said = tables.captions.groupby("video", sort=False)["caption"].agg(list).to_dict()
    assert said == {
        "bom.mp4": ["größer"],
        "in/x.mp4": ["deep"],
        "x.mp4": ["one", "two, three"],
        "x.webm": ["one", "two, three"],
        "y.mp4": ["d", "a", "b\nc"],
    }
    assert tables.labels.values.tolist() == [["in/x.mp4", "label", "7"], ["y.mp4", "label", "cat"]]
    assert tables.left_out == {folders.OTHER: 2}


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("x.txt", b"\xff\xfa", r"x\.txt, line 1: expected text in UTF-8"),
        ("x.txt", b"a" * 1_000_001, "expected at most 1,000,000 bytes about one video, found 1,000,001"),
        ("x.json", b"[1]", "expected a JSON object, found list"),
        ("x.json", b"{", "not valid JSON"),
        ("x.json", b'{"caption": {"en": "a"}}', "key 'caption': expected a text or a list of texts, found dict"),
        ("x.json", b'{"caption": "a", "label": ["b"]}', "key 'label': expected a text or a number, found list"),
    ],
)
def test_a_sidecar_that_cannot_be_read_is_counted_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, file: str, content: bytes, message: str
) -> None:
    touch(tmp_path, "x.mp4", "x.avi")
    (tmp_path / file).write_bytes(content)
    with caplog.at_level(logging.WARNING):
        tables = read_folder(tmp_path)
    assert names(tables) == ["x.avi", "x.mp4"]
    assert tables.left_out == {folders.BAD_SIDECAR: 1}
    assert re.search(message, caplog.text)


def test_a_caption_ends_with_its_line_alone(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    caption = "one\u2028two\x85three\x0bfour\x0cfive"
    (tmp_path / "a.txt").write_text(f"{caption}\nnext\r\n", encoding="utf-8", newline="")
    assert read_folder(tmp_path).captions["caption"].tolist() == [caption, "next"]


def test_a_sidecar_that_says_nothing(tmp_path: Path) -> None:
    touch(tmp_path, "x.mp4", "y.mp4")
    (tmp_path / "x.json").write_text('{"width": 640, "caption": null}')
    (tmp_path / "y.txt").write_text(" \n\n")
    tables = read_folder(tmp_path)
    assert len(tables.captions) == 0
    assert tables.left_out == {folders.NO_CAPTION: 2}


def test_class_folders(tmp_path: Path) -> None:
    touch(tmp_path, "007/a.mp4", "dog/deep/b.mp4", "loose.mp4")
    (tmp_path / "loose.json").write_text('{"label": "cat"}')
    (tmp_path / "007" / "a.json").write_text('{"label": "007"}')
    assert len(read_folder(tmp_path).labels) == 2
    labels = read_folder(tmp_path, class_folders=True).labels
    assert labels.values.tolist() == [
        ["007/a.mp4", "label", "007"],
        ["dog/deep/b.mp4", "label", "dog"],
        ["loose.mp4", "label", "cat"],
    ]
    (tmp_path / "007" / "a.json").write_text('{"label": 7}')
    with pytest.raises(TableError, match=r"a\.mp4: expected one label, found '007' from the class folder and '7' from the sid"):
        read_folder(tmp_path, class_folders=True)


def test_what_systems_leave_behind(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", ".DS_Store", "._a.mp4", ".git/x.mp4", "@eaDir/a.mp4/x.mp4", "__MACOSX/a.mp4", "in/.x.mp4.77.part")
    tables = read_folder(tmp_path)
    assert names(tables) == ["a.mp4"]
    assert tables.left_out == {folders.HIDDEN: 6}


def test_what_is_called_like_a_video_and_is_no_file(tmp_path: Path) -> None:
    touch(tmp_path, "folder.mp4/within.mp4", "a.mp4")
    os.mkfifo(tmp_path / "pipe.mp4")
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "to_pipe.avi").symlink_to("pipe.mp4")
    tables = read_folder(tmp_path)
    assert names(tables) == ["a.mp4", "folder.mp4/within.mp4"]
    assert tables.left_out == {folders.NOT_A_FILE: 3, folders.OTHER: 1}


def test_names_that_no_table_can_hold(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "a.mp4", "two\nlines.mp4", "bell\x07.mp4", "e\u0301.mp4", "\u200bzero.mp4")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.mp4")).touch()
    inner = Path(os.fsdecode(os.fsencode(tmp_path) + b"/folder\xe9"))
    inner.mkdir()
    (inner / "within.mp4").touch()
    with caplog.at_level(logging.WARNING):
        tables = read_folder(tmp_path)
    assert names(tables) == ["a.mp4", "e\u0301.mp4", "\u200bzero.mp4"]
    assert tables.left_out == {folders.CONTROL: 2, folders.NOT_UTF8: 2}
    assert "names that are not UTF-8 (first: '" in caplog.text
    caplog.text.encode("utf-8")


def test_a_link_to_what_is_there_counts_once_by_the_real_name(tmp_path: Path) -> None:
    touch(tmp_path, "z/real.mp4", "b.mp4")
    (tmp_path / "a.mp4").symlink_to("z/real.mp4")
    (tmp_path / "c").symlink_to("z")
    os.link(tmp_path / "b.mp4", tmp_path / "hard.mp4")
    tables = read_folder(tmp_path)
    assert names(tables) == ["b.mp4", "hard.mp4", "z/real.mp4"], "hard links are files of their own"
    assert tables.left_out == {folders.SECOND_NAME: 2}
    tables = read_folder(tmp_path, captioned=frozenset({"a.mp4"}))
    assert names(tables) == ["a.mp4", "b.mp4", "hard.mp4"], "the captions know the link alone"
    assert tables.left_out == {folders.SECOND_NAME: 2}
    assert names(read_folder(tmp_path, captioned=frozenset({"a.mp4", "z/real.mp4"}))) == ["b.mp4", "hard.mp4", "z/real.mp4"]


def test_links_to_elsewhere_count_once_by_the_first_name(tmp_path: Path) -> None:
    pool, folder = tmp_path / "pool", tmp_path / "folder"
    touch(pool, "sub/one.mp4", "two.mp4", ".annex/three")
    folder.mkdir()
    (folder / "d").symlink_to(pool)
    (folder / "c").symlink_to(pool / "sub")
    (folder / "b.mp4").symlink_to(pool / "two.mp4")
    (folder / "a.mp4").symlink_to(folder / "b.mp4")
    (folder / "three.mp4").symlink_to(pool / ".annex" / "three")
    (folder / "three.txt").symlink_to(pool / ".annex" / "text")
    (pool / ".annex" / "text").write_text("said")
    tables = read_folder(folder)
    assert names(tables) == ["a.mp4", "c/one.mp4", "three.mp4"]
    assert tables.captions.values.tolist() == [["three.mp4", "said"]]
    # b.mp4, d/two.mp4 and the folder d/sub
    assert tables.left_out == {folders.SECOND_NAME: 3, folders.HIDDEN: 1}


def test_links_into_a_dvc_cache_are_files_of_their_own(tmp_path: Path) -> None:
    cache, folder = tmp_path / ".dvc/cache/files/md5/aa", tmp_path / "folder"
    touch(cache, "content")
    folder.mkdir()
    for name in ("b.mp4", "twin.mp4"):
        (folder / name).symlink_to(cache / "content")
    (folder / "z.mp4").symlink_to("b.mp4")
    tables = read_folder(folder)
    assert names(tables) == ["b.mp4", "twin.mp4"]
    assert tables.left_out == {folders.SECOND_NAME: 1}


def test_loops_end_and_dangling_links_are_counted(tmp_path: Path) -> None:
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    touch(folder, "in/a.mp4")
    touch(outside, "b.mp4")
    (folder / "in" / "up").symlink_to("..")
    (folder / "self").symlink_to(".")
    (folder / "top").symlink_to("/")
    (folder / "above").symlink_to(tmp_path)
    (folder / "out").symlink_to(outside)
    (outside / "back").symlink_to(folder)
    (outside / "self").symlink_to(outside)
    (folder / "gone.mp4").symlink_to("nothing.mp4")
    (folder / "ring1.mp4").symlink_to("ring2.mp4")
    (folder / "ring2.mp4").symlink_to("ring1.mp4")
    tables = read_folder(folder)
    assert names(tables) == ["in/a.mp4", "out/b.mp4"]
    assert tables.left_out == {folders.LEADS_BACK: 6, folders.DANGLING: 3}


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.booleans()), max_size=12))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_web_of_links_ends_with_each_file_once(tmp_path_factory: pytest.TempPathFactory, links: list) -> None:
    root = tmp_path_factory.mktemp("web")
    for number in range(6):
        touch(root, f"{'folder' if number < 3 else 'outside'}/{number}/v.mp4")
    places = [root / ("folder" if number < 3 else "outside") / str(number) for number in range(6)]
    for count, (start, end, file) in enumerate(links):
        (places[start] / f"link{count}{'.mp4' if file else ''}").symlink_to(places[end] / ("v.mp4" if file else ""))
    tables = read_folder(root / "folder")
    real = Counter((root / "folder" / name).resolve() for name in names(tables))
    assert set(real.values()) == {1}
    assert {places[number] / "v.mp4" for number in range(3)} <= set(real)
    assert len(names(tables)) + sum(tables.left_out.values()) >= 3
    assert names(read_folder(root / "folder")) == names(tables)


def test_a_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a.mp4", "closed/b.mp4")
    scandir = os.scandir

    def refuse(path: str) -> object:  # a superuser can read everything
        if path.endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ConfigError, match="closed: expected a folder that can be read, found: Permission denied"):
        read_folder(tmp_path)


def test_what_is_no_folder_of_videos(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.mp4", "notes/a.docx", "notes/photo.jpg")
    with pytest.raises(ConfigError, match="found nothing"):
        read_folder(tmp_path / "none")
    with pytest.raises(ConfigError, match="found a file"):
        read_folder(tmp_path / "in" / "a.mp4")
    with pytest.raises(ConfigError, match=r"\.mp4 .*; found 1 files of other kinds, 1 images without a caption\."):
        read_folder(tmp_path / "notes")


def test_twenty_thousand_files_in_a_moment(tmp_path: Path) -> None:
    for number in range(200):
        (tmp_path / f"{number}").mkdir()
    source = tmp_path / "source"
    source.touch()
    for number in range(20_000):
        os.link(source, tmp_path / f"{number % 200}" / f"clip {number}.mp4")
    start = time.perf_counter()
    tables = read_folder(tmp_path)
    assert len(tables.videos) == 20_000
    assert tables.left_out == {folders.OTHER: 1}
    assert time.perf_counter() - start < 20
