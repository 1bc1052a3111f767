"""What a page may show of the clips themselves: retrieval examples and masks.

Shapes: Q text queries, C clips, T frames, N patches per frame, V visible patches.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from umt_pipeline.core.errors import VideoError
from umt_pipeline.evaluation.encoders import ClipLoader
from umt_pipeline.evaluation.results import MaskPicture, RetrievalExample
from umt_pipeline.evaluation.retrieval import RetrievalSet, SystemScores, query_ranks
from umt_pipeline.features.store import FeatureStore
from umt_pipeline.video.views import ViewConfig, load_view

logger = logging.getLogger(__name__)

TOP_SHOWN = 5


def choose_examples(
    data: RetrievalSet, systems: Sequence[SystemScores], count: int, shown: int = TOP_SHOWN
) -> list[RetrievalExample]:
    """Choose a few text-to-video queries and give every system's best clips for them.

    Half of the queries are hits of the first system and half are misses, spread evenly over the set, so that neither a
    lucky nor an unlucky choice is possible.

    Args:
        data: the set.
        systems: the first one decides what is a hit.
        count: queries.
        shown: clips per query.
    """
    ranks = [query_ranks(data, system)[0] for system in systems]
    hits, misses = np.flatnonzero(ranks[0] == 1), np.flatnonzero(ranks[0] > 1)
    wanted_hits = min(len(hits), max(count - count // 2, count - len(misses)))
    wanted_misses = min(len(misses), count - wanted_hits)
    examples = []
    for query in (*_spread(hits, wanted_hits), *_spread(misses, wanted_misses)):
        text = data.query_text_Q[query]
        for system, ranks_Q in zip(systems, ranks, strict=True):
            scores_C = system.text_to_video_UC[text]
            top = [clip for clip in np.argsort(-scores_C, kind="stable")[:shown] if np.isfinite(scores_C[clip])]
            examples.append(
                RetrievalExample(
                    set=data.name,
                    system=system.key,
                    query=data.texts[text],
                    query_video_id=data.video_ids[data.query_clip_Q[query]],
                    top=[data.video_ids[clip] for clip in top],
                    relevant=[bool(data.truth_UC[text, clip]) for clip in top],
                    rank=int(ranks_Q[query]),
                )
            )
    return examples


def example_clips(examples: Sequence[RetrievalExample], load: ClipLoader, view: ViewConfig) -> dict[str, np.ndarray]:
    """Return the frames uint8 [T,S,S,3] of each clip that the examples name; unreadable ones are left out."""
    names = {video_id for example in examples for video_id in (example.query_video_id, *example.top)}
    clips = {}
    for video_id in sorted(names):
        try:
            clips[video_id] = load(video_id, view)
        except VideoError as error:
            logger.warning("report: no picture of clip %s: %s", video_id, error)
    return clips


def mask_pictures(store: FeatureStore, videos: pd.DataFrame, media_root: Path, count: int) -> list[MaskPicture]:
    """Return a few records of the feature store, one per clip, spread evenly over it.

    Args:
        store: the store; one without rows (online training) gives no pictures.
        videos: clean table of videos, for stores that hold visible patches only.
        media_root: the paths in the table are relative to it.
        count: pictures.
    """
    first = store.index.drop_duplicates("video_id")["row"].to_numpy(np.int64)
    rows = np.array(_spread(first, min(count, len(first))), dtype=np.int64)
    if len(rows) == 0:
        return []
    whole_frames = store.manifest.pixels == "frames"
    raw = store.read_raw(rows, ["attention", "visible", *(["pixels"] if whole_frames else [])])
    paths = dict(zip(videos["video_id"], videos["path"], strict=True))
    pictures = []
    for place, row in enumerate(rows):
        video_id = str(store.index["video_id"].iloc[row])
        if whole_frames:
            frames = raw["pixels"][place].numpy()
        else:
            try:
                frames = load_view(media_root / str(paths[video_id]), store.view(int(row)))
            except (VideoError, KeyError) as error:
                logger.warning("report: no picture of the mask of clip %s: %s", video_id, error)
                continue
        pictures.append(
            MaskPicture(
                video_id=video_id,
                frames=frames,
                attention=raw["attention"][place].float().numpy(),
                visible=raw["visible"][place].numpy(),
            )
        )
    return pictures


def _spread(indices: np.ndarray, count: int) -> list[int]:
    if count == 0:
        return []
    return [int(index) for index in indices[np.linspace(0, len(indices) - 1, count).round().astype(int)]]
