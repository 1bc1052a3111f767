"""Where teacher targets come from during training: read from a store (cached) or computed now (online).

Both give, for the same recorded view of the same clip, the same pixels, and in the same precision (online it is that of the
training) the same mask and the same targets up to the store's codec. In its pass number p a clip is seen through view p
(online) or view p modulo U (cached, U recorded views). An image is a clip of one frame.

Legend: B clips of a batch, I clips of a split, U recorded views of each, T frames, S side of the view in pixels, N patches per
frame, V visible patches per view, P values per patch, K aligned layers, C target width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from umt_pipeline.core.errors import ConfigError, StoreError
from umt_pipeline.data.mapped import MappedTable
from umt_pipeline.data.replacement import read_or_replace
from umt_pipeline.data.samples import Batch, Sample, SampleDataset
from umt_pipeline.features.index import column_of
from umt_pipeline.features.manifest import StoreHeader
from umt_pipeline.features.store import FeatureStore
from umt_pipeline.features.targets import TargetBatch, draw_targets, gather_patches, mask_noise, no_targets
from umt_pipeline.models.teacher import Teacher
from umt_pipeline.models.vit import every_patch
from umt_pipeline.video.pixels import patchify
from umt_pipeline.video.views import ViewConfig, load_view, make_view


class ClipDataset(SampleDataset):
    """Samples keyed by (index in ``clip_ids``, pass); a batch names its clips in ``clip``."""

    @property
    def clip_ids(self) -> pa.Array:
        """The clips' names: Arrow's strings, of which loader workers need no copies."""
        raise NotImplementedError

    def indices(self, clip_ids: pa.Array) -> np.ndarray:
        """Return the index of each of these clips, int64, -1 for a clip that is not there."""
        return np.asarray(pc.fill_null(pc.index_in(clip_ids.cast(self.clip_ids.type), self.clip_ids), -1)).astype(np.int64)


class ClipSize(Protocol):
    """What a training step must know of the clips that it sees; a store's header is one."""

    @property
    def frames(self) -> int:
        """T."""

    @property
    def grid(self) -> int:
        """Patches along a side of a frame."""

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""

    @property
    def visible_per_frame(self) -> int:
        """Patches of a frame that the student reads."""


class TargetProvider(Protocol):
    """Half of it reads on the host, ahead of the step (``dataset``), half finishes on the device (``targets``)."""

    @property
    def header(self) -> ClipSize:
        """The clips' size."""

    def dataset(self) -> ClipDataset:
        """Return the samples of the training split; picklable."""

    def setup(self, device: torch.device) -> None:
        """Move what is needed to the device, once."""

    def compile(self) -> None:
        """Compile what computes the targets, after :meth:`setup`; only where training is asked to compile."""

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
        aligned: whether targets are wanted, or only views and masks.

    Raises:
        StoreError: the store has no clip of that split.
    """

    def __init__(self, store: FeatureStore, split: str = "train", aligned: bool = True) -> None:
        self.header: StoreHeader = store.manifest
        self._dataset = CachedDataset(store, split, aligned)
        self._coder = store.coder() if aligned else None

    def dataset(self) -> CachedDataset:
        return self._dataset

    def setup(self, device: torch.device) -> None:
        """Moves the codec's code books, if it has some."""
        if self._coder is not None:
            self._coder = self._coder.to(device)

    def compile(self) -> None:
        """Nothing is computed that would be faster for it."""

    def targets(self, batch: Batch) -> TargetBatch:
        """Decodes the targets on the device."""
        visible_BV = batch["visible"].long()
        patches_BVP = batch["pixels"]
        if self.header.pixels == "frames":
            patches_BVP = gather_patches(patches_BVP, visible_BV, self.header.patch_size)
        targets_KBVC = no_targets(visible_BV) if self._coder is None else self._coder.decode(batch).transpose(0, 1)
        return TargetBatch(patches_BVP, visible_BV, targets_KBVC)

    def teacher_macs(self) -> int:
        """None: the teacher ran before."""
        return 0

    def frames(self, batch: Batch) -> torch.Tensor:
        if self.header.pixels != "frames":
            raise StoreError(
                "training without a mask needs whole frames, the feature store holds visible patches only: set "
                "teacher_features.pixels to frames and run teacher_features again, or set stage2.unmasked_epochs to 0"
            )
        return batch["pixels"]


