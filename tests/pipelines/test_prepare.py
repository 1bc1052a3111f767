from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from kedro.framework.project import configure_project, pipelines
from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner
from PIL import Image

from tests.video_files import number_shown, write_video
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.core.identity import PACKAGE
from umt_pipeline.core.locking import only_writer
from umt_pipeline.demo_world.broken_files import write_broken_files
from umt_pipeline.executors import OfflineParams
from umt_pipeline.pipelines.prepare import create_pipeline
from umt_pipeline.pipelines.prepare.params import PrepareParams
from umt_pipeline.video import preparing
from umt_pipeline.video import transcode as transcoding
from umt_pipeline.video.media import Reason
from umt_pipeline.video.preparing import NotWrittenError, media_names
from umt_pipeline.video.probing import try_probe
from umt_pipeline.video.reader import VideoRules, read_frames

FORM = {"short_side": 48, "gop": 6}


def prepare(source: Path, workspace: Path, workers: int | None = 1, **form: Any) -> tuple[Path, dict[str, Any]]:
    """Run the pipeline as Kedro does; return the folder that it made and its report."""
    workspace.mkdir(exist_ok=True)
    params = PrepareParams.model_validate({"form": FORM | form, "workers": workers})
    inputs = {"source_media": source, "params:prepare": params, "params:offline": OfflineParams(), "workspace": workspace}
    catalog = DataCatalog({name: MemoryDataset(value) for name, value in inputs.items()})
    outputs = SequentialRunner().run(create_pipeline().filter(node_names=["prepare_media"]), catalog)
    return outputs["raw_media"].load(), {**outputs["prepare_report"].load(), **outputs["prepare_times"].load()}


def settle(folder: Path) -> None:
    """Make new files look as old as files are: of those written just now a later change might not show."""
    now = time.time()
    for path in folder.rglob("*"):
        if now - path.stat().st_mtime < 50:
            os.utime(path, (now - 100, now - 100))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    for number, name in enumerate(("a.mp4", "sub/b.avi", "sub/été №1.mkv")):
        codec = "mpeg4" if name.endswith("avi") else "libx264"
        write_video(folder / name, num_frames=20, height=96, width=128, codec=codec, first_number=40 * number)
    (folder / "sub" / "b.txt").write_text("a caption beside the video", encoding="utf-8")
    Image.new("RGB", (40, 50)).save(folder / "still.png")
    settle(folder)
    return folder


def test_each_file_is_under_its_path(source: Path, tmp_path: Path) -> None:
    media, report = prepare(source, tmp_path / "work")
    assert media_names(media) == media_names(source)
    for name in ("a.mp4", "sub/b.avi", "sub/été №1.mkv"):
        before, after = (read_frames(folder / name, range(20)) for folder in (source, media))
        assert after.shape == (20, 48, 64, 3)
        assert before.shape == (20, 96, 128, 3)
        assert abs(before.mean() - after.mean()) < 2
    for name in ("sub/b.txt", "still.png"):
        assert (media / name).read_bytes() == (source / name).read_bytes()
    assert (report["files"], report["transcoded"], report["found"]) == (5, 3, 0)
    assert report["handed_through"] == {
        "image": {"files": 1, "first": ["still.png"]},
        "not_a_video": {"files": 1, "first": ["sub/b.txt"]},
    }
    assert report["bytes_before"] == sum((source / name).stat().st_size for name in media_names(source))
    assert report["bytes_after"] == sum((media / name).stat().st_size for name in media_names(media))
    json.dumps(report)


