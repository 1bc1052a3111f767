"""Nodes that train the video-text model, and the same model from scratch as a control."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pandas as pd

from umt_pipeline.core.files import staged_folder
from umt_pipeline.core.identity import fingerprint
from umt_pipeline.data.captions import CaptionSource, captioned_media
from umt_pipeline.data.mapped import write_table
from umt_pipeline.features.manifest import read_manifest
from umt_pipeline.models.folders import load_config
from umt_pipeline.models.student import KIND as STUDENT_KIND
from umt_pipeline.models.student import StudentConfig
from umt_pipeline.models.tokenizer import load_tokenizer, save_tokenizer, train_wordpiece
from umt_pipeline.pipelines.runs import NamedRuns, TrainedModel, skipped_model, train, trained_model
from umt_pipeline.pipelines.sources import RecordedViews
from umt_pipeline.training.held_out import HeldOut, held_out_media
from umt_pipeline.training.stage2 import Stage2Config, Stage2Spec
from umt_pipeline.training.text_tower import TextTowerSpec

logger = logging.getLogger(__name__)


def make_tokenizer(params: Stage2Config, videos: pd.DataFrame, captions: pd.DataFrame, workspace: Path) -> Path:
    """Get the tokenizer: that of ``text.pretrained``, or a WordPiece vocabulary trained on the training captions.

    Returns:
        A folder of tokenizer files, named after its content.

    Raises:
        ConfigError: there is no usable training caption, or ``vocab_size`` is too small for their letters or for the pretrained
            tokenizer.
    """
    tokenizer = params.text.pretrained_tokenizer()
    if tokenizer is not None:
        # Whoever uses the model later cuts texts where training did.
        tokenizer.model_max_length = params.text.max_length
    else:
        _, texts = captioned_media(videos, captions, "train", params.corpora, params.clean_captions)
        tokenizer = train_wordpiece(
            texts["caption"].tolist(), params.text.vocab_size, params.text.max_length, clean=params.clean_captions
        )
    key = fingerprint(tokenizer.backend_tokenizer.to_str(), tokenizer.model_max_length)
    folder = workspace / "tokenizers" / key
    save_tokenizer(tokenizer, folder)
    return folder


def gather_data(
    params: Stage2Config,
    seed: int,
    views: RecordedViews,
    tokenizer: Path,
    stage1_model: Path,
    captions: pd.DataFrame,
    workspace: Path,
) -> Stage2Spec:
    """Check the feature stores, settle the model's sizes and put the tables where training processes can map them.

    Args:
        params: text encoder, objectives, target provider and loop.
        seed: of weights, order, dropout, masks and negatives.
        views: recorded views and targets.
        tokenizer: from :func:`make_tokenizer`.
        stage1_model: the student's model folder; read for its size.
        captions: the clean caption table.
        workspace: folder for unfinished work.

    Raises:
        ConfigError: the parameters do not fit the feature stores, the tables or the student.
        StoreError: a store is not what the parameters ask for, or not what media and teacher give now.
    """
    samples, texts = captioned_media(views.videos, captions, "train", params.corpora, params.clean_captions)
    captions_read = CaptionSource(
        samples=write_table(workspace, "samples", samples),
        captions=write_table(workspace, "captions", texts),
        tokenizer=tokenizer,
        max_length=params.text.max_length,
        clean=params.clean_captions,
    )
    aligned = params.weights.alignment > 0.0
    sources = {
        kind: views.source(kind, params.targets, params.verify, captions_read.samples, aligned)
        for kind in sorted(samples["media"].unique())
    }
    held_out = _held_out(params, views, captions, workspace)
    student, _ = load_config(stage1_model, STUDENT_KIND)
    # The videos' store decides frames and resolution, also where only images have captions.
    store = read_manifest(views.stores["video"])
    words = load_tokenizer(tokenizer)
    # A published BERT may have more embeddings than its tokenizer has words.
    words_known = len(words) if params.text.pretrained is None else params.text.vocab_size
    if params.parity and params.train.nproc == 1:
        logger.warning("stage2.parity with train.nproc 1 changes nothing: the published gradient is exact in one process")
    return Stage2Spec(
        model=params.model_for(StudentConfig.model_validate(student), store, words_known),
        weights=params.weights,
        student=stage1_model,
        text_tower=None,
        text_lr_scale=params.text.lr_scale,
        captions=captions_read,
        corpora=params.corpora,
        parity=params.parity,
        masked_epochs=params.masked_epochs,
        sources=sources,
        teacher=store.teacher.id,
        held_out=held_out,
        train=params.train,
        seed=seed,
    )


def _held_out(params: Stage2Config, views: RecordedViews, captions: pd.DataFrame, workspace: Path) -> HeldOut | None:
    if params.validate_every is None:
        return None
    clips, texts = held_out_media(views.videos, captions, params.validation_split, params.clean_captions)
    if clips.empty:
        split = params.validation_split
        logger.warning("stage2.validate_every: no clip of split %s has a caption, so the history says nothing of it", split)
        return None
    return HeldOut(
        clips=write_table(workspace, "held_out_clips", clips),
        captions=write_table(workspace, "held_out_captions", texts),
        media_root=views.media_root,
        every=params.validate_every,
    )


def plan_text(params: Stage2Config, spec: Stage2Spec) -> NamedRuns:
    """Settle the training of the text tower on the training captions alone; without ``text_pretraining`` there is none."""
    pretraining = params.text_pretraining
    if pretraining is None:
        return {}
    text = TextTowerSpec(
        text=spec.model.text,
        embed_dim=params.embed_dim,
        objectives=pretraining.objectives(),
        captions=spec.captions,
        train=pretraining.train,
        seed=spec.seed,
    )
    return {"text": text}


def pretrain_text(
    params: Stage2Config, spec: Stage2Spec, text_runs: NamedRuns, workspace: Path
) -> tuple[NamedRuns, dict[str, Any], dict[str, Any]]:
    """Train the text tower, if :func:`plan_text` found that it should be.

    Returns:
        The stage's runs, which start from that tower: the model, and the control, the same from scratch, unless ``control`` is
        false; the summary of the tower's training, and what it took, both empty without one.
    """
    summary: dict[str, Any] = {}
    times: dict[str, Any] = {}
    for name, text in text_runs.items():
        finished = train(name, text, workspace)
        # Beside the run and not in the outbox, for the spec names it, and other machines may train by the spec.
        tower = finished.folder / "tower"
        if not tower.is_dir():
            with staged_folder(tower) as staged:
                finished.export(staged)
        spec, summary, times = spec.model_copy(update={"text_tower": tower}), finished.summary(), finished.times()
    control = {"stage2_control": spec.model_copy(update={"student": None})} if params.control else {}
    return {"stage2": spec, **control}, summary, times


def train_video_text(runs: NamedRuns, workspace: Path) -> TrainedModel:
    """Train the video-text model from the stage-1 student.

    Args:
        runs: from :func:`pretrain_text`.
        workspace: folder for unfinished work, in which a killed run is found again.

    Returns:
        The model folder, the history of the run, its summary, and what it took.

    Raises:
        ConfigError: no training clip has a caption.
        TrainingError: training failed.
    """
    return trained_model(train("stage2", runs["stage2"], workspace), workspace, "stage2_model")


def train_control(runs: NamedRuns, workspace: Path) -> TrainedModel:
    """Train the same model with the same budget, its video encoder from scratch; see :func:`train_video_text`.

    With ``control: false`` nothing is trained, and the folder says so.
    """
    if "stage2_control" not in runs:
        return skipped_model(workspace, "stage2_control_model", "stage2.control is false")
    return trained_model(train("stage2_control", runs["stage2_control"], workspace), workspace, "stage2_control_model")