class CachedDataset(ClipDataset):
    """Records of a store as they lie there; whole batches are read at once.

    Of the index, which stays mapped, it keeps the first row of each clip.
    """

    def __init__(self, store: FeatureStore, split: str, aligned: bool = True) -> None:
        self._views = store.manifest.views
        # A clip's views lie side by side, in order.
        self._first_rows_I = store.rows_for(split)[:: self._views].copy()
        self.split = split
        self._pin = False
        self._store = store
        unread = {"attention"} if aligned else {"attention", *store.manifest.target_arrays()}
        self._names = [name for name in store.manifest.arrays() if name not in unread]

    def __len__(self) -> int:
        return len(self._first_rows_I)

    @property
    def clip_ids(self) -> pa.Array:
        return self._names_of(self._first_rows_I)

    def rows(self, indices_B: np.ndarray, passes_B: np.ndarray) -> np.ndarray:
        """Return the store's rows for clips in a pass."""
        return self._first_rows_I[indices_B] + passes_B % self._views

    def batch(self, indices_B: np.ndarray, passes_B: np.ndarray) -> Batch:
        """Pixels, visible, targets[, scales] as stored, clip."""
        batch: Batch = dict(self._store.read_raw(self.rows(indices_B, passes_B), self._names, self._pin))
        batch["clip"] = self._names_of(self._first_rows_I[indices_B]).to_pylist()
        return batch

    def pin(self) -> None:
        self._pin = True

    def _names_of(self, rows_B: np.ndarray) -> pa.Array:
        return column_of(self._store.index, "video_id").take(pa.array(rows_B)).cast(pa.large_string())


class OnlineTargets:
    """Targets computed now by the frozen teacher, from the same views and masks that a store with this header records.

    Args:
        teacher: loaded for the header's grid, layers and normalisation; None where neither mask nor alignment asks for one.
        header: a store's manifest, also of a store made with ``views: 0``.
        clips: columns video_id, path, num_frames, height, width, split, media.
        media_root: folder that the table's paths are relative to.
        split: whose clips.
        media: ``video`` or ``image``.
        aligned: whether targets are wanted, or only views and masks.

    Raises:
        StoreError: the teacher is not the header's.
        ConfigError: no clip of that split; or no teacher, but targets or masks that need one.
    """

    def __init__(
        self,
        teacher: Teacher | None,
        header: StoreHeader,
        clips: MappedTable,
        media_root: Path,
        split: str = "train",
        media: str = "video",
        aligned: bool = True,
    ) -> None:
        if teacher is not None:
            _require_same(teacher, header)
        elif needs_teacher(header, aligned):
            raise ConfigError(f"mask.kind {header.mask.kind!r} and alignment {aligned} need the teacher, none was given")
        self.header = header
        self._teacher = teacher
        self._aligned = aligned
        self._dataset = OnlineDataset(header, clips, split, media_root, media)

    def dataset(self) -> OnlineDataset:
        return self._dataset

    def setup(self, device: torch.device) -> None:
        """Moves the teacher."""
        if self._teacher is not None:
            self._teacher.to(device)

    def compile(self) -> None:
        """Compiles the teacher's blocks."""
        if self._teacher is not None:
            self._teacher.compile_blocks()

    def targets(self, batch: Batch) -> TargetBatch:
        """Runs the teacher."""
        header = self.header
        return draw_targets(
            self._teacher, header.mask, header.patch_size, batch["frames"], batch["noise"], aligned=self._aligned
        )

    def teacher_macs(self) -> int | None:
        """Known of open_clip's own ViT."""
        header = self.header
        return 0 if self._teacher is None else self._teacher.macs(header.frames, header.visible_per_frame)

    def frames(self, batch: Batch) -> torch.Tensor:
        return batch["frames"]


def needs_teacher(header: StoreHeader, aligned: bool) -> bool:
    """Tell whether the teacher must run online: for its targets, or for the attention that draws the masks."""
    return aligned or header.mask.kind == "attention"


