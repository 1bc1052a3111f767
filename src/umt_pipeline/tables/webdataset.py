"""WebDataset shards: tar files whose samples are files of one name up to its first dot (``000123.mp4``, ``000123.txt``).

Training reads videos at any place and in any order, so shards are unpacked once into a folder that
:func:`~umt_pipeline.tables.folders.read_folder` reads. A shard may come from anywhere: nothing is written outside its own
folder, and no link, device or other thing that is no file is made.
"""

from __future__ import annotations

import logging
import shutil
import tarfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from umt_pipeline.core.errors import ConfigError, TableError
from umt_pipeline.core.files import read_json, staged_folder, write_json
from umt_pipeline.core.locking import only_writer
from umt_pipeline.core.progress import progress
from umt_pipeline.tables.folders import HIDDEN, MEDIA_SUFFIXES, OTHER, SHARD_MARKER, is_hidden, name_problem
from umt_pipeline.tables.sidecars import SIDECAR_SUFFIXES

logger = logging.getLogger(__name__)

SHARD_SUFFIX = ".tar"
NO_FILE = "links, devices and other things that are no files"
_BLOCK = tarfile.BLOCKSIZE
_COPY_BYTES = 1 << 20


@dataclass(frozen=True)
class Unpacked:
    """What was done with a folder of shards.

    Attributes:
        shards: that are there now.
        unpacked: of them, in this call; the others were before.
        removed: folders of shards that are there no more.
        files: written in this call.
        left_out: reason -> number of members, in this call.
    """

    shards: int
    unpacked: int
    removed: int
    files: int
    left_out: dict[str, int]


def find_shards(folder: Path) -> list[Path]:
    """Return the tar files of a folder, at any depth, sorted; hidden ones are left out."""
    found = (path for path in folder.rglob(f"*{SHARD_SUFFIX}") if path.is_file())
    return sorted(path for path in found if not any(map(is_hidden, path.relative_to(folder).parts)))


def unpack_shards(folder: Path, target: Path) -> Unpacked:
    """Unpack the videos, images and sidecars of shards, each into its own folder: ``a/00000.tar`` into ``target/a/00000``.

    A sample's sidecars are those of each of its videos: beside ``1.left.mp4`` stands a copy of ``1.txt`` as ``1.left.txt``.
    A shard that is unpacked already, by its size and time of modification, is skipped; of one that was interrupted nothing
    is left; the folder of one that is there no more is removed.

    Args:
        folder: of the shards.
        target: written here, and nowhere else.

    Raises:
        ConfigError: there is no shard, ``target`` holds shards, a shard's folder would lie in that of another one (``a.tar``
            and ``a/b.tar``), or the disk has no room for one.
        TableError: a shard is cut short or no tar file (with the byte), or a member has a name that leads outside, or the
            name of another one.
    """
    shards = find_shards(folder)
    if not shards:
        raise ConfigError(f"{folder}: expected files ending in {SHARD_SUFFIX}, found none.")
    if folder.resolve().is_relative_to(target.resolve()):
        raise ConfigError(f"{target}: expected a folder outside that of the shards, {folder}. Name another one.")
    done, files, left_out = 0, 0, Counter[str]()
    places = {target / shard.relative_to(folder).with_suffix(""): shard for shard in shards}
    _refuse_nested(places)
    with only_writer(target), progress("Unpacking", len(shards), "shard") as show:
        removed = _remove_others(target, set(places))
        for number, (place, shard) in enumerate(places.items()):
            show(number)
            state = {"size": shard.stat().st_size, "mtime_ns": shard.stat().st_mtime_ns}
            if (place / SHARD_MARKER).is_file() and read_json(place / SHARD_MARKER) == state:
                continue
            _require_room(target, shard, state["size"])
            with staged_folder(place) as staged:
                files += _unpack(shard, staged, left_out)
                write_json(staged / SHARD_MARKER, state)
            done += 1
        show(len(shards))
    for reason, count in sorted(left_out.items()):
        logger.warning("%s: left out of the shards: %d %s", folder, count, reason)
    return Unpacked(len(shards), done, removed, files, dict(sorted(left_out.items())))


def _refuse_nested(places: Mapping[Path, Path]) -> None:
    """Refuse shards whose folders lie in each other: each is replaced as a whole, and takes what is in it along."""
    for place, shard in places.items():
        outer = next((places[parent] for parent in place.parents if parent in places), None)
        if outer is not None:
            raise ConfigError(
                f"{shard}: expected a folder for it alone, found that it lies in that of {outer}. "
                "Rename one of the two, or the folder."
            )


