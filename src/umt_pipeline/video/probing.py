"""Check many video and image files: in guarded worker processes, and each content once.

A file's result comes from the cache if it is known there, else from its content if a file of that content is known, else from
decoding it. Every result is kept as it comes.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import av

from umt_pipeline.core.errors import VideoError
from umt_pipeline.core.executor import Executor, Needs
from umt_pipeline.core.files import sha256_file
from umt_pipeline.core.identity import code_key, fingerprint
from umt_pipeline.core.progress import progress
from umt_pipeline.video.guarded import Check, Extend, ReadLimits, check_files, out_of_memory
from umt_pipeline.video.images import probe_image
from umt_pipeline.video.media import Reason, Refusal, VideoInfo, VideoRules, check_file, is_image
from umt_pipeline.video.probe_cache import FileState, ProbeCache
from umt_pipeline.video.reader import probe

logger = logging.getLogger(__name__)

CACHE_FILE = "probed.sqlite"
# Files whose results are in memory at a time. Each so many the workers are started anew and wait for the last of them, which
# takes seconds of an hour.
FILES_AT_ONCE = 65_536
# What decides, beside our own code, whether a file decodes.
DECODERS = ("av", "decord2", "pillow")
CODE = ("video.probing",)


@dataclass(frozen=True)
class Checked:
    """A file's result, and the file's state when the check began.

    Attributes:
        state: None if the file was gone by then.
        settled: whether any later change of the file will show in its state.
        result: what the file holds or why it is refused; of :func:`hash_content` the hash.
    """

    state: FileState | None
    settled: bool
    result: VideoInfo | Refusal | str


Run = Callable[[Check[Checked], Sequence[Path]], Iterator[tuple[int, Checked | Refusal]]]
"""Checks files and yields, as they come, the place of a file and what was found, or why its worker found nothing."""


def try_probe(path: Path, rules: VideoRules) -> VideoInfo | Refusal:
    """Probe one file, video or image; whatever goes wrong with it becomes a :class:`Refusal`."""
    try:
        return probe_image(path, rules) if is_image(path) else probe(path, rules)
    except Exception as error:
        # FFmpeg says it in an error's words.
        if any(isinstance(cause, MemoryError) or os.strerror(errno.ENOMEM) in str(cause) for cause in _causes(error)):
            return out_of_memory(f"{type(error).__name__}: {error}")
        if isinstance(error, VideoError):
            return Refusal(str(error.reason), error.detail)
        # Decoders raise what they like on damaged files. One file must not end the run, and none is dropped unseen.
        return Refusal(Reason.UNREADABLE_FILE.value, f"{type(error).__name__}: {error}")


def probe_all(
    root: Path,
    names: Iterable[str],
    rules: VideoRules,
    limits: ReadLimits | None = None,
    cache: Path | None = None,
    workers: int | None = None,
    total: int | None = None,
    executor: Executor | None = None,
) -> Iterator[VideoInfo | Refusal]:
    """Probe files, :data:`FILES_AT_ONCE` at a time.

    Args:
        root: folder of the files.
        names: their paths in it.
        rules: what is asked of each.
        limits: for one file; None: the defaults.
        cache: folder for what is found, to be found again; None: nothing is kept.
        workers: processes; see :func:`umt_pipeline.video.guarded.check_files`.
        total: how many names there are, for messages; None: they are counted, all at once.
        executor: where files are checked; None: on this machine.

    Yields:
        One result per name, in the order of ``names``, the same for any number of workers and any executor.

    Raises:
        WorkersDoNotStartError: a worker process could not be started.
        ConfigError: a worker of the executor does not see ``root``, or has other code.
    """
    limits = limits or ReadLimits()
    key = fingerprint(limits.model_dump())
    if total is None:
        names = list(names)
        total = len(names)
    waiting = iter(names)
    counts: Counter[str] = Counter()
    run = partial(_run, root=root, limits=limits, workers=workers, executor=executor)
    with (
        closing(ProbeCache(cache / CACHE_FILE, rules_key(rules), key)) if cache else nullcontext() as known,
        progress("checking files", total, "file") as show,
    ):
        while some := list(islice(waiting, FILES_AT_ONCE)):
            work = _Work(root, some, known, run, counts)
            left = work.look_up()
            show(counts.total())
            for step in (work.recognise(left), work.decode(left, rules)):
                with closing(step):  # whatever ends the run ends the workers
                    for number in step:
                        del left[number]
                        show(counts.total())
            yield from (result for result in work.results if result is not None)
    logger.info("%s", _told(counts))


def _told(counts: Counter[str]) -> str:
    moved = f" ({counts['content']} moved or copied)" if counts["content"] else ""
    absent = f", {counts['absent']} not there" if counts["absent"] else ""
    kept = counts["path"] + counts["content"]
    return f"checked {counts.total()} files: {kept} from the cache{moved}, {counts['decoded']} decoded{absent}"


def rules_key(rules: VideoRules) -> str:
    """Return a key of all that decides what :func:`try_probe` says of a file: rules, our code, versions of the decoders."""
    return fingerprint(rules.model_dump(mode="json"), code_key(*CODE), {name: version(name) for name in DECODERS})


def decode(path: Path, extend: Extend, rules: VideoRules) -> Checked:
    """Probe a file, and see whether it stayed as it was."""

    def check() -> VideoInfo | Refusal:
        # At depth `header` too: a file without an index is read to its end.
        if not is_image(path):
            extend(stated_seconds(path))
        return try_probe(path, rules)

    return _while_unchanged(path, check)


def hash_content(path: Path, _: Extend) -> Checked:
    """Hash a file instead of probing it; the time for its bytes it has anyway."""

    def check() -> str | Refusal:
        try:
            check_file(path)
            return sha256_file(path)
        except (VideoError, OSError) as error:
            return Refusal(Reason.UNREADABLE_FILE.value, f"the file cannot be read ({getattr(error, 'strerror', error)})")

    return _while_unchanged(path, check)


def stated_seconds(path: Path) -> float:
    """Return how long a video is by its header; 0 if that says nothing or cannot be read."""
    try:
        check_file(path)  # FFmpeg would wait for somebody to write into a named pipe
        with av.open(str(path), metadata_errors="replace") as container:
            return (container.duration or 0) / av.time_base
    except Exception:  # why it does not open is for the check itself to say
        return 0.0


def _while_unchanged(path: Path, check: Callable[[], VideoInfo | Refusal | str]) -> Checked:
    began, before = time.time(), FileState.of(path)
    result = check()
    if (after := FileState.of(path)) != before:
        told = " and then ".join(f"{state.size} bytes" if state else "no file" for state in (before, after))
        detail = f"expected a file that stays as it is while it is read, found {told} and another time of change; ingest again"
        result = Refusal(Reason.FILE_CHANGED.value, detail)
    return Checked(before, before is not None and before.settled(began), result)


def _run(
    check: Check[Checked],
    paths: Sequence[Path],
    root: Path,
    limits: ReadLimits,
    workers: int | None,
    executor: Executor | None,
) -> Iterator[tuple[int, Checked | Refusal]]:
    # The first file too: where a drive is not mounted there is often an empty folder, and all files would be missing.
    needs = Needs(shared=(root, *paths[:1]), code=CODE, packages=DECODERS)
    return check_files(check, paths, limits, workers, needs, executor)


class _Work:
    """Files that :func:`probe_all` has at a time, in steps; each settles some and leaves the others to the next.

    Attributes:
        results: of the files, None where none is known yet.
    """

    def __init__(
        self, root: Path, names: Sequence[str], known: ProbeCache | None, run: Run, counts: Counter[str]
    ) -> None:
        self._root, self._names, self._known, self._run, self._counts = root, names, known, run, counts
        self.results: list[VideoInfo | Refusal | None] = [None] * len(names)

    def look_up(self) -> dict[int, FileState | None]:
        """Settle what needs no file to be opened; return the others by their numbers, with their states."""
        left: dict[int, FileState | None] = {}
        for number, name in enumerate(self._names):
            path = self._root / name
            state = FileState.of(path)
            if state is None and (refusal := _absence(path)):
                self._settle("absent", number, refusal)
            elif state and self._known and (result := self._known.get(name, state)):
                self._settle("path", number, result)
            else:
                left[number] = state
        return left

    def recognise(self, left: dict[int, FileState | None]) -> Generator[int, None, None]:
        """Settle moved and copied files, by hashing those of the size of a known one; yield their numbers."""
        known = self._known
        if known is None:
            return
        alike = [number for number, state in left.items() if state and known.knows_size(state.size)]
        for number, checked in self._examine(hash_content, alike, left):
            if isinstance(checked.result, str):
                info = known.get_content(self._names[number], checked.result)
                if info is None:
                    continue
                checked = replace(checked, result=info)
            self._keep("decoded" if isinstance(checked.result, Refusal) else "content", number, checked)
            yield number

    def decode(self, left: dict[int, FileState | None], rules: VideoRules) -> Generator[int, None, None]:
        """Settle the rest by decoding it; yield the numbers."""
        for number, checked in self._examine(partial(decode, rules=rules), list(left), left):
            self._keep("decoded", number, checked)
            yield number

    def _examine(
        self, check: Check[Checked], numbers: list[int], states: dict[int, FileState | None]
    ) -> Iterator[tuple[int, Checked]]:
        for place, outcome in self._run(check, [self._root / self._names[number] for number in numbers]):
            number = numbers[place]
            if isinstance(outcome, Refusal):
                # The worker is gone, and what it saw of the file with it: good if the file is as it was before.
                state, now = states[number], FileState.of(self._root / self._names[number])
                outcome = Checked(now, now is not None and now == state and now.settled(time.time()), outcome)
            yield number, outcome

    def _keep(self, kind: str, number: int, checked: Checked) -> None:
        if isinstance(checked.result, str):
            raise TypeError(f"expected a result, found the hash {checked.result}")
        if self._known and checked.settled and checked.state:
            self._known.put(self._names[number], checked.state, checked.result)
        self._settle(kind, number, checked.result)

    def _settle(self, kind: str, number: int, result: VideoInfo | Refusal) -> None:
        self.results[number] = result
        self._counts[kind] += 1


def _absence(path: Path) -> Refusal | None:
    """Return why there is no file; None if there is one by now."""
    try:
        check_file(path)
    except VideoError as error:
        return Refusal(str(error.reason), error.detail)
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
