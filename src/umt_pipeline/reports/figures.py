"""Pictures of a page: curves and histograms as inline SVG, frames as small WebP data addresses.

Curves are drawn by matplotlib and then made part of the page: colours become CSS variables, so that they follow the
reader's light or dark theme, and names are made unique, since all SVGs share one document.

Shape legend: T frames, H W pixels, N patches per frame, V visible tokens per clip.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from PIL import Image

from umt_pipeline.reports.page import Panel, Panels, Picture, Strips

# Colours that occur nowhere else, replaced by the page's own variables in the finished SVG.
_THEME = {
    "#010203": "var(--muted)",
    "#010204": "var(--line)",
    "#010205": "var(--series-1)",
    "#010206": "var(--series-2)",
}
_INK, _GRID, *_SERIES = _THEME
_GAP = 2  # pixels between frames
_MASK_SIDE = 112  # shorter side of a frame with its mask; larger ones are made smaller
_SMOOTH_FROM = 40  # rows above which a running mean is drawn over the raw points
_SPEED = ("lr", "grad_norm", "clips_per_s", "mfu", "data_wait", "peak_memory_mib")
# Every other column is a loss part, or what held-out data say.
_NOT_PARTS = frozenset(("loss", "step", "epoch", "seconds", "eta_s", "tflops", *_SPEED))
_EXACT = ("lr", "peak_memory_mib")  # free of noise, so never smoothed
_LABELS = {
    "loss": "total loss",
    "lr": "learning rate",
    "grad_norm": "gradient norm",
    "clips_per_s": "clips per second",
    "mfu": "model FLOPs utilisation",
    "data_wait": "share of time waiting for data",
    "peak_memory_mib": "peak memory (MiB)",
    "validation_r1": "text\N{RIGHTWARDS ARROW}video R@1 on validation (%)",
}


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


def svg_file(name: str, size: tuple[float, float], paint: Callable[[Figure], None]) -> str:
    """Return a figure of a size in inches as an SVG file; the same content gives the same bytes.

    Args:
        name: what names within the file begin with.
        size: width and height.
        paint: fills the figure.
    """
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 8}):
        figure = Figure(figsize=size, layout="constrained")
        paint(figure)
        return "\n".join(line.rstrip() for line in _svg(figure).splitlines()) + "\n"


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return buffer.getvalue()


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


def mask_picture(video_id: str, frames_THWC: np.ndarray, attention_TN: np.ndarray, visible_V: np.ndarray) -> Strips:
    """Return what a student sees of a clip and why: its frames, the attention over them, the visible patches.

    Args:
        video_id: the clip's name.
        frames_THWC: uint8 RGB [T, H, W, 3], the pixels of a view.
        attention_TN: float [T, N], the teacher's attention that the mask was drawn from (any positive scale).
        visible_V: indices of visible patches in [0, T * N), raster order t, h, w.

    Raises:
        ValueError: attention and frames do not fit each other.
    """
    strips = mask_strips(frames_THWC, attention_TN, visible_V)
    about = ("frames of the view, first to last", "the same frames under the teacher's attention",
             "the same frames, visible patches only")  # fmt: skip
    rows = [
        (label, Picture(data_address(strip, 75), f"{video_id}: {shown}"))
        for label, strip, shown in zip(("Frames", "Attention", "Visible"), strips, about, strict=True)
    ]
    share = 100 * len(visible_V) / attention_TN.size
    return Strips(video_id, f"{len(visible_V)} of {attention_TN.size} patches visible ({share:.0f} %)", rows)


def mask_strips(
    frames_THWC: np.ndarray, attention_TN: np.ndarray, visible_V: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return three strips of the same frames: original, attention over it, visible patches only.

    Args:
        frames_THWC: see :func:`mask_picture`, as the others.
        attention_TN: colours are scaled per frame, as masks are drawn per frame.
        visible_V: what is not hidden.

    Returns:
        uint8 [H, t * W, 3], [H, t * W, 3] and, with hidden patches transparent, [H, t * W, 4], of t <= 8 even frames.
    """
    frames, height, width = frames_THWC.shape[:3]
    patches = attention_TN.shape[1]
    side = math.isqrt(patches)
    if side * side != patches or attention_TN.shape[0] != frames:
        raise ValueError(
            f"attention {attention_TN.shape} does not fit {frames} frames with a patch grid of {side} x {side}; "
            "expected [frames, rows * columns]"
        )
    seen_TN = np.zeros(frames * patches, dtype=bool)
    seen_TN[visible_V] = True
    heat, shown = [], []
    for frame_HWC, attention_N, seen_N in zip(
        frames_THWC, attention_TN.astype(np.float64), seen_TN.reshape(frames, patches), strict=True
    ):
        scaled_N = attention_N / max(float(attention_N.max()), 1e-12)
        coarse = Image.fromarray((255 * scaled_N).astype(np.uint8).reshape(side, side))
        weight_HW = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64) / 255
        colour_HWC = mpl.colormaps["inferno"](weight_HW)[..., :3] * 255
        heat.append((0.35 * frame_HWC + 0.65 * colour_HWC).astype(np.uint8))
        cover = Image.fromarray(np.where(seen_N, 255, 0).astype(np.uint8).reshape(side, side))
        alpha_HW = np.asarray(cover.resize((width, height), Image.Resampling.NEAREST))
        shown.append(np.dstack([frame_HWC, alpha_HW]))
    size = FrameSize(frames=8, side=_MASK_SIDE, quality=0)
    return filmstrip(frames_THWC, size), filmstrip(np.stack(heat), size), filmstrip(np.stack(shown), size)


