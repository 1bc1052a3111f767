"""Pictures of the report: curves and histograms as inline SVG, frames as small WebP data addresses.

Curves are drawn by matplotlib and then made part of the page: colours become CSS variables, so that they follow the
reader's light or dark theme, and names are made unique, since all SVGs share one document.

Shape legend: T frames, H W pixels, N patches per frame, V visible tokens per clip.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

# Colours that occur nowhere else, replaced by the page's own variables in the finished SVG.
_THEME = {
    "#010203": "var(--muted)",
    "#010204": "var(--line)",
    "#010205": "var(--series-1)",
    "#010206": "var(--series-2)",
}
_INK, _GRID, *_SERIES = _THEME
_GAP = 2  # pixels between frames
_SMOOTH_FROM = 40  # rows above which a running mean is drawn over the raw points
_SPEED = ("lr", "grad_norm", "clips_per_s", "mfu", "data_wait", "peak_memory_mib")
_NOT_PARTS = frozenset(("loss", "step", "epoch", "seconds", "eta_s", *_SPEED))  # every other column is a loss part
_EXACT = ("lr", "peak_memory_mib")  # free of noise, so never smoothed
_LABELS = {
    "loss": "total loss",
    "lr": "learning rate",
    "grad_norm": "gradient norm",
    "clips_per_s": "clips per second",
    "mfu": "model FLOPs utilisation",
    "data_wait": "share of time waiting for data",
    "peak_memory_mib": "peak memory (MiB)",
    "vtc": "video-text contrastive loss",
    "vtm": "video-text matching loss",
    "mlm": "masked language loss",
    "align": "token alignment loss",
    "uta": "token alignment loss",
}


@dataclass(frozen=True)
class Panel:
    """One small figure: a title and inline SVG that is safe to put into a page."""

    title: str
    svg: str


@dataclass(frozen=True)
class Curves:
    """Panels of training, and the names of their lines."""

    lines: tuple[str, ...]
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Picture:
    """A picture as a ``data:`` address, and what it shows, for those who cannot see it."""

    address: str
    about: str


@dataclass(frozen=True)
class FrameSize:
    """How frames are stored in the page: frames per clip, pixels of the shorter side, WebP quality."""

    frames: int
    side: int
    quality: int


def data_address(image_HWC: np.ndarray, quality: int) -> str:
    """Return a uint8 RGB or RGBA image [H, W, 3|4] as a WebP ``data:`` address."""
    buffer = io.BytesIO()
    Image.fromarray(image_HWC).save(buffer, format="WEBP", quality=quality, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def svg_picture(svg: str, about: str) -> Picture:
    """Return an SVG file as a picture, which keeps its own colours and names."""
    return Picture("data:image/svg+xml;base64," + base64.b64encode(svg.encode("utf-8")).decode("ascii"), about)


def filmstrip(frames_THWC: np.ndarray, size: FrameSize) -> np.ndarray:
    """Return evenly spaced frames of a clip [T, H, W, C] side by side with gaps, uint8; never enlarged."""
    count = min(size.frames, len(frames_THWC))
    chosen = np.linspace(0, len(frames_THWC) - 1, count).round().astype(int)
    height, width = frames_THWC.shape[1:3]
    scale = min(1.0, size.side / min(height, width))
    shape = (max(1, round(width * scale)), max(1, round(height * scale)))
    gap = ((0, 0), (0, _GAP), (0, 0))  # black, or transparent where the image has an alpha channel
    resized = (Image.fromarray(frames_THWC[i]).resize(shape, Image.Resampling.BILINEAR) for i in chosen)
    return np.concatenate([np.pad(np.asarray(frame), gap) for frame in resized], axis=1)[:, :-_GAP]


def mask_strips(
    frames_THWC: np.ndarray, attention_TN: np.ndarray, visible_V: np.ndarray, grid: tuple[int, int] | None, side: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return three strips of the same frames: original, attention over it, visible patches only.

    Args:
        frames_THWC: uint8 [T, H, W, 3].
        attention_TN: non-negative [T, N]; colours are scaled per frame, as masks are drawn per frame.
        visible_V: positions in [0, T * N).
        grid: rows and columns of patches; None means square.
        side: frames whose shorter side is longer than this are made smaller.

    Returns:
        uint8 [H, t * W, 3], [H, t * W, 3] and, with hidden patches transparent, [H, t * W, 4], of t <= 8 even frames.

    Raises:
        ValueError: the shapes do not fit each other.
    """
    frames, height, width = frames_THWC.shape[:3]
    patches = attention_TN.shape[1]
    rows, columns = grid or (round(patches**0.5),) * 2
    if rows * columns != patches or attention_TN.shape[0] != frames:
        raise ValueError(
            f"attention {attention_TN.shape} does not fit {frames} frames with a patch grid of {rows} x {columns}; "
            "expected [frames, rows * columns]"
        )
    seen_TN = np.zeros(frames * patches, dtype=bool)
    seen_TN[visible_V] = True
    heat, shown = [], []
    for frame_HWC, attention_N, seen_N in zip(
        frames_THWC, attention_TN.astype(np.float64), seen_TN.reshape(frames, patches), strict=True
    ):
        scaled_N = attention_N / max(float(attention_N.max()), 1e-12)
        coarse = Image.fromarray((255 * scaled_N).astype(np.uint8).reshape(rows, columns))
        weight_HW = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64) / 255
        colour_HWC = mpl.colormaps["inferno"](weight_HW)[..., :3] * 255
        heat.append((0.35 * frame_HWC + 0.65 * colour_HWC).astype(np.uint8))
        cover = Image.fromarray(np.where(seen_N, 255, 0).astype(np.uint8).reshape(rows, columns))
        alpha_HW = np.asarray(cover.resize((width, height), Image.Resampling.NEAREST))
        shown.append(np.dstack([frame_HWC, alpha_HW]))
    size = FrameSize(frames=8, side=side, quality=0)
    return filmstrip(frames_THWC, size), filmstrip(np.stack(heat), size), filmstrip(np.stack(shown), size)


