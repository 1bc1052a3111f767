"""The whole evaluation: decode every clip once, probe, search, compare.

Shapes: S clips with features, C clips of a retrieval set, U distinct texts, E embedding width, G pairs.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from umt_pipeline import __version__
from umt_pipeline.evaluation.agreement import top1_agreement
from umt_pipeline.evaluation.attentive import LabelledTokens, attentive_probe
from umt_pipeline.evaluation.encoders import ClipEncoder, clip_loader
from umt_pipeline.evaluation.examples import choose_examples
from umt_pipeline.evaluation.feature_cache import Features
from umt_pipeline.evaluation.loading import Models
from umt_pipeline.evaluation.metrics import NoDataError
from umt_pipeline.evaluation.params import EvaluationParams, PoolRule
from umt_pipeline.evaluation.probes import LabelledFeatures, ProbeResult, knn_probe, linear_probe
from umt_pipeline.evaluation.records import Protocol, Record, flat_metrics, rows_sha256
from umt_pipeline.evaluation.results import RetrievalExample
from umt_pipeline.evaluation.retrieval import RetrievalSet, SystemScores, build_retrieval_set, dual_scores, dual_softmax
from umt_pipeline.evaluation.search import clips_with_features, search_protocol, search_record, video_text_scores
from umt_pipeline.evaluation.workers import default_device, require_devices
from umt_pipeline.evaluation.workplace import Part, Workplace, open_workplace
from umt_pipeline.video.views import ViewConfig, counter_hash

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tables:
    """The clean tables, and the folder that the videos' paths are relative to. Images are trained on, never measured on."""

    videos: pd.DataFrame
    captions: pd.DataFrame
    labels: pd.DataFrame
    media_root: Path

    def clips(self, split: str) -> list[str]:
        """Return the videos of a split, sorted."""
        wanted = (self.videos["split"] == split) & (self.videos["media"] == "video")
        return sorted(self.videos.loc[wanted, "video_id"])

    def label_of(self, task: str) -> dict[str, str]:
        """Return the label of each clip in one task."""
        rows = self.labels[self.labels["task"] == task]
        return dict(zip(rows["video_id"], rows["label"], strict=True))


@dataclass(frozen=True)
class EvaluationResult:
    """Flat metrics, their records (and notes on what was skipped), and retrieval examples for the report."""

    metrics: dict[str, float]
    records: list[Record]
    examples: list[RetrievalExample]


def evaluate(
    params: EvaluationParams,
    seed: int,
    tables: Tables,
    models: Models,
    folder: Path | None = None,
    load: Callable[[], Models] | None = None,
) -> EvaluationResult:
    """Measure everything that the data allow; what they do not allow gets a record with a note.

    Args:
        params: what to measure.
        seed: kept in the records.
        tables: the data.
        models: the models.
        folder: keeps the features, so that another evaluation of the same models and clips reads them; whatever else lies
            there is deleted. None: a temporary folder.
        load: loads the same models in another process; needed where ``params.nproc`` is not 1.

    Raises:
        EvaluationError: features or scores are not finite, features cannot be written or read, or ``text_length`` is more
            than a model can read.
        TrainingError: another evaluation is at work in ``folder``.
    """
    require_devices(params.nproc, "evaluation.nproc")
    for model in models.video_text:
        model.text_length(params.text_length)
    with open_workplace(models, folder, load, params.nproc) as workplace:
        return _evaluate(params, seed, tables, models, workplace)


def _evaluate(
    params: EvaluationParams, seed: int, tables: Tables, models: Models, workplace: Workplace[Models]
) -> EvaluationResult:
    records = [] if models.skipped is None else [Record(task="retrieval/control", note=models.skipped)]
    known = set(tables.labels["task"])
    tasks = [task for task in params.tasks if task in known]
    for task in params.tasks:
        if task not in known:
            found = ", ".join(sorted(known)) or "no task at all"
            records.append(Record(task=f"probe/{task}", note=f"the labels table has no task {task!r}; it has {found}"))
    fit, test = _features(params, tables, models, tasks, workplace)
    for task in tasks:
        records += _probe(params, seed, tables, models, task, fit, test)
    examples: list[RetrievalExample] = []
    for name in params.retrieval_sets:
        found_records, found_examples = _search(params, seed, tables, models, name, tasks, test, workplace)
        records += found_records
        examples += found_examples
    for record in records:
        if record.note:
            logger.warning("evaluation: %s: %s", record.task, record.note)
    return EvaluationResult(flat_metrics(records), records, examples)


# --- features ---------------------------------------------------------------------------------------------------------