def training_curves(
    key: str, histories: Mapping[str, pd.DataFrame], others: Mapping[str, pd.DataFrame] | None = None
) -> Panels | None:
    """Return the curves of training runs, at most two, to be compared: a panel for each quantity; None where none was logged.

    Quantities that were the same all the time, such as no unreadable clips or two boxes in each, are left out; what was logged
    only once is shown unless it is zero.

    Args:
        key: short name, unique in the page.
        histories: rows by the name of the run, with a column ``step``.
        others: runs to see the two against, as thin grey lines behind them. What only they logged is not shown.
    """
    there = {label: rows for label, rows in histories.items() if not rows.empty}
    behind = {label: rows for label, rows in (others or {}).items() if not rows.empty}
    if not there:
        return None
    logged = pd.concat([rows.select_dtypes("number") for rows in there.values()])
    changing = {"step"} | {
        str(name)
        for name, values in logged.items()
        if values.nunique() > 1 or (values.count() == 1 and (values.dropna() != 0).all())
    }
    kept = {label: rows[[name for name in rows.columns if name in changing]] for label, rows in there.items()}
    names = list(dict.fromkeys(name for rows in kept.values() for name in _ordered_columns(rows)))
    return Panels([_curve(key, name, kept, behind) for name in names], list(kept), ", ".join(behind))


def _curve(key: str, name: str, histories: Mapping[str, pd.DataFrame], behind: Mapping[str, pd.DataFrame]) -> Panel:
    lines, others = (
        # Some rows alone have what is measured now and then.
        {label: rows.set_index("step")[name].astype(float).dropna() for label, rows in runs.items() if name in rows.columns}
        for runs in (histories, behind)
    )
    title = _LABELS.get(name, name.replace("_", " "))
    described = "; ".join(f"{label}: {_describe(values.to_numpy())}" for label, values in {**lines, **others}.items())

    def paint(axes: Axes) -> None:
        for values in others.values():
            axes.plot(values.index, _smooth(name, values), color=_INK, linewidth=0.8, alpha=0.55)
        for (label, values), colour in zip(lines.items(), _SERIES, strict=False):
            noisy = _is_noisy(name, values)
            width, alpha = (1, 0.3) if noisy else (1.8, 1)
            marker = "o" if len(values) == 1 or 2 * len(values) <= len(histories[label]) else ""
            axes.plot(values.index, values, color=colour, linewidth=width, alpha=alpha, marker=marker)
            if noisy:
                axes.plot(values.index, _smooth(name, values), color=colour, linewidth=1.8)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4))

    return Panel(title, _draw(f"{key}-{name}", f"{title} by step. {described}", paint))


