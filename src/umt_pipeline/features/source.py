"""Where a training run's views and targets come from, as data: a recorded store, or the teacher at every step."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from umt_pipeline.core.config import Config
from umt_pipeline.core.files import sha256_file
from umt_pipeline.data.mapped import MappedTable
from umt_pipeline.features.manifest import store_identity
from umt_pipeline.features.provider import CachedTargets, OnlineTargets, TargetProvider, needs_teacher
from umt_pipeline.features.store import FeatureStore
from umt_pipeline.models.teacher import load_teacher
from umt_pipeline.video.media import Media

Targets = Literal["cached", "online"]


class TargetSource(Config):
    """Views and targets of the clips of one split.

    Attributes:
        store: feature store folder; online, only its manifest is read.
        targets: ``cached`` reads the feature store; ``online`` decodes videos and runs the teacher at every step.
        teacher: teacher folder, read online only, and only if targets or masks need it.
        clips: mapped table of the clips (:class:`OnlineTargets` says which columns), read online only.
        media_root: folder of the media, read online only.
        split: whose clips.
        media: ``video`` or ``image``; online only, for a store holds one kind.
        aligned: whether targets are wanted, or only views and masks.
    """

    store: Path
    targets: Targets = "cached"
    teacher: Path
    clips: Path
    media_root: Path
    split: str = "train"
    media: Media = "video"
    aligned: bool = True

    def open(self) -> TargetProvider:
        """Open the provider.

        Raises:
            StoreError: the store is missing or damaged.
            CheckpointError: the teacher cannot be loaded.
        """
        store = FeatureStore(self.store)
        if self.targets == "cached":
            return CachedTargets(store, self.split, self.aligned)
        header = store.manifest
        tower = None
        if needs_teacher(header, self.aligned):
            tower = load_teacher(self.teacher, header.teacher_config(), header.grid)
        return OnlineTargets(tower, header, MappedTable(self.clips), self.media_root, self.split, self.media, self.aligned)

    def inputs(self) -> dict[str, str]:
        """Return hashes of what the paths lead to; the store's settings name the teacher's weights."""
        read = {"clips": sha256_file(self.clips)} if self.targets == "online" else {}
        return {"store": store_identity(self.store), **read}
