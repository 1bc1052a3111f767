"""A page as one HTML file that needs no other file: its sections, the protocol of each number, and what it was made from."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from importlib import resources
from typing import Any

import jinja2
import numpy as np
import yaml
from pydantic import BaseModel

from umt_pipeline.core.errors import VideoError
from umt_pipeline.reports.figures import FrameSize, data_address, filmstrip
from umt_pipeline.reports.page import Block, Code, Example, Fold, Gallery, Page, Section, Text
from umt_pipeline.reports.protocols import protocol_section
from umt_pipeline.reports.tables import facts

logger = logging.getLogger(__name__)

_FILM_BUDGET = 1_700_000  # characters of all filmstrips; the page stays below 3 MB
_FILM_SIZES = tuple(FrameSize(*size) for size in ((6, 64, 75), (6, 56, 55), (5, 40, 40), (4, 28, 30)))
_STILL = 4  # the side of a single frame, as a multiple of that of each frame of a strip


def render(page: Page, provenance: Mapping[str, Any], parameters: Mapping[str, Any]) -> str:
    """Return the page as HTML; the same input gives the same bytes. All text is escaped.

    Args:
        page: what it shows.
        provenance: code, runs, data, models; nested as you like.
        parameters: all that it was made with.
    """
    protocols = [] if page.records is None else [protocol_section(page.records)]
    sections = [*page.sections, *protocols, _origin(provenance, parameters)]
    frames, unread = _frames(page, dict.fromkeys(film for block in _blocks(sections) for film in _films(block)))
    film_css, films = film_styles(frames)
    folder = resources.files("umt_pipeline.reports").joinpath("templates")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: folder.joinpath(name).read_text(encoding="utf-8")),
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["kind"] = lambda block: type(block).__name__
    environment.filters["unknown_block"] = _unknown_block
    return environment.get_template("page.html.j2").render(
        page=page,
        sections=list(zip(_names(section.title for section in sections), sections, strict=True)),
        film_css=film_css,
        films=films,
        unread=unread,
    )


def _unknown_block(kind: str) -> str:
    raise TypeError(f"templates/page.html.j2: show_blocks has no markup for a block of kind {kind}")


def film_styles(clips: Mapping[str, np.ndarray]) -> tuple[str, dict[str, str]]:
    """Return style rules that hold each clip's filmstrip once, and video_id -> class; many clips get smaller frames.

    A clip of one frame is a picture, and larger.

    Args:
        clips: uint8 RGB [T, H, W, 3] by name.
    """
    rules = ""
    for size in _FILM_SIZES:
        lines = []
        for index, clip in enumerate(clips.values()):
            strip = filmstrip(clip, replace(size, side=_STILL * size.side) if len(clip) == 1 else size)
            address = data_address(strip, size.quality)
            lines.append(f'.clip-{index}{{aspect-ratio:{strip.shape[1]}/{strip.shape[0]};background-image:url("{address}")}}')
        rules = "\n".join(lines)
        if len(rules) <= _FILM_BUDGET:
            break
    return rules, {video_id: f"clip-{index}" for index, video_id in enumerate(clips)}


def _films(block: Block) -> list[str]:
    """Return the names of what a block shows frames of."""
    if isinstance(block, Example):
        return [film.video_id for film in block.films]
    return [shot.film for shot in block.shots if shot.film] if isinstance(block, Gallery) else []


def _frames(page: Page, video_ids: Iterable[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read the frames of clips; return those of clips that can be read, and what is wrong with the others."""
    clips: dict[str, np.ndarray] = {}
    unread: dict[str, str] = {}
    if page.frames is None:
        return clips, unread
    for video_id in video_ids:
        try:
            clips[video_id] = page.frames(video_id)
        except VideoError as error:
            logger.warning("%s: no picture of clip %s: %s", page.title, video_id, error)
            unread[video_id] = str(error)
    return clips, unread


def _blocks(parts: Iterable[Section | Fold]) -> Iterator[Block]:
    """Give all blocks, those in folds too."""
    for part in parts:
        for block in part.blocks:
            if isinstance(block, Fold):
                yield from _blocks([block])
            elif block is not None:
                yield block


def _names(titles: Iterable[str]) -> Iterator[str]:
    """Give each title in letters that an address may have, and no two the same."""
    seen: set[str] = set()
    for index, title in enumerate(titles):
        name = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
        name = f"{name}-{index}" if name in seen else name
        seen.add(name)
        yield name


def _origin(provenance: Mapping[str, Any], parameters: Mapping[str, Any]) -> Section:
    def plain(value: Any) -> Any:
        return value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)

    # As people write them.
    written = yaml.safe_dump(
        json.loads(json.dumps(dict(parameters), default=plain)), sort_keys=False, allow_unicode=True, width=100
    )
    how = (
        "To open the tracked runs: “make mlflow” in the project's folder. To see what a run was made of: dvc.lock at the same "
        "git commit; “dvc metrics diff” and “dvc plots diff” compare it with another."
    )
    table = facts("Where this page comes from", provenance)
    return Section("Run, data, parameters", [table, Text(how), Fold("All parameters", [Code(written)]) if parameters else None])
