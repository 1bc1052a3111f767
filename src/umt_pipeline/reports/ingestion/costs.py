"""What each rule of an ingestion costs, and what other values of it would.

What is accepted is known to the last number, so a stricter rule can be counted. What a rule has refused is counted too, but a
file that was refused was not looked at any further: a laxer rule would let in at most what is refused now.

Shapes: F accepted files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from umt_pipeline.reports.ingestion.content import Choice, Loss, Option, Refused, RuleCosts, RulesInForce, ShareLimit, Threshold
from umt_pipeline.reports.ingestion.facts import Facts, KnownFile
from umt_pipeline.schemas import NOTHING_LOST, OTHERS_DECIDE, RowReason
from umt_pipeline.tables.blocks import Blocks
from umt_pipeline.tables.keys import hash_rows
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
    facts: Facts,
    rejects: Blocks,
    rejected: Mapping[tuple[str, str], int],
    leaking: Sequence[int],
    listed: int,
    rules: RulesInForce,
) -> RuleCosts:
    """Count what the rules cost.

    Args:
        facts: of the accepted files.
        rejects: as :class:`umt_pipeline.schemas.Rejects` says.
        rejected: how many of them are of which table and reason.
        leaking: places of accepted files that look like one of a split that is held out more.
        listed: files in the raw table.
        rules: those in force.
    """
    costs = _Costs(facts, rejects, rejected, rules.splits)
    frames_F = np.where(facts.still_F, np.iinfo(np.int32).max, facts.frames_F)
    nothing_F, leaks_F = np.zeros(len(frames_F), bool), np.zeros(len(frames_F), bool)
    leaks_F[list(leaking)] = True
    return RuleCosts(
        thresholds=(
            costs.threshold("min_frames", rules.min_frames, Reason.TOO_SHORT.value, frames_F, _FRAMES),
            costs.threshold("min_side", rules.min_side, Reason.TOO_SMALL.value, facts.sides_F, _SIDES),
        ),
        choices=(
            costs.choice("on_duplicate_content", rules, RowReason.DUPLICATE_CONTENT, facts.again_F),
            costs.choice("on_content_in_two_splits", rules, RowReason.CONTENT_IN_TWO_SPLITS, nothing_F),
            costs.choice("on_near_duplicates_across_splits", rules, RowReason.NEAR_DUPLICATE_IN_TWO_SPLITS, leaks_F),
            _bad_rows(rejected, list(facts.rows_of), rules.on_bad_row),
        ),
        rejected_share=_share(rejected, listed, rules.max_rejected_share),
    )


class _Costs:
    """Counts files and the rows about them."""

    def __init__(self, facts: Facts, rejects: Blocks, rejected: Mapping[tuple[str, str], int], splits: tuple[str, ...]) -> None:
        self._facts, self._rejects, self._rejected, self._splits = facts, rejects, rejected, splits
        self._tables = tuple(facts.rows_of)

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
        facts = self._facts
        left = np.bincount(facts.split_F[~gone_F], minlength=len(self._splits)).tolist()
        return Loss(
            videos=int((gone_F & ~facts.still_F).sum()),
            images=int((gone_F & facts.still_F).sum()),
            hours=round(float(facts.seconds_F[gone_F].sum()) / 3600, 6),
            rows={name: int(rows_F[gone_F].sum()) for name, rows_F in facts.rows_of.items()},
            left=dict(zip(self._splits, left, strict=True)),
        )

    def _refused(self, reason: str) -> Refused:
        """Return the files that were rejected for a reason, and the rows that were rejected with them."""
        files = self._rejected.get(("videos", reason), 0)
        rows = dict.fromkeys(self._tables, 0)
        if files:
            own = [block[(block["table"] == "videos") & (block["reason"] == reason)] for block in self._rejects]
            hashes = np.concatenate([hash_rows(part, "video") for part in own])
            for block in self._rejects:
                with_files = block[(block["table"] != "videos") & (block["reason"] == RowReason.VIDEO_REJECTED)]
                lost = with_files["table"][np.isin(hash_rows(with_files, "video"), hashes)]
                for name, count in lost.value_counts().items():
                    rows[str(name)] += int(count)
        return Refused(files=files, rows=rows)


def leaks(known: Mapping[str, KnownFile], alike: Sequence[Sequence[str]], splits: tuple[str, ...]) -> list[int]:
    """Return the places of accepted files that look like one of a split that is held out more.

    Args:
        known: accepted files by their paths, those in ``alike`` among them.
        alike: groups of paths of files that look the same.
        splits: all there may be, from the one trained on to the one held out most.
    """
    gone: set[int] = set()
    for group in alike:
        members = [known[path] for path in group if path in known]
        kept = max((splits.index(file.split) for file in members), default=0)
        gone |= {file.place for file in members if splits.index(file.split) != kept}
    return sorted(gone)


def _bad_rows(rejected: Mapping[tuple[str, str], int], tables: list[str], now: str) -> Choice:
    nothing = dict.fromkeys(tables, 0)
    ends = any(reason in set(RowReason) - OTHERS_DECIDE for _, reason in rejected)
    return Choice(
        rule="on_bad_row",
        now=now,
        options=(
            Option(value="reject", ends=False, files=0, rows=nothing),
            Option(value="error", ends=ends, files=None if ends else 0, rows={} if ends else nothing),
        ),
    )


def _share(rejected: Mapping[tuple[str, str], int], listed: int, now: float) -> ShareLimit:
    files = sum(rows for (table, reason), rows in rejected.items() if table == "videos" and reason not in NOTHING_LOST)
    share = files / listed if listed else 0.0
    limits = tuple((limit, share > limit) for limit in sorted({*_SHARES, now}))
    return ShareLimit(now=now, share=share, files=files, listed=listed, limits=limits)
