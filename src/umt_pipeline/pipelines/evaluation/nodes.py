"""Nodes of the evaluation pipeline: collect what is measured and shown, measure, write the page."""

from __future__ import annotations

import functools
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from umt_pipeline.compute.machine import this_machine
from umt_pipeline.core.files import read_json, sha256_file, staged_folder, write_json
from umt_pipeline.core.identity import Identity, code_key, settings_of, work_folder
from umt_pipeline.evaluation.encoders import frame_loader
from umt_pipeline.evaluation.examples import RetrievalExample
from umt_pipeline.evaluation.loading import ModelFolders, load_models
from umt_pipeline.evaluation.params import EvaluationParams
from umt_pipeline.evaluation.records import dumped
from umt_pipeline.evaluation.suite import evaluate
from umt_pipeline.evaluation.tables import Tables
from umt_pipeline.evaluation.workers import default_device, work_precision
from umt_pipeline.features.manifest import MANIFEST_FILE, store_identity
from umt_pipeline.features.store import FeatureStore
from umt_pipeline.pipelines.numbers import headline_numbers
from umt_pipeline.pipelines.runs import content_keys, with_speeds, without_rows
from umt_pipeline.reports.evaluation.data import mask_pictures
from umt_pipeline.reports.evaluation.page import evaluation_page
from umt_pipeline.reports.evaluation.results import EvaluationResults, Prepared, Trained
from umt_pipeline.reports.render import render
from umt_pipeline.tracking import page_provenance

logger = logging.getLogger(__name__)

# Retrieval sets with a headline number: with more, `dvc exp show` does not fit a terminal of 160 columns.
_HEADLINE_SETS = 2


def gather_tables(raw_media: Path, videos: pd.DataFrame, captions: pd.DataFrame, labels: pd.DataFrame) -> Tables:
    """Collect the clean tables."""
    return Tables(videos, captions, labels, raw_media)


def gather_models(
    teacher: Path, feature_store: Path, stage1_model: Path, stage2_model: Path, stage2_control_model: Path
) -> ModelFolders:
    """Collect the folders of the models."""
    return ModelFolders(teacher, feature_store, stage1_model, stage2_model, stage2_control_model)


def evaluate_models(
    params: EvaluationParams, seed: int, tables: Tables, models: ModelFolders, workspace: Path
) -> tuple[dict[str, float], list[dict[str, Any]], pd.DataFrame, list[RetrievalExample], dict[str, Any]]:
    """Measure probes, retrieval and agreement on the held-out splits.

    The workspace keeps the features of an earlier run, to be found again.

    Returns:
        Flat metrics, records with their protocols, what was found item by item, retrieval examples for the page, and what
        re-ranking took; those of before if code, settings, data and models are those of before.
    """
    precision = work_precision(params)
    params = params.model_copy(update={"precision": precision})
    identity = Identity(settings_of(params), _inputs(tables, models, seed), code_key("evaluation.suite", "evaluation.loading"))
    folder = work_folder(workspace / "tests" / "evaluation", identity)
    found = folder / "evaluated"
    if found.is_dir():
        logger.info("%s: these models were evaluated on these data by this code before", folder)
    else:
        load = functools.partial(load_models, models, seed, precision)
        result = evaluate(params, seed, tables, load, workspace / "evaluation_features")
        records = dumped(result.records, this_machine(default_device()))
        shown = [asdict(example) for example in result.examples]
        content = {"metrics": result.metrics, "records": records, "examples": shown, "times": {"reranking": result.costs}}
        with staged_folder(found) as staged:
            write_json(staged / "results.json", content)
            result.evidence.to_parquet(staged / "evidence.parquet", index=False)
    evaluated = read_json(found / "results.json")
    evidence = pd.read_parquet(found / "evidence.parquet")
    examples = [RetrievalExample(**example) for example in evaluated["examples"]]
    return evaluated["metrics"], evaluated["records"], evidence, examples, evaluated["times"]


