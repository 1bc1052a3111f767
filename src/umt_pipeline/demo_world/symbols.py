"""The kinds of things of the demo world: symbols of DejaVu Sans, a font that comes with matplotlib, as distance fields.

Shapes: K kinds, G cells along a side of a field, F frames, H W pixels. Object coordinates (u, v) have a symbol's longer side
between -0.95 and 0.95, v downwards.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFont
from scipy.ndimage import distance_transform_edt

Array = NDArray[np.floating[Any]]

# Named by the words that people would say, most of them shorter than Unicode's. Left out of the font: what is too thin to be
# seen at 48 pixels, and what is another symbol turned round, as x is of +.
SYMBOLS: dict[str, str] = {
    "airplane": "✈",
    "anchor": "⚓",
    "arrow": "⬆",
    "asterisk": "✱",
    "badge": "✪",
    "bishop": "♝",
    "blossom": "✿",
    "bolt": "⚡",
    "cat": "🐱",
    "check mark": "✔",
    "cloud": "☁",
    "club": "♣",
    "crescent": "☾",
    "dart": "➸",
    "devil": "😈",
    "diamond": "♦",
    "die": "⚄",
    "disc": "⬤",
    "envelope": "✉",
    "exclamation mark": "❢",
    "flag": "⚑",
    "flask": "⚗",
    "gear": "⚙",
    "hammer": "⚒",
    "hand": "☛",
    "heart": "♥",
    "house": "⌂",
    "infinity sign": "∞",
    "key": "⚷",
    "keyboard": "⌨",
    "king": "♚",
    "knight": "♞",
    "knot": "⌘",
    "leaf": "❧",
    "mirror": "♀",
    "monkey": "🐵",
    "note": "♪",
    "notes": "♬",
    "pawn": "♟",
    "pen": "✒",
    "plus sign": "✚",
    "queen": "♛",
    "question mark": "?",
    "radiation sign": "☢",
    "recycling sign": "♻",
    "rook": "♜",
    "scissors": "✂",
    "shamrock": "☘",
    "skull": "☠",
    "smiley": "☻",
    "snowflake": "❄",
    "spade": "♠",
    "sparkle": "✦",
    "star": "★",
    "sun": "☀",
    "target": "◎",
    "telephone": "☎",
    "triangle": "▲",
    "trident": "♆",
    "tulip": "⚘",
    "umbrella": "☂",
    "wheel": "☸",
    "wheelchair": "♿",
    "yin yang": "☯",
}
KINDS = tuple(SYMBOLS)

_CELLS = 192
# Half the side of a field, in object coordinates: beyond it there is nothing.
_REACH = 1.25
_LONGER_SIDE = 0.95
_FONT_SIZE = 400


@cache
def distance_field(kind: str) -> Array:
    """Return the signed distance to a symbol's outline [G, G], negative inside, in object coordinates; float32."""
    font = ImageFont.truetype(_font(), _FONT_SIZE, layout_engine=ImageFont.Layout.BASIC)
    mask = font.getmask(SYMBOLS[kind], mode="L")
    ink_HW = np.asarray(mask, dtype=np.uint8).reshape(mask.size[::-1])
    rows, columns = np.flatnonzero(ink_HW.max(axis=1) > 127), np.flatnonzero(ink_HW.max(axis=0) > 127)
    ink_HW = ink_HW[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    cells = np.array(ink_HW.shape[::-1]) * (_CELLS * _LONGER_SIDE / _REACH / max(ink_HW.shape))
    width, height = (int(side) for side in np.maximum(np.round(cells), 1))
    small_HW = np.asarray(Image.fromarray(ink_HW).resize((width, height), Image.Resampling.BOX))
    top, left = (_CELLS - height) // 2, (_CELLS - width) // 2
    inside_GG = np.zeros((_CELLS, _CELLS), dtype=bool)
    inside_GG[top : top + height, left : left + width] = small_HW > 127
    # The outline runs between cells, half a cell from the centres on both sides of it.
    cells_GG = np.where(inside_GG, 0.5 - distance_transform_edt(inside_GG), distance_transform_edt(~inside_GG) - 0.5)
    return (cells_GG * (2 * _REACH / _CELLS)).astype(np.float32)


@cache
def all_fields() -> Array:
    """Return the fields of all kinds [K, G, G], in the order of :data:`KINDS`."""
    return np.stack([distance_field(kind) for kind in KINDS])


def sample(fields_KGG: Array, kind_F: NDArray[np.integer[Any]], u_FHW: Array, v_FHW: Array) -> Array:
    """Return the distance [F, H, W] to the outline at object coordinates, between cells bilinearly.

    Args:
        fields_KGG: distance fields.
        kind_F: which of them each frame shows.
        u_FHW: coordinates to the right, float32.
        v_FHW: coordinates downwards, float32.
    """
    scale, last = np.float32(_CELLS / (2 * _REACH)), np.float32(_CELLS - 1.001)
    x_FHW = np.clip((u_FHW + np.float32(_REACH)) * scale - np.float32(0.5), np.float32(0), last)
    y_FHW = np.clip((v_FHW + np.float32(_REACH)) * scale - np.float32(0.5), np.float32(0), last)
    column_FHW, row_FHW = x_FHW.astype(np.int32), y_FHW.astype(np.int32)
    x_FHW -= column_FHW
    y_FHW -= row_FHW
    first_F = kind_F.astype(np.int32) * np.int32(_CELLS * _CELLS)
    at_FHW = first_F[:, None, None] + row_FHW * np.int32(_CELLS) + column_FHW
    flat = fields_KGG.reshape(-1)
    above_FHW, below_FHW = flat[at_FHW], flat[at_FHW + _CELLS]
    above_FHW += (flat[at_FHW + 1] - above_FHW) * x_FHW
    below_FHW += (flat[at_FHW + _CELLS + 1] - below_FHW) * x_FHW
    return above_FHW + (below_FHW - above_FHW) * y_FHW


def _font() -> str:
    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")
