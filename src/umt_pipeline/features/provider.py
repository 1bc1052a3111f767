"""Where teacher targets come from during training: read from a store (cached) or computed now (online).

Both give, for the same recorded view of the same clip, the same pixels, the same mask and the same targets up to the
store's codec. In epoch e a clip is seen through view e (online) or view e modulo V (cached, V recorded views).

Legend: B clips, T frames, S side of the view in pixels, N patches per frame, V visible patches per view, P values per
patch, K aligned layers, C target width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
import torch

from umt_pipeline.errors import StoreError
from umt_pipeline.features.extract import select_clips
from umt_pipeline.features.manifest import StoreHeader
from umt_pipeline.features.store import FeatureStore
from umt_pipeline.features.targets import TargetBatch, draw_targets, gather_patches, mask_noise
from umt_pipeline.models.flops import TowerSize, teacher_macs
from umt_pipeline.models.teacher import Teacher
from umt_pipeline.models.towers import OpenClipTower
from umt_pipeline.training.task import Batch, Sample, SampleDataset
from umt_pipeline.video.views import load_view, make_view


class ClipDataset(SampleDataset):
    """Samples keyed by (place in ``clip_ids``, epoch); a batch names its clips in ``clip``."""

    clip_ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.clip_ids)


class TargetProvider(Protocol):
    """Half of it reads on the host, ahead of the step (``dataset``), half finishes on the device (``targets``)."""

    header: StoreHeader

    def dataset(self) -> ClipDataset:
        """Return the samples of the training split; picklable."""

    def setup(self, device: torch.device) -> None:
        """Move what is needed to the device, once."""

    def targets(self, batch: Batch) -> TargetBatch:
        """Turn a batch of ``dataset`` that is on the device into what the student reads and is compared with."""

    def teacher_macs(self) -> int | None:
        """Return the teacher's multiply-accumulates for the targets of one clip in a step; None where they are not known."""

    def frames(self, batch: Batch) -> torch.Tensor:
        """Return the whole frames of a batch, uint8 [B,T,S,S,3], for training without a mask.

        Raises:
            StoreError: they were not recorded.
        """


class CachedTargets:
    """Targets from a feature store: no video is decoded and no teacher runs.

    Args:
        store: an open store.
        split: whose clips.

    Raises:
        StoreError: the store has no clip of that split.
    """

    def __init__(self, store: FeatureStore, split: str = "train") -> None:
        self.header: StoreHeader = store.manifest
        self._dataset = CachedDataset(store, split)
        self._codec = store.codec()

    def dataset(self) -> CachedDataset:
        """See :class:`TargetProvider`."""
        return self._dataset

    def setup(self, device: torch.device) -> None:
        """See :class:`TargetProvider`; moves the codec's code books, if it has some."""
        self._codec.to(device)

    def targets(self, batch: Batch) -> TargetBatch:
        """See :class:`TargetProvider`; decodes the targets on the device."""
        visible_BV = batch["visible"].long()
        patches_BVP = batch["pixels"]
        if self.header.pixels == "frames":
            patches_BVP = gather_patches(patches_BVP, visible_BV, self.header.patch_size)
        return TargetBatch(patches_BVP, visible_BV, self._codec.decode(batch).transpose(0, 1))

    def teacher_macs(self) -> int:
        """See :class:`TargetProvider`; the teacher was asked before."""
        return 0

    def frames(self, batch: Batch) -> torch.Tensor:
        """See :class:`TargetProvider`."""
        if self.header.pixels != "frames":
            raise StoreError(
                "training without a mask needs whole frames, the feature store holds visible patches only: set "
                "teacher_features.pixels to frames and run teacher_features again, or set stage2.unmasked_epochs to 0"
            )
        return batch["pixels"]


