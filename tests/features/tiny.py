"""A tiny corpus of real video files and a tiny random teacher, for the tests of the feature store and its users."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
import torch
from open_clip.model import CLIP

from umt_pipeline.features.extract import FeatureConfig
from umt_pipeline.features.shards import ExtractionJob, ShardMaker
from umt_pipeline.features.writer import ShardWriter
from umt_pipeline.models.teacher import Teacher, TeacherConfig, load_teacher, save_open_clip
from umt_pipeline.video.views import ViewConfig

MODEL_CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1},
}


def write_clip(path: Path, frames: int, height: int, width: int, seed: int) -> None:
    """Write smooth random colours that change over time, so that frames differ and survive compression."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (frames, height // 8, width // 8, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for picture in coarse.repeat(8, axis=1).repeat(8, axis=2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def make_corpus(folder: Path, splits: Sequence[str]) -> pd.DataFrame:
    """Write one clip per entry of ``splits``, of varying size, and return the clean video table."""
    records = []
    for number, split in enumerate(splits):
        frames, height, width = 3 + 2 * number, 40 + 8 * (number % 2), 56
        path = f"clip{number}.mp4"
        write_clip(folder / path, frames, height, width, seed=number)
        records.append(
            {
                "video_id": f"clip{number}",
                "path": path,
                "split": split,
                "media": "video",
                "corpus": "tiny",
                "num_frames": frames,
                "height": height,
                "width": width,
                "sha256": hashlib.sha256((folder / path).read_bytes()).hexdigest(),
            }
        )
    return pd.DataFrame(records)


def make_teacher_folder(folder: Path, seed: int = 0) -> Path:
    """Write a random CLIP in open_clip's local layout."""
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        clip = CLIP(**MODEL_CONFIG)
        # Stronger attention than random weights give, so that masks depend on it.
        torch.nn.init.normal_(clip.visual.transformer.resblocks[-1].attn.in_proj_weight, std=0.5)
    clip.visual.image_mean = clip.visual.image_std = (0.5, 0.5, 0.5)
    save_open_clip(clip, MODEL_CONFIG, None, folder)
    return folder


def make_teacher(folder: Path, seed: int = 0, grid: int = 4) -> Teacher:
    """Load the random CLIP as the teacher of :func:`make_config`."""
    return load_teacher(make_teacher_folder(folder, seed), TeacherConfig(layers=2), grid)


def make_config(**changes: Any) -> FeatureConfig:
    """Return a configuration of 2 frames of 4 x 4 patches of 8 pixels, 4 visible, 2 layers, 3 views."""
    settings: dict[str, Any] = {
        "dataset_id": "tiny",
        "teacher": TeacherConfig(layers=2),
        "view": ViewConfig(frames=2, size=32),
        "patch_size": 8,
        "views": 3,
        "shard_rows": 5,
        "batch_size": 2,
        "workers": 0,
    }
    return FeatureConfig.model_validate({**settings, **changes})


def leave_unfinished(job: ExtractionJob, teacher: Teacher, shards: int) -> None:
    """Make the first shards that a store lacks and leave the next one half-written, as somebody does who is killed there."""
    with ShardMaker(job, torch.device("cpu"), teacher) as maker:
        store = maker.store
        missing = store.missing
        for shard in missing[:shards]:
            maker.make(shard)
    for shard in missing[shards : shards + 1]:
        half = ShardWriter(store.shard_folder(shard), len(store.rows_of[shard]), store.header.arrays())
        half.open()
        for handle in half.handles.values():
            handle.close()
