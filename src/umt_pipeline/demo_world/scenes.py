"""What a demo clip shows, and how its pixels are computed.

An object (a kind of thing, its colour and size) moves over a quiet background. Every motion has a partner that shows the same
single frames in another order (left and right, growing and shrinking, …), so no frame tells them apart.

Shapes: T frames, F frames of any clips, H W pixels. Object coordinates (u, v): see :mod:`umt_pipeline.demo_world.symbols`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umt_pipeline.demo_world.symbols import KINDS, distance_field, sample

Array = NDArray[np.floating[Any]]

SHAPES = KINDS
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 42, 42),
    "green": (44, 176, 66),
    "blue": (48, 84, 226),
    "yellow": (238, 216, 52),
}
# Half the object's extent as a share of the shorter side. Large objects: small ones are not learnt in minutes.
SIZES: dict[str, tuple[float, float]] = {"small": (0.21, 0.24), "large": (0.33, 0.37)}
MOTIONS = (
    "left",
    "right",
    "up",
    "down",
    "clockwise",
    "counterclockwise",
    "growing",
    "shrinking",
    "stop_and_go",
)
# How far a thing that does not spin is tilted at most, in radians: a turned one may be in the middle of a spin.
TILT = 0.5
_DIRECTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}


@dataclass(frozen=True)
class Appearance:
    """What a single frame can show."""

    shape: str
    colour: str
    size: str


@dataclass(frozen=True)
class Scene:
    """One clip: what moves how, and the container it is stored in."""

    appearance: Appearance
    motion: str
    frames: int
    fps: int
    height: int
    width: int


def render(scene: Scene, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return the frames [T, H, W, 3] of a scene; ``rng`` decides position, pace, angle and background."""
    path = _trajectory(scene, rng)
    v_THW, alpha_THW = _place(scene, path)
    colour_3 = np.asarray(COLOURS[scene.appearance.colour], dtype=np.float32) * np.float32(rng.uniform(0.92, 1.02))
    background_3HW = _background(scene.height, scene.width, rng)
    frames_T3HW = paint(background_3HW[None], np.tile(colour_3, (scene.frames, 1)), v_THW, alpha_THW)
    return to_pixels(frames_T3HW)


def paint(background_F3HW: Array, colour_F3: Array, v_FHW: Array, alpha_FHW: Array) -> Array:
    """Return frames [F, 3, H, W] with an object over each background.

    It is lit from above: brighter than its colour at its top, darker at its foot, which tells a turning disc or snowflake
    from a resting one.

    Args:
        background_F3HW: one for each frame, or one for all.
        colour_F3: of the objects.
        v_FHW: object coordinate downwards.
        alpha_FHW: how much of a pixel the object covers.
    """
    tone_F1HW = np.clip(1.15 - 0.4 * v_FHW, 0.75, 1.55).astype(np.float32)[:, None]
    colour_F311 = colour_F3[:, :, None, None]
    frames_F3HW = colour_F311 * np.minimum(tone_F1HW, 1.0) + (255.0 - colour_F311) * np.maximum(tone_F1HW - 1.0, 0.0)
    frames_F3HW -= background_F3HW
    frames_F3HW *= alpha_FHW[:, None]
    frames_F3HW += background_F3HW
    return frames_F3HW


def to_pixels(frames_F3HW: Array) -> NDArray[np.uint8]:
    """Return frames as videos have them, uint8 [F, H, W, 3]."""
    return np.ascontiguousarray(np.clip(frames_F3HW, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1))


def object_boxes(scene: Scene, rng: np.random.Generator, frames: Sequence[int]) -> Array:
    """Return where the object is in some frames of a scene, as boxes [F, 4] of (x1, y1, x2, y2), shares of width and height.

    Args:
        scene: as it is rendered.
        rng: in the state in which :func:`render` got it.
        frames: F numbers of frames.
    """
    path = _trajectory(scene, rng)
    _, alpha_FHW = _place(scene, (path[0][frames], path[1][frames], path[2][frames], path[3][frames]))
    boxes = []
    for alpha_HW in alpha_FHW:
        rows, columns = np.flatnonzero(alpha_HW.any(axis=1)), np.flatnonzero(alpha_HW.any(axis=0))
        edges = (columns[0] / scene.width, rows[0] / scene.height)
        boxes.append((*edges, (columns[-1] + 1) / scene.width, (rows[-1] + 1) / scene.height))
    return np.array(boxes, dtype=np.float64).reshape(-1, 4)


