"""What is known of a run beside its results: kept in the workspace, so that MLflow can be told of it later."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from umt_pipeline.core.config import Config
from umt_pipeline.core.files import read_json, write_json
from umt_pipeline.core.nested import dotted

# Tags of our own. By KEY a run is known even where MLflow took it and its answer was lost; OUTPUTS.PIPELINE says that all
# that the finished files of a pipeline say is there; JOIN is the same for the runs of one reproduction; DEPENDENCIES is a hash
# of what the run depends on.
KEY = "umt.run"
CORPUS = "umt.corpus"
OUTPUTS = "umt.outputs"
JOIN = "umt.join"
DEPENDENCIES = "dvc.dependencies"

FOLDER = "tracking"
Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]


def now_ms() -> int:
    """Return the time in milliseconds since 1970."""
    return int(time.time() * 1000)


class Input(Config):
    """A file or folder that a run reads.

    Attributes:
        name: of the dataset.
        path: in the project, or absolute outside it.
        md5: as DVC knows it.
    """

    name: str
    path: str
    md5: str


class RunRecord(Config):
    """A run of pipelines.

    Attributes:
        name: its name in MLflow: the pipelines.
        corpus: of which corpus.
        key: tells it from every other run.
        began_ms: milliseconds since 1970.
        ended_ms: the same; None while it runs.
        status: as MLflow calls it.
        tags: provenance.
        params: every parameter, flattened.
        inputs: what it reads.
        dependencies: md5 of everything that the DVC stage depends on, by path.
        made: tags of data and models that the run made.
        outputs: digest of the finished files, by pipeline.
    """

    name: str
    corpus: str
    key: str = Field(default_factory=lambda: uuid.uuid4().hex)
    began_ms: int = Field(default_factory=now_ms)
    ended_ms: int | None = None
    status: Status = "RUNNING"
    tags: dict[str, str]
    params: dict[str, str]
    inputs: tuple[Input, ...]
    dependencies: dict[str, str]
    made: dict[str, str] = Field(default_factory=dict)
    outputs: dict[str, str] = Field(default_factory=dict)

    def ended(self, status: Status, made: Mapping[str, str]) -> RunRecord:
        """Return the record of the same run, ended now."""
        return self.model_copy(update={"status": status, "ended_ms": now_ms(), "made": dict(made)})

    def complete(self, digests: Mapping[str, str]) -> RunRecord:
        """Return the record of the same run, of which the finished files have these digests, by pipeline; "" is in part."""
        return self.model_copy(update={"outputs": {name: digest for name, digest in digests.items() if name}})

    def last_tags(self) -> dict[str, str]:
        """Return the tags that a run gets at its end."""
        return {**self.made, **{f"{OUTPUTS}.{pipeline}": digest for pipeline, digest in self.outputs.items()}}

    def all_tags(self) -> dict[str, str]:
        """Return the tags that a run begins with."""
        return {**self.tags, KEY: self.key, CORPUS: self.corpus}

    def file(self, workspace: Path) -> Path:
        """Return where the record of the last run of these pipelines is kept."""
        return workspace / FOLDER / f"{self.name}.json"


def keep(record: RunRecord, workspace: Path | None) -> None:
    """Write a record into the workspace, if there is one.

    Raises:
        OSError: it cannot be written.
    """
    if workspace is not None:
        write_json(record.file(workspace), record.model_dump(mode="json"))


def kept_records(workspace: Path) -> list[RunRecord]:
    """Return the records in the workspace, the newest first. Those that another version wrote are left out."""
    found = []
    for file in (workspace / FOLDER).glob("*.json"):
        try:
            found.append(RunRecord.model_validate(read_json(file)))
        except (OSError, ValueError):
            continue  # it can be made again from DVC's files, with fewer tags
    return sorted(found, key=lambda record: -record.began_ms)


def flat_params(values: Mapping[str, Any]) -> dict[str, str]:
    """Return nested parameters as ``{"a.b": "1"}``. Characters that MLflow does not allow in a name become ``_``."""
    return {re.sub(r"[^/\w.\- ]", "_", name): str(value) for name, value in dotted(values).items()}
