"""How a feature store describes itself: the manifest.

Legend: T frames, S side of the view in pixels, N patches per frame, V visible patches per view, P values per patch,
K aligned layers, C target width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, ValidationError, model_validator

from umt_pipeline.compute.names import Precision
from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import StoreError
from umt_pipeline.core.files import read_json, sha256_file
from umt_pipeline.core.identity import PACKAGE, Identity, fingerprint, settings_of
from umt_pipeline.features.codecs import AnyCodec, ArraySpec, Fp16
from umt_pipeline.masking import Importance, MaskConfig
from umt_pipeline.models.teacher import TeacherConfig
from umt_pipeline.video.views import ViewConfig

# Up to version 3 the index was a Parquet file and the manifest had an object per shard and file.
SCHEMA_VERSION = 4
MANIFEST_FILE = "manifest.json"
LEARNT_FILE = "codec.safetensors"
REJECTS_FILE = "rejects.parquet"
# Settings of a store that none of its records depends on: which clips and views there are, how they are cut into shards, and
# the law that views are drawn by, all but their size: the index holds what it gave.
_NOT_OF_A_RECORD = frozenset({"schema_version", "shard_rows", "splits", "view.flip", "view.scales", "views"})


class TeacherIdentity(Config):
    """Which teacher made the targets, down to the bytes of its weights, and what its importance of patches is."""

    source: str
    id: str
    weights_sha256: str
    normalisation: str
    importance: Importance


class StoreSettings(Config):
    """What is recorded of each clip and how: what parameters ask for and what a store says of itself.

    Attributes:
        dataset_id: name of the corpus; part of the key from which views and masks are drawn.
        view: frames, size and augmentation of a view.
        patch_size: side of the student's patches in pixels.
        views: recorded views per clip; 0 writes a store without rows: the configuration for online training.
        mask: kind and hidden share.
        codec: how targets are stored.
        pixels: store the visible patches only, or whole frames.
        splits: splits to extract.
        shard_rows: rows per shard; an interrupted extraction loses at most one shard.
    """

    dataset_id: str = Field(min_length=1)
    view: ViewConfig
    patch_size: int = Field(16, ge=1)
    views: int = Field(ge=0)
    mask: MaskConfig = MaskConfig()
    codec: AnyCodec = Fp16()
    pixels: Literal["visible", "frames"] = "visible"
    splits: tuple[str, ...] = Field(("train",), min_length=1)
    shard_rows: int = Field(1024, ge=1)

    def settings(self) -> dict[str, Any]:
        """Return these settings alone, as JSON values by path, without how a store is cut into shards."""
        own = self.model_dump(mode="json", include=set(StoreSettings.model_fields) - {"shard_rows"})
        for name in ("view", "mask", "codec"):
            own |= {f"{name}.{key}": value for key, value in own.pop(name).items()}
        return own


class StoreHeader(StoreSettings):
    """What every record of a store has in common; all that is needed to compute the same targets again.

    ``code`` is the key of the code that recorded it, ``precision`` what the teacher ran in.
    """

    schema_version: int = SCHEMA_VERSION
    grid: int
    frames: int
    visible_per_frame: int
    layers: int
    layer_interval: float = 1.0
    target_dim: int
    teacher: TeacherIdentity
    precision: Precision = "fp32"
    versions: dict[str, str]
    code: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return self.model_dump(mode="json", exclude_none=True)

    def identity(self) -> Identity:
        """Return what the records depend on besides their rows."""
        settings = settings_of(self.model_copy(update={"versions": self.package_versions()}))
        return Identity({path: value for path, value in settings.items() if path != "code"}, {}, self.code)

    def record_identity(self) -> Identity:
        """Return what a record depends on besides its own line of the index (:mod:`umt_pipeline.features.matching`)."""
        identity = self.identity()
        settings = {path: value for path, value in identity.settings.items() if path not in _NOT_OF_A_RECORD}
        return Identity(settings, identity.inputs, identity.code)

    def package_versions(self) -> dict[str, str]:
        """Return the versions of the packages that decided the records; of this one it is the code, not the release."""
        return {name: version for name, version in self.versions.items() if name != PACKAGE}

    def teacher_config(self) -> TeacherConfig:
        """Return the settings that the teacher is loaded with to compute the same targets again."""
        settings = {"source": self.teacher.source, "normalisation": self.teacher.normalisation}
        return TeacherConfig.model_validate({"layers": self.layers, "interval": self.layer_interval, **settings})

    def target_arrays(self) -> dict[str, ArraySpec]:
        """Return those of :meth:`arrays` that hold the targets."""
        return self.codec.arrays(self.layers, self.frames * self.visible_per_frame, self.target_dim)

    def arrays(self) -> dict[str, ArraySpec]:
        """Return the arrays of a record, by name: element type and shape without the row axis."""
        visible = self.frames * self.visible_per_frame
        if self.pixels == "visible":
            pixels = ArraySpec(np.dtype("u1"), (visible, 3 * self.patch_size**2))
        else:
            pixels = ArraySpec(np.dtype("u1"), (self.frames, self.view.size, self.view.size, 3))
        return {
            "pixels": pixels,
            "attention": ArraySpec(np.dtype("<f2"), (self.frames, self.grid**2)),
            "visible": ArraySpec(np.dtype("<i4"), (visible,)),
            **self.target_arrays(),
        }

    def row_bytes(self) -> dict[str, int]:
        """Return the bytes of one record, by array."""
        return {name: spec.dtype.itemsize * int(np.prod(spec.shape)) for name, spec in self.arrays().items()}


class FileEntry(Config):
    """Size and hash of a file."""

    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> FileEntry:
        """Measure a file."""
        return cls(bytes=path.stat().st_size, sha256=sha256_file(path))


class FileColumns(Config):
    """Sizes and hashes of one array's files, one per shard."""

    bytes: tuple[int, ...]
    sha256: tuple[str, ...]


