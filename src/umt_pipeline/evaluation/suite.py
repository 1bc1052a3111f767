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

import numpy as np
import pandas as pd
import torch

from umt_pipeline.evaluation.agreement import top1_agreement
from umt_pipeline.evaluation.attentive import ClipTokens, attentive_probe
from umt_pipeline.evaluation.encoders import ClipEncoder, clip_loader
from umt_pipeline.evaluation.evidence import CORRECT, evidence_rows, joined
from umt_pipeline.evaluation.examples import RetrievalExample, choose_examples, moved_query
from umt_pipeline.evaluation.feature_cache import Features
from umt_pipeline.evaluation.loading import Models
from umt_pipeline.evaluation.metrics import NoDataError
from umt_pipeline.evaluation.params import EvaluationParams, PoolRule
from umt_pipeline.evaluation.probes import Labelled, ProbeResult, knn_probe, linear_probe
from umt_pipeline.evaluation.records import Protocol, Record, flat_metrics, rows_sha256
from umt_pipeline.evaluation.retrieval import RetrievalSet, build_retrieval_set, dual_scores, dual_softmax
from umt_pipeline.evaluation.search import (
    Orders,
    Searched,
    Searcher,
    choice_costs,
    clips_with_features,
    rerank_orders,
    search,
    search_costs,
    searched,
    validation_set,
)
from umt_pipeline.evaluation.tables import Tables
from umt_pipeline.evaluation.workers import default_device, require_devices
from umt_pipeline.evaluation.workplace import Part, Workplace, open_workplace
from umt_pipeline.video.views import counter_hash

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationResult:
    """Flat metrics, their records (and notes on what was skipped), what they are made of, examples, and what re-ranking took.

    The costs are those of :func:`umt_pipeline.evaluation.search.search_costs`.
    """

    metrics: dict[str, float]
    records: list[Record]
    evidence: pd.DataFrame
    examples: list[RetrievalExample]
    costs: dict[str, dict[str, float]]


@dataclass(frozen=True)
class _Measured:
    """A record, and the items that its values are made of; None where it has no values."""

    record: Record
    evidence: pd.DataFrame | None = None


def evaluate(
    params: EvaluationParams,
    seed: int,
    tables: Tables,
    load: Callable[[], Models],
    folder: Path,
) -> EvaluationResult:
    """Measure everything that the data allow; what they do not allow gets a record with a note.

    Args:
        params: what to measure.
        seed: kept in the records.
        tables: the data.
        load: loads the models, in each process.
        folder: keeps the features, so that another evaluation of the same models and clips reads them; whatever else lies
            there is deleted.

    Raises:
        ConfigError: the weight of re-ranking is to be chosen on a split without captions.
        EvaluationError: features or scores are not finite, features cannot be written or read, or ``text_length`` is more
            than a model can read.
        TrainingError: another evaluation is at work in ``folder``.
    """
    require_devices(params.nproc, "evaluation.nproc")
    validation = None
    if params.retrieval_sets:
        validation = validation_set(params, "evaluation", tables.clips(params.validation_split), tables.captions)
    with open_workplace(load, folder, params.nproc) as workplace:
        for model in workplace.models.video_text:
            model.text_length(params.text_length)
        return _evaluate(_Work(params, seed, tables, workplace, validation))


@dataclass(frozen=True)
class _Work:
    """What is measured, with what, and where; ``validation``: what the weight of re-ranking is chosen on, if it is."""

    params: EvaluationParams
    seed: int
    tables: Tables
    workplace: Workplace[Models]
    validation: RetrievalSet | None

    @property
    def models(self) -> Models:
        return self.workplace.models

    @property
    def tasks(self) -> list[str]:
        """The label tasks that there are labels for."""
        known = set(self.tables.labels["task"])
        return [task for task in self.params.tasks if task in known]