def _require_same(teacher: Teacher, header: StoreHeader) -> None:
    made = header.teacher
    own = teacher.config
    expected = (made.weights_sha256, made.normalisation, made.importance, header.layers, header.layer_interval, header.grid)
    found = (teacher.weights_sha256, own.normalisation, teacher.importance, own.layers, own.interval, teacher.grid)
    if found != expected:
        names = "weights, normalisation, importance, layers, interval, grid"
        raise StoreError(f"teacher ({names}): the store has {expected}, found {found}")


class DecodedClips(ClipDataset):
    """Views decoded when they are asked for, a new one in each pass.

    Args:
        clips: columns video_id, path, num_frames, height, width, split, media.
        split: whose clips.
        media_root: folder that the table's paths are relative to.
        view: how a view is drawn.
        dataset_id: name of the data set, part of what a view is drawn by.
        media: ``video`` or ``image``.

    Raises:
        ConfigError: no clip of that split.
    """

    def __init__(
        self, clips: MappedTable, split: str, media_root: Path, view: ViewConfig, dataset_id: str, media: str = "video"
    ) -> None:
        self._rows = clips.where(split=split, media=media)
        if len(self._rows) == 0:
            raise ConfigError(f"{clips.path}: expected media of kind {media!r} in split {split!r}, found none")
        self._clips, self._media_root, self._view, self._dataset_id = clips, media_root, view, dataset_id

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def clip_ids(self) -> pa.Array:
        return self._clips.values("video_id").take(pa.array(self._rows))

    def read(self, index: int, number: int) -> Sample:
        """Return one sample: frames uint8 [T,S,S,3], clip.

        Raises:
            VideoError: the file cannot be read.
        """
        found = self._clips.row(int(self._rows[index]))
        size = (found["num_frames"], found["height"], found["width"])
        view = make_view(self._view, self._dataset_id, found["video_id"], number, *size)
        return {"frames": load_view(self._media_root / found["path"], view), "clip": found["video_id"]}

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """As :meth:`read`; another clip takes the place of one that cannot be read."""
        return read_or_replace(self.read, *key, range(len(self)), self._dataset_id)[0]


class OnlineDataset(DecodedClips):
    """The views that a store with this header records, and the noise of their masks."""

    def __init__(self, header: StoreHeader, clips: MappedTable, split: str, media_root: Path, media: str = "video") -> None:
        super().__init__(clips, split, media_root, header.view, header.dataset_id, media)
        self._size = (header.frames, header.grid**2)

    def read(self, index: int, number: int) -> Sample:
        """Frames uint8 [T,S,S,3], noise float32 [T,N], clip."""
        sample = super().read(index, number)
        return {**sample, "noise": mask_noise(self._dataset_id, sample["clip"], number, *self._size)}


@dataclass(frozen=True)
class WholeClip:
    """The size of clips of which every patch is seen; see :class:`ClipSize`."""

    frames: int
    grid: int
    patch_size: int

    @property
    def visible_per_frame(self) -> int:
        """All patches of a frame."""
        return self.grid**2


class WholeFrames:
    """A :class:`TargetProvider` without teacher and mask: every patch of a decoded clip is seen, none is aligned.

    Args:
        clips: where they are read.
        view: what ``clips`` draws.
        patch_size: side of a patch in pixels.
    """

    def __init__(self, clips: DecodedClips, view: ViewConfig, patch_size: int) -> None:
        self.header = WholeClip(view.frames, view.size // patch_size, patch_size)
        self._clips = clips

    def dataset(self) -> DecodedClips:
        return self._clips

    def setup(self, device: torch.device) -> None:
        """There is nothing to move."""
        del device

    def compile(self) -> None:
        """There is nothing to compile."""

    def targets(self, batch: Batch) -> TargetBatch:
        """All patches, and no targets."""
        patches_BVP = patchify(batch["frames"], self.header.patch_size)
        visible_BV = every_patch(patches_BVP).expand(len(patches_BVP), -1)
        return TargetBatch(patches_BVP, visible_BV, no_targets(visible_BV))

    def teacher_macs(self) -> int:
        """There is no teacher."""
        return 0

    def frames(self, batch: Batch) -> torch.Tensor:
        return batch["frames"]