class ShardColumns(Config):
    """The shards of a store, in columns: a store has tens of thousands of files, and each opening reads this.

    Attributes:
        rows: records in each shard, dead ones included.
        files: by name of the array.
    """

    rows: tuple[int, ...] = ()
    files: dict[str, FileColumns] = Field(default_factory=dict)

    @classmethod
    def of(cls, rows: Sequence[int], files: Sequence[Mapping[str, FileEntry]]) -> ShardColumns:
        """Put together what is known of each shard."""
        names = files[0] if files else ()
        columns = {name: [shard[name] for shard in files] for name in names}
        return cls(
            rows=tuple(rows),
            files={
                name: FileColumns(bytes=tuple(entry.bytes for entry in column), sha256=tuple(entry.sha256 for entry in column))
                for name, column in columns.items()
            },
        )

    def __len__(self) -> int:
        return len(self.rows)

    def entry(self, shard: int, name: str) -> FileEntry:
        """Return size and hash of a file."""
        column = self.files[name]
        return FileEntry(bytes=column.bytes[shard], sha256=column.sha256[shard])

    def entries(self, shard: int) -> dict[str, FileEntry]:
        """Return size and hash of a shard's files, by name of the array."""
        return {name: self.entry(shard, name) for name in self.files}


class StoreManifest(StoreHeader):
    """A finished store.

    ``learnt`` is there if its codec learns and the store has rows. ``rows_dead`` counts what lies in the shards and is in no
    line of the index: records of an earlier store that this one does not want, and those of clips that could not be read,
    which ``rejects`` lists.
    """

    rows: int
    rows_dead: int = 0
    index: FileEntry
    learnt: FileEntry | None = None
    rejects: FileEntry | None = None
    shards: ShardColumns

    def header(self) -> StoreHeader:
        """Return what its records have in common, alone."""
        return StoreHeader.model_validate({name: getattr(self, name) for name in StoreHeader.model_fields})

    @model_validator(mode="after")
    def _shards_hold_the_rows(self) -> Self:
        held = self.shards.rows
        if sum(held) != self.rows + self.rows_dead or not all(count > 0 for count in held):
            raise ValueError(f"shards: expected {self.rows} rows and {self.rows_dead} dead ones, found {_shortened(held)}")
        if (self.learnt is not None) != (self.codec.sampled_tokens > 0 and self.rows > 0):
            raise ValueError(f"learnt: expected of codecs that learn alone, found codec {self.codec.kind!r}, {self.learnt}")
        files = self.shards.files
        if len(held) and set(files) != set(self.arrays()):
            raise ValueError(f"shards: expected the files {sorted(self.arrays())} in each, found {sorted(files)}")
        if any({len(column.bytes), len(column.sha256)} != {len(held)} for column in files.values()):
            raise ValueError(f"shards: expected size and hash of {len(held)} files of each array")
        return self


def read_manifest(folder: Path) -> StoreManifest:
    """Read a finished store's manifest.

    Raises:
        StoreError: it is missing, of another schema version or not a manifest.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise StoreError(f"{folder} is no finished feature store: {MANIFEST_FILE} is missing. Run teacher_features")
    try:
        content = read_json(path)
        found = content.get("schema_version") if isinstance(content, dict) else None
        if found != SCHEMA_VERSION:
            raise StoreError(
                f"{path}: expected schema_version {SCHEMA_VERSION}, found {found}. Make the store again: run teacher_features"
            )
        return StoreManifest.model_validate(content)
    except (ValueError, ValidationError) as error:
        raise StoreError(f"{path}: not a feature store's manifest: {error}") from error


def store_identity(folder: Path) -> str:
    """Return a fingerprint of a store's content and settings, whatever code, packages and version of the manifest recorded it.

    Raises:
        StoreError: see :func:`read_manifest`.
    """
    unasked = {"versions", "code", "schema_version"}
    return fingerprint(read_manifest(folder).model_dump(mode="json", exclude=unasked, exclude_defaults=True))


def _shortened(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:20]))
    return f"[{shown}]" if len(numbers) <= 20 else f"{len(numbers)} shards with {sum(numbers)} rows: [{shown}, …]"


def shard_name(shard: int) -> str:
    """Return the name of the folder of a shard."""
    return f"{shard:05d}"
