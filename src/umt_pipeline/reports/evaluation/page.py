"""The report page: everything a run has to show in one self-contained HTML file.

``render_report(ReportData(...))`` is a pure function of its input. Every part of the input may be missing; its section
then says that it was not run. All numbers and sentences are derived from the data, none is written by hand.

Shape legend: T frames, H W pixels, N patches per frame, V visible tokens per clip.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from umt_pipeline.evaluation.results import MaskPicture, ReportData, RetrievalExample
from umt_pipeline.reports import figures
from umt_pipeline.reports.evaluation import tables
from umt_pipeline.reports.evaluation.chance import chance_agreement, majority_share
from umt_pipeline.reports.evaluation.found import is_hit, shown_example
from umt_pipeline.reports.evaluation.headline import (
    MetricTree,
    References,
    bar_groups,
    clips_in,
    reference_rows,
    summary,
    tiles,
)
from umt_pipeline.reports.examples import Example, clips_of, film_styles
from umt_pipeline.reports.frame import as_yaml, render
from umt_pipeline.reports.tables import Table, facts, record_table

__all__ = ["MaskPicture", "ReportData", "RetrievalExample", "render_report"]

_PROBES = {"linear": "Linear probe", "knn": "Nearest neighbours", "attentive": "Attentive probe"}
_RETRIEVAL_COLUMNS = [f"{way}_{metric}" for way in ("t2v", "v2t") for metric in ("r1", "r5", "r10", "medr", "meanr")]
_EXAMPLES_OF_A_KIND = 4  # hits, and as many misses, per retrieval set
_MASKS_SHOWN = 6
_MASK_SIDE = 112
_SECTIONS = (
    ("results", "Results"),
    ("training", "Training"),
    ("masks", "Masks and attention"),
    ("examples", "Retrieval examples"),
    ("ingestion", "Data"),
    ("store", "Feature store"),
    ("protocol", "Protocol"),
    ("provenance", "Run, data, parameters"),
)


def render_report(data: ReportData) -> str:
    """Return the report as one HTML page that needs no other file and no network.

    The same input gives the same page, byte for byte. All text of the input is escaped.

    Raises:
        ValueError: a mask picture's attention does not fit its frames.
    """
    probes = tables.metric_tree(data.metrics, "probe")
    retrieval = tables.metric_tree(data.metrics, "retrieval")
    agreement = tables.metric_tree(data.metrics, "agreement")
    references = {name: reference_rows(data, name) for name in retrieval}
    examples = _examples(_choose_examples(data))
    film_css, styles = film_styles(clips_of(e for shown in examples.values() for e in shown), data.clips)
    return render(
        "report.html.j2",
        sections=_SECTIONS,
        title=data.title,
        nothing="There are no numbers to sum up: neither ingestion nor evaluation was run.",
        notes=list(data.notes),
        summary=summary(data, probes, retrieval, references),
        tiles=tiles(data, probes, retrieval, references),
        bars=bar_groups(data, probes, retrieval, references),
        probe_tables=_probe_tables(data, probes),
        retrieval_tables=_retrieval_tables(data, retrieval, references),
        agreement_tables=_agreement_tables(data, agreement),
        curves=_curves(data),
        masks=_masks(data.masks),
        film_css=film_css,
        styles=styles,
        examples=examples,
        counts=tables.count_table(data.ingestion),
        reasons=tables.reason_table(data.rejects),
        rejects=tables.reject_table(data.rejects),
        rejects_known=data.rejects is not None,
        corpora=tables.corpora_table(data.ingestion),
        corpus=tables.corpus_table(data.videos),
        histograms=_histograms(data.videos),
        records=record_table(data.records),
        provenance=facts("Where this page comes from", data.provenance),
        parameters=as_yaml(data.parameters),
        features=facts("Feature store", data.features),
        stages=_stage_facts(data),
    )


# --- sections ---------------------------------------------------------------------------------------------------------


def _probe_tables(data: ReportData, probes: MetricTree) -> list[Table]:
    chance = majority_share(data.labels, data.videos, data.test_split)
    made = []
    for kind in [*(k for k in _PROBES if k in probes), *sorted(set(probes) - set(_PROBES))]:
        columns = tables.ordered_columns(probes[kind], ("shape", "colour", "size", *data.motion_tasks))
        caption = f"{_PROBES.get(kind, kind)}: accuracy on {data.test_split}, in percent"
        made.append(tables.metric_table(caption, probes[kind], columns, {"Most frequent label (chance)": chance}))
    return [table for table in made if table is not None]


def _retrieval_tables(data: ReportData, retrieval: MetricTree, references: References) -> list[Table]:
    made = []
    for name in sorted(retrieval):
        systems = retrieval[name]
        columns = tables.ordered_columns(systems, _RETRIEVAL_COLUMNS)
        caption = f"Retrieval on {name}, {clips_in(data, name)}: recall in percent, ranks in places"
        made.append(tables.metric_table(caption, systems, columns, references.get(name, {})))
    if made:
        made.append(tables.cost_table(data.records))
    return [table for table in made if table is not None]


def _agreement_tables(data: ReportData, agreement: MetricTree) -> list[Table]:
    made = []
    for name in sorted(agreement):
        columns = tables.ordered_columns(agreement[name], ("shape", "colour", "size", *data.motion_tasks))
        chance = {"Two clips drawn at random": chance_agreement(data.labels, data.videos, name)}
        caption = f"How often the first clip agrees with the described one on {name}, in percent"
        made.append(tables.metric_table(caption, agreement[name], columns, chance))
    return [table for table in made if table is not None]


def _curves(data: ReportData) -> list[tuple[str, tuple[str, ...], list[figures.Panel]]]:
    """Return (title, line labels, panels) of the three training stages; no panels where nothing was logged."""
    stages = (
        ("teacher", "Teacher", (("Teacher", data.teacher_history),)),
        ("stage1", "Stage 1: distillation", (("Stage 1", data.stage1_history),)),
        (
            "stage2",
            "Stage 2: video and text",
            (("From stage 1", data.stage2_history), ("From scratch (control)", data.stage2_control_history)),
        ),
    )
    made = []
    for key, title, histories in stages:
        there = [(label, rows) for label, rows in histories if rows is not None and not rows.empty]
        made.append((title, tuple(label for label, _ in there), figures.curve_panels(key, there) if there else []))
    return made


def _masks(pictures: Sequence[MaskPicture]) -> list[dict[str, Any]]:
    """Return the mask pictures as image addresses and the numbers for their texts."""
    made = []
    for picture in pictures[:_MASKS_SHOWN]:
        strips = figures.mask_strips(
            picture.frames, picture.attention, np.asarray(picture.visible), picture.grid, _MASK_SIDE
        )
        made.append(
            {
                "video_id": picture.video_id,
                "frames": len(picture.frames),
                "visible": len(picture.visible),
                "patches": int(picture.attention.size),
                "strips": [figures.data_address(strip, 75) for strip in strips],
            }
        )
    return made


def _histograms(videos: pd.DataFrame | None) -> list[figures.Panel]:
    if videos is None or videos.empty:
        return []
    named = (("duration_s", "seconds per clip"), ("num_frames", "frames per clip"), ("fps", "frames per second"))
    return [figures.histogram_panel(f"corpus-{c}", title, videos[c].to_numpy(dtype=float)) for c, title in named]


def _stage_facts(data: ReportData) -> list[Table]:
    named = (("Teacher", data.teacher_metrics), ("Stage 1", data.stage1_metrics), ("Stage 2", data.stage2_metrics))
    made = [facts(f"{title}: numbers of the stage", values) for title, values in named]
    return [table for table in made if table is not None]


# --- retrieval examples -----------------------------------------------------------------------------------------------


def _choose_examples(data: ReportData) -> dict[str, list[list[RetrievalExample]]]:
    """Return per set a few queries, each as its systems' examples in order, hits of the leading system first.

    The leading system is the last in order (stage 2, re-ranked if it was); it decides what is a hit.
    """
    grouped: dict[str, dict[tuple[str, str], list[RetrievalExample]]] = {}
    for example in data.examples:
        grouped.setdefault(example.set, {}).setdefault((example.query_video_id, example.query), []).append(example)
    chosen = {}
    for name in sorted(grouped):
        queries = [sorted(group, key=lambda e: tables.system_order(e.system)) for group in grouped[name].values()]
        hits = [group for group in queries if is_hit(group)]
        misses = [group for group in queries if not is_hit(group)]
        chosen[name] = hits[:_EXAMPLES_OF_A_KIND] + misses[:_EXAMPLES_OF_A_KIND]
    return chosen


def _examples(chosen: Mapping[str, Sequence[Sequence[RetrievalExample]]]) -> dict[str, list[Example]]:
    """Return the chosen examples as the page shows them, by set."""
    return {name: [shown_example(group) for group in groups] for name, groups in chosen.items()}