def object_coordinates(
    height: int, width: int, x_F: Array, y_F: Array, radius_F: Array, angle_F: Array
) -> tuple[Array, Array]:
    """Return each pixel's object coordinates (u, v), both [F, H, W].

    Args:
        height: of the frames.
        width: of the frames.
        x_F: centre of the object from the frame's, to the right, as a share of the shorter side.
        y_F: likewise, downwards.
        radius_F: length of 1 in object coordinates, as a share of the shorter side.
        angle_F: by how much the object is turned clockwise, in radians.
    """
    side = min(height, width)
    row_H = (np.arange(height, dtype=np.float32) + 0.5 - height / 2) / side
    column_W = (np.arange(width, dtype=np.float32) + 0.5 - width / 2) / side
    dy_FH1 = ((row_H - y_F[:, None]) / radius_F[:, None])[:, :, None].astype(np.float32)
    dx_F1W = ((column_W - x_F[:, None]) / radius_F[:, None])[:, None, :].astype(np.float32)
    cos_F11, sin_F11 = (turn(angle_F).astype(np.float32)[:, None, None] for turn in (np.cos, np.sin))
    return cos_F11 * dx_F1W + sin_F11 * dy_FH1, cos_F11 * dy_FH1 - sin_F11 * dx_F1W


def _place(scene: Scene, path: tuple[Array, Array, Array, Array]) -> tuple[Array, Array]:
    """Return each pixel's object coordinate v and how much of it the object covers, both [T, H, W]."""
    radius_T = path[2]
    u_THW, v_THW = object_coordinates(scene.height, scene.width, *path)
    field_1GG = distance_field(scene.appearance.shape)[None]
    distance_THW = sample(field_1GG, np.zeros(len(radius_T), dtype=np.int32), u_THW, v_THW)
    # One pixel of softness at the edge, in object coordinates.
    pixels_T11 = (radius_T * min(scene.height, scene.width))[:, None, None]
    return v_THW, np.clip(0.5 - distance_THW * pixels_T11, 0.0, 1.0)


def _trajectory(scene: Scene, rng: np.random.Generator) -> tuple[Array, Array, Array, Array]:
    time_T = np.linspace(0.0, 1.0, scene.frames, dtype=np.float32)
    radius = rng.uniform(*SIZES[scene.appearance.size])
    x_T = np.full(scene.frames, rng.uniform(-0.14, 0.14), dtype=np.float32)
    y_T = np.full(scene.frames, rng.uniform(-0.14, 0.14), dtype=np.float32)
    radius_T = np.full(scene.frames, radius, dtype=np.float32)
    tilt = np.pi if scene.motion in ("clockwise", "counterclockwise") else TILT
    angle_T = np.full(scene.frames, rng.uniform(-tilt, tilt), dtype=np.float32)
    if scene.motion in _DIRECTIONS or scene.motion == "stop_and_go":
        name = scene.motion if scene.motion in _DIRECTIONS else rng.choice(list(_DIRECTIONS))
        path_T = time_T if scene.motion in _DIRECTIONS else _staircase(time_T)
        reach = rng.uniform(0.32, 0.43)
        shift_x, shift_y = _DIRECTIONS[str(name)]
        # Along the way the object crosses the middle; across it, it keeps its random offset.
        x_T = x_T * (shift_x == 0.0) + np.float32(shift_x * reach) * (2 * path_T - 1)
        y_T = y_T * (shift_y == 0.0) + np.float32(shift_y * reach) * (2 * path_T - 1)
    elif scene.motion in ("clockwise", "counterclockwise"):
        turn = rng.uniform(0.55, 0.8) * 2 * np.pi
        angle_T = angle_T + np.float32(turn if scene.motion == "clockwise" else -turn) * time_T
    else:
        first, last = (0.45, 1.55) if scene.motion == "growing" else (1.55, 0.45)
        radius_T = radius_T * (first + (last - first) * time_T)
    return x_T.astype(np.float32), y_T.astype(np.float32), radius_T.astype(np.float32), angle_T.astype(np.float32)


def _staircase(time_T: Array, steps: int = 2) -> Array:
    # Rest, jump, rest, jump, rest: two fast moves between three rests.
    phase_T = time_T * steps - 0.5 * (1 - 1 / 3)
    whole_T = np.floor(phase_T)
    jump_T = np.clip((phase_T - whole_T) * 3.0, 0.0, 1.0)
    return np.clip((whole_T + jump_T) / steps, 0.0, 1.0).astype(np.float32)


def _background(height: int, width: int, rng: np.random.Generator) -> Array:
    # Quiet: a dark tone, from which every colour stands out, with a slight tint, a slow gradient and faint coarse grain.
    tone = rng.uniform(20, 60) + rng.uniform(-10, 10, size=3)
    rows, columns = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None, :]
    slope = rng.uniform(-14, 14, size=2)
    grain = rng.normal(0.0, 4.0, size=(height // 8 + 1, width // 8 + 1))
    grain = grain.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
    plane = slope[0] * rows + slope[1] * columns + grain
    return (tone[:, None, None] + plane).astype(np.float32)
