"""What an index is on disk.

::

    INDEX/
      current.json                 which generation is served, and the hash of its index.json
      generations/000007/          never changed once it is there
        index.json                 model, rule, counts, and a hash of each of the other files
        files.parquet              a row for each video
        left_out.parquet           a row for each file that is not in it, with the reason
        deleted.npy                rows of the segments that are not in it any more
        segment-NAME.npy           vectors, float32 [n, E]; the same file as in the generation before, where it is in both
        segment-NAME.parquet       of each vector: file_id, start_s, end_s
        segment-NAME.faiss         an approximate index of a large segment
      known/                       what was found out about files, and vectors of a build that was interrupted
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import IndexingError
from umt_pipeline.core.files import sha256_file, write_json
from umt_pipeline.serving.embedding.windows import WindowRule

FORMAT = 1
CURRENT_FILE = "current.json"
GENERATIONS = "generations"
KNOWN = "known"
MANIFEST_FILE = "index.json"
FILES_FILE = "files.parquet"
LEFT_OUT_FILE = "left_out.parquet"
DELETED_FILE = "deleted.npy"
FILE_COLUMNS = ("file_id", "path", "media", "duration_s", "label", "split", "date", "n_windows")
_AGAIN = "Build it again: `umt index FOLDER --model MODEL --out {folder}`"


class ModelFacts(Config):
    """The model whose vectors an index holds.

    Attributes:
        source: what it was loaded from.
        kind: such as ``stage2``.
        key: of :class:`~umt_pipeline.serving.embedder.Embedder`.
        dim: E.
        precision: that it ran in.
        frames: that it reads of a window.
        size: of a frame, in pixels.
    """

    source: str
    kind: str
    key: str
    dim: int
    precision: str
    frames: int
    size: int


class SegmentFacts(Config):
    """A segment of a generation.

    Attributes:
        name: of its files.
        rows: vectors, with those that are deleted.
        search: how the nearest of its vectors are found, as JSON: ``{"kind": "exact"}``, or an approximate kind with what it
            was measured at.
    """

    name: str
    rows: int
    search: dict[str, Any]

    @property
    def vectors_file(self) -> str:
        """Name of the vectors."""
        return f"segment-{self.name}.npy"

    @property
    def table_file(self) -> str:
        """Name of the table of windows."""
        return f"segment-{self.name}.parquet"

    @property
    def faiss_file(self) -> str:
        """Name of the approximate index, if it has one."""
        return f"segment-{self.name}.faiss"


class Manifest(Config):
    """What ``index.json`` says.

    Attributes:
        format: :data:`FORMAT`.
        generation: number, from 1.
        identity: of what the vectors depend on besides the files: model, rule, code.
        model: whose vectors they are.
        rule: by which files were cut.
        segments: in the order of their rows.
        sha256: of each file of the generation.
        facts: counts, seconds, bytes.
    """

    format: int
    generation: int
    identity: str
    model: ModelFacts
    rule: WindowRule
    segments: tuple[SegmentFacts, ...]
    sha256: dict[str, str]
    facts: dict[str, Any]


class Pointer(NamedTuple):
    """Which generation is served, and the hash of its manifest."""

    generation: int
    sha256: str


def generation_folder(folder: Path, generation: int) -> Path:
    """Return where a generation of an index is."""
    return folder / GENERATIONS / f"{generation:06d}"


def read_pointer(folder: Path) -> Pointer | None:
    """Return which generation of an index is served; None if none has become whole yet.

    Raises:
        IndexingError: the file that says so is damaged, or of another version.
    """
    path = folder / CURRENT_FILE
    if not path.is_file():
        return None
    found = _read_document(path, folder)
    try:
        return Pointer(int(found["generation"]), str(found["sha256"]))
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(folder, f"{path}: expected a generation and its hash, found {found}") from error


def write_pointer(folder: Path, generation: int) -> None:
    """Let a whole generation be the one that is served."""
    sha256 = sha256_file(generation_folder(folder, generation) / MANIFEST_FILE)
    write_json(folder / CURRENT_FILE, {"format": FORMAT, "generation": generation, "sha256": sha256})


def read_manifest(folder: Path, pointer: Pointer) -> Manifest:
    """Return what a generation says of itself.

    Raises:
        IndexingError: it is not there, damaged, or of another version.
    """
    path = generation_folder(folder, pointer.generation) / MANIFEST_FILE
    if not path.is_file():
        raise damaged(folder, f"{path}: expected generation {pointer.generation}, found nothing")
    found = _read_document(path, folder)
    if (sha256 := sha256_file(path)) != pointer.sha256:
        raise damaged(folder, f"{path}: expected SHA-256 {pointer.sha256}, found {sha256}")
    try:
        return Manifest.model_validate(found)
    except ValueError as error:
        raise damaged(folder, f"{path}: {error}") from error


def check_files(folder: Path, manifest: Manifest) -> None:
    """Compare each file of a generation with its hash.

    Raises:
        IndexingError: one is missing or is not what was written.
    """
    where = generation_folder(folder, manifest.generation)
    for name, expected in manifest.sha256.items():
        path = where / name
        if not path.is_file():
            raise damaged(folder, f"{path}: expected a file of generation {manifest.generation}, found nothing")
        if (found := sha256_file(path)) != expected:
            raise damaged(folder, f"{path}: expected SHA-256 {expected}, found {found}")


def damaged(folder: Path, what: str) -> IndexingError:
    """Return an error that says what is wrong with an index, and what to do."""
    return IndexingError(f"{what}. The index is damaged. {_AGAIN.format(folder=folder)} --anew")


def _read_document(path: Path, folder: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise damaged(folder, f"{path}: expected a JSON document, found: {error}") from error
    version = found.get("format") if isinstance(found, dict) else None
    if version != FORMAT:
        again = _AGAIN.format(folder=folder)
        raise IndexingError(f"{path}: expected an index of format {FORMAT}, found format {version}. {again} --anew")
    return dict(found)
