"""Files that lie elsewhere (``s3://bucket/folder``, whatever fsspec has a package for): brought here, whole or not at all."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import fsspec

from umt_pipeline.core.errors import ConfigError
from umt_pipeline.core.files import staged_file
from umt_pipeline.core.identity import fingerprint
from umt_pipeline.core.locking import LOCK_FILE, only_writer, try_lock, wait_for_lock
from umt_pipeline.core.progress import progress
from umt_pipeline.tables.folders import HIDDEN, MEDIA_SUFFIXES, OTHER, STAGED_JOURNAL, is_hidden, name_problem
from umt_pipeline.tables.sidecars import SIDECAR_SUFFIXES

logger = logging.getLogger(__name__)

# What of a remote folder is brought here: what tables.folders and tables.webdataset read.
STAGED_SUFFIXES = MEDIA_SUFFIXES | SIDECAR_SUFFIXES | {".tar"}
UNSAFE = "names that no folder can hold (with an empty part or '..')"
# What a file system says about the state of a file, the surest first. Not every one says each, and names differ.
_STATES = (
    "ETag", "etag", "md5Hash", "content_md5", "checksum", "mtime", "LastModified", "last_modified", "updated", "modified",
    "created",
)  # fmt: skip
# The journal's entry of a file that is to be downloaded: no file is in this state.
_INTENDED: dict[str, Any] = {"state": None, "remote_size": None, "size": -1, "mtime_ns": -1}
_DOWNLOADS = 8
_FAILURES_SHOWN = 5

# Shared locks on files that this process was given: they are in use until it ends.
_in_use: dict[Path, IO[bytes]] = {}


@dataclass(frozen=True)
class Remote:
    """A remote file: its path on its file system, its size in bytes (None: not told), and its state, as fingerprint."""

    path: str
    size: int | None
    state: str


@dataclass(frozen=True)
class StagedFolder:
    """What was done to stage a folder.

    Attributes:
        files: that are there now.
        downloaded: of them, in this call.
        removed: that were there and are remote no more.
        left_out: reason -> number of remote files.
    """

    files: int
    downloaded: int
    removed: int
    left_out: dict[str, int]


def is_address(text: str) -> bool:
    """Tell whether a text is an address such as ``s3://bucket/folder``, not a path."""
    protocol, sign, _ = text.partition("://")
    return bool(sign) and protocol.isascii() and protocol.replace("+", "").replace("-", "").isalnum()


def stage(address: str, cache_folder: Path, limit_bytes: int) -> Path:
    """Return a local copy of a remote file, from the cache if it has the file in its present state.

    The copy stays until this process ends, whatever else is staged meanwhile. What was used least recently makes room.

    Args:
        address: of a file, such as ``s3://bucket/captions.csv``.
        cache_folder: of copies; several processes may share it.
        limit_bytes: of all copies together.

    Raises:
        ConfigError: the package for the protocol is missing, there is no such file, it arrives with another size than was
            told, or the limit has no room for it beside the files in use.
    """
    system, path = _connect(address)
    remote = _remote(path, _asked(address, partial(system.info, path)))
    name = Path(path).name
    if remote.size is None or not name:
        raise ConfigError(f"{address}: expected a file, found what has no size. Name a file.")
    copy = cache_folder / fingerprint(address, remote.size, remote.state) / name
    if copy in _in_use and copy.is_file():
        return copy
    handle = _lock_file(cache_folder, copy).open("ab")
    wait_for_lock(handle, shared=True)
    try:
        if not copy.is_file():
            # One at a time, so that two together cannot exceed the limit, and one does not do the other's work.
            with (cache_folder / LOCK_FILE).open("ab") as writers:
                wait_for_lock(writers)
                if not copy.is_file():
                    _make_room(cache_folder, limit_bytes, remote.size, address)
                    _download(system, remote, copy)
        os.utime(copy.parent)
    except BaseException:
        handle.close()
        raise
    _in_use[copy] = handle
    return copy