def _is_noisy(name: str, values: pd.Series[float]) -> bool:
    return name not in _EXACT and len(values) >= _SMOOTH_FROM


def _smooth(name: str, values: pd.Series[float]) -> pd.Series[float]:
    if not _is_noisy(name, values):
        return values
    return values.rolling(max(3, len(values) // 20), min_periods=1, center=True).mean()


@dataclass(frozen=True)
class Span:
    """A value with the interval that it lies in, for :func:`spans_panel`.

    Attributes:
        label: what it is.
        low: the interval's lower end.
        value: the value.
        high: its upper end.
        bound: a value to see it against, such as a margin; None: zero alone.
    """

    label: str
    low: float
    value: float
    high: float
    bound: float | None = None


def spans_panel(key: str, title: str, spans: Sequence[Span], bound: str = "") -> Panel:
    """Return values with their intervals below each other on one axis, with zero and a bound of each marked.

    Args:
        key: short name, unique in the page.
        title: what they are, with its unit.
        spans: in order from above.
        bound: what their bounds are, for the description.
    """

    def paint(axes: Axes) -> None:
        for row, span in enumerate(spans):
            axes.plot([0.0, 0.0], [-row - 0.22, -row + 0.22], color=_INK, linewidth=0.9)
            axes.plot([span.low, span.high], [-row, -row], color=_SERIES[0], linewidth=3, solid_capstyle="round")
            axes.plot([span.value], [-row], color=_SERIES[0], marker="o", markersize=6)
            if span.bound is not None:
                axes.plot([span.bound] * 2, [-row - 0.22, -row + 0.22], color=_SERIES[1], linewidth=2)
            axes.annotate(
                span.label, (0, -row + 0.3), xycoords=("axes fraction", "data"), color=_INK, va="bottom", annotation_clip=False
            )
        ends = [0.0, *(end for span in spans for end in (span.low, span.high, span.bound) if end is not None)]
        reach = max(max(ends) - min(ends), 1e-6) * 0.06
        axes.set_xlim(min(ends) - reach, max(ends) + reach)
        axes.set_ylim(-len(spans) + 0.5, 0.75)
        axes.set_yticks([])
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: "0" if abs(value) < 1e-12 else f"{value:+g}"))

    described = "; ".join(
        f"{span.label}: {span.value:+.2f}, from {span.low:+.2f} to {span.high:+.2f}"
        + (f", {bound} {span.bound:+.2f}" if span.bound is not None else "")
        for span in spans
    )
    # Inches: as wide as a telephone shows it, and as high as the rows need.
    size = (4.2, 0.5 + 0.52 * len(spans))
    return Panel(title, _draw(key, f"{title}. {described}", paint, size), wide=True)


def points_panel(key: str, title: str, lines: Mapping[str, pd.Series[float]], shaded: tuple[float, str] | None = None) -> Panel:
    """Return lines through a few measured points each, on a line of its own in the page.

    Args:
        key: short name, unique in the page.
        title: what is measured, by what.
        lines: at most two, by name: the index is the place on the axis from left to right.
        shaded: what part of that axis from its beginning is shaded, and what is written there.
    """

    def paint(axes: Axes) -> None:
        for values, colour in zip(lines.values(), _SERIES, strict=False):
            axes.plot(values.index, values, color=colour, linewidth=1.8, marker="o", markersize=4)
        axes.set_xlim(0, max(float(values.index.max()) for values in lines.values()) * 1.03)
        axes.set_ylim(bottom=0)
        if shaded is not None:
            axes.axvspan(0, shaded[0], color=_GRID, alpha=0.5, linewidth=0)
            axes.annotate(shaded[1], (0.01, 0.97), xycoords="axes fraction", color=_INK, va="top")
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.yaxis.set_major_locator(MaxNLocator(5))

    told = [
        f"{label}: " + ", ".join(f"{value:.4g} at {place:.4g}" for place, value in values.items())
        for label, values in lines.items()
    ]
    if shaded is not None:
        told.append(f"{shaded[1]}: up to {shaded[0]:.4g}")
    return Panel(title, _draw(key, f"{title}. {'; '.join(told)}", paint, (4.2, 2.4)), wide=True)


