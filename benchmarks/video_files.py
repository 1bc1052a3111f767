"""Video files as the benchmarks' corpus: needs the decoders and pandas."""

from __future__ import annotations

import itertools
import logging
from dataclasses import asdict

import pandas as pd
from common import DATASET, Corpus, Place, Settings

from umt_pipeline.core.errors import VideoError
from umt_pipeline.data.mapped import write_mapped
from umt_pipeline.features.extract import FeatureConfig, plan_extraction
from umt_pipeline.features.runner import extract
from umt_pipeline.models.teacher import Teacher
from umt_pipeline.video.media import VideoRules
from umt_pipeline.video.reader import probe
from umt_pipeline.video.views import ViewConfig

logger = logging.getLogger("benchmark")


def list_files(place: Place, settings: Settings) -> Corpus:
    """Write the video table; files are repeated under other names, each with views of its own."""
    rows, refused = [], 0
    for path in sorted(path for path in place.media.rglob("*") if path.is_file()):
        try:
            info = probe(path, VideoRules())
        except VideoError as error:
            logger.warning("left out: %s: %s", path.name, error)
            refused += 1
        else:
            rows.append({**asdict(info), "path": str(path.relative_to(place.media))})
    if not rows:
        raise SystemExit(f"{place.media} holds no video that can be read")
    repeated = itertools.islice(itertools.cycle(rows), settings.clips)
    table = pd.DataFrame([{**row, "video_id": f"clip{number:05d}"} for number, row in enumerate(repeated)])
    table = table.assign(split="train", corpus=DATASET)
    table.to_parquet(place.videos)
    write_mapped(place.clips, table)
    files = pd.DataFrame(rows)
    sizes = (files["width"].astype(str) + " x " + files["height"].astype(str)).value_counts()
    return Corpus(
        files=len(files),
        refused=refused,
        clips=settings.clips,
        mean_frames=float(files["num_frames"].mean()),
        mean_kib=float(files["size_bytes"].mean()) / 2**10,
        sizes=sizes.index[0] if len(sizes) == 1 else f"{len(sizes)} sizes, mostly {sizes.index[0]}",
    )


def extract_files(place: Place, teacher: Teacher, view: ViewConfig) -> int:
    """Extract one view of each clip, and return the store's bytes."""
    config = FeatureConfig(dataset_id=DATASET, teacher=teacher.config, view=view, views=1, codec="int8", batch_size=4)
    plan = plan_extraction(config, teacher, pd.read_parquet(place.videos))
    return int(extract(config, teacher, plan, place.media, place.store)["store_bytes"])
