"""A folder of one's own videos: what is in it, and what stands beside the videos as captions and labels.

One walk, which opens no video. Every file ends in a table or in a count of what was left out, by reason.
"""

from __future__ import annotations

import logging
import os
import re
import stat
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from umt_pipeline.core.errors import ConfigError, TableError
from umt_pipeline.core.locking import LOCK_FILE
from umt_pipeline.tables.sidecars import SIDECAR_SUFFIXES, Said, read_sidecar
from umt_pipeline.video.media import IMAGE_SUFFIXES, is_image

logger = logging.getLogger(__name__)

VIDEO_SUFFIXES = frozenset(
    {
        ".3gp", ".asf", ".avi", ".f4v", ".flv", ".gif", ".m2ts", ".m2v", ".m4v", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg",
        ".mpg", ".mts", ".ogv", ".qt", ".ts", ".vob", ".webm", ".wmv",
    }
)  # fmt: skip
MEDIA_SUFFIXES = VIDEO_SUFFIXES | IMAGE_SUFFIXES
LABEL_TASK = "label"
# What is in the path of each file of a DVC cache.
_DVC_CACHE = "/files/md5/"

# Why something was left out: the keys of FolderTables.left_out. Each reads well after a number.
HIDDEN = "hidden files and folders"
OTHER = "files of other kinds"
STILL = "images without a caption"
NOT_A_FILE = "folders and pipes with the name of a video (not a file)"
SECOND_NAME = "links to what is read under another name"
LEADS_BACK = "links that lead back to a folder they are in"
DANGLING = "links that lead nowhere"
NOT_UTF8 = "names that are not UTF-8"
CONTROL = "names with a line break or another control character"
BAD_SIDECAR = "sidecars that cannot be read"
NO_CAPTION = "sidecars without caption and label"
# These are somebody's mistake more often than not, so the log names the first of each.
_WORTH_A_LOOK = frozenset({NOT_A_FILE, DANGLING, NOT_UTF8, CONTROL, BAD_SIDECAR})

# Files that systems and programs put everywhere, beside all whose names begin with a dot.
_SYSTEM = frozenset(
    {"#recycle", "#snapshot", "$RECYCLE.BIN", "@eaDir", "System Volume Information", "Thumbs.db", "__MACOSX", "desktop.ini"}
)
# Our own notes in folders that we fill: in the folder of an unpacked shard which state of the shard it is made from, in a
# staged folder which state of each remote file. They are nobody's files, so they are not counted.
SHARD_MARKER = ".shard.json"
STAGED_JOURNAL = ".staged.jsonl"
_OURS = frozenset({LOCK_FILE, SHARD_MARKER, STAGED_JOURNAL})
_SURROGATE = re.compile("[\ud800-\udfff]")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(frozen=True)
class FolderTables:
    """What a folder holds.

    Attributes:
        videos: ``video``: path of each video and image, relative to the folder, with ``/``; sorted.
        captions: ``video, caption`` from sidecars, in the order of ``videos``.
        labels: ``video, task, label`` from class folders and sidecars, in the order of ``videos``.
        left_out: reason -> number of files, folders or links.
        stills: the images without a caption among them, sorted.
    """

    videos: pd.DataFrame
    captions: pd.DataFrame
    labels: pd.DataFrame
    left_out: dict[str, int]
    stills: tuple[str, ...] = ()


