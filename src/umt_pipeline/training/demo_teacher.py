"""Training the CLIP that comes with the package: it has seen every kind of thing of the demo world, as single frames.

The objective is CLIP's, but a sentence may be true of several frames of a batch ("a red star" of each red star): every frame
is pulled to all sentences that are true of it, every sentence to all frames that it is true of.

Shapes: F frames, S side in pixels, L text length, R sentences, E width of the common space, N patches.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from umt_pipeline.data.samples import Batch, SampleDataset
from umt_pipeline.demo_world.captions import COLOUR_TEMPLATES, SHORT_TEMPLATES, STILL_TEMPLATES, sentences
from umt_pipeline.demo_world.frames import draw_frames, uniform
from umt_pipeline.demo_world.scenes import COLOURS, SIZES
from umt_pipeline.demo_world.symbols import KINDS
from umt_pipeline.models.teacher import save_open_clip
from umt_pipeline.models.tokenizer import encode_batch, train_wordpiece
from umt_pipeline.training.small_teacher import MAX_LOGIT_SCALE, SmallClipSize, trained_small_clip
from umt_pipeline.training.spec import RunSpec
from umt_pipeline.training.task import LossParts, Task
from umt_pipeline.video.pixels import normalise_frames

SIDE, PATCH = 48, 12
_CONTEXT = 16
_VOCABULARY = 320
# How often a frame's sentence names kind alone, and kind and colour; else also the size, where it has one that has a name.
_KIND_ALONE, _NO_SIZE = 0.12, 0.24
# Sentences have random numbers of their own.
_SENTENCES = 7919


@dataclass(frozen=True)
class Sentences:
    """Every sentence that may stand beside a frame, by what it says.

    Attributes:
        ids_RL: token ids, int32.
        starts: the first row of (kind, colour or -1, size or -1), and the row after its last.
    """

    tokenizer: PreTrainedTokenizerFast
    ids_RL: np.ndarray
    starts: dict[tuple[int, int, int], tuple[int, int]]

    @classmethod
    def make(cls) -> Sentences:
        """Word everything that a single frame may show, and learn the word pieces of it."""
        texts: list[str] = []
        starts: dict[tuple[int, int, int], tuple[int, int]] = {}
        colours, sizes = [(-1, ""), *enumerate(COLOURS)], [(-1, ""), *enumerate(SIZES)]
        for (kind, shape), (colour, hue), (size, extent) in itertools.product(enumerate(KINDS), colours, sizes):
            if colour < 0 <= size:
                continue
            named = {"shape": shape} | ({"colour": hue} if hue else {}) | ({"size": extent} if extent else {})
            templates = STILL_TEMPLATES if extent else COLOUR_TEMPLATES if hue else SHORT_TEMPLATES
            found = sentences(templates, **named)
            starts[kind, colour, size] = len(texts), len(texts) + len(found)
            texts += found
        tokenizer = train_wordpiece(texts, _VOCABULARY, _CONTEXT)
        return cls(tokenizer, encode_batch(tokenizer, texts, _CONTEXT)[0].numpy().astype(np.int32), starts)


class DrawnFrames(SampleDataset):
    """Frames with a sentence each, none of which comes twice in a pass."""

    def __init__(self, count: int, seed: int) -> None:
        self._count = count
        self._seed = seed

    def __len__(self) -> int:
        return self._count

    @cached_property
    def _sentences(self) -> Sentences:
        return Sentences.make()

    def batch(self, indices_B: np.ndarray, passes_B: np.ndarray) -> Batch:
        """Frames uint8 [F,S,S,3], what they show, ids int64 [F,L] of a sentence, and what it says (-1: nothing)."""
        numbers_B = indices_B + passes_B * self._count
        frames = draw_frames(numbers_B, self._seed, SIDE)
        which_B, wording_B = uniform(numbers_B, self._seed + _SENTENCES, 2).T
        said_colour_B = np.where(which_B < _KIND_ALONE, -1, frames.colour_B)
        said_size_B = np.where(which_B < _NO_SIZE, -1, frames.size_B)
        rows = []
        for *said, wording in zip(frames.kind_B, said_colour_B, said_size_B, wording_B, strict=True):
            first, end = self._sentences.starts[said[0], said[1], said[2]]
            rows.append(first + int(wording * (end - first)))
        return {
            "frames": torch.from_numpy(frames.pixels_BSS3),
            "shown": torch.from_numpy(np.stack((frames.kind_B, frames.colour_B, frames.size_B), axis=1)),
            "ids": torch.from_numpy(self._sentences.ids_RL[rows]).long(),
            "said": torch.from_numpy(np.stack((frames.kind_B, said_colour_B, said_size_B), axis=1)),
            "number": numbers_B.tolist(),
        }


class DemoTeacherTask(Task):
    """Contrast of frames with sentences, by the class token and, with half the weight each, by the patches' mean.

    Stage 1 learns patch tokens, whose last block CLIP's own objective leaves untaught; in models of its size they are good
    all the same, in one of four blocks they are not.
    """

    def __init__(self, model_config: dict[str, Any], count: int, seed: int) -> None:
        self.model: nn.Module = _Clip(model_config)
        self._dataset = DrawnFrames(count, seed)

    def dataset(self) -> DrawnFrames:
        return self._dataset

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> LossParts:
        del generator
        with torch.no_grad():
            self.model.clip.logit_scale.clamp_(0.0, MAX_LOGIT_SCALE)  # type: ignore[union-attr, operator]
        class_FE, patches_FE, text_FE, scale = model(normalise_frames(batch["frames"]), batch["ids"])
        true_FF, unclear_FF = truths(batch["shown"], batch["said"])
        by_class, by_patches = (
            contrast(scale * image_FE @ text_FE.T, true_FF, unclear_FF) for image_FE in (class_FE, patches_FE)
        )
        return LossParts((by_class + by_patches) / 2, {"by_class": by_class.detach(), "by_patches": by_patches.detach()})

    def sample_ids(self, batch: Batch) -> Sequence[str]:
        return [str(number) for number in batch["number"]]


class _Clip(nn.Module):
    """open_clip's model, which also gives the mean of its projected patch tokens."""

    def __init__(self, model_config: dict[str, Any]) -> None:
        super().__init__()
        self.clip = open_clip.CLIP(**model_config)
        self.clip.visual.output_tokens = True

    def forward(self, frames_F3SS: Tensor, ids_FL: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        class_FE, tokens_FNW = self.clip.visual(frames_F3SS)
        patches_FE = F.normalize(tokens_FNW @ self.clip.visual.proj, dim=-1).mean(dim=1)
        text_FE = self.clip.encode_text(ids_FL, normalize=True)
        return F.normalize(class_FE, dim=-1), F.normalize(patches_FE, dim=-1), text_FE, self.clip.logit_scale.exp()


def truths(shown_F3: Tensor, said_F3: Tensor) -> tuple[Tensor, Tensor]:
    """Return which sentence (column) is true of which frame (row), and of which it cannot be told, both bool [F, F].

    Args:
        shown_F3: kind, colour and size (-1: none that has a name) of each frame.
        said_F3: the same of each sentence; -1 where it says nothing of it.
    """
    same_FF3 = (shown_F3[:, None] == said_F3[None]) | (said_F3[None] < 0)
    unnamed_FF = (shown_F3[:, None, 2] < 0) & (said_F3[None, :, 2] >= 0)
    return same_FF3.all(dim=2), same_FF3[..., :2].all(dim=2) & unnamed_FF


def contrast(logits_FF: Tensor, true_FF: Tensor, unclear_FF: Tensor) -> Tensor:
    """Return CLIP's loss where several pairs of a row or column are true, which share it evenly."""
    logits_FF = logits_FF.masked_fill(unclear_FF, -torch.inf)
    losses = []
    for dim in (1, 0):
        scores_FF = logits_FF.log_softmax(dim=dim).masked_fill(~true_FF, 0.0)
        losses.append(-(scores_FF.sum(dim=dim) / true_FF.sum(dim=dim)).mean())
    return (losses[0] + losses[1]) / 2


class DemoTeacherSpec(RunSpec):
    """A run of the demo's teacher.

    Attributes:
        model: open_clip's description of it.
    """

    model: dict[str, Any]

    def build(self) -> DemoTeacherTask:
        assert self.train.steps is not None
        return DemoTeacherTask(self.model, self.train.steps * self.train.batch_size, self.seed)

    def inputs(self) -> dict[str, str]:
        return {}

    def export(self, weights: Mapping[str, Tensor], folder: Path, facts: Mapping[str, Any]) -> None:
        """Write the folder as open_clip reads it, its weights in half precision."""
        del facts
        own = {name.removeprefix("clip."): tensor for name, tensor in weights.items()}
        small_clip = trained_small_clip(self.model, own).half()
        save_open_clip(small_clip, self.model, Sentences.make().tokenizer, folder)


def demo_model() -> dict[str, Any]:
    """Return open_clip's description of the demo's teacher."""
    return SmallClipSize().model_config_for(SIDE, PATCH, len(Sentences.make().tokenizer))