def test_a_second_run_opens_nothing_and_new_content_alone_is_transcoded(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    first, _ = prepare(source, work)
    first = first.rename(tmp_path / "first")  # as the catalog does
    opened: list[str] = []
    checked = preparing.prepare_file

    def watch(path: Path, *rest: Any, **options: Any) -> Any:
        opened.append(path.name)
        return checked(path, *rest, **options)

    monkeypatch.setattr(preparing, "prepare_file", watch)
    second, report = prepare(source, work)
    assert opened == []
    assert (report["transcoded"], report["found"]) == (0, 3)
    assert (second / "a.mp4").stat().st_ino == (first / "a.mp4").stat().st_ino, "linked, not copied"

    (source / "a.mp4").rename(source / "moved.mp4")
    write_video(source / "new.mp4", num_frames=20, first_number=200)
    shutil.copy(source / "new.mp4", source / "same.mp4")
    write_video(source / "sub" / "b.avi", num_frames=20, codec="mpeg4", first_number=100)
    settle(source)
    third, report = prepare(source, work)
    assert sorted(opened) == ["b.avi", "moved.mp4", "new.mp4", "same.mp4"]
    assert (report["transcoded"], report["found"]) == (2, 3), "new.mp4 and b.avi are; the content of the others is known"
    assert number_shown(read_frames(third / "sub" / "b.avi", [3])[0]) == 103
    videos = {name: work / "prepared" for name in media_names(work / "prepared") if name.endswith(".mp4")}
    assert len(videos) == 4, "what no file needs any more is deleted"


def test_another_form_is_another_content(source: Path, tmp_path: Path) -> None:
    prepare(source, tmp_path / "work")
    media, report = prepare(source, tmp_path / "work", short_side=16)
    assert report["transcoded"] == 3
    assert read_frames(media / "a.mp4", [0]).shape[1] == 16


def test_ingestion_refuses_what_could_not_be_prepared_for_its_own_reason(source: Path, tmp_path: Path) -> None:
    broken = write_broken_files(source, source / "a.mp4", seed=0)
    media, report = prepare(source, tmp_path / "work")
    rules = VideoRules(min_frames=4, min_side=20)
    assert [(name, try_probe(media / name, rules).reason) for name, _ in broken] == broken  # type: ignore[union-attr]
    told = report["handed_through"]
    assert told["truncated"]["first"] == ["truncated.mp4"]
    assert report["files"] == report["transcoded"] + report["found"] + sum(count["files"] for count in told.values())


def test_what_is_no_file_is_left_out_and_links_do_not_go_in_circles(source: Path, tmp_path: Path) -> None:
    os.mkfifo(source / "pipe.mp4")
    (source / "gone.mp4").symlink_to("nothing")
    (source / "link.mp4").symlink_to("a.mp4")
    (source / "sub" / "up").symlink_to("..")
    media, report = prepare(source, tmp_path / "work")
    assert report["handed_through"]["left_out"] == {"files": 2, "first": ["gone.mp4", "pipe.mp4"]}
    assert read_frames(media / "link.mp4", [0]).shape[1] == 48
    assert not (media / "link.mp4").is_symlink()
    assert "sub/up" not in media_names(media)


def test_prepared_files_are_handed_through(source: Path, tmp_path: Path) -> None:
    first, _ = prepare(source, tmp_path / "work")
    first = first.rename(tmp_path / "first")
    second, report = prepare(first, tmp_path / "other")
    assert report["handed_through"]["already_prepared"]["files"] == 3
    assert (second / "a.mp4").read_bytes() == (first / "a.mp4").read_bytes()


def test_a_file_that_changes_while_it_is_read_is_not_taken_for_what_it_was(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transcode = preparing.transcode

    def grow(path: Path, *rest: Any) -> Any:
        made = transcode(path, *rest)
        if path.name == "a.mp4":
            with path.open("ab") as handle:
                handle.write(b"more")
        return made

    monkeypatch.setattr(preparing, "transcode", grow)
    media, report = prepare(source, tmp_path / "work")
    assert report["handed_through"][Reason.FILE_CHANGED.value]["first"] == ["a.mp4"]
    assert (media / "a.mp4").read_bytes().endswith(b"more")
    monkeypatch.setattr(preparing, "transcode", transcode)
    assert prepare(source, tmp_path / "work")[1]["transcoded"] == 1


def test_a_full_disk_ends_the_run_and_costs_what_was_in_work(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transcode = preparing.transcode

    def full(path: Path, *rest: Any) -> Any:
        if path.suffix == ".mkv":
            raise OSError(errno.ENOSPC, "No space left on device")
        return transcode(path, *rest)

    monkeypatch.setattr(preparing, "transcode", full)
    with pytest.raises(NotWrittenError, match=r"prepared: the disk is full\. What was prepared is kept: free space"):
        prepare(source, tmp_path / "work")
    monkeypatch.setattr(preparing, "transcode", transcode)
    report = prepare(source, tmp_path / "work")[1]
    assert (report["transcoded"], report["found"]) == (1, 2)


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ENOENT])
@pytest.mark.parametrize("step", ["read_header", "is_prepared"])
def test_a_source_that_cannot_be_read_costs_itself(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, step: str
) -> None:
    module = preparing if step == "read_header" else transcoding
    read = module.read_header

    def fail(path: Path) -> Any:
        if path.suffix == ".mkv":
            raise OSError(number, os.strerror(number))
        return read(path)

    monkeypatch.setattr(module, "read_header", fail)
    media, report = prepare(source, tmp_path / "work")
    assert report["handed_through"]["unreadable_file"] == {"files": 1, "first": ["sub/été №1.mkv"]}
    assert report["transcoded"] == 2
    assert media_names(media) == media_names(source)


def test_a_prepared_file_that_somebody_wrote_into_is_made_again(source: Path, tmp_path: Path) -> None:
    media, _ = prepare(source, tmp_path / "work")
    whole = (media / "a.mp4").read_bytes()
    with (media / "a.mp4").open("r+b") as handle:  # another name of the file in the store
        handle.write(bytes(100))
    media, report = prepare(source, tmp_path / "work")
    assert (report["transcoded"], report["found"]) == (1, 2)
    assert (media / "a.mp4").read_bytes() == whole


def test_two_runs_do_not_share_a_workspace(source: Path, tmp_path: Path) -> None:
    media, _ = prepare(source, tmp_path / "work")
    before = media_names(media)
    with only_writer(tmp_path / "work" / "prepared"), pytest.raises(ConfigError, match="another process fills this folder"):
        prepare(source, tmp_path / "work")
    assert media_names(media) == before


KILLED = """
import sys
from pathlib import Path
from tests.pipelines.test_prepare import prepare
prepare(Path(sys.argv[1]), Path(sys.argv[2]), workers=2)
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    source, work = tmp_path / "source", tmp_path / "work"
    for number in range(24):
        write_video(source / f"{number}.mp4", num_frames=60, height=144, width=192, first_number=number)
    settle(source)
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(source), str(work)], stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while len(list(work.glob("prepared/*.mp4"))) < 3 and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = {path.name: path.stat().st_ino for path in work.glob("prepared/*.mp4")}
    assert 3 <= len(there) < 24
    media, report = prepare(source, work)
    assert report["transcoded"] <= 24 - len(there)
    assert report["transcoded"] + report["found"] == 24
    assert {name: (work / "prepared" / name).stat().st_ino for name in there} == there, "what was there is not made again"
    assert not list(work.glob("prepared/.*.part"))
    clean, _ = prepare(source, tmp_path / "other")
    assert all((media / name).read_bytes() == (clean / name).read_bytes() for name in media_names(source))


def test_it_runs_only_where_it_is_named() -> None:
    configure_project(PACKAGE)
    assert {node.name for node in create_pipeline().nodes}.isdisjoint(node.name for node in pipelines["__default__"].nodes)
    both = pipelines["prepare"] + pipelines["ingestion"]
    assert "raw_media" not in both.inputs(), "ingestion reads what prepare makes"
    assert "source_media" in both.inputs()