def curve_panels(key: str, histories: Sequence[tuple[str, pd.DataFrame]]) -> list[Panel]:
    """Return one panel per logged quantity, each with one line per history (at most two).

    Args:
        key: short name, unique in the page.
        histories: (label, rows) with a ``step`` column or, without it, one row per step.
    """
    names: list[str] = []
    for _, history in histories:
        names += [name for name in _ordered_columns(history) if name not in names]
    panels = []
    for name in names:
        lines = [
            (label, _steps(rows), rows[name].to_numpy(dtype=float)) for label, rows in histories if name in rows.columns
        ]
        title = _LABELS.get(name, _LABELS.get(name.removesuffix("_loss"), name.replace("_", " ")))
        described = "; ".join(f"{label}: {_describe(values)}" for label, _, values in lines)
        svg = _draw(f"{key}-{name}", f"{title} by step. {described}", _line_painter(lines, smooth=name not in _EXACT))
        panels.append(Panel(title=title, svg=svg))
    return panels


def training_curves(key: str, histories: Sequence[tuple[str, pd.DataFrame]]) -> Curves | None:
    """Return the curves of training runs, at most two, to be compared; None where none was logged.

    Quantities that were the same all the time, such as no unreadable clips or two boxes in each, are left out.

    Args:
        key: short name, unique in the page.
        histories: (label, rows), as for :func:`curve_panels`.
    """
    there = [(label, rows) for label, rows in histories if not rows.empty]
    logged = pd.concat([rows.select_dtypes("number") for _, rows in there]) if there else pd.DataFrame()
    # What was logged only once is shown unless it is zero.
    numbers = {
        str(name)
        for name, values in logged.items()
        if values.nunique() > 1 or (values.count() == 1 and (values.dropna() != 0).all())
    }
    kept = [(label, rows[[name for name in rows.columns if name in numbers]]) for label, rows in there]
    return Curves(tuple(label for label, _ in kept), tuple(curve_panels(key, kept))) if kept else None


