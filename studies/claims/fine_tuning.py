"""Fine-tuning of the study: one encoder learns all label tasks at once, a linear head each, and is tested.

Shapes: B clips, T frames, V tokens of a clip, P values per patch, D width, L label tasks, M classes of a task, I clips of a
split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from studies.claims.bank import ClipBank, study_code
from studies.claims.encoders import ClipEncoder, EncoderSize, TeacherEncoder
from studies.claims.inputs import InputConfig, cut, every_index, uniform
from umt_pipeline.core.config import Config
from umt_pipeline.core.files import sha256_file
from umt_pipeline.data.samples import Batch, SampleDataset
from umt_pipeline.models.folders import WEIGHTS_FILE, load_weights
from umt_pipeline.models.pooling import AttentionPool
from umt_pipeline.models.teacher import TeacherConfig, load_teacher
from umt_pipeline.models.vit import NORM_EPS, AttentionKind
from umt_pipeline.training.spec import RunSpec
from umt_pipeline.training.task import LossParts, Task
from umt_pipeline.video.pixels import normalise_patches

_VIEW_STREAM, _LABEL_STREAM = 2, 3
TEST_BATCH = 96


class FineTuningConfig(Config):
    """How a model is fine-tuned.

    Attributes:
        attention: over the whole clip, or within frames.
        clip: frames.
        teacher: whether the teacher's own tower is fine-tuned in place of a student.
        labelled: how many clips of each class of the first task have labels, at most; None: all.
    """

    attention: AttentionKind = "joint"
    clip: InputConfig = InputConfig()
    teacher: bool = False
    labelled: int | None = Field(None, ge=1)


class LabelModel(nn.Module):
    """An encoder, a pool of its tokens, and a linear head for each task.

    The pool is stage 2's: with the mean of the tokens, as published, no arm learns motion in a study's few steps.
    """

    def __init__(self, encoder: ClipEncoder | TeacherEncoder, classes: Sequence[int]) -> None:
        super().__init__()
        self.encoder = encoder
        self.pool = AttentionPool(encoder.dim, encoder.heads)
        self.norm = nn.LayerNorm(encoder.dim, eps=NORM_EPS)
        self.heads = nn.ModuleList(nn.Linear(encoder.dim, count) for count in classes)
        for head in self.heads:
            nn.init.trunc_normal_(head.weight, std=0.02)  # type: ignore[arg-type]
            nn.init.zeros_(head.bias)  # type: ignore[arg-type]

    def forward(self, patches_BVP: Tensor) -> list[Tensor]:
        """Return the logits of each task [B, M]."""
        index_BV = every_index(patches_BVP)
        pooled_BD = self.norm(self.pool(self.encoder(patches_BVP, index_BV), self.encoder.positions(index_BV)))
        return [head(pooled_BD) for head in self.heads]


def labelled_clips(bank: ClipBank, split: str, per_class: int | None, seed: int) -> np.ndarray:
    """Return the clips of a split that have labels, ascending: of each class of the first task a few, drawn by the seed.

    Arms that ask for as many get the same ones, and those of a smaller number are among those of a larger.

    Args:
        bank: whose clips.
        split: trained on.
        per_class: so many, or all of a rarer class; None: all clips.
        seed: of the draw.
    """
    clips = bank.clips([split])
    if per_class is None:
        return clips
    draws_I = uniform(seed, clips, np.zeros_like(clips), _LABEL_STREAM, 1)[:, 0]
    clips_I = clips[np.lexsort((draws_I, bank.numbers_IL[clips, 0]))]
    classes_I = bank.numbers_IL[clips_I, 0]
    rank_I = np.arange(len(clips_I)) - np.searchsorted(classes_I, classes_I)
    return np.sort(clips_I[rank_I < per_class])


class LabelledViews(SampleDataset):
    """Random views of labelled clips."""

    def __init__(self, bank: ClipBank, split: str, config: FineTuningConfig, seed: int) -> None:
        self._bank, self._clip, self._seed = bank, config.clip, seed
        self._clips = labelled_clips(bank, split, config.labelled, seed)

    def __len__(self) -> int:
        return len(self._clips)

    def batch(self, indices_B: np.ndarray, passes_B: np.ndarray) -> Batch:
        """See :class:`SampleDataset`: frames uint8 [B,T,S,S,3], labels int64 [B,L]."""
        bank, clips_B = self._bank, self._clips[indices_B]
        draws_BT = uniform(self._seed, clips_B, passes_B, _VIEW_STREAM, self._clip.frames)
        rows_BT = bank.starts_I[clips_B][:, None] + self._clip.training_frames(bank.lengths_I[clips_B], draws_BT)
        return {"frames": bank.frames_FSSC[rows_BT], "labels": bank.numbers_IL[clips_B], "clip": clips_B.tolist()}


class FineTuningTask(Task):
    """A label model and its clips; the loss is the mean of the tasks' cross-entropies."""

    def __init__(self, model: LabelModel, bank: ClipBank, split: str, config: FineTuningConfig, seed: int) -> None:
        self.model: nn.Module = model
        self._patch_size, self._tubelet = bank.patch_size, config.clip.tubelet
        self._tasks = bank.tasks
        self._dataset = LabelledViews(bank, split, config, seed)

    def dataset(self) -> LabelledViews:
        return self._dataset

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> LossParts:
        del generator
        logits = model(normalise_patches(cut(batch["frames"], self._patch_size, self._tubelet)))
        losses = [F.cross_entropy(part.float(), batch["labels"][:, index]) for index, part in enumerate(logits)]
        return LossParts(torch.stack(losses).mean(), dict(zip(self._tasks, losses, strict=True)))

    def sample_ids(self, batch: Batch) -> Sequence[str]:
        return [str(clip) for clip in batch["clip"]]


