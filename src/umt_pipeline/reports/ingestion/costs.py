"""What each rule of an ingestion costs, and what other values of it would.

What is accepted is known to the last number, so a stricter rule can be counted. What a rule has refused is counted too, but a
file that was refused was not looked at any further: a laxer rule would let in at most what is refused now.

Shapes: F accepted files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from umt_pipeline.reports.ingestion.content import Choice, Loss, Option, Refused, RuleCosts, RulesInForce, ShareLimit, Threshold
from umt_pipeline.schemas import NOTHING_LOST, OTHERS_DECIDE, RowReason
from umt_pipeline.video.media import Reason

# Frames of the usual clips of 4 to 64 frames, and sides that networks and published corpora have.
_FRAMES = (2, 4, 8, 16, 32, 64, 128)
_SIDES = (32, 64, 112, 128, 160, 224, 256, 384)
_SHARES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
_WORDS = {
    "on_duplicate_content": ("keep", "reject", "error"),
    "on_content_in_two_splits": ("reject", "error"),
    "on_near_duplicates_across_splits": ("report", "reject", "error"),
}


def rule_costs(
    videos: pd.DataFrame,
    about: Mapping[str, pd.DataFrame],
    rejects: pd.DataFrame,
    alike: Sequence[Sequence[str]],
    listed: int,
    rules: RulesInForce,
) -> RuleCosts:
    """Count what the rules cost.

    Args:
        videos: accepted files, as :class:`umt_pipeline.schemas.Videos` says.
        about: accepted rows of the other tables, with ``video_id``, by the table's name.
        rejects: as :class:`umt_pipeline.schemas.Rejects` says.
        alike: groups of paths of files that look the same.
        listed: files in the raw table.
        rules: those in force.
    """
    costs = _Costs(videos, about, rejects, rules.splits)
    still_F = (videos["media"] != "video").to_numpy()
    frames_F = np.where(still_F, np.inf, videos["num_frames"].to_numpy(float))
    sides_F = videos[["width", "height"]].min(axis=1).to_numpy(float)
    again_F = videos.duplicated("sha256").to_numpy()
    nothing_F = np.zeros(len(videos), bool)
    leaks_F = _leaks(videos, alike, rules.splits)
    return RuleCosts(
        thresholds=(
            costs.threshold("min_frames", rules.min_frames, Reason.TOO_SHORT.value, frames_F, _FRAMES),
            costs.threshold("min_side", rules.min_side, Reason.TOO_SMALL.value, sides_F, _SIDES),
        ),
        choices=(
            costs.choice("on_duplicate_content", rules, RowReason.DUPLICATE_CONTENT, again_F),
            costs.choice("on_content_in_two_splits", rules, RowReason.CONTENT_IN_TWO_SPLITS, nothing_F),
            costs.choice("on_near_duplicates_across_splits", rules, RowReason.NEAR_DUPLICATE_IN_TWO_SPLITS, leaks_F),
            _bad_rows(rejects, list(about), rules.on_bad_row),
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
        self._rejected_with = rejects[(rejects["table"] != "videos") & (rejects["reason"] == RowReason.VIDEO_REJECTED)]

    def threshold(self, rule: str, now: int, reason: str, values_F: np.ndarray, asked: tuple[int, ...]) -> Threshold:
        """Return what values from ``now`` up would cost; ``values_F`` are the numbers that the rule asks about."""
        steps = tuple((value, self._loss(values_F < value)) for value in (now, *(value for value in asked if value > now)))
        return Threshold(rule=rule, now=now, refused=self._refused(reason), steps=steps)

    def choice(self, rule: str, rules: RulesInForce, reason: str, more_F: np.ndarray) -> Choice:
        """Return what each word would do with repeated content.

        Args:
            rule: the parameter.
            rules: its value, among others.
            reason: of the files that it rejects.
            more_F: accepted files that ``reject`` would reject.
        """
        refused, loss = self._refused(reason), self._loss(more_F)
        fewer = loss.videos + loss.images
        back = (-refused.files, {name: -rows for name, rows in refused.rows.items()})
        changes = {"keep": back, "report": back, "reject": (fewer, loss.rows)}
        there = refused.files + fewer > 0
        options = []
        for value in _WORDS[rule]:
            ends = value == "error" and there
            files, rows = changes.get(value, (0, dict.fromkeys(self._tables, 0)))
            options.append(Option(value=value, ends=ends, files=None if ends else files, rows={} if ends else rows))
        return Choice(rule=rule, now=getattr(rules, rule), options=tuple(options))

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


def _leaks(videos: pd.DataFrame, alike: Sequence[Sequence[str]], splits: tuple[str, ...]) -> np.ndarray:
    """Return which accepted files look like one of a split that is held out more, bool [F]."""
    split_of = dict(zip(videos["path"], videos["split"], strict=True))
    gone: set[str] = set()
    for group in alike:
        members = [path for path in group if path in split_of]
        kept = max((splits.index(split_of[path]) for path in members), default=0)
        gone |= {path for path in members if splits.index(split_of[path]) != kept}
    return videos["path"].isin(gone).to_numpy()


def _bad_rows(rejects: pd.DataFrame, tables: list[str], now: str) -> Choice:
    nothing = dict.fromkeys(tables, 0)
    ends = bool(rejects["reason"].isin(set(RowReason) - OTHERS_DECIDE).any())
    return Choice(
        rule="on_bad_row",
        now=now,
        options=(
            Option(value="reject", ends=False, files=0, rows=nothing),
            Option(value="error", ends=ends, files=None if ends else 0, rows={} if ends else nothing),
        ),
    )


def _share(rejects: pd.DataFrame, listed: int, now: float) -> ShareLimit:
    unusable = rejects[(rejects["table"] == "videos") & ~rejects["reason"].isin(NOTHING_LOST)]
    share = len(unusable) / listed if listed else 0.0
    limits = tuple((limit, share > limit) for limit in sorted({*_SHARES, now}))
    return ShareLimit(now=now, share=share, files=len(unusable), listed=listed, limits=limits)
