"""The study as one picture: every arm's accuracy, a dot per seed and a line at their mean, comparison by comparison."""

from __future__ import annotations

import io

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from studies.claims.arms import BASELINE
from studies.claims.findings import Findings

_UMT, _OTHER, _QUIET = "#0b6e99", "#b3541e", "#8a8a8a"


def figure_svg(findings: Findings) -> str:
    """Return one SVG file with a column per label task; the same findings give the same bytes."""
    rows = [
        (comparison.title if first else None, title, arm)
        for comparison in findings.shown
        for first, (arm, title) in _with_first(list(findings.titles(comparison)))
    ]
    height, heights, headings = 0.0, [], []
    for heading, _, _ in rows:
        if heading is not None:
            height += 1.6
            headings.append((height - 0.85, heading))
        heights.append(height)
        height += 1.0
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "claims", "font.size": 8}):
        figure = Figure(figsize=(10, 0.2 * height + 0.8), layout="constrained")
        axes = figure.subplots(1, len(findings.config.tasks), sharey=True, squeeze=False)[0]
        for column, (panel, task) in enumerate(zip(axes, findings.config.tasks, strict=True)):
            for where, (_, _, arm) in zip(heights, rows, strict=True):
                colour = _UMT if arm.name == BASELINE else _OTHER
                values = arm.accuracy[task]
                panel.plot(values, np.full(len(values), where), "o", color=colour, markersize=3.5, alpha=0.6, mew=0)
                panel.plot([arm.mean(task)] * 2, [where - 0.32, where + 0.32], color=colour, linewidth=2)
            if BASELINE in findings.arms:
                panel.axvline(findings.arms[BASELINE].mean(task), color=_UMT, linewidth=0.6, linestyle=":")
            for where, heading in headings if column == 0 else []:
                panel.annotate(
                    heading, (0, where), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points",
                    va="center", fontweight="bold", annotation_clip=False,
                )  # fmt: skip
            _dress(panel, f"{task}: top-1 in percent")
        axes[0].set_yticks(heights, [title for _, title, _ in rows])
        axes[0].set_ylim(height, -0.2)
        buffer = io.StringIO()
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


def _with_first(items: list) -> list:  # type: ignore[type-arg]
    return [(number == 0, item) for number, item in enumerate(items)]


def _dress(panel: Axes, title: str) -> None:
    panel.set_title(title, loc="left")
    panel.grid(axis="x", color="#dddddd", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)
    panel.spines["bottom"].set_color(_QUIET)
