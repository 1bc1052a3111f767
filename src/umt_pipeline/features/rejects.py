"""Views that a store lacks, because a file that ingestion accepted could not be read when they were extracted.

While a store is made, each shard names such rows of its own (rejects.json); they keep their place there, dead. When it is
finished, no view of such a clip is left in its index, and rejects.parquet says which they were, and why.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as parquet

from umt_pipeline.core.errors import StoreError
from umt_pipeline.core.files import read_json, staged_file, write_json
from umt_pipeline.features.index import index_schema, index_table, places_of, read_index, write_index
from umt_pipeline.features.manifest import REJECTS_FILE

SHARD_REJECTS_FILE = "rejects.json"
# Of a view that could be read, or was not asked for, of a clip of which another one could not be: training sees all or none.
OTHER_VIEW = "other_view"
# What a reject has besides its line of the index: its number in the plan, its file, and why.
_MORE = (("row", pa.int64()), ("path", pa.string()), ("reason", pa.string()), ("detail", pa.string()))


@dataclass(frozen=True)
class Reject:
    """A row that could not be made.

    Attributes:
        shard_row: its place in its shard.
        reason: of :class:`umt_pipeline.core.errors.VideoError`.
        detail: what was expected and found.
    """

    shard_row: int
    reason: str
    detail: str


def rejects_in(shard: Path) -> tuple[Reject, ...]:
    """Return the rows of a shard's folder that could not be made; none if it is not there."""
    path = shard / SHARD_REJECTS_FILE
    return tuple(Reject(**entry) for entry in read_json(path)) if path.is_file() else ()


def write_shard_rejects(shard: Path, rejects: tuple[Reject, ...]) -> None:
    """Write down which rows of a shard could not be made, if there are such."""
    if rejects:
        write_json(shard / SHARD_REJECTS_FILE, [asdict(reject) for reject in rejects])


def rejects_table(index: pa.Table, paths: pa.ChunkedArray, found: dict[int, Reject]) -> pa.Table:
    """Return the rows that an index is to be without: those that could not be made, and the other views of their clips.

    Args:
        index: of all planned rows.
        paths: of the rows' files.
        found: what could not be made, by row.
    """
    rows = np.array(sorted(found), dtype=np.int64)
    clips = pa.array(set(index["video_id"].take(pa.array(rows)).to_pylist()), pa.string())
    rows = np.flatnonzero(pc.is_in(index["video_id"].cast(pa.string()), clips).to_numpy())
    other = Reject(0, OTHER_VIEW, "another view of this clip cannot be read")
    why = [found.get(row, other) for row in rows.tolist()]
    values = {
        "row": rows,
        "path": paths.take(pa.array(rows)).to_pylist(),
        "reason": [reject.reason for reject in why],
        "detail": [reject.detail for reject in why],
    }
    table = index.take(pa.array(rows))
    for name, kind in _MORE:
        table = table.append_column(name, pa.array(values[name], kind))
    return table


def without(index: pa.Table, rejected: pa.Table) -> pa.Table:
    """Return an index without the clips that were rejected."""
    if len(rejected) == 0:
        return index
    clips = pa.array(set(rejected["video_id"].to_pylist()), pa.string())
    kept = index.filter(pc.invert(pc.is_in(index["video_id"].cast(pa.string()), clips)))
    return index_table(kept, places_of(kept))


def write_rejects(folder: Path, table: pa.Table) -> None:
    """Write the table of :func:`rejects_table` into a store."""
    with staged_file(folder / REJECTS_FILE) as staged:
        parquet.write_table(table, staged)


def read_rejects(folder: Path) -> pa.Table:
    """Read which planned rows a store lacks, and why; without rows where it lacks none.

    Returns:
        Columns of the index, ``row`` (in the plan), ``path``, ``reason``, ``detail``.

    Raises:
        StoreError: it cannot be read, or has other columns.
    """
    path = folder / REJECTS_FILE
    if not path.is_file():
        return pa.schema([*index_schema(1), *_MORE]).empty_table()
    try:
        table = parquet.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{path}: cannot be read: {error}. Make the feature store again") from error
    expected = [*index_schema(1).names, *(name for name, _ in _MORE)]
    if table.schema.names != expected:
        raise StoreError(f"{path}: expected columns {expected}, found {table.schema.names}")
    return table


def restore_index(folder: Path) -> None:
    """Bring the whole index of a store back, if rejected rows were taken out of it: they are to be tried again."""
    if not (folder / REJECTS_FILE).is_file():
        return
    kept, rejected = read_index(folder), read_rejects(folder)
    if not pc.any(
        pc.is_in(kept["video_id"].cast(pa.string()), rejected["video_id"].cast(pa.string()).combine_chunks())
    ).as_py():
        rows = rejected["row"].to_numpy()
        others = np.setdiff1d(np.arange(len(kept) + len(rows)), rows)
        taken_out = pa.Table.from_pylist(rejected.select(kept.schema.names).to_pylist(), schema=kept.schema)
        whole = pa.concat_tables([kept, taken_out]).take(pa.array(np.argsort(np.concatenate([others, rows]))))
        write_index(folder, index_table(whole, places_of(whole)))
    (folder / REJECTS_FILE).unlink()
