"""Confusion matrices as one picture.

Shapes: L labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from umt_pipeline.reports.figures import svg_file
from umt_pipeline.tasks.classification.testing import UNREADABLE

# Up to so many labels are named, and their cells counted in figures; beyond, only colours can be told apart.
_NAMED = 24


@dataclass(frozen=True)
class Confusion:
    """A matrix to draw: counts [L, L + 1], a row per true label, a column per answer, unreadable videos last."""

    title: str
    labels: Sequence[str]
    counts: np.ndarray


def confusion_svg(confusions: Sequence[Confusion]) -> str:
    """Return one SVG file with a panel per matrix, two in a row; colour is the share of a row, the number in a cell its videos.

    The same counts give the same bytes. The column of unreadable videos is there only where there are any.
    """
    most = max(min(len(confusion.labels), _NAMED) for confusion in confusions)
    side = 2.2 + 0.32 * most
    columns = min(2, len(confusions))
    rows = -(-len(confusions) // columns)

    def paint(figure: Figure) -> None:
        for number, confusion in enumerate(confusions, start=1):
            _paint(figure.add_subplot(rows, columns, number), confusion)

    return svg_file("confusion", (side * columns, side * rows), paint)


def _paint(axes: Axes, confusion: Confusion) -> None:
    unreadable = bool(confusion.counts[:, -1].any())
    counts = confusion.counts if unreadable else confusion.counts[:, :-1]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
    axes.set_title(confusion.title)
    axes.set_xlabel("answer")
    axes.set_ylabel("label")
    if len(confusion.labels) > _NAMED:
        return
    columns = [*confusion.labels, UNREADABLE] if unreadable else list(confusion.labels)
    axes.set_xticks(range(len(columns)), columns, rotation=60, ha="right")
    axes.set_yticks(range(len(confusion.labels)), confusion.labels)
    for row, column in np.argwhere(counts):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour)