def histogram_panel(key: str, title: str, values: np.ndarray) -> Panel:
    """Return a histogram of finite numbers."""
    values = values[np.isfinite(values)]

    def paint(axes: Axes) -> None:
        axes.hist(values, bins=24, color=_SERIES[0])
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))

    return Panel(title=title, svg=_draw(key, f"Histogram of {title}. {_describe(values)}", paint))


def counts_panel(key: str, title: str, edges: Sequence[float], counts: Sequence[int], log: bool) -> Panel:
    """Return a histogram whose values were counted before.

    Args:
        key: short name, unique in the page.
        title: what was counted, with its unit.
        edges: of the bins, one more than ``counts``.
        counts: values in each bin.
        log: whether the axis of the values is logarithmic.
    """

    def paint(axes: Axes) -> None:
        axes.stairs(counts, edges, fill=True, color=_SERIES[0])
        if log:
            axes.set_xscale("log")
            decades = math.log10(edges[-1] / edges[0])
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 2.5 else (1.0,)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_locator(NullLocator())
        else:
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=edges[-1] - edges[0] >= 2))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))

    ends = f"{sum(counts)} values from {edges[0]:.4g} to {edges[-1]:.4g}, at most {max(counts)} in one of {len(counts)} bins"
    scale = ", logarithmic scale" if log else ""
    return Panel(title=f"{title}{scale}", svg=_draw(key, f"Histogram of {title}. {ends}", paint))


def _ordered_columns(history: pd.DataFrame) -> list[str]:
    """Return numeric columns worth a panel: total loss, its parts, then speed; parts equal to the loss are left out."""
    numeric = [str(c) for c in history.select_dtypes("number").columns if history[c].notna().any()]
    parts = [c for c in numeric if c not in _NOT_PARTS]
    if "loss" in numeric:
        parts = [c for c in parts if not np.allclose(history[c], history["loss"], equal_nan=True)]
    return [c for c in ("loss",) if c in numeric] + parts + [c for c in _SPEED if c in numeric]


def _describe(values: np.ndarray) -> str:
    finite = values[np.isfinite(values)]
    if not len(finite):
        return "no finite value"
    ends = f"from {finite[0]:.4g} to {finite[-1]:.4g}, lowest {finite.min():.4g}, highest {finite.max():.4g}"
    return f"{len(finite)} values {ends}"


def _draw(key: str, description: str, paint: Callable[[Axes], None], size: tuple[float, float] = (3.6, 1.9)) -> str:
    """Let ``paint`` fill a pair of axes and return it as themed, scalable inline SVG of a size in inches."""
    key = re.sub(r"[^a-z0-9-]+", "-", key.lower())
    # Room for the ticks, of an equal width whatever the size.
    left, below = 0.468 / size[0], 0.247 / size[1]
    place = (left, below, 1 - left - 0.072 / size[0], 1 - below - 0.152 / size[1])
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": key, "path.simplify": True, "font.size": 9}):
        figure = Figure(figsize=size)
        axes = figure.add_axes(place)  # fixed: a layout engine would double the time
        for patch in (figure.patch, axes.patch):
            patch.set_visible(False)  # the page's own background, which may be dark
        paint(axes)
        axes.grid(True, axis="y", color=_GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(_GRID)
        axes.tick_params(colors=_INK, length=0)
        axes.xaxis.get_offset_text().set_color(_INK)
        axes.yaxis.get_offset_text().set_color(_INK)
        return _inline(_svg(figure), key, description)


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
