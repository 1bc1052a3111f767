"""What finished files say of a run: numbers, the history of trainings, artifacts; as the catalog declares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import ConfigError, UmtError
from umt_pipeline.core.files import read_json, sha256_file
from umt_pipeline.core.identity import fingerprint
from umt_pipeline.tracking.rows import Row, flatten_numbers, history_rows


class TrackedDataset(Config):
    """The ``metadata.mlflow`` of a catalog entry.

    Attributes:
        metrics: the dataset is a JSON file whose numbers are metrics; the value is put before their names.
        history: the dataset is the history of a training (:func:`~umt_pipeline.tracking.rows.history_rows`); the value is its
            name.
        artifact: the dataset is a file to keep with the run; the value is the folder inside the run's artifacts.
        model: the dataset is a model folder that can be registered; the value is its kind.
    """

    metrics: str | None = None
    history: str | None = None
    artifact: str | None = None
    model: str | None = None


@dataclass(frozen=True)
class Output:
    """A dataset that a pipeline writes.

    Attributes:
        name: of the dataset.
        path: where it is.
        declared: what the catalog says about tracking it.
        optional: it may be missing, and may differ between equal runs: times.
    """

    name: str
    path: Path
    declared: TrackedDataset
    optional: bool = False

    @property
    def is_result(self) -> bool:
        """Whether there are numbers in it, by which a run is known."""
        return not self.optional and (self.declared.metrics is not None or self.declared.history is not None)


@dataclass(frozen=True)
class Finished:
    """What the finished files of a pipeline say.

    Attributes:
        rows: of metrics files, at step 0, and of histories.
        files: each with its folder in the artifacts.
        digest: of the files by which the run is known.
    """

    rows: tuple[Row, ...]
    files: tuple[tuple[Path, str], ...]
    digest: str


def joins_runs(declared: TrackedDataset | None) -> bool:
    """Whether runs that made or read a dataset are to be found by its md5: data and models are, and no reports."""
    return declared is None or declared.model is not None


def tracked(name: str, metadata: Mapping[str, Any] | None) -> TrackedDataset | None:
    """Return what the catalog says about tracking a dataset, or None.

    Raises:
        ConfigError: the catalog entry has keys or values that mean nothing.
    """
    declared = (metadata or {}).get("mlflow")
    if declared is None:
        return None
    try:
        return TrackedDataset.model_validate(declared)
    except ValueError as error:
        raise ConfigError(f"catalog entry '{name}', metadata.mlflow: {error}") from error


def missing_results(outputs: Iterable[Output]) -> list[Output]:
    """Return the results that are not there: a pipeline without one is not finished, or not here."""
    return [output for output in outputs if output.is_result and not output.path.is_file()]


def digest_of(outputs: Iterable[Output]) -> str:
    """Return what a run is known by, a hash of its results; all must be there."""
    return fingerprint({output.name: sha256_file(output.path) for output in outputs if output.is_result})


def read_finished(outputs: Sequence[Output], began_ms: int, ended_ms: int) -> Finished:
    """Read the files of a finished pipeline.

    Args:
        outputs: of the pipeline. What is no result and is not there is left out.
        began_ms: when the run began.
        ended_ms: when it ended.

    Raises:
        UmtError: a file with numbers cannot be read.
    """
    numbers: dict[str, float] = {}
    rows: list[Row] = []
    files: list[tuple[Path, str]] = []
    for output in sorted(outputs, key=lambda output: output.name):
        declared = output.declared
        if not output.is_result and not output.path.is_file():
            continue
        try:
            if declared.metrics is not None:
                numbers |= flatten_numbers(read_json(output.path), declared.metrics)
            if declared.history is not None:
                # Else the last digit may be another one than the training loop's.
                table = pd.read_csv(output.path, float_precision="round_trip")
                rows += history_rows(table, declared.history, began_ms, ended_ms)
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise UmtError(f"{output.path}: expected the numbers of a finished run, found: {error}") from error
        if declared.artifact is not None:
            files.append((output.path, declared.artifact))
    head = [Row("", 0, numbers, ended_ms)] if numbers else []
    return Finished((*head, *rows), tuple(files), digest_of(outputs))