def histogram_panel(key: str, title: str, values: np.ndarray) -> Panel:
    """Return a histogram of finite numbers."""
    values = values[np.isfinite(values)]

    def paint(axes: Axes) -> None:
        axes.hist(values, bins=24, color=_SERIES[0])
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))

    return Panel(title=title, svg=_draw(key, f"Histogram of {title}. {_describe(values)}", paint))


def _ordered_columns(history: pd.DataFrame) -> list[str]:
    """Return numeric columns worth a panel: total loss, its parts, then speed; parts equal to the loss are left out."""
    numeric = [str(c) for c in history.select_dtypes("number").columns if history[c].notna().any()]
    parts = [c for c in numeric if c not in _NOT_PARTS]
    if "loss" in numeric:
        parts = [c for c in parts if not np.allclose(history[c], history["loss"], equal_nan=True)]
    return [c for c in ("loss",) if c in numeric] + parts + [c for c in _SPEED if c in numeric]


def _steps(history: pd.DataFrame) -> np.ndarray:
    return history["step"].to_numpy(dtype=float) if "step" in history.columns else np.arange(1.0, len(history) + 1)


def _describe(values: np.ndarray) -> str:
    finite = values[np.isfinite(values)]
    if not len(finite):
        return "no finite value"
    ends = f"from {finite[0]:.4g} to {finite[-1]:.4g}, lowest {finite.min():.4g}, highest {finite.max():.4g}"
    return f"{len(finite)} values {ends}"


def _line_painter(lines: Sequence[tuple[str, np.ndarray, np.ndarray]], smooth: bool) -> Callable[[Axes], None]:
    def paint(axes: Axes) -> None:
        for (_, steps, values), colour in zip(lines, _SERIES, strict=False):
            noisy = smooth and len(values) >= _SMOOTH_FROM
            marker = "o" if len(values) == 1 else ""
            axes.plot(
                steps, values, color=colour, linewidth=1 if noisy else 1.8, alpha=0.3 if noisy else 1, marker=marker
            )
            if noisy:
                mean = pd.Series(values).rolling(max(3, len(values) // 20), min_periods=1, center=True).mean()
                axes.plot(steps, mean, color=colour, linewidth=1.8)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4))

    return paint


def _draw(key: str, description: str, paint: Callable[[Axes], None]) -> str:
    """Let ``paint`` fill a pair of axes and return it as themed, scalable inline SVG."""
    key = re.sub(r"[^a-z0-9-]+", "-", key.lower())
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": key, "path.simplify": True, "font.size": 9}):
        figure = Figure(figsize=(3.6, 1.9))
        axes = figure.add_axes((0.13, 0.13, 0.85, 0.79))  # fixed: a layout engine would double the time
        paint(axes)
        axes.grid(True, axis="y", color=_GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(_GRID)
        axes.tick_params(colors=_INK, length=0)
        axes.xaxis.get_offset_text().set_color(_INK)
        axes.yaxis.get_offset_text().set_color(_INK)
        buffer = io.StringIO()
        FigureCanvasSVG(figure).print_svg(
            buffer, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    return _inline(buffer.getvalue(), key, description)


def _inline(svg: str, key: str, description: str) -> str:
    """Turn a stand-alone SVG file into an element of the page: no foreign address, no global style, own names."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    view = re.search(r'viewBox="([^"]+)"', body)
    inside = body[body.index(">") + 1 :]
    inside = re.sub(r"""(\bid="|url\(#|href="#)""", rf"\g<1>{key}-", inside)
    inside = inside.replace("xlink:href", "href")
    inside = re.sub(r"\n\s*", "\n", inside)
    for sentinel, variable in _THEME.items():
        inside = inside.replace(sentinel, variable)
    label = description.translate({ord(c): f"&#{ord(c)};" for c in "&<>\"'"})
    return f'<svg viewBox="{view.group(1) if view else "0 0 260 137"}" role="img" aria-label="{label}">{inside.strip()}'
