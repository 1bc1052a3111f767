"""The parts of the evaluation's page about data: what came in and was rejected, the clips, what the student sees of them."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd

from umt_pipeline.core.errors import VideoError
from umt_pipeline.evaluation.examples import spread
from umt_pipeline.evaluation.tables import Tables
from umt_pipeline.features.store import FeatureStore
from umt_pipeline.reports.evaluation.results import EvaluationResults
from umt_pipeline.reports.figures import histogram_panel, mask_picture
from umt_pipeline.reports.ingestion.rows import corpora_table, count_table
from umt_pipeline.reports.page import Cell, Fold, Panels, Row, Section, Strips, Table, Text, subsection
from umt_pipeline.reports.tables import byte_text, cell, table
from umt_pipeline.video.views import load_view

logger = logging.getLogger(__name__)

_TIMES = "\N{MULTIPLICATION SIGN}"
_FILES_NAMED = 12  # in one cell
_REJECTS_SHOWN = 200


def data_section(found: EvaluationResults) -> Section:
    """Return what came in, what was rejected and why, and what the corpus is like."""
    rejects = found.prepared.rejects
    fold = Fold("Every rejected row", [reject_table(rejects)]) if len(rejects) else Text("Nothing was rejected.")
    rows = subsection("Rows in, accepted, rejected", [count_table(found.prepared.ingestion), reason_table(rejects), fold])
    corpus = [corpora_table(found.prepared.ingestion), corpus_table(found.clips), _histograms(found.clips)]
    minutes = float(found.clips["duration_s"].sum()) / 60
    images = int(found.prepared.ingestion.get("media", {}).get("image", 0))
    stills = f" and {images:,} images" if images else ""
    explain = (
        f"The corpus holds {len(found.clips):,} accepted clips, {minutes:,.1f} minutes of video{stills}; {len(rejects):,} rows "
        "of the input tables were rejected."
    )
    return Section("Data", [*rows, *subsection("Corpus", corpus, "There is no video.")], explain)


def reason_table(rejects: pd.DataFrame) -> Table | None:
    """Return rejects grouped by table and reason, with the files."""
    rows = []
    for (name, reason), group in rejects.groupby(["table", "reason"], sort=True):
        files = list(dict.fromkeys(str(v) for v in group["video"]))
        more = f" and {len(files) - _FILES_NAMED:,} more" if len(files) > _FILES_NAMED else ""
        rows.append((str(reason), str(name), len(group), ", ".join(files[:_FILES_NAMED]) + more))
    return table("Reasons of rejection", ("Reason", "Table", "Rows", "Files"), rows, words=True)


def reject_table(rejects: pd.DataFrame) -> Table | None:
    """Return the rejected rows one by one, or so many of them."""
    rows = rejects.head(_REJECTS_SHOWN)[["video", "table", "row", "reason", "detail"]].itertuples(index=False, name=None)
    note = f"The first {_REJECTS_SHOWN:,} of {len(rejects):,} rows." if len(rejects) > _REJECTS_SHOWN else ""
    return table("Every rejected row", ("File", "Table", "Row", "Reason", "Detail"), rows, note, words=True)


def corpus_table(clips: pd.DataFrame) -> Table | None:
    """Return clips, length, frame rates, sizes and codecs per split."""
    if clips.empty:
        return None

    def span(column: pd.Series, digits: int = 0) -> Cell:
        low, middle, high = (float(v) for v in column.quantile([0, 0.5, 1]))
        text = f"{low:.{digits}f} to {high:.{digits}f}" if low < high else f"{low:.{digits}f}"
        return Cell(text, f"median {middle:.{digits}f}")

    rows = []
    for split, group in [*clips.groupby("split", sort=False), ("all", clips)]:
        sizes = (group["width"].astype(str) + _TIMES + group["height"].astype(str)).value_counts()
        shown = ", ".join(sorted(sizes.index[:3])) + (f" and {len(sizes) - 3:,} more" if len(sizes) > 3 else "")
        cells = (
            cell(len(group)),
            Cell(f"{group['duration_s'].sum() / 60:,.1f}"),
            span(group["duration_s"], 1),
            span(group["num_frames"]),
            span(group["fps"], 1),
            Cell(shown),
            Cell(", ".join(sorted({str(v) for v in group["codec"]}))),
            Cell(byte_text(float(group["size_bytes"].sum()))),
        )
        rows.append(Row(Cell(str(split)), cells, "reference" if str(split) == "all" else ""))
    head = ("Split", "Clips", "Minutes", "Seconds", "Frames", "Frames/s", "Pixels", "Codec", "On disk")
    return Table("Accepted clips", head, tuple(rows))


def _histograms(clips: pd.DataFrame) -> Panels | None:
    named = {"duration_s": "seconds per clip", "num_frames": "frames per clip", "fps": "frames per second"}
    panels = [histogram_panel(f"corpus-{name}", title, clips[name].to_numpy(dtype=float)) for name, title in named.items()]
    return Panels(panels) if len(clips) else None


def mask_pictures(store: FeatureStore, tables: Tables, count: int) -> list[Strips]:
    """Return a few records of the feature store with what the student sees of them, one per clip, spread evenly over it.

    Args:
        store: the store; one without rows (online training) gives no pictures.
        tables: say where the videos are, whose frames are read for stores that hold visible patches only.
        count: pictures.
    """
    rows = np.array(spread(store.first_rows().tolist(), count), dtype=np.int64)
    if len(rows) == 0:
        return []
    whole_frames = store.manifest.pixels == "frames"
    raw = store.read_raw(rows, ["attention", "visible", *(["pixels"] if whole_frames else [])])
    paths = dict(zip(tables.videos["video_id"], tables.videos["path"], strict=True))
    pictures = []
    for index, row in enumerate(rows):
        video_id = store.record(int(row))["video_id"]
        try:
            frames_THWC = (
                raw["pixels"][index].numpy()
                if whole_frames
                else load_view(tables.media_root / str(paths[video_id]), store.view(int(row)))
            )
        except (VideoError, KeyError) as error:
            logger.warning("report: no picture of the mask of clip %s: %s", video_id, error)
            continue
        attention_TN, visible_V = raw["attention"][index].float().numpy(), raw["visible"][index].numpy()
        pictures.append(mask_picture(video_id, frames_THWC, attention_TN, visible_V))
    return pictures
