"""Files that are made on demand: once each, and only so many bytes of them."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import pytest

from umt_pipeline.server.cache import Cache
from umt_pipeline.server.limits import RefusedError

pytestmark = pytest.mark.anyio


async def test_a_file_is_made_once_however_many_ask(tmp_path: Path) -> None:
    made = 0

    async def make(target: Path) -> None:
        nonlocal made
        made += 1
        await asyncio.sleep(0.02)
        target.write_bytes(b"x")

    cache = Cache(tmp_path / "cache", 1000)
    first = asyncio.create_task(cache.file("a", make))
    others = [asyncio.create_task(cache.file("a", make)) for _ in range(3)]
    await asyncio.sleep(0.01)
    first.cancel()
    found = await asyncio.gather(*others)
    assert {path.read_bytes() for path in found} == {b"x"}, "who asked first went away, and the others have it"
    await cache.file("a", make)
    assert made == 1


async def test_what_is_not_finished_lies_apart_and_goes(tmp_path: Path) -> None:
    async def fail(target: Path) -> None:
        target.write_bytes(b"half")
        raise ValueError("no")

    cache, other = Cache(tmp_path, 1000), Cache(tmp_path, 1000)
    with pytest.raises(ValueError, match="no"):
        await cache.file("a", fail)
    assert not list(tmp_path.rglob("*-a"))
    cache.put("a", b"x")
    cache.close()
    assert other.known("a") is not None
    other.put("b", b"x")
    assert other.known("b") is not None, "each has a folder of its own"


async def test_a_failure_is_told_and_not_kept(tmp_path: Path) -> None:
    async def fail(target: Path) -> None:
        raise ValueError("no")

    async def make(target: Path) -> None:
        target.write_bytes(b"x")

    cache = Cache(tmp_path, 1000)
    found = await asyncio.gather(cache.file("a", fail), cache.file("a", fail), return_exceptions=True)
    assert [type(error) for error in found] == [ValueError, ValueError]
    assert (await cache.file("a", make)).read_bytes() == b"x"


async def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 250)
    for number, name in enumerate("abc"):
        if number == 2:
            assert cache.known("a") is not None
            os.utime(tmp_path / "b", (0, 0))
        cache.put(name, b"x" * 100)
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == ["a", "c"]
    cache.put("large", b"x" * 1000)
    assert [path.name for path in tmp_path.glob("[!.]*")] == ["large"], "what was just made is there for who asked for it"
    assert cache.known("a") is None


async def test_many_small_files_are_not_looked_at_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, looked = Cache(tmp_path, 256 * 1000), []
    iterdir = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: looked.append(path) or iterdir(path))
    for number in range(100):
        cache.put(str(number), b"x" * 100)
    assert 5 < len(looked) < 15


async def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    cache = Cache(tmp_path, 1000)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(RefusedError, match="No space left") as raised:
            cache.put("a", b"x")
    assert raised.value.status == 507
    assert not list(tmp_path.glob("[!.]*"))
    cache.close()
    assert not list(tmp_path.iterdir())
