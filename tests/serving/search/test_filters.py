"""Which files may be found: patterns of paths mean what they mean everywhere, and dates have zones."""

from __future__ import annotations

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
