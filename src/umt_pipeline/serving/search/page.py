"""The page of an index: what is found for captions of its files, when nothing is found, and what it takes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from umt_pipeline.core.files import staged_file, write_json
from umt_pipeline.reports.figures import counts_panel
from umt_pipeline.reports.page import Block, Cell, Example, Film, Page, Panel, Panels, Said, Section, Tile
from umt_pipeline.reports.render import render
from umt_pipeline.reports.tables import Scored, counted, facts, percent, score_table, table
from umt_pipeline.serving.inputs import Span, clip_of
from umt_pipeline.serving.search.calibration import BestScores, Cutoff
from umt_pipeline.serving.search.report import IOU_AT, Asked, SearchReport
from umt_pipeline.video.views import ViewConfig

SYSTEMS = {"dual": "Search", "reranked": "Search, re-ranked"}
_COLUMNS = {"r1": "R@1", "r5": "R@5", "r10": "R@10"}
_PLACES = {"place": "Mean overlap", **{f"place_r1_{100 * least:.0f}": f"R@1, overlap ≥ {least:g}" for least in IOU_AT}}
_VIEW = ViewConfig(frames=6, size=96)
_SHOWN = 3


def search_page(report: SearchReport) -> Page:
    """Return the page of what was measured."""
    first = report.asked["dual"]
    values, chance = report.values("dual"), report.chance["r1"]
    films: dict[str, tuple[str, Span | None]] = {}
    examples = [_example(one, films) for one in report.examples()]
    return Page(
        title="Search: report",
        summary=[
            f"Each of {counted(len(first), 'caption')} was searched for among {counted(report.facts['files'], 'file')}. In "
            f"{percent(values['r1'])} of the cases a file with this caption comes first (chance {percent(chance)})."
        ],
        tiles=[
            *(Tile(_COLUMNS[name], percent(values[name]), [f"chance {percent(report.chance[name])}"]) for name in _COLUMNS),
            *_cutoff_tiles(report.cutoff),
            Tile("A query takes", f"{report.milliseconds['dual']['median']:.1f} ms", ["median"]),
        ],
        notes=[report.cutoff] if isinstance(report.cutoff, str) else [],
        sections=[
            Section(
                "What is found",
                [_recall(report)],
                "How often a file that has the caption is among the first 1, 5 and 10 hits. A hit is a place in a file: "
                "neighbouring windows that answer are one. Of captions that several files have, each of these is right.",
            ),
            Section(
                "Places",
                [_places(report)],
                "Of captions that are about some seconds of their file: the overlap of these seconds and the place that was "
                "found, over their union. The mean is of the first hit in the right file, 0 if there is none; R@1 says how "
                "often the very first hit is the right place.",
                "No caption says which seconds of its file it is about (columns start_s and end_s), so what is measured is how "
                "often the right file is found.",
            ),
            Section("Nothing found", _nothing(report.scores, report.cutoff), _cutoff_words(report)),
            Section("Examples", examples, "Captions evenly spread, half of them found at once if there are so many."),
            Section(
                "What it takes",
                [_times(report), facts("The index", report.facts)],
                "A query is timed from its text to its hits, with the model's text encoder, on the machine of this report.",
            ),
        ],
        records=[record.model_dump(mode="json") for record in report.records],
        frames=lambda name: _frames(films, name),
    )


def write_report(report: SearchReport, page: Path, provenance: Mapping[str, Any]) -> None:
    """Write the page, and beside it, with the suffix ``.json``, its records.

    Args:
        report: what was measured.
        page: file to write, ``.html``.
        provenance: where the index and the captions come from; nested as you like.
    """
    html = render(search_page(report), provenance, {})
    with staged_file(page) as staged:
        staged.write_text(html, encoding="utf-8")
    write_json(page.with_suffix(".json"), [record.model_dump(mode="json") for record in report.records])


def _recall(report: SearchReport) -> Block | None:
    rows = [Scored(Cell(SYSTEMS[system]), report.values(system)) for system in report.asked]
    return score_table("Captions whose file is found, %", rows, _COLUMNS, {"Chance": report.chance})


def _places(report: SearchReport) -> Block | None:
    rows = [Scored(Cell(SYSTEMS[system]), report.values(system)) for system in report.asked]
    if "place" not in rows[0].values:
        return None
    return score_table("Captions whose place is found, %", rows, _PLACES, {})


def _cutoff_tiles(cutoff: Cutoff | str) -> list[Tile]:
    if isinstance(cutoff, str):
        return []
    wrong = [f"missed {percent(100 * cutoff.missed)}", f"invented {percent(100 * cutoff.invented)}"]
    return [Tile("Cut-off", f"{cutoff.score:.3f}", wrong)]


def _cutoff_words(report: SearchReport) -> str:
    hidden = (
        "captions of the same files, each asked while its own file and all with the same caption are hidden"
        if report.scores.hidden
        else "captions of files that are not in the index"
    )
    return (
        "What scores below the cut-off does not count as found. It is chosen where two kinds of errors together are fewest: "
        f"captions of files in the index for which nothing is found, and {hidden}, for which something is found. Each half of "
        "the files is judged by the cut-off that the other half chooses."
    )


def _nothing(scores: BestScores, cutoff: Cutoff | str) -> list[Block | None]:
    if isinstance(cutoff, str):
        return []
    rows = [
        ("Captions of files in the index", cutoff.present, "nothing is found", percent(100 * cutoff.missed)),
        ("Captions that nothing fits", cutoff.absent, "something is found", percent(100 * cutoff.invented)),
    ]
    edges = np.histogram_bin_edges(np.concatenate([scores.present_P, scores.absent_A]), bins=24)
    return [
        table(f"Errors of the cut-off {cutoff.score:.3f}", ("", "Captions", "Error", "Share"), rows),
        Panels(
            [
                _histogram("present", "best score, file in the index", scores.present_P, edges),
                _histogram("absent", "best score, nothing fits", scores.absent_A, edges),
            ]
        ),
    ]


def _histogram(key: str, title: str, values: np.ndarray, edges: np.ndarray) -> Panel:
    return counts_panel(key, title, edges.tolist(), np.histogram(values, edges)[0].tolist(), log=False)


def _times(report: SearchReport) -> Block | None:
    rows = [(SYSTEMS[system], *(f"{value:.1f}" for value in times.values())) for system, times in report.milliseconds.items()]
    return table("Milliseconds of a query", ("", *report.milliseconds["dual"]), rows)


def _example(asked: Asked, films: dict[str, tuple[str, Span | None]]) -> Example:
    """Return a caption with what was found for it; ``films`` learns what is to be shown."""
    found = list(zip(asked.hits, asked.right, strict=True))[:_SHOWN]
    said = tuple(
        Said(
            f"Rank {hit.rank}",
            note=f"score {hit.score:.3f}",
            films=(Film(_film(films, hit.path, (hit.start_s, hit.end_s)), right),),
        )
        for hit, right in found
    )
    verdict = f"rank {asked.rank}" if asked.rank else "not among the first ten"
    subject = Film(_film(films, asked.path, asked.span))
    return Example(asked.caption, subject, said, verdict, asked.rank == 1, about="the described file")


def _film(films: dict[str, tuple[str, Span | None]], path: str, span: Span | None) -> str:
    span = None if span is None or span[0] == span[1] else span
    where = "" if span is None else f", {span[0]:.1f} to {span[1]:.1f} s"
    name = f"{Path(path).name}{where}"
    if films.get(name, (path, span)) != (path, span):
        name = f"{path}{where}"
    films[name] = (path, span)
    return name


def _frames(films: Mapping[str, tuple[str, Span | None]], name: str) -> np.ndarray:
    path, span = films[name]
    return clip_of(path, _VIEW, span)
