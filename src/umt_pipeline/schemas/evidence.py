"""The pandera model of the evidence: what was found item by item."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pandera.pandas as pa

from umt_pipeline.schemas.models import NOT_BLANK, _not_blank, _Table


def _is_measured(cls: type, values: pd.Series) -> pd.Series:
    return pd.Series(np.isfinite(values) & (values >= 0), index=values.index)


class Evidence(_Table):
    """One row per item that a number is made of: :mod:`umt_pipeline.evaluation.evidence` says which numbers follow.

    Attributes:
        task: of the record whose values follow from the row, e.g. ``retrieval/test/stage2/dual``.
        metric: what was found of the item: ``correct`` (0 or 1), or a rank from 1 (``t2v_rank``, ``v2t_rank``, ``class_rank``).
        item: what was asked: a caption's id, a clip, a question's id, a box and its action. Once for each task and metric.
        video: the clip that the item belongs to. Items of one clip are not independent of each other.
        value: what was found. Of a clip that could not be read it is 0 or the last rank.
        answer: what the model said; null where it said nothing.
        truth: what was to be said; null where that is more than one text.
    """

    task: str
    metric: str
    item: str
    video: str
    value: np.float32
    answer: str = pa.Field(nullable=True)
    truth: str = pa.Field(nullable=True)

    _text = pa.check("task", "metric", "item", "video", error=NOT_BLANK)(_not_blank)

    _measured = pa.check("value", error="a finite number that is not negative")(_is_measured)

    class Config(_Table.Config):
        """An item counts once in a number."""

        unique = ("task", "metric", "item")
