"""Nodes of the evaluation pipeline.

Heavy imports stand inside the functions, so that listing pipelines stays quick; what the signatures name is imported
above, since Kedro reads the parameters' types from them.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel

from umt_pipeline.core.files import sha256_file
from umt_pipeline.evaluation.params import EvaluationParams
from umt_pipeline.evaluation.results import RetrievalExample


def evaluate_models(
    params: EvaluationParams,
    seed: int,
    raw_media: Path,
    videos: pd.DataFrame,
    captions: pd.DataFrame,
    labels: pd.DataFrame,
    teacher: Path,
    feature_store: Path,
    stage1_model: Path,
    stage2_model: Path,
    stage2_control_model: Path,
    workspace: Path,
) -> tuple[dict[str, float], list[dict[str, Any]], list[RetrievalExample]]:
    """Measure probes, retrieval and agreement on the held-out splits.

    Args:
        params: what to measure.
        seed: makes the untrained student.
        raw_media: folder that the videos' paths are relative to.
        videos: clean table of videos.
        captions: clean table of captions.
        labels: clean table of labels; may be empty.
        teacher: folder of the frozen teacher.
        feature_store: folder of the feature store, which says how the teacher was used.
        stage1_model: folder of the student.
        stage2_model: folder of the video-language model.
        stage2_control_model: the same trained from scratch, or a folder that says that it was skipped.
        workspace: folder for unfinished work, in which the features of an earlier run are found again.

    Returns:
        Flat metrics, records with their protocols, and retrieval examples for the report.
    """
    from umt_pipeline.evaluation.loading import ModelFolders, load_models
    from umt_pipeline.evaluation.suite import Tables, evaluate

    folders = ModelFolders(teacher, feature_store, stage1_model, stage2_model, stage2_control_model)
    tables = Tables(videos, captions, labels, raw_media)
    load = functools.partial(load_models, folders, seed)
    result = evaluate(params, seed, tables, load(), workspace / "evaluation_features", load)
    return result.metrics, [record.model_dump(mode="json") for record in result.records], result.examples


def write_report(
    params: EvaluationParams,
    parameters: dict[str, Any],
    raw_media: Path,
    videos: pd.DataFrame,
    captions: pd.DataFrame,
    labels: pd.DataFrame,
    feature_store: Path,
    metrics: dict[str, float],
    records: list[dict[str, Any]],
    retrieval_examples: list[RetrievalExample],
    rejects: pd.DataFrame,
    ingestion_report: dict[str, Any],
    teacher_history: pd.DataFrame,
    teacher_metrics: dict[str, Any],
    feature_report: dict[str, Any],
    stage1_history: pd.DataFrame,
    stage1_metrics: dict[str, Any],
    stage2_history: pd.DataFrame,
    stage2_control_history: pd.DataFrame,
    stage2_metrics: dict[str, Any],
) -> str:
    """Return the report page: numbers, curves, and pictures read from the videos and the feature store."""
    from umt_pipeline.evaluation.encoders import clip_loader
    from umt_pipeline.evaluation.examples import example_clips, mask_pictures
    from umt_pipeline.features.store import FeatureStore
    from umt_pipeline.reports.evaluation.page import ReportData, render_report

    store = FeatureStore(feature_store)
    return render_report(
        ReportData(
            metrics=metrics,
            records=records,
            notes=[f"{record['task']}: {record['note']}" for record in records if record.get("note")],
            videos=videos[videos["media"] == "video"],
            captions=captions,
            labels=labels,
            rejects=rejects,
            ingestion=ingestion_report,
            teacher_history=teacher_history,
            stage1_history=stage1_history,
            stage2_history=stage2_history,
            stage2_control_history=stage2_control_history,
            teacher_metrics=teacher_metrics,
            stage1_metrics=stage1_metrics,
            stage2_metrics=stage2_metrics,
            features=feature_report,
            masks=mask_pictures(store, videos, raw_media, params.mask_pictures),
            examples=retrieval_examples,
            clips=example_clips(retrieval_examples, clip_loader(videos, raw_media), store.manifest.view),
            test_split=params.test_split,
            caption_rule=params.caption,
            provenance=_provenance(feature_store, records),
            parameters=_plain(parameters),
        )
    )


def _provenance(feature_store: Path, records: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what ties the page to code, data and models."""
    from umt_pipeline.features.store import MANIFEST_FILE
    from umt_pipeline.tracking import page_provenance

    protocols = [record["protocol"] for record in records if record.get("protocol")]
    weights = {protocol["model"]: protocol["checkpoint_sha256"] for protocol in protocols}
    return {
        **page_provenance(records),
        "feature_store_manifest_sha256": sha256_file(feature_store / MANIFEST_FILE),
        "weights_sha256": {model: sha256 for model, sha256 in sorted(weights.items()) if sha256},
    }


def _plain(value: Any) -> Any:
    """Return parameters as plain dictionaries: Kedro has turned the typed ones into models."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value
