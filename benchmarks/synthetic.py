"""Inputs without files to decode: random frames, a store of random records, random token ids.

So model, store and loader are measured apart from the decoder, and on machines that have none: no av, decord, open_clip,
pandas, tokenizers or transformers is needed.

Shapes: I clips, B clips of a batch, T frames, S side of the view in pixels, N patches per frame, L text length.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from umt_pipeline.data.samples import Batch, Corpus, Sample, SampleDataset
from umt_pipeline.features.codecs import Coder, Int8
from umt_pipeline.features.index import plan_schema
from umt_pipeline.features.manifest import StoreHeader, TeacherIdentity
from umt_pipeline.features.provider import ClipDataset
from umt_pipeline.features.targets import TargetBatch, draw_targets, gather_patches, mask_noise
from umt_pipeline.features.writer import ShardWriter, UnfinishedStore
from umt_pipeline.masking import MaskConfig, draw_visible, visible_count
from umt_pipeline.models.teacher import Teacher
from umt_pipeline.video.views import ViewConfig

# Different clips and different records; a data set of any size repeats them.
POOL, SHARD_ROWS = 8, 64
PATCH = 16
# Token ids, as in a vocabulary that the package trains itself.
PAD, CLS, SEP, MASK = 0, 2, 3, 4


def make_header(view: ViewConfig, teacher: Teacher, source: str, dataset_id: str) -> StoreHeader:
    """Return what a store of this view and this teacher says of itself: one view a clip, visible patches, int8."""
    grid, mask = view.size // PATCH, MaskConfig(ratio=0.8)
    own = teacher.config
    return StoreHeader(
        dataset_id=dataset_id,
        view=view,
        patch_size=PATCH,
        views=1,
        mask=mask,
        codec=Int8(),
        shard_rows=SHARD_ROWS,
        grid=grid,
        frames=view.frames,
        visible_per_frame=visible_count(grid**2, mask.ratio),
        layers=own.layers,
        target_dim=teacher.target_dim,
        teacher=TeacherIdentity(
            source=source,
            id=f"{source}@{teacher.weights_sha256[:12]}",
            weights_sha256=teacher.weights_sha256,
            normalisation=own.normalisation,
            importance=teacher.importance,
        ),
        versions={},
    )


def write_store(folder: Path, header: StoreHeader, clips: int) -> int:
    """Write a store of random records, one a clip, and return its bytes."""
    records = random_records(header)
    paths = pa.array([f"{clip_name(row)}.mp4" for row in range(clips)])
    store = UnfinishedStore.begin(folder, header, plan_of(header, clips), paths)
    for shard, rows in enumerate(store.rows_of):
        writer = ShardWriter(store.shard_folder(shard), len(rows), header.arrays())
        writer.open()
        writer.append({name: array[rows % POOL] for name, array in records.items()})
        writer.close()
    store.finish()
    return sum(file.stat().st_size for file in folder.rglob("*.npy"))


def plan_of(header: StoreHeader, clips: int) -> pa.Table:
    """Return the plan of such a store."""
    size = header.view.size
    lines = [
        {
            "video_id": clip_name(row),
            "split": "train",
            "view_number": 0,
            "frame_indices": list(range(header.frames)),
            "crop": [0, 0, size, size],
            "flip": False,
            "video_sha256": "",
        }
        for row in range(clips)
    ]
    return pa.Table.from_pylist(lines, schema=plan_schema(header.frames))


def random_records(header: StoreHeader) -> dict[str, np.ndarray]:
    """Return POOL records with real masks; targets are random directions, as the codec stores them."""
    generator = torch.Generator().manual_seed(0)
    patches = header.grid**2
    attention_BTN = torch.rand(POOL, header.frames, patches, generator=generator).half()
    visible_BV = draw_visible(header.mask, torch.rand(attention_BTN.shape, generator=generator), attention_BTN)
    size = (POOL, header.layers, visible_BV.shape[1], header.target_dim)
    targets_BKVC = torch.nn.functional.normalize(torch.randn(size, generator=generator), dim=-1)
    pixels = gather_patches(torch.from_numpy(random_frames(header.view)), visible_BV, header.patch_size)
    return {
        "pixels": pixels.numpy(),
        "attention": attention_BTN.numpy(),
        "visible": visible_BV.int().numpy(),
        **{name: array.numpy() for name, array in Coder(header.codec).encode(targets_BKVC).items()},
    }


def random_frames(view: ViewConfig) -> np.ndarray:
    """Return POOL clips, uint8 [POOL,T,S,S,3]."""
    size = (POOL, view.frames, view.size, view.size, 3)
    return np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)


def clip_name(number: int) -> str:
    return f"clip{number:05d}"


class SyntheticClips(ClipDataset):
    """Random frames where a video would be decoded, with the noise of the clip's mask.

    Args:
        header: size of the clips.
        clips: I.
    """

    def __init__(self, header: StoreHeader, clips: int) -> None:
        self._header, self._clips = header, clips
        self._frames: np.ndarray | None = None

    def __len__(self) -> int:
        return self._clips

    @property
    def clip_ids(self) -> pa.Array:
        return pa.array([clip_name(number) for number in range(self._clips)], type=pa.large_string())

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """Frames uint8 [T,S,S,3], noise float32 [T,N], clip."""
        index, number = key
        if self._frames is None:
            self._frames = random_frames(self._header.view)
        name, size = clip_name(index), (self._header.frames, self._header.grid**2)
        noise_TN = mask_noise(self._header.dataset_id, name, number, *size)
        return {"frames": self._frames[index % POOL], "noise": noise_TN, "clip": name, "unreadable": 0}


class SyntheticTargets:
    """Targets that the teacher computes of :class:`SyntheticClips`; a :class:`TargetProvider`."""

    def __init__(self, teacher: Teacher, header: StoreHeader, clips: int) -> None:
        self.header = header
        self._teacher = teacher
        self._clips = SyntheticClips(header, clips)

    def dataset(self) -> SyntheticClips:
        return self._clips

    def setup(self, device: torch.device) -> None:
        self._teacher.to(device)

    def compile(self) -> None:
        self._teacher.compile_blocks()

    def targets(self, batch: Batch) -> TargetBatch:
        header = self.header
        return draw_targets(self._teacher, header.mask, header.patch_size, batch["frames"], batch["noise"])

    def teacher_macs(self) -> int | None:
        return self._teacher.macs(self.header.frames, self.header.visible_per_frame)

    def frames(self, batch: Batch) -> torch.Tensor:
        return batch["frames"]


class SyntheticCaptions(SampleDataset):
    """Clips, each with a caption of random words that fills the text length.

    Args:
        clips: what is seen.
        words: token ids are drawn from the fifth, behind the special tokens, to this one.
        length: L.
    """

    def __init__(self, clips: ClipDataset, words: int, length: int) -> None:
        self._clips, self._words, self._length = clips, words, length

    def __len__(self) -> int:
        return len(self._clips)

    def corpora(self) -> tuple[Corpus, ...]:
        return (Corpus("synthetic", len(self), group="video"),)

    def batch(self, indices_B: np.ndarray, passes_B: np.ndarray) -> Batch:
        """The clips' batch, ids [B, L], mask [B, L], media."""
        draws = np.random.default_rng(indices_B.tolist())
        ids_BL = draws.integers(5, self._words, (len(indices_B), self._length))
        ids_BL[:, 0], ids_BL[:, -1] = CLS, SEP
        mask_BL = np.ones_like(ids_BL, dtype=bool)
        return {**self._clips.batch(indices_B, passes_B), "ids": ids_BL, "mask": mask_BL, "media": indices_B}
