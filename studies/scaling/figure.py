"""Throughput over devices, as one picture."""

from __future__ import annotations

import io
from collections.abc import Mapping

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from studies.scaling.parts import MODELS, Job
from studies.scaling.simulate import Pace

_COLOURS = ("#b3541e", "#d9a441", "#0b6e99", "#4a9a62")


def figure_svg(lines: Mapping[str, list[Job]], paces: Mapping[Job, Pace]) -> str:
    """Return one SVG file with a panel per model; the same paces give the same bytes.

    Args:
        lines: jobs by the title of their line, of all models.
        paces: what was simulated of them.
    """
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "scaling", "font.size": 8}):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        panels = figure.subplots(1, len(MODELS), sharey=True)
        for panel, name in zip(panels, MODELS, strict=True):
            for colour, (title, jobs) in zip(_COLOURS, lines.items(), strict=True):
                own = [job for job in jobs if job.name == name]
                gpus = [job.gpus for job in own]
                panel.plot(gpus, [paces[job].clips_per_s for job in own], "o-", color=colour, markersize=3, label=title)
                panel.plot(gpus, [job.ceilings()["computing"] for job in own], ":", color=colour, linewidth=0.8)
            panel.set_xscale("log", base=2)
            panel.set_yscale("log")
            panel.xaxis.set_major_locator(FixedLocator(gpus))
            panel.xaxis.set_minor_locator(NullLocator())
            panel.set_xticks(gpus, [str(number) for number in gpus])
            panel.set_xlabel("GPUs")
            panel.set_title(name, loc="left", fontweight="bold")
            panel.grid(alpha=0.25, linewidth=0.5)
            panel.spines[["top", "right"]].set_visible(False)
        panels[0].set_ylabel("clips/s; dotted: computing alone")
        panels[0].legend(frameon=False)
        buffer = io.StringIO()
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"
