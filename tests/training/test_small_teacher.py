"""The small CLIP: which sentences describe a frame, what a batch holds, and how it is judged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from umt_pipeline.core.errors import ConfigError
from umt_pipeline.models.tokenizer import train_wordpiece
from umt_pipeline.training.small_teacher import (
    SmallClipConfig,
    SmallTeacherSpec,
    frame_sentences,
    write_data,
    zero_shot_accuracy,
)
from umt_pipeline.training.task import TrainConfig

CAPTIONS = pd.DataFrame({"video_id": ["b", "a", "b"], "caption": ["a cat", "a dog", "a grey cat"]})
LABELS = pd.DataFrame(
    [("a", "shape", "ring"), ("a", "colour", "red"), ("b", "shape", "star"), ("b", "colour", "blue")],
    columns=["video_id", "task", "label"],
)


def config(**changes: Any) -> SmallClipConfig:
    return SmallClipConfig.model_validate({"train": {"steps": 1, "batch_size": 2, "lr": 0.1}, **changes})


def test_without_templates_captions_are_the_sentences() -> None:
    assert frame_sentences(config(), ["b", "a"], CAPTIONS, LABELS) == [["a cat", "a grey cat"], ["a dog"]]


def test_templates_are_filled_with_labels_and_all_their_synonyms() -> None:
    filled = config(templates=["a {colour} {shape}", "a {shape}"], synonyms={"ring": ["ring", "hoop"]})
    assert frame_sentences(filled, ["a", "b"], CAPTIONS, LABELS) == [
        ["a red ring", "a red hoop", "a ring", "a hoop"],
        ["a blue star", "a star"],
    ]


def test_a_template_that_names_a_missing_label_task_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'a \{size\}' names the label task 'size'.*'a' has not.*\['colour', 'shape'\]"):
        frame_sentences(config(templates=["a {size}"]), ["a"], CAPTIONS, LABELS)
    with pytest.raises(ConfigError, match=r"label task 'shape', which video 'c' has not \(it has \[\]\)"):
        frame_sentences(config(templates=["a {shape}"]), ["a", "c"], CAPTIONS, LABELS)


def test_a_clip_without_a_caption_is_refused() -> None:
    with pytest.raises(ConfigError, match="table captions has no caption for video 'c'"):
        frame_sentences(config(), ["a", "c"], CAPTIONS, LABELS)


def test_batches_pair_frames_and_sentences_of_the_same_clip(tmp_path: Path) -> None:
    clips, sentences = ["a", "b", "c"], [1, 3, 2]
    frames = np.arange(3, dtype=np.uint8)[:, None, None, None, None] * np.full((1, 5, 16, 16, 3), 10, dtype=np.uint8)
    # The first token says whose sentence it is.
    ids = [torch.full((count, 6), number) for number, count in enumerate(sentences)]
    words = train_wordpiece(["a red ring", "a blue star"], 40, 6)
    write_data(tmp_path, clips, frames, ids, words)
    settings = config(width=16, layers=1, head_width=8, text_width=16, text_layers=1, embed_dim=8, context_length=6)
    model, loop = settings.model_config_for(16, 8, 20), TrainConfig(steps=1, batch_size=2, lr=1e-3)
    task = SmallTeacherSpec(model=model, data=tmp_path, train=loop, seed=0).build()
    dataset = task.dataset()
    assert len(dataset) == 3
    for epoch in range(4):
        batch = dataset.batch(np.array([2, 0, 1]), np.full(3, epoch))
        assert task.sample_ids(batch) == ["c", "a", "b"]
        assert batch["frames"][:, 0, 0, 0].tolist() == [20, 0, 10]
        assert batch["ids"][:, 0].tolist() == [2, 0, 1]
        # A sample does not depend on its place in the batch.
        assert (dataset.batch(np.array([1]), np.array([epoch]))["ids"] == batch["ids"][2]).all()
    loss = task.loss(task.model, batch, torch.Generator()).total
    loss.backward()
    assert loss.item() > 0.0


class ColourClip(nn.Module):
    """Embeds a frame as its mean colour and the text [n] as channel n."""

    def encode_image(self, images: Tensor, normalize: bool) -> Tensor:
        assert normalize
        return nn.functional.normalize(images.mean(dim=(2, 3)), dim=-1)

    def encode_text(self, ids: Tensor, normalize: bool) -> Tensor:
        assert normalize
        return torch.eye(3)[ids[:, 0]]


def test_zero_shot_accuracy_counts_right_classes() -> None:
    frames = np.zeros((4, 8, 8, 3), dtype=np.uint8)
    for frame, channel in enumerate((0, 2, 2, 1)):
        frames[frame, ..., channel] = 255
    prompts = {"red": torch.tensor([[0], [0]]), "blue": torch.tensor([[2]])}
    assert zero_shot_accuracy(ColourClip(), frames[:3], ["red", "blue", "red"], prompts) == pytest.approx(2 / 3)
    # A class that no training clip has cannot be guessed: its frames count as wrong.
    assert zero_shot_accuracy(ColourClip(), frames, ["red", "blue", "blue", "green"], prompts) == 0.75