def read_folder(folder: Path, class_folders: bool = False, captioned: frozenset[str] = frozenset()) -> FolderTables:
    """Find the videos of a folder, at any depth, and what stands beside them.

    A sidecar ``x.txt`` beside ``x.mp4`` has a caption in each line that is not blank; ``x.json`` is an object with
    ``caption``, ``captions`` or ``text`` (a text or a list of texts each) and ``label`` (a text or a number). Images are
    taken if a caption names them or they have a sidecar of their own: others may be thumbnails.

    Symbolic links are followed. A file that several names lead to counts once: by its real name if that is in the folder
    (by the link's, if captions name that one alone), else by the first link. A link to a folder that it is in is not
    followed. A link into a DVC cache is a file of its own, for that is how DVC may keep files, and of equal files it keeps one.

    Args:
        folder: of videos.
        class_folders: the folders at the first level are the labels, for the task ``label``, of all within.
        captioned: paths that the table of captions names.

    Raises:
        ConfigError: ``folder`` is no folder, a folder in it cannot be read, or there is no video and no image to take.
        TableError: a sidecar and a class folder give a file two labels.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: expected a folder of videos, found {'a file' if folder.exists() else 'nothing'}.")
    walk = _Walk(folder.resolve(), captioned)
    walk.run()
    names: list[str] = []
    stills: list[str] = []
    captions: list[tuple[str, str]] = []
    labels: list[tuple[str, str, str]] = []
    for name in sorted(walk.found):
        said = walk.said(name)
        if is_image(name) and name not in captioned and said == Said():
            walk.leave(STILL, name)
            stills.append(name)
            continue
        names.append(name)
        captions += [(name, caption) for caption in said.captions]
        label = _class_label(folder, name, said.label) if class_folders else said.label
        labels += [(name, LABEL_TASK, label)] if label is not None else []
    walk.leave_unread_sidecars()
    if not names:
        found = ", ".join(f"{count} {reason}" for reason, count in walk.left_out.items()) or "nothing at all"
        raise ConfigError(f"{folder}: expected files ending in {' '.join(sorted(VIDEO_SUFFIXES))}; found {found}.")
    for reason in sorted(_WORTH_A_LOOK & set(walk.left_out)):
        logger.warning("%s: left out: %d %s (first: %r)", folder, walk.left_out[reason], reason, walk.first[reason])
    return FolderTables(
        videos=_table(["video"], names),
        captions=_table(["video", "caption"], captions),
        labels=_table(["video", "task", "label"], labels),
        left_out={reason: walk.left_out[reason] for reason in sorted(walk.left_out)},
        stills=tuple(stills),
    )


def is_hidden(name: str) -> bool:
    """Tell whether systems and programs keep a file or folder for themselves, by its name."""
    return name.startswith(".") or name in _SYSTEM


def name_problem(name: str) -> str | None:
    """Return why a name can stand in no table, or None if it can."""
    if name.isascii() and name.isprintable():
        return None
    return NOT_UTF8 if _SURROGATE.search(name) else CONTROL if _CONTROL.search(name) else None


def _table(columns: list[str], rows: list[Any]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=pd.Index(columns), dtype=str)


def _class_label(folder: Path, name: str, said: str | None) -> str | None:
    first, slash, _ = name.partition("/")
    if slash and said is not None and said != first:
        raise TableError(
            f"{folder / name}: expected one label, found '{first}' from the class folder and '{said}' from the sidecar. "
            "Take the labels of the sidecars alone (without class folders), or take `label` out of this one."
        )
    return first if slash else said


def _split(name: str) -> tuple[str, str]:
    stem, dot, suffix = name.rpartition(".")
    return (stem, f".{suffix.lower()}") if dot else (name, "")


@dataclass
class _Walk:
    """One walk through a folder.

    Attributes:
        root: its real path.
        captioned: names that captions use.
        found: names of videos and images.
        sidecars: name without suffix -> names of sidecars; ``read`` has those that were read.
        folders: real path of each folder that was read -> what its files' names begin with.
        linked: real path of each file that was taken by the name of a link -> that name.
        links: name and real place of the links that are not followed yet.
        left_out: reason -> number; ``first`` has the first of each.
        stems: names of videos without suffix.
    """

    root: Path
    captioned: frozenset[str]
    found: set[str] = field(default_factory=set)
    sidecars: dict[str, list[str]] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)
    folders: dict[str, str] = field(default_factory=dict)
    linked: dict[str, str] = field(default_factory=dict)
    links: list[tuple[str, str]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    stems: set[str] = field(default_factory=set)

    def run(self) -> None:
        """Read the folder, then what its links lead to, in the order of their names, then what links in there lead to."""
        self._read(str(self.root), "")
        while self.links:
            links, self.links = sorted(self.links), []
            for name, place in links:
                self._follow(name, place)
        self.stems = {_split(name)[0] for name in self.found if not is_image(name)}

    def leave(self, reason: str, name: str) -> None:
        """Count something that is left out."""
        self.left_out[reason] += 1
        self.first.setdefault(reason, name)

    def said(self, name: str) -> Said:
        """Return what the sidecars of a video or image say. Those of a video are not its thumbnail's too."""
        stem = _split(name)[0]
        if is_image(name) and stem in self.stems:
            return Said()
        parts = [self._read_sidecar(sidecar) for sidecar in sorted(self.sidecars.get(stem, ()))]
        captions = dict.fromkeys(caption for part in parts for caption in part.captions)
        return Said(tuple(captions), next((part.label for part in parts if part.label is not None), None))

    def leave_unread_sidecars(self) -> None:
        """Count what is called like a sidecar and stands beside no video."""
        for name in sorted(name for names in self.sidecars.values() for name in names if name not in self.read):
            self.leave(OTHER, name)

    def _read_sidecar(self, name: str) -> Said:
        said, reason, cause = Said(), NO_CAPTION, name
        try:
            said = read_sidecar(self.root / name)
        except TableError as error:
            reason, cause = BAD_SIDECAR, str(error)
        # One that several videos have is counted once.
        if said == Said() and name not in self.read:
            self.leave(reason, cause)
        self.read.add(name)
        return said

    def _read(self, top: str, prefix: str) -> None:
        waiting = [(top, prefix)]
        while waiting:
            real, prefix = waiting.pop()
            if real in self.folders:
                self.leave(SECOND_NAME, prefix)
                continue
            self.folders[real] = prefix
            try:
                with os.scandir(real) as opened:
                    entries = list(opened)
            except OSError as error:
                raise _unreadable(real, error) from error
            for entry in entries:
                if entry.name in _OURS:
                    continue
                name = prefix + entry.name
                problem = HIDDEN if is_hidden(entry.name) else name_problem(entry.name)
                if problem is not None:
                    self.leave(problem, name)
                elif entry.is_symlink():
                    self.links.append((name, entry.path))
                elif entry.is_dir(follow_symlinks=False):
                    self._note_folder(name)
                    waiting.append((entry.path, f"{name}/"))
                else:
                    self._take(name, entry.path, entry.is_file(follow_symlinks=False))

    def _follow(self, name: str, place: str) -> None:
        try:
            mode = Path(place).stat().st_mode
            real = _real(place)
        except PermissionError as error:
            raise _unreadable(place, error) from error
        except OSError:  # nothing there, or links that lead to each other
            self.leave(DANGLING, name)
            return
        if not stat.S_ISDIR(mode):
            self._take(name, real, stat.S_ISREG(mode), link=True)
        elif any(inner.startswith(real.rstrip("/") + "/") for inner in (place, f"{self.root}/")):
            self.leave(LEADS_BACK, name)
        elif real in self.folders:
            self.leave(SECOND_NAME, name)
        else:
            self._note_folder(name)
            self._read(real, f"{name}/")

    def _note_folder(self, name: str) -> None:
        if _split(name)[1] in MEDIA_SUFFIXES:
            self.leave(NOT_A_FILE, name)

    def _take(self, name: str, real: str, regular: bool, link: bool = False) -> None:
        stem, suffix = _split(name)
        if suffix in MEDIA_SUFFIXES and not regular:
            self.leave(NOT_A_FILE, name)
        elif suffix in MEDIA_SUFFIXES:
            known = self._known(real) if link or self.linked else None
            if known is not None and (name not in self.captioned or known in self.captioned):
                self.leave(SECOND_NAME, name)
                return
            if known is not None:
                self.found.discard(known)
                self.leave(SECOND_NAME, known)
            self.found.add(name)
            if link:
                self.linked[real] = name
        elif suffix in SIDECAR_SUFFIXES and regular:
            self.sidecars.setdefault(stem, []).append(name)
        else:
            self.leave(OTHER, name)

    def _known(self, real: str) -> str | None:
        """Return the name by which a file was taken before."""
        if real in self.linked:
            return self.linked[real]
        folder, _, file = real.rpartition("/")
        prefix = self.folders.get(folder)
        return f"{prefix}{file}" if prefix is not None and f"{prefix}{file}" in self.found else None


def _real(place: str) -> str:
    """Return the real path of what a link leads to; a link into a DVC cache stands for the file that DVC keeps there."""
    hop = Path(place)
    while hop.is_symlink():
        target = hop.parent / hop.readlink()
        if _DVC_CACHE in str(target):
            return str(hop.parent.resolve() / hop.name)
        hop = target
    return str(hop.resolve())


def _unreadable(path: str, error: OSError) -> ConfigError:
    return ConfigError(
        f"{path}: expected a folder that can be read, found: {error.strerror}. Allow reading it, or take it out."
    )
