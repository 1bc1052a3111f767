"""A folder of media in the prepared form: each file under its own path, each content transcoded once.

What is made is kept in a store under a key of the source's content, the form and the code, and linked from there into the
folder, so that a second run hashes new files and encodes new contents, and ``kill -9`` costs the files in work. A file that
cannot be transcoded is handed through as it is: ingestion refuses it with its reason. So are images, files that have the form
already, and whatever else lies in the folder, such as captions beside videos.

A path keeps its suffix, ``a.avi``, though what it leads to is MP4: so every table that names paths stays right. Readers of
videos here look at the content.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import av

from umt_pipeline.core.errors import UmtError, VideoError
from umt_pipeline.core.executor import Executor, Needs
from umt_pipeline.core.files import link_or_copy, sha256_file, staged_file, write_json
from umt_pipeline.core.identity import code_key, fingerprint
from umt_pipeline.core.locking import LOCK_FILE, only_writer
from umt_pipeline.core.progress import progress
from umt_pipeline.video.container import read_header
from umt_pipeline.video.file_hashes import FileHashes
from umt_pipeline.video.guarded import Extend, ReadLimits, check_files, out_of_memory
from umt_pipeline.video.media import Reason, Refusal, check_file, is_image
from umt_pipeline.video.probe_cache import DEPENDS_ON_MACHINE, NOT_KEPT, FileState
from umt_pipeline.video.transcode import PreparedForm, is_prepared, source_errors, transcode

logger = logging.getLogger(__name__)

HASHES_FILE = "hashes.jsonl"
CODE = ("video.transcode",)
# Why a file is handed through that nothing is wrong with.
IMAGE, ALREADY_PREPARED = "image", "already_prepared"
# What can be neither read nor linked is not in the prepared folder, so that ingestion finds nothing there.
LEFT_OUT = "left_out"
# Names of files that the report lists for each reason; it counts all.
MAX_LISTED = 20
_FULL = (errno.ENOSPC, errno.EDQUOT)
_CHANGED = "the file changed while it was read; prepare again"


class NotWrittenError(UmtError):
    """What is made cannot be written: the disk is full, or the folder is read-only."""


@dataclass(frozen=True)
class Prepared:
    """What became of a file.

    Attributes:
        sha256: of the source.
        refusal: why it is handed through; None: its prepared form is in the store.
        state: of the source when it was hashed; None: a later change might not show, so that it must be hashed again.
        video_s: seconds of video encoded; 0 where nothing was to do.
        work_s: seconds that this took.
    """

    sha256: str
    refusal: Refusal | None
    state: FileState | None
    video_s: float = 0.0
    work_s: float = 0.0


@dataclass(frozen=True)
class NotWritten:
    """Why a worker could not write: parts of an ``OSError``, which the parent raises as its own."""

    number: int
    detail: str


class Store:
    """Prepared files, and reasons why there is none, by key.

    Args:
        folder: holds ``KEY.mp4``, and ``KEY.json``: its state when it was made, or why there is none.
        form: of the videos.
        code: key of the code that makes them.
    """

    def __init__(self, folder: Path, form: PreparedForm, code: str) -> None:
        self._folder, self._form, self._code = folder, form, code

    def video(self, sha256: str, name: str) -> Path:
        """Return where the prepared form of a content is. The suffix counts: FFmpeg may guess a format by it."""
        key = fingerprint(sha256, Path(name).suffix.lower(), self._form.model_dump(), self._code)
        return self._folder / f"{key}.mp4"

    def find(self, sha256: str, name: str) -> Prepared | None:
        """Return what is known of a content; nothing if its prepared form is not what was made.

        Its other names are outside the store: whoever writes into a file there writes into this one.
        """
        video = self.video(sha256, name)
        try:
            kept = json.loads(video.with_suffix(".json").read_text(encoding="utf-8"))
            if "reason" in kept:
                return Prepared(sha256, Refusal(**kept), None)
            return Prepared(sha256, None, None) if FileState(**kept) == FileState.of(video) else None
        except (OSError, ValueError, TypeError):
            return None

    @contextmanager
    def put(self, sha256: str, name: str) -> Iterator[Path]:
        """Yield where a content's prepared form is to be written; it is in the store if the block ends without an error."""
        video = self.video(sha256, name)
        with staged_file(video) as staged:
            yield staged
            state = FileState.of(staged)
            if state is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(staged))
            # Before the file has its name: a state without a file is no promise, a file without one is made again.
            write_json(video.with_suffix(".json"), state._asdict())

    def refuse(self, sha256: str, name: str, refusal: Refusal) -> None:
        """Keep why a content is handed through, unless another try may end otherwise."""
        if refusal.reason not in DEPENDS_ON_MACHINE | NOT_KEPT:
            write_json(self.video(sha256, name).with_suffix(".json"), asdict(refusal))

    def keep_only(self, used: Iterable[Path]) -> int:
        """Delete what belongs to none of the given prepared videos, such as earlier forms; return the number of files."""
        kept = {path.stem for path in used}
        old = [path for path in self._folder.iterdir() if path.suffix in (".mp4", ".json", ".part") and path.stem not in kept]
        for path in old:
            path.unlink(missing_ok=True)
        return len(old)


