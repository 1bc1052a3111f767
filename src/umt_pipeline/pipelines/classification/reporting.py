"""Node that shows what the test of the classifiers found."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from umt_pipeline.pipelines.classification.nodes import ClassificationData
from umt_pipeline.pipelines.classification.params import ClassificationParams
from umt_pipeline.reports.tables import keyed
from umt_pipeline.reports.task import render_task_page, with_frames
from umt_pipeline.tasks.classification.page import ClassificationResults, classification_page
from umt_pipeline.tracking import page_provenance
from umt_pipeline.video.action_views import evaluation_views, load_views


def report_classification(
    params: ClassificationParams,
    data: ClassificationData,
    metrics: dict[str, Any],
    records: list[dict[str, Any]],
    predictions: pd.DataFrame,
    confusion: str,
    history: pd.DataFrame,
    control_history: pd.DataFrame,
) -> str:
    """Return the page of the classification: numbers, curves, classes, confusion, and mistakes with their frames.

    Args:
        params: of the pipeline.
        data: from :func:`gather_tasks`.
        metrics: from :func:`evaluate_classifiers`, as are the next three.
        records: each number with its protocol.
        predictions: a row per task, model and video.
        confusion: SVG.
        history: rows of training, as is ``control_history``; without rows if there was no control.
        control_history: of the control.
    """
    results = ClassificationResults(
        metrics=metrics,
        records=records,
        predictions=predictions,
        confusion=confusion,
        histories={params.start: history, "control": control_history},
        training_labels={task: rows.train["label"].tolist() for task, rows in data.tasks.items()},
    )
    page = classification_page(results, page_provenance(records), params.model_dump(mode="json"))
    tested = keyed(pd.concat([rows.test for rows in data.tasks.values()]), "video_id")

    def load(video_id: str) -> np.ndarray:
        row = tested[video_id]
        size = int(row["num_frames"]), int(row["height"]), int(row["width"])
        return load_views(data.media / str(row["path"]), evaluation_views(params.fine_tuning.clip, 1, 1, *size))[0]

    return render_task_page(with_frames(page, load))
