"""The clean tables, as an evaluation reads them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd


@dataclass(frozen=True)
class Tables:
    """The clean tables, and the folder that the videos' paths are relative to.

    Videos and captions hold images too, which are trained on, never measured on; labels may be empty.
    """

    videos: pd.DataFrame
    captions: pd.DataFrame
    labels: pd.DataFrame
    media_root: Path

    def clips(self, split: str) -> list[str]:
        """Return the videos of a split, sorted."""
        wanted = (self.videos["split"] == split) & (self.videos["media"] == "video")
        return sorted(self.videos.loc[wanted, "video_id"])

    def label_of(self, task: str) -> dict[str, str]:
        """Return the label of each clip in one task."""
        rows = self.labels[self.labels["task"] == task]
        return dict(zip(rows["video_id"], rows["label"], strict=True))
