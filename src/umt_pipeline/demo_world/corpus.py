"""Writes the demo corpus: video files, and the tables that an engineer would bring along with them."""

from __future__ import annotations

import itertools
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pandas as pd
from pydantic import Field
from tqdm import tqdm

from umt_pipeline.config import Config
from umt_pipeline.demo_world.broken_files import write_broken_files
from umt_pipeline.demo_world.captions import captions
from umt_pipeline.demo_world.scenes import COLOURS, MOTIONS, SHAPES, SIZES, Appearance, Scene, render

APPEARANCES = tuple(Appearance(*values) for values in itertools.product(SHAPES, COLOURS, SIZES))
TASKS = ("shape", "colour", "size", "motion")


class DemoCorpusConfig(Config):
    """How much of the demo world is drawn.

    Attributes:
        train_clips: clips to train on; every combination of appearance and motion once before any comes again.
        validation_clips: clips for choices (probe strength), each another combination.
        test_clips: clips for the test set, each another combination.
        motion_appearances: appearances of the second test set ``test_motion``, each shown once in every motion: only the
            motion tells its clips apart.
        captioned_clips: so many of the training clips have captions, every combination once before any comes again; null:
            all. Captions are what is scarce in real corpora, and stage 1 needs none.
        captions_per_clip: wordings per captioned clip.
        frames: shortest and longest clip, in frames.
        side: shortest and longest side, in pixels.
        fps: frame rates.
        broken_files: add a few files and rows that ingestion must reject.
        workers: rendering processes; null: one per core.
    """

    train_clips: int = Field(1728, ge=1)
    validation_clips: int = Field(144, ge=0, le=len(APPEARANCES) * len(MOTIONS))
    test_clips: int = Field(144, ge=1, le=len(APPEARANCES) * len(MOTIONS))
    motion_appearances: int = Field(16, ge=0, le=len(APPEARANCES))
    captioned_clips: int | None = Field(None, ge=1)
    captions_per_clip: int = Field(3, ge=1)
    frames: tuple[int, int] = (16, 32)
    side: tuple[int, int] = (80, 96)
    fps: tuple[int, ...] = (8, 12, 15, 24)
    broken_files: bool = True
    workers: int | None = Field(None, ge=1)


@dataclass(frozen=True)
class Clip:
    """A clip to be written: its file name, split, scene and captions, and the key of its random numbers."""

    name: str
    split: str
    scene: Scene
    captions: tuple[str, ...]
    key: tuple[int, ...]


def plan_corpus(config: DemoCorpusConfig, seed: int) -> list[Clip]:
    """Draw every clip of the corpus: the same list for the same configuration and seed."""
    clips = []
    for index, (split, appearance, motion) in enumerate(_contents(config, np.random.default_rng([seed, 0]))):
        key = (seed, 1, index)
        rng = np.random.default_rng(key)
        height, width = (int(side) // 8 * 8 for side in rng.integers(config.side[0], config.side[1] + 1, size=2))
        scene = Scene(
            appearance,
            motion,
            frames=int(rng.integers(config.frames[0], config.frames[1] + 1)),
            fps=int(rng.choice(config.fps)),
            height=height,
            width=width,
        )
        captioned = split != "train" or config.captioned_clips is None or index < config.captioned_clips
        sentences = tuple(captions(scene, rng, config.captions_per_clip)) if captioned else ()
        clips.append(Clip(f"{split}/{index:05d}.mp4", split, scene, sentences, (*key, 1)))
    return clips


def write_corpus(
    config: DemoCorpusConfig, seed: int, media: Path
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Render and encode every clip (H.264 in MP4) and return the raw tables.

    Args:
        config: how much to draw.
        seed: the tables, and the pixels before encoding, are the same for the same seed.
        media: an existing folder for the files.

    Returns:
        Tables ``videos`` (video, split), ``captions`` (video, caption) and ``labels`` (video, task, label).
    """
    clips = plan_corpus(config, seed)
    for split in sorted({clip.split for clip in clips}):
        (media / split).mkdir(exist_ok=True)
    # Spawned, not forked: the caller may have run torch's threads, whose locks a fork would copy.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(config.workers or os.cpu_count(), mp_context=context) as pool:
        done = pool.map(_write_clip, clips, itertools.repeat(media), chunksize=16)
        for _ in tqdm(done, total=len(clips), desc="rendering", unit="clip", disable=None):
            pass
    videos = [{"video": clip.name, "split": clip.split} for clip in clips]
    sentences = [{"video": clip.name, "caption": text} for clip in clips for text in clip.captions]
    labels = [{"video": clip.name, "task": task, "label": _label(clip.scene, task)} for clip in clips for task in TASKS]
    if config.broken_files:
        for name in _add_broken_files(media, media / clips[0].name, seed):
            videos.append({"video": name, "split": "train"})
            sentences.append({"video": name, "caption": "a file that cannot be used"})
    return pd.DataFrame(videos), pd.DataFrame(sentences), pd.DataFrame(labels)


def _contents(config: DemoCorpusConfig, rng: np.random.Generator) -> Iterator[tuple[str, Appearance, str]]:
    combinations = list(itertools.product(APPEARANCES, MOTIONS))
    counts = {"train": config.train_clips, "validation": config.validation_clips, "test": config.test_clips}
    for split, count in counts.items():
        rounds = -(-count // len(combinations))
        order = np.concatenate([rng.permutation(len(combinations)) for _ in range(rounds)] or [np.empty(0, np.int64)])
        for index in order[:count]:
            yield split, *combinations[index]
    for index in rng.permutation(len(APPEARANCES))[: config.motion_appearances]:
        for motion in MOTIONS:
            yield "test_motion", APPEARANCES[index], motion


def _label(scene: Scene, task: str) -> str:
    return scene.motion if task == "motion" else str(getattr(scene.appearance, task))


def _write_clip(clip: Clip, media: Path) -> None:
    frames_THWC = render(clip.scene, np.random.default_rng(clip.key))
    encode(media / clip.name, frames_THWC, clip.scene.fps)


def encode(path: Path, frames_THWC: np.ndarray, fps: int) -> None:
    """Write uint8 RGB frames [T, H, W, 3] with even H and W as H.264 in MP4."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width = frames_THWC.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "20", "preset": "superfast"}
        # One thread and a preset without look-ahead: the same clip then gives the same bytes, run after run.
        stream.thread_count = 1
        for frame_HWC in frames_THWC:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")))
        container.mux(stream.encode())


def _add_broken_files(media: Path, good_clip: Path, seed: int) -> list[str]:
    (media / "broken").mkdir()
    names = [f"broken/{name}" for name, _ in write_broken_files(media / "broken", good_clip, seed)]
    return [*names, "broken/never_uploaded.mp4"]
