"""Writes the demo corpora: video and image files, and the tables that an engineer would bring along with them."""

from __future__ import annotations

import itertools
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pandas as pd
from PIL import Image
from pydantic import Field, model_validator

from umt_pipeline.core.config import Config
from umt_pipeline.core.progress import progress
from umt_pipeline.demo_world.broken_files import write_broken_files
from umt_pipeline.demo_world.captions import STILL_TEMPLATES, captions
from umt_pipeline.demo_world.scenes import COLOURS, MOTIONS, SHAPES, SIZES, Appearance, Scene, render
from umt_pipeline.video.media import is_image

TASKS = ("shape", "colour", "size", "motion")


class DemoCorpusConfig(Config):
    """How much of the demo world is drawn.

    Attributes:
        kinds: kinds of things that there are; which ones, and which of them are common, the seed decides.
        tail: how fast kinds get rarer, as in real corpora: of the r-th there are r^-tail as many as of the first.
        train_clips: clips to train on, at least one of each kind.
        captioned_clips: so many of the training clips have captions, at least one of each kind; null: all that may have some.
            Captions are what is scarce in real corpora, and stage 1 needs none.
        uncaptioned_motions: motions of each kind, drawn for it, in which none of its training clips has captions.
        rare: a kind with at most so many captioned training clips is rare, any other one is common.
        validation_clips: clips for choices, of all kinds, each another combination of appearance and motion.
        train_images: captioned still images to train on, a corpus of its own: of common kinds, so that rare ones stay rare,
            every appearance once before any comes again.
        test_clips: clips of common kinds for the test set, each another combination.
        test_rare_clips: clips of rare kinds for the test set ``test_rare``, likewise.
        motion_appearances: appearances of the third test set ``test_motion``, of common kinds, each shown once in every
            motion: only the motion tells its clips apart.
        captions_per_clip: wordings per captioned clip and per image.
        frames: shortest and longest clip, in frames.
        side: shortest and longest side, in pixels.
        fps: frame rates.
        broken_files: add a few files and rows that ingestion must reject.
        workers: rendering processes; null: one per core.
    """

    kinds: int = Field(64, ge=1, le=len(SHAPES))
    tail: float = Field(0.9, ge=0.0)
    train_clips: int = Field(1600, ge=1)
    captioned_clips: int | None = Field(400, ge=1)
    uncaptioned_motions: int = Field(2, ge=0, lt=len(MOTIONS))
    rare: int = Field(3, ge=0)
    validation_clips: int = Field(400, ge=0)
    train_images: int = Field(96, ge=0)
    test_clips: int = Field(500, ge=1)
    test_rare_clips: int = Field(500, ge=0)
    motion_appearances: int = Field(60, ge=0)
    captions_per_clip: int = Field(3, ge=1)
    frames: tuple[int, int] = (12, 16)
    side: tuple[int, int] = (64, 72)
    fps: tuple[int, ...] = (8, 12, 15, 24)
    broken_files: bool = True
    workers: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _check(self) -> DemoCorpusConfig:
        if self.train_clips < self.kinds or (self.captioned_clips is not None and self.captioned_clips < self.kinds):
            raise ValueError(f"`train_clips` and `captioned_clips` must be at least `kinds` ({self.kinds}), one clip of each")
        if self.captioned_clips is not None and self.captioned_clips > self.train_clips:
            raise ValueError(f"`captioned_clips` ({self.captioned_clips}) are some of the `train_clips` ({self.train_clips})")
        common = len(self.common_ranks())
        looks = len(COLOURS) * len(SIZES)
        needed = {
            "validation_clips": (self.validation_clips, self.kinds * looks * len(MOTIONS)),
            "test_clips": (self.test_clips, common * looks * len(MOTIONS)),
            "test_rare_clips": (self.test_rare_clips, (self.kinds - common) * looks * len(MOTIONS)),
            "motion_appearances": (self.motion_appearances, common * looks),
            "train_images": (min(self.train_images, 1), common),
        }
        for name, (wanted, there) in needed.items():
            if wanted > there:
                raise ValueError(
                    f"`{name}`: {wanted} wanted, but there are {there} combinations: {common} of {self.kinds} kinds have more "
                    f"than {self.rare} captioned clips (`rare`). Change `tail`, `rare` or the numbers of clips"
                )
        return self

    def clips_by_rank(self) -> list[int]:
        """Return how many training clips there are of each kind, from the most common one down."""
        return shared_out(self.train_clips, self.kinds, self.tail)

    def captioned_by_rank(self) -> list[int]:
        """Return how many training clips of each kind have captions."""
        if self.captioned_clips is None:
            return self.clips_by_rank()
        return shared_out(self.captioned_clips, self.kinds, self.tail)

    def common_ranks(self) -> list[int]:
        """Return the ranks of common kinds."""
        return [rank for rank, count in enumerate(self.captioned_by_rank()) if count > self.rare]


