"""A small corpus, decoded once and shown to the teacher once: what all experiments of the study read.

A feature store keeps few views under one mask, since real corpora are large. Here every experiment has its own frames, masks
and layers, and the corpus is small: so all frames of all clips are kept, with the teacher's tokens of every patch, in
memory-mapped files that the processes of the study share.

Legend: I clips, F frames of all clips one after the other, S side of a frame in pixels, N patches per frame, K layers of the
teacher, C width of its projected tokens, L label tasks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from umt_pipeline.core.errors import ConfigError
from umt_pipeline.core.files import read_json, staged_folder, write_json
from umt_pipeline.core.identity import fingerprint
from umt_pipeline.features.targets import run_teacher
from umt_pipeline.models.teacher import Teacher
from umt_pipeline.video.views import View, load_view

_FACTS_FILE = "bank.json"
_BATCH_FRAMES = 512


def study_code() -> tuple[Path, ...]:
    """Return the files of the study that a run's numbers depend on; not what puts runs into words."""
    names = ("bank", "encoders", "fine_tuning", "inputs", "pretraining")
    return tuple(Path(__file__).with_name(f"{name}.py") for name in names)


@dataclass(frozen=True)
class Clips:
    """Which clips a bank holds, in its order.

    Attributes:
        videos: rows of the clean video table.
        numbers: int64 [I, L], the label of each clip in each task as its index in ``classes``.
        tasks: names of the L tasks.
        classes: for each task its labels in order.
        train_split: whose frames the teacher sees.
    """

    videos: pd.DataFrame
    numbers: np.ndarray
    tasks: tuple[str, ...]
    classes: tuple[tuple[str, ...], ...]
    train_split: str


def choose_clips(
    videos: pd.DataFrame, labels: pd.DataFrame, tasks: Sequence[str], splits: Sequence[str], train_split: str, frames: int
) -> Clips:
    """Return the videos of some splits, all of which must have a label in each task.

    Args:
        videos: the clean video table.
        labels: the clean label table.
        tasks: label tasks.
        splits: whose videos.
        train_split: whose videos are trained on; their labels are the classes.
        frames: that a clip must have at least.

    Raises:
        ConfigError: a split has no video, a video is too short, has no label, or has one that no training video has.
    """
    rows = videos[videos["split"].isin(splits) & (videos["media"] == "video")].sort_values("video_id", ignore_index=True)
    for split in splits:
        if split not in set(rows["split"]):
            raise ConfigError(f"claims: table videos has no video in split {split!r}, only in {sorted(set(videos['split']))}")
    if (short := rows["num_frames"] < frames).any():
        raise ConfigError(
            f"claims: expected videos of at least {frames} frames, found {int(short.sum())} shorter ones, among them "
            f"{rows.loc[short, 'video_id'].iloc[0]!r}; leave them out, or the arms that read so many frames"
        )
    numbers, classes = [], []
    for task in tasks:
        label_of = labels[labels["task"] == task].set_index("video_id")["label"]
        found = rows["video_id"].map(label_of)
        if found.isna().any():
            missing = rows.loc[found.isna(), "video_id"]
            raise ConfigError(
                f"claims: {len(missing)} videos have no label of task {task!r}, among them {missing.iloc[0]!r}; label them, "
                "or take a task that all have"
            )
        names = sorted(found[rows["split"] == train_split].unique())
        unknown = sorted(set(found) - set(names))
        if unknown:
            raise ConfigError(f"claims: no video of split {train_split!r} has label {unknown[0]!r} of task {task!r}")
        numbers.append(found.map({name: index for index, name in enumerate(names)}).to_numpy(np.int64))
        classes.append(tuple(names))
    return Clips(rows, np.stack(numbers, axis=1), tuple(tasks), tuple(classes), train_split)


class ClipBank:
    """An open bank; its files are mapped, so opening costs nothing and processes share the memory.

    Attributes:
        frames_FSSC: uint8, all frames of clip i at ``starts_I[i]`` and after.
        tokens_FKNC: float16 unit vectors of the last K blocks; of training frames only, others are zero.
        attention_FN: float16, what masks are drawn from; likewise.
        starts_I: int64 first frame of each clip.
        lengths_I: int64 number of frames of each clip.
        numbers_IL: int64 labels.
        video_ids: name of each clip.
        splits_I: split of each clip.
        tasks: names of the L label tasks.
        classes: number of classes of each.
        patch_size: side of a patch in pixels.
    """

    def __init__(self, folder: Path) -> None:
        facts = read_json(folder / _FACTS_FILE)
        self.folder = folder
        self.frames_FSSC: np.ndarray = np.load(folder / "frames.npy", mmap_mode="r")
        self.tokens_FKNC: np.ndarray = np.load(folder / "tokens.npy", mmap_mode="r")
        self.attention_FN: np.ndarray = np.load(folder / "attention.npy", mmap_mode="r")
        self.starts_I = np.asarray(facts["starts"], dtype=np.int64)
        self.lengths_I = np.asarray(facts["lengths"], dtype=np.int64)
        self.numbers_IL = np.asarray(facts["numbers"], dtype=np.int64)
        self.video_ids: list[str] = facts["video_ids"]
        self.splits_I = np.asarray(facts["splits"])
        self.tasks: tuple[str, ...] = tuple(facts["tasks"])
        self.classes: tuple[int, ...] = tuple(len(names) for names in facts["classes"])
        self.patch_size: int = facts["patch_size"]

    @property
    def size(self) -> int:
        """S."""
        return int(self.frames_FSSC.shape[1])

    def clips(self, splits: Sequence[str]) -> np.ndarray:
        """Return the clips of some splits, ascending."""
        return np.flatnonzero(np.isin(self.splits_I, list(splits)))


