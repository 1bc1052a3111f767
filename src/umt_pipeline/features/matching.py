"""Which records of an earlier store are those of a plan: for millions of rows, column by column.

Legend: R lines of the plan, E lines of the earlier store's index.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from umt_pipeline.features.index import column_of

# Lines that are compared at once, so that the copies of their columns stay small.
_COMPARED_AT_ONCE = 1 << 18


def matching_lines(plan: pa.Table, earlier: pa.Table) -> np.ndarray:
    """Return for each line of a plan the line of an earlier store's index of the same record, int64 [R]; -1 if there is none.

    Its line says what a record depends on besides the settings of the store: the video by its content, the view as realised,
    and the names from which the mask's noise is drawn; neither the file's path nor the split.

    Args:
        plan: one line for a clip's view of a number, as :func:`umt_pipeline.features.index.plan_rows` makes them.
        earlier: the same with places.
    """
    lines_R = np.full(len(plan), -1, dtype=np.int64)
    if not len(plan) or not len(earlier):
        return lines_R
    plan, earlier = plan.unify_dictionaries(), earlier.unify_dictionaries()
    clips_R, clips_E = _codes(plan, earlier, "video_id")
    views_R, views_E = (column_of(table, "view_number").to_numpy() for table in (plan, earlier))
    # Clip and number name a row, and there are about as many of both as there are rows.
    views = int(views_R.max()) + 1
    row_of = np.full((int(clips_R.max()) + 1) * views, -1, dtype=np.int64)
    row_of[clips_R * views + views_R] = np.arange(len(plan))
    lines = np.flatnonzero((clips_E >= 0) & (clips_E <= clips_R.max()) & (views_E < views))
    rows = row_of[clips_E[lines] * views + views_E[lines]]
    lines, rows = lines[rows >= 0], rows[rows >= 0]
    pairs = [_codes(plan, earlier, "video_sha256")]
    pairs += [(_values(plan, name), _values(earlier, name)) for name in ("flip", "frame_indices", "crop")]
    for start in range(0, len(rows), _COMPARED_AT_ONCE):
        own, its = rows[start : start + _COMPARED_AT_ONCE], lines[start : start + _COMPARED_AT_ONCE]
        same = np.logical_and.reduce([(a[own] == b[its]).reshape(len(own), -1).all(axis=1) for a, b in pairs])
        lines_R[own[same]] = its[same]
    return lines_R


def _codes(plan: pa.Table, earlier: pa.Table, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return numbers of the texts of a column in both tables, int64: -1 for a text that only the earlier one has."""
    texts = column_of(plan, name).dictionary
    found = []
    for table in (plan, earlier):
        column = column_of(table, name)
        codes = pc.index_in(column.dictionary, value_set=texts).fill_null(-1).to_numpy().astype(np.int64)
        found.append(codes[column.indices.to_numpy()])
    return found[0], found[1]


def _values(table: pa.Table, name: str) -> np.ndarray:
    """Return a column of numbers, or of lists of them, one per line."""
    column = column_of(table, name)
    if pa.types.is_fixed_size_list(column.type):
        return column.flatten().to_numpy().reshape(len(column), -1)
    return column.to_numpy(zero_copy_only=False)
