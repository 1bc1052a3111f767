"""Nodes that get the frozen teacher: a published open_clip or timm model, or a small CLIP trained on this corpus' frames."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from umt_pipeline.core.errors import ConfigError
from umt_pipeline.core.files import move_folder, sha256_folder
from umt_pipeline.features.extract import select_clips
from umt_pipeline.models.teacher import TRAIN_SMALL, load_teacher
from umt_pipeline.models.tokenizer import encode_batch, train_wordpiece
from umt_pipeline.pipelines.runs import NamedRuns, TrainedModel, fresh_folder, train
from umt_pipeline.pipelines.teacher_features.params import TeacherFeaturesParams
from umt_pipeline.training import small_teacher
from umt_pipeline.training.small_teacher import SmallClipConfig, SmallTeacherSpec
from umt_pipeline.video.decode import decode_batches
from umt_pipeline.video.views import View, ViewConfig, eval_view, make_view

logger = logging.getLogger(__name__)

# Sentences of a class that its zero-shot classifier is averaged over.
_PROMPTS_PER_CLASS = 64


@dataclass(frozen=True)
class _HeldOut:
    """What a small CLIP is judged on: clean tables, and the folder of the media."""

    media_root: Path
    videos: pd.DataFrame
    labels: pd.DataFrame


def plan_teacher(
    params: TeacherFeaturesParams,
    seed: int,
    raw_media: Path,
    videos: pd.DataFrame,
    captions: pd.DataFrame,
    labels: pd.DataFrame,
    workspace: Path,
) -> tuple[NamedRuns, dict[str, Tensor]]:
    """Settle the training of a small CLIP, and decode what it is trained on; of a published teacher there is no run.

    Args:
        params: source, and the small CLIP's size and training.
        seed: of a small CLIP's training.
        raw_media: folder of the video files.
        videos: the clean video table.
        captions: the clean caption table.
        labels: the clean label table.
        workspace: folder for unfinished work.

    Returns:
        The run, and the token ids [m, L] of the m sentences that describe each training clip.

    Raises:
        ConfigError: the small CLIP's templates cannot work with these tables.
    """
    small = params.small_clip()
    if small is None:
        return {}, {}
    clips = _described_clips(small, videos, captions)
    names = clips["video_id"].tolist()
    sentences = small_teacher.frame_sentences(small, names, captions, labels)
    tokenizer = train_wordpiece([text for texts in sentences for text in texts], small.vocab_size, small.context_length)
    ids = [encode_batch(tokenizer, texts, small.context_length)[0] for texts in sentences]
    view = params.view.model_copy(update={"frames": small.frames})
    frames_BTSS3 = _decode(clips, raw_media, view, params.dataset_id, params.workers)
    unnamed = fresh_folder(workspace, "teacher_data")
    small_teacher.write_data(unnamed, names, frames_BTSS3, ids, tokenizer)
    # Named after its content: the spec names it, and other machines may train by the spec.
    data = workspace / "teacher_data" / sha256_folder(unnamed)[:16]
    move_folder(unnamed, data)
    model = small.model_config_for(params.view.size, params.patch_size, len(tokenizer))
    spec = SmallTeacherSpec(model=model, data=data, train=small.train, seed=seed)
    return {"teacher": spec}, dict(zip(names, ids, strict=True))


def get_teacher(
    params: TeacherFeaturesParams,
    runs: NamedRuns,
    sentences: dict[str, Tensor],
    raw_media: Path,
    videos: pd.DataFrame,
    labels: pd.DataFrame,
    workspace: Path,
) -> TrainedModel:
    """Get the teacher that ``teacher.source`` names.

    Args:
        params: source, and the small CLIP's size and training.
        runs: from :func:`plan_teacher`, like ``sentences``.
        sentences: token ids of the sentences that describe each training clip; those of a class are its prompts.
        raw_media: folder of the video files.
        videos: the clean video table.
        labels: the clean label table; its tasks named in the templates are what zero-shot accuracy is measured on.
        workspace: folder for unfinished work.

    Returns:
        The teacher's folder (open_clip's or timm's local layout), its training history (empty for a published teacher),
        its metrics, and what its training took.

    Raises:
        ConfigError: the source is not known, its tower cannot teach the student (no plain ViT, too few blocks), or the small
            CLIP's templates cannot work with these tables.
        CheckpointError: a published teacher cannot be fetched or read.
    """
    folder = fresh_folder(workspace, "teacher")
    if (small := params.small_clip()) is not None:
        run = runs["teacher"]
        assert isinstance(run, SmallTeacherSpec)
        finished = train("teacher", run, workspace)
        finished.export(folder)
        small_clip = small_teacher.trained_small_clip(run.model, finished.weights())
        zero_shot = _zero_shot(params, small_clip, small.label_tasks(), sentences, _HeldOut(raw_media, videos, labels))
        metrics = {"source": TRAIN_SMALL, **finished.summary(), "zero_shot": zero_shot}
        return folder, finished.history, metrics, finished.times()
    # Imported where it is needed: open_clip and timm take seconds.
    from umt_pipeline.models.teacher_sources import fetch_teacher

    fetch_teacher(params.teacher.source, folder)
    # Loaded once here, so that a tower that cannot teach is refused before anything depends on it.
    teacher = load_teacher(folder, params.teacher, params.grid)
    logger.info("teacher: %s", teacher.describe())
    metrics = {"source": params.teacher.source, "importance": teacher.importance, "target_dim": teacher.target_dim}
    return folder, pd.DataFrame({"step": pd.Series(dtype="int64")}), metrics, {}


def _described_clips(small: SmallClipConfig, videos: pd.DataFrame, captions: pd.DataFrame) -> pd.DataFrame:
    """Return the training clips; without templates, those with a caption."""
    clips = select_clips(videos, ("train",))
    if small.templates:
        return clips
    captioned = clips["video_id"].isin(captions["video_id"])
    if not captioned.any():
        raise ConfigError("teacher_features.train_small: table captions has no caption for any video of split train")
    if not captioned.all():
        logger.warning("teacher: %d of %d training clips have no caption and are left out", (~captioned).sum(), len(clips))
    return clips[captioned].reset_index(drop=True)


def _decode(clips: pd.DataFrame, raw_media: Path, view: ViewConfig, dataset_id: str | None, workers: int | None) -> np.ndarray:
    """Decode one view per clip: a training view of ``dataset_id``, or the evaluation view if that is None."""
    views: list[View] = []
    for clip in clips.to_dict("records"):
        size = (int(clip["num_frames"]), int(clip["height"]), int(clip["width"]))
        views.append(
            eval_view(view, *size)
            if dataset_id is None
            else make_view(view, f"{dataset_id}/teacher", clip["video_id"], 0, *size)
        )
    paths = [raw_media / path for path in clips["path"]]
    batches = [range(start, min(start + 32, len(paths))) for start in range(0, len(paths), 32)]
    return np.concatenate([frames for _, frames in decode_batches(paths, views, batches, workers)])


def _zero_shot(
    params: TeacherFeaturesParams,
    small_clip: nn.Module,
    tasks: Sequence[str],
    sentences: Mapping[str, Tensor],
    corpus: _HeldOut,
) -> dict[str, Any]:
    """Zero-shot accuracy in percent on the middle frames of the validation split.

    Args:
        params: how frames are decoded.
        small_clip: as trained.
        tasks: label tasks to measure.
        sentences: token ids [B, L] that describe each training clip; those of a class are its prompts.
        corpus: clips and labels.
    """
    held_out = corpus.videos[(corpus.videos["split"] == "validation") & (corpus.videos["media"] == "video")]
    accuracy: dict[str, float] = {}
    if not held_out.empty and tasks:
        view = params.view.model_copy(update={"frames": 1})
        frames_FSS3 = _decode(held_out, corpus.media_root, view, None, params.workers)[:, 0]
        for task in tasks:
            rows = corpus.labels[corpus.labels["task"] == task]
            label_of = dict(zip(rows["video_id"], rows["label"], strict=True))
            of_label: dict[str, list[Tensor]] = {}
            for clip, ids_BL in sentences.items():
                if clip in label_of:
                    of_label.setdefault(label_of[clip], []).append(ids_BL)
            prompts = {label: torch.cat(found).unique(dim=0)[:_PROMPTS_PER_CLASS] for label, found in of_label.items()}
            truth = [label_of.get(video, "") for video in held_out["video_id"]]
            accuracy[task] = 100.0 * small_teacher.zero_shot_accuracy(small_clip, frames_FSS3, truth, prompts)
            logger.info("teacher: zero-shot %s on single frames of split validation: %.1f %%", task, accuracy[task])
    return {"split": "validation", "frames": len(held_out), "accuracy": accuracy}