def evaluation_headline(params: EvaluationParams, records: list[dict[str, Any]]) -> dict[str, float]:
    """Return the numbers by which runs are compared: what probes read of each stage, and how stage 2 searches.

    A probe's is the mean over the label tasks. Of retrieval it is text-to-video R@1 of the dual encoder, on the first sets: all
    files of headlines together hold at most 15 numbers.
    """
    wanted = {f"s{number}_probe": f"probe/linear/*/stage{number}" for number in (1, 2)}
    wanted |= {f"r1_{name}": f"retrieval/{name}/stage2/dual/t2v_r1" for name in params.retrieval_sets[:_HEADLINE_SETS]}
    return headline_numbers(records, wanted)


def _inputs(tables: Tables, models: ModelFolders, seed: int) -> dict[str, str]:
    contents = {"videos": tables.videos, "captions": tables.captions, "labels": tables.labels}
    folders = {"teacher": models.teacher, "stage1": models.stage1, "stage2": models.stage2, "control": models.control}
    return {**content_keys({**contents, **folders}), "store": store_identity(models.feature_store), "seed": str(seed)}


def gather_prepared(
    rejects: pd.DataFrame,
    ingestion_report: dict[str, Any],
    feature_report: dict[str, Any],
    teacher_features_times: dict[str, Any],
    feature_store: Path,
) -> Prepared:
    """Collect what the page shows of ingestion and feature store."""
    took = teacher_features_times.get("features", {})
    images = {**feature_report.get("images", {}), **took.get("images", {})}
    sha256 = sha256_file(feature_store / MANIFEST_FILE)
    features = {**feature_report, **took, "images": images, "manifest_sha256": sha256}
    return Prepared(rejects, ingestion_report, features, feature_store)


def gather_trained(
    teacher_history: pd.DataFrame,
    teacher_metrics: dict[str, Any],
    stage1_history: pd.DataFrame,
    stage1_metrics: dict[str, Any],
    stage2_history: pd.DataFrame,
    stage2_control_history: pd.DataFrame,
    stage2_metrics: dict[str, Any],
    teacher_features_times: dict[str, Any],
    stage1_times: dict[str, Any],
    stage2_times: dict[str, Any],
) -> Trained:
    """Collect what the page shows of the stages; of times, those that there are."""
    histories = {
        "teacher": teacher_history, "stage1": stage1_history, "stage2": stage2_history, "control": stage2_control_history
    }  # fmt: skip
    times = {"teacher": teacher_features_times.get("teacher", {}), "stage1": stage1_times, **stage2_times}
    histories = {name: with_speeds(rows, times.get(name, {})) for name, rows in histories.items()}
    took = {"teacher": times["teacher"], "stage1": stage1_times, "stage2": stage2_times}
    metrics = {"teacher": teacher_metrics, "stage1": stage1_metrics, "stage2": stage2_metrics}
    return Trained(histories, metrics, {stage: without_rows(numbers) for stage, numbers in took.items()})


def write_report(
    params: EvaluationParams,
    parameters: dict[str, Any],
    tables: Tables,
    prepared: Prepared,
    trained: Trained,
    records: list[dict[str, Any]],
    retrieval_examples: list[RetrievalExample],
    evidence: pd.DataFrame,
    times: dict[str, Any],
) -> str:
    """Return the page: numbers, curves, and pictures read from the videos and the feature store."""
    store = FeatureStore(prepared.store)
    masks = mask_pictures(store, tables, params.mask_pictures)
    frames = frame_loader(tables.videos, tables.media_root, store.manifest.view)
    found = EvaluationResults(params, tables, prepared, trained, records, retrieval_examples, evidence, times["reranking"])
    protocols = [record["protocol"] for record in records if record["protocol"]]
    weights = {protocol["model"]: protocol["checkpoint_sha256"] for protocol in protocols if protocol["checkpoint_sha256"]}
    provenance = {**page_provenance(records), "weights_sha256": dict(sorted(weights.items()))}
    return render(evaluation_page(found, masks, frames), provenance, parameters)
