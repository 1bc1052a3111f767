"""Where somebody's videos are, as a local folder of files: as they lie, brought from elsewhere, unpacked from shards."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from umt_pipeline.core.errors import ConfigError
from umt_pipeline.tables.folders import VIDEO_SUFFIXES, is_hidden
from umt_pipeline.tables.staging import is_address, stage_folder
from umt_pipeline.tables.webdataset import find_shards, unpack_shards


class LocalMedia(NamedTuple):
    """A folder for :func:`~umt_pipeline.tables.folders.read_folder`.

    Attributes:
        folder: where the files are.
        told: what was done to have them there, a sentence each; none for a folder that is taken as it lies.
    """

    folder: Path
    told: list[str]


def local_media(source: str, target: Path) -> LocalMedia:
    """Return the folder of videos that somebody names.

    A folder with videos is taken as it lies. One of WebDataset shards is unpacked into ``target``. What is at an address is
    staged in ``target``, and if that is shards, unpacked beside it (``media`` into ``media_unpacked``). Each call does only
    what is new.

    Args:
        source: a path, or an address such as ``s3://bucket/videos``.
        target: a folder that is ours to fill.

    Raises:
        ConfigError: there is no such folder, it holds both videos and shards, or it cannot be staged or unpacked.
        TableError: a shard is damaged.
    """
    told = []
    folder = Path(source)
    if is_address(source):
        staged = stage_folder(source, target)
        told.append(f"{source}: {staged.files} files, of them {staged.downloaded} downloaded now, {staged.removed} removed")
        folder, target = target, target.with_name(f"{target.name}_unpacked")
    if not folder.is_dir():
        raise ConfigError(f"{folder}: expected a folder of videos, found {'a file' if folder.exists() else 'nothing'}.")
    shards = find_shards(folder)
    if not shards:
        return LocalMedia(folder, told)
    if (video := _first_video(folder)) is not None:
        raise ConfigError(
            f"{source}: expected either videos or shards, found both, such as {video.relative_to(folder)} and "
            f"{shards[0].relative_to(folder)}. Move one kind elsewhere."
        )
    done = unpack_shards(folder, target)
    told.append(f"{done.shards} shards, of them {done.unpacked} unpacked now ({done.files} files), {done.removed} removed")
    told += [f"left out of the shards: {count} {reason}" for reason, count in done.left_out.items()]
    return LocalMedia(target, told)


def _first_video(folder: Path) -> Path | None:
    videos = (path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file())
    return next((path for path in videos if not any(map(is_hidden, path.relative_to(folder).parts))), None)
