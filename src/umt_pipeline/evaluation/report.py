"""The report page: everything a run has to show in one self-contained HTML file.

``render_report(ReportData(...))`` is a pure function of its input. Every part of the input may be missing; its section
then says that it was not run. All numbers and sentences are derived from the data, none is written by hand.

Shape legend: T frames, H W pixels, N patches per frame, V visible tokens per clip.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import yaml

from umt_pipeline.evaluation import report_figures as figures
from umt_pipeline.evaluation import report_tables as tables
from umt_pipeline.evaluation.report_chance import chance_agreement, majority_share
from umt_pipeline.evaluation.report_data import MaskPicture, ReportData, RetrievalExample
from umt_pipeline.evaluation.report_headline import (
    MetricTree,
    References,
    bar_groups,
    clips_in,
    reference_rows,
    summary,
    tiles,
)
from umt_pipeline.evaluation.report_tables import Table

__all__ = ["MaskPicture", "ReportData", "RetrievalExample", "render_report"]

_PROBES = {"linear": "Linear probe", "knn": "Nearest neighbours", "attentive": "Attentive probe"}
_RETRIEVAL_COLUMNS = [f"{way}_{metric}" for way in ("t2v", "v2t") for metric in ("r1", "r5", "r10", "medr")]
_EXAMPLES_OF_A_KIND = 4  # hits, and as many misses, per retrieval set
_TOP_SHOWN = 5
_MASKS_SHOWN = 6
_MASK_SIDE = 112
_FILM_BUDGET = 1_700_000  # characters of all filmstrips; the page stays below 3 MB
_FILM_SIZES = tuple(figures.FrameSize(*size) for size in ((6, 64, 75), (6, 56, 55), (5, 40, 40), (4, 28, 30)))


@dataclass(frozen=True)
class _Film:
    """A clip in an example: CSS class of its filmstrip ("" when its frames are missing), name, right or wrong."""

    style: str
    video_id: str
    relevant: bool


@dataclass(frozen=True)
class _Answer:
    system: str
    rank: int | None
    films: tuple[_Film, ...]


@dataclass(frozen=True)
class _Query:
    text: str
    hit: bool
    described: _Film
    answers: tuple[_Answer, ...]


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
    chosen = _choose_examples(data)
    film_css, film_styles = _films(chosen, data.clips)
    return _template().render(
        title=data.title,
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
        examples=_examples(chosen, film_styles),
        counts=tables.count_table(data.ingestion),
        reasons=tables.reason_table(data.rejects),
        rejects=tables.reject_table(data.rejects),
        rejects_known=data.rejects is not None,
        corpora=tables.corpora_table(data.ingestion),
        corpus=tables.corpus_table(data.videos),
        histograms=_histograms(data.videos),
        records=tables.record_table(data.records),
        provenance=tables.facts("Where this page comes from", data.provenance),
        parameters=_yaml(data.parameters),
        features=tables.facts("Feature store", data.features),
        stages=_stage_facts(data),
    )


def _template() -> jinja2.Template:
    text = resources.files("umt_pipeline.evaluation").joinpath("templates/report.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(text)


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
        columns = [c for c in tables.ordered_columns(systems, _RETRIEVAL_COLUMNS) if not c.endswith("meanr")]
        caption = f"Retrieval on {name}, {clips_in(data, name)}: recall in percent, median rank in places"
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
    made = [tables.facts(f"{title}: numbers of the stage", values) for title, values in named]
    return [table for table in made if table is not None]


def _yaml(parameters: Mapping[str, Any] | None) -> str:
    if not parameters:
        return ""
    plain = json.loads(json.dumps(dict(parameters), default=str))
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100)


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
        hits = [group for group in queries if _is_hit(group)]
        misses = [group for group in queries if not _is_hit(group)]
        chosen[name] = hits[:_EXAMPLES_OF_A_KIND] + misses[:_EXAMPLES_OF_A_KIND]
    return chosen


def _is_hit(group: Sequence[RetrievalExample]) -> bool:
    leader = group[-1]
    return leader.rank == 1 if leader.rank is not None else any(leader.relevant[:1])


def _films(
    chosen: Mapping[str, Sequence[Sequence[RetrievalExample]]], clips: Mapping[str, np.ndarray]
) -> tuple[str, dict[str, str]]:
    """Return style rules that hold each needed filmstrip once, and video_id -> class; many clips get smaller frames."""
    needed: dict[str, None] = {}
    for groups in chosen.values():
        for example in (example for group in groups for example in group):
            needed |= dict.fromkeys([*example.top[:_TOP_SHOWN], example.query_video_id])
    styles = {video: f"clip-{place}" for place, video in enumerate(v for v in needed if v in clips)}
    rules = ""
    for size in _FILM_SIZES:
        lines = []
        for video, style in styles.items():
            strip = figures.filmstrip(clips[video], size)
            address = figures.data_address(strip, size.quality)
            lines.append(
                f'.{style}{{aspect-ratio:{strip.shape[1]}/{strip.shape[0]};background-image:url("{address}")}}'
            )
        rules = "\n".join(lines)
        if len(rules) <= _FILM_BUDGET:
            break
    return rules, styles


def _examples(
    chosen: Mapping[str, Sequence[Sequence[RetrievalExample]]], styles: Mapping[str, str]
) -> list[tuple[str, list[_Query]]]:
    """Return the chosen examples with the style of each clip's filmstrip."""
    made = []
    for name, groups in chosen.items():
        queries = []
        for group in groups:
            answers = tuple(
                _Answer(
                    tables.system_name(example.system),
                    example.rank,
                    tuple(
                        _Film(styles.get(video, ""), video, bool(right))
                        for video, right in list(zip(example.top, example.relevant, strict=True))[:_TOP_SHOWN]
                    ),
                )
                for example in group
            )
            first = group[0]
            described = _Film(styles.get(first.query_video_id, ""), first.query_video_id, True)
            queries.append(_Query(first.query, _is_hit(group), described, answers))
        made.append((name, queries))
    return made
