"""What a folder of media holds: videos, captioned images, sidecar captions, folders named after classes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from umt_pipeline.core.errors import ConfigError
from umt_pipeline.video.media import is_image

# Files with other suffixes are left out, and counted, but for images that have a caption.
VIDEO_SUFFIXES = {
    ".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts",
    ".webm", ".wmv",
}  # fmt: skip


@dataclass(frozen=True)
class FolderTables:
    """Tables read from a folder; paths are relative to it, with ``/``, sorted.

    Attributes:
        videos: column video: videos and captioned images.
        captions: columns video, caption: of sidecar files.
        labels: columns video, task, label.
        left_out: how many files are not used, by reason.
    """

    videos: pd.DataFrame
    captions: pd.DataFrame
    labels: pd.DataFrame
    left_out: dict[str, int]


def read_folder(folder: Path, class_folders: bool = False, captioned: frozenset[str] = frozenset()) -> FolderTables:
    """Read a folder at any depth.

    Args:
        folder: of media.
        class_folders: the folder that a video lies in is its label, of task ``label``.
        captioned: paths that a table has captions of: images are taken if they have one.

    Raises:
        ConfigError: ``folder`` is no folder or holds no video file.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: expected a folder of videos, found {'a file' if folder.exists() else 'nothing'}.")
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    sidecars = {name: path.with_suffix(".txt") for name, path in files.items() if path.with_suffix(".txt").is_file()}
    videos = sorted(name for name, path in files.items() if path.suffix.lower() in VIDEO_SUFFIXES)
    if not videos:
        raise ConfigError(
            f"{folder}: expected files ending in {' '.join(sorted(VIDEO_SUFFIXES))}; found none among {len(files)} files."
        )
    images = sorted(name for name, path in files.items() if is_image(path) and (name in captioned or name in sidecars))
    media = sorted([*videos, *images])
    captions = [(name, sidecars[name].read_text(encoding="utf-8").strip()) for name in media if name in sidecars]
    labels = [(name, "label", name.split("/")[-2]) for name in videos if class_folders and "/" in name]
    used = {*media, *(path.relative_to(folder).as_posix() for path in sidecars.values())}
    other = Counter("image without a caption" if is_image(files[name]) else "other kind" for name in files.keys() - used)
    return FolderTables(
        pd.DataFrame({"video": media}, dtype=str),
        pd.DataFrame(captions, columns=["video", "caption"], dtype=str),
        pd.DataFrame(labels, columns=["video", "task", "label"], dtype=str),
        dict(sorted(other.items())),
    )