def bank_key(clips: Clips, size: int, patch_size: int, layers: int, teacher_sha256: str) -> str:
    """Return the name of the bank of these clips: it changes with everything that the bank's content depends on."""
    content = clips.videos[["video_id", "sha256", "split"]].to_dict("list")
    labels = clips.numbers.tolist(), clips.tasks, clips.classes, clips.train_split
    return fingerprint(content, labels, size, patch_size, layers, teacher_sha256)


def build_bank(folder: Path, clips: Clips, media_root: Path, teacher: Teacher, size: int, patch_size: int) -> ClipBank:
    """Decode all clips (largest centred square) and ask the teacher about the training frames.

    Args:
        folder: to write; whole or not at all. One that is there is opened.
        clips: from :func:`choose_clips`.
        media_root: folder that the table's paths are relative to.
        teacher: loaded for the grid ``size / patch_size``; its ``layers`` are K.
        size: S.
        patch_size: side of a patch in pixels.

    Raises:
        VideoError: a file cannot be read.
    """
    if not (folder / _FACTS_FILE).is_file():
        with staged_folder(folder) as staged:
            _write(staged, clips, media_root, teacher, size, patch_size)
    return ClipBank(folder)


def _write(folder: Path, clips: Clips, media_root: Path, teacher: Teacher, size: int, patch_size: int) -> None:
    lengths_I = clips.videos["num_frames"].to_numpy(np.int64)
    starts_I = np.concatenate(([0], np.cumsum(lengths_I)[:-1]))
    total, patches = int(lengths_I.sum()), (size // patch_size) ** 2
    layers, width = teacher.config.layers, teacher.target_dim
    frames_FSSC = open_memmap(folder / "frames.npy", mode="w+", dtype=np.uint8, shape=(total, size, size, 3))
    tokens_FKNC = open_memmap(folder / "tokens.npy", mode="w+", dtype=np.float16, shape=(total, layers, patches, width))
    attention_FN = open_memmap(folder / "attention.npy", mode="w+", dtype=np.float16, shape=(total, patches))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        decoded = pool.map(lambda row: _decode(media_root, row, size), clips.videos.to_dict("records"))
        for start, length, frames_TSSC in zip(starts_I, lengths_I, decoded, strict=True):
            frames_FSSC[start : start + length] = frames_TSSC
    aligned = np.repeat((clips.videos["split"] == clips.train_split).to_numpy(), lengths_I)
    for chosen in _chunks(np.flatnonzero(aligned), _BATCH_FRAMES):
        answer = run_teacher(teacher, torch.from_numpy(frames_FSSC[chosen]).unsqueeze(1))
        tokens_FKNC[chosen] = teacher.project(answer.layers_KFNW).transpose(0, 1).half().numpy()
        attention_FN[chosen] = answer.attention_BTN.squeeze(1).numpy()
    for array in (frames_FSSC, tokens_FKNC, attention_FN):
        array.flush()
    facts = {
        "starts": starts_I.tolist(),
        "lengths": lengths_I.tolist(),
        "numbers": clips.numbers.tolist(),
        "video_ids": clips.videos["video_id"].tolist(),
        "splits": clips.videos["split"].tolist(),
        "tasks": clips.tasks,
        "classes": clips.classes,
        "patch_size": patch_size,
    }
    write_json(folder / _FACTS_FILE, facts)


def _decode(media_root: Path, row: dict[str, object], size: int) -> np.ndarray:
    height, width, length = (int(str(row[name])) for name in ("height", "width", "num_frames"))
    side = min(height, width)
    crop = ((height - side) // 2, (width - side) // 2, side, side)
    return load_view(media_root / str(row["path"]), View(tuple(range(length)), crop, flip=False, size=size))


def _chunks(clips: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(clips), size):
        yield clips[start : start + size]


def unit_mean(tokens: Tensor, dim: int) -> Tensor:
    """Return the mean of unit vectors along an axis, at unit length again."""
    return torch.nn.functional.normalize(tokens.float().mean(dim=dim), dim=-1)
