"""What both stages do before they train: check feature stores, and name them as sources of views and targets."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from umt_pipeline.features.rejects import read_rejects
from umt_pipeline.features.source import Targets, TargetSource
from umt_pipeline.features.verify import require_settings, verify_store
from umt_pipeline.pipelines.teacher_features.params import TeacherFeaturesParams
from umt_pipeline.video.media import Media

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RecordedViews:
    """Feature stores, and what they were made from, which is read online and to verify them.

    Attributes:
        features: what the stores are expected to be.
        stores: their folders, by kind of media.
        teacher: the teacher's folder.
        videos: the clean table of videos and images.
        media_root: folder of the media files.
    """

    features: TeacherFeaturesParams
    stores: Mapping[Media, Path]
    teacher: Path
    videos: pd.DataFrame
    media_root: Path

    def source(self, media: Media, targets: Targets, verify: float, clips: Path, aligned: bool = True) -> TargetSource:
        """Check the store of one kind of media and return it as a source of views and targets.

        Args:
            media: the kind.
            targets: ``cached`` or ``online``.
            verify: share of the store's rows that are computed again and compared, where targets are cached.
            clips: mapped table of the clips, for online targets.
            aligned: whether targets are wanted.

        Raises:
            StoreError: the store is incomplete, not what the parameters ask for, or not what teacher and media give now.
        """
        store = self.stores[media]
        require_settings(store, self.features if media == "video" else self.features.image_config(), self.teacher)
        if targets == "cached":
            own = self.videos[self.videos["media"] == media]
            verify_store(store, verify, self.teacher, own, self.media_root, self.features.workers)
        return TargetSource(
            store=store,
            targets=targets,
            teacher=self.teacher,
            clips=clips,
            media_root=self.media_root,
            media=media,
            aligned=aligned,
        )


def gather_views(
    features: TeacherFeaturesParams,
    teacher: Path,
    videos: pd.DataFrame,
    raw_media: Path,
    feature_store: Path,
    image_store: Path | None = None,
) -> RecordedViews:
    """Put together what training reads of the teacher; see :class:`RecordedViews`.

    Clips that the stores lack, because a file could not be read, are left out.
    """
    stores: dict[Media, Path] = {"video": feature_store}
    if image_store is not None:
        stores["image"] = image_store
    rejected = {clip for store in stores.values() for clip in read_rejects(store)["video_id"].to_pylist()}
    if rejected:
        logger.warning("%d clips are left out: their files could not be read when features were extracted", len(rejected))
        videos = videos[~videos["video_id"].isin(rejected)]
    return RecordedViews(features, stores, teacher, videos, raw_media)