def _features(
    params: EvaluationParams, tables: Tables, models: Models, tasks: Sequence[str], workplace: Workplace[Models]
) -> tuple[Features, Features]:
    """Return the features of the clips that probes are fitted and chosen on, and of those that are reported on."""
    labelled = set(tables.labels.loc[tables.labels["task"].isin(tasks), "video_id"])
    train, validation = (
        [video_id for video_id in tables.clips(split) if video_id in labelled]
        for split in (params.train_split, params.validation_split)
    )
    if params.max_train_clips is not None:
        train = sorted(train, key=lambda video_id: counter_hash("probe", video_id))[: params.max_train_clips]
    tested = {video_id for split in params.retrieval_sets for video_id in tables.clips(split)}
    if tasks:
        tested.update(tables.clips(params.test_split))
    parts = {"clips to fit probes on": train + validation, "test clips": sorted(tested)}
    videos = tables.videos[tables.videos["video_id"].isin([*train, *validation, *tested])]
    contents = dict(zip(videos["video_id"], videos["sha256"], strict=True))
    attend = params.attentive is not None and bool(tasks)
    features = workplace.features(
        {
            title: Part(video_ids, functools.partial(_encoders, params.pool, attend, title == "test clips"))
            for title, video_ids in parts.items()
        },
        contents,
        clip_loader(videos, tables.media_root),
        batch_size=params.batch_size,
        threads=params.workers,
    )
    fit, test = features.values()
    return fit, test


def _encoders(pool: PoolRule, attend: bool, test: bool, models: Models) -> list[ClipEncoder]:
    """Return the encoders of the test clips, or of those that probes are fitted on."""
    stage2 = [dataclasses.replace(models.stage2, keep_tokens=attend)]
    matchers = [dataclasses.replace(model, keep_tokens=True, pool=pool) for model in models.video_text]
    return [*models.frozen(attend), *(matchers if test else stage2)]


def _labelled(features: Features, name: str, video_ids: Sequence[str], label_of: Mapping[str, str]) -> LabelledFeatures:
    places, rows = features.select(video_ids)
    array = features.arrays[name][rows].float().numpy() if len(rows) else np.zeros((0, 1), dtype=np.float32)
    labels = np.array([label_of[video_ids[place]] for place in places], dtype=str)
    return LabelledFeatures(array, labels, failures=len(video_ids) - len(rows))


def _labelled_tokens(
    features: Features, name: str, video_ids: Sequence[str], label_of: Mapping[str, str]
) -> LabelledTokens:
    places, rows = features.select(video_ids)
    tokens = features.arrays[f"{name}/tokens"] if len(rows) else torch.zeros(0, 1, 1, dtype=torch.float16)
    labels = np.array([label_of[video_ids[place]] for place in places], dtype=str)
    return LabelledTokens(tokens, rows, labels, failures=len(video_ids) - len(rows))


# --- probes -----------------------------------------------------------------------------------------------------------


def _probe(
    params: EvaluationParams, seed: int, tables: Tables, models: Models, task: str, fit: Features, test: Features
) -> Iterator[Record]:
    """Run all probes on every encoder for one label task."""
    label_of = tables.label_of(task)
    asked = {*fit.video_ids, *fit.failures}
    parts = [
        [video_id for video_id in tables.clips(params.train_split) if video_id in label_of and video_id in asked],
        [video_id for video_id in tables.clips(params.validation_split) if video_id in label_of],
        [video_id for video_id in tables.clips(params.test_split) if video_id in label_of],
    ]
    splits = (params.train_split, params.validation_split, params.test_split)
    rows = [
        {"split": split, "video_id": video_id, "task": task, "label": label_of[video_id]}
        for split, video_ids in zip(splits, parts, strict=True)
        for video_id in video_ids
    ]
    facts: dict[str, Any] = {
        "split": params.test_split,
        "annotation_sha256": rows_sha256(rows),
        "clips": len(parts[2]),
        "failures": tuple(video_id for video_id in parts[2] if video_id in test.failures),
    }
    read = [len(fit.select(video_ids)[0]) for video_ids in parts[:2]]
    counts = {"train_clips": read[0], "train_failures": len(parts[0]) - read[0], "validation_clips": read[1]}
    sources = list(zip((fit, fit, test), parts, strict=True))
    for name, (model, encoder) in models.probed.items():
        attended = params.attentive is not None and name != "teacher_patch"
        for kind in ("knn", "linear", *(("attentive",) if attended else ())):
            key = f"probe/{kind}/{task}/{name}"
            try:
                result, given, chosen = _fit_probe(kind, params, seed, name, sources, label_of)
            except NoDataError as error:
                yield Record(task=key, note=str(error))
                continue
            facts["pool"] = "tokens" if kind == "attentive" else "clip"
            facts["settings"] = {**counts, **given, "classes": result.classes}
            facts["chosen"] = {**chosen, "validation_accuracy": result.validation_accuracy}
            note = None if read[1] else "no validation clip to choose on: the middle setting was taken"
            protocol = _protocol(seed, models, model, encoder.view, **facts)
            yield Record(task=key, values={"": result.accuracy}, protocol=protocol, note=note)


