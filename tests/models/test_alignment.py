"""Which blocks are aligned."""

from __future__ import annotations

import pytest

from umt_pipeline.models.alignment import aligned_layers


def test_which_layers_are_aligned() -> None:
    assert aligned_layers(12, 6) == [6, 7, 8, 9, 10, 11]
    assert aligned_layers(12, 6, 2) == [1, 3, 5, 7, 9, 11]
    assert aligned_layers(12, 4, 1.5) == [7, 8, 10, 11], "the published rule rounds down"
    for depth, count, interval in ((4, 5, 1), (4, 3, 2), (4, 2, 0.5), (4, 0, 1)):
        with pytest.raises(ValueError, match=f"cannot align {count} of {depth} blocks at an interval of"):
            aligned_layers(depth, count, interval)
