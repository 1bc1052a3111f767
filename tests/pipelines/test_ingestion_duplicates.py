"""What is kept of files that look the same, and what the report says of them."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from tests.pipelines.test_ingestion import params
from umt_pipeline.core.errors import TableError
from umt_pipeline.pipelines.ingestion import duplicates
from umt_pipeline.pipelines.ingestion.params import IngestionParams
from umt_pipeline.pipelines.ingestion.rows import Refused
from umt_pipeline.video.near_duplicates import pack

# Three frames of one pattern each; the second differs from the first in two bits of each frame, the third in all.
FIRST, NEAR, OTHER = ("0f" * 8) * 3, ("0f" * 7 + "0c") * 3, ("f0" * 8) * 3


def videos(*rows: tuple[str, str, str, str]) -> pd.DataFrame:
    """Return accepted videos with rows of the raw table that are not all there."""
    table = pd.DataFrame(rows, columns=["path", "split", "sha256", "perceptual_hash"])
    return table.set_axis(pd.Index(range(1, 2 * len(rows) + 1, 2)))


def same_pictures(table: pd.DataFrame, settings: IngestionParams) -> tuple[Refused, dict[str, Any]]:
    return duplicates.same_pictures(pack(table["perceptual_hash"].tolist()), lambda places: table.iloc[places], settings)


CROSSING = videos(
    ("a.mp4", "train", "1", FIRST),
    ("b.mp4", "train", "2", OTHER),
    ("again.mp4", "train", "3", OTHER),
    ("c.mp4", "test", "4", NEAR),
    ("unknown.mp4", "test", "5", ""),
    ("flat.mp4", "train", "6", "0" * 48),
)


def test_groups_are_reported_those_that_cross_splits_first() -> None:
    refused, told = same_pictures(CROSSING, params())
    assert refused == {}
    assert told == {
        "bits": 20,
        "compared": 4,
        "not_compared": 2,
        "across_splits": 1,
        "groups": [
            {"files": ["a.mp4", "c.mp4"], "splits": ["test", "train"]},
            {"files": ["b.mp4", "again.mp4"], "splits": ["train"]},
        ],
    }
    assert same_pictures(CROSSING, params(near_duplicate_bits=5))[1]["across_splits"] == 0


def test_what_is_held_out_is_kept_or_the_run_ends() -> None:
    refused, told = same_pictures(CROSSING, params(on_near_duplicates_across_splits="reject"))
    assert refused == {1: ("near_duplicate_in_two_splits", "looks like c.mp4 of split test")}
    assert told["across_splits"] == 1
    with pytest.raises(TableError, match=r"a.mp4 \(train, row 1\), c.mp4 \(test, row 7\).*on_near_duplicates_across_splits"):
        same_pictures(CROSSING, params(on_near_duplicates_across_splits="error"))


def test_the_same_bytes_are_no_near_duplicates() -> None:
    same = videos(("a.mp4", "train", "1", FIRST), ("b.mp4", "train", "1", FIRST))
    assert same_pictures(same, params())[1]["groups"] == []
