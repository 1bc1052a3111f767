"""What a page is: headline tiles, then sections of typed blocks. :func:`umt_pipeline.reports.render.render` makes it HTML.

A page is data: whoever makes one says what is to be seen, not how. Functions that make blocks may return None where there is
nothing to see; sections leave that out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# Frames of what an example names: uint8 RGB [T, H, W, 3]. Raises VideoError; what cannot be read is only named.
FrameLoader = Callable[[str], np.ndarray]


@dataclass(frozen=True)
class Heading:
    """A heading within a section."""

    text: str


@dataclass(frozen=True)
class Text:
    """A sentence or two in small print, or (``missing``) what is said in place of a block that is not there."""

    text: str
    missing: bool = False


@dataclass(frozen=True)
class Code:
    """Text as it is written, such as parameters."""

    text: str


@dataclass(frozen=True)
class Fold:
    """Blocks that a reader has to open."""

    title: str
    blocks: Sequence[Block | None]


# --- numbers ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Cell:
    """A table cell: its text, a longer text to show on hover, and a style (``best bad code long`` or none)."""

    text: str
    title: str = ""
    style: str = ""


@dataclass(frozen=True)
class Row:
    """A table row: its header, the cells, and a style (``reference`` for rows that no model made, or none)."""

    head: Cell
    cells: tuple[Cell, ...]
    style: str = ""


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        caption: its title.
        head: column heads; the first stands over the row heads.
        rows: its rows.
        note: a sentence below it.
        groups: heads over neighbouring columns as (text, columns), beginning after the row heads.
        words: whether its cells are texts rather than numbers.
    """

    caption: str
    head: tuple[str, ...]
    rows: tuple[Row, ...]
    note: str = ""
    groups: tuple[tuple[str, int], ...] = ()
    words: bool = False


@dataclass(frozen=True)
class Bar:
    """One bar of a comparison: label, percent, whether it is a reference rather than a model, and what to write for percent."""

    label: str
    value: float
    reference: bool = False
    text: str = ""


@dataclass(frozen=True)
class Bars:
    """Comparisons, each with a title."""

    groups: Sequence[tuple[str, Sequence[Bar]]]


@dataclass(frozen=True)
class Tile:
    """One headline number: label, value, and what to compare it with."""

    label: str
    value: str
    beside: Sequence[str] = ()


@dataclass(frozen=True)
class Card:
    """What was measured, its (name, value) pairs, how it was measured as (name, cell) pairs, and a note."""

    title: str
    values: Sequence[tuple[str, str]]
    facts: Sequence[tuple[str, Cell]]
    note: str = ""


@dataclass(frozen=True)
class Cards:
    """Cards beside each other."""

    cards: Sequence[Card]


# --- pictures ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Panel:
    """One small figure: a title and inline SVG that is safe to put into a page; ``wide``: it has a line of its own."""

    title: str
    svg: str
    wide: bool = False


@dataclass(frozen=True)
class Panels:
    """Small figures beside each other, the names of their lines, if there are several, and of grey lines behind them."""

    panels: Sequence[Panel]
    lines: Sequence[str] = ()
    behind: str = ""


@dataclass(frozen=True)
class Picture:
    """A picture as a ``data:`` address, and what it shows, for those who cannot see it."""

    address: str
    about: str


@dataclass(frozen=True)
class Strips:
    """Rows of frames below each other, as (label, picture): a clip, and what is made of the same frames."""

    title: str
    detail: str
    rows: Sequence[tuple[str, Picture]]


# --- examples ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Film:
    """A clip to show: its name, and whether it is a right answer (None for the clip that an example is about)."""

    video_id: str
    right: bool | None = None


@dataclass(frozen=True)
class Said:
    """An answer.

    Attributes:
        who: the model, or "The truth".
        text: the answer.
        right: whether that is right; None if it is not to be judged.
        note: in small print, such as a score.
        films: clips that are the answer, best first.
    """

    who: str
    text: str = ""
    right: bool | None = None
    note: str = ""
    films: tuple[Film, ...] = ()


@dataclass(frozen=True)
class Example:
    """One example: a clip, and everybody's answer.

    Attributes:
        head: the question, or what there is to see.
        film: the clip that it is about.
        said: the answers.
        verdict: a word before ``head``, such as "hit".
        good: whether that is a good one.
        about: what ``film`` is called.
    """

    head: str
    film: Film
    said: tuple[Said, ...]
    verdict: str = ""
    good: bool = False
    about: str = "the clip"

    @property
    def films(self) -> list[Film]:
        """All clips that it shows."""
        return [*(film for said in self.said for film in said.films), self.film]


# --- files ------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Shot:
    """A file: its frames, or a box that says why they are not there.

    Attributes:
        film: the name that its frames are read by; empty: they are not to be read.
        name: the file, as people know it.
        head: what is said of it first, such as a caption.
        note: what is said of it in small print.
        unseen: what the box says where frames are not to be read.
    """

    film: str
    name: str
    head: str = ""
    note: str = ""
    unseen: str = ""


@dataclass(frozen=True)
class Gallery:
    """Files beside each other."""

    shots: Sequence[Shot]


Block = Heading | Text | Code | Fold | Table | Bars | Cards | Panels | Picture | Strips | Example | Gallery


# --- the page ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        title: its title.
        blocks: what it shows, in order.
        explain: a sentence or two above them.
        missing: what it says where there is no block.
    """

    title: str
    blocks: Sequence[Block | None]
    explain: str = ""
    missing: str = "There is nothing to show."


@dataclass(frozen=True)
class Page:
    """What a page shows. The protocol of each record, provenance and parameters are added when it is rendered.

    Attributes:
        title: its title.
        summary: sentences of the opening paragraph.
        tiles: headline numbers.
        notes: what was skipped and why.
        sections: in order.
        records: each number with its protocol, as :class:`umt_pipeline.evaluation.records.Record` dumps them; None: the page is
            about data, and no model is measured.
        apart: whether each sentence of the opening is a paragraph of its own.
        frames: reads what examples and galleries show.
    """

    title: str
    summary: Sequence[str] = ()
    tiles: Sequence[Tile] = ()
    notes: Sequence[str] = ()
    sections: Sequence[Section] = ()
    records: Sequence[Mapping[str, Any]] | None = ()
    frames: FrameLoader | None = None
    apart: bool = False


def subsection(title: str, blocks: Sequence[Block | None], missing: str = "") -> list[Block]:
    """Return blocks below a heading of their own, or below it what is missing (nothing: then no heading either)."""
    there = [block for block in blocks if block is not None]
    if not there and missing:
        there = [Text(missing, missing=True)]
    return [Heading(title), *there] if there else []