def stage_folder(address: str, target: Path) -> StagedFolder:
    """Make a local folder hold the videos, images, sidecars and tar files of a remote one.

    Only what is new or has changed (by size, and by ETag or time of modification) is downloaded, several files at a time. A
    killed call loses the files that were under way. Files that this function brought and that are remote no more are
    removed; others in the folder are left alone.

    Args:
        address: of a folder, such as ``s3://bucket/videos``.
        target: the local folder.

    Raises:
        ConfigError: the package for the protocol is missing, there is no such folder or nothing to take in it, the disk has
            no room, another process stages into ``target``, or files cannot be downloaded: then the others are there, and
            the next call takes up the rest.
    """
    system, root = _connect(address)
    listed = _asked(address, partial(system.find, root, detail=True))
    left_out = Counter[str]()
    remotes = dict(_wanted(root, listed, left_out))
    if not remotes:
        found = ", ".join(f"{count} {reason}" for reason, count in left_out.items()) or "nothing"
        raise ConfigError(
            f"{address}: expected a folder with videos or shards, found {found}. Check the address and your rights."
        )
    with only_writer(target):
        known = _read_journal(target / STAGED_JOURNAL)
        removed = 0
        for name in sorted(set(known) - set(remotes)):
            (target / name).unlink(missing_ok=True)
            removed += 1
        todo = {name: remote for name, remote in remotes.items() if not _is_there(target / name, remote, known.get(name))}
        _require_room(target, todo)
        # What is to come is noted before: if this call dies, and the file goes, the next call knows that it was ours. A file
        # of this name that somebody else put here becomes ours only with its download.
        ours = {name: _INTENDED for name in todo if name in known or not (target / name).exists()}
        kept = {name: entry for name, entry in known.items() if name in remotes and name not in todo}
        _write_journal(target / STAGED_JOURNAL, {**kept, **ours})
        _download_all(system, address, todo, target)
    for reason, count in sorted(left_out.items()):
        logger.info("%s: not staged: %d %s", address, count, reason)
    return StagedFolder(len(remotes), len(todo), removed, dict(sorted(left_out.items())))


# --- the remote side --------------------------------------------------------------------------------------------------
def _connect(address: str) -> tuple[Any, str]:
    protocol = address.partition("://")[0]
    try:
        system, path = fsspec.core.url_to_fs(address)
    except ImportError as error:
        remedy = "pip install 'umt_pipeline[s3]'" if protocol in ("s3", "s3a") else "Install it"
        raise ConfigError(f"{address}: expected the package for {protocol}://, found none: {error}. {remedy}.") from error
    except ValueError as error:
        known = ", ".join(sorted(fsspec.available_protocols()))
        raise ConfigError(f"{address}: expected one of the protocols {known}; found '{protocol}': {error}.") from error
    system.invalidate_cache()
    return system, path


def _asked(address: str, question: Callable[[], Any]) -> Any:
    try:
        return question()
    except FileNotFoundError:
        raise ConfigError(f"{address}: expected a file or folder, found nothing.") from None
    except Exception as error:  # each package raises its own: no rights, no network, no such bucket
        raise ConfigError(f"{address}: expected an answer, found {type(error).__name__}: {error}") from error


def _remote(path: str, info: dict[str, Any]) -> Remote:
    size = info.get("size") if info.get("type", "file") == "file" else None
    state = next((f"{key}={info[key]}" for key in _STATES if info.get(key) is not None), "")
    return Remote(path, size, state)


def _wanted(root: str, listed: dict[str, dict[str, Any]], left_out: Counter[str]) -> Iterator[tuple[str, Remote]]:
    for path in sorted(listed):
        name = path.removeprefix(root.rstrip("/")).removeprefix("/")
        parts = name.split("/")
        # A folder made in S3's console is an empty object with / at its end.
        if not name or listed[path].get("type") == "directory" or (name.endswith("/") and not listed[path].get("size")):
            continue
        if any(part in ("", ".", "..") for part in parts):
            left_out[UNSAFE] += 1
        elif any(map(is_hidden, parts)):
            left_out[HIDDEN] += 1
        elif (problem := name_problem(name)) is not None:
            left_out[problem] += 1
        elif Path(name).suffix.lower() not in STAGED_SUFFIXES:
            left_out[OTHER] += 1
        else:
            yield name, _remote(path, listed[path])


