"""The gate: is a challenger better than the champion, worse, or can it not be told?

Both were measured on the same items; what is compared is the difference on each. How far the difference could be chance is told
by a bootstrap over clips: as many clips as there are are drawn again and again, with replacement, and all items of a drawn clip
come with it, because the captions or boxes of one clip are hard or easy together. Both models have the same draws.

Clips that are alike in a number (as many items, as many hits of each model) are drawn together, by how many there are of each
kind: the same distribution as drawing clips one by one, at a cost that depends on the kinds. Of a recall with one caption a
clip there are four, however many clips there are.

Shapes: I items, V clips, P kinds of clips, B resamples of a block, S champions, T challengers, M = S + T.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from umt_pipeline.core.config import Config
from umt_pipeline.evaluation.evidence import measure_of, rows_of
from umt_pipeline.evaluation.metrics import EvaluationError

Outcome = Literal["promoted", "refused", "cannot_be_told"]

# Fewer clips say too little about others for an interval of this kind to hold what it promises.
MIN_CLIPS = 30
# Where models differ on fewer clips, all of them in one's favour happens by chance more often than an interval allows for: on
# five of five in one case of 32, on six of six in one of 64.
MIN_DIFFERENT = 6
# Numbers of a block of resamples, which bound the memory: 32 MB each time they are counted in double precision.
_BLOCK = 4_000_000


class GateParams(Config):
    """What a challenger must show.

    Attributes:
        metrics: numbers that must rise, named as in the metrics files, with the least rise in percentage points. Each must be a
            share of items, which more is better of (``t2v_r1``, ``top1``, ``accuracy``): see
            :class:`umt_pipeline.evaluation.evidence.Measure`.
        guards: numbers that must not fall by more than so many percentage points.
        confidence: of the intervals, two-sided.
        resamples: of the bootstrap.
        seed: of the bootstrap; the same numbers give the same verdict.
    """

    metrics: dict[str, float] = Field(min_length=1)
    guards: dict[str, float] = Field(default_factory=dict)
    confidence: float = Field(default=0.95, ge=0.5, lt=1)
    resamples: int = Field(default=10_000, ge=1_000)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if both := sorted(set(self.metrics) & set(self.guards)):
            raise ValueError(f"{both[0]!r} is a metric and a guard: what must rise need not be kept from falling")
        for name, least in (*self.metrics.items(), *self.guards.items()):
            if least < 0:
                raise ValueError(f"{name!r}: expected a margin or tolerance of at least 0 points, found {least}")
            measure = measure_of(name.rpartition("/")[2])
            if measure is not None and not measure.is_share:
                raise ValueError(f"{name!r} is no share of items that are right: take a recall, an accuracy or top1")
        return self


class MetricVerdict(Config):
    """What one number says.

    Attributes:
        name: as in the metrics files.
        verdict: ``promoted``: it rose by more than the margin, or, of a guard, did not fall by more than the tolerance;
            ``refused``: it did not, or fell; ``cannot_be_told``.
        champion: percent; of several the mean.
        challenger: likewise.
        difference: points, challenger minus champion.
        low: lower end of the interval of the difference.
        high: upper end.
        margin: of a metric, in points; None for a guard.
        tolerance: of a guard, in points; None for a metric.
        clips: that it was measured on.
        different: clips on which the models differ.
        reason: why, in words.
    """

    name: str
    verdict: Outcome
    champion: float
    challenger: float
    difference: float
    low: float
    high: float
    margin: float | None = None
    tolerance: float | None = None
    clips: int
    different: int
    reason: str


class Verdict(Config):
    """What the gate says.

    Attributes:
        verdict: ``promoted``: each metric rose by more than its margin, and no guard fell by more than its tolerance, as far as
            the intervals tell; ``refused``: an interval lies wholly on the wrong side; ``cannot_be_told`` else.
        reason: why, in a sentence.
        metrics: what each metric says, then each guard.
        champions: seeds of the champion.
        challengers: seeds of the challenger.
        confidence: of the intervals.
        resamples: of the bootstrap.
    """

    verdict: Outcome
    reason: str
    metrics: tuple[MetricVerdict, ...]
    champions: int
    challengers: int
    confidence: float
    resamples: int


def judge(champion: pd.DataFrame, challenger: pd.DataFrame, params: GateParams) -> Verdict:
    """Compare two models by their evidence; see :func:`judge_seeds`, of which this is one model of each."""
    return judge_seeds([champion], [challenger], params)


def judge_seeds(champions: Sequence[pd.DataFrame], challengers: Sequence[pd.DataFrame], params: GateParams) -> Verdict:
    """Compare two ways of training by the evidence of one or several models of each, trained with different seeds.

    With one model of each, the interval says what the difference of *these two models* would be on other clips of the same
    kind. It says nothing of another training: a seed that happened to be good is better, on any clips, and is promoted.

    With several, seeds are drawn as well as clips, and the interval is about the *mean difference of trainings* of the two
    ways, on other clips. One lucky seed among several does not carry it. Of k seeds k - 1 are drawn each time, so that the
    spread of their mean is not underestimated as it is by drawing k. Of two or three seeds an interval is still rough: expect
    one of 95 % to hold in about nine cases of ten. A side with a single model is taken as it is: the interval is then about
    that very model.

    Args:
        champions: evidence of each seed of the champion, tables of :class:`umt_pipeline.schemas.Evidence`.
        challengers: of each seed of the challenger, on the same items.
        params: what must rise, and what must not fall.

    Raises:
        EvaluationError: a side has no model, the evidence lacks what a number follows from, an item is there twice, or in one
            table only.
    """
    if not champions or not challengers:
        raise EvaluationError(
            f"gate: expected evidence of both sides, found {len(champions)} champions and {len(challengers)} challengers"
        )
    named = [(name, margin, False) for name, margin in params.metrics.items()]
    named += [(name, tolerance, True) for name, tolerance in params.guards.items()]
    found = tuple(_verdict(name, least, guard, _kinds_of(name, champions, challengers), params) for name, least, guard in named)
    verdict, reason = _together(found)
    return Verdict(
        verdict=verdict,
        reason=reason,
        metrics=found,
        champions=len(champions),
        challengers=len(challengers),
        confidence=params.confidence,
        resamples=params.resamples,
    )


# --- clips --------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Kinds:
    """Clips of a number, counted by kind.

    Args:
        clips_P: how many there are of each kind.
        items_P: items of such a clip.
        hits_PM: hits of each model on such a clip; champions come first.
        champions: S.
    """

    clips_P: np.ndarray
    items_P: np.ndarray
    hits_PM: np.ndarray
    champions: int

    @property
    def clips(self) -> int:
        return int(self.clips_P.sum())

    @property
    def different(self) -> int:
        """How many clips the sides differ on."""
        champion_P, challenger_P = self.hits_PM[:, : self.champions], self.hits_PM[:, self.champions :]
        return int(self.clips_P[~np.isclose(champion_P.mean(axis=1), challenger_P.mean(axis=1))].sum())

    def rates(self, clips_BP: np.ndarray) -> np.ndarray:
        """Return the percentage of hits of each model, float64 [B, M], if there were so many clips of each kind."""
        return 100.0 * (clips_BP @ self.hits_PM) / (clips_BP @ self.items_P)[:, None]


def _kinds_of(name: str, champions: Sequence[pd.DataFrame], challengers: Sequence[pd.DataFrame]) -> _Kinds:
    """Count the clips of a number by kind.

    Raises:
        EvaluationError: see :func:`judge_seeds`.
    """
    tables = [_hits(name, "champion", table) for table in champions]
    tables += [_hits(name, "challenger", table) for table in challengers]
    first = tables[0]
    for number, table in enumerate(tables[1:], start=1):
        _require_paired(name, first, table, "another champion" if number < len(champions) else "the challenger")
    hit_IM = np.stack([table["hit"].reindex(first.index).to_numpy() for table in tables], axis=1)
    clip_I = pd.factorize(first["video"])[0]
    items_V = np.bincount(clip_I)
    hits_VM = np.stack([np.bincount(clip_I, hit_I) for hit_I in hit_IM.T], axis=1)
    kinds, clips_P = np.unique(np.column_stack([items_V, hits_VM]), axis=0, return_counts=True)
    return _Kinds(clips_P, kinds[:, 0], kinds[:, 1:], len(champions))


def _hits(name: str, whose: str, evidence: pd.DataFrame) -> pd.DataFrame:
    """Return columns ``video`` and ``hit`` (0 or 1) by item."""
    try:
        rows, measure = rows_of(evidence, name)
    except EvaluationError as error:
        raise EvaluationError(
            f"gate, {whose}: {error}. Name what the evidence has, in the block `gate` of the parameters"
        ) from error
    if not measure.is_share:
        raise EvaluationError(f"gate: {name!r} is no share of items that are right: take a recall, an accuracy or top1")
    hit_I = measure.values(rows)
    if not np.isin(hit_I, (0.0, 1.0)).all():
        strange = hit_I[~np.isin(hit_I, (0.0, 1.0))]
        raise EvaluationError(f"gate, {whose}: expected 0 or 1 for each item of {name!r}, found {strange[0]}")
    table = pd.DataFrame({"video": rows["video"].to_numpy(), "hit": hit_I}, index=pd.Index(rows["item"].to_numpy()))
    if not table.index.is_unique:
        twice = table.index[table.index.duplicated()]
        raise EvaluationError(f"gate, {whose}: {len(twice)} items of {name!r} are there twice, the first is {twice[0]!r}")
    return table


def _require_paired(name: str, first: pd.DataFrame, other: pd.DataFrame, whose: str) -> None:
    missing, more = first.index.difference(other.index), other.index.difference(first.index)
    if len(missing) or len(more):
        parts = [
            f"{len(items):,} only {side} ({', '.join(map(str, items[:3]))}{', ...' if len(items) > 3 else ''})"
            for side, items in (("of the champion", missing), (f"of {whose}", more))
            if len(items)
        ]
        raise EvaluationError(
            f"gate: {name!r}: expected the same items of both, found {len(first):,} of the champion and {len(other):,} of "
            f"{whose}: {' and '.join(parts)}. They were measured on different clips or by different protocols: evaluate the "
            "champion again under today's"
        )
    video = other["video"].reindex(first.index)
    moved = first.index[(video != first["video"]).to_numpy()]
    if len(moved):
        raise EvaluationError(
            f"gate: {name!r}: {len(moved):,} items belong to another clip in the evidence of {whose}, the first is {moved[0]!r}"
        )


# --- resampling -----------------------------------------------------------------------------------------------------------
def _differences(kinds: _Kinds, params: GateParams, name: str) -> np.ndarray:
    """Return the difference of both sides in each resample, points, float64 [resamples]."""
    # A stream of its own for each number: another guard changes no other number's interval.
    rng = np.random.default_rng([params.seed, zlib.crc32(name.encode())])
    share_P = kinds.clips_P / kinds.clips
    challengers = kinds.hits_PM.shape[1] - kinds.champions
    found = []
    block = max(1, _BLOCK // len(share_P))
    for start in range(0, params.resamples, block):
        size = min(block, params.resamples - start)
        rate_BM = kinds.rates(rng.multinomial(kinds.clips, share_P, size=size).astype(np.float64))
        champion_B = (rate_BM[:, : kinds.champions] * _seed_shares(rng, size, kinds.champions)).sum(axis=1)
        challenger_B = (rate_BM[:, kinds.champions :] * _seed_shares(rng, size, challengers)).sum(axis=1)
        found.append(challenger_B - champion_B)
    # Shares of seeds are no round numbers: without it equal models would differ by rounding errors.
    return np.round(np.concatenate(found), 9)


def _seed_shares(rng: np.random.Generator, size: int, seeds: int) -> np.ndarray:
    """Return the share of each seed in resamples, float64 [size, seeds]."""
    if seeds == 1:
        return np.ones((size, 1))
    return rng.multinomial(seeds - 1, np.full(seeds, 1 / seeds), size=size) / (seeds - 1)


# --- verdicts -------------------------------------------------------------------------------------------------------------
def _verdict(name: str, least: float, guard: bool, kinds: _Kinds, params: GateParams) -> MetricVerdict:
    """Judge one number; ``least`` is a metric's margin or a guard's tolerance."""
    outside = (1 - params.confidence) / 2
    low, high = (float(end) for end in np.quantile(_differences(kinds, params, name), [outside, 1 - outside]))
    rate_M = kinds.rates(kinds.clips_P[None].astype(np.float64))[0]
    champion, challenger = float(rate_M[: kinds.champions].mean()), float(rate_M[kinds.champions :].mean())
    bound = -least if guard else least
    above = low >= bound if guard else low > bound
    verdict: Outcome = "promoted" if above else "refused" if high < bound else "cannot_be_told"
    limit = f"the tolerance of {least:g} points" if guard else f"the margin of {least:g} points"
    words = {
        "promoted": f"lies within {limit}" if guard else f"lies above {limit}",
        "refused": f"lies beyond {limit}" if guard else f"lies below {limit}",
        "cannot_be_told": f"reaches to both sides of {limit}",
    }
    why = f"the interval {words[verdict]}"
    if kinds.clips < MIN_CLIPS:
        verdict, why = "cannot_be_told", f"{kinds.clips} clips are too few to tell, at least {MIN_CLIPS} are needed"
    elif not guard and kinds.different < MIN_DIFFERENT:
        verdict = "cannot_be_told"
        why = f"the models differ on {kinds.different} of the clips, too few to tell; at least {MIN_DIFFERENT} are needed"
    told = (
        f"{name} {champion:.1f} -> {challenger:.1f} % ({challenger - champion:+.2f} points, {params.confidence:.0%} interval "
        f"{low:+.2f} to {high:+.2f}, {kinds.clips:,} clips): {why}"
    )
    return MetricVerdict(
        name=name,
        verdict=verdict,
        champion=champion,
        challenger=challenger,
        difference=challenger - champion,
        low=low,
        high=high,
        margin=None if guard else least,
        tolerance=least if guard else None,
        clips=kinds.clips,
        different=kinds.different,
        reason=told,
    )


def _together(found: Sequence[MetricVerdict]) -> tuple[Outcome, str]:
    """Return the verdict of all numbers, and why."""
    words: dict[Outcome, str] = {"refused": "Refused", "cannot_be_told": "It cannot be told", "promoted": "Promoted"}
    # Any refusal refuses, anything untold leaves it open; what is in order is then not the reason.
    verdict = next(outcome for outcome in words if any(one.verdict == outcome for one in found))
    return verdict, f"{words[verdict]}: {'; '.join(one.reason for one in found if one.verdict == verdict)}."
