"""Loading of published checkpoint files, strictly, and comparison of the position tables that some of them hold.

Shapes: A positions of a clip, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from umt_pipeline.core.errors import CheckpointError
from umt_pipeline.models.checkpoints import POSITION_TABLE
from umt_pipeline.models.folders import LoadReport, load_weights
from umt_pipeline.models.student import Student
from umt_pipeline.models.video_text import VideoTextModel
from umt_pipeline.models.vit import VideoViT
from umt_pipeline.tasks.classification.model import Classifier
from umt_pipeline.tasks.detection.model import Detector
from umt_pipeline.tasks.question_answering.model import QuestionAnsweringModel

# The frozen teacher, an OpenAI CLIP image tower that pre-trained stage-2 files carry along: exactly its names, so that a
# weight that only looks like one is still an error.
TEACHER_KEYS = (
    "clip_teacher.class_embedding",
    "clip_teacher.positional_embedding",
    "clip_teacher.proj",
    "clip_teacher.conv1.weight",
    "clip_teacher.ln_pre.*",
    "clip_teacher.ln_post.*",
    "clip_teacher.transformer.resblocks.*",
)
# The table is interpolated in float32, which differs between versions of torch; a learned table differs far more.
_POSITION_TOLERANCE = 1e-4


def load_renamed(
    model: nn.Module,
    state: Mapping[str, Tensor],
    *,
    source: str,
    allow_missing: Iterable[str] = (),
    allow_unexpected: Iterable[str] = (),
) -> LoadReport:
    """Load what a ``*_from_published`` function of :mod:`umt_pipeline.models.checkpoints` gave.

    A position table in ``state`` is compared with the model's own and then listed in the report's ``unexpected``. For an
    encoder, so is what of the file is no encoder (alignment heads, text, teacher). A fine-tuned video-text file holds no
    masked-language head and no alignment heads: the report's ``missing`` lists them, if the file holds none of them.
    A pre-trained stage-2 file holds the frozen teacher too (``TEACHER_KEYS``). It is no part of the model, nothing of ours
    reads it, and every published file has it: it is left out without being asked, and the report's ``notes`` say so.

    Args:
        model: a :class:`Student`, :class:`Classifier`, :class:`Detector`, :class:`VideoTextModel`,
            :class:`QuestionAnsweringModel` or :class:`VideoViT`.
        state: renamed weights.
        source: the file, for messages.
        allow_missing: glob patterns of keys, in this project's names, that may stay at their initial values.
        allow_unexpected: glob patterns of keys that may be left out.

    Raises:
        CheckpointError: any other key is missing, left over or mis-shaped, or the position table is another one.
    """
    if isinstance(model, VideoTextModel):
        encoder, prefix = model.vision, "vision."
        optional = ("text.mlm_", "heads.")
        absent = tuple(f"{part}*" for part in optional if not any(key.startswith(part) for key in state))
        allow_missing, allow_unexpected = (*allow_missing, *absent), (*allow_unexpected, *TEACHER_KEYS)
    elif isinstance(model, QuestionAnsweringModel):
        encoder, prefix = model.vision, "vision."
        allow_unexpected = (*allow_unexpected, *TEACHER_KEYS)
    elif isinstance(model, Student | Classifier | Detector):
        encoder, prefix = model.encoder, "encoder."
    elif isinstance(model, VideoViT):
        encoder, prefix = model, ""
        allow_unexpected = (*allow_unexpected, "other:*")
    else:
        raise TypeError(f"no published file holds a {type(model).__name__}")
    table = f"{prefix}{POSITION_TABLE}"
    if table in state:
        _check_positions(state[table], encoder, f"{source}: {POSITION_TABLE}")
        allow_unexpected = (*allow_unexpected, table)
    report = load_weights(model, state, source=source, allow_missing=allow_missing, allow_unexpected=allow_unexpected)
    return replace(report, notes=(*report.notes, *_notes(model, report)))


def _notes(model: nn.Module, report: LoadReport) -> Iterator[str]:
    teacher = sum(key.removeprefix("other:").startswith("clip_teacher.") for key in report.unexpected)
    if teacher:
        yield (
            f"left out: the frozen teacher (clip_teacher.*, tensors: {teacher}), which is no part of the model: "
            "this project takes its teacher from teacher_features.teacher"
        )
    if isinstance(model, VideoTextModel) and any(key.startswith("text.mlm_") for key in report.missing):
        yield "the masked-language head has random weights: fine-tuned files hold none, retrieval and matching do not use it"


def _check_positions(table_1AD: Tensor, encoder: VideoViT, name: str) -> None:
    config, own_AD = encoder.config, encoder.positions_AD
    if table_1AD.shape != (1, *own_AD.shape):
        raise CheckpointError(
            f"{name} is {tuple(table_1AD.shape)}, expected {(1, *own_AD.shape)} for {config.frames} frames of {config.grid} x "
            f"{config.grid} patches: choose the number of frames and the image size that the file was trained with"
        )
    difference = float((table_1AD[0].float() - own_AD).abs().max())
    # The table of a file stored in half precision is rounded.
    if not difference <= max(_POSITION_TOLERANCE, torch.finfo(table_1AD.dtype).eps):
        raise CheckpointError(
            f"{name} differs from the fixed sinusoid table of {config.frames} frames of {config.grid} x {config.grid} patches "
            f"by up to {difference:.2g}: it was learned, or interpolated from another clip size. This model computes its table"
        )
