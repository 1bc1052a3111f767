"""`umt index --report`: search in a new index measured on captions, the cut-off kept beside it, and a page about both."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from umt_pipeline.reports.tables import percent
from umt_pipeline.tracking import provenance_tags

if TYPE_CHECKING:
    import pandas as pd

    from umt_pipeline.serving.embedder import Embedder
    from umt_pipeline.serving.index.reading import Index

PAGE = "report.html"


def report_search(embedder: Embedder, index: Index, captions: pd.DataFrame, rerank: int = 0) -> list[str]:
    """Measure search in an index, keep its cut-off, and write ``report.html`` and ``report.json`` into its folder.

    Args:
        embedder: the model of the index; it reads texts.
        index: an open index.
        captions: the columns of :func:`umt_pipeline.serving.captions.read_captions`.
        rerank: places to rank anew, to measure that, too; 0: it is not measured.

    Returns:
        Lines that say what was found, and where the page is.

    Raises:
        ConfigError: no caption is of a file of the index, or the model reads no text.
        IndexingError: the index is of another model.
    """
    from umt_pipeline.serving.calibration import Cutoff, keep_cutoff
    from umt_pipeline.serving.search_page import SYSTEMS, write_report
    from umt_pipeline.serving.search_report import measure

    report = measure(embedder, index, captions, rerank)
    lines = []
    for system, asked in report.asked.items():
        values = report.values(system)
        shares = ", ".join(f"{percent(values[f'r{k}'])} among the first {k}" for k in (1, 5, 10))
        lines.append(f"{SYSTEMS[system]}: of {len(asked)} captions, the file is {shares}")
    if isinstance(report.cutoff, Cutoff):
        keep_cutoff(index, report.cutoff)
        lines.append(report.cutoff.sentence)
    else:
        lines.append(report.cutoff)
    page = Path(index.folder) / PAGE
    origin = {"index": str(Path(index.folder).absolute()), "generation": index.generation, "model": index.model.source}
    write_report(report, page, {"run": provenance_tags(Path.cwd(), os.environ), "index": origin})
    return [*lines, f"report: {page}"]
