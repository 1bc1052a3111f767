"""Training a small CLIP on single frames: the demo's teacher, real and semantic, and blind to time as CLIP is.

Shapes: F frames (one per clip of the batch), S side in pixels, L text length, B clips, T recorded frames per clip.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.core.files import sha256_folder
from umt_pipeline.data.samples import Batch, SampleDataset
from umt_pipeline.losses import all_gather
from umt_pipeline.models.teacher import save_open_clip
from umt_pipeline.models.tokenizer import load_tokenizer, save_tokenizer
from umt_pipeline.training.device import rank_and_world
from umt_pipeline.training.spec import RunSpec
from umt_pipeline.training.task import LossParts, Task, TrainConfig
from umt_pipeline.video.pixels import IMAGENET_MEAN, IMAGENET_STD, normalise_frames
from umt_pipeline.video.views import counter_generator

if TYPE_CHECKING:
    # Imported where a tokenizer is made or read: it takes a second.
    from transformers import PreTrainedTokenizerFast

# CLIP's own limit of the learnt logit scale.
MAX_LOGIT_SCALE = float(np.log(100.0))
FRAMES_FILE, TEXT_FILE, CLIPS_FILE, TOKENIZER_FOLDER = "frames.npy", "text.npz", "clips.txt", "tokenizer"


class SmallClipSize(Config):
    """How large a small CLIP is.

    Attributes:
        width: width of the image tower.
        layers: blocks of the image tower.
        head_width: channels per attention head, in both towers.
        text_width: width of the text tower.
        text_layers: blocks of the text tower.
        embed_dim: width of the common space, which is the width of the targets.
        context_length: longest text in tokens.
    """

    width: int = 128
    layers: int = 4
    head_width: int = 32
    text_width: int = 64
    text_layers: int = 2
    embed_dim: int = 128
    context_length: int = 16

    def model_config_for(self, image_size: int, patch_size: int, vocab_size: int) -> dict[str, Any]:
        """Return open_clip's description of the model."""
        return {
            "embed_dim": self.embed_dim,
            "vision_cfg": {
                "image_size": image_size,
                "patch_size": patch_size,
                "width": self.width,
                "layers": self.layers,
                "head_width": self.head_width,
            },
            "text_cfg": {
                "context_length": self.context_length,
                "vocab_size": vocab_size,
                "width": self.text_width,
                "heads": self.text_width // self.head_width,
                "layers": self.text_layers,
                # The text ends in padding and is read whole: position 0 is [CLS].
                "no_causal_mask": True,
                "pool_type": "first",
                "hf_tokenizer_name": "tokenizer",
                "tokenizer_kwargs": {"clean": "canonicalize"},
            },
        }


class SmallClipConfig(SmallClipSize):
    """A small CLIP and how it is trained.

    Attributes:
        vocab_size: most word pieces.
        frames: frames of each clip that are decoded once and drawn from.
        templates: sentences with label tasks in braces, such as ``a {size} {colour} {shape}``. Naming only what a single
            frame shows keeps the teacher blind to motion. Empty: the caption table's own sentences.
        synonyms: words that may stand for a label in a template.
        train: the loop.
    """

    vocab_size: int = 512
    frames: int = Field(8, ge=1)
    templates: tuple[str, ...] = ()
    synonyms: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    train: TrainConfig

    def label_tasks(self) -> tuple[str, ...]:
        """Return the label tasks that templates name, sorted."""
        return tuple(sorted({task for template in self.templates for task in _tasks(template)}))