def prepare_file(path: Path, extend: Extend, form: PreparedForm, folder: Path, code: str) -> Prepared | NotWritten:
    """Transcode one file into the store, if its content is not there.

    Args:
        path: the file.
        extend: asks for time, by the seconds of video.
        form: what it becomes.
        folder: of the store.
        code: key of the code.
    """
    store, began, clock = Store(folder, form, code), time.time(), time.perf_counter()
    state = FileState.of(path)
    try:
        check_file(path)
        sha256 = sha256_file(path)
    except VideoError as error:
        return Prepared("", Refusal(str(error.reason), error.detail), None)
    except OSError as error:
        return Prepared("", Refusal(Reason.UNREADABLE_FILE.value, f"the file cannot be read ({error.strerror})"), None)
    settled = state if state is not None and state.settled(began) else None
    if (known := store.find(sha256, path.name)) is not None:
        return Prepared(sha256, known.refusal, settled)
    video_s = 0.0
    try:
        refusal, video_s = _transcode(path, state, extend, form, partial(store.put, sha256, path.name))
        if FileState.of(path) != state:
            refusal = Refusal(Reason.FILE_CHANGED.value, _CHANGED)
        if refusal is not None:
            store.refuse(sha256, path.name, refusal)
    except OSError as error:  # of the store: what cannot be read of the source is a refusal
        return NotWritten(error.errno or 0, error.strerror or str(error))
    return Prepared(sha256, refusal, settled, video_s, time.perf_counter() - clock)


def _transcode(
    path: Path,
    state: FileState | None,
    extend: Extend,
    form: PreparedForm,
    put: Callable[[], AbstractContextManager[Path]],
) -> tuple[Refusal | None, float]:
    try:
        with source_errors():
            extend(read_header(path).duration_s)
        if is_prepared(path, form):
            return Refusal(ALREADY_PREPARED, "it is small and has key frames close together; nothing is to be gained"), 0.0
        with put() as target:
            made = transcode(path, target, form)
            if FileState.of(path) != state:
                raise VideoError(Reason.FILE_CHANGED, _CHANGED)
        return None, made.duration_s
    except MemoryError as error:
        return out_of_memory(str(error) or "MemoryError"), 0.0
    except VideoError as error:
        return Refusal(str(error.reason), error.detail), 0.0
    except OSError:
        raise
    except Exception as error:
        # FFmpeg raises what it likes on odd files. One file must not end the run, and none is dropped unseen.
        if isinstance(error, av.FFmpegError) and error.errno == errno.ENOMEM:
            return out_of_memory(str(error)), 0.0
        return Refusal(Reason.UNREADABLE_FILE.value, f"{type(error).__name__}: {error}"), 0.0


def prepare_folder(
    source: Path,
    target: Path,
    folder: Path,
    form: PreparedForm,
    limits: ReadLimits,
    workers: int | None = None,
    executor: Executor | None = None,
) -> dict[str, Any]:
    """Fill a folder with the files of ``source`` in the prepared form.

    Args:
        source: searched to any depth, links too.
        target: emptied first; on the same disk as the store if nothing is to be copied.
        folder: of the store. What this run has no use for is deleted from it at the end.
        form: what videos become.
        limits: for one file.
        workers: processes; see :func:`umt_pipeline.video.guarded.check_files`.
        executor: where files are transcoded; None: on this machine.

    Returns:
        Counts: ``files``, of which ``transcoded`` (now), ``found`` (made earlier, or the same content twice),
        ``handed_through``, by reason (``left_out`` are no files, or cannot even be copied); bytes; seconds.

    Raises:
        ConfigError: another run is at work in the store, or a worker of the executor lacks a folder or the same code.
        NotWrittenError: the disk is full, or a folder cannot be written. What was made is kept.
    """
    began = time.perf_counter()
    code, folder = code_key(*CODE), folder.absolute()
    store, names = Store(folder, form, code), media_names(source)
    with _told_if_not_written(folder), only_writer(folder):
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        with FileHashes(folder / HASHES_FILE) as hashes:
            results = dict(_known(source, names, store, hashes))
            unknown = [name for name in names if name not in results]
            logger.info("%d files: %d are known, %d are to be read", len(names), len(results), len(unknown))
            check = partial(prepare_file, form=form, folder=folder, code=code)
            paths = [source / name for name in unknown]
            # The first file and the lock too: where a drive is not mounted there is often an empty folder.
            shared = (source, *paths[:1], folder, folder / LOCK_FILE)
            needs = Needs(shared=shared, code=CODE, packages=("av",))
            outcomes = check_files(check, paths, limits, workers, needs, executor)
            for name, result in _prepared(unknown, [_size(path) for path in paths], outcomes):
                results[name] = result
                if result.state is not None:
                    hashes.put(name, result.state, result.sha256)
            hashes.keep_only(names)
        left_out = dict(_place(source, target, results, store))
        dropped = store.keep_only(store.video(result.sha256, name) for name, result in results.items())
    if dropped:
        logger.info("%d files of earlier forms and contents were deleted from %s", dropped, folder)
    report = _report(source, target, results | left_out, form)
    return {**report, "seconds": round(time.perf_counter() - began, 3)}