def make_label_model(
    bank: ClipBank, size: EncoderSize, config: FineTuningConfig, teacher: Path, start: dict[str, Tensor] | None
) -> LabelModel:
    """Return the model that fine-tuning starts from.

    Args:
        bank: for the size of frames and the number of classes.
        size: of the student.
        config: which encoder.
        teacher: its folder, read where ``config.teacher``.
        start: weights of a :class:`ClipEncoder`, of any attention; None: random ones, or the teacher's.

    Raises:
        CheckpointError: the weights do not fit.
    """
    if config.teacher:
        loaded = load_teacher(teacher, TeacherConfig(layers=1), bank.size // bank.patch_size)
        return LabelModel(TeacherEncoder(loaded, bank.patch_size, config.clip, config.attention), bank.classes)
    encoder = ClipEncoder(size, bank.size, bank.patch_size, config.clip, config.attention)
    if start is not None:
        load_weights(encoder, start, source="pre-trained encoder of the study")
    return LabelModel(encoder, bank.classes)


@torch.no_grad()
def top1_accuracy(model: LabelModel, bank: ClipBank, splits: Sequence[str], clip: InputConfig, views: int) -> dict[str, float]:
    """Return the top-1 accuracy of each task in percent.

    Args:
        model: on any device.
        bank: whose clips.
        splits: all their clips together.
        clip: frames.
        views: evenly spaced; their softmax is averaged. A label that another one equals counts as wrong.
    """
    model.eval()
    device = next(model.parameters()).device
    clips = bank.clips(splits)
    right_L = np.zeros(len(bank.tasks), dtype=np.int64)
    for start in range(0, len(clips), TEST_BATCH):
        chosen = clips[start : start + TEST_BATCH]
        summed = [torch.zeros(len(chosen), count, device=device) for count in bank.classes]
        for view in range(views):
            rows_BT = bank.starts_I[chosen][:, None] + clip.test_frames(bank.lengths_I[chosen], view, views)
            frames = torch.from_numpy(bank.frames_FSSC[rows_BT]).to(device)
            logits = model(normalise_patches(cut(frames, bank.patch_size, clip.tubelet)))
            summed = [old_BM + part_BM.float().softmax(dim=-1) for old_BM, part_BM in zip(summed, logits, strict=True)]
        truth_BL = torch.from_numpy(bank.numbers_IL[chosen]).to(device)
        for task, scores_BM in enumerate(summed):
            true_B1 = scores_BM.gather(1, truth_BL[:, task, None])
            right_L[task] += int(((scores_BM >= true_B1).sum(dim=1) == 1).sum())
    return dict(zip(bank.tasks, (100.0 * right_L / len(clips)).tolist(), strict=True))


class FineTuningSpec(RunSpec):
    """A fine-tuning run of the study; its seed is that of views too.

    Attributes:
        bank: folder of the clips.
        split: trained on.
        size: of the student.
        config: which encoder.
        teacher: its folder; its weights' hash is part of the bank's name.
        start: weights of a finished pre-training run; None: see :func:`make_label_model`.
    """

    code: ClassVar[tuple[Path, ...]] = study_code()

    bank: Path
    split: str
    size: EncoderSize
    config: FineTuningConfig
    teacher: Path
    start: Path | None

    def build(self) -> FineTuningTask:
        bank = ClipBank(self.bank)
        weights = None if self.start is None else encoder_weights(self.start)
        model = make_label_model(bank, self.size, self.config, self.teacher, weights)
        return FineTuningTask(model, bank, self.split, self.config, self.seed)

    def inputs(self) -> dict[str, str]:
        return {"bank": self.bank.name, "start": "" if self.start is None else sha256_file(self.start)}

    def export(self, weights: Mapping[str, Tensor], folder: Path, facts: Mapping[str, Any]) -> None:
        save_file(dict(weights), folder / WEIGHTS_FILE)


def encoder_weights(path: Path) -> dict[str, Tensor]:
    """Return the encoder's weights of a pre-training run of the study."""
    prefix = "encoder."
    return {name.removeprefix(prefix): value for name, value in load_file(path).items() if name.startswith(prefix)}