def frame_sentences(
    config: SmallClipConfig, clip_ids: Sequence[str], captions: pd.DataFrame, labels: pd.DataFrame
) -> list[list[str]]:
    """Return the sentences that may describe a single frame of each clip.

    Args:
        config: templates and synonyms.
        clip_ids: the clips, in the order wanted.
        captions: columns video_id, caption; read if there are no templates.
        labels: columns video_id, task, label; read if there are templates.

    Raises:
        ConfigError: a clip has no sentence, or no label for a task that a template names.
    """
    if not config.templates:
        by_clip = captions.groupby("video_id")["caption"].agg(list).to_dict()
        found = [by_clip.get(clip, []) for clip in clip_ids]
    else:
        tables = {clip: dict(zip(rows["task"], rows["label"], strict=True)) for clip, rows in labels.groupby("video_id")}
        found = [_fill(config, clip, tables.get(clip, {})) for clip in clip_ids]
    for clip, sentences in zip(clip_ids, found, strict=True):
        if not sentences:
            raise ConfigError(f"teacher_features.train_small: table captions has no caption for video {clip!r}")
    return found


def _fill(config: SmallClipConfig, clip: str, values: dict[str, str]) -> list[str]:
    sentences = []
    for template in config.templates:
        tasks = _tasks(template)
        missing = [task for task in tasks if task not in values]
        if missing:
            raise ConfigError(
                f"teacher_features.train_small.templates: {template!r} names the label task {missing[0]!r}, which video "
                f"{clip!r} has not (it has {sorted(values)}). Correct the template, or leave `templates` empty to use captions"
            )
        choices = [config.synonyms.get(values[task], (values[task],)) for task in tasks]
        sentences += [template.format(**dict(zip(tasks, words, strict=True))) for words in itertools.product(*choices)]
    return sentences


def _tasks(template: str) -> list[str]:
    return [task for _, task, _, _ in Formatter().parse(template) if task]


class FrameTextDataset(SampleDataset):
    """One frame and one sentence per clip and pass, drawn by a counter hash of (clip, pass)."""

    def __init__(self, frames: Path, clip_ids: Sequence[str], ids_ML: np.ndarray, starts: np.ndarray) -> None:
        self._path = frames
        self._frames_BTSSC: np.ndarray | None = None
        self._clip_ids = tuple(clip_ids)
        self._ids_ML = ids_ML
        # Sentences of clip i are rows starts[i] to starts[i + 1].
        self._starts = starts

    def __len__(self) -> int:
        return len(self._clip_ids)

    def batch(self, indices_B: np.ndarray, passes_B: np.ndarray) -> Batch:
        """Frames uint8 [F,S,S,3], ids int64 [F,L], clip."""
        if self._frames_BTSSC is None:
            self._frames_BTSSC = np.load(self._path, mmap_mode="r")
        clips = [self._clip_ids[index] for index in indices_B]
        keys = zip(clips, passes_B.tolist(), strict=True)
        draws = np.stack([counter_generator("frame-text", clip, number).random(2) for clip, number in keys])
        first, count = self._starts[indices_B], np.diff(self._starts)[indices_B]
        frame = (draws[:, 0] * self._frames_BTSSC.shape[1]).astype(np.int64)
        sentence = first + (draws[:, 1] * count).astype(np.int64)
        return {
            "frames": torch.from_numpy(self._frames_BTSSC[indices_B, frame]),
            "ids": torch.from_numpy(self._ids_ML[sentence]).long(),
            "clip": clips,
        }


def _new_clip(model_config: Mapping[str, Any]) -> nn.Module:
    import open_clip  # takes a second, and only who trains a teacher needs it

    return open_clip.CLIP(**model_config)


class SmallClipTask(Task):
    """Image-text contrast on single frames with open_clip's model and objective."""

    equal_shares = True

    def __init__(self, model_config: dict[str, Any], dataset: FrameTextDataset) -> None:
        self.model = _new_clip(model_config)
        self._dataset = dataset

    def dataset(self) -> FrameTextDataset:
        return self._dataset

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> LossParts:
        del generator
        with torch.no_grad():
            self.model.logit_scale.clamp_(0.0, MAX_LOGIT_SCALE)  # type: ignore[union-attr, operator]
        image_FE, text_FE, scale = model(normalise_frames(batch["frames"]), batch["ids"])[:3]
        images_GE, texts_GE = all_gather(image_FE), all_gather(text_FE)
        rank, _ = rank_and_world()
        labels_F = torch.arange(len(image_FE), device=image_FE.device) + rank * len(image_FE)
        image_loss = F.cross_entropy(scale * image_FE @ texts_GE.T, labels_F)
        text_loss = F.cross_entropy(scale * text_FE @ images_GE.T, labels_F)
        return LossParts((image_loss + text_loss) / 2, {})

    def sample_ids(self, batch: Batch) -> Sequence[str]:
        return batch["clip"]


