"""Node that shows what searching before and after fine-tuning found."""

from __future__ import annotations

from typing import Any

import pandas as pd

from umt_pipeline.evaluation.encoders import clip_loader
from umt_pipeline.evaluation.results import RetrievalExample
from umt_pipeline.pipelines.retrieval.nodes import RetrievalData
from umt_pipeline.pipelines.retrieval.params import RetrievalParams
from umt_pipeline.reports.evaluation.chance import random_retrieval
from umt_pipeline.reports.task import render_task_page, with_frames
from umt_pipeline.tasks.retrieval.page import RetrievalResults, retrieval_page
from umt_pipeline.tracking import page_provenance


def report_retrieval(
    params: RetrievalParams,
    retrieval_data: RetrievalData,
    metrics: dict[str, Any],
    records: list[dict[str, Any]],
    examples: list[RetrievalExample],
    history: pd.DataFrame,
) -> str:
    """Return the page of retrieval: numbers before and after, cost, curves, and queries with the clips that were found.

    Args:
        params: of the pipeline.
        retrieval_data: from :func:`gather_captions`.
        metrics: from :func:`search_before_and_after`, as are the next two.
        records: each number with its protocol.
        examples: queries with the best clips of both models.
        history: rows of training.
    """
    data = retrieval_data
    results = RetrievalResults(
        metrics=metrics,
        records=records,
        examples=examples,
        chance={name: random_retrieval(data.videos, data.captions, name, params.test.caption) for name in metrics["test"]},
        history=history,
        notes=[f"{record['task']}: {record['note']}." for record in records if record["note"]],
    )
    page = retrieval_page(results, page_provenance(records), params.model_dump(mode="json"))
    load = clip_loader(data.videos, data.media)
    return render_task_page(with_frames(page, lambda video_id: load(video_id, params.fine_tuning.view)))
