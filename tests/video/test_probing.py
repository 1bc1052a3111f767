"""Many files at once: each accounted for in its place, none decoded twice, none trusted that changed meanwhile."""

from __future__ import annotations

import logging
import os
import shutil
import time
from functools import partial
from pathlib import Path

import av
import pytest

from tests.video_files import write_video
from umt_pipeline.core.errors import VideoError
from umt_pipeline.demo_world.broken_files import write_broken_files
from umt_pipeline.video import probing
from umt_pipeline.video.guarded import ReadLimits
from umt_pipeline.video.media import Reason, Refusal, VideoInfo, VideoRules
from umt_pipeline.video.probing import probe_all, stated_seconds, try_probe

RULES = VideoRules()


def make_old(folder: Path) -> None:
    """Let files be of an hour ago, so that what is found of them is kept."""
    for path in folder.rglob("*"):
        os.utime(path, (time.time() - 3600, time.time() - 3600))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    for number in range(6):
        write_video(folder / f"{number}.mp4", first_number=number)
    (folder / "text.mp4").write_text("not a video")
    make_old(folder)
    return folder


NAMES = [*(f"{number}.mp4" for number in range(6)), "text.mp4", "absent.mp4"]


class Prober:
    """Calls :func:`probe_all` and tells what it logged."""

    def __init__(self, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        self.folder, self.caplog = folder, caplog
        caplog.set_level(logging.INFO)

    def __call__(self, names: list[str], rules: VideoRules = RULES, workers: int = 1) -> tuple[list[object], str]:
        self.caplog.clear()
        results = list(probe_all(self.folder, names, rules, cache=self.folder.parent / "cache", workers=workers))
        return list(results), self.caplog.messages[-1]


@pytest.fixture
def prober(folder: Path, caplog: pytest.LogCaptureFixture) -> Prober:
    return Prober(folder, caplog)


def test_results_do_not_depend_on_workers_or_on_the_cache(folder: Path, prober: Prober) -> None:
    broken = [name for name, _ in write_broken_files(folder, folder / "1.mp4", seed=3)]
    make_old(folder)
    names = [*broken, *NAMES, *reversed(NAMES)]
    alone = list(probe_all(folder, names, RULES, workers=1))
    together = list(probe_all(folder, names, RULES, workers=2))
    first, _ = prober(names, workers=2)
    again, told = prober(names, workers=2)
    assert alone == together == first == again
    assert told.startswith(f"checked {len(names)} files: ")
    assert [isinstance(result, VideoInfo) for result in alone[-len(NAMES) :]] == [False, False, *[True] * 6]


def test_only_new_and_changed_files_are_decoded(folder: Path, prober: Prober) -> None:
    first, told = prober(NAMES)
    assert told == "checked 8 files: 0 from the cache, 7 decoded, 1 not there"
    assert prober(NAMES) == (first, "checked 8 files: 7 from the cache, 0 decoded, 1 not there")
    shutil.copy2(folder / "0.mp4", folder / "absent.mp4")
    (folder / "1.mp4").rename(folder / "moved.mp4")
    write_video(folder / "2.mp4", first_number=77)
    make_old(folder)  # gives all of them another time of change, as a clone does
    names = [*NAMES, "moved.mp4"]
    results, told = prober(names)
    assert told == "checked 9 files: 6 from the cache (6 moved or copied), 2 decoded, 1 not there"
    assert results == list(probe_all(folder, names, RULES, workers=1))
    assert prober(names) == (results, "checked 9 files: 8 from the cache, 0 decoded, 1 not there")


def test_other_rules_or_other_code_decode_again(prober: Prober, monkeypatch: pytest.MonkeyPatch) -> None:
    prober(NAMES)
    results, told = prober(NAMES, VideoRules(min_frames=13))
    assert told.startswith("checked 8 files: 0 from the cache, 7 decoded")
    assert all(isinstance(result, Refusal) for result in results)
    assert prober(NAMES)[1].startswith("checked 8 files: 7 from the cache, 0 decoded"), "and back"
    monkeypatch.setattr(probing, "code_key", lambda *_: "other code")
    assert prober(NAMES)[1].startswith("checked 8 files: 0 from the cache, 7 decoded")


def test_a_file_that_has_just_changed_is_not_taken_from_the_cache(folder: Path, prober: Prober) -> None:
    write_video(folder / "0.mp4", first_number=9)
    assert prober(["0.mp4"])[1] == prober(["0.mp4"])[1] == "checked 1 files: 0 from the cache, 1 decoded"


@pytest.mark.parametrize("change", ["append", "replace", "remove"])
def test_a_file_that_changes_while_it_is_read_is_refused(
    folder: Path, prober: Prober, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    file = folder / "0.mp4"

    def probe_slowly(path: Path, rules: VideoRules) -> VideoInfo | Refusal:
        result = try_probe(path, rules)
        if change == "append":
            file.write_bytes(file.read_bytes() + bytes(8))
        elif change == "replace":
            os.utime(file)
        else:
            file.unlink()
        return result

    with monkeypatch.context() as patch:
        patch.setattr(probing, "try_probe", probe_slowly)
        [refusal], _ = prober(["0.mp4"])
    assert isinstance(refusal, Refusal)
    assert refusal.reason == "file_changed"
    if change != "remove":
        make_old(folder)
        [info], told = prober(["0.mp4"])
        assert isinstance(info, VideoInfo), "the next time it is as good as any"
        assert "1 decoded" in told


def test_a_file_that_took_too_long_is_tried_again_under_other_limits(folder: Path) -> None:
    write_video(folder / "0.mp4", 250, 480, 640)
    make_old(folder)
    short = ReadLimits(seconds=1e-3, seconds_per_second=0)
    probe = partial(probe_all, folder, ["0.mp4"], RULES, cache=folder / "cache")
    [first], [again] = probe(short, workers=2), probe(short, workers=1)  # this process would have the time
    assert isinstance(first, Refusal)
    assert first.reason == "decoder_timeout"
    assert again == first
    assert isinstance(next(probe(ReadLimits(), workers=1)), VideoInfo)


@pytest.mark.parametrize("words", ["", "the last frame does not decode (Cannot allocate memory)"])
def test_lack_of_memory_is_not_the_fault_of_the_file(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    def probe(path: Path, rules: VideoRules) -> VideoInfo:
        raise VideoError(Reason.CORRUPT_FRAME, words) from (None if words else av.MemoryError(12, "no more"))

    monkeypatch.setattr(probing, "probe", probe)
    refusal = try_probe(Path("a.mp4"), RULES)
    assert isinstance(refusal, Refusal)
    assert refusal.reason == "out_of_memory"


def test_the_header_tells_how_long_a_file_may_take(folder: Path) -> None:
    os.mkfifo(folder / "pipe.mp4")
    assert stated_seconds(folder / "0.mp4") == pytest.approx(0.5)
    assert [stated_seconds(folder / name) for name in ("text.mp4", "absent.mp4", "pipe.mp4", "")] == [0.0] * 4


def test_folders_and_pipes_are_refused_without_waiting(folder: Path, prober: Prober) -> None:
    os.mkfifo(folder / "pipe.mp4")
    (folder / "folder.mp4").mkdir()
    results, told = prober(["pipe.mp4", "folder.mp4"])
    assert [isinstance(result, Refusal) and result.reason for result in results] == ["missing_file"] * 2
    assert told == "checked 2 files: 0 from the cache, 0 decoded, 2 not there"
