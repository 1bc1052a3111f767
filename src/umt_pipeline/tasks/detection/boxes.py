"""Tables of boxes: what a key frame and a box are known by, and which boxes lie at which people."""

from __future__ import annotations

import numpy as np
import pandas as pd

from umt_pipeline.video.box_views import box_iou

FRAME = ["video", "timestamp_s"]
BOX = ["x1", "y1", "x2", "y2"]


def best_overlaps(boxes: pd.DataFrame, people: pd.DataFrame, least: float) -> pd.DataFrame:
    """Return the person whom each box overlaps most in its key frame, of equals the first.

    Args:
        boxes: columns :data:`FRAME` and :data:`BOX`, rows numbered from 0.
        people: the same and any others.
        least: lowest intersection over union; boxes that overlap nobody so much are left out.

    Returns:
        Columns ``index`` (the box's row), the box and the person's other columns, those of largest overlap first.
    """
    pairs = boxes[[*FRAME, *BOX]].reset_index().merge(people, on=FRAME, suffixes=("", "_person"))
    theirs = pairs[[f"{edge}_person" for edge in BOX]].to_numpy(np.float64)
    pairs["iou"] = box_iou(pairs[BOX].to_numpy(np.float64), theirs)
    near = pairs[pairs["iou"] >= least].sort_values("iou", ascending=False, kind="stable")
    return near.drop_duplicates("index")
