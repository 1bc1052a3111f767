"""The node that prepares a folder of videos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from umt_pipeline.executors import OfflineParams, open_executor
from umt_pipeline.pipelines.numbers import split_off
from umt_pipeline.pipelines.prepare.params import PrepareParams
from umt_pipeline.video.preparing import prepare_folder

# What a report says of the run, which finds what earlier ones have made, and not of the folder.
_OF_THIS_RUN = ("transcoded", "found", "video_seconds", "work_seconds", "seconds")


def prepare_media(
    source_media: Path, params: PrepareParams, offline: OfflineParams, workspace: Path
) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """Transcode a folder of videos, each content once; see :func:`umt_pipeline.video.preparing.prepare_folder`.

    Args:
        source_media: the user's folder. It is only read.
        params: what videos become.
        offline: where this is done.
        workspace: keeps what is made, to be found again; the catalog moves the finished folder into place.

    Returns:
        The folder of prepared files, under the paths of the originals; what is in it; and what this run did and took.

    Raises:
        ConfigError: another run is at work in the workspace, or Ray cannot be reached.
        NotWrittenError: the disk is full.
    """
    media = workspace / "prepared_media"
    store = workspace / "prepared"
    with open_executor(offline) as executor:
        report = prepare_folder(source_media, media, store, params.form, params.limits, params.workers, executor)
    return media, *split_off(report, _OF_THIS_RUN)
