"""What a demo clip shows, and how its pixels are computed.

An object (shape with a texture of its own, colour, size) moves over a quiet background. Every motion has a partner that
shows the same single frames in another order (left and right, growing and shrinking, …), so no frame tells them apart.

Shapes: T frames, H W pixels. Object coordinates (u, v) have the object's outline at about radius 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]

# Each shape and its texture: two shapes share a texture, so that neither outline nor texture alone tells what it is.
TEXTURES = {
    "circle": "plain",
    "bar": "plain",
    "square": "chequered",
    "heart": "chequered",
    "triangle": "half_white",
    "arrow": "half_white",
    "star": "bright_core",
    "crescent": "bright_core",
    "cross": "striped",
    "ring": "striped",
}
SHAPES = tuple(TEXTURES)
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 42, 42),
    "green": (44, 176, 66),
    "blue": (48, 84, 226),
    "yellow": (238, 216, 52),
}
# Half the object's extent as a share of the shorter side. Large objects: small ones are not learnt in minutes.
SIZES: dict[str, tuple[float, float]] = {"small": (0.19, 0.22), "large": (0.31, 0.35)}
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
    H, W = scene.height, scene.width
    u_THW, v_THW, alpha_THW = _place(scene, _trajectory(scene, rng))
    tone_THW1 = _texture(scene.appearance.shape, u_THW, v_THW)[..., None]
    colour_3 = np.asarray(COLOURS[scene.appearance.colour], dtype=np.float32) * rng.uniform(0.92, 1.02)
    object_THW3 = colour_3 * np.minimum(tone_THW1, 1.0) + (255.0 - colour_3) * np.maximum(tone_THW1 - 1.0, 0.0)
    frames = _background(H, W, rng)[None] * (1.0 - alpha_THW[..., None]) + object_THW3 * alpha_THW[..., None]
    return np.clip(frames, 0, 255).astype(np.uint8)


def object_boxes(scene: Scene, rng: np.random.Generator, frames: Sequence[int]) -> Array:
    """Return where the object is in some frames of a scene, as boxes [F, 4] of (x1, y1, x2, y2), shares of width and height.

    Args:
        scene: as it is rendered.
        rng: in the state in which :func:`render` got it.
        frames: F numbers of frames.
    """
    path = _trajectory(scene, rng)
    _, _, alpha_FHW = _place(scene, (path[0][frames], path[1][frames], path[2][frames], path[3][frames]))
    boxes = []
    for alpha_HW in alpha_FHW:
        rows, columns = np.flatnonzero(alpha_HW.any(axis=1)), np.flatnonzero(alpha_HW.any(axis=0))
        edges = (columns[0] / scene.width, rows[0] / scene.height)
        boxes.append((*edges, (columns[-1] + 1) / scene.width, (rows[-1] + 1) / scene.height))
    return np.array(boxes, dtype=np.float64).reshape(-1, 4)


def _place(scene: Scene, path: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array]:
    """Return each pixel's object coordinates (u, v) and how much of it the object covers, all [T, H, W]."""
    x_T, y_T, radius_T, angle_T = path
    H, W = scene.height, scene.width
    side = min(H, W)
    row_H = (np.arange(H, dtype=np.float32) - H / 2) / side
    column_W = (np.arange(W, dtype=np.float32) - W / 2) / side
    dy_THW = (row_H[None, :, None] - y_T[:, None, None]) / radius_T[:, None, None]
    dx_THW = (column_W[None, None, :] - x_T[:, None, None]) / radius_T[:, None, None]
    cos_T, sin_T = np.cos(angle_T)[:, None, None], np.sin(angle_T)[:, None, None]
    u_THW, v_THW = cos_T * dx_THW + sin_T * dy_THW, cos_T * dy_THW - sin_T * dx_THW
    distance_THW = _outline(scene.appearance.shape, u_THW, v_THW)
    # One pixel of softness at the edge, in object coordinates.
    edge_T = 1.0 / (radius_T * side)
    return u_THW, v_THW, np.clip(0.5 - distance_THW / edge_T[:, None, None], 0.0, 1.0)


