"""The page of one task: classification, question answering, or any other that has records.

A pipeline says what is to be seen in sections of blocks; :func:`with_frames` adds the clips that they show, and
:func:`render_task_page` contents, protocol and provenance.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from umt_pipeline.core.errors import VideoError
from umt_pipeline.reports.examples import Example, clips_of, film_styles
from umt_pipeline.reports.figures import Curves, Picture
from umt_pipeline.reports.frame import as_yaml, render
from umt_pipeline.reports.protocols import protocol_card
from umt_pipeline.reports.tables import Bar, Heading, Table, Tile, facts

logger = logging.getLogger(__name__)

Block = Heading | Table | Curves | Picture | Example


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Args:
        title: its title.
        blocks: what it shows, in order.
        explain: a sentence or two above them.
        missing: what it says where there is no block.
    """

    title: str
    blocks: Sequence[Block]
    explain: str = ""
    missing: str = "There is nothing to show."


@dataclass(frozen=True)
class TaskPage:
    """What the page of a task shows.

    Args:
        title: its title.
        summary: sentences of the opening paragraph.
        tiles: headline numbers: the model's, and beside it the control's and what chance gives.
        bars: comparisons, as (title, bars in percent).
        notes: what was skipped and why.
        sections: in order.
        records: each number with its protocol, as :class:`umt_pipeline.evaluation.records.Record` dumps them.
        clips: frames of the clips that examples show: video_id -> uint8 RGB [T, H, W, 3]. One without frames is only named.
        provenance: code, runs, models; nested as you like.
        parameters: of the pipeline.
    """

    title: str
    summary: Sequence[str] = ()
    tiles: Sequence[Tile] = ()
    bars: Sequence[tuple[str, Sequence[Bar]]] = ()
    notes: Sequence[str] = ()
    sections: Sequence[Section] = ()
    records: Sequence[Mapping[str, Any]] = ()
    clips: Mapping[str, np.ndarray] = field(default_factory=dict)
    provenance: Mapping[str, Any] | None = None
    parameters: Mapping[str, Any] | None = None


def clips_shown(sections: Sequence[Section]) -> list[str]:
    """Return the names of the clips whose frames the sections show, in the order of the page."""
    return clips_of(block for section in sections for block in section.blocks if isinstance(block, Example))


def with_frames(page: TaskPage, load: Callable[[str], np.ndarray]) -> TaskPage:
    """Return the page with frames of all clips that it shows; one that cannot be read is only named.

    Args:
        page: without ``clips``.
        load: reads uint8 RGB [T, H, W, 3] of a clip, or raises :class:`VideoError`.
    """
    clips = {}
    for video_id in clips_shown(page.sections):
        try:
            clips[video_id] = load(video_id)
        except VideoError as error:
            logger.warning("%s: no picture of clip %s: %s", page.title, video_id, error)
    return replace(page, clips=clips)


def render_task_page(page: TaskPage) -> str:
    """Return the page as one HTML file that needs no other file and no network; the same input gives the same bytes."""
    film_css, styles = film_styles(clips_shown(page.sections), page.clips)
    parts = [_part(place, section) for place, section in enumerate(page.sections)]
    contents = [(part["id"], part["title"]) for part in parts]
    results = [("results", "Results")] if page.bars else []
    return render(
        "task.html.j2",
        title=page.title,
        summary=list(page.summary),
        nothing="There are no numbers to sum up: nothing was measured.",
        tiles=list(page.tiles),
        notes=list(page.notes),
        sections=[*results, *contents, ("protocol", "Protocol"), ("provenance", "Run, data, parameters")],
        film_css=film_css,
        styles=styles,
        bars=list(page.bars),
        parts=parts,
        cards=[protocol_card(record) for record in page.records],
        provenance=facts("Where this page comes from", page.provenance),
        parameters=as_yaml(page.parameters),
    )


def _part(place: int, section: Section) -> dict[str, Any]:
    # The place keeps two sections with the same letters apart.
    name = re.sub(r"[^a-z0-9]+", "-", section.title.lower()).strip("-")
    return {
        "id": f"{name}-{place}", "title": section.title, "explain": section.explain, "blocks": list(section.blocks),
        "missing": section.missing,
    }  # fmt: skip
