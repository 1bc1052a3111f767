"""Writes the demo corpora: video and image files, and the tables that an engineer would bring along with them."""

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
from PIL import Image
from pydantic import Field

from umt_pipeline.core.config import Config
from umt_pipeline.core.progress import progress
from umt_pipeline.demo_world.broken_files import write_broken_files
from umt_pipeline.demo_world.captions import STILL_TEMPLATES, captions
from umt_pipeline.demo_world.scenes import COLOURS, MOTIONS, SHAPES, SIZES, Appearance, Scene, render
from umt_pipeline.video.media import is_image

APPEARANCES = tuple(Appearance(*values) for values in itertools.product(SHAPES, COLOURS, SIZES))
TASKS = ("shape", "colour", "size", "motion")


class DemoCorpusConfig(Config):
    """How much of the demo world is drawn.

    Attributes:
        train_clips: clips to train on; every combination of appearance and motion once before any comes again.
        validation_clips: clips for choices (probe strength), each another combination.
        train_images: captioned still images to train on, a corpus of its own: every appearance once before any comes again.
        test_clips: clips for the test set, each another combination.
        motion_appearances: appearances of the second test set ``test_motion``, each shown once in every motion: only the
            motion tells its clips apart.
        captioned_clips: so many of the training clips have captions, every combination once before any comes again; null:
            all. Captions are what is scarce in real corpora, and stage 1 needs none.
        captions_per_clip: wordings per captioned clip and per image.
        frames: shortest and longest clip, in frames.
        side: shortest and longest side, in pixels.
        fps: frame rates.
        broken_files: add a few files and rows that ingestion must reject.
        workers: rendering processes; null: one per core.
    """

    train_clips: int = Field(1728, ge=1)
    validation_clips: int = Field(144, ge=0, le=len(APPEARANCES) * len(MOTIONS))
    train_images: int = Field(192, ge=0)
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
    """A clip or still image to be written: file name, split, scene and captions, and the key of its random numbers."""

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


def plan_images(config: DemoCorpusConfig, seed: int) -> list[Clip]:
    """Draw every still image, one frame of a clip: the same list for the same configuration and seed.

    Apart from :func:`plan_corpus`, and with random numbers of their own: with or without images, the clips are the same.
    """
    images = []
    order = _in_rounds(len(APPEARANCES), config.train_images, np.random.default_rng([seed, 2]))
    for index, appearance in enumerate(order):
        key = (seed, 3, index)
        rng = np.random.default_rng(key)
        height, width = (int(side) // 8 * 8 for side in rng.integers(config.side[0], config.side[1] + 1, size=2))
        # Any motion that leaves the size as it is: a shrunk large object would belie its caption.
        motion = str(rng.choice([motion for motion in MOTIONS if motion not in ("growing", "shrinking")]))
        scene = Scene(APPEARANCES[appearance], motion, config.frames[0], config.fps[0], height, width)
        sentences = tuple(captions(scene, rng, config.captions_per_clip, STILL_TEMPLATES))
        images.append(Clip(f"stills/{index:05d}.jpg", "train", scene, sentences, (*key, 1)))
    return images


def write_corpus(
    config: DemoCorpusConfig, seed: int, media: Path
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Render and encode every clip (H.264 in MP4) and image (JPEG) and return the raw tables.

    Args:
        config: how much to draw.
        seed: the tables, and the pixels before encoding, are the same for the same seed.
        media: an existing folder for the files.

    Returns:
        Tables ``videos`` (video, split, corpus), ``captions`` (video, caption) and ``labels`` (video, task, label). Images
        have no labels.
    """
    clips = plan_corpus(config, seed)
    files = [*clips, *plan_images(config, seed)]
    for folder in sorted({Path(clip.name).parent for clip in files}):
        (media / folder).mkdir(exist_ok=True)
    # Spawned, not forked: the caller may have run torch's threads, whose locks a fork would copy.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(config.workers or os.cpu_count(), mp_context=context) as pool:
        done = pool.map(_write_clip, files, itertools.repeat(media), chunksize=16)
        with progress("rendering", len(files), "file") as show:
            for number, _ in enumerate(done, start=1):
                show(number)
    videos = [{"video": clip.name, "split": clip.split, "corpus": _corpus(clip.name)} for clip in files]
    sentences = [{"video": clip.name, "caption": text} for clip in files for text in clip.captions]
    labels = [{"video": clip.name, "task": task, "label": _label(clip.scene, task)} for clip in clips for task in TASKS]
    if config.broken_files:
        for name in _add_broken_files(media, media / clips[0].name, seed):
            videos.append({"video": name, "split": "train", "corpus": _corpus(name)})
            sentences.append({"video": name, "caption": "a file that cannot be used"})
    return pd.DataFrame(videos), pd.DataFrame(sentences), pd.DataFrame(labels)


def _contents(config: DemoCorpusConfig, rng: np.random.Generator) -> Iterator[tuple[str, Appearance, str]]:
    combinations = list(itertools.product(APPEARANCES, MOTIONS))
    counts = {"train": config.train_clips, "validation": config.validation_clips, "test": config.test_clips}
    for split, count in counts.items():
        for index in _in_rounds(len(combinations), count, rng):
            yield split, *combinations[index]
    for index in rng.permutation(len(APPEARANCES))[: config.motion_appearances]:
        for motion in MOTIONS:
            yield "test_motion", APPEARANCES[index], motion


def _in_rounds(kinds: int, count: int, rng: np.random.Generator) -> list[int]:
    """Draw ``count`` of so many kinds, each once before any comes again."""
    rounds = [rng.permutation(kinds) for _ in range(-(-count // kinds))]
    return [int(index) for order in rounds for index in order][:count]


def _corpus(name: str) -> str:
    return "stills" if is_image(name) else "motion"


def _label(scene: Scene, task: str) -> str:
    return scene.motion if task == "motion" else str(getattr(scene.appearance, task))


def _write_clip(clip: Clip, media: Path) -> None:
    rng = np.random.default_rng(clip.key)
    frames_THWC = render(clip.scene, rng)
    if is_image(clip.name):
        Image.fromarray(frames_THWC[rng.integers(len(frames_THWC))]).save(media / clip.name, quality=95)
        return
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