def _evaluate(work: _Work) -> EvaluationResult:
    params, models = work.params, work.models
    found = [] if models.skipped is None else [_Measured(Record(task="retrieval/control", note=models.skipped))]
    for task in params.tasks:
        if task not in work.tasks:
            known = ", ".join(sorted(set(work.tables.labels["task"]))) or "no task at all"
            note = f"the labels table has no task {task!r}; it has {known}"
            found.append(_Measured(Record(task=f"probe/{task}", note=note)))
    fit, test, validation = _features(work)
    for task in work.tasks:
        found += _probe(work, task, fit, test)
    examples: list[RetrievalExample] = []
    orders = rerank_orders(params, "evaluation", work.workplace, validation)
    costs = choice_costs(params, orders)
    for name in params.retrieval_sets:
        of_set, examples_of_set, costs_of_set = _search(work, name, test, orders)
        found += of_set
        examples += examples_of_set
        costs |= costs_of_set
    records = [one.record for one in found]
    for record in records:
        if record.note:
            logger.warning("evaluation: %s: %s", record.task, record.note)
    evidence = joined(one.evidence for one in found if one.evidence is not None)
    return EvaluationResult(flat_metrics(records), records, evidence, examples, costs)


# --- features ---------------------------------------------------------------------------------------------------------
def _features(work: _Work) -> tuple[Features, Features, tuple[RetrievalSet, Features] | None]:
    """Return features of the clips that probes are fitted and chosen on, of those reported on, and of ``work.validation``."""
    params, tables = work.params, work.tables
    labelled = set(tables.labels.loc[tables.labels["task"].isin(work.tasks), "video_id"])
    train, validation = (
        [video_id for video_id in tables.clips(split) if video_id in labelled]
        for split in (params.train_split, params.validation_split)
    )
    if params.max_train_clips is not None:
        train = sorted(train, key=lambda video_id: counter_hash("probe", video_id))[: params.max_train_clips]
    tested = {video_id for split in params.retrieval_sets for video_id in tables.clips(split)}
    if work.tasks:
        tested.update(tables.clips(params.test_split))
    attend = params.attentive is not None and bool(work.tasks)
    parts: dict[str, Part[Models]] = {
        "clips to fit probes on": Part(train + validation, functools.partial(_fit_encoders, attend)),
        "test clips": Part(sorted(tested), functools.partial(_test_encoders, params.pool, attend)),
    }
    if work.validation is not None:
        # Apart, for probes do without the tokens that the matching head reads.
        parts["clips to choose a weight on"] = Part(work.validation.video_ids, functools.partial(_matchers, params.pool))
    used = {video_id for part in parts.values() for video_id in part.video_ids}
    videos = tables.videos[tables.videos["video_id"].isin(used)]
    features = work.workplace.features(
        parts,
        dict(zip(videos["video_id"], videos["sha256"], strict=True)),
        clip_loader(videos, tables.media_root),
        batch_size=params.batch_size,
        threads=params.workers,
    )
    fit, test, *others = features.values()
    return fit, test, None if work.validation is None else (work.validation, others[0])


def _fit_encoders(attend: bool, models: Models) -> list[ClipEncoder]:
    return [*models.frozen(attend), dataclasses.replace(models.stage2, keep_tokens=attend)]


def _test_encoders(pool: PoolRule, attend: bool, models: Models) -> list[ClipEncoder]:
    return [*models.frozen(attend), *_matchers(pool, models)]


def _matchers(pool: PoolRule, models: Models) -> list[ClipEncoder]:
    return [dataclasses.replace(model, keep_tokens=True, pool=pool) for model in models.video_text]


# --- probes -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Clips:
    """Clips of one split with a label in one task, and where their features are."""

    video_ids: Sequence[str]
    features: Features
    label_of: Mapping[str, str]

    @functools.cached_property
    def rows(self) -> np.ndarray:
        """The rows of those clips that have features."""
        return self.features.select(self.video_ids)[1]

    @property
    def labels(self) -> np.ndarray:
        clips, _ = self.features.select(self.video_ids)
        return np.array([self.label_of[self.video_ids[index]] for index in clips], dtype=str)

    @property
    def failures(self) -> int:
        """How many clips have no features."""
        return len(self.video_ids) - len(self.rows)

    def evidence(self, task: str, predicted: Sequence[str]) -> pd.DataFrame:
        """Return whether each clip's label was predicted; ``predicted`` is of those that have features."""
        clips, _ = self.features.select(self.video_ids)
        answers = np.full(len(self.video_ids), None, dtype=object)
        answers[clips] = predicted
        truths = np.array([self.label_of[video_id] for video_id in self.video_ids], dtype=object)
        return evidence_rows(task, CORRECT, self.video_ids, self.video_ids, answers == truths, answers, truths)

    def vectors(self, name: str) -> Labelled[np.ndarray]:
        """Return one encoder's vectors."""
        array = self.features.arrays[name][self.rows].float().numpy() if len(self.rows) else np.zeros((0, 1), dtype=np.float32)
        return Labelled(array, self.labels, self.failures)

    def tokens(self, name: str) -> Labelled[ClipTokens]:
        """Return one encoder's tokens."""
        tokens = self.features.arrays[f"{name}/tokens"] if len(self.rows) else torch.zeros(0, 1, 1, dtype=torch.float16)
        return Labelled(ClipTokens(tokens, self.rows), self.labels, self.failures)


