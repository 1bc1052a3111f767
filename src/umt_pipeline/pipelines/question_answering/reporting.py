"""Node that shows what the test of answers and choices found."""

from __future__ import annotations

from typing import Any

import pandas as pd

from umt_pipeline.evaluation.encoders import clip_loader
from umt_pipeline.pipelines.question_answering.nodes import QuestionData
from umt_pipeline.pipelines.question_answering.params import QuestionAnsweringParams
from umt_pipeline.reports.task import render_task_page, with_frames
from umt_pipeline.tasks.question_answering.page import QuestionResults, question_page
from umt_pipeline.tracking import page_provenance


def report_answers(
    params: QuestionAnsweringParams,
    question_data: QuestionData,
    metrics: dict[str, Any],
    records: list[dict[str, Any]],
    predictions: pd.DataFrame,
    history: pd.DataFrame,
    control_history: pd.DataFrame,
) -> str:
    """Return the page of question answering: numbers, curves, and examples with frames and everybody's answer.

    Args:
        params: of the pipeline.
        question_data: from :func:`gather_questions`.
        metrics: from :func:`ask`, as are the next two.
        records: each number with its protocol.
        predictions: a row per kind of question, split, model and question.
        history: rows of training, as is ``control_history``; without rows where nothing was trained.
        control_history: of the control.
    """
    results = QuestionResults(
        metrics=metrics,
        records=records,
        predictions=predictions,
        histories={"stage2": history, "control": control_history},
        types=params.test.types,
        notes=_notes(question_data, metrics),
    )
    page = question_page(results, page_provenance(records), params.model_dump(mode="json"))
    load = clip_loader(question_data.videos, question_data.media)
    return render_task_page(with_frames(page, lambda video_id: load(video_id, params.fine_tuning.view)))


def _notes(data: QuestionData, metrics: dict[str, Any]) -> list[str]:
    """Say what was left out."""
    notes = []
    if data.no_control is not None:
        notes.append(f"There is no control: {data.no_control}.")
    table = metrics["table"]
    if table["rejected"]:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in table["reasons"].items())
        notes.append(f"{table['rejected']:,} of {table['rows_in']:,} rows of the question table were rejected: {reasons}.")
    for split, count in metrics["answers"]["not_in_list"].items():
        if count:
            notes.append(f"The true answer to {count:,} open questions of {split} is not in the list: they count as wrong.")
    return notes
