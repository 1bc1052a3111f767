"""Nodes that fine-tune a stage-2 model for retrieval, and search with it before and after."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from umt_pipeline.core.errors import ConfigError
from umt_pipeline.data.captions import captioned_media
from umt_pipeline.evaluation.encoders import VideoTextEncoder, clip_loader
from umt_pipeline.evaluation.metrics import NoDataError
from umt_pipeline.evaluation.params import PoolRule
from umt_pipeline.evaluation.records import Record
from umt_pipeline.evaluation.results import RetrievalExample
from umt_pipeline.evaluation.retrieval import RetrievalSet, build_retrieval_set
from umt_pipeline.evaluation.search import search
from umt_pipeline.evaluation.workers import default_device, require_devices
from umt_pipeline.evaluation.workplace import Part, open_workplace
from umt_pipeline.models.folders import load_config, load_weights, weights_sha256
from umt_pipeline.models.tokenizer import load_tokenizer
from umt_pipeline.models.video_text import (
    KIND,
    TOKENIZER_FOLDER,
    VideoTextConfig,
    VideoTextModel,
    load_video_text,
    save_video_text,
)
from umt_pipeline.pipelines.retrieval.params import RetrievalParams
from umt_pipeline.pipelines.runs import fresh_folder, train, write_table

TrainedModel = tuple[Path, pd.DataFrame, dict[str, Any]]
FACTORY = "umt_pipeline.tasks.retrieval.training:make_task"
ZERO_SHOT, FINE_TUNED = "zero_shot", "fine_tuned"


@dataclass(frozen=True)
class RetrievalData:
    """What the model is trained and searched with.

    Attributes:
        start: folder of the stage-2 model.
        config: sizes of the fine-tuned model.
        max_length: longest caption in training, in tokens.
        samples: mapped table of the training clips.
        train_captions: mapped table of their captions.
        keys: fingerprints of both tables.
        sets: what is searched, by name.
        videos: the videos of all splits.
        captions: the clean caption table.
        media: folder of the video files.
    """

    start: Path
    config: VideoTextConfig
    max_length: int
    samples: Path
    train_captions: Path
    keys: tuple[str, str]
    sets: Mapping[str, RetrievalSet]
    videos: pd.DataFrame
    captions: pd.DataFrame
    media: Path


def gather_captions(
    params: RetrievalParams,
    videos: pd.DataFrame,
    captions: pd.DataFrame,
    raw_media: Path,
    stage2_model: Path,
    workspace: Path,
) -> RetrievalData:
    """Check everything that training and search need, before anything is trained.

    Args:
        params: splits, clips, lengths.
        videos: the clean video table. Its images are neither trained on nor searched.
        captions: the clean caption table.
        raw_media: folder of the video files.
        stage2_model: what training starts from.
        workspace: folder for unfinished work.

    Raises:
        ConfigError: no training clip has a caption, a set has no query, lengths and sizes do not fit the model, or the test
            wants more CUDA devices than there are.
        CheckpointError: ``stage2_model`` is no model of video and text.
    """
    tuning, test = params.fine_tuning, params.test
    require_devices(test.nproc, "retrieval.test.nproc")
    start = VideoTextConfig.model_validate(load_config(stage2_model, KIND)[0])
    config = tuning.model_for(start)
    positions = start.text.max_positions
    if test.text_length is not None and test.text_length > positions:
        raise ConfigError(
            f"retrieval.test.text_length is {test.text_length}, but the model in {stage2_model} has {positions} positions "
            "for tokens: lower it"
        )
    clips = videos[videos["media"] == "video"].reset_index(drop=True)
    sets = {}
    for name in test.sets:
        own = clips.loc[clips["split"] == name, "video_id"].tolist()
        try:
            sets[name] = build_retrieval_set(name, own, captions, test.caption)
        except NoDataError as error:
            raise ConfigError(f"retrieval.test.sets: {error}. Name another split, or add captions") from error
    samples, texts = captioned_media(
        clips, captions, params.train_split, tuning.corpora, start.clean_captions, stage="retrieval.fine_tuning"
    )
    sample_table, samples_key = write_table(workspace, "retrieval_samples", samples)
    caption_table, captions_key = write_table(workspace, "retrieval_captions", texts)
    longest = min(load_tokenizer(stage2_model / TOKENIZER_FOLDER).model_max_length, positions)
    return RetrievalData(
        start=stage2_model,
        config=config,
        max_length=tuning.max_length if tuning.max_length is not None else longest,
        samples=sample_table,
        train_captions=caption_table,
        keys=(samples_key, captions_key),
        sets=sets,
        videos=clips,
        captions=captions,
        media=raw_media,
    )


def fine_tune(params: RetrievalParams, seed: int, retrieval_data: RetrievalData, workspace: Path) -> TrainedModel:
    """Fine-tune the stage-2 model on the training clips and their captions.

    Args:
        params: clips, objectives and loop.
        seed: of order, dropout and negatives.
        retrieval_data: from :func:`gather_captions`.
        workspace: folder for unfinished work, in which a killed run is found again.

    Returns:
        The model folder, the history of the run, and its summary.

    Raises:
        TrainingError: training failed.
    """
    data, tuning = retrieval_data, params.fine_tuning
    start_key = weights_sha256(data.start)
    arguments = {
        "start": str(data.start),
        "model": data.config.model_dump(mode="json"),
        "weights": tuning.weights.objectives().model_dump(mode="json"),
        "pool": tuning.pool,
        "samples": str(data.samples),
        "captions": str(data.train_captions),
        "max_length": data.max_length,
        "corpora": tuning.corpora,
        "media_root": str(data.media),
        "view": tuning.view.model_dump(mode="json"),
        "dataset_id": "retrieval",
        "split": params.train_split,
    }
    finished = train("retrieval", FACTORY, arguments, [*data.keys, start_key], tuning.train, seed, workspace)
    model = VideoTextModel(data.config)
    weights = {name.removeprefix("model."): tensor for name, tensor in finished.weights().items()}
    load_weights(model, weights, source=str(finished.folder))
    # The last step may have left it outside its bounds, into which reading puts it back.
    _ = model.temperature
    tokenizer = load_tokenizer(data.start / TOKENIZER_FOLDER)
    # Whoever uses the model later cuts texts where training did.
    tokenizer.model_max_length = data.max_length
    folder = fresh_folder(workspace, "retrieval_model")
    save_video_text(folder, model, tokenizer, {"steps": finished.steps, "seed": seed, "start_sha256": start_key})
    return folder, finished.history, finished.summary()


def search_before_and_after(
    params: RetrievalParams,
    seed: int,
    retrieval_data: RetrievalData,
    model: Path,
    summary: dict[str, Any],
    workspace: Path,
) -> tuple[dict[str, Any], list[dict[str, Any]], list[RetrievalExample]]:
    """Search every set with the stage-2 model as it is, and with the fine-tuned one.

    Each sees a clip in the size that it was built for.

    Args:
        params: scores, batches.
        seed: of the run, for the records.
        retrieval_data: from :func:`gather_captions`.
        model: the fine-tuned model's folder.
        summary: of its training.
        workspace: folder for unfinished work, in which the features of an earlier run are found again.

    Returns:
        Metrics by set, model and score, with the summary of training; records with their protocols; a few queries with what was
        found.

    Raises:
        EvaluationError: features or scores are not finite, features cannot be written or read, or a process ended.
        TrainingError: another search is at work in the workspace.
    """
    data, test = retrieval_data, params.test
    load = functools.partial(_load, {ZERO_SHOT: data.start, FINE_TUNED: model}, test.pool)
    tested = {video_id for found in data.sets.values() for video_id in found.video_ids}
    clips = data.videos[data.videos["video_id"].isin(tested)].sort_values("video_id")
    records: list[Record] = []
    examples: list[RetrievalExample] = []
    with open_workplace(load(), workspace / "retrieval_features", load, test.nproc) as workplace:
        features = workplace.features(
            {"test clips": Part(clips["video_id"].tolist(), _encoders)},
            dict(zip(clips["video_id"], clips["sha256"], strict=True)),
            clip_loader(clips, data.media),
            batch_size=test.batch_size,
            threads=test.workers,
        )["test clips"]
        for found in data.sets.values():
            measured, shown = search(test, seed, found, data.captions, workplace, features, test.examples)
            records += measured
            examples += shown
    metrics = {"test": _by_set(records), "training": summary}
    return metrics, [record.model_dump(mode="json") for record in records], examples


@dataclass(frozen=True)
class _Models:
    video_text: Sequence[VideoTextEncoder]
    weights: Mapping[str, str]


def _load(folders: Mapping[str, Path], pool: PoolRule) -> _Models:
    models = []
    for name, folder in folders.items():
        network, tokenizer = load_video_text(folder)
        models.append(VideoTextEncoder(name, network.to(default_device()), tokenizer, keep_tokens=True, pool=pool))
    return _Models(models, {name: weights_sha256(folder) for name, folder in folders.items()})


def _encoders(models: _Models) -> Sequence[VideoTextEncoder]:
    return models.video_text


def _by_set(records: list[Record]) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Return the values of ``retrieval/<set>/<model>/<score>``, and what re-ranking took."""
    found: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for record in records:
        if record.protocol is None:
            continue
        _, name, model, score = record.task.split("/")
        cost = record.cost
        taken = {} if cost is None else {"pairs": float(cost.pairs), "pairs_per_second": cost.pairs_per_second}
        found.setdefault(name, {}).setdefault(model, {})[score] = {**record.values, **taken}
    return found