def media_names(folder: Path) -> list[str]:
    """Return the paths of all files of a folder, relative to it, sorted; links are followed, but not in circles.

    Raises:
        OSError: a folder cannot be listed.
    """
    found: list[str] = []

    def search(inner: Path, above: frozenset[Path]) -> None:
        here = inner.resolve()
        if here in above:
            return
        for entry in os.scandir(inner):
            if entry.is_dir():
                search(Path(entry.path), above | {here})
            else:
                found.append(Path(entry.path).relative_to(folder).as_posix())

    search(folder, frozenset())
    return sorted(found)


def _known(source: Path, names: list[str], store: Store, hashes: FileHashes) -> Iterator[tuple[str, Prepared]]:
    """Yield what needs no file to be opened."""
    for name in names:
        path = source / name
        state = FileState.of(path)
        if state is None:
            detail = "expected a file that can be read, found a broken link, a pipe or the like"
            yield name, Prepared("", Refusal(Reason.UNREADABLE_FILE.value, detail), None)
        elif is_image(path):
            yield name, Prepared("", Refusal(IMAGE, "images are handed through"), None)
        elif (sha256 := hashes.get(name, state)) and (result := store.find(sha256, name)):
            yield name, replace(result, state=state)


def _prepared(
    names: list[str], sizes: list[int], outcomes: Iterator[tuple[int, Prepared | NotWritten | Refusal]]
) -> Iterator[tuple[str, Prepared]]:
    """Yield the results of files as they come.

    Args:
        names: of the files.
        sizes: their bytes.
        outcomes: by their places.

    Raises:
        OSError: one could not be written.
    """
    done = 0.0
    with progress("preparing files", round(sum(sizes) / 1e6), "MB") as show:
        show(0)
        for number, result in outcomes:
            if isinstance(result, NotWritten):
                raise OSError(result.number, result.detail)
            yield names[number], Prepared("", result, None) if isinstance(result, Refusal) else result
            done += sizes[number] / 1e6
            show(round(done))


def _place(source: Path, target: Path, results: Mapping[str, Prepared], store: Store) -> Iterator[tuple[str, Prepared]]:
    """Put each file under its name; yield those that cannot be read even to be copied."""
    for name, result in results.items():
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if result.refusal is None:
            link_or_copy(store.video(result.sha256, name), place)
            continue
        try:
            if FileState.of(source / name) is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            # No link: DVC makes what it keeps read-only, and the original stays the user's.
            shutil.copy2(source / name, place)
        except OSError as error:
            if error.errno in (*_FULL, errno.EROFS):
                raise
            place.unlink(missing_ok=True)
            yield name, replace(result, refusal=Refusal(LEFT_OUT, result.refusal.detail))


def _report(source: Path, target: Path, results: Mapping[str, Prepared], form: PreparedForm) -> dict[str, Any]:
    reasons: dict[str, list[str]] = {}
    for name, result in sorted(results.items()):
        if result.refusal is not None:
            # Names in another encoding than the system's hold what JSON cannot say.
            told = name.encode("utf-8", "backslashreplace").decode()
            reasons.setdefault(result.refusal.reason, []).append(told)
    for reason, named in reasons.items():
        logger.info("%d files are handed through: %s (%s%s)", len(named), reason, named[0], ", …" if named[1:] else "")
    videos = [result for result in results.values() if result.refusal is None]
    made = [result for result in videos if result.work_s]
    return {
        "files": len(results),
        "transcoded": len(made),
        "found": len(videos) - len(made),
        "handed_through": {reason: {"files": len(named), "first": named[:MAX_LISTED]} for reason, named in reasons.items()},
        "bytes_before": sum(_size(source / name) for name in results),
        "bytes_after": sum(_size(target / name) for name in results),
        "video_seconds": round(sum(result.video_s for result in made), 3),
        "work_seconds": round(sum(result.work_s for result in made), 3),
        "form": form.model_dump(),
    }


@contextmanager
def _told_if_not_written(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            what = "the disk is full. What was prepared is kept: free space, or move the workspace to another disk"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            what = f"cannot be written ({error}). What was prepared is kept: make it writable"
        else:
            raise
        raise NotWrittenError(f"{folder}: {what}, and run `prepare` again; it goes on where it stopped.") from error


def _size(path: Path) -> int:
    state = FileState.of(path)
    return state.size if state else 0
