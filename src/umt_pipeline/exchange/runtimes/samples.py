"""Clips and texts that exported models are compared on."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from umt_pipeline.core.errors import ConfigError
from umt_pipeline.demo_world.captions import caption
from umt_pipeline.demo_world.scenes import COLOURS, MOTIONS, SHAPES, SIZES, Appearance, Scene, render
from umt_pipeline.video.views import ViewConfig

# As many as all shapes and motions need to come up several times, and few enough for a large model on a CPU.
DRAWN = 32
FEWEST = 2


@dataclass(frozen=True)
class Samples:
    """What networks are compared on.

    Attributes:
        frames_BTSSC: clips, uint8.
        texts: any number of texts.
        source: where they are from, for the manifest.
    """

    frames_BTSSC: Tensor
    texts: tuple[str, ...]
    source: str


def drawn_samples(view: ViewConfig) -> Samples:
    """Draw clips of the demo world in a model's view, with a sentence about each; always the same ones."""
    rng = np.random.default_rng(0)
    looks = list(itertools.product(SHAPES, COLOURS, SIZES))
    clips, texts = [], []
    for number in range(DRAWN):
        look = Appearance(*looks[int(rng.integers(len(looks)))])
        scene = Scene(look, MOTIONS[number % len(MOTIONS)], view.frames, 8, view.size, view.size)
        clips.append(render(scene, rng))
        texts.append(caption(scene, rng))
    return Samples(torch.from_numpy(np.stack(clips)), tuple(texts), f"{DRAWN} drawn clips of the demo world")


def given_samples(clips: Mapping[str, np.ndarray], texts: Sequence[str], source: str) -> Samples:
    """Return samples of clips that a person gave.

    Args:
        clips: frames [T, S, S, 3] by file.
        texts: any number.
        source: for the manifest.

    Raises:
        ConfigError: there are fewer than two clips, so that none has a nearest other one.
    """
    if len(clips) < FEWEST:
        raise ConfigError(f"{source}: expected at least {FEWEST} clips that can be read, found {len(clips)}")
    return Samples(torch.from_numpy(np.stack(list(clips.values()))), tuple(texts), source)