def _download(system: Any, remote: Remote, copy: Path) -> None:
    with staged_file(copy) as staged:
        system.get_file(remote.path, str(staged))
        found = staged.stat().st_size
        if remote.size is not None and found != remote.size:
            raise ConfigError(
                f"{remote.path}: expected {remote.size:,} bytes, found {found:,}. It was changed while it was read, or the "
                "connection broke; try again."
            )


# --- a folder ---------------------------------------------------------------------------------------------------------
def _download_all(system: Any, address: str, todo: dict[str, Remote], target: Path) -> None:
    failures: list[str] = []
    pool = ThreadPoolExecutor(_DOWNLOADS)
    try:
        with (target / STAGED_JOURNAL).open("a", encoding="utf-8") as journal, progress("Staging", len(todo), "file") as show:
            waiting = {pool.submit(_download, system, remote, target / name): name for name, remote in todo.items()}
            for done, future in enumerate(as_completed(waiting), start=1):
                name = waiting[future]
                error = future.exception()
                if isinstance(error, Exception):
                    failures.append(f"{name} ({type(error).__name__}: {error})")
                elif error is not None:
                    raise error
                else:
                    journal.write(_entry(name, todo[name], target / name))
                    journal.flush()
                show(done)
    finally:
        pool.shutdown(cancel_futures=True)
    if failures:
        shown = "; ".join(sorted(failures)[:_FAILURES_SHOWN])
        raise ConfigError(
            f"{address}: {len(failures)} of {len(todo)} files could not be staged: {shown}. The others are there: start again "
            "and only these are tried."
        )


def _require_room(target: Path, todo: dict[str, Remote]) -> None:
    needed, free = sum(remote.size or 0 for remote in todo.values()), shutil.disk_usage(target).free
    if needed > free:
        raise ConfigError(f"{target}: expected room for {len(todo)} files, {needed:,} bytes; found {free:,} bytes free.")


def _is_there(path: Path, remote: Remote, entry: dict[str, Any] | None) -> bool:
    if entry is None or entry["state"] != remote.state or entry["remote_size"] != remote.size or not path.is_file():
        return False
    found = path.stat()
    return [found.st_size, found.st_mtime_ns] == [entry["size"], entry["mtime_ns"]]


def _entry(name: str, remote: Remote, path: Path) -> str:
    found = path.stat()
    entry = {"state": remote.state, "remote_size": remote.size, "size": found.st_size, "mtime_ns": found.st_mtime_ns}
    return json.dumps({"name": name, **entry}, ensure_ascii=False) + "\n"


def _read_journal(path: Path) -> dict[str, dict[str, Any]]:
    """Return what was staged before; a line that a killed call left half-written is of a file that is staged again."""
    known = {}
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        known[entry.pop("name")] = entry
    return known


def _write_journal(path: Path, known: dict[str, dict[str, Any]]) -> None:
    with staged_file(path) as staged:
        lines = (json.dumps({"name": name, **entry}, ensure_ascii=False) + "\n" for name, entry in known.items())
        staged.write_text("".join(lines), encoding="utf-8")


# --- the cache --------------------------------------------------------------------------------------------------------
def _lock_file(cache_folder: Path, copy: Path) -> Path:
    locks = cache_folder / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    return locks / copy.parent.name


def _make_room(cache_folder: Path, limit_bytes: int, size: int, address: str) -> None:
    entries = [folder for folder in cache_folder.iterdir() if folder.is_dir() and folder.name != "locks"]
    sizes = {}
    for folder in entries:
        for part in folder.glob(".*.part"):  # of a killed call: nobody else downloads now
            part.unlink(missing_ok=True)
        sizes[folder] = sum(path.stat().st_size for path in folder.iterdir())
    total = sum(sizes.values())
    for folder in sorted(entries, key=lambda folder: folder.stat().st_mtime_ns):
        if total + size <= limit_bytes:
            return
        if _remove_unused(cache_folder, folder):
            total -= sizes[folder]
    if total + size > limit_bytes:
        raise ConfigError(
            f"{address}: expected at most {limit_bytes:,} bytes in {cache_folder}, "
            f"found {size:,} of this file beside {total:,} in use. Raise the limit of the cache."
        )


def _remove_unused(cache_folder: Path, folder: Path) -> bool:
    with _lock_file(cache_folder, folder / "any").open("ab") as handle:
        unused = try_lock(handle)
        if unused:
            shutil.rmtree(folder)
        return unused
