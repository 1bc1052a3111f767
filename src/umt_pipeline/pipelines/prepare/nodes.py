"""The node that prepares a folder of videos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from umt_pipeline.executors import OfflineParams, open_executor
from umt_pipeline.pipelines.prepare.params import PrepareParams
from umt_pipeline.video.preparing import prepare_folder


def prepare_media(
    source_media: Path, params: PrepareParams, offline: OfflineParams, workspace: Path
) -> tuple[Path, dict[str, Any]]:
    """Transcode a folder of videos, each content once; see :func:`umt_pipeline.video.preparing.prepare_folder`.

    Args:
        source_media: the user's folder. It is only read.
        params: what videos become.
        offline: where this is done.
        workspace: keeps what is made, to be found again; the catalog moves the finished folder into place.

    Returns:
        The folder of prepared files, under the paths of the originals, and what was done.

    Raises:
        ConfigError: another run is at work in the workspace, or Ray cannot be reached.
        NotWrittenError: the disk is full.
    """
    media = workspace / "prepared_media"
    store = workspace / "prepared"
    with open_executor(offline) as executor:
        return media, prepare_folder(source_media, media, store, params.form, params.limits, params.workers, executor)
