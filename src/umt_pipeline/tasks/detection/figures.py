"""Detected actions as one picture: some key frames with their boxes, and each action's average precision.

Shapes: H W pixels.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image, ImageDraw, ImageFont

from umt_pipeline.core.errors import VideoError
from umt_pipeline.reports.figures import svg_file
from umt_pipeline.tasks.detection.boxes import BOX, FRAME
from umt_pipeline.tasks.detection.testing import true_actions
from umt_pipeline.tasks.detection.training import locate
from umt_pipeline.video.reader import read_frames

# x1, y1, x2, y2 as shares of the frame.
Box = tuple[float, float, float, float]
# Key frames shown, actions named at a box, and the longest side of a frame in the file.
FRAMES = 6
NAMED = 3
_SIDE = 256
# Bars of more actions than these could not be told apart: only the mean is written.
_BARS = 80
_COLOURS = ("#3b6ea5", "#c98b3d", "#9a9a9a")
_TRUE, _FOUND = "#ffffff", "#ff3bd4"
# Short side in pixels of a frame with boxes on it, and the size of their names.
_DRAWN, _LETTER = 256, 16


@dataclass(frozen=True)
class ShownBox:
    """A box in a picture; what is written at it; whether people drew it."""

    box: Box
    text: str
    annotated: bool


@dataclass(frozen=True)
class ShownFrame:
    """A key frame to draw: its title, its pixels uint8 [H, W, 3] and its boxes."""

    title: str
    frame_HWC: np.ndarray
    boxes: tuple[ShownBox, ...]


def shown_frames(
    found: pd.DataFrame, truth: pd.DataFrame, media_root: Path, videos: pd.DataFrame, start_s: float
) -> list[ShownFrame]:
    """Read some key frames, evenly spread over the annotated ones, with the boxes of people and of the detector.

    Args:
        found: a detector's table, a row per box and action.
        truth: annotated boxes.
        media_root: the paths are relative to it.
        videos: rows of the clean video table.
        start_s: where in the film the media files begin.

    Returns:
        At most :data:`FRAMES`; those that cannot be read are left out.
    """
    frames = truth[FRAME].drop_duplicates().sort_values(FRAME, ignore_index=True)
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(FRAMES, len(frames))).round().astype(int))
    shown = []
    for row in locate(frames.iloc[chosen], videos.set_index("path"), start_s).to_dict("records"):
        try:
            image = Image.fromarray(read_frames(media_root / row["path"], [row["key"]])[0])
        except VideoError:
            continue
        image.thumbnail((_SIDE, _SIDE))
        people, detected = (
            table[(table["video"] == row["path"]) & (table["timestamp_s"] == row["timestamp_s"])] for table in (truth, found)
        )
        drawn = people[[*FRAME, *BOX]].drop_duplicates().reset_index(drop=True)
        named = zip(drawn[BOX].itertuples(index=False, name=None), true_actions(drawn, people), strict=True)
        boxes = [ShownBox(box, text.replace("; ", ", "), True) for box, text in named]
        for box, actions in detected.groupby(BOX, sort=False):
            best = actions.sort_values("score", ascending=False, kind="stable").head(NAMED)
            text = ", ".join(f"{name} {score:.2f}" for name, score in zip(best["label"], best["score"], strict=True))
            boxes.append(ShownBox(box, text, False))
        shown.append(ShownFrame(f"{row['path']}, {row['timestamp_s']:g} s", np.asarray(image), tuple(boxes)))
    return shown


def detection_svg(per_action: Mapping[str, Mapping[str, float]], frames: Sequence[ShownFrame]) -> str:
    """Return one SVG file: key frames above, below them the average precision of each action, a bar per model.

    The same values give the same bytes.

    Args:
        per_action: per cent, by model and action; empty where nothing was tested.
        frames: from :func:`shown_frames`.
    """
    actions = list(next(iter(per_action.values()))) if per_action else []
    columns = max(1, -(-len(frames) // 2)) if len(frames) > 3 else max(1, len(frames))
    rows = -(-len(frames) // columns)

    def paint(figure: Figure) -> None:
        grid = figure.add_gridspec(rows + 1, columns)
        for index, shown in enumerate(frames):
            _paint(figure.add_subplot(grid[index // columns, index % columns]), shown)
        axes = figure.add_subplot(grid[rows, :])
        if 0 < len(actions) <= _BARS:
            _bars(axes, actions, per_action)
        else:
            axes.set_axis_off()
            means = (f"{name} {np.mean(list(values.values())):.1f}" for name, values in per_action.items())
            text = f"mean average precision of {len(actions)} actions: {', '.join(means)}" if actions else "no boxes to test on"
            axes.text(0.5, 0.5, text, ha="center", va="center")

    return svg_file("detection", (11.0, 3.0 * rows + 3.2), paint)


def corner_names(count: int) -> list[str]:
    """Return names of boxes that people drew: A, B, ... Z, A2, B2, ..."""
    letters = string.ascii_uppercase
    return [letters[n % 26] + (str(n // 26 + 1) if n >= 26 else "") for n in range(count)]


def boxes_on_frame(frame_HWC: np.ndarray, people: Sequence[Box], found: Sequence[Box]) -> np.ndarray:
    """Return a frame, uint8 RGB [H, W, 3], with boxes on it, so large that their lines and names can be seen.

    Args:
        frame_HWC: the frame.
        people: boxes that people drew, in white, with the letters of :func:`corner_names` below them.
        found: a person detector's, in pink, with their numbers above.
    """
    image = Image.fromarray(frame_HWC)
    scale = _DRAWN / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(_LETTER)
    # Beside each other where both are the same.
    named = [(box, name, _TRUE, "ls", 4) for name, box in zip(corner_names(len(people)), people, strict=True)]
    named += [(box, str(number), _FOUND, "la", 0) for number, box in enumerate(found, start=1)]
    for (x1, y1, x2, y2), name, colour, anchor, out in named:
        left, right = x1 * image.width - out, x2 * image.width + out
        top, bottom = y1 * image.height - out, y2 * image.height + out
        # A dark line around the coloured one: one of both is seen on any ground.
        draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline="black", width=5)
        draw.rectangle((left, top, right, bottom), outline=colour, width=3)
        corner = (left + 6, top + 5) if anchor == "la" else (left + 10, bottom - 10)
        draw.text(corner, name, fill=colour, font=font, anchor=anchor, stroke_width=2, stroke_fill="black")
    return np.asarray(image)


def _paint(axes: Axes, shown: ShownFrame) -> None:
    H, W = shown.frame_HWC.shape[:2]
    axes.imshow(shown.frame_HWC, interpolation="nearest")
    lines = [shown.title]
    detected = 0
    for one in shown.boxes:
        x1, y1, x2, y2 = one.box
        colour = _TRUE if one.annotated else _FOUND
        style = "--" if one.annotated else "-"
        corner, width, height = (x1 * W - 0.5, y1 * H - 0.5), (x2 - x1) * W, (y2 - y1) * H
        axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=colour, linestyle=style, linewidth=1.5))
        detected += not one.annotated
        name = "true" if one.annotated else f"{detected}"
        axes.text(corner[0] + 1, corner[1] + 1, name, color=colour, va="top", fontsize=7)
        lines.append(f"{name}: {one.text or 'no action'}")
    axes.set_title("\n".join(lines), fontsize=7, loc="left")
    axes.set_xticks([])
    axes.set_yticks([])


def _bars(axes: Axes, actions: Sequence[str], per_action: Mapping[str, Mapping[str, float]]) -> None:
    width = 0.8 / len(per_action)
    for number, (name, values) in enumerate(per_action.items()):
        where = np.arange(len(actions)) + (number - (len(per_action) - 1) / 2) * width
        mean = float(np.mean(list(values.values())))
        heights = [values[action] for action in actions]
        axes.bar(where, heights, width, label=f"{name}, mean {mean:.1f}", color=_COLOURS[number % len(_COLOURS)])
    axes.set_xticks(range(len(actions)), actions, rotation=60, ha="right")
    axes.set_xlim(-0.6, len(actions) - 0.4)
    axes.set_ylim(0, 100)
    axes.set_ylabel("average precision, per cent")
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=len(per_action), frameon=False)