def _fit_probe(
    kind: str,
    params: EvaluationParams,
    seed: int,
    name: str,
    sources: Sequence[tuple[Features, Sequence[str]]],
    label_of: Mapping[str, str],
) -> tuple[ProbeResult, dict[str, float | str], dict[str, float]]:
    """Fit one probe on one encoder's features of the training, validation and test clips.

    Returns:
        What it found, its settings, and what was chosen among them.

    Raises:
        NoDataError: there is nothing to fit or to report.
    """
    if kind == "attentive":
        config = params.attentive
        assert config is not None
        tokens = [_labelled_tokens(features, name, video_ids, label_of) for features, video_ids in sources]
        started = time.perf_counter()
        result = attentive_probe(tokens[0], tokens[1], tokens[2], config, seed, default_device())
        logger.info("evaluation: attentive probe on %s took %.1f s", name, time.perf_counter() - started)
        given: dict[str, float | str] = {**config.model_dump(exclude={"lr"}), "lr": _listed(config.lr)}
        return result, given, {"lr": result.setting}
    train, validation, test = (_labelled(features, name, video_ids, label_of) for features, video_ids in sources)
    if kind == "knn":
        result = knn_probe(train, validation, test, params.knn)
        given = {"k": _listed(params.knn.k), "temperature": params.knn.temperature}
        return result, given, {"k": int(result.setting)}
    result = linear_probe(train, validation, test, params.linear)
    given = {"c": _listed(params.linear.c), "max_iterations": params.linear.max_iterations}
    return result, given, {"c": result.setting}


# --- retrieval --------------------------------------------------------------------------------------------------------


def _search(
    params: EvaluationParams,
    seed: int,
    tables: Tables,
    models: Models,
    name: str,
    tasks: Sequence[str],
    test: Features,
    workplace: Workplace[Models],
) -> tuple[list[Record], list[RetrievalExample]]:
    """Measure retrieval and agreement of every system on one set, and choose examples for the report."""
    try:
        data = build_retrieval_set(name, tables.clips(name), tables.captions, params.caption)
        systems = _systems(params, models, data, test, workplace)
    except NoDataError as error:
        return [Record(task=f"retrieval/{name}", note=str(error))], []
    views = {"teacher": models.teacher.view, **{model.name: model.view for model in models.video_text}}
    lengths = {model.name: model.text_length(params.text_length) for model in models.video_text}
    records: list[Record] = []
    if not models.teacher.teacher.has_text:
        note = f"the teacher {models.teacher.teacher.config.source!r} has no text tower: its frames cannot be searched by text"
        records.append(Record(task=f"retrieval/{name}/teacher/dual", note=note))
    for system in systems:
        protocol = search_protocol(
            params,
            seed,
            data,
            tables.captions,
            system,
            failures=test.failures,
            view=views[system.model],
            checkpoint_sha256=models.weights[system.model],
            text_length=lengths.get(system.model),
        )
        records.append(search_record(data, system, protocol))
        records += [_agreement(data, system, task, tables.label_of(task), protocol) for task in tasks]
    # The last score of stage 2, its best, decides what is a hit. The control is left out of the pictures, and so are the
    # scores that no search with one query can give.
    shown = [system for system in reversed(systems) if system.model != "control" and system.score != "dsl"]
    return records, choose_examples(data, shown, params.examples)


def _systems(
    params: EvaluationParams, models: Models, data: RetrievalSet, test: Features, workplace: Workplace[Models]
) -> list[SystemScores]:
    """Score all systems on one set: the teacher if it knows text, then every stage-2 model, which can also re-rank.

    Raises:
        NoDataError: no clip of the set has features.
        EvaluationError: a score is not a number.
    """
    places, rows = clips_with_features(data, test)
    clips = len(data.video_ids)
    systems: list[SystemScores] = []
    if models.teacher.teacher.has_text:
        video_SE = test.arrays["teacher_cls"][rows].numpy()
        if params.pool == "clip":
            video_SE = video_SE / np.maximum(np.linalg.norm(video_SE, axis=1, keepdims=True), 1e-12)
        dual = dual_scores("teacher", models.teacher.encode_text(data.texts), video_SE, places, clips)
        systems += [dual, dual_softmax(dual, params.dsl_temperature or models.teacher.temperature)]
    for model in models.video_text:
        systems += video_text_scores(params, model, data, test, workplace)
    return systems


def _agreement(
    data: RetrievalSet, system: SystemScores, task: str, label_of: Mapping[str, str], protocol: Protocol
) -> Record:
    key = f"agreement/{data.name}/{system.key.replace('/', '_')}/{task}"
    try:
        value, queries = top1_agreement(data, system, label_of)
    except NoDataError as error:
        return Record(task=key, note=str(error))
    rows = [{"video_id": video_id, "label": label_of.get(video_id)} for video_id in data.video_ids]
    sha256 = rows_sha256([{"retrieval": protocol.annotation_sha256}, *rows])
    labelled = protocol.model_copy(update={"annotation_sha256": sha256, "queries": queries})
    return Record(task=key, values={"": value}, protocol=labelled)


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _protocol(seed: int, models: Models, model: str, view: ViewConfig, **facts: Any) -> Protocol:
    return Protocol(
        frames=view.frames,
        resolution=view.size,
        model=model,
        checkpoint_sha256=models.weights[model],
        seed=seed,
        version=__version__,
        **facts,
    )