def _remove_others(target: Path, places: set[Path]) -> int:
    """Remove the folders of shards that are gone; of one that a live place lies in, all but that place."""
    holding = {parent for place in places for parent in place.parents}
    others = [folder for marker in target.rglob(SHARD_MARKER) if (folder := marker.parent) not in places]
    for folder in others:
        if folder in holding:
            _empty(folder, places, holding)
            (folder / SHARD_MARKER).unlink()  # the last: a call that is killed before is done again
        elif folder.exists():  # else it lay in one that is removed already
            shutil.rmtree(folder)
    return len(others)


def _empty(folder: Path, places: set[Path], holding: set[Path]) -> None:
    for path in folder.iterdir():
        if path in places or path.name == SHARD_MARKER:
            continue
        if path.is_symlink() or not path.is_dir():
            path.unlink()
        elif path in holding:
            _empty(path, places, holding)
        else:
            shutil.rmtree(path)


def _require_room(target: Path, shard: Path, size: int) -> None:
    free = shutil.disk_usage(target).free
    if free < size:
        raise ConfigError(
            f"{target}: expected room for {shard.name}, {size:,} bytes; found {free:,} bytes free. "
            "Make room and start again: what is unpacked stays."
        )


def _unpack(shard: Path, staged: Path, left_out: Counter[str]) -> int:
    size = shard.stat().st_size
    names: list[str] = []
    with shard.open("rb") as handle:
        try:
            with tarfile.open(fileobj=handle, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
                for member in tar:
                    if member.offset_data + member.size > size:
                        raise _cut(shard, size, f"'{member.name}' goes on until byte {member.offset_data + member.size:,}")
                    reason = _reason(member)
                    if reason is None:
                        names.append(_write(shard, handle, member, staged))
                    elif not member.isdir():
                        left_out[reason] += 1
                _require_end(shard, handle, tar.offset, size)
        except tarfile.TarError as error:
            raise TableError(f"{shard}, byte {handle.tell():,} of {size:,}: not a tar file: {error}. Copy it again.") from error
    return len(names) + _share_sidecars(names, staged)


def _require_end(shard: Path, handle: IO[bytes], offset: int, size: int) -> None:
    """Check that what ends the archive is its end: tarfile stops at a damaged header, and where a file is cut, in silence."""
    handle.seek(offset)
    end = handle.read(_BLOCK)
    if len(end) < _BLOCK:
        raise _cut(shard, size, f"there is no end mark at byte {offset:,}")
    while end:
        if end.strip(b"\0"):
            raise TableError(
                f"{shard}, byte {offset:,} of {size:,}: expected the head of a member or the end of the archive, found other "
                "bytes. Copy it again; archives that were put together with `cat` have to be unpacked by hand."
            )
        end = handle.read(_COPY_BYTES)


def _cut(shard: Path, size: int, why: str) -> TableError:
    return TableError(f"{shard}, byte {size:,}: expected a whole tar file, found one cut short here: {why}. Copy it again.")


def _reason(member: tarfile.TarInfo) -> str | None:
    """Return why a member is left out, or None."""
    name = PurePosixPath(member.name).name
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
        return NO_FILE
    if any(map(is_hidden, PurePosixPath(member.name).parts)) and ".." not in PurePosixPath(member.name).parts:
        return HIDDEN
    if name_problem(member.name) is not None:
        return name_problem(member.name)
    suffix = PurePosixPath(name).suffix.lower()
    return None if suffix in MEDIA_SUFFIXES | SIDECAR_SUFFIXES else OTHER


def _write(shard: Path, handle: IO[bytes], member: tarfile.TarInfo, staged: Path) -> str:
    """Write a member's bytes, whose number is checked, and return its name in the folder."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        raise TableError(
            f"{shard}, byte {member.offset:,}: expected names within the archive, found '{member.name}'. "
            "Whoever made this archive may mean harm: nothing of it was kept."
        )
    out = staged / path
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("xb") as copy:
            handle.seek(member.offset_data)
            left = member.size
            while left:
                data = handle.read(min(left, _COPY_BYTES))
                if not data:
                    raise _cut(shard, handle.tell(), f"'{member.name}' lacks {left:,} bytes")
                copy.write(data)
                left -= len(data)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise TableError(f"{shard}, byte {member.offset:,}: expected each name once, found '{member.name}' again.") from error
    return path.as_posix()


def _share_sidecars(names: list[str], staged: Path) -> int:
    written = 0
    there = set(names)
    for name in names:
        path = PurePosixPath(name)
        key = path.name.partition(".")[0]
        if path.suffix.lower() not in MEDIA_SUFFIXES or path.stem == key:
            continue
        for suffix in sorted(SIDECAR_SUFFIXES):
            source, copy = (path.with_name(stem + suffix).as_posix() for stem in (key, path.stem))
            if source in there and copy not in there:
                shutil.copyfile(staged / source, staged / copy)
                there.add(copy)
                written += 1
    return written
