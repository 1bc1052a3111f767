"""Segments of an index: vectors that were added together, with the places that they are of; written once, never changed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd

from umt_pipeline.serving.index.layout import SegmentFacts
from umt_pipeline.serving.index.nearest import exact


@dataclass(frozen=True)
class Segment:
    """A segment, opened.

    Args:
        facts: about it.
        where: folder of a generation that it is in.
        vectors_NE: float32, memory-mapped.
    """

    facts: SegmentFacts
    where: Path
    vectors_NE: np.ndarray

    @classmethod
    def open(cls, where: Path, facts: SegmentFacts) -> Self:
        """Open a segment of a generation, whose files were checked."""
        return cls(facts, where, np.load(where / facts.vectors_file, mmap_mode="r"))

    @cached_property
    def table(self) -> pd.DataFrame:
        """Of each vector: file_id, start_s, end_s."""
        return pd.read_parquet(self.where / self.facts.table_file)

    def nearest(self, queries_QE: np.ndarray, k: int, allowed_N: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Return the scores and rows of the nearest vectors of those that are allowed; see :meth:`Index.nearest`."""
        return exact(self.vectors_NE, queries_QE, k, allowed_N)
