"""What each rule of an ingestion costs, and what other values of it would.

What is accepted is known to the last number, so a stricter rule can be counted. What a rule has refused is counted too, but a
file that was refused was not looked at any further: a laxer rule would let in at most what is refused now.

Shapes: F accepted files.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from umt_pipeline.reports.ingestion.content import Choice, Loss, Option, Refused, RuleCosts, RulesInForce, ShareLimit, Threshold
from umt_pipeline.video.media import Reason

# Frames of the usual clips of 4 to 64 frames, and sides that networks and published corpora have.
_FRAMES = (2, 4, 8, 16, 32, 64, 128)
_SIDES = (32, 64, 112, 128, 160, 224, 256, 384)
_SHARES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
_DUPLICATE, _TWO_SPLITS = "duplicate_content", "content_in_two_splits"


def rule_costs(
    videos: pd.DataFrame,
    about: Mapping[str, pd.DataFrame],
    rejects: pd.DataFrame,
    listed: int,
    rules: RulesInForce,
) -> RuleCosts:
    """Count what the rules cost.

    Args:
        videos: accepted files, as :class:`umt_pipeline.schemas.Videos` says.
        about: accepted rows of the other tables, with ``video_id``, by the table's name.
        rejects: as :class:`umt_pipeline.schemas.Rejects` says.
        listed: files in the raw table.
        rules: those in force.
    """
    costs = _Costs(videos, about, rejects, rules.splits)
    still_F = (videos["media"] != "video").to_numpy()
    frames_F = np.where(still_F, np.inf, videos["num_frames"].to_numpy(float))
    sides_F = videos[["width", "height"]].min(axis=1).to_numpy(float)
    again = videos.duplicated("sha256").to_numpy()
    return RuleCosts(
        thresholds=(
            costs.threshold("min_frames", rules.min_frames, Reason.TOO_SHORT.value, frames_F, _FRAMES),
            costs.threshold("min_side", rules.min_side, Reason.TOO_SMALL.value, sides_F, _SIDES),
        ),
        choices=(
            costs.choice("on_duplicate_content", rules.on_duplicate_content, _DUPLICATE, again, ("keep", "reject", "error")),
            costs.choice("on_content_in_two_splits", rules.on_content_in_two_splits, _TWO_SPLITS, None, ("reject", "error")),
            _orphans(rejects, list(about), rules.on_orphan),
        ),
        rejected_share=_share(rejects, listed, rules.max_rejected_share),
    )


class _Costs:
    """Counts files and the rows about them."""

    def __init__(
        self, videos: pd.DataFrame, about: Mapping[str, pd.DataFrame], rejects: pd.DataFrame, splits: tuple[str, ...]
    ) -> None:
        self._videos, self._splits, self._tables = videos, splits, tuple(about)
        self._rows = {
            name: videos["video_id"].map(table["video_id"].value_counts()).fillna(0).to_numpy(np.int64)
            for name, table in about.items()
        }
        self._rejected = rejects[rejects["table"] == "videos"]
        self._rejected_with = rejects[(rejects["table"] != "videos") & (rejects["reason"] == "video_rejected")]

    def threshold(self, rule: str, now: int, reason: str, values_F: np.ndarray, asked: tuple[int, ...]) -> Threshold:
        """Return what values from ``now`` up would cost; ``values_F`` are the numbers that the rule asks about."""
        steps = tuple((value, self._loss(values_F < value)) for value in (now, *(value for value in asked if value > now)))
        return Threshold(rule=rule, now=now, refused=self._refused(reason), steps=steps)

    def choice(self, rule: str, now: str, reason: str, again_F: np.ndarray | None, values: tuple[str, ...]) -> Choice:
        """Return what each word would do with repeated content.

        Args:
            rule: the parameter.
            now: its value.
            reason: of the files that it rejects.
            again_F: accepted files that ``reject`` would reject; None: it has rejected them all.
            values: all words.
        """
        refused = self._refused(reason)
        loss = self._loss(np.zeros(len(self._videos), bool) if again_F is None else again_F)
        fewer = loss.videos + loss.images
        changes = {
            "keep": (-refused.files, {name: -rows for name, rows in refused.rows.items()}),
            "reject": (fewer, loss.rows),
        }
        there = refused.files + fewer > 0
        options = []
        for value in values:
            ends = value == "error" and there
            files, rows = changes.get(value, (0, dict.fromkeys(self._tables, 0)))
            options.append(Option(value=value, ends=ends, files=None if ends else files, rows={} if ends else rows))
        return Choice(rule=rule, now=now, options=tuple(options))

    def _loss(self, gone_F: np.ndarray) -> Loss:
        gone, left = self._videos[gone_F], self._videos[~gone_F]["split"].value_counts()
        return Loss(
            videos=int((gone["media"] == "video").sum()),
            images=int((gone["media"] == "image").sum()),
            hours=round(float(gone["duration_s"].sum()) / 3600, 6),
            rows={name: int(rows_F[gone_F].sum()) for name, rows_F in self._rows.items()},
            left={split: int(left.get(split, 0)) for split in self._splits},
        )

    def _refused(self, reason: str) -> Refused:
        files = self._rejected.loc[self._rejected["reason"] == reason, "video"]
        rows = self._rejected_with[self._rejected_with["video"].isin(set(files))]["table"].value_counts()
        return Refused(files=len(files), rows={name: int(rows.get(name, 0)) for name in self._tables})


def _orphans(rejects: pd.DataFrame, tables: list[str], now: str) -> Choice:
    unknown = rejects[rejects["reason"] == "unknown_video"]["table"].value_counts()
    nothing = dict.fromkeys(tables, 0)
    ends = bool(unknown.sum())
    return Choice(
        rule="on_orphan",
        now=now,
        options=(
            Option(value="reject", ends=False, files=0, rows=nothing),
            Option(value="error", ends=ends, files=None if ends else 0, rows={} if ends else nothing),
        ),
    )


def _share(rejects: pd.DataFrame, listed: int, now: float) -> ShareLimit:
    # Repeated content is found among files that can be used, and does not count against the limit.
    unusable = rejects[(rejects["table"] == "videos") & ~rejects["reason"].isin([_DUPLICATE, _TWO_SPLITS])]
    share = len(unusable) / listed if listed else 0.0
    limits = tuple((limit, share > limit) for limit in sorted({*_SHARES, now}))
    return ShareLimit(now=now, share=share, files=len(unusable), listed=listed, limits=limits)
