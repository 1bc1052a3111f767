"""Node that gets the frozen teacher: a published open_clip or timm model, or a small CLIP trained on this corpus' frames."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor, nn

from umt_pipeline.core.errors import ConfigError
from umt_pipeline.features.extract import select_clips
from umt_pipeline.models.teacher import TRAIN_SMALL, load_teacher
from umt_pipeline.models.teacher_sources import OPEN_CLIP_PREFIX, SOURCES, TIMM_PREFIX, fetch_teacher
from umt_pipeline.models.tokenizer import encode_batch, train_wordpiece
from umt_pipeline.pipelines.runs import fresh_folder, train
from umt_pipeline.pipelines.teacher_features.params import TeacherFeaturesParams
from umt_pipeline.training import small_teacher
from umt_pipeline.video.decode import decode_batches
from umt_pipeline.video.views import View, ViewConfig, eval_view, make_view

logger = logging.getLogger(__name__)

# Sentences of a class that its zero-shot classifier is averaged over.
_PROMPTS_PER_CLASS = 64


def get_teacher(
    params: TeacherFeaturesParams,
    seed: int,
    raw_media: Path,
    videos: pd.DataFrame,
    captions: pd.DataFrame,
    labels: pd.DataFrame,
    workspace: Path,
) -> tuple[Path, pd.DataFrame, dict[str, Any]]:
    """Get the teacher that ``teacher.source`` names.

    Args:
        params: source, and the small CLIP's size and training.
        seed: of a small CLIP's training.
        raw_media: folder of the video files.
        videos: the clean video table.
        captions: the clean caption table.
        labels: the clean label table; its tasks named in the templates are also what zero-shot accuracy is measured on.
        workspace: folder for unfinished work.

    Returns:
        The teacher's folder (open_clip's or timm's local layout), its training history (empty for a published teacher),
        and its metrics.

    Raises:
        ConfigError: the source is not known, its tower cannot teach the student (no plain ViT, too few blocks), or the small
            CLIP's templates cannot work with these tables.
        CheckpointError: a published teacher cannot be fetched or read.
    """
    source = params.teacher.source
    folder = fresh_folder(workspace, "teacher")
    if source.startswith((OPEN_CLIP_PREFIX, TIMM_PREFIX)):
        fetch_teacher(source, folder)
        # Loaded once here, so that a tower that cannot teach is refused before anything depends on it.
        teacher = load_teacher(folder, params.teacher, params.grid)
        logger.info("teacher: %s", teacher.describe())
        metrics = {"source": source, "importance": teacher.importance, "target_dim": teacher.target_dim}
        return folder, pd.DataFrame({"step": pd.Series(dtype="int64")}), metrics
    if source != TRAIN_SMALL:
        raise ConfigError(
            f"teacher_features.teacher.source: expected {TRAIN_SMALL!r} or one of {', '.join(SOURCES)}, found {source!r}"
        )
    if params.train_small is None:
        raise ConfigError(
            f"teacher_features.teacher.source is {TRAIN_SMALL!r}, but teacher_features.train_small is missing"
        )
    return _train_small(params, params.train_small, seed, raw_media, videos, captions, labels, workspace, folder)


def _train_small(
    params: TeacherFeaturesParams,
    config: small_teacher.SmallClipConfig,
    seed: int,
    raw_media: Path,
    videos: pd.DataFrame,
    captions: pd.DataFrame,
    labels: pd.DataFrame,
    workspace: Path,
    folder: Path,
) -> tuple[Path, pd.DataFrame, dict[str, Any]]:
    clips = select_clips(videos, ("train",))
    if not config.templates:
        captioned = clips["video_id"].isin(captions["video_id"])
        if not captioned.any():
            raise ConfigError("teacher_features.train_small: table captions has no caption for any video of split train")
        if not captioned.all():
            logger.warning("teacher: %d of %d training clips have no caption and are left out", (~captioned).sum(), len(clips))
        clips = clips[captioned].reset_index(drop=True)
    sentences = small_teacher.frame_sentences(config, clips["video_id"].tolist(), captions, labels)
    tokenizer = train_wordpiece(
        [text for texts in sentences for text in texts], config.vocab_size, config.context_length
    )
    ids = [encode_batch(tokenizer, texts, config.context_length)[0] for texts in sentences]
    view = params.view.model_copy(update={"frames": config.frames})
    frames_BTSSC = _decode(clips, raw_media, view, params.dataset_id, params.workers)
    data = fresh_folder(workspace, "teacher_data")
    small_teacher.write_data(data, clips["video_id"].tolist(), frames_BTSSC, ids, tokenizer)
    model = config.model_config_for(params.view.size, params.patch_size, len(tokenizer))
    spec = small_teacher.SmallTeacherSpec(model=model, data=data, train=config.train, seed=seed)
    finished = train("teacher", spec, workspace)
    finished.export(folder)
    small_clip = small_teacher.trained_small_clip(model, finished.weights())
    metrics = {"source": TRAIN_SMALL, **finished.summary()}
    metrics["zero_shot"] = _zero_shot(params, small_clip, clips, ids, labels, videos, raw_media)
    for task, accuracy in metrics["zero_shot"]["accuracy"].items():
        logger.info("teacher: zero-shot %s on single frames of split validation: %.1f %%", task, accuracy)
    return folder, finished.history, metrics


def _decode(
    clips: pd.DataFrame, raw_media: Path, view: ViewConfig, dataset_id: str | None, workers: int | None
) -> np.ndarray:
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
    train_clips: pd.DataFrame,
    ids: list[Tensor],
    labels: pd.DataFrame,
    videos: pd.DataFrame,
    raw_media: Path,
) -> dict[str, Any]:
    """Zero-shot accuracy in percent on the middle frames of the validation split, per label task that templates name."""
    import torch

    held_out = videos[(videos["split"] == "validation") & (videos["media"] == "video")]
    named = {
        task for template in (params.train_small.templates if params.train_small else ()) for task in _tasks(template)
    }
    accuracy: dict[str, float] = {}
    if not held_out.empty and named:
        view = params.view.model_copy(update={"frames": 1})
        frames_FSSC = _decode(held_out, raw_media, view, None, params.workers)[:, 0]
        by_task = {
            task: dict(zip(rows["video_id"], rows["label"], strict=True)) for task, rows in labels.groupby("task")
        }
        for task in sorted(named):
            known, prompts = by_task[task], {}
            for name in sorted(set(known.values())):
                rows = [
                    row for row, video in zip(ids, train_clips["video_id"], strict=True) if known.get(video) == name
                ]
                if rows:
                    prompts[name] = torch.cat(rows).unique(dim=0)[:_PROMPTS_PER_CLASS]
            truth = [known.get(video, "") for video in held_out["video_id"]]
            accuracy[task] = 100.0 * small_teacher.zero_shot_accuracy(small_clip, frames_FSSC, truth, prompts)
    return {"split": "validation", "frames": len(held_out), "accuracy": accuracy}


def _tasks(template: str) -> list[str]:
    from string import Formatter

    return [task for _, task, _, _ in Formatter().parse(template) if task]