def write_data(
    folder: Path,
    clip_ids: Sequence[str],
    frames_BTSSC: np.ndarray,
    ids: Sequence[Tensor],
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    """Write what :class:`SmallTeacherSpec` reads: decoded frames, token ids [m, L] of each clip's sentences, the tokenizer."""
    save_tokenizer(tokenizer, folder / TOKENIZER_FOLDER)
    np.save(folder / FRAMES_FILE, frames_BTSSC)
    starts = np.concatenate(([0], np.cumsum([len(rows) for rows in ids])))
    np.savez(folder / TEXT_FILE, ids=torch.cat(list(ids)).numpy().astype(np.int32), starts=starts)
    (folder / CLIPS_FILE).write_text("\n".join(clip_ids), encoding="utf-8")


@torch.no_grad()
def zero_shot_accuracy(
    small_clip: nn.Module, frames_FSSC: np.ndarray, labels_F: Sequence[str], prompts: dict[str, Tensor]
) -> float:
    """Return the share of frames whose nearest class is right; a class is the mean embedding of its prompts.

    Args:
        small_clip: an open_clip model in eval mode.
        frames_FSSC: uint8 frames.
        labels_F: their classes.
        prompts: token ids [m, L] of sentences that name the class.
    """
    names = sorted(prompts)
    classes = [small_clip.encode_text(prompts[name], normalize=True).mean(dim=0) for name in names]  # type: ignore[operator]
    images_FE = small_clip.encode_image(normalise_frames(torch.from_numpy(frames_FSSC)), normalize=True)  # type: ignore[operator]
    guess_F = (images_FE @ F.normalize(torch.stack(classes), dim=-1).T).argmax(dim=1).tolist()
    return float(np.mean([names[guess] == label for guess, label in zip(guess_F, labels_F, strict=True)]))


def trained_small_clip(model_config: dict[str, Any], weights: dict[str, Tensor]) -> nn.Module:
    """Return the trained model in eval mode, with the input statistics that it was trained with."""
    small_clip = _new_clip(model_config)
    small_clip.load_state_dict(weights)
    visual: Any = small_clip.visual
    visual.image_mean, visual.image_std = IMAGENET_MEAN, IMAGENET_STD
    return small_clip.eval()


class SmallTeacherSpec(RunSpec):
    """A run of the small CLIP.

    Attributes:
        model: open_clip's description of it.
        data: folder from :func:`write_data`.
    """

    model: dict[str, Any]
    data: Path

    def build(self) -> SmallClipTask:
        text = np.load(self.data / TEXT_FILE)
        clip_ids = (self.data / CLIPS_FILE).read_text(encoding="utf-8").splitlines()
        return SmallClipTask(self.model, FrameTextDataset(self.data / FRAMES_FILE, clip_ids, text["ids"], text["starts"]))

    def inputs(self) -> dict[str, str]:
        # The frames themselves: how views are drawn from the same clips may change with the code.
        return {"frames and sentences": sha256_folder(self.data)}

    def export(self, weights: Mapping[str, Tensor], folder: Path, facts: Mapping[str, Any]) -> None:
        del facts  # the folder is laid out as open_clip reads it
        small_clip, tokenizer = trained_small_clip(self.model, dict(weights)), load_tokenizer(self.data / TOKENIZER_FOLDER)
        save_open_clip(small_clip, self.model, tokenizer, folder)