def _trajectory(scene: Scene, rng: np.random.Generator) -> tuple[Array, Array, Array, Array]:
    time_T = np.linspace(0.0, 1.0, scene.frames, dtype=np.float32)
    radius = rng.uniform(*SIZES[scene.appearance.size])
    x_T = np.full(scene.frames, rng.uniform(-0.14, 0.14), dtype=np.float32)
    y_T = np.full(scene.frames, rng.uniform(-0.14, 0.14), dtype=np.float32)
    radius_T = np.full(scene.frames, radius, dtype=np.float32)
    angle_T = np.full(scene.frames, rng.uniform(0.0, 2 * np.pi), dtype=np.float32)
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


def _outline(shape: str, u: Array, v: Array) -> Array:
    """Return a signed distance (negative inside), exact enough for a one-pixel edge."""
    if shape == "circle":
        return np.hypot(u, v) - 0.95
    if shape == "ring":
        return np.abs(np.hypot(u, v) - 0.72) - 0.27
    if shape == "square":
        return np.maximum(np.abs(u), np.abs(v)) - 0.8
    if shape == "cross":
        arm = np.maximum(np.abs(u) - 0.32, np.abs(v) - 0.98)
        return np.minimum(arm, np.maximum(np.abs(v) - 0.32, np.abs(u) - 0.98))
    if shape == "triangle":
        return np.maximum(np.abs(u) * 0.866 - v * 0.5, v) - 0.55
    if shape == "bar":
        return np.maximum(np.abs(u) - 0.98, np.abs(v) - 0.4)
    if shape == "heart":
        # Two round lobes above, and below them a square that stands on its corner.
        lobes = np.hypot(np.abs(u) - 0.42, v + 0.3) - 0.46
        return np.minimum(lobes, (np.abs(u) + np.abs(v - 0.03)) * 0.7071 - 0.62)
    if shape == "arrow":
        shaft = np.maximum(np.abs(u) - 0.26, np.abs(v - 0.4) - 0.55)
        return np.minimum(shaft, np.maximum(np.abs(u) * 0.7071 - v * 0.7071 - 0.68, v + 0.05))
    if shape == "crescent":
        return np.maximum(np.hypot(u, v) - 0.95, 0.72 - np.hypot(u - 0.5, v))
    angle = np.arctan2(u, -v)
    sector = np.abs((angle + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)
    radius = np.hypot(u, v)
    # A five-pointed star: within a half sector the edge is the line from the tip (1, 0) to the notch (0.45 at 36 degrees).
    along, across = radius * np.cos(sector), radius * np.sin(sector)
    notch_x, notch_y = 0.45 * np.cos(np.pi / 5), 0.45 * np.sin(np.pi / 5)
    length = np.hypot(notch_y, 1.0 - notch_x)
    # Plain floats: a NumPy scalar would turn the whole picture into float64.
    return (along - 1.0) * float(notch_y / length) + across * float((1.0 - notch_x) / length)


def _texture(shape: str, u: Array, v: Array) -> Array:
    """Return a tone per pixel: 0 black, 1 the object's colour, 2 white.

    Bold patterns are what a small network learns a shape by in minutes; a dark spot shows which way it is turned.
    """
    texture = TEXTURES[shape]
    if texture == "plain":
        tone = np.ones_like(u)
    elif texture == "chequered":
        tone = np.where((u > 0.0) ^ (v > 0.0), 1.0, 0.15)
    elif texture == "half_white":
        tone = np.where(v > 0.12, 2.0, 1.0)
    elif texture == "bright_core":
        tone = np.where(np.hypot(u, v) > 0.4, 1.0, 1.9)
    else:
        tone = np.where(np.sin(8.0 * (u + v)) > 0.2, 0.1, 1.0)
    spot = (np.hypot(u + 0.62, v) if shape == "bar" else np.hypot(u, v + 0.62)) < 0.22
    return np.where(spot, 0.05, tone).astype(np.float32)


def _background(height: int, width: int, rng: np.random.Generator) -> Array:
    # Quiet: a dark or mid-grey tone with a slight tint, a slow gradient and faint coarse grain.
    tone = rng.uniform(55, 120) + rng.uniform(-10, 10, size=3)
    rows, columns = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None, :]
    slope = rng.uniform(-14, 14, size=2)
    grain = rng.normal(0.0, 4.0, size=(height // 8 + 1, width // 8 + 1))
    grain = grain.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
    plane = slope[0] * rows + slope[1] * columns + grain
    return (tone[None, None, :] + plane[..., None]).astype(np.float32)
