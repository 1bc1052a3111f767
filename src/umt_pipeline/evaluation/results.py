"""What the report is made from.

Shape legend: T frames, H W pixels, N patches per frame, V visible tokens per clip.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from umt_pipeline.evaluation.params import CaptionRule


@dataclass(frozen=True)
class MaskPicture:
    """One clip of the feature store, to show what the student sees of it and why.

    Args:
        video_id: the clip's name.
        frames: uint8 RGB [T, H, W, 3], the view's pixels. If the store holds visible patches only, read them from the
            video with the recorded view.
        attention: float [T, N], the teacher's attention row that the mask was drawn from (any positive scale).
        visible: int [V], visible positions in [0, T * N), raster order t, h, w.
        grid: patches (rows, columns) of a frame; None means square.
    """

    video_id: str
    frames: np.ndarray
    attention: np.ndarray
    visible: np.ndarray
    grid: tuple[int, int] | None = None


@dataclass(frozen=True)
class RetrievalExample:
    """The best clips that one system found for one text query.

    Examples with the same (set, query_video_id, query) are shown together, one row per system.

    Args:
        set: the retrieval set, e.g. ``test`` or ``test_motion``.
        system: the system as in metric keys, with or without the score type: ``teacher``, ``stage2/dual`` ...
        query: the text.
        query_video_id: the clip that the text describes.
        top: video_ids, best first (the first five are shown).
        relevant: for each of ``top``, whether it is a right answer.
        rank: 1-based rank of the first right answer, when known.
    """

    set: str
    system: str
    query: str
    query_video_id: str
    top: Sequence[str]
    relevant: Sequence[bool]
    rank: int | None = None


@dataclass(frozen=True)
class ReportData:
    """What the report shows. Every field may be left out; mappings and tables may be empty.

    Args:
        title: title of the page.
        metrics: flat metrics, values in percent except ranks: ``probe/<knn|linear>/<task>/<encoder>``,
            ``retrieval/<set>/<system>/<score>/<t2v|v2t>_<r1|r5|r10|medr|meanr>``, ``agreement/<set>/<system>/<task>``.
        records: one mapping per number or group of numbers with its protocol.
        notes: sentences about what was skipped and why.
        videos, captions, labels, rejects: the clean tables (see ``umt_pipeline.schemas``), the first without images.
        ingestion: counts of the ingestion, ``tables: {<table>: {rows_in, accepted, rejected}}``, ``media`` and ``corpora``.
        teacher_history, stage1_history, stage2_history, stage2_control_history: one row per logged step with ``step``,
            ``loss``, the loss parts, ``lr``, ``grad_norm``, ``clips_per_s``, ``data_wait``.
        teacher_metrics, stage1_metrics, stage2_metrics: flat or nested numbers of each stage.
        features: the feature store's report (rows, clips, views, bytes per clip-view, codec error ...).
        masks: clips to show with attention and mask (the first six are shown).
        examples: retrieval examples, see :class:`RetrievalExample`.
        clips: frames of every clip named in ``examples``: video_id -> uint8 RGB [T, H, W, 3].
        test_split: the split that probes are reported on.
        caption_rule: which captions of a clip were retrieval queries.
        motion_tasks: label tasks that a single frame cannot show; the rest is "appearance" for the oracle row.
        provenance: git commit, DVC stage, MLflow run ids, hashes of stores and models, nested as you like.
        parameters: all parameters of the run.
    """

    title: str = "Unmasked Teacher pipeline: report"
    metrics: Mapping[str, float] = field(default_factory=dict)
    records: Sequence[Mapping[str, Any]] = ()
    notes: Sequence[str] = ()
    videos: pd.DataFrame | None = None
    captions: pd.DataFrame | None = None
    labels: pd.DataFrame | None = None
    rejects: pd.DataFrame | None = None
    ingestion: Mapping[str, Any] | None = None
    teacher_history: pd.DataFrame | None = None
    stage1_history: pd.DataFrame | None = None
    stage2_history: pd.DataFrame | None = None
    stage2_control_history: pd.DataFrame | None = None
    teacher_metrics: Mapping[str, Any] | None = None
    stage1_metrics: Mapping[str, Any] | None = None
    stage2_metrics: Mapping[str, Any] | None = None
    features: Mapping[str, Any] | None = None
    masks: Sequence[MaskPicture] = ()
    examples: Sequence[RetrievalExample] = ()
    clips: Mapping[str, np.ndarray] = field(default_factory=dict)
    test_split: str = "test"
    caption_rule: CaptionRule = "first"
    motion_tasks: Sequence[str] = ("motion",)
    provenance: Mapping[str, Any] | None = None
    parameters: Mapping[str, Any] | None = None
