"""What lies elsewhere is brought here whole, once, within a limit; what is in use stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

from tests.tables.test_webdataset import write_shard
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.tables import folders, staging
from umt_pipeline.tables.folders import read_folder
from umt_pipeline.tables.media import local_media
from umt_pipeline.tables.staging import is_address, stage, stage_folder


@pytest.fixture
def remote() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    seen: list[str] = []
    get_file = MemoryFileSystem.get_file

    def note(self: Any, path: str, *args: Any, **options: Any) -> Any:
        seen.append(path)
        return get_file(self, path, *args, **options)

    monkeypatch.setattr(MemoryFileSystem, "get_file", note)
    return seen


def release() -> None:
    """Give back what this process uses, as its end would."""
    for handle in staging._in_use.values():
        handle.close()
    staging._in_use.clear()


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and path.name[0] != ".")


# --- one file ---------------------------------------------------------------------------------------------------------
def test_what_is_an_address() -> None:
    assert all(map(is_address, ["s3://bucket/a", "file:///tmp/a", "memory://a", "github://a:b@c/d"]))
    assert not any(map(is_address, ["/data/videos", "data/videos", "c:/a", "a b://c", "://a", "a:b"]))


def test_a_file_comes_once_in_each_of_its_states(tmp_path: Path, remote: Any, downloads: list[str]) -> None:
    remote.pipe("/b/t.csv", b"video,caption\n")
    copy = stage("memory://b/t.csv", tmp_path, 1000)
    assert copy.name == "t.csv"
    assert copy.read_bytes() == b"video,caption\n"
    release()
    assert stage("memory://b/t.csv", tmp_path, 1000) == copy
    assert len(downloads) == 1
    time.sleep(0.01)
    remote.pipe("/b/t.csv", b"video,Caption\n")
    other = stage("memory://b/t.csv", tmp_path, 1000)
    assert other.read_bytes() == b"video,Caption\n"
    assert copy.read_bytes() == b"video,caption\n", "who reads the old one can go on"
    release()


def test_a_local_address_too(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a")
    copy = stage((tmp_path / "t.csv").as_uri(), tmp_path / "cache", 1000)
    assert copy.read_text() == "a"
    release()


def test_the_least_recently_used_makes_room(tmp_path: Path, remote: Any) -> None:
    copies = []
    for name in "abc":
        remote.pipe(f"/b/{name}", name.encode() * 40)
        copies.append(stage(f"memory://b/{name}", tmp_path, 120))
        time.sleep(0.01)
    release()
    stage("memory://b/a", tmp_path, 120)  # used again, but given back
    release()
    time.sleep(0.01)
    remote.pipe("/b/d", b"d" * 40)
    stage("memory://b/d", tmp_path, 120)
    assert [copy.exists() for copy in copies] == [True, False, True]
    release()


def test_a_file_in_use_stays_and_the_limit_holds(tmp_path: Path, remote: Any) -> None:
    remote.pipe("/b/a", b"a" * 60)
    remote.pipe("/b/b", b"b" * 60)
    copy = stage("memory://b/a", tmp_path, 100)
    with pytest.raises(ConfigError, match=r"at most 100 bytes in .*, found 60 of this file beside 60 in use\. Raise the limit"):
        stage("memory://b/b", tmp_path, 100)
    assert copy.exists()
    release()
    stage("memory://b/b", tmp_path, 100)
    assert not copy.exists()
    release()
    with pytest.raises(ConfigError, match="at most 50 bytes"):
        stage("memory://b/a", tmp_path, 50)


def test_a_file_that_another_process_uses_stays(tmp_path: Path, remote: Any) -> None:
    (tmp_path / "a").write_bytes(b"a" * 60)
    cache = tmp_path / "cache"
    code = (
        "import sys, pathlib; from umt_pipeline.tables.staging import stage;"
        f"print(stage({(tmp_path / 'a').as_uri()!r}, pathlib.Path({str(cache)!r}), 100), flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        copy = Path(other.stdout.readline().strip())
        assert copy.exists()
        remote.pipe("/b/b", b"b" * 60)
        with pytest.raises(ConfigError, match="in use"):
            stage("memory://b/b", cache, 100)
        other.send_signal(signal.SIGKILL)
        other.wait()
        stage("memory://b/b", cache, 100)
        assert not copy.exists()
    release()


def test_half_a_file_is_never_seen(tmp_path: Path, remote: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    remote.pipe("/b/t.csv", b"0123456789")
    get_file = MemoryFileSystem.get_file

    def half(self: Any, path: str, local: str, **options: Any) -> None:
        Path(local).write_bytes(b"01234")

    monkeypatch.setattr(MemoryFileSystem, "get_file", half)
    with pytest.raises(ConfigError, match=r"/b/t\.csv: expected 10 bytes, found 5"):
        stage("memory://b/t.csv", tmp_path, 1000)
    assert not list(tmp_path.rglob("*.csv*"))
    # What a killed process left is no file of the cache, and makes way.
    monkeypatch.setattr(MemoryFileSystem, "get_file", get_file)
    copy = stage("memory://b/t.csv", tmp_path, 1000)
    release()
    (copy.parent / ".t.csv.4711.part").write_bytes(b"0" * 995)
    remote.pipe("/b/u.csv", b"0123456789")
    stage("memory://b/u.csv", tmp_path, 1000)
    assert copy.exists()
    assert not (copy.parent / ".t.csv.4711.part").exists()
    release()


def test_many_at_once_download_once(tmp_path: Path, remote: Any, downloads: list[str]) -> None:
    remote.pipe("/b/t.csv", b"0123456789")
    copies: list[Path] = []
    threads = [threading.Thread(target=lambda: copies.append(stage("memory://b/t.csv", tmp_path, 1000))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(copies)) == 1
    assert len(copies) == 8
    assert len(downloads) == 1
    release()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("s3://bucket/t.csv", r"package for s3://, found none: Install s3fs .*pip install 'umt_pipeline\[s3\]'"),
        ("gs://bucket/t.csv", "package for gs://, found none: Please install gcsfs"),
        ("xyz://bucket/t.csv", "expected one of the protocols .*s3.*; found 'xyz'"),
        ("memory://b/none.csv", r"memory://b/none\.csv: expected a file or folder, found nothing"),
        ("memory://b", "expected a file, found what has no size"),
    ],
)
def test_addresses_that_lead_nowhere(tmp_path: Path, remote: Any, address: str, message: str) -> None:
    if address.startswith(("s3", "gs")) and find_spec("s3fs" if address.startswith("s3") else "gcsfs"):
        pytest.skip("the package is installed")
    remote.pipe("/b/t.csv", b"a")
    with pytest.raises(ConfigError, match=message):
        stage(address, tmp_path, 1000)


# --- a folder ---------------------------------------------------------------------------------------------------------
def fill(remote: Any, *names: str) -> None:
    for name in names:
        remote.pipe(f"/b/videos/{name}", name.encode())


def test_a_folder_is_read_as_a_local_one(tmp_path: Path, remote: Any) -> None:
    fill(remote, "a.mp4", "a.txt", "deep/ç.webm", "notes.pdf", ".DS_Store", "deep/._x.mp4", "two\nlines.mp4")
    remote.store["/b/videos/../up.mp4"] = remote.store["/b/videos/a.mp4"]
    remote.store["/b/videos//double.mp4"] = remote.store["/b/videos/a.mp4"]
    remote.store["/b/videos/deep/"] = MemoryFile(remote, "/b/videos/deep/")  # as S3's console makes folders
    done = stage_folder("memory://b/videos", tmp_path)
    assert files(tmp_path) == ["a.mp4", "a.txt", "deep/ç.webm"]
    assert done.left_out == {folders.OTHER: 1, folders.HIDDEN: 2, folders.CONTROL: 1, staging.UNSAFE: 2}
    assert (done.files, done.downloaded, done.removed) == (3, 3, 0)
    tables = read_folder(tmp_path)
    assert tables.captions.values.tolist() == [["a.mp4", "a.txt"]]
    assert tables.left_out == {}


def test_only_what_is_new_or_changed_is_downloaded(tmp_path: Path, remote: Any, downloads: list[str]) -> None:
    fill(remote, "a.mp4", "b.mp4", "c.mp4", "d.mp4")
    (tmp_path / "mine.mp4").write_bytes(b"not from there")
    stage_folder("memory://b/videos", tmp_path)
    downloads.clear()
    done = stage_folder("memory://b/videos", tmp_path)
    assert (done.files, done.downloaded, done.removed, downloads) == (4, 0, 0, [])
    time.sleep(0.01)
    fill(remote, "b.mp4", "new.mp4")  # b.mp4 has another state, and the same size
    remote.rm("/b/videos/c.mp4")
    (tmp_path / "d.mp4").write_bytes(b"D.mp4")  # of the right size, but no more what was brought
    done = stage_folder("memory://b/videos", tmp_path)
    assert (done.files, done.downloaded, done.removed) == (4, 3, 1)
    assert sorted(downloads) == ["/b/videos/b.mp4", "/b/videos/d.mp4", "/b/videos/new.mp4"]
    assert files(tmp_path) == ["a.mp4", "b.mp4", "d.mp4", "mine.mp4", "new.mp4"]
    assert (tmp_path / "d.mp4").read_bytes() == b"d.mp4"


def test_what_fails_is_named_and_the_next_call_takes_up_the_rest(
    tmp_path: Path, remote: Any, downloads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(remote, *(f"{number}.mp4" for number in range(20)))
    get_file = MemoryFileSystem.get_file

    def fails(self: Any, path: str, local: str, **options: Any) -> None:
        if path.endswith("/7.mp4"):
            Path(local).write_bytes(b"7")
            raise ConnectionResetError("gone")
        get_file(self, path, local, **options)

    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "get_file", fails)
        with pytest.raises(ConfigError, match=r"1 of 20 files could not be staged: 7\.mp4 \(ConnectionResetError: gone\)"):
            stage_folder("memory://b/videos", tmp_path)
    assert len(files(tmp_path)) == 19
    assert not list(tmp_path.rglob("*.part"))
    downloads.clear()
    assert stage_folder("memory://b/videos", tmp_path).downloaded == 1
    assert downloads == ["/b/videos/7.mp4"]


def test_a_killed_call_loses_what_was_under_way(tmp_path: Path, remote: Any, downloads: list[str]) -> None:
    fill(remote, "a.mp4", "b.mp4", "c.mp4")
    stage_folder("memory://b/videos", tmp_path)
    journal = tmp_path / folders.STAGED_JOURNAL
    lines = journal.read_text().splitlines(keepends=True)
    # Killed while it wrote the line of the last, with another one half downloaded.
    journal.write_text("".join(lines[:-1]) + lines[-1][:20])
    (tmp_path / ".d.mp4.4711.part").write_bytes(b"half")
    downloads.clear()
    stage_folder("memory://b/videos", tmp_path)
    assert downloads == [f"/b/videos/{json.loads(lines[-1])['name']}"]
    assert not list(tmp_path.glob(".*.part"))
    downloads.clear()
    assert stage_folder("memory://b/videos", tmp_path).downloaded == 0


def test_a_changed_file_that_failed_to_come_and_went_leaves_no_old_copy(
    tmp_path: Path, remote: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(remote, "a.mp4", "b.mp4")
    stage_folder("memory://b/videos", tmp_path)
    (tmp_path / "mine.mp4").write_bytes(b"not from there")
    time.sleep(0.01)
    fill(remote, "b.mp4", "mine.mp4")

    def fails(self: Any, path: str, local: str, **options: Any) -> None:
        raise ConnectionResetError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "get_file", fails)
        with pytest.raises(ConfigError, match="2 of 2 files could not be staged"):
            stage_folder("memory://b/videos", tmp_path)
    remote.rm("/b/videos/b.mp4")
    remote.rm("/b/videos/mine.mp4")
    assert stage_folder("memory://b/videos", tmp_path).removed == 1
    assert files(tmp_path) == ["a.mp4", "mine.mp4"]


def test_a_process_killed_at_any_moment(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    for number in range(300):
        (source / f"{number}.mp4").write_bytes(os.urandom(200_000))
    code = (
        "import pathlib; from umt_pipeline.tables.staging import stage_folder;"
        f"print('go', flush=True); print(stage_folder({source.as_uri()!r}, pathlib.Path({str(target)!r})).downloaded)"
    )
    for delay in (0.02, 0.1):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(delay)
            process.kill()
        for name in files(target) if target.exists() else []:
            assert (target / name).read_bytes() == (source / name).read_bytes()
    stage_folder(source.as_uri(), target)
    assert files(target) == files(source)
    assert stage_folder(source.as_uri(), target).downloaded == 0


def test_folders_that_cannot_be_staged(tmp_path: Path, remote: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="memory://b/videos: expected a folder with videos or shards, found nothing"):
        stage_folder("memory://b/videos", tmp_path)
    fill(remote, "notes.pdf")
    with pytest.raises(ConfigError, match="found 1 files of other kinds"):
        stage_folder("memory://b/videos", tmp_path)
    fill(remote, "a.mp4")
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda path: SimpleNamespace(free=3))
    with pytest.raises(ConfigError, match="expected room for 1 files, 5 bytes; found 3 bytes free"):
        stage_folder("memory://b/videos", tmp_path)
    monkeypatch.undo()
    remote.store["/b/videos/a.mp4/inner.mp4"] = remote.store["/b/videos/a.mp4"]  # as object stores can have it
    with pytest.raises(ConfigError, match="of 2 files could not be staged"):
        stage_folder("memory://b/videos", tmp_path)


# --- both, and shards -------------------------------------------------------------------------------------------------
def test_local_media(tmp_path: Path, remote: Any) -> None:
    plain, shards, target = tmp_path / "plain", tmp_path / "shards", tmp_path / "data" / "media"
    plain.mkdir()
    (plain / "a.mp4").touch()
    assert local_media(str(plain), target) == (plain, [])
    assert not target.exists()
    write_shard(shards / "0.tar", {"1.mp4": b"film", "1.txt": b"a dog", "1.pyd": b""})
    folder, told = local_media(str(shards), target)
    assert folder == target
    assert told == ["1 shards, of them 1 unpacked now (2 files), 0 removed", "left out of the shards: 1 files of other kinds"]
    remote.pipe("/b/shards/0.tar", (shards / "0.tar").read_bytes())
    folder, told = local_media("memory://b/shards", tmp_path / "staged")
    assert folder == tmp_path / "staged_unpacked"
    assert told[0] == "memory://b/shards: 1 files, of them 1 downloaded now, 0 removed"
    assert read_folder(folder).captions.values.tolist() == [["0/1.mp4", "a dog"]]
    (shards / "._1.mp4").touch()
    (shards / "folder.mp4").mkdir()
    assert local_media(str(shards), target).folder == target
    (shards / "stray.MP4").touch()
    with pytest.raises(ConfigError, match=r"expected either videos or shards, found both, such as stray\.MP4 and 0\.tar"):
        local_media(str(shards), target)
    with pytest.raises(ConfigError, match="none: expected a folder of videos, found nothing"):
        local_media(str(tmp_path / "none"), target)
