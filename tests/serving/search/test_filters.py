"""Which files may be found: patterns of paths mean what they mean everywhere, and dates have zones."""

from __future__ import annotations

import gc
import weakref
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.serving.array_index import ArrayIndex
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.serving.search.filters import Filters, fitting

PARTS = st.text(alphabet="ab-/]![^*?.\\\n ü&~|{}(>", max_size=6)
# Most of them end, so that classes of characters are among them.
PATTERNS = st.one_of(PARTS, st.tuples(PARTS, PARTS, PARTS).map(lambda parts: f"{parts[0]}[{parts[1]}]{parts[2]}"))


@settings(max_examples=400, deadline=None)
@given(PATTERNS, st.lists(PARTS, min_size=1, max_size=5))
def test_a_pattern_fits_a_whole_path_or_from_a_slash_on(pattern: str, paths: list[str]) -> None:
    def fits(path: str) -> bool:
        starts = [0, *(place + 1 for place, character in enumerate(path) if character == "/")]
        return any(fnmatchcase(path[start:], pattern) for start in starts)

    assert fitting(pd.Series(paths), pattern).tolist() == [fits(path) for path in paths]


def test_no_pattern_takes_for_ever() -> None:
    assert not fitting(pd.Series(["a" * 2000] * 100), "*a" * 100 + "b").any()


def test_dates_have_zones() -> None:
    dates = ["2024-05-01T23:30:00+00:00", "2024-05-02T01:30:00.250000+02:00", "2024-05-02T00:00:00+00:00"]
    index = ArrayIndex(np.eye(3), [(row, 0.0, 1.0) for row in range(3)], {"date": dates}, Path("x"))

    def kept(**asked: str) -> list[int]:
        allowed = Filters(**asked).allowed(index)
        assert allowed is not None
        return np.flatnonzero(allowed).tolist()

    assert kept(after="2024-05-02") == [2], "UTC is meant"
    assert kept(after="2024-05-02T01:30+02:00") == [0, 1, 2]
    assert kept(after="2024-05-01T23:30:00.1", before="2024-05-02") == [1]
    with pytest.raises(ConfigError, match="before: expected a date"):
        kept(before="yesterday")


def labelled() -> ArrayIndex:
    """Three files of two windows each; the last one has no label."""
    windows = [(row, start, start + 1.0) for row in (2, 0, 1) for start in (0.0, 1.0)]
    files = {"label": ["ring", "star", None], "split": ["test", "train", "train"]}
    return ArrayIndex(np.eye(6), windows, files)


def test_windows_of_all_files_that_fit_pass() -> None:
    index = labelled()

    def kept(**asked: str) -> list[bool]:
        allowed = Filters(**asked).allowed(index)
        assert allowed is not None
        return allowed.tolist()

    assert kept(label="ring") == [False, False, True, True, False, False]
    assert kept(split="train") == [True, True, False, False, True, True]
    assert kept(split="train", label="star") == kept(path="1.mp4") == [False, False, False, False, True, True]
    assert kept(split="test", label="star") == [False] * 6
    assert Filters().allowed(index) is None
    with pytest.raises(ConfigError, match=r"label 'disc': expected one of 'ring', 'star'"):
        kept(label="disc")
    with pytest.raises(ConfigError, match="label 'None': expected"):
        kept(label="None")
    unknown = ArrayIndex(np.eye(1), [(0, 0.0, 1.0)])
    with pytest.raises(ConfigError, match="split 'train': expected one of none: no file has one"):
        Filters(split="train").allowed(unknown)


def test_a_filter_is_compared_once_and_forgotten_with_its_index() -> None:
    index, other = labelled(), labelled()
    allowed = Filters(label="ring").allowed(index)
    assert allowed is not None
    assert Filters(label="ring").allowed(index) is allowed
    assert Filters(label="ring").allowed(other) is not allowed
    assert not allowed.flags.writeable, "who hides more windows makes a copy"
    left = weakref.ref(index)
    del index
    gc.collect()
    assert left() is None
