"""What was found of a file is found again as long as the file, the rules and the code are the same, and not longer."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from pathlib import Path

import pytest

from umt_pipeline.video import probe_cache
from umt_pipeline.video.media import Reason, Refusal, VideoInfo
from umt_pipeline.video.probe_cache import KEYS_KEPT, FileState, ProbeCache

INFO = VideoInfo("video", "mp4", "h264", 64, 48, 24.0, 12, 0.5, 9, "0" * 64)
STATE = FileState(9, 10**18 + 1)
CORRUPT = Refusal(Reason.CORRUPT_FRAME.value, "frame 3 „does“ not decode")


def opened(folder: Path, key: str = "rules", limits: str = "limits") -> ProbeCache:
    return ProbeCache(folder / "sub" / "cache.sqlite", key, limits)


def test_results_are_there_at_once_for_every_process_and_by_every_part_of_the_key(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    cache.put("a.mp4", STATE, INFO)
    cache.put("\udcff b.mp4", STATE, CORRUPT)  # a name that is no text, as file systems allow
    again = opened(tmp_path, limits="others")  # while the first one is open: nothing waits to be written
    assert again.get("a.mp4", STATE) == INFO
    assert again.get("\udcff b.mp4", STATE) == CORRUPT
    assert again.get("b.mp4", STATE) is None
    assert again.get("a.mp4", FileState(8, STATE.mtime_ns)) is None
    assert again.get("a.mp4", FileState(9, STATE.mtime_ns + 1)) is None
    assert opened(tmp_path, "other rules").get("a.mp4", STATE) is None


def test_content_is_known_under_any_name_with_the_same_suffix(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    assert not cache.knows_size(9)
    cache.put("a.mp4", STATE, INFO)
    assert cache.knows_size(9)
    assert not cache.knows_size(8)
    cache.put("a.mp4", FileState(7, 1), CORRUPT)  # another file has taken its place
    assert cache.get_content("sub/b.MP4", "0" * 64) == INFO
    assert cache.get_content("b.avi", "0" * 64) is None
    assert cache.get_content("b.mp4", "1" * 64) is None


@pytest.mark.parametrize("reason", ["decoder_timeout", "decoder_crash", "out_of_memory"])
def test_what_depends_on_the_machine_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    refusal = Refusal(reason, "")
    opened(tmp_path).put("a.mp4", STATE, refusal)
    assert opened(tmp_path).get("a.mp4", STATE) == refusal
    assert opened(tmp_path, limits="higher").get("a.mp4", STATE) is None
    now = time.time()
    monkeypatch.setattr(probe_cache.time, "time", lambda: now + 25 * 3600)
    assert opened(tmp_path).get("a.mp4", STATE) is None


@pytest.mark.parametrize("reason", ["missing_file", "unreadable_file", "file_changed"])
def test_what_is_not_in_the_file_is_not_kept(tmp_path: Path, reason: str) -> None:
    opened(tmp_path).put("a.mp4", STATE, Refusal(reason, ""))
    assert opened(tmp_path).get("a.mp4", STATE) is None


def test_results_of_old_rules_are_collected(tmp_path: Path) -> None:
    keys = [f"rules {number}" for number in range(KEYS_KEPT + 1)]
    for key in keys:
        opened(tmp_path, key).put("a.mp4", STATE, INFO)
    opened(tmp_path, keys[1])
    with sqlite3.connect(tmp_path / "sub" / "cache.sqlite") as connection:
        for table in ("keys", "files", "contents"):
            assert {key for (key,) in connection.execute(f"SELECT key FROM {table}")} == set(keys[1:])


@pytest.mark.parametrize("damage", ["no database", "pages", "a row", "other tables"])
def test_a_damaged_cache_is_replaced_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str) -> None:
    cache = opened(tmp_path)
    for number in range(200):
        cache.put(f"{number}.mp4", STATE, INFO)
    cache.close()
    file = tmp_path / "sub" / "cache.sqlite"
    if damage == "no database":
        file.write_bytes(b"not a database" * 100)
    elif damage == "pages":
        content = bytearray(file.read_bytes())
        content[4096:] = bytes(len(content) - 4096)
        file.write_bytes(content)
    else:
        with sqlite3.connect(file) as connection:
            connection.execute("UPDATE contents SET info = '{'" if damage == "a row" else "PRAGMA user_version = 99")
    with caplog.at_level(logging.WARNING):
        cache = opened(tmp_path)
        assert cache.get("5.mp4", STATE) is None
        cache.put("5.mp4", STATE, INFO)
    assert "is damaged" in caplog.text
    assert opened(tmp_path).get("5.mp4", STATE) == INFO


def test_without_a_place_to_write_files_are_checked_all_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "sub" / "cache.sqlite").mkdir(parents=True)
    cache = opened(tmp_path)
    cache.put("a.mp4", STATE, INFO)
    assert cache.get("a.mp4", STATE) is None
    assert caplog.text.count("cannot be used") == 1


def test_a_damaged_cache_that_cannot_be_removed_is_done_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Read-only")

    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "cache.sqlite").write_bytes(b"not a database" * 100)
    monkeypatch.setattr(Path, "unlink", refuse)
    assert opened(tmp_path).get("a.mp4", STATE) is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "files are checked without it" in caplog.text


def test_a_folder_that_cannot_be_made_costs_the_cache(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "sub").write_text("a file")
    cache = opened(tmp_path)
    cache.put("a.mp4", STATE, INFO)
    assert caplog.text.count("files are checked without it") == 1


def test_a_full_disk_costs_the_cache_and_not_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = opened(tmp_path)
    cache.put("first.mp4", STATE, INFO)
    assert cache._connection
    cache._connection.execute("PRAGMA max_page_count = 1")  # as many as it has by now
    for number in range(500):
        cache.put(f"{number}.mp4", STATE, INFO)
    assert caplog.text.count("disk is full") == 1
    assert opened(tmp_path).get("first.mp4", STATE) == INFO


def test_a_file_that_has_just_changed_is_not_settled(tmp_path: Path) -> None:
    file = tmp_path / "a.mp4"
    file.write_bytes(b"123")
    now = time.time()
    os.utime(file, (now, now))
    state = FileState.of(file)
    assert state is not None
    assert state.size == 3
    assert not state.settled(now + 1)
    assert state.settled(now + 3)
    os.mkfifo(tmp_path / "pipe")
    assert [FileState.of(tmp_path / name) for name in ("", "pipe", "none", "\0", "\ud800")] == [None] * 5
