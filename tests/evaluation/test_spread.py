from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from umt_pipeline.evaluation.evidence import evidence_rows
from umt_pipeline.evaluation.gate import GateParams
from umt_pipeline.evaluation.spread import paired_shares, ranged_share

NAME = "retrieval/test/stage2/dual/t2v_r1"
PARAMS = GateParams(metrics={NAME: 0.0}, resamples=4_000)


def evidence(hits: np.ndarray, captions: int = 1):  # type: ignore[no-untyped-def]
    """Return evidence of captions of which each clip has so many, all hit or all missed."""
    videos = np.repeat([f"clip{index}" for index in range(len(hits))], captions)
    items = [str(index) for index in range(len(videos))]
    return evidence_rows(NAME.rpartition("/")[0], "t2v_rank", items, list(videos), np.where(np.repeat(hits, captions), 1, 7))


def test_the_interval_is_that_of_a_share() -> None:
    hits = np.arange(400) % 4 == 0
    found = ranged_share(evidence(hits), NAME, PARAMS)
    error = 196.0 * np.sqrt(0.25 * 0.75 / 400)
    assert found.value == 25.0
    assert found.low == pytest.approx(25.0 - error, abs=0.6)
    assert found.high == pytest.approx(25.0 + error, abs=0.6)
    assert ranged_share(evidence(hits), NAME, PARAMS) == found


def test_captions_of_one_clip_are_drawn_together() -> None:
    hits = np.arange(100) % 2 == 0
    one, five = (ranged_share(evidence(hits, captions), NAME, PARAMS) for captions in (1, 5))
    assert (five.value, five.low, five.high) == (one.value, one.low, one.high), "five of a kind tell no more than one"


def test_two_systems_of_one_evaluation_are_compared_caption_by_caption() -> None:
    before, after = np.arange(200) % 2 == 0, np.arange(200) % 8 != 1
    other = NAME.replace("stage2", "control")
    of_control = evidence(before).assign(task=other.rpartition("/")[0])
    both = pd.concat([of_control, evidence(after)], ignore_index=True)
    found = paired_shares(both, other, NAME)
    assert (found.before.value, found.after.value, found.difference.value) == (50.0, 87.5, 37.5)
    assert found.difference.high - found.difference.low < found.before.high - found.before.low, "hits of one are hits of both"
    assert found.told == "more"
    turned = paired_shares(both, NAME, other)
    assert (turned.told, turned.difference.value) == ("less", -37.5)
    same = pd.concat([of_control, evidence(before)], ignore_index=True)
    assert paired_shares(same, other, NAME).told == "cannot_be_told"
