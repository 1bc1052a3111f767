"""Records of a plan are found in an earlier one by content, as comparing line by line would."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from umt_pipeline.features import matching
from umt_pipeline.features.index import index_table, plan_schema
from umt_pipeline.features.matching import matching_lines

Line = dict[str, Any]
KEYS = [name for name in plan_schema(2).names if name != "split"]


def plan_of(lines: list[Line]) -> pa.Table:
    return pa.Table.from_pylist(lines, schema=plan_schema(2))


def index_of(lines: list[Line]) -> pa.Table:
    places_E2 = np.stack([np.arange(len(lines))] * 2, axis=1)
    return index_table(plan_of(lines), places_E2)


def one_by_one(plan: list[Line], earlier: list[Line]) -> list[int]:
    places = {repr([line[name] for name in KEYS]): number for number, line in enumerate(earlier)}
    return [places.get(repr([line[name] for name in KEYS]), -1) for line in plan]


@st.composite
def plans(draw: st.DrawFn) -> list[Line]:
    """Lines of which each clip and number is there once, with few values, so that many are equal to another plan's."""
    named = draw(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 2)), unique=True, max_size=8))
    few = st.integers(0, 1)
    return [
        {
            "video_id": clip,
            "split": draw(st.sampled_from(["train", "test"])),
            "view_number": number,
            "frame_indices": [0, draw(few)],
            "crop": [0, 0, 8, 8 + draw(few)],
            "flip": draw(st.booleans()),
            "video_sha256": draw(st.sampled_from("xy")) * 64,
        }
        for clip, number in named
    ]


@given(plans(), plans())
def test_lines_are_found_as_one_by_one(plan: list[Line], earlier: list[Line]) -> None:
    assert matching_lines(plan_of(plan), index_of(earlier)).tolist() == one_by_one(plan, earlier)


@given(plans(), st.randoms())
def test_a_plan_in_another_order_is_found_whole(plan: list[Line], random: Any) -> None:
    shuffled = random.sample(plan, len(plan))
    found = matching_lines(plan_of(plan), index_of(shuffled))
    assert [shuffled[line] for line in found] == plan


def test_pieces_and_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    line = {"split": "train", "frame_indices": [0, 1], "crop": [0, 0, 8, 8], "flip": False, "video_sha256": "x" * 64}
    lines = [{**line, "video_id": clip, "view_number": number} for clip in "abcde" for number in range(3)]
    earlier = lines[:7] + lines[:6:-1]
    monkeypatch.setattr(matching, "_COMPARED_AT_ONCE", 4)
    plan = pa.concat_tables([plan_of(lines[:4]), plan_of(lines[4:])])
    assert matching_lines(plan, index_of(earlier)).tolist() == [*range(7), *range(14, 6, -1)]