class CachedDataset(ClipDataset):
    """Records of a store as they lie there; whole batches are read at once."""

    def __init__(self, store: FeatureStore, split: str) -> None:
        rows = store.rows_for(split)
        index = store.index.iloc[rows]
        self.clip_ids = tuple(index["video_id"].drop_duplicates())
        self.split = split
        self._store = store
        # A clip's views lie side by side, in order.
        self._rows_IV = rows.reshape(len(self.clip_ids), store.manifest.views)
        self._names = [name for name in store.manifest.arrays() if name != "attention"]

    def rows(self, indices: np.ndarray, epoch: int) -> np.ndarray:
        """Return the store's rows for clips in an epoch."""
        return self._rows_IV[indices, epoch % self._rows_IV.shape[1]]

    def batch(self, indices: np.ndarray, epoch: int) -> Batch:
        """See :class:`SampleDataset`: pixels, visible, targets[, scales] as stored, clip."""
        batch: Batch = dict(self._store.read_raw(self.rows(indices, epoch), self._names))
        batch["clip"] = [self.clip_ids[index] for index in indices]
        return batch


class OnlineTargets:
    """Targets computed now by the frozen teacher, from the same views and masks that a store with this header records.

    Args:
        teacher: loaded for the header's grid, layers and normalisation.
        header: a store's manifest, also of a store made with ``views: 0``.
        videos: the clean video table.
        media_root: folder that the table's paths are relative to.
        split: whose clips.

    Raises:
        StoreError: the teacher is not the header's.
        ConfigError: no clip of that split.
    """

    def __init__(
        self, teacher: Teacher, header: StoreHeader, videos: pd.DataFrame, media_root: Path, split: str = "train"
    ) -> None:
        made = header.teacher
        expected = (made.weights_sha256, made.normalisation, made.importance, header.layers, header.grid)
        found = (teacher.weights_sha256, teacher.config.normalisation, teacher.importance, teacher.config.layers, teacher.grid)
        if found != expected:
            names = "weights, normalisation, importance, layers, grid"
            raise StoreError(f"teacher ({names}): the store has {expected}, found {found}")
        self.header = header
        self._teacher = teacher
        self._dataset = OnlineDataset(header, select_clips(videos, (split,)), media_root)

    def dataset(self) -> OnlineDataset:
        """See :class:`TargetProvider`."""
        return self._dataset

    def setup(self, device: torch.device) -> None:
        """See :class:`TargetProvider`; moves the teacher."""
        self._teacher.to(device)

    def targets(self, batch: Batch) -> TargetBatch:
        """See :class:`TargetProvider`; runs the teacher."""
        header = self.header
        return draw_targets(self._teacher, header.mask, header.patch_size, batch["frames"], batch["noise"])

    def teacher_macs(self) -> int | None:
        """See :class:`TargetProvider`; known of open_clip's own ViT."""
        header, tower = self.header, self._teacher.tower
        if not isinstance(tower, OpenClipTower):
            return None
        size = TowerSize.of_module(tower.visual)
        return teacher_macs(size, header.frames, header.grid, header.layers, header.visible_per_frame).total

    def frames(self, batch: Batch) -> torch.Tensor:
        """See :class:`TargetProvider`."""
        return batch["frames"]


class OnlineDataset(ClipDataset):
    """Decoded views and the noise of their masks."""

    def __init__(self, header: StoreHeader, clips: pd.DataFrame, media_root: Path) -> None:
        self.clip_ids = tuple(clips["video_id"])
        self._header = header
        self._paths = tuple(clips["path"])
        self._sizes = clips[["num_frames", "height", "width"]].to_numpy(np.int64)
        self._media_root = media_root

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """See :class:`SampleDataset`: frames uint8 [T,S,S,3], noise float32 [T,N], clip."""
        index, epoch = key
        clip, header = self.clip_ids[index], self._header
        num_frames, height, width = (int(number) for number in self._sizes[index])
        view = make_view(header.view, header.dataset_id, clip, epoch, num_frames, height, width)
        noise_TN = mask_noise(header.dataset_id, clip, epoch, header.frames, header.grid**2)
        return {"frames": load_view(self._media_root / self._paths[index], view), "noise": noise_TN, "clip": clip}