def shared_out(count: int, kinds: int, tail: float) -> list[int]:
    """Share ``count`` things out among kinds by the power law ``rank^-tail``, at least one for each; the sum is ``count``."""
    weights = np.arange(1, kinds + 1, dtype=np.float64) ** -tail
    exact = (count - kinds) * weights / weights.sum()
    whole = np.floor(exact).astype(int)
    # What rounding leaves over goes to the largest remainders.
    for rank in np.argsort(whole - exact, kind="stable")[: count - kinds - whole.sum()]:
        whole[rank] += 1
    return [1 + int(number) for number in whole]


@dataclass(frozen=True)
class Clip:
    """A clip or still image to be written: file name, split, scene and captions, and the key of its random numbers."""

    name: str
    split: str
    scene: Scene
    captions: tuple[str, ...]
    key: tuple[int, ...]


def kinds_by_rank(config: DemoCorpusConfig, seed: int) -> list[str]:
    """Return the kinds of a corpus, from the most common one down."""
    return [SHAPES[index] for index in np.random.default_rng([seed, 6]).permutation(len(SHAPES))[: config.kinds]]


def plan_corpus(config: DemoCorpusConfig, seed: int) -> list[Clip]:
    """Draw every clip of the corpus: the same list for the same configuration and seed."""
    clips = []
    for index, (split, appearance, motion, captioned) in enumerate(_contents(config, seed)):
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
        sentences = tuple(captions(scene, rng, config.captions_per_clip)) if captioned else ()
        clips.append(Clip(f"{split}/{index:05d}.mp4", split, scene, sentences, (*key, 1)))
    return clips


def plan_images(config: DemoCorpusConfig, seed: int) -> list[Clip]:
    """Draw every still image, one frame of a clip: the same list for the same configuration and seed.

    Apart from :func:`plan_corpus`, and with random numbers of their own: with or without images, the clips are the same.
    """
    images = []
    kinds = kinds_by_rank(config, seed)
    looks = _appearances([kinds[rank] for rank in config.common_ranks()])
    for index, look in enumerate(_in_rounds(len(looks), config.train_images, np.random.default_rng([seed, 2]))):
        key = (seed, 3, index)
        rng = np.random.default_rng(key)
        height, width = (int(side) // 8 * 8 for side in rng.integers(config.side[0], config.side[1] + 1, size=2))
        # Any motion that leaves the size as it is: a shrunk large object would belie its caption.
        motion = str(rng.choice([motion for motion in MOTIONS if motion not in ("growing", "shrinking")]))
        scene = Scene(looks[look], motion, config.frames[0], config.fps[0], height, width)
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


Content = tuple[str, Appearance, str, bool]


def _contents(config: DemoCorpusConfig, seed: int) -> Iterator[Content]:
    """Yield split, appearance and motion of each clip, and whether it has captions."""
    rng = np.random.default_rng([seed, 0])
    kinds = kinds_by_rank(config, seed)
    train = list(_train_contents(config, kinds, rng))
    yield from (train[index] for index in rng.permutation(len(train)))
    ranks = config.common_ranks()
    common, rare = [kinds[rank] for rank in ranks], [kind for rank, kind in enumerate(kinds) if rank not in ranks]
    tested = {
        "validation": (kinds, config.validation_clips),
        "test": (common, config.test_clips),
        "test_rare": (rare, config.test_rare_clips),
    }
    for split, (shown, count) in tested.items():
        combinations = list(itertools.product(_appearances(shown), MOTIONS))
        for index in _in_rounds(len(combinations), count, rng):
            yield split, *combinations[index], True
    looks = _appearances(common)
    for index in rng.permutation(len(looks))[: config.motion_appearances]:
        for motion in MOTIONS:
            yield "test_motion", looks[index], motion, True


def _train_contents(config: DemoCorpusConfig, kinds: Sequence[str], rng: np.random.Generator) -> Iterator[Content]:
    """Yield the training clips kind by kind; of each, every combination that may come once before any comes again."""
    for kind, count, captioned in zip(kinds, config.clips_by_rank(), config.captioned_by_rank(), strict=True):
        spoken_of = [MOTIONS[index] for index in rng.permutation(len(MOTIONS))[config.uncaptioned_motions :]]
        for motions, number in ((spoken_of, captioned), (MOTIONS, count - captioned)):
            combinations = list(itertools.product(_appearances([kind]), motions))
            for index in _in_rounds(len(combinations), number, rng):
                yield "train", *combinations[index], motions is spoken_of


def _appearances(kinds: Sequence[str]) -> list[Appearance]:
    return [Appearance(*values) for values in itertools.product(kinds, COLOURS, SIZES)]


def _in_rounds(kinds: int, count: int, rng: np.random.Generator) -> list[int]:
    """Draw ``count`` of so many kinds, each once before any comes again."""
    rounds = [rng.permutation(kinds) for _ in range(-(-count // kinds))] if count else []
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
