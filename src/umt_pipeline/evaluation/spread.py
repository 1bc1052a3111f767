"""How far a number could be off because there are only so many test clips: a bootstrap over clips.

Shapes: V clips, P kinds of clips that are alike in items and hits, B resamples of a block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from umt_pipeline.evaluation.evidence import rows_of
from umt_pipeline.evaluation.gate import GateParams, judge

_BLOCK = 1_000  # resamples in memory at a time


@dataclass(frozen=True)
class Ranged:
    """A number in percent, and the interval that other draws of as many clips would give."""

    value: float
    low: float
    high: float


def ranged_share(evidence: pd.DataFrame, name: str, params: GateParams) -> Ranged:
    """Return a number of the gate with its interval.

    All items of a drawn clip come with it, since the captions or boxes of one clip are hard or easy together.

    Args:
        evidence: of one model.
        name: of a share of items, as in the metrics files.
        params: confidence, resamples and seed.

    Raises:
        EvaluationError: the evidence does not have what the number follows from.
    """
    rows, measure = rows_of(evidence, name)
    hits = pd.Series(measure.values(rows)).groupby(rows["video"].to_numpy())
    clips_V2 = np.stack([hits.sum().to_numpy(), hits.size().to_numpy(np.float64)], axis=1)
    kinds_P2, counts_P = np.unique(clips_V2, axis=0, return_counts=True)
    random = np.random.default_rng(params.seed)
    shares = []
    for start in range(0, params.resamples, _BLOCK):
        size = min(_BLOCK, params.resamples - start)
        drawn_B2 = random.multinomial(len(clips_V2), counts_P / len(clips_V2), size=size) @ kinds_P2
        shares.append(100.0 * drawn_B2[:, 0] / drawn_B2[:, 1])
    outside = (1 - params.confidence) / 2
    low, high = np.quantile(np.concatenate(shares), [outside, 1 - outside])
    total_2 = clips_V2.sum(axis=0)
    return Ranged(100.0 * float(total_2[0] / total_2[1]), float(low), float(high))


@dataclass(frozen=True)
class Paired:
    """Two numbers of one evaluation on the same items, and by how many points the second is more, with its own interval.

    Attributes:
        before: the first number.
        after: the second.
        difference: points; the items of both are drawn together, so that it is surer than the two.
        told: whether the interval tells that the second is more or less, by the rules of the gate.
    """

    before: Ranged
    after: Ranged
    difference: Ranged
    told: Literal["more", "less", "cannot_be_told"]


def paired_shares(evidence: pd.DataFrame, before: str, after: str) -> Paired:
    """Compare two systems of one evaluation; see :func:`umt_pipeline.evaluation.gate.judge`.

    Args:
        evidence: of one evaluation.
        before: a share of items, as in the metrics files: ``retrieval/test/control/dual/t2v_r1``.
        after: the same number of another system: ``retrieval/test/stage2/dual/t2v_r1``.

    Raises:
        EvaluationError: the evidence does not have what the numbers follow from, or not for the same items.
    """
    # The gate compares a number of two models by one name.
    tables = [rows_of(evidence, name)[0].assign(task="both") for name in (before, after)]
    number = "" if after in set(evidence["task"]) else after.rpartition("/")[2]
    params = GateParams(metrics={f"both/{number}".removesuffix("/"): 0.0})
    verdict = judge(tables[0], tables[1], params).metrics[0]
    told: dict[str, Literal["more", "less"]] = {"promoted": "more", "refused": "less"}
    return Paired(
        ranged_share(evidence, before, params),
        ranged_share(evidence, after, params),
        Ranged(verdict.difference, verdict.low, verdict.high),
        told.get(verdict.verdict, "cannot_be_told"),
    )
