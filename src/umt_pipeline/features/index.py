"""The rows of a feature store as an Arrow table: planned first, then given their places, then mapped by whoever reads it.

A plan has one line per row: a recorded view of a clip. The index of a store is its plan and where each row lies. It is kept
as one uncompressed Arrow file, whose buffers are mapped, not read: it is in memory once per machine, and only as far as it is
looked at. What is the same for all views of a clip is written once (dictionaries); a row takes 37 bytes and 4 for each frame.

Legend: R rows, T frames.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from umt_pipeline.core.errors import StoreError
from umt_pipeline.core.files import staged_file
from umt_pipeline.video.views import View, ViewConfig, make_view

if TYPE_CHECKING:
    import pandas as pd  # given by whoever has tables of it; training needs none

INDEX_FILE = "index.arrow"
PLACE = ("shard", "shard_row")
# Columns of a plan that are the same for all views of a clip: name here and in the table of clips.
_OF_A_CLIP = {"video_id": "video_id", "split": "split", "video_sha256": "sha256"}
_TEXT = pa.dictionary(pa.int32(), pa.string())


def plan_schema(frames: int) -> pa.Schema:
    """Return the columns of a plan of views of so many frames."""
    return pa.schema(
        [
            ("video_id", _TEXT),
            ("split", pa.dictionary(pa.int8(), pa.string())),
            ("view_number", pa.int32()),
            ("frame_indices", pa.list_(pa.int32(), frames)),
            ("crop", pa.list_(pa.int32(), 4)),
            ("flip", pa.bool_()),
            ("video_sha256", _TEXT),
        ]
    )


def index_schema(frames: int) -> pa.Schema:
    """Return the columns of an index: where a row lies, and those of :func:`plan_schema`."""
    return pa.schema([*((name, pa.int32()) for name in PLACE), *plan_schema(frames)])


def plan_rows(view: ViewConfig, dataset_id: str, views: int, clips: pd.DataFrame) -> pa.Table:
    """Draw the views of clips, a clip's views side by side.

    Args:
        view: how they are drawn.
        dataset_id: name of the corpus, part of what they are drawn by.
        views: how many of each clip.
        clips: columns video_id, split, num_frames, height, width, sha256; each clip once.

    Returns:
        A plan, in the order of ``clips``.
    """
    rows = views * len(clips)
    frames_RT, crops_R4 = np.empty((rows, view.frames), dtype=np.int32), np.empty((rows, 4), dtype=np.int32)
    flips_R = np.empty(rows, dtype=bool)
    row = 0
    for clip in clips[["video_id", "num_frames", "height", "width"]].itertuples(index=False):
        for number in range(views):
            drawn = make_view(view, dataset_id, clip[0], number, *(int(size) for size in clip[1:]))
            frames_RT[row], crops_R4[row], flips_R[row] = drawn.frame_indices, drawn.crop, drawn.flip
            row += 1
    numbers_R = np.tile(np.arange(views, dtype=np.int32), len(clips))
    schema = plan_schema(view.frames)
    texts = {name: texts_of_clips(clips[column], views, schema.field(name).type) for name, column in _OF_A_CLIP.items()}
    return pa.table(
        {
            **texts,
            "view_number": numbers_R,
            "frame_indices": pa.FixedSizeListArray.from_arrays(frames_RT.ravel(), view.frames),
            "crop": pa.FixedSizeListArray.from_arrays(crops_R4.ravel(), 4),
            "flip": flips_R,
        }
    ).select(schema.names)


def texts_of_clips(column: pd.Series, views: int, kind: pa.DictionaryType = _TEXT) -> pa.DictionaryArray:
    """Return a text of each clip as a column of a plan: once per view, each text kept once."""
    encoded = pa.array(column.tolist(), type=kind.value_type).dictionary_encode()
    codes_R = np.repeat(encoded.indices.to_numpy().astype(kind.index_type.to_pandas_dtype()), views)
    return pa.DictionaryArray.from_arrays(codes_R, encoded.dictionary)


def plan_fingerprint(plan: pa.Table) -> str:
    """Return a hash of what a plan says, whatever version of Arrow holds it."""
    digest = hashlib.sha256()
    for name in plan.schema.names:
        column = column_of(plan, name)
        digest.update(name.encode())
        if pa.types.is_dictionary(column.type):
            digest.update(json.dumps(column.dictionary.to_pylist()).encode())
            column = column.indices
        elif pa.types.is_fixed_size_list(column.type):
            column = column.flatten()
        digest.update(np.ascontiguousarray(column.to_numpy(zero_copy_only=False)).data)
    return digest.hexdigest()[:16]


def column_of(table: pa.Table, name: str) -> pa.Array:
    """Return a column as one array, without a copy where it is in one piece, as it is in a file of :func:`write_index`."""
    chunks = table.column(name).chunks
    return chunks[0] if len(chunks) == 1 else table.column(name).combine_chunks()


def clip_codes(table: pa.Table) -> np.ndarray:
    """Return a number per row, int32 [R], that is the same for the views of a clip alone."""
    return column_of(table, "video_id").indices.to_numpy()


def clip_count(table: pa.Table) -> int:
    """Return how many clips the rows of a table are views of."""
    return int(np.unique(clip_codes(table)).size)


def noise_keys(table: pa.Table) -> list[tuple[str, int]]:
    """Return clip and view number of each row: what the noise of its mask is drawn by."""
    return list(zip(table["video_id"].to_pylist(), table["view_number"].to_pylist(), strict=True))


def views_of(table: pa.Table, size: int) -> list[View]:
    """Return the views of a few rows, ``size`` pixels wide."""
    records = table.select(["frame_indices", "crop", "flip"]).to_pylist()
    return [View.from_dict({**record, "size": size}) for record in records]


def rows_in_order(rows: int, shard_rows: int) -> np.ndarray:
    """Return the places int64 [R,2] (shard, row in the shard) of rows that lie one after the other."""
    return np.stack(np.divmod(np.arange(rows, dtype=np.int64), shard_rows), axis=1)


def index_table(plan: pa.Table, places_R2: np.ndarray) -> pa.Table:
    """Return the index of a store: the planned rows, in the order of the plan, and where they lie.

    Args:
        plan: columns as :func:`plan_schema`, or those of an index, whose places are replaced.
        places_R2: shard and row in the shard.
    """
    frames = plan.schema.field("frame_indices").type.list_size
    placed = {name: pa.array(places_R2[:, number].astype(np.int32)) for number, name in enumerate(PLACE)}
    columns = {name: column_of(plan.unify_dictionaries(), name) for name in plan_schema(frames).names}
    return pa.table({**placed, **columns}, schema=index_schema(frames))


def places_of(table: pa.Table) -> np.ndarray:
    """Return the places int64 [R,2] (shard, row in the shard) that an index gives its rows."""
    return np.stack([column_of(table, name).to_numpy() for name in PLACE], axis=1).astype(np.int64)


def rows_by_shard(places_R2: np.ndarray) -> list[np.ndarray]:
    """Return the rows int64 of each shard, in the order in which they lie there."""
    if len(places_R2) == 0:
        return []
    shards_R, shard_rows_R = places_R2.T
    in_place = np.lexsort((shard_rows_R, shards_R))
    return np.split(in_place, np.searchsorted(shards_R[in_place], np.arange(1, shards_R.max() + 1)))


def write_index(folder: Path, table: pa.Table) -> None:
    """Write the index of a store, as one uncompressed record batch; whole or not at all."""
    with staged_file(folder / INDEX_FILE) as staged, pa.ipc.new_file(staged, table.schema) as writer:
        writer.write_table(table)


def read_index(folder: Path) -> pa.Table:
    """Map a store's index: nothing of it is read before it is asked for.

    Raises:
        StoreError: it is missing, no Arrow file, or has other columns.
    """
    path = folder / INDEX_FILE
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{path}: cannot be read: {error}. Make the feature store again") from error
    kinds = [field.type for field in table.schema if field.name == "frame_indices" and pa.types.is_fixed_size_list(field.type)]
    expected = index_schema(kinds[0].list_size if kinds else 1)
    if not table.schema.equals(expected):
        raise StoreError(f"{path}: expected columns {expected.names}, found {table.schema.names}")
    return table
