"""An ingestion in a process of its own, which a test can kill."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pandas as pd
from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner

from umt_pipeline.datasets import TableDataset
from umt_pipeline.executors import OfflineParams
from umt_pipeline.pipelines.ingestion import create_pipeline
from umt_pipeline.pipelines.ingestion.params import IngestionParams

TABLES = ("videos", "captions", "labels", "questions", "boxes", "rejects")


def main(media: Path, out: Path) -> None:
    """Ingest the files of ``media`` by two workers, into ``out``."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    listed = pd.DataFrame({"video": sorted(path.name for path in media.iterdir()), "split": "train"})
    inputs = {
        "raw_media": media,
        "raw_videos": listed,
        "raw_captions": pd.DataFrame({"video": listed["video"], "caption": "a caption"}),
        "raw_labels": pd.DataFrame(columns=["video", "task", "label"]),
        "raw_questions": pd.DataFrame(),
        "raw_boxes": pd.DataFrame(),
        "params:ingestion": IngestionParams(dataset_id="t", splits=("train",), workers=2),
        "params:offline": OfflineParams(),
        "workspace": out / "workspace",
    }
    tables = {name: TableDataset(filepath=str(out / f"{name}.parquet")) for name in TABLES}
    catalog = DataCatalog({**{name: MemoryDataset(value) for name, value in inputs.items()}, **tables})
    SequentialRunner().run(create_pipeline(), catalog)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
