"""Vectors of a folder of videos as files for others: Parquet or NumPy, with a manifest.

::

    OUT/
      manifest.json      model, rule, counts, and a hash of each of the other files; written last
      files.parquet      file_id, path, media, label, split, date; a row for each video
      left_out.parquet   path, reason, detail; a row for each file that is not in it
      windows.parquet    file_id, path, start_s, end_s, and of the form `parquet` vector: a list of E numbers
      vectors.npy        of the form `npy`: float32 [n, E], row by row as windows.parquet
      .known/            what was found out about files, with their vectors: the next run makes those of new files

Shapes: n windows, W windows of a file, E embedding width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from umt_pipeline.core.errors import ConfigError
from umt_pipeline.core.files import read_json, sha256_file, staged_file, write_json
from umt_pipeline.core.identity import fingerprint
from umt_pipeline.core.locking import only_writer
from umt_pipeline.serving.embedder import Embedder
from umt_pipeline.serving.embedding.embed import identity_of
from umt_pipeline.serving.embedding.gathering import LOOKED_FILE, Asked, Gathered, gather
from umt_pipeline.serving.embedding.shelf import Embedded, Shelf, forget_others
from umt_pipeline.video.probing import CACHE_FILE

Form = Literal["parquet", "npy"]
MANIFEST_FILE, WINDOWS_FILE, VECTORS_FILE = "manifest.json", "windows.parquet", "vectors.npy"
FILES_FILE, LEFT_OUT_FILE = "files.parquet", "left_out.parquet"
KNOWN = ".known"
FORMAT = 1
_WINDOWS_AT_ONCE = 16_384


@dataclass(frozen=True)
class Written:
    """What an export came to.

    Attributes:
        manifest: what ``manifest.json`` says.
        is_new: whether files were written; else they were in step already.
        gathered: what was found in the folder.
    """

    manifest: dict[str, Any]
    is_new: bool
    gathered: Gathered


def write_vectors(out: Path, asked: Asked, embedder: Embedder, source: str, form: Form) -> Written:
    """Embed a folder of videos into files; only what is new or has other content is embedded.

    Args:
        out: folder to write.
        asked: the folder of videos, and how it is looked through.
        embedder: the model.
        source: what it was loaded from.
        form: of the vectors.

    Raises:
        ConfigError: another process writes there, or ``out`` is a folder of other things; the folder of videos has none.
    """
    others = [path.name for path in out.iterdir() if not path.name.startswith(".")] if out.is_dir() else []
    if (others and MANIFEST_FILE not in others and not (out / KNOWN).is_dir()) or (out.exists() and not out.is_dir()):
        raise ConfigError(f"{out}: expected a folder that `umt embed` wrote, or none, found other things: give another --out")
    with only_writer(out):
        identity = identity_of(embedder, asked.rule)
        with Shelf(out / KNOWN / f"{identity}.sqlite") as shelf:
            gathered = gather(asked, embedder, out / KNOWN, lambda _: False, shelf)
            content = fingerprint(identity, form, gathered.files.to_dict("list"), gathered.left_out.to_dict("list"))
            manifest = _read_whole(out)
            is_new = manifest is None or manifest["content"] != content
            if manifest is None or is_new:
                # One that is there says that all is whole.
                (out / MANIFEST_FILE).unlink(missing_ok=True)
                names = _write(out, gathered, embedder.dim, shelf, form)
                manifest = {
                    "format": FORMAT,
                    "content": content,
                    "form": form,
                    "identity": identity,
                    "model": {"source": source, "kind": embedder.kind, "key": embedder.key, "dim": embedder.dim},
                    "view": embedder.view.model_dump(mode="json"),
                    "precision": embedder.encoder.precision,
                    "rule": asked.rule.model_dump(mode="json"),
                    "folder": str(asked.folder.resolve()),
                    "files": {"found": gathered.found, "embedded": len(gathered.files), "failed": len(gathered.failed)},
                    "windows": sum(map(shelf.count, gathered.files["file_id"])),
                    "seconds": {name: round(value, 3) for name, value in gathered.seconds.items()},
                    "sha256": {name: sha256_file(out / name) for name in names},
                }
                write_json(out / MANIFEST_FILE, manifest)
        # What is written is of this model and rule; the vectors of others are not needed again.
        forget_others(out / KNOWN, (f"{identity}.sqlite", LOOKED_FILE, CACHE_FILE))
    return Written(manifest, is_new, gathered)


def _read_whole(out: Path) -> dict[str, Any] | None:
    """Return the manifest of an export that is as it was written; None: there is none."""
    try:
        manifest: dict[str, Any] = read_json(out / MANIFEST_FILE)
        if manifest["format"] == FORMAT and all(sha256_file(out / name) == sha for name, sha in manifest["sha256"].items()):
            return manifest
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # it is written again: the vectors are on the shelf
    return None


def _write(out: Path, gathered: Gathered, dim: int, shelf: Shelf, form: Form) -> list[str]:
    for name, table in ((FILES_FILE, gathered.files), (LEFT_OUT_FILE, gathered.left_out)):
        with staged_file(out / name) as staged:
            table.to_parquet(staged, index=False)
    fields = [("file_id", pa.string()), ("path", pa.string()), ("start_s", pa.float64()), ("end_s", pa.float64())]
    schema = pa.schema(fields + ([("vector", pa.list_(pa.float32(), dim))] if form == "parquet" else []))
    with staged_file(out / WINDOWS_FILE) as staged, pq.ParquetWriter(staged, schema) as writer:
        for table, part_nE in _blocks(gathered.files, shelf):
            columns = [pa.array(table[name]) for name, _ in fields]
            if form == "parquet":
                columns.append(pa.FixedSizeListArray.from_arrays(pa.array(part_nE.ravel()), dim))
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
    names = [FILES_FILE, LEFT_OUT_FILE, WINDOWS_FILE]
    if form == "parquet":
        (out / VECTORS_FILE).unlink(missing_ok=True)
        return names
    with staged_file(out / VECTORS_FILE) as staged:
        windows = sum(map(shelf.count, gathered.files["file_id"]))
        vectors_NE = np.lib.format.open_memmap(staged, mode="w+", dtype=np.float32, shape=(windows, dim))
        start = 0
        for _, part_nE in _blocks(gathered.files, shelf):
            vectors_NE[start : start + len(part_nE)] = part_nE
            start += len(part_nE)
        vectors_NE.flush()
    return [*names, VECTORS_FILE]


def _blocks(files: pd.DataFrame, shelf: Shelf) -> Iterator[tuple[pd.DataFrame, np.ndarray]]:
    """Yield tables of windows with their vectors, some thousand at a time."""
    waiting: list[int] = []
    embedded: list[Embedded] = []
    rows = 0
    for row, file_id in enumerate(files["file_id"]):
        waiting.append(row)
        embedded.append(shelf.get(file_id))
        rows += len(embedded[-1].spans_W2)
        if rows >= _WINDOWS_AT_ONCE or row + 1 == len(files):
            # A table for each file would take longer than to write them.
            which_n = np.repeat(waiting, [len(one.spans_W2) for one in embedded])
            table = files[["file_id", "path"]].iloc[which_n].reset_index(drop=True)
            spans_n2 = np.concatenate([one.spans_W2 for one in embedded])
            yield (
                table.assign(start_s=spans_n2[:, 0], end_s=spans_n2[:, 1]),
                np.concatenate([one.vectors_WE for one in embedded]),
            )
            waiting, embedded, rows = [], [], 0