def _probe(work: _Work, task: str, fit: Features, test: Features) -> Iterator[_Measured]:
    """Run all probes on every encoder for one label task."""
    params, label_of = work.params, work.tables.label_of(task)
    known = {*fit.video_ids, *fit.failures}  # not all of the training split, if there is a limit
    splits = ((params.train_split, fit), (params.validation_split, fit), (params.test_split, test))
    parts = [
        _Clips([video_id for video_id in work.tables.clips(split) if video_id in label_of], features, label_of)
        for split, features in splits
    ]
    parts[0] = dataclasses.replace(parts[0], video_ids=[video_id for video_id in parts[0].video_ids if video_id in known])
    train, validation, tested = parts
    annotation_sha256 = rows_sha256(
        {"split": split, "video_id": video_id, "task": task, "label": label_of[video_id]}
        for (split, _), part in zip(splits, parts, strict=True)
        for video_id in part.video_ids
    )
    counts = {"train_clips": len(train.rows), "train_failures": train.failures, "validation_clips": len(validation.rows)}
    for name, (model, encoder) in work.models.probed.items():
        attended = params.attentive is not None and name != "teacher_patch"
        for kind in ("knn", "linear", *(("attentive",) if attended else ())):
            key = f"probe/{kind}/{task}/{name}"
            try:
                result, given, chosen = _fit_probe(work, kind, name, parts)
            except NoDataError as error:
                yield _Measured(Record(task=key, note=str(error)))
                continue
            protocol = Protocol(
                split=params.test_split,
                annotation_sha256=annotation_sha256,
                clips=len(tested.video_ids),
                failures=tuple(video_id for video_id in tested.video_ids if video_id in test.failures),
                frames=encoder.view.frames,
                resolution=encoder.view.size,
                pool="tokens" if kind == "attentive" else "clip",
                precision=encoder.precision,
                settings={**counts, **given, "classes": result.classes},
                chosen={**chosen, "validation_accuracy": result.validation_accuracy},
                model=model,
                checkpoint_sha256=work.models.weights[model],
                seed=work.seed,
            )
            note = None if len(validation.rows) else "no validation clip to choose on: the middle setting was taken"
            record = Record(task=key, values={"": result.accuracy}, protocol=protocol, note=note)
            yield _Measured(record, tested.evidence(key, result.predicted))


def _fit_probe(
    work: _Work, kind: str, name: str, parts: Sequence[_Clips]
) -> tuple[ProbeResult, dict[str, float | str], dict[str, float]]:
    """Fit one probe on one encoder's features of the training, validation and test clips.

    Returns:
        What it found, its settings, and what was chosen among them.

    Raises:
        NoDataError: there is nothing to fit or to report.
    """
    params = work.params
    if kind == "attentive":
        config = params.attentive
        assert config is not None
        tokens = [part.tokens(name) for part in parts]
        started = time.perf_counter()
        result = attentive_probe(tokens[0], tokens[1], tokens[2], config, work.seed, default_device())
        logger.info("evaluation: attentive probe on %s took %.1f s", name, time.perf_counter() - started)
        given: dict[str, float | str] = {**config.model_dump(exclude={"lr"}), "lr": _listed(config.lr)}
        return result, given, {"lr": result.setting}
    train, validation, test = (part.vectors(name) for part in parts)
    if kind == "knn":
        result = knn_probe(train, validation, test, params.knn)
        given = {"k": _listed(params.knn.k), "temperature": params.knn.temperature}
        return result, given, {"k": int(result.setting)}
    result = linear_probe(train, validation, test, params.linear)
    given = {"c": _listed(params.linear.c), "max_iterations": params.linear.max_iterations}
    return result, given, {"c": result.setting}


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


