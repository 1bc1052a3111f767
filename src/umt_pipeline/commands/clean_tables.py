"""What the clean tables of a corpus say of its files, for an index of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from umt_pipeline.core.errors import ConfigError
from umt_pipeline.project_config import catalog_path, config_loader
from umt_pipeline.tables.folders import LABEL_TASK


def clean_tables(project: Path, env: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return what is known of the files of a corpus.

    Of several label tasks the one named ``label`` is taken, or the first by name.

    Args:
        project: its folder.
        env: the corpus, or ``base`` for the demo.

    Returns:
        path (absolute), label, split; and path, caption, split, start_s and end_s (NaN) of its captions.

    Raises:
        ConfigError: there is no such corpus, or it has not been ingested.
    """
    loader = config_loader(project, env)
    media = catalog_path(project, loader, "raw_media").resolve()
    tables = {}
    for name in ("videos", "labels", "captions"):
        file = catalog_path(project, loader, name)
        if not file.is_file():
            raise ConfigError(f"{file}: expected the clean table {name} of {env}, found nothing: run `dvc repro` of it first")
        tables[name] = pd.read_parquet(file)
    videos = tables["videos"].set_index("video_id")
    paths = pd.Series([str(media / path) for path in videos["path"]], index=videos.index)
    tasks = sorted(tables["labels"]["task"].unique(), key=lambda task: (task != LABEL_TASK, task))
    labels = tables["labels"][tables["labels"]["task"].isin(tasks[:1])].set_index("video_id")["label"]
    known = pd.DataFrame({"path": paths, "label": labels.reindex(videos.index), "split": videos["split"]})
    ids = tables["captions"]["video_id"]
    captions = pd.DataFrame(
        {"path": ids.map(paths), "caption": tables["captions"]["caption"], "split": ids.map(videos["split"])}
    )
    return known.reset_index(drop=True), captions.assign(start_s=np.nan, end_s=np.nan).reset_index(drop=True)