# --- retrieval --------------------------------------------------------------------------------------------------------
def _search(
    work: _Work, name: str, test: Features, orders: Orders
) -> tuple[list[_Measured], list[RetrievalExample], dict[str, dict[str, float]]]:
    """Measure retrieval and agreement of every system on one set, choose examples for the report; say what re-ranking took."""
    params, tables, teacher = work.params, work.tables, work.models.teacher.teacher
    try:
        data = build_retrieval_set(name, tables.clips(name), tables.captions, params.caption)
        found = [*_search_by_teacher(work, data, test), *search(params, work.seed, data, work.workplace, test, orders)]
    except NoDataError as error:
        return [_Measured(Record(task=f"retrieval/{name}", note=str(error)))], [], {}
    measured: list[_Measured] = []
    if not teacher.has_text:
        note = f"the teacher {teacher.config.source!r} has no text tower: its frames cannot be searched by text"
        measured.append(_Measured(Record(task=f"retrieval/{name}/teacher/dual", note=note)))
    for one in found:
        measured.append(_Measured(one.record, one.evidence))
        measured += [_agreement(data, one, task, tables.label_of(task)) for task in work.tasks]
    # The last score of stage 2, its best, decides what is a hit. The control is left out of the pictures, and so are the
    # scores that no search with one query can give.
    systems = [one.system for one in reversed(found)]
    shown = [system for system in systems if system.model != "control" and system.score != "dsl"]
    by_key = {system.key: system for system in shown}
    moved = moved_query(data, by_key["stage2/dual"], by_key["stage2/reranked"]) if params.examples else None
    return measured, choose_examples(data, shown, params.examples, also=moved), search_costs(found)


def _search_by_teacher(work: _Work, data: RetrievalSet, test: Features) -> list[Searched]:
    """Search one set with the teacher's frames, if it knows text; without clips that have features raises NoDataError."""
    params, teacher = work.params, work.models.teacher
    clip_S, rows = clips_with_features(data, test)
    if not teacher.teacher.has_text:
        return []
    video_SE = test.arrays["teacher_cls"][rows].numpy()
    if params.pool == "clip":
        video_SE = video_SE / np.maximum(np.linalg.norm(video_SE, axis=1, keepdims=True), 1e-12)
    dual = dual_scores("teacher", teacher.encode_text(data.texts), video_SE, clip_S, len(data.video_ids))
    searcher = Searcher(teacher.view, work.models.weights["teacher"], teacher.precision)
    return [
        searched(params, work.seed, data, system, searcher, test.failures)
        for system in (dual, dual_softmax(dual, params.dsl_temperature or teacher.temperature))
    ]


def _agreement(data: RetrievalSet, found: Searched, task: str, label_of: Mapping[str, str]) -> _Measured:
    key = f"agreement/{data.name}/{found.system.key.replace('/', '_')}/{task}"
    try:
        agreement = top1_agreement(data, found.system, label_of)
    except NoDataError as error:
        return _Measured(Record(task=key, note=str(error)))
    rows = [{"video_id": video_id, "label": label_of.get(video_id)} for video_id in data.video_ids]
    sha256 = rows_sha256([{"retrieval": data.annotation_sha256}, *rows])
    assert found.record.protocol is not None
    protocol = found.record.protocol.model_copy(update={"annotation_sha256": sha256, "queries": len(agreement.query_L)})
    items = [data.query_ids[query] for query in agreement.query_L]
    videos = [data.video_ids[clip] for clip in data.query_clip_Q[agreement.query_L]]
    evidence = evidence_rows(key, CORRECT, items, videos, agreement.agrees_L, agreement.found_L, agreement.own_L)
    return _Measured(Record(task=key, values={"": agreement.value}, protocol=protocol), evidence)
